"""The terminal as something that may vanish.

What must stay true: writing to a terminal that has hung up raises nothing and waits for nothing.
Textual writes from a thread of its own; an error there ends the thread, its queue fills, and the
app would wait for ever to say goodbye to a window that is closed.
"""

from __future__ import annotations

from contextlib import suppress
from io import TextIOBase
from typing import TextIO


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
