"""Which origins may keep their place in the store when there is no room for all.

Identities cost nothing, so origins that nobody here knows as members are counted by the peer that brought
the first word of them. Members, and peers with a link, are never evicted for others.

Invariants:
- Only an unknown origin is evicted: of the peer that brought most of them, the one silent for longest.
  So made-up origins evict made-up origins, and whoever brings a few keeps them.
- Work per call is bounded: `LOOKED_AT` candidates, and a logarithm of how many peers brought some.
- Which origin goes follows the order of calls, never hash order.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from grapevine_proto.ids import PeerId

LOOKED_AT: Final = 64
SPARE_ENTRIES: Final = 256

Source: TypeAlias = PeerId | None
"""Who brought the first word of an origin; None: it was kept over a restart."""


class Origins:
    """Every origin in the store is here once: known, or unknown and of one source."""

    def __init__(self, is_known: Callable[[PeerId], bool]) -> None:
        self._is_known = is_known
        self._known: OrderedDict[PeerId, None] = OrderedDict()
        self._source_of: dict[PeerId, Source] = {}  # of the unknown ones
        self._unknown: dict[Source, OrderedDict[PeerId, None]] = {}  # the latest to speak last
        self._largest: list[tuple[int, int, Source]] = []  # a heap; entries may be out of date
        self._ties = count()

    def __len__(self) -> int:
        return len(self._known) + len(self._source_of)

    def brought_by(self, source: Source) -> int:
        """How many unknown origins `source` brought."""
        return len(self._unknown.get(source, ()))

    def spoke(self, origin: PeerId, source: Source, *, is_linked: bool = False) -> None:
        """`origin` said something, for the first time by way of `source`."""
        if origin in self._known:
            return
        if is_linked or self._is_known(origin):
            self.remove(origin)
            self._known[origin] = None
            return
        source = self._source_of.setdefault(origin, source)
        of_source = self._unknown.setdefault(source, OrderedDict())
        if origin in of_source:
            of_source.move_to_end(origin)
            return
        of_source[origin] = None
        self._note_size(source)

    def restored(self, origin: PeerId) -> None:
        """`origin` was kept over a restart: nobody knows yet whether it is a member."""
        self._source_of[origin] = None
        self._unknown.setdefault(None, OrderedDict())[origin] = None
        self._note_size(None)

    def remove(self, origin: PeerId) -> None:
        self._known.pop(origin, None)
        if origin in self._source_of:
            source = self._source_of.pop(origin)
            of_source = self._unknown[source]
            del of_source[origin]
            if of_source:
                self._note_size(source)
            else:
                del self._unknown[source]

    def may_evict(self) -> bool:
        """Whether there may be an origin to evict: an unknown one, or one that is no member any more."""
        return bool(self._source_of) or self._no_longer_known() is not None

    def to_evict(self, source: Source, *, own: bool = False) -> PeerId | None:
        """The origin to evict for another one that `source` brings; `own`: one that it brought itself.
        None: none of those that were looked at may go."""
        for _ in range(LOOKED_AT):
            of_source = self._unknown.get(source if own else self._most())
            if not of_source:
                return self._no_longer_known()
            origin = next(iter(of_source))
            if not self._is_known(origin):
                return origin
            self.remove(origin)
            self._known[origin] = None
        return None

    def _no_longer_known(self) -> PeerId | None:
        """One that was a member when it last spoke, and is none now."""
        for _ in range(min(LOOKED_AT, len(self._known))):
            origin = next(iter(self._known))
            if not self._is_known(origin):
                return origin
            self._known.move_to_end(origin)
        return None

    def _most(self) -> Source:
        """The source of most unknown origins."""
        while self._largest:
            size, _, source = self._largest[0]
            if -size == self.brought_by(source):
                return source
            heapq.heappop(self._largest)
        return None

    def _note_size(self, source: Source) -> None:
        heapq.heappush(self._largest, (-len(self._unknown[source]), next(self._ties), source))
        if len(self._largest) > 2 * len(self._unknown) + SPARE_ENTRIES:
            self._largest = [
                (-len(of_source), next(self._ties), each)
                for each, of_source in self._unknown.items()
            ]
            heapq.heapify(self._largest)
