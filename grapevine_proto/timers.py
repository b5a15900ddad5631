"""Timer queue: a binary heap of deadlines, one per item.

Invariants:

- An operation costs O(log n) amortized.
- The heap size is proportional to the number of items, not to how often deadlines change: postponing a
  deadline keeps the heap entry, which is corrected when it reaches the top.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TimerQueue(Generic[Item]):
    """Deadlines of hashable items, at most one each."""

    __slots__ = ("_deadlines", "_heap", "_heap_times", "_tiebreaker")

    def __init__(self) -> None:
        self._deadlines: dict[Item, float] = {}
        self._heap_times: dict[Item, float] = {}  # time of its heap entry, never after its deadline
        self._heap: list[tuple[float, int, Item]] = []
        self._tiebreaker = (
            count()
        )  # equal deadlines expire in the order in which they were scheduled

    def __len__(self) -> int:
        return len(self._deadlines)

    def deadline_of(self, item: Item) -> float:
        """Returns the deadline of `item`; math.inf if it has none."""
        return self._deadlines.get(item, math.inf)

    def schedule(self, item: Item, at: float) -> None:
        """Sets the deadline of `item` to `at`, in place of an earlier one; math.inf cancels it."""
        if at == math.inf:
            self.cancel(item)
            return
        self._deadlines[item] = at
        if at < self._heap_times.get(item, math.inf):
            self._heap_times[item] = at
            heappush(self._heap, (at, next(self._tiebreaker), item))
            if len(self._heap) > 2 * len(self._deadlines) + 16:
                self._rebuild()

    def cancel(self, item: Item) -> None:
        """Removes the deadline of `item`, if it has one."""
        self._deadlines.pop(item, None)
        self._heap_times.pop(item, None)

    @property
    def deadline(self) -> float:
        """The earliest deadline; math.inf if there is none."""
        heap = self._heap
        while heap:
            at, _, item = heap[0]
            if self._heap_times.get(item) != at:
                heappop(heap)  # stale: cancelled, or rescheduled to an earlier time
                continue
            deadline = self._deadlines[item]
            if deadline == at:
                return at
            self._heap_times[item] = deadline
            heapreplace(heap, (deadline, next(self._tiebreaker), item))
        return math.inf

    def pop_expired(self, now: float) -> list[Item]:
        """Removes and returns the items whose deadlines have passed, earliest first."""
        expired: list[Item] = []
        while self._deadlines and self.deadline <= now:
            item = heappop(self._heap)[2]
            self.cancel(item)
            expired.append(item)
        return expired

    def _rebuild(self) -> None:
        self._heap_times = dict(self._deadlines)
        self._heap = sorted(
            ((at, next(self._tiebreaker), item) for item, at in self._deadlines.items()),
            key=lambda entry: entry[:2],
        )
