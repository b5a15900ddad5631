"""Which origins may keep their place in the store when there is no room for all.

Identities cost nothing, so origins that nobody here knows as members are counted by the peer that brought
the first word of them. Members, and peers with a link, are never evicted for others.

Invariants:
- Only an unknown origin is evicted: of the peer that brought most of them, the one silent for longest.
  So made-up origins evict made-up origins, and whoever brings a few keeps them.
- Work per call is bounded: `ORIGIN_EVICTION_SCAN_LIMIT` candidates, and a logarithm of how many peers
  brought some.
- Which origin goes follows the order of calls, never hash order.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from grapevine_proto.ids import PeerId

ORIGIN_EVICTION_SCAN_LIMIT: Final = 64
STALE_SIZES_ALLOWED: Final = 256

Source: TypeAlias = PeerId | None
"""Who brought the first word of an origin; None: it was kept over a restart."""


class OriginTable:
    """Every origin in the store is here once: known, or unknown and of one source."""

    def __init__(self, is_member: Callable[[PeerId], bool]) -> None:
        self._is_member = is_member
        self._member_origins: OrderedDict[PeerId, None] = OrderedDict()
        self._source_of: dict[PeerId, Source] = {}  # of the unknown ones
        self._unknown_by_source: dict[
            Source, OrderedDict[PeerId, None]
        ] = {}  # the latest to speak last
        self._size_heap: list[tuple[int, int, Source]] = []  # a heap; entries may be out of date
        self._tie_breaker = count()

    def __len__(self) -> int:
        return len(self._member_origins) + len(self._source_of)

    def count_from(self, source: Source) -> int:
        """How many unknown origins `source` brought."""
        return len(self._unknown_by_source.get(source, ()))

    def on_rumor(self, origin: PeerId, source: Source, *, is_linked: bool = False) -> None:
        """`origin` said something, for the first time by way of `source`."""
        if origin in self._member_origins:
            return
        if is_linked or self._is_member(origin):
            self.remove(origin)
            self._member_origins[origin] = None
            return
        source = self._source_of.setdefault(origin, source)
        of_source = self._unknown_by_source.setdefault(source, OrderedDict())
        if origin in of_source:
            of_source.move_to_end(origin)
            return
        of_source[origin] = None
        self._push_size(source)

    def add_restored(self, origin: PeerId) -> None:
        """`origin` was kept over a restart: nobody knows yet whether it is a member."""
        self._source_of[origin] = None
        self._unknown_by_source.setdefault(None, OrderedDict())[origin] = None
        self._push_size(None)

    def remove(self, origin: PeerId) -> None:
        self._member_origins.pop(origin, None)
        if origin in self._source_of:
            source = self._source_of.pop(origin)
            of_source = self._unknown_by_source[source]
            del of_source[origin]
            if of_source:
                self._push_size(source)
            else:
                del self._unknown_by_source[source]

    def can_evict(self) -> bool:
        """Whether there may be an origin to evict: an unknown one, or one that is no member any more."""
        return bool(self._source_of) or self._former_member() is not None

    def pick_victim(self, source: Source, *, only_own: bool = False) -> PeerId | None:
        """The origin to evict for another one that `source` brings; `only_own`: one that it brought itself.
        None: none of those that were looked at may go."""
        for _ in range(ORIGIN_EVICTION_SCAN_LIMIT):
            of_source = self._unknown_by_source.get(source if only_own else self._largest_source())
            if not of_source:
                return self._former_member()
            origin = next(iter(of_source))
            if not self._is_member(origin):
                return origin
            self.remove(origin)
            self._member_origins[origin] = None
        return None

    def _former_member(self) -> PeerId | None:
        """One that was a member when it last spoke, and is none now."""
        for _ in range(min(ORIGIN_EVICTION_SCAN_LIMIT, len(self._member_origins))):
            origin = next(iter(self._member_origins))
            if not self._is_member(origin):
                return origin
            self._member_origins.move_to_end(origin)
        return None

    def _largest_source(self) -> Source:
        """The source of most unknown origins."""
        while self._size_heap:
            size, _, source = self._size_heap[0]
            if -size == self.count_from(source):
                return source
            heapq.heappop(self._size_heap)
        return None

    def _push_size(self, source: Source) -> None:
        heapq.heappush(
            self._size_heap,
            (-len(self._unknown_by_source[source]), next(self._tie_breaker), source),
        )
        if len(self._size_heap) > 2 * len(self._unknown_by_source) + STALE_SIZES_ALLOWED:
            self._size_heap = [
                (-len(of_source), next(self._tie_breaker), each)
                for each, of_source in self._unknown_by_source.items()
            ]
            heapq.heapify(self._size_heap)
