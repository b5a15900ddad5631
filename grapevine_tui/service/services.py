"""Services around a running node, for the app and headless nodes: control socket, metrics, web,
hooks, alerts, log.

Invariants: each service but the control socket, the alerts and the log runs, and is imported, only if the
settings ask for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from grapevine_tui.config.settings import Settings
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.server import control_server
from grapevine_tui.host.local import Host
from grapevine_tui.service.alerts import alert_monitor
from grapevine_tui.service.event_log import EventLog


@contextlib.asynccontextmanager
async def node_services(
    host: Host,
    settings: Settings,
    on_quit: Callable[[], object],
    on_hook_failed: Callable[[Object], object] | None = None,
) -> AsyncIterator[Callable[[Object], object]]:
    """Run the services; enter before the host starts, exit after it has left.

    Yields a function to call with the fields of `stopped` at the end. `on_hook_failed` is called
    with the fields of ``hook_failed``. Raises BindError.
    """
    run_stopped_hooks: Callable[[Object], object] = _run_no_hooks
    host.listen(EventLog(demotes_info=settings.headless and settings.log_file is None).on_event)
    async with contextlib.AsyncExitStack() as stack:
        if settings.metrics:
            from grapevine_tui.service.metrics import metrics_server

            await stack.enter_async_context(metrics_server(host, settings.metrics))
        if settings.web and not settings.demo:
            from grapevine_tui.service.web import web_server

            await stack.enter_async_context(
                web_server(host, settings.web, prints_address=not settings.headless)
            )
        if settings.on:
            from grapevine_tui.service.hooks import running_hooks

            hooks = await stack.enter_async_context(
                running_hooks(
                    host,
                    settings.on,
                    echoes_stderr=settings.headless,
                    ready_peers=max(1, settings.wait_peers),
                    on_hook_failed=on_hook_failed,
                )
            )
            run_stopped_hooks = hooks.run_stopped_hooks
        await stack.enter_async_context(control_server(host, on_quit, settings))
        await stack.enter_async_context(alert_monitor(host))
        yield run_stopped_hooks


def _run_no_hooks(_: Object) -> None:
    pass
