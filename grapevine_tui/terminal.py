"""The terminal as something that may vanish, and that may send anything.

What must stay true:

- Writing to a terminal that has hung up raises nothing and waits for nothing. Textual writes from a thread
  of its own; an error there ends the thread, its queue fills, and the app would wait for ever to say goodbye
  to a window that is closed.
- Whatever bytes are typed or pasted, the app goes on: what is not UTF-8 is read as signs that stand for it.
  Textual's own reading ends the app there.
"""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import TextIOBase
from typing import TextIO


def forgiving(encoding: str) -> Callable[[], IncrementalDecoder]:
    """As `getincrementaldecoder`, whose decoders refuse nothing."""
    return partial(getincrementaldecoder(encoding), "replace")


def forgive_input() -> None:
    """Have Textual read whatever comes from the terminal."""
    with suppress(ImportError):  # Windows has another driver, which is given letters
        from textual.drivers import linux_driver

        vars(linux_driver)["getincrementaldecoder"] = forgiving


class LastingTerminal(TextIOBase):
    """`stream` for as long as it is there, and nothing after that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()
