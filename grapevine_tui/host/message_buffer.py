"""The latest messages, with permanent numbers.

Invariants: the buffer is bounded in entries and bytes, and evictions are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from grapevine_proto.events import Message

MAX_BUFFERED_MESSAGES: Final = 10_000  # kept in the log
MAX_BUFFERED_BYTES: Final = (
    64 * 2**20
)  # and of payload in all: a few giants must not fill the memory


class LogEntry(NamedTuple):
    """A message in the buffer. `number` counts from 0 and stays the same, whatever is evicted."""

    number: int
    at_unix: float
    message: Message


class MessageBuffer:
    """The latest messages; the oldest are evicted beyond a number or a size."""

    def __init__(
        self, limit: int = MAX_BUFFERED_MESSAGES, limit_bytes: int = MAX_BUFFERED_BYTES
    ) -> None:
        self._entries: deque[LogEntry] = deque()
        self.limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> int:
        """Number of the oldest entry."""
        return self.evicted

    @property
    def end(self) -> int:
        """Number of the next entry: the count of all messages so far."""
        return self.evicted + len(self._entries)

    def append(self, message: Message, at_unix: float) -> None:
        entries = self._entries
        entries.append(LogEntry(self.evicted + len(entries), at_unix, message))
        self._bytes += len(message.payload)
        self._evict()

    def clear(self) -> None:
        """Evict all entries."""
        self.evicted += len(self._entries)
        self._entries.clear()
        self._bytes = 0

    def set_limit(self, limit: int) -> None:
        """Keep at most `limit` entries from now on."""
        self.limit = limit
        self._evict()

    def _evict(self) -> None:
        entries = self._entries
        while len(entries) > self.limit or (self._bytes > self._limit_bytes and len(entries) > 1):
            self._bytes -= len(entries.popleft().message.payload)
            self.evicted += 1

    def get(self, number: int) -> LogEntry | None:
        """The entry with `number`; None if it was evicted or does not exist yet."""
        index = number - self.evicted
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def since(self, number: int) -> list[LogEntry]:
        """The entries from `number` on, oldest first."""
        count = min(self.end - number, len(self._entries))
        entries = self._entries
        return [entries[index] for index in range(len(entries) - count, len(entries))]

    def between(self, number: int, end: int) -> list[LogEntry]:
        """The entries from `number` up to before `end`, oldest first."""
        start = max(0, number - self.evicted)
        stop = min(len(self._entries), end - self.evicted)
        # Indexing the middle of a deque is slow, so skip there once.
        return list(islice(self._entries, start, stop)) if start < stop else []

    def newest_first(self) -> Iterator[LogEntry]:
        """All entries, newest first. Do not append while iterating."""
        return reversed(self._entries)
