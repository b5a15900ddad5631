"""The messages that the screen can show: the last of them, numbered for good.

What must stay true: what is kept is bounded in number and in bytes, and what was let go is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from grapevine_proto.events import Message

MESSAGES: Final = 10_000  # kept in the log
MESSAGE_BYTES: Final = 64 * 2**20  # and of payload in all: a few giants must not fill the memory


class Entry(NamedTuple):
    """A message in the log. `number` counts from 0 and names it for good, whatever is let go."""

    number: int
    at_unix: float
    message: Message


class Log:
    """The last messages, numbered for good; the oldest go when there are too many or too large."""

    def __init__(self, most: int = MESSAGES, most_bytes: int = MESSAGE_BYTES) -> None:
        self._entries: deque[Entry] = deque()
        self.most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self.let_go = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> int:
        """Number of the oldest entry kept."""
        return self.let_go

    @property
    def end(self) -> int:
        """Number that the next entry will get: how many there have been in all."""
        return self.let_go + len(self._entries)

    def append(self, message: Message, at_unix: float) -> None:
        entries = self._entries
        entries.append(Entry(self.let_go + len(entries), at_unix, message))
        self._bytes += len(message.payload)
        self._make_room()

    def keep(self, most: int) -> None:
        """Keep `most` entries from now on."""
        self.most = most
        self._make_room()

    def _make_room(self) -> None:
        entries = self._entries
        while len(entries) > self.most or (self._bytes > self._most_bytes and len(entries) > 1):
            self._bytes -= len(entries.popleft().message.payload)
            self.let_go += 1

    def get(self, number: int) -> Entry | None:
        """The entry of that number, or None where it was let go or has not come."""
        index = number - self.let_go
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def since(self, number: int) -> list[Entry]:
        """The entries from `number` on, oldest first."""
        count = min(self.end - number, len(self._entries))
        entries = self._entries
        return [entries[index] for index in range(len(entries) - count, len(entries))]

    def between(self, number: int, end: int) -> list[Entry]:
        """The entries from `number` up to before `end`, oldest first."""
        start = max(0, number - self.let_go)
        stop = min(len(self._entries), end - self.let_go)
        # Indexing a deque far from its ends is slow: skip there once instead.
        return list(islice(self._entries, start, stop)) if start < stop else []

    def latest(self) -> Iterator[Entry]:
        """All entries, newest first. Nothing may be appended meanwhile."""
        return reversed(self._entries)
