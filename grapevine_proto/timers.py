"""Who of many wants to be looked at next, and when.

What must stay true:

- A step costs a logarithm of how many there are, however many of them there are.
- One entry each in the heap, so that it does not grow with how often plans change: a plan moved to
  later leaves its entry where it is, to be put right when its turn comes.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TimerQueue(Generic[Item]):
    """Times of items, which are hashable; each has at most one."""

    __slots__ = ("_deadlines", "_heap", "_heap_times", "_tiebreaker")

    def __init__(self) -> None:
        self._deadlines: dict[Item, float] = {}
        self._heap_times: dict[
            Item, float
        ] = {}  # where its entry stands in the heap: not after its plan
        self._heap: list[tuple[float, int, Item]] = []
        self._tiebreaker = count()  # of equal times the one planned first comes first

    def __len__(self) -> int:
        return len(self._deadlines)

    def deadline_of(self, item: Item) -> float:
        """When `item` is to be looked at; math.inf: not at all."""
        return self._deadlines.get(item, math.inf)

    def schedule(self, item: Item, at: float) -> None:
        """Look at `item` at `deadline_of` and not before; math.inf: not at all."""
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
        """`item` wants nothing any more."""
        self._deadlines.pop(item, None)
        self._heap_times.pop(item, None)

    @property
    def deadline(self) -> float:
        """The next time of all; math.inf: there is none."""
        heap = self._heap
        while heap:
            at, _, item = heap[0]
            if self._heap_times.get(item) != at:
                heappop(heap)  # dropped, or planned for earlier since
                continue
            deadline = self._deadlines[item]
            if deadline == at:
                return at
            self._heap_times[item] = deadline
            heapreplace(heap, (deadline, next(self._tiebreaker), item))
        return math.inf

    def pop_expired(self, now: float) -> list[Item]:
        """The items whose time has come, which are then off the agenda."""
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
