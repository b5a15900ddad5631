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


class Agenda(Generic[Item]):
    """Times of items, which are hashable; each has at most one."""

    __slots__ = ("_heap", "_planned", "_queued", "_turn")

    def __init__(self) -> None:
        self._planned: dict[Item, float] = {}
        self._queued: dict[
            Item, float
        ] = {}  # where its entry stands in the heap: not after its plan
        self._heap: list[tuple[float, int, Item]] = []
        self._turn = count()  # of equal times the one planned first comes first

    def __len__(self) -> int:
        return len(self._planned)

    def at(self, item: Item) -> float:
        """When `item` is to be looked at; math.inf: not at all."""
        return self._planned.get(item, math.inf)

    def plan(self, item: Item, at: float) -> None:
        """Look at `item` at `at` and not before; math.inf: not at all."""
        if at == math.inf:
            self.drop(item)
            return
        self._planned[item] = at
        if at < self._queued.get(item, math.inf):
            self._queued[item] = at
            heappush(self._heap, (at, next(self._turn), item))
            if len(self._heap) > 2 * len(self._planned) + 16:
                self._rebuild()

    def drop(self, item: Item) -> None:
        """`item` wants nothing any more."""
        self._planned.pop(item, None)
        self._queued.pop(item, None)

    @property
    def deadline(self) -> float:
        """The next time of all; math.inf: there is none."""
        heap = self._heap
        while heap:
            at, _, item = heap[0]
            if self._queued.get(item) != at:
                heappop(heap)  # dropped, or planned for earlier since
                continue
            planned = self._planned[item]
            if planned == at:
                return at
            self._queued[item] = planned
            heapreplace(heap, (planned, next(self._turn), item))
        return math.inf

    def due(self, now: float) -> list[Item]:
        """The items whose time has come, which are then off the agenda."""
        due: list[Item] = []
        while self._planned and self.deadline <= now:
            item = heappop(self._heap)[2]
            self.drop(item)
            due.append(item)
        return due

    def _rebuild(self) -> None:
        self._queued = dict(self._planned)
        self._heap = sorted(
            ((at, next(self._turn), item) for item, at in self._planned.items()),
            key=lambda entry: entry[:2],
        )
