"""How long a suspect has, and how far we trust our own senses: Lifeguard's arithmetic, pure.

What must stay true:

- One accuser alone never hurries anybody: only independent ones shorten the time, and never below
  the least (Dadgar, Phillips, Currey 2018, "Lifeguard", section IV B).
- Who is slow himself waits longer for others (section IV A).
"""

from __future__ import annotations

import math
from typing import Final

HEALTH_WORST: Final = 8
CONFIRMATIONS: Final = 2  # beyond the first accuser; then a suspect has the least time
LAG_STEP_S: Final = 0.25  # of our own lateness, for which one trusts oneself one step less
RECOVERS_AFTER_S: Final = 5.0  # without another failure: one step back


def expected_confirmations(members: int) -> int:
    """How many more may be expected to notice, in a cluster of so many: none where hardly anybody
    is left to."""
    return CONFIRMATIONS if members > CONFIRMATIONS + 1 else 0


def least_s(members: int, per_decade_s: float) -> float:
    """What any suspect has at least: word takes longer to get round in a larger cluster."""
    return per_decade_s * max(1.0, math.log10(max(members, 1)))


def timeout_s(least: float, most: float, confirmations: int, expected: int) -> float:
    """How long a suspect has from when it was first suspected, with so many `confirmations`."""
    if expected == 0:
        return least
    share = math.log(confirmations + 1) / math.log(expected + 1)
    return max(least, most - (most - least) * share)


def tellings(members: int) -> int:
    """How often one node tells one piece of news: 4 x ceil(log10(N + 1)) (memberlist's figure)."""
    return 4 * max(1, math.ceil(math.log10(members + 1)))


class OwnHealth:
    """From 0, well, to 8: how little our own timers are to be trusted."""

    __slots__ = ("_changed_at", "score")

    def __init__(self, now: float) -> None:
        self.score = 0
        self._changed_at = now

    @property
    def stretch(self) -> float:
        """By how much to lengthen what others are given."""
        return 1.0 + self.score

    def failed(self, now: float, steps: int = 1) -> None:
        """Something went wrong that may be our own fault."""
        if steps > 0:
            self.score = min(self.score + steps, HEALTH_WORST)
            self._changed_at = now

    def lagged(self, lag_s: float, now: float) -> None:
        """Our own loop was late by so much."""
        self.failed(now, int(lag_s / LAG_STEP_S))

    def succeeded(self, now: float) -> None:
        """A probe was answered."""
        if self.score:
            self.score -= 1
            self._changed_at = now

    def rested(self, now: float) -> None:
        """Time passed; the score falls while nothing goes wrong."""
        if self.score and now - self._changed_at >= RECOVERS_AFTER_S:
            self.succeeded(now)
