"""Lines in and out of this process, without ever holding up the loop the node runs in.

What must stay true:

- Reading and writing block in threads of their own, so any kind of file will do: pipes, terminals,
  plain files, /dev/null; and neither thread can keep the process from ending.
- What is read ahead and what waits to be written are bounded. A slow reader of our output loses
  events, which is counted, and never delays the node.
- A line that is too long is skipped to its end, and only that line.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

LINE_BYTES: Final = 64 * 1024  # of one line of input, its end not counted
READ_BYTES: Final = 64 * 1024
CHUNKS_AHEAD: Final = 2  # read and not yet worked on
WAITING_LINES: Final = 10_000  # of output, and of these bytes; then events are let go
WAITING_BYTES: Final = 64 * 2**20
WRITE_BYTES: Final = 256 * 1024  # joined for one write
BACKGROUND_PAUSE_S: Final = 1.0  # between looks whether the terminal is ours again


class LineSplitter:
    """Bytes in pieces -> lines. None stands for a line that was too long; blank lines are lines."""

    def __init__(self, most: int = LINE_BYTES) -> None:
        self._most = most
        self._rest = bytearray()
        self._is_skipping = False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """The lines that end in `chunk`."""
        *ended, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        for part in ended:
            self._take(part, lines)
            if not self._is_skipping:
                lines.append(bytes(self._rest).removesuffix(b"\r"))
            self._rest.clear()
            self._is_skipping = False
        self._take(rest, lines)
        return lines

    def end(self) -> list[bytes | None]:
        """The last line, where the input did not end with a line's end."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []

    def _take(self, part: bytes, lines: list[bytes | None]) -> None:
        if self._is_skipping:
            return
        self._rest += part
        if len(self._rest) > self._most + self._rest.endswith(b"\r"):
            self._rest.clear()
            self._is_skipping = True
            lines.append(None)


async def read_lines(file: int) -> AsyncIterator[bytes | None]:
    """The lines of `file` until its end; None for one that was too long. One reader a process."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    ahead = threading.Semaphore(CHUNKS_AHEAD)

    def read() -> None:
        chunk = b"more"
        with suppress(RuntimeError):  # the loop is closed: nobody waits for lines any more
            while chunk:
                ahead.acquire()
                chunk = _read_chunk(file)
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    with suppress(OSError, ValueError):
        if os.isatty(file):  # in the background, a read is to fail and not to stop the process
            signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    threading.Thread(target=read, name="stdin", daemon=True).start()
    splitter = LineSplitter()
    while chunk := await chunks.get():
        for line in splitter.feed(chunk):
            yield line
        ahead.release()
    for line in splitter.end():
        yield line


def _read_chunk(file: int) -> bytes:
    """What there is to read, at least one byte; empty: the end, or nothing that can be read."""
    while True:
        try:
            return os.read(file, READ_BYTES)
        except BlockingIOError:  # somebody else made it so
            select.select([file], [], [])
        except OSError as error:
            if error.errno != errno.EIO or not os.isatty(file):
                return b""
            time.sleep(BACKGROUND_PAUSE_S)


class LineWriter:
    """Writes lines to `file` in order, each at once. `on_broken` is called once, in the writer's
    own thread, when nobody reads any more (or the disk is full); what is put after is let go."""

    def __init__(self, file: int, on_broken: Callable[[OSError], None]) -> None:
        self._file = file
        self._on_broken = on_broken
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # waiting or being written
        self._count = 0
        self._is_closing = False
        self._is_broken = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="stdout", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        return self._count < WAITING_LINES and self._bytes < WAITING_BYTES

    def put(self, line: bytes) -> None:
        """Write `line`, which must end with a line's end. Ask `has_room` before, for what may go."""
        with self._changed:
            if self._is_broken or self._is_closing:
                return
            self._lines.append(line)
            self._count += 1
            self._bytes += len(line)
            self._changed.notify()

    def close(self, patience_s: float) -> None:
        """Take no more lines and wait until all are written, at most `patience_s`."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._is_closing:
                    self._changed.wait()
                if not self._lines:
                    return
                batch = [self._lines.popleft()]
                size = len(batch[0])
                while self._lines and size + len(self._lines[0]) <= WRITE_BYTES:
                    batch.append(self._lines.popleft())
                    size += len(batch[-1])
            try:
                _write_all(self._file, b"".join(batch))
            except OSError as error:
                with self._changed:
                    self._is_broken = True
                    self._lines.clear()
                    self._count = self._bytes = 0
                self._on_broken(error)
                return
            with self._changed:
                self._count -= len(batch)
                self._bytes -= size


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(file, view) :]
        except BlockingIOError:  # somebody else made it so
            select.select([], [file], [])
