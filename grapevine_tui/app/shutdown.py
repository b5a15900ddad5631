"""Graceful shutdown of the app: the first request leaves the cluster, the second exits at once.

Invariants:

- However the app ends (a key, a command, SIGTERM, SIGHUP, an error at the start), the node and the demo's
  peers leave before the process exits, unless a second request comes first.
- The exit code is 0 on request, 1 or 5 if the node stopped by itself, and 128 plus the signal's number
  if a second signal cuts the shutdown short.

An app without a node of its own needs `catch_signals` only. The app over a node calls it once its loop runs,
`request` for each request to end, and `leave` last.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rich.text import Text
from textual.app import App

from grapevine_proto.errors import GrapevineError
from grapevine_tui.app.terminal import restore_terminal
from grapevine_tui.host.protocol import DemoView, HostView
from grapevine_tui.process_exit import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STATE_DIR,
    INTERACTIVE_LEAVE_TIMEOUT_S,
    SIGNAL_LEAVE_TIMEOUT_S,
    force_exit_after,
)

SIGNALS: Final = ("SIGTERM", "SIGHUP", "SIGINT")
FORCED_EXIT_DELAY_S: Final = 1.5  # after the leave timeout, for a disk that hangs


def catch_signals(handle: Callable[[int], None]) -> None:
    """Call `handle` with the number of each SIGTERM, SIGHUP and SIGINT, in place of another handler."""
    loop = asyncio.get_running_loop()
    for name in SIGNALS:
        number = getattr(signal, name, None)
        # Windows has neither SIGHUP nor signal handlers in a loop; Textual's own handling remains.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            if number is not None:
                loop.add_signal_handler(number, handle, number)


class GracefulShutdown:
    """Ends `app`. Calls `on_begin` once, at the first request."""

    def __init__(
        self, app: App[None], host: HostView, demo: DemoView | None, on_begin: Callable[[], None]
    ) -> None:
        self._app = app
        self._host = host
        self._demo = demo
        self._on_begin = on_begin
        self._is_requested = False
        self._leave_timeout_s = INTERACTIVE_LEAVE_TIMEOUT_S
        self.is_done = False
        """Whether the node has left, failed to start, or must not be waited for."""

    @property
    def is_requested(self) -> bool:
        """Whether a shutdown has begun."""
        return self._is_requested

    def catch_signals(self) -> None:
        """Request a shutdown on SIGTERM, SIGHUP and SIGINT."""
        catch_signals(self._on_signal)

    def _on_signal(self, number: int) -> None:
        self._leave_timeout_s = SIGNAL_LEAVE_TIMEOUT_S
        self.request(128 + number)

    def request(self, forced_exit_code: int | None = None) -> None:
        """Begin a graceful shutdown. A second call exits at once, with `forced_exit_code` if given."""
        if self._is_requested:
            self.is_done = True
            self._app.exit(
                return_code=self._exit_code() if forced_exit_code is None else forced_exit_code
            )
            return
        self._is_requested = True
        if not self._app.is_headless:  # a test owns the process
            force_exit_after(
                self._leave_timeout_s + FORCED_EXIT_DELAY_S, self._exit_code(), restore_terminal
            )
        self._on_begin()
        self._app.run_worker(self._leave_and_exit(), exit_on_error=True)

    async def _leave_and_exit(self) -> None:
        code = self._exit_code()
        unacknowledged = await self.leave()
        text = (
            f"{unacknowledged:,} messages were not acknowledged by any peer"
            if unacknowledged
            else None
        )
        if self._host.model.is_remote:
            text = "detached; the node keeps running"
        self._app.exit(return_code=code, message=Text(text) if text else None)

    async def leave(self) -> int:
        """Leave the cluster and stop the demo; return the number of unacknowledged messages."""
        self.is_done = True
        unacknowledged = 0
        with suppress(GrapevineError):  # the node never started, or stopped by itself
            unacknowledged = await self._host.leave(self._leave_timeout_s)
        if self._demo is not None:
            await self._demo.stop()
        return unacknowledged

    def _exit_code(self) -> int:
        stop_reason = self._host.model.stop_reason
        if not stop_reason:
            return EXIT_OK
        return EXIT_STATE_DIR if "in use" in stop_reason else EXIT_FAILED
