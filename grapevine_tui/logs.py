"""Destinations and format of log lines.

Invariants:

- Every line passes `printable()`, so remote text cannot forge a line, move a cursor or color a
  terminal.
- A thread writes the lines from a bounded queue. A pipe without a reader or a full or hanging disk
  drops lines and never delays the node. Once writing works again, the log says how many lines are
  missing.
- A log file has mode 0600, and nothing is written to one that another user owns or can write.
- A log file that was moved away is created again, at the next line and at `reopen`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG
from typing import Final, TextIO

from grapevine_proto.storage.atomic_file import PRIVATE_MODE, make_private_directory
from grapevine_proto.storage.permissions import check_opened
from grapevine_tui.background_writer import BackgroundWriter, write_all
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
MAX_FILE_BYTES: Final = 4 * 2**20  # of one log file; with three rotated ones, 16 MB in total
ROTATED_FILES: Final = 3
MAX_QUEUED_LINES: Final = 10_000  # beyond these lines and bytes, new lines are dropped
MAX_QUEUED_BYTES: Final = 4 * 2**20
FLUSH_TIMEOUT_S: Final = 0.05  # at exit, for the last lines


class PrintableFormatter(logging.Formatter):
    """One line per record, in UTC, followed by an indented traceback."""

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


class BackgroundHandler(logging.Handler):
    """Writes lines with `write`, in a thread."""

    def __init__(self, write: Callable[[bytes], object], encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding
        self._writer = BackgroundWriter(
            write,
            name="log",
            format_loss=self._format_loss,
            max_pieces=MAX_QUEUED_LINES,
            max_bytes=MAX_QUEUED_BYTES,
        )

    @property
    def dropped(self) -> int:
        """Number of lines never written."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._format_line(record)
        except Exception:  # noqa: BLE001  a line that cannot be formatted must not stop the caller
            self.handleError(record)
        else:
            self._writer.try_put(line)

    def reopen(self) -> None:
        """Create the file again if it was moved away."""
        self._writer.put(b"")

    def flush(self) -> None:
        """Do nothing: the thread writes at once. Use `wait` to wait for it."""

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until all lines are written; return whether they are."""
        return self._writer.flush(timeout_s)

    def close(self) -> None:
        self._writer.close(0)
        super().close()

    def _format_line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")

    def _format_loss(self, count: int) -> bytes:
        message = "%d lines are missing here: the log could not be written"
        return self._format_line(
            logging.LogRecord("grapevine.log", logging.WARNING, "", 0, message, (count,), None)
        )


class LogFile:
    """A file that is rotated when it is full and created again when it was moved away.

    Unlike the handlers of the standard library it holds no lock while a disk hangs, so the process
    can end meanwhile. The constructor and `write` may raise OSError.
    """

    def __init__(
        self, path: Path, max_bytes: int = MAX_FILE_BYTES, rotated_files: int = ROTATED_FILES
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._rotated_files = rotated_files
        self._file = self._open()

    def write(self, lines: bytes) -> None:
        with suppress(OSError):  # if no new file can be created, keep using the old one
            if self._is_moved():
                self._reopen()
            status = os.fstat(self._file)
            if S_ISREG(status.st_mode) and 0 < status.st_size > self._max_bytes - len(lines):
                self._rotate()
        if lines:
            write_all(self._file, lines)

    def _open(self) -> int:
        # non-blocking: a named pipe without a reader is rejected
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
        flags |= getattr(os, "O_CLOEXEC", 0)
        try:
            file = os.open(self._path, flags)
        except FileNotFoundError:
            file = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
            with suppress(OSError, AttributeError):
                os.fchmod(file, PRIVATE_MODE)  # independent of the umask
        try:
            if S_ISREG((found := os.fstat(file)).st_mode):
                check_opened(self._path, found)
        except BaseException:
            os.close(file)
            raise
        with suppress(OSError, AttributeError):
            os.set_blocking(file, True)
        return file

    def _is_moved(self) -> bool:
        try:
            there, ours = self._path.stat(), os.fstat(self._file)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _reopen(self) -> None:
        before, self._file = self._file, self._open()
        os.close(before)

    def _rotate(self) -> None:
        names = [
            self._path,
            *(
                self._path.with_name(f"{self._path.name}.{number}")
                for number in range(1, self._rotated_files + 1)
            ),
        ]
        for newer, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._reopen()


def to_stderr(level: str) -> None:
    """Log to stderr from now on."""
    stream: TextIO | None = sys.stderr
    if stream is None:
        to_null()
        return
    _install_handler(BackgroundHandler(_stream_writer(stream), stream.encoding or "utf-8"), level)


def _stream_writer(stream: TextIO) -> Callable[[bytes], object]:
    with suppress(OSError, ValueError):
        return partial(write_all, stream.fileno())

    def write(data: bytes) -> None:  # to a replaced stream without a file
        try:
            stream.write(data.decode(stream.encoding or "utf-8"))
        except ValueError as error:  # the stream is closed
            raise OSError(str(error)) from None

    return write


def to_file(path: Path, level: str) -> None:
    """Log to a rotated file. Raises OSError."""
    make_private_directory(path.parent)
    _install_handler(BackgroundHandler(LogFile(path).write), level)


def to_null() -> None:
    """Discard log lines until there is a file: a line on the terminal would corrupt the screen."""
    _install_handler(logging.NullHandler(), "off")


def set_level(level: str) -> None:
    """Log records of at least `level`, one of `LEVELS`."""
    logging.getLogger().setLevel(LEVELS[level])
    # asyncio's debug lines only help at the trace level
    logging.getLogger("asyncio").setLevel(TRACE if level == "trace" else logging.WARNING)


def reopen() -> None:
    """Create a log file again that was moved away, as log rotation does before it sends SIGHUP."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler.reopen()


def flush(timeout_s: float = FLUSH_TIMEOUT_S) -> None:
    """Wait up to `timeout_s` until all lines are written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler.wait(timeout_s)


def _install_handler(handler: logging.Handler, level: str) -> None:
    logging.raiseExceptions = False  # a full disk or a closed stderr must not stop the node
    logging.addLevelName(TRACE, "TRACE")
    handler.setFormatter(PrintableFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_level(level)
