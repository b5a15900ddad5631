"""Runs the app on the terminal of this process.

Invariants:

- Writing to the terminal never blocks or raises, and a signal restores the terminal before the process
  ends.
- Importing this imports no Textual.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from grapevine_proto.errors import ConfigError
from grapevine_tui import early_signals
from grapevine_tui.app.terminal import HangupSafeStream, needs_ascii, restore_terminal
from grapevine_tui.event_loop import new_runner
from grapevine_tui.service.reaper import start_reaper_if_init


def require_terminal() -> None:
    """Raise ConfigError if this process has no terminal the app can run on."""
    if os.environ.get("TEXTUAL_DRIVER"):  # it draws in a browser
        return
    streams = (sys.stdin, sys.stdout, sys.stderr)  # Textual draws on stderr
    if not all(each and each.isatty() for each in streams) or os.environ.get("TERM") == "dumb":
        raise ConfigError("", "the app needs a terminal; without one, use --headless")


def run_on_terminal(run_app: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run an app on this terminal until it is quit and return its exit code.

    Raises ConfigError if there is no terminal.
    """
    require_terminal()
    if sys.stderr is not None:
        # Textual draws on stderr and prints its last message to __stderr__; neither may block.
        in_ascii = needs_ascii(sys.stderr.encoding, os.environ)
        terminal = HangupSafeStream(sys.stderr, in_ascii=in_ascii)
        vars(sys)["__stderr__"] = sys.stderr = terminal
    if early_signals.is_own_process():
        early_signals.install_signal_handlers(restore_terminal)
    start_reaper_if_init()
    with new_runner() as runner:
        return runner.run(run_app())
