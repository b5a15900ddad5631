"""The transmit-limited queue of gossip updates: SWIM's piggyback (Das 2002, section 4.1), with
duplicate suppression.

Invariants:

- Each update is sent a bounded number of times, the least sent first. An update received from a
  peer that knows as much counts as sent, so an update that every member has dies out.
- At most `UPDATES_LIMIT` updates; the one sent most often is evicted.
- The cost of a message depends on what it carries, not on the length of the queue.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.wire.signed import PeerRecord

UPDATES_LIMIT: Final = 1024


def retransmit_limit(members: int) -> int:
    """Transmissions of one update per node in a cluster of `members`: 4 x ceil(log10(N + 1)), the
    limit of memberlist.
    """
    return 4 * max(1, math.ceil(math.log10(members + 1)))


class TransmitLimitedQueue:
    """Records of members with pending updates, ordered by remaining transmissions."""

    def __init__(self) -> None:
        self._remaining: dict[PeerId, int] = {}
        self._by_remaining: dict[int, dict[PeerId, PeerRecord]] = {}  # no bucket is empty

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._remaining

    def __len__(self) -> int:
        return len(self._remaining)

    def peek(self, count: int) -> list[PeerRecord]:
        """The `count` least sent records; among equals, those that have waited longest."""
        buckets = (
            self._by_remaining[remaining].values()
            for remaining in sorted(self._by_remaining, reverse=True)
        )
        return list(itertools.islice(itertools.chain.from_iterable(buckets), count))

    def enqueue(self, record: PeerRecord, times: int) -> None:
        """Queue an update about the subject of `record` for `times` transmissions, replacing an
        earlier one.
        """
        self.remove(record.peer_id)
        if len(self._remaining) >= UPDATES_LIMIT:
            self.remove(next(iter(self._by_remaining[min(self._by_remaining)])))
        self._remaining[record.peer_id] = times
        self._by_remaining.setdefault(times, {})[record.peer_id] = record

    def note_sent(self, subject: PeerId, times: int) -> None:
        """Count `times` transmissions of the update about `subject`."""
        remaining = self._remaining.get(subject)
        if remaining is None:
            return
        record = self._by_remaining[remaining][subject]
        self.remove(subject)
        if remaining > times:
            self._remaining[subject] = remaining - times
            self._by_remaining.setdefault(remaining - times, {})[subject] = record

    def remove(self, subject: PeerId) -> None:
        """Drop the update about `subject`, if any."""
        remaining = self._remaining.pop(subject, None)
        if remaining is not None:
            bucket = self._by_remaining[remaining]
            del bucket[subject]
            if not bucket:
                del self._by_remaining[remaining]
