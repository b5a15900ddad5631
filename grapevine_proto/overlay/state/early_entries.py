"""Entries that arrived early: an older entry of their owner is still missing.

Invariants:

- At most `EARLY_OWNERS_LIMIT` owners with `EARLY_ENTRIES_LIMIT` entries each; the oldest goes first.
- They are in no map, and no program reads them, until the older entries have arrived.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.state.owner_map import Entry
from grapevine_proto.wire.entry_terms import Version

EARLY_ENTRIES_LIMIT: Final = 8  # of one owner that wait for an earlier one
EARLY_OWNERS_LIMIT: Final = 256


class Gap(NamedTuple):
    """Entries of `owner` before this version are missing here; `source` has them."""

    owner: PeerId
    version: Version
    source: PeerId
    since: float


class EarlyEntries:
    """The early entries, and the gaps before them that are not requested yet."""

    def __init__(self) -> None:
        self._by_owner: dict[PeerId, dict[Version, Entry]] = {}
        self._gaps: dict[PeerId, Gap] = {}  # by owner, oldest first

    def __contains__(self, owner: object) -> bool:
        return owner in self._by_owner

    def __len__(self) -> int:
        return len(self._by_owner)

    def add(self, entry: Entry) -> None:
        """Keeps `entry` until the entries before it arrive. At the limit the oldest is dropped."""
        early = self._by_owner.setdefault(entry.owner, {})
        early[entry.version] = entry
        if len(early) > EARLY_ENTRIES_LIMIT:
            del early[min(early)]
        if len(self._by_owner) > EARLY_OWNERS_LIMIT:
            self.remove_owner(next(iter(self._by_owner)))

    def of(self, owner: PeerId) -> Iterator[Entry]:
        """Returns the entries of an owner, oldest first. They may be removed during the iteration."""
        early = self._by_owner.get(owner, {})
        for version in sorted(early):
            yield early[version]

    def remove(self, entry: Entry) -> None:
        """Removes an entry that is in its map now, or is too old."""
        early = self._by_owner[entry.owner]
        del early[entry.version]
        if not early:
            self.remove_owner(entry.owner)

    def remove_owner(self, owner: PeerId) -> None:
        """Forgets all entries of an owner, and the gap before them."""
        self._by_owner.pop(owner, None)
        self._gaps.pop(owner, None)

    # --- gaps -----------------------------------------------------------------------------------

    def note_gap(self, entry: Entry, source: PeerId, now: float) -> None:
        """Records that `source` has what is missing before `entry`, for a request later."""
        if entry.owner in self._by_owner:
            gap = Gap(entry.owner, entry.version, source, now)
            self._gaps.setdefault(entry.owner, gap)

    @property
    def gap_since(self) -> float:
        """When the gap was recorded that has been known for longest; math.inf: there is none."""
        return next(iter(self._gaps.values())).since if self._gaps else math.inf

    def take_gaps(self, before: float) -> list[Gap]:
        """Removes and returns the gaps that were recorded at `before` or earlier."""
        found = [each for each in self._gaps.values() if each.since <= before]
        for each in found:
            del self._gaps[each.owner]
        return found
