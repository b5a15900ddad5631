"""The garbage collector, kept from holding up the screen.

What must stay true:

- A full pass looks only at what came since the last one, however large the cluster has grown: what
  is there when it ends is taken to stay, and passed over from then on. Of its own accord Python looks
  through everything: 60 ms with four thousand members, in the middle of opening a screen.
- Nothing is taken to stay while another screen stands in front: screens are cycles, and one that is
  passed over would never be found again once it is dismissed.
- Until `freeze` nothing is changed: a test runs many apps in one process, and must free each.

Driven by the app: `freeze` once it stands, `collect_if_due` now and then. What is passed over is still
freed as
soon as nothing refers to it; only a cycle would not be, and the tables of a node hold none.
"""

from __future__ import annotations

import gc
from typing import Final

DISABLED_THRESHOLD: Final = (
    1_000_000  # passes over the middle generation before Python would begin a full one
)
MIDDLE_PASSES_PER_FULL: Final = 4  # such passes: some 30,000 objects that are new, about 10 ms


class GcController:
    """The process has one collector, so there is to be one of these at work in it."""

    def __init__(self) -> None:
        self._thresholds: tuple[int, int, int] | None = None

    def freeze(self) -> None:
        """Take all that is left after a full pass to stay, and from now on begin one only in
        `collect_if_due`."""
        gc.collect()
        gc.freeze()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], DISABLED_THRESHOLD)

    def collect_if_due(self, *, is_main_in_front: bool) -> bool:
        """Do a full pass if enough is new, and tell whether. `is_main_in_front`: no other screen is in
        front."""
        if self._thresholds is None or gc.get_count()[2] < MIDDLE_PASSES_PER_FULL:
            return False
        gc.collect()
        if is_main_in_front:
            gc.freeze()
        return True

    def restore(self) -> None:
        """Have everything as it was before `freeze`."""
        if self._thresholds is not None:
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()
            self._thresholds = None
