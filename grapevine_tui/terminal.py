"""The terminal as something that may vanish, and that may send anything.

What must stay true:

- Writing to a terminal that has hung up raises nothing and waits for nothing. Textual writes from a thread
  of its own; an error there ends the thread, its queue fills, and the app would wait for ever to say goodbye
  to a window that is closed.
- Whatever bytes are typed or pasted, the app goes on: what is not UTF-8 is read as signs that stand for it.
  Textual's own reading ends the app there.
- What is pasted is text to the last letter: an escape in it never leaves the box to act as a key. Many
  terminals see to that themselves, tmux and screen do not.
"""

from __future__ import annotations

import importlib
from codecs import getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import TextIOBase
from typing import Final, TextIO

# The one for a terminal. A browser sends what is text, and its driver takes an empty piece for the end.
DRIVER: Final = "textual.drivers.linux_driver"
BEGIN: Final = "\x1b[200~"  # bracketed paste
END: Final = "\x1b[201~"
ESCAPE_SIGN: Final = "␛"


class Reading:
    """Makes letters of what comes from a terminal, a piece at a time."""

    def __init__(self, encoding: str) -> None:
        self._decode = getincrementaldecoder(encoding)("replace").decode
        self._is_pasted = False
        self._before = ""  # the last letters outside a paste: its mark may come in pieces
        self._held = ""  # of a paste: what may be the beginning of its end

    def decode(self, data: bytes, final: bool = False) -> str:
        """The next letters; within a paste without a single escape."""
        text = self._held + self._decode(data, final)
        self._held = ""
        read = []
        while text:
            part, text = self._pasted(text) if self._is_pasted else self._typed(text)
            read.append(part)
        return "".join(read)

    def _typed(self, text: str) -> tuple[str, str]:
        seen = self._before + text
        at = seen.find(BEGIN)
        if at < 0:
            self._before = seen[1 - len(BEGIN) :]
            return text, ""
        self._is_pasted = True
        here = at + len(BEGIN) - len(self._before)
        return text[:here], text[here:]

    def _pasted(self, text: str) -> tuple[str, str]:
        body, mark, rest = text.partition(END)
        if mark:
            self._is_pasted = False
            self._before = ""
        else:
            sizes = range(len(END) - 1, 0, -1)
            held = next((size for size in sizes if body.endswith(END[:size])), 0)
            body, self._held = body[: len(body) - held], body[len(body) - held :]
        return body.replace("\x1b", ESCAPE_SIGN) + mark, rest


def _reader(encoding: str) -> Callable[[], Reading]:
    """In place of `codecs.getincrementaldecoder`."""
    return partial(Reading, encoding)


def read_anything() -> None:
    """Have Textual read whatever comes from the terminal, by `Reading`."""
    with suppress(ImportError):  # Windows has a driver of its own, which is given letters
        vars(importlib.import_module(DRIVER))["getincrementaldecoder"] = _reader


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
