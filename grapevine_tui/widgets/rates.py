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

from grapevine_tui.keys import RATES
from grapevine_tui.model import Model
from grapevine_tui.text import printable
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.grid import Cell, Column, Row
from grapevine_tui.widgets.look import bytes_words, count_words
from grapevine_tui.widgets.peers import PeerGrid
from grapevine_tui.widgets.tables import RATE_COLUMNS, filter_part, rate_rows, rate_title, title

EMPTY: Final = "No peer, nothing to limit."
SILENT: Final = "Nobody has said anything yet."
AUTHOR_COLUMNS: Final = (
    Column("author", 9, grows=1),
    Column("", 6, grows=3, rank=3),
    Column("share", 5, right=True, rank=2),
    Column("said", 5, right=True),
    Column("/s", 5, right=True),
    Column("repair", 6, right=True, rank=4),
    Column("bytes", 7, right=True, rank=1),
)
SHOWN: Final = 200  # of the authors, the busiest


def author_rows(model: Model) -> list[Row]:
    """Those who say most now, then those who have said most."""
    authors = sorted(
        model.authors.all().items(), key=lambda each: (-each[1].per_s, -each[1].messages, each[0])
    )
    total = sum(author.messages for _, author in authors) or 1
    rows = []
    for peer_id, author in authors[:SHOWN]:
        name, share = model.name_of(peer_id), author.messages / total
        cells = (
            Cell(printable(name), "key"),
            Cell("", "accent", fraction=share),
            Cell(f"{share:.0%}", "dim"),
            Cell(count_words(author.messages), "text"),
            Cell(count_words(author.per_s), "text" if author.per_s else "dim"),
            Cell(count_words(author.repaired), "warn" if author.repaired else "dim"),
            Cell(bytes_words(author.bytes), "dim"),
        )
        order = (
            *(name.casefold(), share, share, author.messages),
            *(author.per_s, author.repaired, author.bytes),
        )
        rows.append(Row(peer_id, cells, order=order))
    return rows


def author_title(model: Model, filtered: list[tuple[str, str]]) -> Content:
    authors = model.authors
    let_go = [(f"{authors.let_go:,} let go", "$text-muted")] if authors.let_go else []
    return title(
        "Rate limits",
        (f"{len(authors):,} author{'s' * (len(authors) != 1)}", "$accent"),
        *let_go,
        *filtered,
    )


class RateGrid(PeerGrid):
    """`a` turns it over."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(RATES)

    class Turned(Message):
        """It shows the other side now, and has no rows yet."""

    def __init__(self, model: Model, *, name_in_dom: str) -> None:
        super().__init__(RATE_COLUMNS, empty=EMPTY, name_in_dom=name_in_dom)
        self._model = model
        self.is_by_author = False

    def take(self) -> None:
        """Show the model as it is now."""
        model = self._model
        self.show(author_rows(model) if self.is_by_author else rate_rows(model, time.time()))

    def make_title(self) -> Content:
        filtered = filter_part(self.wanted, len(self.rows))
        make = author_title if self.is_by_author else rate_title
        return make(self._model, filtered)

    def key_words(self, action: str) -> str:
        """What a key does now."""
        if action == "authors":
            return "By peer" if self.is_by_author else "By author"
        return super().key_words(action)

    def action_authors(self) -> None:
        """By author, or by peer again."""
        self.is_by_author = not self.is_by_author
        if self.is_by_author:
            self.head(AUTHOR_COLUMNS, empty=SILENT)
        else:
            self.head(RATE_COLUMNS, empty=EMPTY)
        self.refresh_bindings()
        self.post_message(self.Turned())
