"""The sequence tracker: which sequences of one stream have been seen, as a high-water mark and the
gaps below.

Invariants:

- Seen stays seen: a sequence leaves a gap by arriving or by being abandoned, and never becomes
  unseen. So nothing is delivered twice or after its time.
- Ranges, not bits: without loss a stream costs one number at any rate. A bitmap (RFC 4303, section
  3.4.3) would cover 68 ms at 60,000 messages a second.
- At most `limit` gaps; beyond it the lowest is abandoned.
- Gaps are ascending and disjoint, and higher ones opened later. Lookup is logarithmic in their
  number, so gaps do not make messages more expensive.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple


class Gap(NamedTuple):
    """Sequences `first` to `last`, inclusive, not seen since `opened_at`. Without `is_loss` they
    were published before this node started.
    """

    first: int
    last: int
    opened_at: float
    is_loss: bool

    @property
    def size(self) -> int:
        return self.last - self.first + 1


_LAST_OF_GAP: Final = itemgetter(1)  # bisection key


class SequenceTracker:
    """The tracker of one stream."""

    __slots__ = ("_limit", "abandoned", "gaps", "high")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.high = 0
        self.gaps: list[Gap] = []  # ascending, disjoint
        self.abandoned = 0  # sequences abandoned

    def restore(self, high: int, gaps: Iterable[tuple[int, int]], now: float) -> None:
        """Restore saved state; inconsistent gaps count as seen."""
        self.high = high
        self.gaps = []
        previous = 0
        for first, last in gaps:
            if previous < first <= last < high and len(self.gaps) < self._limit:
                self.gaps.append(Gap(first, last, now, True))
                previous = last

    def contains(self, sequence: int) -> bool:
        """Whether `sequence` was seen or abandoned."""
        return self.contains_all(sequence, sequence)

    def contains_all(self, first: int, last: int) -> bool:
        """Whether `first` to `last` were all seen or abandoned."""
        if last > self.high:
            return False
        index = self._first_gap_index(first)
        return index == len(self.gaps) or last < self.gaps[index].first

    def _first_gap_index(self, first: int) -> int:
        """Index of the first gap that ends at or after `first`."""
        return bisect_left(self.gaps, first, key=_LAST_OF_GAP) if self.gaps else 0

    def first_gap(self, first: int) -> Gap | None:
        """The lowest gap that ends at or after `first`; None if there is none."""
        index = self._first_gap_index(first)
        return self.gaps[index] if index < len(self.gaps) else None

    def missing(self, first: int, last: int, limit: float = math.inf) -> list[tuple[int, int]]:
        """Up to `limit` unseen ranges within `first` to `last`, ascending."""
        found: list[tuple[int, int]] = []
        for gap in islice(self.gaps, self._first_gap_index(first), None):
            if gap.first > last or len(found) >= limit:
                break
            found.append((max(first, gap.first), min(last, gap.last)))
        if first <= last and last > self.high and len(found) < limit:
            found.append((max(first, self.high + 1), last))
        return found

    def add(self, first: int, last: int, now: float, *, is_loss: bool = True) -> None:
        """Mark `first` to `last` as seen; skipped sequences become a gap."""
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
        """Abandon every gap opened before `opened_before`."""
        abandoned = 0
        while abandoned < len(self.gaps) and self.gaps[abandoned].opened_at < opened_before:
            self._abandon(self.gaps[abandoned])
            abandoned += 1
        del self.gaps[:abandoned]

    def abandon_all(self) -> None:
        """Abandon every gap: the stream is closed."""
        for gap in self.gaps:
            self._abandon(gap)
        self.gaps = []

    def excluding(self, sequences: Iterable[int]) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The high-water mark and gaps as if `sequences`, ascending, had not been seen. Beyond the
        limit of gaps the lowest count as seen.
        """
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
