"""How long a suspect has, and how far we trust our own senses: Lifeguard's arithmetic, pure.

What must stay true:

- One accuser alone never hurries anybody: only independent ones shorten the time, and never below
  the least (Dadgar, Phillips, Currey 2018, "Lifeguard", section IV B).
- Who is slow himself waits longer for others (section IV A).
"""

from __future__ import annotations

import math
from typing import Final

AWARENESS_MAX: Final = 8
CONFIRMATIONS_FOR_MIN_TIMEOUT: Final = (
    2  # beyond the first accuser; then a suspect has the least time
)
LAG_PER_STEP_S: Final = 0.25  # of our own lateness, for which one trusts oneself one step less
AWARENESS_DECAY_S: Final = 5.0  # without another failure: one step back


def expected_confirmations(members: int) -> int:
    """How many more may be expected to notice, in a cluster of so many: none where hardly anybody
    is left to."""
    return CONFIRMATIONS_FOR_MIN_TIMEOUT if members > CONFIRMATIONS_FOR_MIN_TIMEOUT + 1 else 0


def min_timeout_s(members: int, per_decade_s: float) -> float:
    """What any suspect has at least: word takes longer to get round in a larger cluster."""
    return per_decade_s * max(1.0, math.log10(max(members, 1)))


def suspicion_timeout_s(min_s: float, max_s: float, confirmations: int, expected: int) -> float:
    """How long a suspect has from when it was first suspected, with so many `confirmations`."""
    if expected == 0:
        return min_s
    fraction = math.log(confirmations + 1) / math.log(expected + 1)
    return max(min_s, max_s - (max_s - min_s) * fraction)


class Awareness:
    """From 0, well, to 8: how little our own timers are to be trusted."""

    __slots__ = ("_changed_at", "score")

    def __init__(self, now: float) -> None:
        self.score = 0
        self._changed_at = now

    @property
    def multiplier(self) -> float:
        """By how much to lengthen what others are given."""
        return 1.0 + self.score

    def increment(self, now: float, steps: int = 1) -> None:
        """Something went wrong that may be our own fault."""
        if steps > 0:
            self.score = min(self.score + steps, AWARENESS_MAX)
            self._changed_at = now

    def on_lag(self, lag_s: float, now: float) -> None:
        """Our own loop was late by so much."""
        self.increment(now, int(lag_s / LAG_PER_STEP_S))

    def decrement(self, now: float) -> None:
        """A probe was answered."""
        if self.score:
            self.score -= 1
            self._changed_at = now

    def decay(self, now: float) -> None:
        """Time passed; the score falls while nothing goes wrong."""
        if self.score and now - self._changed_at >= AWARENESS_DECAY_S:
            self.decrement(now)
