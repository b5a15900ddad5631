"""The queries screen: what was asked in this app, and the answers, equal ones together.

Invariants: the facts are of the query on screen and follow it while it runs; all texts are printable.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.format import format_duration
from grapevine_tui.config.keymap import NEW_QUERY_KEYS, TRACE_KEYS
from grapevine_tui.control.answers import answer_summary, group_answers
from grapevine_tui.host.model import Model, QueryEntry
from grapevine_tui.text import printable

EMPTY_TEXT: Final = "No queries yet. Press + and type a NAME to ask all members."


def query_outcome(entry: QueryEntry) -> str:
    """One line: how many members answered, or why none did."""
    if entry.reply is None:
        return entry.error or "waiting for answers"
    return answer_summary(entry.reply)


def query_facts(model: Model, entry: QueryEntry) -> list[Fact]:
    """Return a query and the answers to it: equal ones together, then the members without one."""
    ago = format_duration(time.time() - entry.at_unix)
    tone = "warn" if entry.error else "text"
    found = [
        Fact("asked", f"{printable(entry.line)}, {ago} ago"),
        Fact("outcome", printable(query_outcome(entry)), tone),
    ]
    return found if entry.reply is None else found + answer_facts(model, entry.reply)


def answer_facts(model: Model, reply: Mapping[str, Any]) -> list[Fact]:
    """Return a group of lines for each different answer, then the members without one."""
    found: list[Fact] = []
    for group in group_answers(reply["answers"]):
        count = len(group.peer_ids)
        heading = f"{count:,} {'member' if count == 1 else 'members'}"
        tone = "text" if group.status == "answered" else "warn"
        found += [
            Fact(heading, ""),
            Fact("answer", group.text, tone),
            Fact("from", _names(model, group.peer_ids)),
        ]
    if reply["unanswered"]:
        found += [Fact("no answer", ""), Fact("from", _names(model, reply["unanswered"]), "warn")]
    return found


def _names(model: Model, peer_ids: list[str]) -> str:
    return ", ".join(sorted(printable(model.name_of(PeerId.parse(each))) for each in peer_ids))


class QueriesScreen(DetailScreen):
    """Shows the latest query; keys switch to older ones."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(NEW_QUERY_KEYS, TRACE_KEYS)

    class NewQueryRequested(Message):
        """Begin a new query."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._queries_back = 0  # 0 is the latest query
        super().__init__("Query", self._current_facts, kind="queries")

    def _current_facts(self) -> list[Fact]:
        queries = self._model.queries
        if not queries:
            return [Fact("", EMPTY_TEXT)]
        return query_facts(self._model, queries[-1 - self._queries_back])

    def show(self) -> None:
        count = len(self._model.queries)
        position = f"{count - self._queries_back} of {count}" if count > 1 else ""
        self.sheet.border_subtitle = Content(position)
        super().show()

    def action_older(self, by: int) -> None:
        """Go `by` queries back; a negative number goes towards the latest."""
        self._queries_back = max(0, min(self._queries_back + by, len(self._model.queries) - 1))
        self.sheet.scroll_home(animate=False)
        self.show()

    def action_query(self) -> None:
        self.post_message(self.NewQueryRequested())
