"""The origin table: which origins stay in the message store when there is no room for all.

Identities are free, so origins that are not known as members count against the peer that first sent
a rumor of theirs. Members and linked peers are never evicted for others.

Invariants:

- Only an unknown origin is evicted: of the source with most of them, the one idle for longest. So
  made-up origins evict each other, and a source with few of them keeps them.
- Work per call is bounded: `ORIGIN_EVICTION_SCAN_LIMIT` candidates, and the logarithm of the number
  of sources.
- The choice follows the order of calls, never hash order.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Container
from itertools import count
from typing import Final, TypeAlias

from grapevine_proto.ids import PeerId

ORIGIN_EVICTION_SCAN_LIMIT: Final = 64
STALE_SIZES_ALLOWED: Final = 256

Source: TypeAlias = PeerId | None
"""The peer that first sent a rumor of an origin; None if the origin was restored from saved state.
"""


class OriginTable:
    """Every origin in the store once: either a member, or unknown and charged to one source."""

    def __init__(self, members: Container[PeerId]) -> None:
        """`members`: the known members of the cluster, as they are at any time."""
        self._members = members
        self._member_origins: OrderedDict[PeerId, None] = OrderedDict()
        self._source_of: dict[PeerId, Source] = {}  # of unknown origins
        self._unknown_by_source: dict[
            Source, OrderedDict[PeerId, None]
        ] = {}  # most recently active last
        self._size_heap: list[tuple[int, int, Source]] = []  # a heap with possibly outdated entries
        self._tie_breaker = count()

    def __len__(self) -> int:
        return len(self._member_origins) + len(self._source_of)

    def count_from(self, source: Source) -> int:
        """Number of unknown origins charged to `source`."""
        return len(self._unknown_by_source.get(source, ()))

    def on_rumor(self, origin: PeerId, source: Source, *, is_linked: bool = False) -> None:
        """A rumor of `origin` arrived from `source`."""
        if origin in self._member_origins:
            return
        if is_linked or origin in self._members:
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
        """Add an origin restored from saved state; whether it is a member is not known yet."""
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
        """Whether an origin may be evictable: an unknown one, or a former member."""
        return bool(self._source_of) or self._former_member() is not None

    def pick_victim(self, source: Source, *, only_own: bool = False) -> PeerId | None:
        """The origin to evict for a new one from `source`, one charged to `source` itself if
        `only_own`. None if none of those examined may be evicted.
        """
        for _ in range(ORIGIN_EVICTION_SCAN_LIMIT):
            of_source = self._unknown_by_source.get(source if only_own else self._largest_source())
            if not of_source:
                return self._former_member()
            origin = next(iter(of_source))
            if origin not in self._members:
                return origin
            self.remove(origin)
            self._member_origins[origin] = None
        return None

    def _former_member(self) -> PeerId | None:
        """An origin that was a member at its last rumor and is no longer one."""
        for _ in range(min(ORIGIN_EVICTION_SCAN_LIMIT, len(self._member_origins))):
            origin = next(iter(self._member_origins))
            if origin not in self._members:
                return origin
            self._member_origins.move_to_end(origin)
        return None

    def _largest_source(self) -> Source:
        """The source with most unknown origins."""
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
