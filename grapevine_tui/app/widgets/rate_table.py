"""The rate-limit table, by peer or by author.

Invariants: a rate limit applies to the peer that sends a message, not to the message's author. Rows by
author therefore show traffic and no limit.
"""

from __future__ import annotations

from typing import ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_proto.events import (
    PeerInfo,
)
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.format import format_bytes, format_count
from grapevine_tui.app.widgets.grid import Cell, Column, Row
from grapevine_tui.app.widgets.peer_table import PeerGrid
from grapevine_tui.app.widgets.titles import filter_status, format_title
from grapevine_tui.config.keymap import RATE_KEYS
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable

FLASH_S: Final = 1.5  # how long the row of a throttled peer is highlighted
RATE_COLUMNS: Final = (
    Column("peer", 9, grow=1),
    Column("", 8, grow=3, drop_rank=2),
    Column("tokens", 8, is_right_aligned=True),
    Column("allowed", 8, is_right_aligned=True, drop_rank=1),
    Column("throttled", 9, is_right_aligned=True),
)


def rate_rows(model: Model, wall_now: float) -> list[Row]:
    """Return a row per connected peer with a rate limit, most throttled first."""
    peers = sorted(
        (peer for peer in model.peers.values() if peer.tokens_capacity > 0),
        key=lambda peer: (-peer.throttled, model.name_of(peer.peer_id), peer.peer_id),
    )
    return [_rate_row(model, peer, wall_now) for peer in peers]


def _rate_row(model: Model, peer: PeerInfo, wall_now: float) -> Row:
    fraction = peer.tokens / peer.tokens_capacity
    tone = "good" if fraction > 0.5 else "warn" if fraction > 0.2 else "bad"
    throttled_at = model.throttled_at.get(peer.peer_id)
    is_flashing = throttled_at is not None and wall_now - throttled_at < FLASH_S
    usage = f"{format_count(int(peer.tokens))}/{format_count(peer.tokens_capacity)}"
    is_connected = peer.state.is_connected
    tone = tone if is_connected else "dim"
    return Row(
        peer.peer_id,
        (
            Cell(printable(model.name_of(peer.peer_id)), "key" if is_connected else "dim"),
            Cell("", tone, fraction=fraction),
            Cell(usage, tone),
            Cell(_format_grouped(peer.allowed), "dim"),
            Cell(_format_grouped(peer.throttled), "bad" if peer.throttled else "dim"),
        ),
        is_alarm=is_flashing,
        sort_values=(
            model.name_of(peer.peer_id).casefold(),
            fraction,
            peer.tokens,
            peer.allowed,
            peer.throttled,
        ),
    )


def _format_grouped(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else format_count(count)


def rate_title(model: Model, filtered: list[tuple[str, str]]) -> Content:
    throttled = sum(peer.throttled for peer in model.peers.values())
    tone = "$error" if throttled else "$text-muted"
    return format_title("Rate limits", (f"{throttled:,} throttled", tone), *filtered)


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
MAX_AUTHOR_ROWS: Final = 200  # the busiest authors


def author_rows(model: Model) -> list[Row]:
    """Return a row per author, sorted by current rate, then by total."""
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
    """The rate-limit table; the `authors` key switches between rows by peer and by author."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(RATE_KEYS)

    class ModeChanged(Message):
        """The columns changed; the grid is empty until `update_rows`."""

    def __init__(self, model: Model, *, id: str) -> None:
        super().__init__(RATE_COLUMNS, empty=NO_PEERS_TEXT, id=id)
        self._model = model
        self.is_by_author = False

    def update_rows(self) -> None:
        """Show the current state of the model."""
        model = self._model
        self.set_rows(
            author_rows(model) if self.is_by_author else rate_rows(model, model.wall_now())
        )

    def panel_title(self) -> Content:
        filtered = filter_status(self.filter_query, len(self.rows))
        build = author_title if self.is_by_author else rate_title
        return build(self._model, filtered)

    def key_label(self, action: str) -> str:
        """Return the label of the `authors` key: the mode it switches to."""
        if action == "authors":
            return "By peer" if self.is_by_author else "By author"
        return super().key_label(action)

    def action_authors(self) -> None:
        """Switch between rows by peer and by author."""
        self.is_by_author = not self.is_by_author
        if self.is_by_author:
            self.set_columns(AUTHOR_COLUMNS, empty=NO_MESSAGES_TEXT)
        else:
            self.set_columns(RATE_COLUMNS, empty=NO_PEERS_TEXT)
        self.refresh_bindings()
        self.post_message(self.ModeChanged())
