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


class Hole(NamedTuple):
    """Sequences `first` to `last`, both included, not seen since `opened_at`. Those that are not
    `counted` were said before this node was there to hear them: no loss of ours."""

    first: int
    last: int
    opened_at: float
    counted: bool

    @property
    def size(self) -> int:
        return self.last - self.first + 1


_LAST_OF: Final = itemgetter(1)  # by which holes are found


class Seen:
    """The marks of one stream."""

    __slots__ = ("_limit", "high", "holes", "lost")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.high = 0
        self.holes: list[Hole] = []  # ascending, apart from each other
        self.lost = 0  # sequences given up

    def restore(self, high: int, holes: Iterable[tuple[int, int]], now: float) -> None:
        """Take over marks that were kept; what does not fit together counts as seen."""
        self.high = high
        self.holes = []
        previous = 0
        for first, last in holes:
            if previous < first <= last < high and len(self.holes) < self._limit:
                self.holes.append(Hole(first, last, now, True))
                previous = last

    def knows(self, sequence: int) -> bool:
        """Whether `sequence` was seen, or given up."""
        return self.knows_all(sequence, sequence)

    def knows_all(self, first: int, last: int) -> bool:
        """Whether nothing from `first` to `last` is still unseen."""
        if last > self.high:
            return False
        index = self._first_hole(first)
        return index == len(self.holes) or last < self.holes[index].first

    def _first_hole(self, first: int) -> int:
        """Where in `holes` the first one is that reaches `first` or beyond."""
        return bisect_left(self.holes, first, key=_LAST_OF) if self.holes else 0

    def missing(self, first: int, last: int, limit: float = math.inf) -> list[tuple[int, int]]:
        """The ranges from `first` to `last` that were not seen, ascending; `limit` of them at most."""
        found: list[tuple[int, int]] = []
        for hole in islice(self.holes, self._first_hole(first), None):
            if hole.first > last or len(found) >= limit:
                break
            found.append((max(first, hole.first), min(last, hole.last)))
        if first <= last and last > self.high and len(found) < limit:
            found.append((max(first, self.high + 1), last))
        return found

    def mark(self, first: int, last: int, now: float, *, counted: bool = True) -> None:
        """`first` to `last` are seen now; what was skipped on the way becomes a hole."""
        if self.holes and first <= self.high:
            self._fill(first, last)
        if last <= self.high:
            return
        if first > self.high + 1:
            self.holes.append(Hole(self.high + 1, first - 1, now, counted))
            if len(self.holes) > self._limit:
                self._give_up(self.holes.pop(0))
        self.high = last

    def _fill(self, first: int, last: int) -> None:
        begin = end = self._first_hole(first)
        left: list[Hole] = []
        while end < len(self.holes) and self.holes[end].first <= last:
            hole = self.holes[end]
            if hole.first < first:
                left.append(hole._replace(last=first - 1))
            if last < hole.last:
                left.append(hole._replace(first=last + 1))
            end += 1
        self.holes[begin:end] = left
        while len(self.holes) > self._limit:
            self._give_up(self.holes.pop(0))

    def close_before(self, opened_before: float) -> None:
        """Give up every hole opened earlier than that."""
        closed = 0
        while closed < len(self.holes) and self.holes[closed].opened_at < opened_before:
            self._give_up(self.holes[closed])
            closed += 1
        del self.holes[:closed]

    def close(self) -> None:
        """Give up every hole, and take nothing more: the stream is over."""
        for hole in self.holes:
            self._give_up(hole)
        self.holes = []

    def without(self, sequences: Iterable[int]) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The high mark and the holes as they would be if none of `sequences`, ascending, had been seen.
        Where that makes more holes than the limit, the lowest count as seen."""
        unseen = sorted(
            [(hole.first, hole.last) for hole in self.holes] + [(s, s) for s in sequences]
        )
        holes: list[tuple[int, int]] = []
        for first, last in unseen:
            if holes and first <= holes[-1][1] + 1:
                holes[-1] = (holes[-1][0], max(holes[-1][1], last))
            else:
                holes.append((first, last))
        high = self.high
        if holes and holes[-1][1] >= high:
            high = holes.pop()[0] - 1
        return high, tuple(holes[-self._limit :])

    def _give_up(self, hole: Hole) -> None:
        if hole.counted:
            self.lost += hole.size
