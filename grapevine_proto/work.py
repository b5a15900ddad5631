"""Costs of work that peers cause, in units of about a microsecond, counted instead of measured.

Invariants:

- The core reads no clock, so a simulated node and a real one reach the same verdicts. Each operation that a
  message can cause many of adds its cost to the `WorkMeter` of the overlay, and what a message adds is
  charged to its sender.
- Payloads are not counted: the token of a message pays for its `MAX_PAYLOADS_PER_MESSAGE`.
"""

from __future__ import annotations

from typing import Final

STEP: Final = 1  # one lookup, one gap visited or one range compared
SIGNATURE: Final = 60  # one verification
KIBIBYTE: Final = 2  # of content hashed, copied or sent as a repair


class WorkMeter:
    """Sums up the cost of all messages so far: `units`."""

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units = 0

    def add(self, units: int) -> None:
        """Counts `units` of work."""
        self.units += units
