"""The monotonic clock of a node and the lag of its event loop.

Invariants:

- The clock is monotonic and, where the system supports it, includes the time that the machine was suspended.
- Loop lag is detected before any peer is judged by the time that passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

CLOCK_POLL_INTERVAL_S: Final = (
    0.25  # a driver reads the clock at least this often, which reveals lag
)
LOOP_LATE_THRESHOLD_S: Final = 0.1  # less is a busy loop
LAG_WINDOW_S: Final = 5.0  # for the maximum lag

clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Monotonic seconds, including those for which the machine was suspended, if the system counts them."""


class LoopLagMonitor:
    """Measures how much later than `CLOCK_POLL_INTERVAL_S` after the previous call the loop calls `tick`."""

    def __init__(self, now: float) -> None:
        self._expected_at = now + CLOCK_POLL_INTERVAL_S
        self._max_lag_s = 0.0
        self._max_lag_at = now

    def tick(self, now: float) -> float:
        """Returns the lag of the loop in seconds, or 0 below `LOOP_LATE_THRESHOLD_S`."""
        late_s = now - self._expected_at
        self._expected_at = now + CLOCK_POLL_INTERVAL_S
        if late_s > self._max_lag_s or now - self._max_lag_at >= LAG_WINDOW_S:
            self._max_lag_s, self._max_lag_at = max(0.0, late_s), now
        return late_s if late_s > LOOP_LATE_THRESHOLD_S else 0.0

    def max_recent_s(self, now: float) -> float:
        """Returns the maximum lag of the last `LAG_WINDOW_S` seconds."""
        return self._max_lag_s if now - self._max_lag_at < LAG_WINDOW_S else 0.0
