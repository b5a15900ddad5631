"""Member sync: two linked nodes compare member digests and exchange the records that either lacks.

Invariants:

- Idle while nothing is new. A node requests while it learns members faster than heartbeats carry
  them, and for `SYNC_LINGER_S` after that, to catch what its peers have learned meanwhile.
- An answer is at most two datagrams, and a peer gets one per check. A mass join spreads within a
  minute at a bounded rate.
- Peers whose quota (`limits.addresses_per_source`) is used up are not asked.
- A step costs at most `PREFIXES_PER_MESSAGE` comparisons, regardless of the size of the cluster.

A component of `membership`, which calls `next_request` at every check.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.members import ID_PREFIX_MAX, id_prefix
from grapevine_proto.overlay.membership.heartbeats import pack_records
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.wire.messages import ID_PREFIX_BYTES, MemberDigest
from grapevine_proto.wire.signed import PeerRecord

PREFIXES_PER_MESSAGE: Final = 200  # 800 bytes
SYNC_UPDATES_THRESHOLD: Final = 16  # more than heartbeats over five links carry in half a minute
SYNC_LINGER_S: Final = 10.0  # after a new member was learned
ANSWER_MIN_INTERVAL_S: Final = 0.2  # between two answers to one peer; checks are no closer
ANSWER_MESSAGES_LIMIT: Final = 2
ANSWER_RECORDS_DRAWN: Final = 32  # more than an answer holds
PEERS_TRIED_LIMIT: Final = 4  # peers, to find one with quota left


class MemberSync:
    """Requests and answers member digests. `rate_limited` counts digests that came too soon after
    another.
    """

    def __init__(self, context: OverlayContext) -> None:
        self._our_id = context.our_id
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._active_until = -math.inf
        self.rate_limited = 0

    def on_member_added(self, now: float) -> None:
        """Start or extend syncing, if more updates are pending than heartbeats can carry."""
        if self._members.pending_updates > SYNC_UPDATES_THRESHOLD:
            self._active_until = now + SYNC_LINGER_S

    def next_request(self, now: float) -> list[Effect]:
        """A digest to one random peer while syncing; otherwise no effects."""
        if now >= self._active_until or self._members.is_full:
            return []
        drawn = uniform(self._peers.linked, PEERS_TRIED_LIMIT, self._rng)
        peer_id = next((each for each in drawn if self._members.has_room_from(each)), None)
        return [] if peer_id is None else [Send((peer_id,), self._our_digest())]

    def _our_digest(self) -> MemberDigest:
        """A digest of a random range of the known members, or of all if they fit one message."""
        count = len(self._members)
        begin = 0
        if count > PREFIXES_PER_MESSAGE:  # so that both ends are covered as often as the middle
            begin = max(self._rng.randrange(count + PREFIXES_PER_MESSAGE) - PREFIXES_PER_MESSAGE, 0)
        known = self._members.sorted_slice(begin, PREFIXES_PER_MESSAGE)
        is_last = begin + len(known) >= count
        first = id_prefix(known[0]) if begin else 0
        return _member_digest(known, first, ID_PREFIX_MAX if is_last else id_prefix(known[-1]))

    def handle(self, digest: MemberDigest, peer: Peer, now: float) -> list[Effect]:
        """Send `peer` records it lacks, and answer with our digest if it knows members that we
        lack.
        """
        if not peer.try_sync(ANSWER_MIN_INTERVAL_S, now, is_reply=digest.is_reply):
            self.rate_limited += 1
            return []
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
        """Records of members with status up whose prefixes are not in `their_prefixes`, drawn at
        random: other peers answer the requester with other draws.
        """
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
