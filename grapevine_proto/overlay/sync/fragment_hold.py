"""Whether repair waits because fragments of a large message arrive, which may be what is missing.

Invariants:

- Repair waits for `HOLD_BACK_LIMIT_S` at most, and then goes on for at least as long as it waited: fragments
  that are sent one at a time cannot stop it.
"""

from __future__ import annotations

import math
from typing import Final

FRAGMENTS_IDLE_S: Final = 2.0  # without a further fragment, a large message is no longer arriving
HOLD_BACK_LIMIT_S: Final = 30.0


class FragmentHold:
    """When fragments arrived, from any peer."""

    def __init__(self) -> None:
        self._since = self._last_at = -math.inf
        self._is_holding = False  # for the message arriving since `_since`

    def on_fragment(self, now: float) -> None:
        """A fragment of a large message arrived."""
        if now - self._last_at > FRAGMENTS_IDLE_S:
            held_s = self._last_at - self._since if self._is_holding else 0.0
            self._is_holding = not now - self._last_at < held_s
            self._since = now
        self._last_at = now

    def is_active(self, now: float) -> bool:
        """Whether repair waits."""
        return (
            self._is_holding
            and now - self._last_at <= FRAGMENTS_IDLE_S
            and now - self._since < HOLD_BACK_LIMIT_S
        )
