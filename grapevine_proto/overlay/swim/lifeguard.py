"""Lifeguard's arithmetic: the suspicion timeout and local health awareness (Dadgar 2018, section
IV).

Invariants:

- One accuser alone never shortens a timeout; only independent confirmations do, and never below the
  minimum (section IV B).
- A node that is slow itself waits longer for others (section IV A).
"""

from __future__ import annotations

import math
from typing import Final

AWARENESS_MAX: Final = 8
CONFIRMATIONS_FOR_MIN_TIMEOUT: Final = 2  # beyond the first accuser, for the minimum timeout
LAG_PER_STEP_S: Final = 0.25  # event loop lag that raises the score by one
AWARENESS_DECAY_S: Final = 5.0  # without another failure, for one step down


def expected_confirmations(members: int) -> int:
    """Confirmations to expect in a cluster of `members`; 0 if too few members are left to confirm."""
    return CONFIRMATIONS_FOR_MIN_TIMEOUT if members > CONFIRMATIONS_FOR_MIN_TIMEOUT + 1 else 0


def min_timeout_s(members: int, per_decade_s: float) -> float:
    """The minimum suspicion timeout: `per_decade_s` per decade of members, because gossip takes
    longer to reach all of a larger cluster.
    """
    return per_decade_s * max(1.0, math.log10(max(members, 1)))


def suspicion_timeout_s(min_s: float, max_s: float, confirmations: int, expected: int) -> float:
    """The suspicion timeout in seconds from when the suspicion opened, after `confirmations` of
    `expected`.
    """
    if expected == 0:
        return min_s
    fraction = math.log(confirmations + 1) / math.log(expected + 1)
    return max(min_s, max_s - (max_s - min_s) * fraction)


class Awareness:
    """Local health awareness: a score from 0 (healthy) to 8 (do not trust our own timers)."""

    __slots__ = ("_changed_at", "score")

    def __init__(self, now: float) -> None:
        self.score = 0
        self._changed_at = now

    @property
    def multiplier(self) -> float:
        """Factor by which to lengthen timeouts of others."""
        return 1.0 + self.score

    def increment(self, now: float, steps: int = 1) -> None:
        """Raise the score after a failure that may be our own."""
        if steps > 0:
            self.score = min(self.score + steps, AWARENESS_MAX)
            self._changed_at = now

    def on_lag(self, lag_s: float, now: float) -> None:
        """Raise the score by one step for each `LAG_PER_STEP_S` of event loop lag."""
        self.increment(now, int(lag_s / LAG_PER_STEP_S))

    def decrement(self, now: float) -> None:
        """Lower the score after a probe was answered."""
        if self.score:
            self.score -= 1
            self._changed_at = now

    def decay(self, now: float) -> None:
        """Lower the score if nothing has failed for `AWARENESS_DECAY_S`."""
        if self.score and now - self._changed_at >= AWARENESS_DECAY_S:
            self.decrement(now)
