"""How often a cause that may repeat without end is logged.

Invariants:

- A log line whose cause repeats (a peer that sends what it should not, a reader that is too slow) is
  written at once the first time, then at most once per interval. The caller counts what is skipped.
"""

from __future__ import annotations


class LogThrottle:
    """Admits one log line per `interval_s` seconds, the first at once."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_at = float("-inf")

    def admits(self, now: float) -> bool:
        """Whether a line may be logged at `now`, in seconds of any one clock. If so, the next
        interval begins."""
        if now < self._next_at:
            return False
        self._next_at = now + self._interval_s
        return True
