"""Room for links: who goes where there is none, and where else whoever finds none may try.

What must stay true: who is let go is told of somebody to link with instead; and whoever is turned away of
others, who are linked and so alive.

Mechanism of `membership`. `views` and `nearness` say which link fits least.
"""

from __future__ import annotations

import random
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.messages import CloseReason, Near
from grapevine_proto.overlay.effects import Drop, Effect
from grapevine_proto.overlay.hearsay import Hearsay
from grapevine_proto.overlay.heartbeats import envelopes
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.nearness import Nearness
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.selection import uniform
from grapevine_proto.overlay.views import Views
from grapevine_proto.signed import Record

BEYOND_DRAWS: Final = 8  # nearly always enough where half of the members are not linked
REFERRALS: Final = 8  # told to one for whom there is no room


class Room:
    """See the module."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        views: Views,
        nearness: Nearness,
        hearsay: Hearsay,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._peers = peers
        self._members = members
        self._views = views
        self._nearness = nearness
        self._hearsay = hearsay
        self._rng = rng

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    @property
    def is_left(self) -> bool:
        return self._views.has_room

    def make(
        self,
        newcomer: Record,
        now: float,
        *,
        is_asked: bool,
        source: Address | None = None,
        is_ours: bool = False,
    ) -> list[Effect]:
        """Let a link go for `newcomer` where there is no room, and name the one to the other. `source`
        is where it is, and `is_ours` whether this node dialed it."""
        if self.is_left:
            return []
        gone = self._views.to_let_go(
            newcomer.peer_id, now, is_asked=is_asked, source=source, is_ours=is_ours
        )
        if gone is None:
            return []
        words = _words(newcomer)
        return [Drop(gone, CloseReason.FULL, words, (newcomer,))]

    def make_nearer(
        self,
        newcomer: Record,
        near: Near,
        rtt_s: float | None,
        now: float,
        *,
        source: Address | None = None,
    ) -> list[Effect]:
        """Let a link go for `newcomer`, which says that it is near, where it is nearer by what we
        measured; whoever goes is told of the one that goes at the other end."""
        if self.is_left:
            return []
        gone = self._nearness.to_let_go(newcomer, rtt_s, now, source)
        if gone is None or not self._views.take_yield(now):
            return []
        effects = self._hearsay.records((near.instead,), newcomer.peer_id, now)
        other = self._members.get(near.instead.peer_id)
        others = (other.record,) if other is not None and near.instead.peer_id != gone else ()
        self._nearness.moved += 1
        words = f"{_words(newcomer)}, which is nearer"
        return [*effects, Drop(gone, CloseReason.FULL, words, others)]

    def swap(self, instead: Record, nearer: Record) -> list[Effect]:
        """`nearer` made room for us: let `instead` go for it."""
        if self.is_left or not self._peers.is_linked(instead.peer_id):
            return []
        self._nearness.moved += 1
        words = f"{_words(nearer)}, which is nearer"
        return [Drop(instead.peer_id, CloseReason.FULL, words)]

    def somebody_beyond(self) -> PeerId | None:
        """A member thought to be up that is not linked, drawn evenly, where a few draws find one."""
        for member in self._members.draw(BEYOND_DRAWS, self._rng):
            peer_id = member.record.peer_id
            is_there = member.status is MemberStatus.UP and member.address is not None
            if is_there and not self._peers.is_linked(peer_id):
                return None if peer_id in self._config.denied else peer_id
        return None

    def referrals(self, but: PeerId) -> tuple[Record, ...]:
        """Where else a newcomer may try, when there is no room here: what fits one datagram."""
        linked = uniform(self._peers.linked, REFERRALS, self._rng, but=(but,))
        members = (self._members.get(peer_id) for peer_id in linked)
        told = envelopes([member.record for member in members if member is not None])
        return told[0].records if told else ()


def _words(newcomer: Record) -> str:
    """For people: why a link ended."""
    return f"let go for {newcomer.name or newcomer.peer_id.short}"
