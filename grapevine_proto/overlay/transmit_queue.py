"""What is still to be told on of members, and how often: SWIM's piggyback (section 4.1), with feedback.

What must stay true:

- Each change is told a bounded number of times, the least told first; what peers tell us who know as
  much counts as told, so that news which everybody has dies out, however many there is of it.
- At most `UPDATES_LIMIT`; the one longest told makes room.
- A message costs what it carries, however much waits.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.wire.signed import PeerRecord

UPDATES_LIMIT: Final = 1024


def retransmit_limit(members: int) -> int:
    """How often one node sends one update: 4 x ceil(log10(N + 1)), memberlist's figure."""
    return 4 * max(1, math.ceil(math.log10(members + 1)))


class TransmitLimitedQueue:
    """Records of whom there is news of, by how often it is still to be told."""

    def __init__(self) -> None:
        self._remaining: dict[PeerId, int] = {}
        self._by_remaining: dict[int, dict[PeerId, PeerRecord]] = {}  # never an empty one

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._remaining

    def __len__(self) -> int:
        return len(self._remaining)

    def peek(self, count: int) -> list[PeerRecord]:
        """The least told; of those told as often, the ones that have waited longest."""
        buckets = (
            self._by_remaining[remaining].values()
            for remaining in sorted(self._by_remaining, reverse=True)
        )
        return list(itertools.islice(itertools.chain.from_iterable(buckets), count))

    def enqueue(self, record: PeerRecord, times: int) -> None:
        """What is thought of `record`'s subject has changed: tell it so many times."""
        self.remove(record.peer_id)
        if len(self._remaining) >= UPDATES_LIMIT:
            self.remove(next(iter(self._by_remaining[min(self._by_remaining)])))
        self._remaining[record.peer_id] = times
        self._by_remaining.setdefault(times, {})[record.peer_id] = record

    def note_sent(self, subject: PeerId, times: int) -> None:
        """It was told so many times more."""
        remaining = self._remaining.get(subject)
        if remaining is None:
            return
        record = self._by_remaining[remaining][subject]
        self.remove(subject)
        if remaining > times:
            self._remaining[subject] = remaining - times
            self._by_remaining.setdefault(remaining - times, {})[subject] = record

    def remove(self, subject: PeerId) -> None:
        """Nothing is to be told of it any more."""
        remaining = self._remaining.pop(subject, None)
        if remaining is not None:
            bucket = self._by_remaining[remaining]
            del bucket[subject]
            if not bucket:
                del self._by_remaining[remaining]
