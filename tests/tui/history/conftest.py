"""A history in a temporary directory, with a clock that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grapevine_tui.history.database import HISTORY_FILE
from grapevine_tui.history.records import StoredEvent, StoredMessage, to_key
from grapevine_tui.history.search import NEWEST, Page, Place, search_events, search_messages
from grapevine_tui.history.terms import parse_query
from grapevine_tui.history.writer import HistoryWriter, Limits, NewMessage
from tests.tui.values import a_message

ROOMY = Limits(2**30, 30.0)
NOW = 1_790_000_000.0
PATIENCE_S = 60.0  # a busy machine


class Bookshelf:
    """A writer and what is found in its file."""

    def __init__(self, path: Path, limits: Limits = ROOMY) -> None:
        self.path = path
        self.limits = limits
        self.now = NOW
        self.problems: list[str] = []
        self.writer = self.opened()

    def opened(self) -> HistoryWriter:
        return HistoryWriter(self.path, self.limits, self.problems.append, clock=lambda: self.now)

    def add(
        self, text: str | bytes = "hello", *, at: float | None = None, **changes: Any
    ) -> NewMessage:
        """Put a message of `origin` at the time `at`."""
        origin, name = changes.pop("origin", 1), changes.pop("name", "")
        payload = text if isinstance(text, bytes) else text.encode()
        sequence = changes.pop("sequence", self.writer._rows_in + 1)
        message = a_message(origin, sequence, payload, **changes)
        row = NewMessage(to_key(self.now if at is None else at), message, name, "")
        assert self.writer.put(row)
        return row

    def happen(self, text: str, *, at: float | None = None, **changes: Any) -> None:
        key = to_key(self.now if at is None else at)
        assert self.writer.put(
            StoredEvent(key, changes.pop("kind", "peer"), "info", text, **changes)
        )

    def flush(self) -> None:
        self.writer.flush(PATIENCE_S)

    def search(self, words: str = "", place: Place = NEWEST, limit: int = 200) -> Page:
        self.flush()
        return search_messages(self.path, parse_query(words), place, limit)

    def texts(self, words: str = "", place: Place = NEWEST, limit: int = 200) -> list[str]:
        return [each.message.payload.decode() for each in self.search(words, place, limit).rows]

    def events(self, words: str = "", place: Place = NEWEST, limit: int = 200) -> list[str]:
        self.flush()
        return [
            each.text for each in search_events(self.path, parse_query(words), place, limit).rows
        ]

    def rows(self) -> list[StoredMessage]:
        return self.search(limit=1_000).rows

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in the writer's thread, on its connection."""
        found: list[tuple[Any, ...]] = self.writer.run(
            lambda _, connection: connection.execute(statement).fetchall(), PATIENCE_S
        )
        return found

    def prune(self) -> int:
        count: int = self.writer.run(lambda writer, _: writer.table.prune(), PATIENCE_S)
        return count

    def close(self) -> None:
        assert self.writer.close(PATIENCE_S)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Bookshelf]:
    made = Bookshelf(tmp_path / HISTORY_FILE)
    yield made
    made.writer.close(PATIENCE_S)
