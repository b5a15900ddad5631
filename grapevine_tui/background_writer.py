"""Writes to slow files (a pipe, a terminal, a disk) in a thread of its own.

Invariants:

- `put` and `try_put` never wait for the file.
- What waits is bounded in pieces and in bytes; what is dropped is counted.
- The thread is a daemon and holds no lock of Python's own streams, so the process can end while a
  write blocks.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

MAX_QUEUED_PIECES: Final = 10_000
MAX_QUEUED_BYTES: Final = 64 * 2**20
MAX_WRITE_BYTES: Final = 256 * 1024  # joined for one write


class BackgroundWriter:
    """Writes pieces with `write`, in order, in a thread of its own.

    At most `max_pieces` and `max_bytes` are queued. If `write` raises OSError, `on_broken` is
    called once in the thread and later pieces are dropped; without `on_broken` only the pieces
    being written are lost. `format_loss` turns the number of lost pieces into a piece that says so;
    it is written once nothing else is queued and writing works.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        name: str,
        on_broken: Callable[[OSError], object] | None = None,
        format_loss: Callable[[int], bytes] | None = None,
        max_pieces: int = MAX_QUEUED_PIECES,
        max_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._write = write
        self._on_broken = on_broken
        self._format_loss = format_loss
        self._max_pieces = max_pieces
        self._max_bytes = max_bytes
        self._pieces: deque[bytes] = deque()
        self._queued_bytes = 0  # queued or being written
        self._queued_count = 0
        self._unreported = 0  # lost pieces not yet reported by a piece that was written
        self._being_reported = 0
        self._is_failing = False  # whether the latest write failed
        self._is_closing = False
        self._is_broken = False
        self._changed = threading.Condition()
        self.dropped = 0
        """Number of pieces never written."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def has_capacity(self) -> bool:
        return self._queued_count < self._max_pieces and self._queued_bytes < self._max_bytes

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    @property
    def is_idle(self) -> bool:
        """Whether everything queued has been written or dropped."""
        return self._queued_count == 0

    def put(self, piece: bytes) -> None:
        """Queue `piece` even beyond the limits, for output that is bounded otherwise."""
        with self._changed:
            if self._is_broken or self._is_closing:
                self.dropped += 1
                return
            self._append(piece)

    def try_put(self, piece: bytes) -> bool:
        """Queue `piece` if there is room; return whether there was."""
        with self._changed:
            has_capacity = self.has_capacity
            if not has_capacity:
                self.dropped += 1
                self._unreported += 1
        if has_capacity:
            self.put(piece)
        return has_capacity

    def retain(self, keep: Callable[[Iterable[bytes]], list[bytes]]) -> None:
        """Drop all queued pieces except those that `keep` returns."""
        with self._changed:
            retained = deque(keep(self._pieces))
            self.dropped += len(self._pieces) - len(retained)
            self._queued_count -= len(self._pieces) - len(retained)
            self._queued_bytes -= sum(map(len, self._pieces)) - sum(map(len, retained))
            self._pieces = retained

    def flush(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until everything is written; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_idle, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Accept no more pieces and wait up to `timeout_s` for the thread; return whether it has
        ended.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # Call these with `_changed` held.

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._queued_count += 1
        self._queued_bytes += len(piece)
        self._changed.notify_all()

    def _next_batch(self) -> list[bytes]:
        """Return the next bytes to write; empty once closed and drained."""
        if self._unreported and self._format_loss and not self._pieces and not self._is_failing:
            self._being_reported, self._unreported = self._unreported, 0
            self._append(self._format_loss(self._being_reported))
        while not self._pieces and not self._is_closing:
            self._changed.wait()
        batch: list[bytes] = []
        size = 0
        while self._pieces and (not batch or size + len(self._pieces[0]) <= MAX_WRITE_BYTES):
            batch.append(self._pieces.popleft())
            size += len(batch[-1])
        return batch

    def _run(self) -> None:
        while True:
            with self._changed:
                batch = self._next_batch()
            if not batch:
                return
            failure: OSError | None = None
            try:
                self._write(b"".join(batch))
            except OSError as error:
                failure = error
            with self._changed:
                self._queued_count -= len(batch)
                self._queued_bytes -= sum(map(len, batch))
                self._is_failing = failure is not None
                if failure is not None:
                    self._on_write_failed(len(batch))
                self._being_reported = 0
                self._changed.notify_all()
            if failure is not None and self._on_broken is not None:
                self._on_broken(failure)
                return

    def _on_write_failed(self, count: int) -> None:
        count -= self._being_reported > 0  # the report itself is not a lost piece
        self.dropped += count
        self._unreported += count + self._being_reported
        if self._on_broken is not None:
            self.dropped += len(self._pieces)
            self._is_broken = True
            self._pieces.clear()
            self._queued_count = self._queued_bytes = 0


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`, blocking as long as it takes. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(file, view) :]
        except BlockingIOError:  # another process made the file non-blocking
            select.select([], [file], [])
