"""Counts what was dropped, by reason.

Invariants: each drop is counted once, under one `DropReason`.
"""

from __future__ import annotations

from collections import Counter

from grapevine_proto.errors import DropReason
from grapevine_proto.events import DatagramDropped
from grapevine_proto.ids import Address


class DropCounts:
    """Totals by reason, and what of them was not reported yet."""

    def __init__(self) -> None:
        self._counts: Counter[DropReason] = Counter()
        self._sources: dict[DropReason, Address] = {}  # of the latest, not reported yet
        self._reported: Counter[DropReason] = Counter()

    def count(self, reason: DropReason, source: Address | None = None) -> None:
        """Counts one drop; `source`: where the datagram came from, if it was one."""
        self._counts[reason] += 1
        if source is not None:
            self._sources[reason] = source

    @property
    def total(self) -> int:
        """All drops so far."""
        return self._counts.total()

    def by_reason(self) -> tuple[tuple[DropReason, int], ...]:
        """Each reason that occurred and how often, in order of the first occurrence."""
        return tuple(self._counts.items())

    def take_events(self) -> list[DatagramDropped]:
        """One event per reason that occurred since the last call."""
        events = []
        for reason, count in self._counts.items():
            unreported = count - self._reported[reason]
            if unreported:
                self._reported[reason] = count
                events.append(DatagramDropped(reason, unreported, self._sources.pop(reason, None)))
        return events
