"""Which messages, and which rows of the past, stand out, and how.

Invariants:

- The first highlight that matches decides. A row is tested once while the highlights stay as they are.
- Testing takes at most `BUDGET_S` of each `BUDGET_INTERVAL_S`, whatever the expressions are: what is not
  tested is shown plain, and `is_behind` says that another look is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Final, NamedTuple

from grapevine_proto.events import Message
from grapevine_tui.app.past_rows import JsonRow, compile_past_filter
from grapevine_tui.app.widgets.line_widget import Mark
from grapevine_tui.config.highlights import Highlight
from grapevine_tui.filter_syntax import EVENT_FIELDS, MESSAGE_FIELDS
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import compile_filter

BUDGET_S: Final = 0.01
BUDGET_INTERVAL_S: Final = 0.1
MAX_REMEMBERED: Final = 4_096


class _Tests(NamedTuple):
    """What is tested for each mark, and what it was found to be, by key."""

    marks: list[tuple[Mark, Callable[..., bool]]]
    found: dict[Hashable, Mark | None]


class Highlighter:
    """The marks of messages in memory and of rows of the past. `model` names their authors."""

    def __init__(
        self,
        model: Model,
        highlights: Iterable[Highlight] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._clock = clock
        self._interval_began_at = clock()
        self._spent_s = 0.0
        self.is_behind = False
        """Whether something was shown plain for lack of time."""
        self.highlights: dict[str, Highlight] = {}
        self.replace(highlights)

    def replace(self, highlights: Iterable[Highlight]) -> None:
        """Show these highlights and no others."""
        self.highlights = {each.name: each for each in highlights}
        marks = [(Mark(each.sign, each.style), each) for each in self.highlights.values()]
        self._of_messages = _Tests(
            [
                (mark, compile_filter(each.query, self._model))
                for mark, each in marks
                if each.has_only(MESSAGE_FIELDS)
            ],
            {},
        )
        self._of_past = {
            kind: _Tests(
                [
                    (mark, compile_past_filter(kind, each.query))
                    for mark, each in marks
                    if each.has_only(fields)
                ],
                {},
            )
            for kind, fields in (("messages", MESSAGE_FIELDS), ("events", EVENT_FIELDS))
        }

    def mark_of_message(self, number: int, message: Message) -> Mark | None:
        """The mark of the message with that number in the log."""
        return self._mark(self._of_messages, number, message)

    def mark_of_row(self, kind: str, row: JsonRow) -> Mark | None:
        """The mark of a row of the past, of ``messages`` or ``events``."""
        return self._mark(self._of_past[kind], row["key"], row)

    def _mark(self, tests: _Tests, key: Hashable, value: object) -> Mark | None:
        if not tests.marks:
            return None
        if key in tests.found:
            return tests.found[key]
        began_at = self._clock()
        if began_at - self._interval_began_at >= BUDGET_INTERVAL_S:
            self._interval_began_at, self._spent_s = began_at, 0.0
        if self._spent_s >= BUDGET_S:
            self.is_behind = True
            return None
        mark = next((mark for mark, matches in tests.marks if matches(value)), None)
        self._spent_s += self._clock() - began_at
        if len(tests.found) >= MAX_REMEMBERED:
            tests.found.clear()
        tests.found[key] = mark
        return mark
