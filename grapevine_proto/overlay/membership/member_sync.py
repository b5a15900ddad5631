"""Rolls: two linked nodes compare whom they know, and tell each other the rest.

What must stay true:

- Nothing is sent while nothing is new: a node asks while it learns of more members than heartbeats can
  carry, and a little longer, since whoever learned much at once lacks some still.
- An answer is two datagrams at most, and one peer gets one a look: a crowd that joins at once is told of
  within a minute, and at no more than so much a second.
- Nobody is asked who may tell us of nobody any more (`limits.addresses_per_source`).
- A step costs what is compared, `PREFIXES_PER_MESSAGE` at most, however many members there are.

Mechanism of `membership`, which calls `next_request` at every look.
"""

from __future__ import annotations

import math
import random
from typing import Final

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.members import ID_PREFIX_MAX, MemberTable, id_prefix
from grapevine_proto.overlay.membership.heartbeats import pack_records
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.wire.messages import ID_PREFIX_BYTES, MemberDigest
from grapevine_proto.wire.signed import PeerRecord

PREFIXES_PER_MESSAGE: Final = 200  # 800 bytes
SYNC_UPDATES_THRESHOLD: Final = 16  # more than heartbeats with five links carry in half a minute
SYNC_LINGER_S: Final = 10.0  # after somebody new was learned of
ANSWER_MIN_INTERVAL_S: Final = 0.2  # between two answers to one peer: looks are no closer
ANSWER_MESSAGES_LIMIT: Final = 2
ANSWER_RECORDS_DRAWN: Final = 32  # more than an answer holds
PEERS_TRIED_LIMIT: Final = 4  # peers, to find one that may still tell us of somebody


class MemberSync:
    """Asks and answers. `rate_limited` counts rolls that came too soon after one another."""

    def __init__(
        self, our_id: PeerId, peers: PeerTable, members: MemberTable, rng: random.Random
    ) -> None:
        self._our_id = our_id
        self._peers = peers
        self._members = members
        self._rng = rng
        self._active_until = -math.inf
        self.rate_limited = 0

    def on_member_added(self, now: float) -> None:
        """Somebody told us of a member that we did not know."""
        if self._members.pending_updates > SYNC_UPDATES_THRESHOLD:
            self._active_until = now + SYNC_LINGER_S

    def next_request(self, now: float) -> list[Effect]:
        """Compare with somebody, where there may be something to learn."""
        if now >= self._active_until or self._members.is_full:
            return []
        drawn = uniform(self._peers.linked, PEERS_TRIED_LIMIT, self._rng)
        peer_id = next((each for each in drawn if self._members.has_room_from(each)), None)
        return [] if peer_id is None else [Send((peer_id,), self._our_digest())]

    def _our_digest(self) -> MemberDigest:
        """A part of those we know, all where they are few."""
        count = len(self._members)
        begin = 0
        if count > PREFIXES_PER_MESSAGE:  # those at the ends are in it as often as others
            begin = max(self._rng.randrange(count + PREFIXES_PER_MESSAGE) - PREFIXES_PER_MESSAGE, 0)
        known = self._members.sorted_slice(begin, PREFIXES_PER_MESSAGE)
        is_last = begin + len(known) >= count
        first = id_prefix(known[0]) if begin else 0
        return _member_digest(known, first, ID_PREFIX_MAX if is_last else id_prefix(known[-1]))

    def handle(self, digest: MemberDigest, peer: Peer, now: float) -> list[Effect]:
        """Tell `peer` of those it does not know, and ask for those that we do not."""
        last_at = peer.sync_answered_at if digest.is_reply else peer.sync_requested_at
        if now < last_at + ANSWER_MIN_INTERVAL_S:
            self.rate_limited += 1
            return []
        if digest.is_reply:
            peer.sync_answered_at = now
        else:
            peer.sync_requested_at = now
        their_prefixes = set(digest.to_prefixes())
        known = self._members.in_prefix_range(
            digest.first, digest.last, len(their_prefixes) + PREFIXES_PER_MESSAGE
        )
        effects: list[Effect] = [
            Send((peer.peer_id,), each)
            for each in pack_records(self._records_lacking(known, their_prefixes, peer.peer_id))[
                :ANSWER_MESSAGES_LIMIT
            ]
        ]
        our_prefixes = {id_prefix(self._our_id), *map(id_prefix, known)}
        if (
            not digest.is_reply
            and not their_prefixes <= our_prefixes
            and self._members.has_room_from(peer.peer_id)
        ):
            shown = known[:PREFIXES_PER_MESSAGE]
            last = id_prefix(shown[-1]) if len(known) > len(shown) else digest.last
            effects.append(
                Send((peer.peer_id,), _member_digest(shown, digest.first, last, answering=True))
            )
        return effects

    def _records_lacking(
        self, known: list[PeerId], their_prefixes: set[int], requester: PeerId
    ) -> list[PeerRecord]:
        """Records of members thought to be up that are not among `their_prefixes`, drawn evenly: others tell
        the asker of others."""
        lacking = [
            each for each in known if id_prefix(each) not in their_prefixes and each != requester
        ]
        drawn = self._rng.sample(lacking, min(len(lacking), ANSWER_RECORDS_DRAWN))
        members = (self._members.get(each) for each in drawn)
        up_members = (
            each for each in members if each is not None and each.status is MemberStatus.UP
        )
        return [each.record for each in up_members]


def _member_digest(
    known: list[PeerId], first: int, last: int, *, answering: bool = False
) -> MemberDigest:
    prefixes = b"".join(peer_id[:ID_PREFIX_BYTES] for peer_id in known)
    return MemberDigest(first, last, prefixes, answering)
