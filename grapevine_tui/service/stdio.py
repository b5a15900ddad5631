"""Reads lines from stdin and writes lines to stdout without blocking the event loop.

Invariants:

- Reading and writing happen in daemon threads, so any kind of file works (pipe, terminal, file,
  /dev/null) and neither thread keeps the process alive.
- Input read ahead and output queued are bounded. A slow reader of stdout loses events, which are
  counted, and never delays the node.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from grapevine_tui.background_writer import BackgroundWriter, write_all
from grapevine_tui.control.lines import READ_CHUNK_BYTES, LineSplitter

MAX_CHUNKS_AHEAD: Final = 2  # read but not processed
TERMINAL_RETRY_INTERVAL_S: Final = (
    1.0  # until this process is in the foreground of its terminal again
)


async def read_lines(file: int) -> AsyncIterator[bytes | None]:
    """Yield the lines of `file` until its end; None for one that was too long. At most one reader
    per process.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    ahead = threading.Semaphore(MAX_CHUNKS_AHEAD)

    def read() -> None:
        chunk = b"more"
        with suppress(RuntimeError):  # the event loop is closed: no one waits for lines
            while chunk:
                ahead.acquire()
                chunk = _read_chunk(file)
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    with suppress(OSError, ValueError):
        if os.isatty(file):  # in the background, a read should fail instead of stopping the process
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
    """Return available bytes, at least one; empty at the end or if nothing can be read."""
    while True:
        try:
            return os.read(file, READ_CHUNK_BYTES)
        except BlockingIOError:  # another process made the file non-blocking
            select.select([file], [], [])
        except OSError as error:
            if error.errno != errno.EIO or not os.isatty(file):
                return b""
            time.sleep(TERMINAL_RETRY_INTERVAL_S)


class LineWriter(BackgroundWriter):
    """Writes each line to `file` at once, in order.

    `on_broken` is called once, in the writer's thread, if the reader is gone or the disk is full;
    later lines are dropped.
    """

    def __init__(self, file: int, on_broken: Callable[[OSError], None]) -> None:
        super().__init__(partial(write_all, file), name="stdout", on_broken=on_broken)
