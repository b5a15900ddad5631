"""Which messages of the ring are shown, line by line: all, or those that pass a test.

What must stay true:

- A message is tested once, when it comes or when the test changes; only so many in one go, so that
  a full ring cannot hold up the screen.
- Lines name messages by their numbers; what the ring let go is gone from here as well.

Driven by the message log: `sync` at most ten times a second, or again at once while it says so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from grapevine_proto.events import Message
from grapevine_tui.host.message_buffer import LogEntry, MessageBuffer

TESTS_PER_SYNC: Final = 4_000  # tests in one go: about 5 ms
COMPACT_AFTER: Final = 4_096  # numbers let go before the list is cut


class FilteredView:
    """The shown part of `messages`. Lines count from 0, the oldest first."""

    def __init__(self, messages: MessageBuffer) -> None:
        self._messages = messages
        self._predicate: Callable[[Message], bool] | None = None
        self._numbers: list[int] = []  # that passed; unused without a test
        self._start = 0  # of `_numbers`: those before were let go by the ring
        self._first = 0  # of the ring, at the last catch_up
        self._end = 0  # how far the ring has been looked at

    def __len__(self) -> int:
        if self._predicate is None:
            return self._end - self._first
        return len(self._numbers) - self._start

    @property
    def is_behind(self) -> bool:
        """Whether there are messages not yet looked at."""
        return self._end < self._messages.end

    @property
    def end(self) -> int:
        """One past the number of the last message looked at."""
        return self._end

    def set_filter(self, predicate: Callable[[Message], bool] | None) -> None:
        """Show what passes `predicate` from now on; None: all. `sync` does the work."""
        self._predicate = predicate
        self._numbers, self._start = [], 0
        self._end = self._first = self._messages.first

    def sync(self) -> int:
        """Look at what has come since; returns how many lines were let go at the top."""
        messages = self._messages
        old_first = self._first
        self._first = messages.first
        if self._predicate is None:
            self._end = messages.end
            return self._first - old_first
        self._end = max(self._end, self._first)
        predicate, numbers = self._predicate, self._numbers
        for entry in messages.between(self._end, self._end + TESTS_PER_SYNC):
            if predicate(entry.message):
                numbers.append(entry.number)
            self._end = entry.number + 1
        first_kept = bisect_left(numbers, self._first, self._start)
        evicted, self._start = first_kept - self._start, first_kept
        if self._start > COMPACT_AFTER:
            del numbers[: self._start]
            self._start = 0
        return evicted

    def number_at(self, line: int) -> int | None:
        """The number of the message on `line`, None beyond the last."""
        if not 0 <= line < len(self):
            return None
        return self._first + line if self._predicate is None else self._numbers[self._start + line]

    def line_of(self, number: int) -> int:
        """The line of that message, or of the next one shown; one past the last where none is."""
        if self._predicate is None:
            return max(0, min(number, self._end) - self._first)
        return bisect_left(self._numbers, number, self._start) - self._start

    def entries(self) -> list[LogEntry]:
        """All that is shown, oldest first."""
        numbers = (self.number_at(line) for line in range(len(self)))
        entries = (self._messages.get(number) for number in numbers if number is not None)
        return [entry for entry in entries if entry is not None]
