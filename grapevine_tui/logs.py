"""Where log lines go and what they look like.

What must stay true:

- Every line passes `printable()`, so that nothing a stranger sent can forge a line, move a cursor or
  colour a terminal.
- Lines are written by a thread of their own, from a bounded queue: a pipe that is not read, a disk that
  hangs or is full costs lines, which are counted, and never time of the node. Once it is written again,
  the log itself says how many are missing.
- A log file is made 0600, and nothing is written to one that another user owns or can write.
- A log file that was moved away is made anew, at the next line and at `reopen`.
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
MAX_FILE_BYTES: Final = 4 * 2**20  # of one log file; with three old ones, 16 MB at most
ROTATED_FILES: Final = 3
MAX_QUEUED_LINES: Final = (
    10_000  # that are not yet written, and of these bytes; then new ones are dropped
)
MAX_QUEUED_BYTES: Final = 4 * 2**20
FLUSH_TIMEOUT_S: Final = 0.05  # at the end, for the last lines


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


class BackgroundHandler(logging.Handler):
    """Has lines written by `write`, in a thread."""

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
        """How many lines were never written."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._format_line(record)
        except Exception:  # noqa: BLE001  as every handler: a line that cannot be made stops nobody
            self.handleError(record)
        else:
            self._writer.try_put(line)

    def reopen(self) -> None:
        """Have the file made anew if it was moved away."""
        self._writer.put(b"")

    def flush(self) -> None:
        """Nothing: the thread writes at once, and nobody waits for it but at the end."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until all lines are written, at most `timeout_s`; whether they are."""
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
    """A file that is turned over when it has grown, and made anew when it was moved away.

    Its bytes go to the system at once: unlike the standard library's handlers it holds no lock while
    a disk hangs, so the process can end meanwhile. Making one and `write` may raise OSError."""

    def __init__(
        self, path: Path, max_bytes: int = MAX_FILE_BYTES, rotated_files: int = ROTATED_FILES
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._rotated_files = rotated_files
        self._file = self._open()

    def write(self, lines: bytes) -> None:
        with suppress(OSError):  # where no new file can be made, the old one still takes lines
            if self._is_moved():
                self._reopen()
            status = os.fstat(self._file)
            if S_ISREG(status.st_mode) and 0 < status.st_size > self._max_bytes - len(lines):
                self._rotate()
        if lines:
            write_all(self._file, lines)

    def _open(self) -> int:
        # Without waiting: a named pipe that nobody reads is refused, not waited for.
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
        flags |= getattr(os, "O_CLOEXEC", 0)
        try:
            file = os.open(self._path, flags)
        except FileNotFoundError:
            file = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
            with suppress(OSError, AttributeError):
                os.fchmod(file, PRIVATE_MODE)  # whatever the umask
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

    def write(data: bytes) -> None:  # to a stream of somebody's that has no file
        try:
            stream.write(data.decode(stream.encoding or "utf-8"))
        except ValueError as error:  # it is closed
            raise OSError(str(error)) from None

    return write


def to_file(path: Path, level: str) -> None:
    """Log into a file that is turned over when it has grown. Raises OSError."""
    make_private_directory(path.parent)
    _install_handler(BackgroundHandler(LogFile(path).write), level)


def to_null() -> None:
    """Keep quiet until there is a place for it: a line on the terminal would spoil the screen."""
    _install_handler(logging.NullHandler(), "off")


def set_level(level: str) -> None:
    """Log what is at least as grave as `level`, one of `LEVELS`."""
    logging.getLogger().setLevel(LEVELS[level])
    # asyncio's own debug lines are of use to whoever asks for everything
    logging.getLogger("asyncio").setLevel(TRACE if level == "trace" else logging.WARNING)


def reopen() -> None:
    """Make a log file anew that was moved away, as log rotation does before a SIGHUP."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler.reopen()


def flush(timeout_s: float = FLUSH_TIMEOUT_S) -> None:
    """Wait until all lines are written, at most `timeout_s`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler.wait(timeout_s)


def _install_handler(handler: logging.Handler, level: str) -> None:
    logging.raiseExceptions = False  # a full disk or a closed stderr is not the node's end
    logging.addLevelName(TRACE, "TRACE")
    handler.setFormatter(PrintableFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_level(level)
