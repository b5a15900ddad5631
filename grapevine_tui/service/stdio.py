"""Lines in and out of this process, without ever holding up the loop the node runs in.

What must stay true:

- Reading and writing block in threads of their own, so any kind of file will do: pipes, terminals,
  plain files, /dev/null; and neither thread can keep the process from ending.
- What is read ahead and what waits to be written are bounded. A slow reader of our output loses
  some of it, which is counted, and never delays the node.
- No lock of Python's own streams is held while a thread waits, so that a process can end meanwhile.
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
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from grapevine_tui.background_writer import BackgroundWriter, write_all
from grapevine_tui.control.lines import READ_CHUNK_BYTES, LineSplitter

MAX_CHUNKS_AHEAD: Final = 2  # read and not yet worked on
TERMINAL_RETRY_INTERVAL_S: Final = 1.0  # between looks whether the terminal is ours again


async def read_lines(file: int) -> AsyncIterator[bytes | None]:
    """The lines of `file` until its end; None for one that was too long. One reader a process."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    ahead = threading.Semaphore(MAX_CHUNKS_AHEAD)

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
            return os.read(file, READ_CHUNK_BYTES)
        except BlockingIOError:  # somebody else made it so
            select.select([file], [], [])
        except OSError as error:
            if error.errno != errno.EIO or not os.isatty(file):
                return b""
            time.sleep(TERMINAL_RETRY_INTERVAL_S)


class LineWriter(BackgroundWriter):
    """Writes lines to `file` in order, each at once. `on_broken` is called once, in the writer's
    own thread, when nobody reads any more (or the disk is full); what is put after is let go."""

    def __init__(self, file: int, on_broken: Callable[[OSError], None]) -> None:
        super().__init__(partial(write_all, file), name="stdout", on_broken=on_broken)
