"""How the app ends: politely first, at once when asked twice.

What must stay true:

- Whatever way it ends (a key, a command, SIGTERM, SIGHUP, an error at the start), the node and the
  demonstration's neighbours have left before the process is gone, or were told not to wait.
- The exit code says why: 0 asked to, 1 or 5 where the node stopped of itself, 128 and the signal's number
  where a second one cut it short.

Driven by `app`: `catch_signals` once there is a loop, `request` for each wish to end, `leave` at the
very end.
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
FORCED_EXIT_DELAY_S: Final = 1.5  # after that, for a disk that hangs; usually nothing is left to do


class GracefulShutdown:
    """Ends `app`; `on_begin` is called once when it begins to."""

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
        """Whether nobody is left to say goodbye for."""

    @property
    def is_requested(self) -> bool:
        """Whether it is ending."""
        return self._is_requested

    def catch_signals(self) -> None:
        """Take a signal for a wish to end."""
        loop = asyncio.get_running_loop()
        for name in SIGNALS:
            number = getattr(signal, name, None)
            # Windows has neither SIGHUP nor handlers in a loop; there Textual's own must do.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                if number is not None:
                    loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        self._leave_timeout_s = SIGNAL_LEAVE_TIMEOUT_S
        self.request(128 + number)

    def request(self, forced_exit_code: int | None = None) -> None:
        """End politely; asked twice, at once, with that code if there is one."""
        if self._is_requested:
            self.is_done = True
            self._app.exit(
                return_code=self._exit_code() if forced_exit_code is None else forced_exit_code
            )
            return
        self._is_requested = True
        if not self._app.is_headless:  # else the process is not ours to end
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
        """Say goodbye; how many messages nobody took."""
        self.is_done = True
        unacknowledged = 0
        with suppress(GrapevineError):  # it never ran, or stopped of itself
            unacknowledged = await self._host.leave(self._leave_timeout_s)
        if self._demo is not None:
            await self._demo.stop()
        return unacknowledged

    def _exit_code(self) -> int:
        stop_reason = self._host.model.stop_reason
        if not stop_reason:
            return EXIT_OK
        return EXIT_STATE_DIR if "in use" in stop_reason else EXIT_FAILED
