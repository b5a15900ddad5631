"""Runs a node as the settings say: headless, served to a browser, or with the app on this terminal.

Invariants: importing this imports no Textual, so headless nodes start quickly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import click

from grapevine_proto.errors import ConfigError, StorageError
from grapevine_proto.storage.atomic_file import is_transient_error
from grapevine_tui import early_signals, logs
from grapevine_tui.app.on_terminal import require_terminal, run_on_terminal
from grapevine_tui.app.terminal import HangupSafeStream
from grapevine_tui.config.settings import Settings
from grapevine_tui.event_loop import new_runner
from grapevine_tui.process_exit import EXIT_OK
from grapevine_tui.service.reaper import start_reaper_if_init
from grapevine_tui.text import printable

logger = logging.getLogger("grapevine")


def _prepare_process() -> None:
    """Make stderr non-blocking, for us and for libraries, and ignore SIGHUP until a node runs.

    As process 1 of a container, also reap orphans.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # a replaced stream without a file
            sys.stderr = HangupSafeStream(sys.stderr)
    if hasattr(signal, "SIGHUP") and early_signals.is_own_process():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    start_reaper_if_init()


def run_headless(settings: Settings) -> int:
    """Run a node on stdin and stdout until it stops and return the exit code."""
    from grapevine_tui.service.headless import Headless

    _prepare_process()
    _start_logging(settings, lambda: logs.to_stderr(settings.log_level))
    settings = settings.with_keys()
    if sys.stdout is None:
        raise ConfigError("", "stdout is closed; a headless node needs it")
    stdin = None if sys.stdin is None else sys.stdin.fileno()
    with new_runner() as runner:
        return runner.run(Headless(settings, stdin=stdin, stdout=sys.stdout.fileno()).run())


def run_web(settings: Settings) -> int:
    """Run a node that serves the app to a browser until a signal; return the exit code."""
    from grapevine_tui.service import web
    from grapevine_tui.service.headless import Headless

    _prepare_process()
    _start_logging(settings, lambda: logs.to_stderr(settings.log_level))

    async def show_demo() -> int:
        async with web.serve_command(settings.web, web.own_command("--demo")) as (_, address):
            click.echo(f"open {address}")
            stop_requested = asyncio.Event()
            for signal_number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(signal_number, stop_requested.set)
            await stop_requested.wait()
        return EXIT_OK

    with new_runner() as runner:
        if settings.demo:
            return runner.run(show_demo())
        devnull = os.open(os.devnull, os.O_WRONLY)
        settings = replace(settings, on_eof="stay").with_keys()
        return runner.run(Headless(settings, stdin=None, stdout=devnull).run())


def run_app(settings: Settings) -> int:
    """Run the app on this terminal until it is quit and return the exit code."""
    require_terminal()
    _start_logging(settings, logs.to_null)
    settings = settings.with_keys()
    return run_on_terminal(lambda: _run_app(settings))


async def _run_app(settings: Settings) -> int:
    from grapevine_proto.events import Event, NodeStarted
    from grapevine_tui.app.app import GrapevineApp
    from grapevine_tui.host.local import Host
    from grapevine_tui.host.model import Changes, Model
    from grapevine_tui.service.services import node_services

    demo = None
    if settings.demo:
        from grapevine_tui.demo.demo import Demo

        demo = Demo(settings)
        host = demo.host
    else:
        host = Host(
            settings.node,
            settings.state_dir,
            settings=settings,
            model=Model(max_messages=settings.messages),
            spare_state_dirs=settings.spare_state_dirs,
        )

    def start_log_file(event: Event, _: Changes) -> None:
        if isinstance(event, NodeStarted) and settings.log_file is None and host.state_dir:
            # Only now it is known which state directory this node uses. A log file that cannot be
            # opened does not stop the app; the screen shows what matters.
            with contextlib.suppress(OSError):
                logs.to_file(host.state_dir / "grapevine.log", settings.log_level)

    host.listen(start_log_file)
    app = GrapevineApp(host, settings, demo=demo)
    host.on_app_settings_changed = partial(app.call_later, app.use_settings)

    def notify_hook_failed(fields: dict[str, Any]) -> None:
        text = "--on {on}: {command} {outcome}: {reason}".format(**fields).replace("_", " ")
        app.call_later(partial(app.notify, printable(text), severity="warning", markup=False))

    async with node_services(
        host, settings, lambda: app.call_later(app.request_shutdown), notify_hook_failed
    ) as run_stopped_hooks:
        await app.run_async()
        failure = getattr(app, "failure", None)
        run_stopped_hooks(
            {"reason": "failed", "error": str(failure)} if failure else {"reason": "quit"}
        )
    if failure is not None:
        raise failure
    return app.exit_code


def _start_logging(settings: Settings, use_default: Callable[[], None]) -> None:
    if settings.log_file is None:
        use_default()
    else:
        try:
            logs.to_file(settings.log_file, settings.log_level)
        except OSError as error:
            error_type = StorageError if is_transient_error(error) else ConfigError
            raise error_type("app.log_file", f"{settings.log_file}: {error.strerror}") from None
    for warning in settings.warnings:
        logger.warning("%s", warning)
