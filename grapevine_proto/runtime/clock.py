"""The time a driver gives its engine, and how late its loop comes to it.

What must stay true:

- The clock only grows, by the time that the machine was suspended too, where the system tells it.
- A loop that comes late is known for late before anybody is judged by the time that passed.
"""

from __future__ import annotations

import time
from typing import Final

CLOCK_POLL_INTERVAL_S: Final = (
    0.25  # a driver asks at least so often, which is how a late loop is noticed
)
LOOP_LATE_THRESHOLD_S: Final = 0.1  # below this a loop is merely busy
LAG_WINDOW_S: Final = 5.0  # for how long the worst lag is shown

if hasattr(time, "CLOCK_BOOTTIME"):

    def clock() -> float:
        """Seconds that only grow, time asleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def clock() -> float:
        """Seconds that only grow; on this system without the time asleep."""
        return time.monotonic()


class LoopLagMonitor:
    """How much later than `CLOCK_POLL_INTERVAL_S` after the last time its loop asks for the time again."""

    def __init__(self, now: float) -> None:
        self._expected_at = now + CLOCK_POLL_INTERVAL_S
        self._max_lag_s = 0.0
        self._max_lag_at = now

    def tick(self, now: float) -> float:
        """The seconds the loop is late by now, where that is more than being busy; else 0."""
        late_s = now - self._expected_at
        self._expected_at = now + CLOCK_POLL_INTERVAL_S
        if late_s > self._max_lag_s or now - self._max_lag_at >= LAG_WINDOW_S:
            self._max_lag_s, self._max_lag_at = max(0.0, late_s), now
        return late_s if late_s > LOOP_LATE_THRESHOLD_S else 0.0

    def max_recent_s(self, now: float) -> float:
        """The worst of the last seconds."""
        return self._max_lag_s if now - self._max_lag_at < LAG_WINDOW_S else 0.0
