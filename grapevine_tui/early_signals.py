"""Handles signals from the first instruction on: until a node runs, the process ends at once
without output.

Invariants:

- SIGINT exits with 130 and SIGTERM with 0, because there is nothing to lose yet; also as process 1,
  for which the kernel drops signals without a handler.
- A program that imports this package keeps its own signal handlers.

The package imports this before anything slow. A node replaces the handlers.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = (
    False  # `typing` and the enumerations of `signal` take longer to load than this module
)
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType
else:
    import _signal as signal  # built into the interpreter, so loading it is free

PROGRAM_NAMES = ("grapevine-tui", "grapevine_tui")
EXIT_CODE_BY_SIGNAL: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 0}

_before_exit: Callable[[], object] | None = None


def is_own_process() -> bool:
    """Whether this process runs grapevine-tui, rather than a program that imports it."""
    path = os.path.normpath(sys.argv[0] if sys.argv else "")
    directory, name = os.path.split(path)
    is_module = name == "__main__.py" and os.path.basename(directory) in PROGRAM_NAMES
    return is_module or name in PROGRAM_NAMES


def install_signal_handlers(before_exit: Callable[[], object] | None = None) -> None:
    """End the process on a signal, after calling `before_exit`."""
    global _before_exit
    _before_exit = before_exit
    for each in EXIT_CODE_BY_SIGNAL:
        signal.signal(each, _exit_on_signal)


def restore_signal_handlers() -> None:
    """Restore the default handlers for commands that run no node: SIGINT interrupts, SIGTERM kills."""
    if signal.getsignal(signal.SIGINT) is _exit_on_signal:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _exit_on_signal and os.getpid() != 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    try:
        if _before_exit is not None:
            _before_exit()
    finally:
        os._exit(EXIT_CODE_BY_SIGNAL[number])


if is_own_process():
    install_signal_handlers()
