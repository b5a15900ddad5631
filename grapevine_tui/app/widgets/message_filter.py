"""The filtered view of the message buffer: which message is on which line.

Invariants:

- A message is tested once, when it arrives or when the filter changes, and at most `TESTS_PER_SYNC` per
  call or for `MAX_SYNC_S`, so that neither a full buffer nor a slow filter stalls the screen.
- Lines refer to messages by number; messages evicted from the buffer leave the view as well.

The message log calls `sync` at most ten times a second, and again soon while `is_behind`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from grapevine_proto.events import Message
from grapevine_tui.host.message_buffer import LogEntry, MessageBuffer

TESTS_PER_SYNC: Final = 4_000  # about 5 ms for words
MAX_SYNC_S: Final = 0.01
COMPACT_AFTER: Final = 4_096  # evicted numbers before the list is compacted


class FilteredView:
    """The messages of a buffer that match the filter. Lines count from 0, oldest first."""

    def __init__(
        self, messages: MessageBuffer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._predicate: Callable[[Message], bool] | None = None
        self._numbers: list[int] = []  # of matching messages; unused without a filter
        self._start = 0  # index in `_numbers` of the first message not evicted
        self._first = 0  # the buffer's first number at the last `sync`
        self._end = 0  # one past the last number examined

    def __len__(self) -> int:
        if self._predicate is None:
            return self._end - self._first
        return len(self._numbers) - self._start

    @property
    def is_behind(self) -> bool:
        """Whether the buffer has messages not yet examined."""
        return self._end < self._messages.end

    @property
    def end(self) -> int:
        """One past the number of the last message examined."""
        return self._end

    def set_filter(self, predicate: Callable[[Message], bool] | None) -> None:
        """Show messages that match `predicate`, or all if None. The next `sync` applies it."""
        self._predicate = predicate
        self._numbers, self._start = [], 0
        self._end = self._first = self._messages.first

    def sync(self) -> int:
        """Examine new messages; return how many lines were evicted at the top."""
        messages = self._messages
        old_first = self._first
        self._first = messages.first
        if self._predicate is None:
            self._end = messages.end
            return self._first - old_first
        self._end = max(self._end, self._first)
        predicate, numbers = self._predicate, self._numbers
        clock, deadline = self._clock, self._clock() + MAX_SYNC_S
        for entry in messages.between(self._end, self._end + TESTS_PER_SYNC):
            if predicate(entry.message):
                numbers.append(entry.number)
            self._end = entry.number + 1
            if clock() > deadline:
                break
        first_kept = bisect_left(numbers, self._first, self._start)
        evicted, self._start = first_kept - self._start, first_kept
        if self._start > COMPACT_AFTER:
            del numbers[: self._start]
            self._start = 0
        return evicted

    def number_at(self, line: int) -> int | None:
        """Return the number of the message on `line`, or None out of range."""
        if not 0 <= line < len(self):
            return None
        return self._first + line if self._predicate is None else self._numbers[self._start + line]

    def line_of(self, number: int) -> int:
        """Return the line of that message or of the next one shown; one past the last if there is none."""
        if self._predicate is None:
            return max(0, min(number, self._end) - self._first)
        return bisect_left(self._numbers, number, self._start) - self._start

    def entries(self) -> list[LogEntry]:
        """Return all shown messages, oldest first."""
        numbers = (self.number_at(line) for line in range(len(self)))
        entries = (self._messages.get(number) for number in numbers if number is not None)
        return [entry for entry in entries if entry is not None]
