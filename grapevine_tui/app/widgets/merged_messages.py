"""The latest messages of all contexts, merged by time.

Invariants:

- A filter is that of the log, with the fields ``context`` and ``cluster`` besides.
- A message is tested once, and about `TESTS_PER_SYNC` are per call, or those of `MAX_SYNC_S` and one context,
  so that no filter stalls the screen. A context whose cluster becomes known is filtered again.
- At most `limit` messages are listed, the newest; `match_count` counts all that match.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from grapevine_proto.events import Message
from grapevine_tui.app.widgets.message_filter import MAX_SYNC_S, TESTS_PER_SYNC, FilteredView
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.query import MATCH_ALL, Query, compile_filter, matches_row
from grapevine_tui.remote.fleet import FleetNode

NODE_FIELDS: Final = ("context", "cluster")


class ContextMessage(NamedTuple):
    """A message that one context knows."""

    node: FleetNode
    entry: LogEntry


class _ContextView:
    """The messages of one context that match a filter."""

    def __init__(self, node: FleetNode) -> None:
        self.node = node
        self.view = FilteredView(node.model.messages)
        self._query = MATCH_ALL
        self._cluster = (
            ""  # that the filter was applied to: a context has none before its first answer
        )

    def set_filter(self, query: Query) -> None:
        """Show only messages that match. The next calls of `sync` apply it."""
        self._query, self._cluster = query, self.node.cluster
        if not query:
            self.view.set_filter(None)
            return
        of_message = tuple(each for each in query.terms if each.field not in NODE_FIELDS)
        matches = compile_filter(query._replace(terms=of_message), self.node.model)
        self.view.set_filter(matches if self._can_match() else _nothing)

    def _can_match(self) -> bool:
        """Whether messages of this context can match."""
        terms = tuple(each for each in self._query.terms if each.field in NODE_FIELDS)
        fields = {"context": self.node.context.name.lower(), "cluster": self._cluster.lower()}
        return matches_row(Query("", terms), fields)

    def sync(self) -> int:
        """Examine what arrived since the last call; return how many messages were tested."""
        if self._query and self.node.cluster != self._cluster:
            self.set_filter(self._query)
        before = self.view.end
        self.view.sync()
        return self.view.end - before if self._query else 0

    def newest_first(self) -> Iterator[ContextMessage]:
        for line in range(len(self.view) - 1, -1, -1):
            number = self.view.number_at(line)
            entry = None if number is None else self.node.model.messages.get(number)
            if entry is not None:
                yield ContextMessage(self.node, entry)


class MergedMessages:
    """The messages of `nodes` that match a filter. `clock` returns monotonic seconds."""

    def __init__(
        self, nodes: Iterable[FleetNode], limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._contexts = [_ContextView(node) for node in nodes]
        self._turns = deque(self._contexts)  # first the one whose turn it is
        self.query = MATCH_ALL

    def set_filter(self, query: Query) -> None:
        """Show only messages that match. The next calls of `sync` apply it."""
        self.query = query
        for each in self._contexts:
            each.set_filter(query)

    def sync(self) -> None:
        """Examine what arrived since the last call, the contexts by turns."""
        left, deadline = TESTS_PER_SYNC, self._clock() + MAX_SYNC_S
        for _ in range(len(self._turns)):
            left -= self._turns[0].sync()
            self._turns.rotate(-1)
            if left <= 0 or (self.query and self._clock() > deadline):
                break

    @property
    def is_behind(self) -> bool:
        """Whether there are messages not yet examined."""
        return any(each.view.is_behind for each in self._contexts)

    @property
    def count(self) -> int:
        """The number of messages kept, matching or not."""
        return sum(len(each.node.model.messages) for each in self._contexts)

    @property
    def match_count(self) -> int:
        """The number of messages that match, as far as they were examined."""
        return sum(len(each.view) for each in self._contexts)

    def newest_first(self) -> list[ContextMessage]:
        """The newest messages that match."""
        merged = heapq.merge(
            *(each.newest_first() for each in self._contexts),
            key=lambda each: -each.entry.at_unix,
        )
        return list(islice(merged, self._limit))


def _nothing(_: Message) -> bool:
    return False
