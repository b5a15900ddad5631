"""The latest messages of all contexts, merged by time.

Invariants:

- A filter is that of the log, with the fields ``context`` and ``cluster`` besides.
- A message is tested once, and about `TESTS_PER_SYNC` are per call, so that no filter stalls the screen.
- At most `limit` messages are listed, the newest; `match_count` counts all that match.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from grapevine_proto.events import Message
from grapevine_tui.app.widgets.message_filter import TESTS_PER_SYNC, FilteredView
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.query import MATCH_ALL, Query, compile_filter, matches_row
from grapevine_tui.remote.fleet import FleetNode

NODE_FIELDS: Final = ("context", "cluster")


class ContextMessage(NamedTuple):
    """A message that one context knows."""

    node: FleetNode
    entry: LogEntry


class MergedMessages:
    """The messages of `nodes` that match a filter."""

    def __init__(self, nodes: Iterable[FleetNode], limit: int) -> None:
        self._limit = limit
        self._views = [(node, FilteredView(node.model.messages)) for node in nodes]
        self.query = MATCH_ALL

    def set_filter(self, query: Query) -> None:
        """Show only messages that match. The next calls of `sync` apply it."""
        self.query = query
        of_message = tuple(each for each in query.terms if each.field not in NODE_FIELDS)
        for node, view in self._views:
            matches = compile_filter(query._replace(terms=of_message), node.model)
            view.set_filter(matches if self._is_of(node) else _nothing)
            if not query:
                view.set_filter(None)

    def _is_of(self, node: FleetNode) -> bool:
        """Whether messages of that context can match."""
        terms = tuple(each for each in self.query.terms if each.field in NODE_FIELDS)
        fields = {"context": node.context.name.lower(), "cluster": node.cluster.lower()}
        return matches_row(Query("", terms), fields)

    def sync(self) -> None:
        """Examine what arrived since the last call."""
        left = TESTS_PER_SYNC
        for _, view in self._views:
            before = view.end
            view.sync()
            left -= (view.end - before) if self.query else 0
            if left <= 0:
                break

    @property
    def is_behind(self) -> bool:
        """Whether there are messages not yet examined."""
        return any(view.is_behind for _, view in self._views)

    @property
    def count(self) -> int:
        """The number of messages kept, matching or not."""
        return sum(len(node.model.messages) for node, _ in self._views)

    @property
    def match_count(self) -> int:
        return sum(len(view) for _, view in self._views)

    def newest_first(self) -> list[ContextMessage]:
        """The newest messages that match."""
        merged = heapq.merge(
            *(self._of_view(node, view) for node, view in self._views),
            key=lambda each: -each.entry.at_unix,
        )
        return list(islice(merged, self._limit))

    def _of_view(self, node: FleetNode, view: FilteredView) -> Iterator[ContextMessage]:
        for line in range(len(view) - 1, -1, -1):
            number = view.number_at(line)
            entry = None if number is None else node.model.messages.get(number)
            if entry is not None:
                yield ContextMessage(node, entry)


def _nothing(_: Message) -> bool:
    return False
