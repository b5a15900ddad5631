"""Rolls: two linked nodes compare whom they know, and tell each other the rest.

What must stay true:

- Nothing is sent while nothing is new: a node asks while it learns of more members than heartbeats can
  carry, and a little longer, since whoever learned much at once lacks some still.
- An answer is two datagrams at most, and one peer gets one a look: a crowd that joins at once is told of
  within a minute, and at no more than so much a second.
- Nobody is asked who may tell us of nobody any more (`limits.addresses_per_teller`).
- A step costs what is compared, `MARKS_AT_ONCE` at most, however many members there are.

Mechanism of `membership`, which calls `due` at every look.
"""

from __future__ import annotations

import math
import random
from typing import Final

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import MARK_BYTES, Roll
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.heartbeats import envelopes
from grapevine_proto.overlay.members import MARK_LIMIT, MemberTable, mark_of
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.selection import uniform
from grapevine_proto.signed import Record

MARKS_AT_ONCE: Final = 200  # 800 bytes
MANY_NEWS: Final = 16  # more than heartbeats with five links carry in half a minute
GOES_ON_S: Final = 10.0  # after somebody new was learned of
LEAST_PAUSE_S: Final = 0.2  # between two answers to one peer: looks are no closer
ANSWER_ENVELOPES: Final = 2
DRAWN: Final = 32  # more than an answer holds
TRIED: Final = 4  # peers, to find one that may still tell us of somebody


class Rolls:
    """Asks and answers. `refused` counts rolls that came too soon after one another."""

    def __init__(
        self, our_id: PeerId, peers: PeerTable, members: MemberTable, rng: random.Random
    ) -> None:
        self._our_id = our_id
        self._peers = peers
        self._members = members
        self._rng = rng
        self._until = -math.inf
        self.refused = 0

    def learned(self, now: float) -> None:
        """Somebody told us of a member that we did not know."""
        if self._members.untold > MANY_NEWS:
            self._until = now + GOES_ON_S

    def due(self, now: float) -> list[Effect]:
        """Compare with somebody, where there may be something to learn."""
        if now >= self._until or self._members.is_full:
            return []
        drawn = uniform(self._peers.linked, TRIED, self._rng)
        peer_id = next((each for each in drawn if self._members.has_place(each)), None)
        return [] if peer_id is None else [Send((peer_id,), self._ours())]

    def _ours(self) -> Roll:
        """A part of those we know, all where they are few."""
        count = len(self._members)
        begin = 0
        if count > MARKS_AT_ONCE:  # those at the ends are in it as often as others
            begin = max(self._rng.randrange(count + MARKS_AT_ONCE) - MARKS_AT_ONCE, 0)
        known = self._members.ordered(begin, MARKS_AT_ONCE)
        is_last = begin + len(known) >= count
        first = mark_of(known[0]) if begin else 0
        return _roll(known, first, MARK_LIMIT if is_last else mark_of(known[-1]))

    def handle(self, roll: Roll, peer: Peer, now: float) -> list[Effect]:
        """Tell `peer` of those it does not know, and ask for those that we do not."""
        at = peer.answered_at if roll.answering else peer.rolled_at
        if now < at + LEAST_PAUSE_S:
            self.refused += 1
            return []
        if roll.answering:
            peer.answered_at = now
        else:
            peer.rolled_at = now
        theirs = set(roll.marks_each())
        known = self._members.between(roll.first, roll.last, len(theirs) + MARKS_AT_ONCE)
        effects: list[Effect] = [
            Send((peer.peer_id,), each)
            for each in envelopes(self._lacking(known, theirs, peer.peer_id))[:ANSWER_ENVELOPES]
        ]
        ours = {mark_of(self._our_id), *map(mark_of, known)}
        if not roll.answering and not theirs <= ours and self._members.has_place(peer.peer_id):
            told = known[:MARKS_AT_ONCE]
            last = mark_of(told[-1]) if len(known) > len(told) else roll.last
            effects.append(Send((peer.peer_id,), _roll(told, roll.first, last, answering=True)))
        return effects

    def _lacking(self, known: list[PeerId], theirs: set[int], asker: PeerId) -> list[Record]:
        """Records of members thought to be up that are not among `theirs`, drawn evenly: others tell
        the asker of others."""
        lacking = [each for each in known if mark_of(each) not in theirs and each != asker]
        drawn = self._rng.sample(lacking, min(len(lacking), DRAWN))
        members = (self._members.get(each) for each in drawn)
        up = (each for each in members if each is not None and each.status is MemberStatus.UP)
        return [each.record for each in up]


def _roll(known: list[PeerId], first: int, last: int, *, answering: bool = False) -> Roll:
    marks = b"".join(peer_id[:MARK_BYTES] for peer_id in known)
    return Roll(first, last, marks, answering)
