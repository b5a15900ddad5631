"""What stands around a node while it runs, for app and headless alike: who may ask it, who is told.

What must stay true: each part is there only where the settings ask for it, and is imported only then.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from grapevine_tui.control import serving
from grapevine_tui.event_log import EventLog
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import Object
from grapevine_tui.settings import Settings


@contextlib.asynccontextmanager
async def surroundings(
    host: Host,
    settings: Settings,
    on_goodbye: Callable[[], object],
    on_trouble: Callable[[Object], object] | None = None,
) -> AsyncIterator[Callable[[Object], object]]:
    """From before the host starts until it has left. Gives what is to be called with the fields of
    `stopped` at the end. `on_trouble` is called with the fields of ``hook_failed``. Raises BindError."""
    tell_stopped: Callable[[Object], object] = _tell_nobody
    host.listen(EventLog(is_brief=settings.headless and settings.log_file is None).hear)
    async with contextlib.AsyncExitStack() as stack:
        if settings.metrics:
            from grapevine_tui.metrics import measuring

            await stack.enter_async_context(measuring(host, settings.metrics))
        if settings.web and not settings.demo:
            from grapevine_tui.web import served

            await stack.enter_async_context(
                served(host, settings.web, is_loud=not settings.headless)
            )
        if settings.on:
            from grapevine_tui.hooks import hooked

            hooks = await stack.enter_async_context(
                hooked(
                    host,
                    settings.on,
                    is_loud=settings.headless,
                    ready_peers=max(1, settings.wait_peers),
                    on_trouble=on_trouble,
                )
            )
            tell_stopped = hooks.tell_stopped
        await stack.enter_async_context(serving(host, on_goodbye, settings))
        yield tell_stopped


def _tell_nobody(_: Object) -> None:
    pass
