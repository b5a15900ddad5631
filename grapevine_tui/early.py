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

PROGRAMS = ("grapevine-tui", "grapevine_tui")
CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 0}

_last: Callable[[], object] | None = None


def is_our_process() -> bool:
    """Whether this process runs this program, and not one that imports it."""
    path = os.path.normpath(sys.argv[0] if sys.argv else "")
    folder, name = os.path.split(path)
    is_module = name == "__main__.py" and os.path.basename(folder) in PROGRAMS
    return is_module or name in PROGRAMS


def take_signals(last: Callable[[], object] | None = None) -> None:
    """Have a signal end the process; `last` is called before."""
    global _last
    _last = last
    for each in CODES:
        signal.signal(each, _end)


def release_signals() -> None:
    """What follows is no node: SIGINT interrupts it, SIGTERM kills it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _end and os.getpid() != 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> None:
    try:
        if _last is not None:
            _last()
    finally:
        os._exit(CODES[number])


if is_our_process():
    take_signals()
