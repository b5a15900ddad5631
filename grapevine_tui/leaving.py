"""How the app ends: politely first, at once when asked twice.

What must stay true:

- Whatever way it ends (a key, a command, SIGTERM, SIGHUP, an error at the start), the node and the
  demonstration's neighbours have left before the process is gone, or were told not to wait.
- The exit code says why: 0 asked to, 1 or 5 where the node stopped of itself, 128 and the signal's number
  where a second one cut it short.

Driven by `app`: `catch_signals` once there is a loop, `ask` for each wish to end, `leave` at the very end.
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
from grapevine_tui.ending import end_within
from grapevine_tui.hosting import DemoView, HostView
from grapevine_tui.terminal import restore_terminal

LEAVE_S: Final = 2.0  # for goodbyes: long enough for a round trip round the world
SIGNAL_LEAVE_S: Final = 0.35  # of the 500 ms that a signal leaves us
SIGNALS: Final = ("SIGTERM", "SIGHUP", "SIGINT")
LAST_RESORT_S: Final = 1.5  # after that, for a disk that hangs; usually nothing is left to do
IN_USE_CODE: Final = 5  # the contract's exit code for an identity in use


class Leaving:
    """Ends `app`; `begun` is called once when it begins to."""

    def __init__(
        self, app: App[None], host: HostView, demo: DemoView | None, begun: Callable[[], None]
    ) -> None:
        self._app = app
        self._host = host
        self._demo = demo
        self._begun = begun
        self._is_asked = False
        self._leave_s = LEAVE_S
        self.is_done = False
        """Whether nobody is left to say goodbye for."""

    @property
    def is_asked(self) -> bool:
        """Whether it is ending."""
        return self._is_asked

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
        self._leave_s = SIGNAL_LEAVE_S
        self.ask(128 + number)

    def ask(self, at_once_code: int | None = None) -> None:
        """End politely; asked twice, at once, with that code if there is one."""
        if self._is_asked:
            self.is_done = True
            self._app.exit(return_code=self._code() if at_once_code is None else at_once_code)
            return
        self._is_asked = True
        if not self._app.is_headless:  # else the process is not ours to end
            end_within(self._leave_s + LAST_RESORT_S, self._code(), restore_terminal)
        self._begun()
        self._app.run_worker(self._leave_and_exit(), exit_on_error=True)

    async def _leave_and_exit(self) -> None:
        code = self._code()
        unsent = await self.leave()
        words = f"{unsent:,} messages were not acknowledged by any peer" if unsent else None
        if self._host.model.is_remote:
            words = "detached; the node goes on"
        self._app.exit(return_code=code, message=Text(words) if words else None)

    async def leave(self) -> int:
        """Say goodbye; how many messages nobody took."""
        self.is_done = True
        unsent = 0
        with suppress(GrapevineError):  # it never ran, or stopped of itself
            unsent = await self._host.leave(self._leave_s)
        if self._demo is not None:
            await self._demo.stop()
        return unsent

    def _code(self) -> int:
        stopped = self._host.model.stopped
        if not stopped:
            return 0
        return IN_USE_CODE if "in use" in stopped else 1
