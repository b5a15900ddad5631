"""An event loop whose time passes at once: it never waits, and jumps to the next timer instead.

Invariants: real nodes, simulated networks and timers on it see one clock, in which work takes no time. Work
in other threads takes none either, unless waits take a share of real time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Adds the time that it was asked to wait to `now`, and waits `real_share` of it."""

    def __init__(self, real_share: float) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self._real_share = real_share

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        timeout = max(0.0, timeout)
        started_at = time.perf_counter()
        ready = super().select(timeout * self._real_share)
        if not ready:
            self.now += timeout
        elif self._real_share:
            waited_s = (time.perf_counter() - started_at) / self._real_share
            self.now += min(timeout, waited_s)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. Pass its `time` to nodes as their clock."""

    def __init__(self, real_share: float = 0.0) -> None:
        self._jumping_selector = _JumpingSelector(real_share)
        super().__init__(self._jumping_selector)

    def time(self) -> float:
        return self._jumping_selector.now


def run_in_virtual_time(main: Coroutine[Any, Any, T], *, real_share: float = 0.0) -> T:
    """Runs `main` on a `VirtualTimeLoop`. With a `real_share` of 0.05, waiting takes a twentieth of its time,
    which lets threads keep pace."""
    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, real_share)) as runner:
        return runner.run(main)
