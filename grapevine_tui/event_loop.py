"""Which event loop the application runs on.

What must stay true: uvloop where it works, for it reads five times as many datagrams a second; else
asyncio's own, and nothing but the speed is another.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Callable


def new_runner() -> asyncio.Runner:
    """A runner on the best loop there is."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if supports_eager_start():
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    return asyncio.Runner(loop_factory=factory)


def supports_eager_start() -> bool:
    """Whether Textual's tasks can be made on uvloop: from Python 3.13 on it gives task factories an
    `eager_start`, which asyncio's own took only some releases later (CPython issue 128308)."""
    version, factory = tuple(sys.version_info), getattr(asyncio, "eager_task_factory", None)
    if version < (3, 13) or factory is None:
        return True
    parameters = inspect.signature(factory).parameters
    return "eager_start" in parameters or any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    )
