"""The garbage collector, kept from holding up the screen.

What must stay true:

- A full pass looks only at what came since the last one, however large the cluster has grown: what
  is there when it ends is taken to stay, and passed over from then on. Of its own accord Python looks
  through everything: 60 ms with four thousand members, in the middle of opening a screen.
- Nothing is taken to stay while another screen stands in front: screens are cycles, and one that is
  passed over would never be found again once it is dismissed.
- Until `settle` nothing is changed: a test runs many apps in one process, and must free each.

Driven by the app: `settle` once it stands, `tidy` now and then. What is passed over is still freed as
soon as nothing refers to it; only a cycle would not be, and the tables of a node hold none.
"""

from __future__ import annotations

import gc
from typing import Final

NEVER: Final = 1_000_000  # passes over the middle generation before Python would begin a full one
FULL_AFTER: Final = 4  # such passes: some 30,000 objects that are new, about 10 ms


class Collector:
    """The process has one collector, so there is to be one of these at work in it."""

    def __init__(self) -> None:
        self._thresholds: tuple[int, int, int] | None = None

    def settle(self) -> None:
        """Take all that is left after a full pass to stay, and from now on begin one only in `tidy`."""
        gc.collect()
        gc.freeze()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], NEVER)

    def tidy(self, *, is_home: bool) -> bool:
        """Do a full pass if enough is new, and tell whether. `is_home`: no other screen is in front."""
        if self._thresholds is None or gc.get_count()[2] < FULL_AFTER:
            return False
        gc.collect()
        if is_home:
            gc.freeze()
        return True

    def release(self) -> None:
        """Have everything as it was before `settle`."""
        if self._thresholds is not None:
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()
            self._thresholds = None
