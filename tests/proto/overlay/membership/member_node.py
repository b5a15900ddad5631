"""A node's membership without transport and broadcast, for tests."""

from __future__ import annotations

from typing import Any, TypeVar

from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import Effect, PeerTransitioned, Send
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.overlay.membership.membership import Membership
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import EPOCH, Links, context, peer_id, record

OURS = Address("10.0.0.200", 8000)
EffectT = TypeVar("EffectT")


class MemberNode:
    """Node 0 at `OURS`. Random fractions are those of its seed."""

    def __init__(self, *, linked: int = 0, **changes: Any) -> None:
        self.context = context(**changes)
        self.peers, self.members = self.context.peers, self.context.members
        self.local_record = LocalRecord(self.context.config, self.context.identity, EPOCH, OURS)
        store = MessageStore(self.context, (), 0.0)
        self.membership = Membership(self.context, self.local_record, store, Links(), 0.0)
        for number in range(1, linked + 1):
            self.link(number)

    def reconfigure(self, **changes: Any) -> None:
        """Changes settings."""
        self.context.config.replace(self.context.config.current.replace(**changes))

    def link(
        self, number: int, now: float = 0.0, *, at: Address | None = None, **options: Any
    ) -> list[Effect]:
        """A session with `number` is live."""
        one: PeerRecord = options.pop("of", None) or record(number)
        source = at or one.addresses[0]
        return self.membership.on_link_up(one, source, options.pop("rtt_s", None), now, **options)

    def peer(self, number: int) -> Peer:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        return peer

    def member(self, number: int) -> Member:
        member = self.members.get(peer_id(number))
        assert member is not None
        return member


def of_type(effects: list[Effect], kind: type[EffectT]) -> list[EffectT]:
    return [each for each in effects if isinstance(each, kind)]


def transitions(effects: list[Effect]) -> list[str]:
    """The reasons of changes of peer states."""
    return [each.reason for each in of_type(effects, PeerTransitioned)]


def messages(effects: list[Effect], kind: type[EffectT]) -> list[EffectT]:
    """The messages of one type in Send effects."""
    return [each.message for each in of_type(effects, Send) if isinstance(each.message, kind)]
