"""Signals from the first instruction on: before there is a node, the process ends at once and in silence.

Invariants:

- SIGINT ends with 130 and SIGTERM with 0, for nothing has begun that could be lost; also as process 1,
  whom the system spares a signal that it does not handle.
- Whoever imports this from another program keeps its own signal handlers.

Imported by the package before anything that takes time to load. A node replaces the handlers by its own.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = (
    False  # `typing`, and the enumerations of `signal`, take longer to load than all of this
)
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType
else:
    import _signal as signal  # built into the interpreter, so it is there at once

PROGRAM_NAMES = ("grapevine-tui", "grapevine_tui")
EXIT_CODE_BY_SIGNAL: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 0}

_before_exit: Callable[[], object] | None = None


def is_own_process() -> bool:
    """Whether this process runs this program, and not one that imports it."""
    path = os.path.normpath(sys.argv[0] if sys.argv else "")
    directory, name = os.path.split(path)
    is_module = name == "__main__.py" and os.path.basename(directory) in PROGRAM_NAMES
    return is_module or name in PROGRAM_NAMES


def install_signal_handlers(before_exit: Callable[[], object] | None = None) -> None:
    """Have a signal end the process; `before_exit` is called before."""
    global _before_exit
    _before_exit = before_exit
    for each in EXIT_CODE_BY_SIGNAL:
        signal.signal(each, _exit_on_signal)


def restore_signal_handlers() -> None:
    """What follows is no node: SIGINT interrupts it, SIGTERM kills it."""
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
