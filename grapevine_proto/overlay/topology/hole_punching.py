"""Hole punching: two members behind NATs dial each other at the same time, because a common peer told each
where it sees the other (Ford, Srisuresh, Kegel 2005).

This is the part of the two ends; `transport.introducer` is that of the common peer. An introducer serves as
a relay too, for direct messages to a member that no hole reaches.

Invariants:

- Only members that say that they are behind a NAT, or have a private address that this node has too, are
  asked for.
- An introduction that this node did not ask for is charged to a small budget, because a peer may name any
  member and any address. It causes `INTRODUCED_HELLOS` Hellos at most, and none to an address that a record
  may not name.

A component of `dialer`, which knows our own addresses.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.dial_purpose import LINK, NEIGHBOR, TRANSIENT, punch
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Dial, Effect, Send
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.topology.address_policy import can_dial_claimed
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.attributes import INTRODUCER_PREFIX_BYTES
from grapevine_proto.wire.messages import Introduce

INTRODUCED_BURST: Final = 16  # dials of members that this node did not ask for
INTRODUCED_PER_S: Final = 1.0  # in the long run
INTRODUCED_HELLOS: Final = 3  # fewer bytes than the introduction had, so none amplifies
ASKED_LIMIT: Final = 64  # members whose introduction is awaited
ASK_PEERS: Final = 2  # of those that a member names: one may fail
ASK_PEERS_AT_RANDOM: Final = 3  # if none of them is known


class HolePunching:
    """Asks for introductions, and decides which are dialed."""

    def __init__(self, context: OverlayContext, now: float) -> None:
        self._config = context.config
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._asked: dict[PeerId, bool] = {}  # whether for a link that needs room; the latest last
        self._introduced_budget = TokenBucket(INTRODUCED_BURST, INTRODUCED_PER_S, now)

    def introducers_of(
        self, member: Member, our_addresses: tuple[Address, ...]
    ) -> tuple[PeerId, ...]:
        """Who is asked to introduce this node to `member`, and to relay what no hole lets through: peers that
        its record names, else those of them that everyone reaches, else some peers. Empty unless it is behind
        a NAT.
        """
        if not member.record.is_behind_nat(our_addresses):
            return ()
        prefixes = member.record.introducers or ()
        linked = [each for each in self._peers.linked if each != member.record.peer_id]
        named = [each for each in linked if each[:INTRODUCER_PREFIX_BYTES] in prefixes]
        if named:
            return tuple(named[:ASK_PEERS])
        known = [self._members.find_by_prefix(prefix) for prefix in prefixes]
        reachable = [
            each.record.peer_id
            for each in known
            if each is not None and each.record.introducers is None
        ]
        if reachable:
            return tuple(reachable[:ASK_PEERS])
        return tuple(self._rng.sample(linked, min(ASK_PEERS_AT_RANDOM, len(linked))))

    def ask(
        self, member: Member, our_addresses: tuple[Address, ...], *, wants_room: bool
    ) -> list[Effect]:
        """Asks to be introduced to `member` if it is behind a NAT. `wants_room`: for a link for which it
        should make room."""
        introducers = self.introducers_of(member, our_addresses)
        if not introducers:
            return []
        self._note_asked(member.record.peer_id, wants_room=wants_room)
        return [Send(introducers, Introduce(member.record.peer_id, False))]

    def _note_asked(self, peer_id: PeerId, *, wants_room: bool) -> None:
        self._asked.pop(peer_id, None)
        self._asked[peer_id] = wants_room
        if len(self._asked) > ASKED_LIMIT:
            del self._asked[next(iter(self._asked))]

    def on_introduction(
        self,
        member: Member,
        address: Address,
        our_addresses: tuple[Address, ...],
        now: float,
        *,
        is_transient: bool,
    ) -> Dial | None:
        """A common peer sees `member` at `address`, where it dials us now. Returns how to dial it there; None
        if it is not to be dialed.

        A link at another address may be one that does not get through any more, as its other end found out.
        """
        peer_id = member.record.peer_id
        peer = self._peers.get(peer_id)
        linked_at = peer.address if peer is not None and self._peers.is_linked(peer_id) else None
        if peer_id in self._config.current.denied or address == linked_at:
            return None
        if address in our_addresses or not can_dial_claimed(address, our_addresses):
            return None
        wants_room = self._asked.pop(peer_id, None)
        if wants_room is None and not self._introduced_budget.try_take(now):
            return None
        if is_transient and linked_at is None:
            return Dial(address, peer_id, punch(TRANSIENT), INTRODUCED_HELLOS)
        return Dial(address, peer_id, punch(NEIGHBOR if wants_room else LINK), INTRODUCED_HELLOS)
