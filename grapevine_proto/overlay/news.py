"""What is still to be told on of members, and how often: SWIM's piggyback (section 4.1), with feedback.

What must stay true:

- Each change is told a bounded number of times, the least told first; what peers tell us who know as
  much counts as told, so that news which everybody has dies out, however many there is of it.
- At most `NEWS_LIMIT`; the one longest told makes room.
- A message costs what it carries, however much waits.
"""

from __future__ import annotations

import itertools
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.signed import Record

NEWS_LIMIT: Final = 1024


class News:
    """Records of whom there is news of, by how often it is still to be told."""

    def __init__(self) -> None:
        self._left: dict[PeerId, int] = {}
        self._by_left: dict[int, dict[PeerId, Record]] = {}  # never an empty one

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._left

    def __len__(self) -> int:
        return len(self._left)

    def first(self, count: int) -> list[Record]:
        """The least told; of those told as often, the ones that have waited longest."""
        buckets = (self._by_left[left].values() for left in sorted(self._by_left, reverse=True))
        return list(itertools.islice(itertools.chain.from_iterable(buckets), count))

    def spread(self, record: Record, times: int) -> None:
        """What is thought of `record`'s subject has changed: tell it so many times."""
        self.drop(record.peer_id)
        if len(self._left) >= NEWS_LIMIT:
            self.drop(next(iter(self._by_left[min(self._by_left)])))
        self._left[record.peer_id] = times
        self._by_left.setdefault(times, {})[record.peer_id] = record

    def told(self, subject: PeerId, times: int) -> None:
        """It was told so many times more."""
        left = self._left.get(subject)
        if left is None:
            return
        record = self._by_left[left][subject]
        self.drop(subject)
        if left > times:
            self._left[subject] = left - times
            self._by_left.setdefault(left - times, {})[subject] = record

    def drop(self, subject: PeerId) -> None:
        """Nothing is to be told of it any more."""
        left = self._left.pop(subject, None)
        if left is not None:
            bucket = self._by_left[left]
            del bucket[subject]
            if not bucket:
                del self._by_left[left]
