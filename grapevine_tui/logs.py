"""Where log lines go and what they look like.

What must stay true: every line passes `printable()`, so that nothing a stranger sent can forge a
line, move a cursor or colour a terminal; a log that cannot be written never stops the node.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Final

from grapevine_tui.text import printable, printable_lines

TRACE: Final = 5  # below debug
LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
    "off": logging.CRITICAL + 1,
}
FILE_BYTES: Final = 4 * 2**20  # of one log file; with three old ones, 16 MB at most
OLD_FILES: Final = 3


class PrintableFormatter(logging.Formatter):
    """One line a record, in UTC; tracebacks follow, indented."""

    @staticmethod
    def converter(seconds: float | None = None) -> time.struct_time:
        return time.gmtime(seconds)

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        line = printable(f"{stamp} {record.levelname.lower()} {record.name}: {record.getMessage()}")
        if not record.exc_info:
            return line
        trace = printable_lines(self.formatException(record.exc_info))
        return "\n    ".join([line, *trace])


def to_stderr(level: str) -> None:
    """Log to stderr from now on."""
    _replace(logging.StreamHandler(sys.stderr), level)


def to_file(path: Path, level: str) -> None:
    """Log into a file that is turned over when it has grown. Raises OSError."""
    from logging.handlers import RotatingFileHandler

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        path,
        maxBytes=FILE_BYTES,
        backupCount=OLD_FILES,
        encoding="utf-8",
        errors="backslashreplace",
    )
    _replace(handler, level)


def to_nowhere() -> None:
    """Keep quiet until there is a place for it: a line on the terminal would spoil the screen."""
    _replace(logging.NullHandler(), "off")


def set_level(level: str) -> None:
    """Log what is at least as grave as `level`, one of `LEVELS`."""
    logging.getLogger().setLevel(LEVELS[level])
    # asyncio's own debug lines are of use to whoever asks for everything
    logging.getLogger("asyncio").setLevel(TRACE if level == "trace" else logging.WARNING)


def _replace(handler: logging.Handler, level: str) -> None:
    logging.raiseExceptions = False  # a full disk or a closed stderr is not the node's end
    logging.addLevelName(TRACE, "TRACE")
    handler.setFormatter(PrintableFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_level(level)
