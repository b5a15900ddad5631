"""Which sequences of one stream have been seen: a high mark and the holes below it.

What must stay true:

- Once seen, always seen: a sequence leaves a hole by arriving or by the hole's closing, and never
  becomes unseen again. So nothing is delivered twice, and nothing old is delivered late.
- Ranges, not bits: while all is well a stream costs one number, whatever its rate (RFC 4303
  section 3.4.3 keeps a bitmap, which at 60,000 messages a second lasts 68 ms).
- At most `limit` holes; beyond it the lowest closes first.
- Holes are ascending and apart, and higher ones opened later: finding one costs a logarithm of how many
  there are, so that no message costs more because of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple


class Gap(NamedTuple):
    """Sequences `first` to `last`, both included, not seen since `opened_at`. Those that are not
    `is_loss` were said before this node was there to hear them: no loss of ours."""

    first: int
    last: int
    opened_at: float
    is_loss: bool

    @property
    def size(self) -> int:
        return self.last - self.first + 1


_LAST_OF_GAP: Final = itemgetter(1)  # by which holes are found


class SequenceTracker:
    """The marks of one stream."""

    __slots__ = ("_limit", "abandoned", "gaps", "high")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.high = 0
        self.gaps: list[Gap] = []  # ascending, apart from each other
        self.abandoned = 0  # sequences given up

    def restore(self, high: int, gaps: Iterable[tuple[int, int]], now: float) -> None:
        """Take over marks that were kept; what does not fit together counts as seen."""
        self.high = high
        self.gaps = []
        previous = 0
        for first, last in gaps:
            if previous < first <= last < high and len(self.gaps) < self._limit:
                self.gaps.append(Gap(first, last, now, True))
                previous = last

    def contains(self, sequence: int) -> bool:
        """Whether `sequence` was seen, or given up."""
        return self.contains_all(sequence, sequence)

    def contains_all(self, first: int, last: int) -> bool:
        """Whether nothing from `first` to `last` is still unseen."""
        if last > self.high:
            return False
        index = self._first_gap_index(first)
        return index == len(self.gaps) or last < self.gaps[index].first

    def _first_gap_index(self, first: int) -> int:
        """Where in `gaps` the first one is that reaches `first` or beyond."""
        return bisect_left(self.gaps, first, key=_LAST_OF_GAP) if self.gaps else 0

    def missing(self, first: int, last: int, limit: float = math.inf) -> list[tuple[int, int]]:
        """The ranges from `first` to `last` that were not seen, ascending; `limit` of them at most."""
        found: list[tuple[int, int]] = []
        for gap in islice(self.gaps, self._first_gap_index(first), None):
            if gap.first > last or len(found) >= limit:
                break
            found.append((max(first, gap.first), min(last, gap.last)))
        if first <= last and last > self.high and len(found) < limit:
            found.append((max(first, self.high + 1), last))
        return found

    def add(self, first: int, last: int, now: float, *, is_loss: bool = True) -> None:
        """`first` to `last` are seen now; what was skipped on the way becomes a hole."""
        if self.gaps and first <= self.high:
            self._fill_gaps(first, last)
        if last <= self.high:
            return
        if first > self.high + 1:
            self.gaps.append(Gap(self.high + 1, first - 1, now, is_loss))
            if len(self.gaps) > self._limit:
                self._abandon(self.gaps.pop(0))
        self.high = last

    def _fill_gaps(self, first: int, last: int) -> None:
        begin = end = self._first_gap_index(first)
        remaining: list[Gap] = []
        while end < len(self.gaps) and self.gaps[end].first <= last:
            gap = self.gaps[end]
            if gap.first < first:
                remaining.append(gap._replace(last=first - 1))
            if last < gap.last:
                remaining.append(gap._replace(first=last + 1))
            end += 1
        self.gaps[begin:end] = remaining
        while len(self.gaps) > self._limit:
            self._abandon(self.gaps.pop(0))

    def abandon_before(self, opened_before: float) -> None:
        """Give up every hole opened earlier than that."""
        abandoned = 0
        while abandoned < len(self.gaps) and self.gaps[abandoned].opened_at < opened_before:
            self._abandon(self.gaps[abandoned])
            abandoned += 1
        del self.gaps[:abandoned]

    def abandon_all(self) -> None:
        """Give up every hole, and take nothing more: the stream is over."""
        for gap in self.gaps:
            self._abandon(gap)
        self.gaps = []

    def excluding(self, sequences: Iterable[int]) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The high mark and the holes as they would be if none of `sequences`, ascending, had been seen.
        Where that makes more holes than the limit, the lowest count as seen."""
        unseen = sorted(
            [(gap.first, gap.last) for gap in self.gaps]
            + [(sequence, sequence) for sequence in sequences]
        )
        gaps: list[tuple[int, int]] = []
        for first, last in unseen:
            if gaps and first <= gaps[-1][1] + 1:
                gaps[-1] = (gaps[-1][0], max(gaps[-1][1], last))
            else:
                gaps.append((first, last))
        high = self.high
        if gaps and gaps[-1][1] >= high:
            high = gaps.pop()[0] - 1
        return high, tuple(gaps[-self._limit :])

    def _abandon(self, gap: Gap) -> None:
        if gap.is_loss:
            self.abandoned += gap.size
