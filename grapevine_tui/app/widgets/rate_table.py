"""Who may say how much, and who says how much: the rate limits by peer, or all that is heard by author.

What must stay true: a peer is limited by what it sends us, whoever wrote it; an author is nobody's to
limit but its own peers', so of authors there is only told how much they say.
"""

from __future__ import annotations

import time
from typing import ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.format import format_bytes, format_count
from grapevine_tui.app.widgets.grid import Cell, Column, Row
from grapevine_tui.app.widgets.peer_table import PeerGrid
from grapevine_tui.app.widgets.tables import (
    RATE_COLUMNS,
    filter_status,
    format_title,
    rate_rows,
    rate_title,
)
from grapevine_tui.config.keymap import RATE_KEYS
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable

NO_PEERS_TEXT: Final = "No peers yet."
NO_MESSAGES_TEXT: Final = "No messages yet."
AUTHOR_COLUMNS: Final = (
    Column("author", 9, grow=1),
    Column("", 6, grow=3, drop_rank=3),
    Column("share", 5, is_right_aligned=True, drop_rank=2),
    Column("msgs", 5, is_right_aligned=True),
    Column("/s", 5, is_right_aligned=True),
    Column("repair", 6, is_right_aligned=True, drop_rank=4),
    Column("bytes", 7, is_right_aligned=True, drop_rank=1),
)
MAX_AUTHOR_ROWS: Final = 200  # of the authors, the busiest


def author_rows(model: Model) -> list[Row]:
    """Those who say most now, then those who have said most."""
    authors = sorted(
        model.authors.all().items(), key=lambda each: (-each[1].per_s, -each[1].messages, each[0])
    )
    total = sum(author.messages for _, author in authors) or 1
    rows = []
    for peer_id, author in authors[:MAX_AUTHOR_ROWS]:
        name, share = model.name_of(peer_id), author.messages / total
        cells = (
            Cell(printable(name), "key"),
            Cell("", "accent", fraction=share),
            Cell(f"{share:.0%}", "dim"),
            Cell(format_count(author.messages), "text"),
            Cell(format_count(author.per_s), "text" if author.per_s else "dim"),
            Cell(format_count(author.repaired), "warn" if author.repaired else "dim"),
            Cell(format_bytes(author.bytes), "dim"),
        )
        order = (
            *(name.casefold(), share, share, author.messages),
            *(author.per_s, author.repaired, author.bytes),
        )
        rows.append(Row(peer_id, cells, sort_values=order))
    return rows


def author_title(model: Model, filtered: list[tuple[str, str]]) -> Content:
    authors = model.authors
    evicted = [(f"{authors.evicted:,} evicted", "$text-muted")] if authors.evicted else []
    return format_title(
        "Rate limits",
        (f"{len(authors):,} author{'s' * (len(authors) != 1)}", "$accent"),
        *evicted,
        *filtered,
    )


class RateGrid(PeerGrid):
    """`a` turns it over."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(RATE_KEYS)

    class ModeChanged(Message):
        """It shows the other side now, and has no rows yet."""

    def __init__(self, model: Model, *, id: str) -> None:
        super().__init__(RATE_COLUMNS, empty=NO_PEERS_TEXT, id=id)
        self._model = model
        self.is_by_author = False

    def update_rows(self) -> None:
        """Show the model as it is now."""
        model = self._model
        self.set_rows(author_rows(model) if self.is_by_author else rate_rows(model, time.time()))

    def panel_title(self) -> Content:
        filtered = filter_status(self.filter_query, len(self.rows))
        build = author_title if self.is_by_author else rate_title
        return build(self._model, filtered)

    def key_label(self, action: str) -> str:
        """What a key does now."""
        if action == "authors":
            return "By peer" if self.is_by_author else "By author"
        return super().key_label(action)

    def action_authors(self) -> None:
        """By author, or by peer again."""
        self.is_by_author = not self.is_by_author
        if self.is_by_author:
            self.set_columns(AUTHOR_COLUMNS, empty=NO_MESSAGES_TEXT)
        else:
            self.set_columns(RATE_COLUMNS, empty=NO_PEERS_TEXT)
        self.refresh_bindings()
        self.post_message(self.ModeChanged())
