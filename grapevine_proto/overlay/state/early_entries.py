"""Entries that arrived before those that come before them.

Invariants:

- At most `EARLY_OWNERS_LIMIT` owners with `EARLY_ENTRIES_LIMIT` entries each; the oldest goes first.
- They are in no map, and nobody reads them, until those before them have come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.state.owner_map import Entry
from grapevine_proto.wire.entry_terms import Version

EARLY_ENTRIES_LIMIT: Final = 8  # of one owner that wait for an earlier one
EARLY_OWNERS_LIMIT: Final = 256


class Gap(NamedTuple):
    """Something is missing before an entry of `owner` with this version, which `source` has."""

    owner: PeerId
    version: Version
    source: PeerId
    since: float


class EarlyEntries:
    """The entries, and the gaps before them that are still to be requested."""

    def __init__(self) -> None:
        self._by_owner: dict[PeerId, dict[Version, Entry]] = {}
        self._gaps: dict[PeerId, Gap] = {}  # by owner, oldest first

    def __contains__(self, owner: object) -> bool:
        return owner in self._by_owner

    def __len__(self) -> int:
        return len(self._by_owner)

    def add(self, entry: Entry) -> None:
        """`entry` waits for those before it."""
        early = self._by_owner.setdefault(entry.owner, {})
        early[entry.version] = entry
        if len(early) > EARLY_ENTRIES_LIMIT:
            del early[min(early)]
        if len(self._by_owner) > EARLY_OWNERS_LIMIT:
            self.remove_owner(next(iter(self._by_owner)))

    def of(self, owner: PeerId) -> Iterator[Entry]:
        """The entries of an owner, oldest first. They may be removed meanwhile."""
        early = self._by_owner.get(owner, {})
        for version in sorted(early):
            yield early[version]

    def remove(self, entry: Entry) -> None:
        """It was taken, or is too old."""
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
        """`source` has what is missing before an entry that waits."""
        if entry.owner in self._by_owner:
            gap = Gap(entry.owner, entry.version, source, now)
            self._gaps.setdefault(entry.owner, gap)

    @property
    def oldest_gap(self) -> Gap | None:
        """The gap that has been known for longest; None if there is none."""
        return next(iter(self._gaps.values()), None)

    def take_gaps(self, before: float) -> list[Gap]:
        """Removes and returns the gaps that have been known since `before`."""
        found = [each for each in self._gaps.values() if each.since <= before]
        for each in found:
            del self._gaps[each.owner]
        return found
