"""The table of all members of the cluster, connected or not.

Invariants: a row is built only when its facts changed, and at most `ROWS_PER_PASS` per pass, so that
thousands of members stall neither the opening of the screen nor its refresh.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from textual.content import Content

from grapevine_proto.coordinate import RttSource
from grapevine_proto.events import MemberInfo, MemberStatus, PeerState
from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.columns import columns_of, field_cell
from grapevine_tui.app.widgets.format import format_latency
from grapevine_tui.app.widgets.grid import Cell, Column, Row
from grapevine_tui.app.widgets.peer_table import PeerGrid, address_sort_key
from grapevine_tui.app.widgets.status_glyphs import (
    STATE_GLYPHS,
    STATUS_ORDER,
    StatusGlyph,
    member_status,
)
from grapevine_tui.app.widgets.titles import TONE_COLORS, filter_status, format_title
from grapevine_tui.config.columns import MEMBER_DEFAULT
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import format_tags, parse_query
from grapevine_tui.text import printable

REFRESH_INTERVAL_S: Final = 0.5
ROWS_PER_PASS: Final = 500  # about 7 ms
NEXT_PASS_DELAY_S: Final = 0.01
COLUMN_SPECS: Final[Mapping[str, Column]] = {
    "status": Column("status", 9),
    "name": Column("name", 9, grow=3),
    "link": Column("link", 9, drop_rank=1),
    "rtt": Column("rtt", 7, is_right_aligned=True, drop_rank=2),
    "address": Column("address", 15, grow=1, drop_rank=2),
    "zone": Column("zone", 8, grow=1, drop_rank=3),
    "tags": Column("tags", 8, grow=2, drop_rank=6),
    "started": Column("started", 16, is_right_aligned=True, drop_rank=5),
    "id": Column("id", 8, drop_rank=4),
}


_Facts = tuple[MemberInfo, str, PeerState | None, StatusGlyph, str]


class MemberRowCache:
    """Builds the rows and caches those whose facts have not changed."""

    def __init__(self, model: Model, names: Sequence[str] = MEMBER_DEFAULT) -> None:
        self._model = model
        self._names = names
        self._cached: dict[PeerId, tuple[_Facts, Row]] = {}
        self.is_behind = False
        """Whether rows are missing or outdated after the last `build`."""

    def build(self, limit: int = ROWS_PER_PASS) -> list[Row]:
        """Return the rows by status and name; build at most `limit` new ones."""
        model, cached = self._model, self._cached
        updated = {}
        built = 0
        for peer_id, member in model.members.items():
            peer = model.peers.get(peer_id)
            state = peer.state if peer is not None else None
            status = member_status(model, member)
            facts = (member, model.name_of(peer_id), state, status, _format_rtt(member))
            existing = cached.get(peer_id)
            if existing is not None and (existing[0] == facts or built >= limit):
                updated[peer_id] = existing
            elif built < limit:
                updated[peer_id] = (facts, _member_row(*facts, self._names))
                built += 1
        self.is_behind = built >= limit
        self._cached = updated
        built_rows = sorted(updated.values(), key=lambda each: _order(each[0]))
        return [row for _, row in built_rows]


def _order(facts: _Facts) -> tuple[int, str]:
    """By status, then by name."""
    return STATUS_ORDER.index(facts[3]), facts[1].casefold()


def _format_start(epoch: int) -> str:
    """Return when the node started. Its epoch is that Unix time."""
    if not epoch:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(epoch))
    except (OverflowError, OSError, ValueError):  # the sender may have written any number
        return f"epoch {epoch}"


def _format_rtt(member: MemberInfo) -> str:
    """The round-trip time from this node; ``~`` marks an estimate."""
    if member.rtt is None or member.status is not MemberStatus.UP:
        return "-"
    mark = "~" if member.rtt.source is RttSource.ESTIMATED else ""
    return mark + format_latency(member.rtt.seconds)


def _member_row(
    member: MemberInfo,
    name: str,
    state: PeerState | None,
    status: StatusGlyph,
    rtt: str,
    names: Sequence[str],
) -> Row:
    glyph, label, tone = status
    is_connected = state is not None and state is not PeerState.DISCONNECTED
    link = STATE_GLYPHS[state] if state is not None and is_connected else None
    is_up = member.status is MemberStatus.UP
    text_tone = "text" if is_up else "dim"
    tags = printable(format_tags(member.tags))
    built: dict[str, tuple[Cell, Any]] = {
        "status": (Cell(f"{glyph} {label}", tone), STATUS_ORDER.index(status)),
        "name": (Cell(printable(name), "key" if is_up else "dim"), name.casefold()),
        "link": (
            Cell(f"{link.glyph} {link.label}" if link else "-", link.tone if link else "dim"),
            tuple(PeerState).index(state) if state is not None else len(PeerState),
        ),
        "rtt": (
            Cell(rtt, text_tone if rtt != "-" and rtt[0] != "~" else "dim"),
            member.rtt.seconds if member.rtt is not None and rtt != "-" else math.inf,
        ),
        "address": (
            Cell(printable(str(member.address)) if member.address else "-", text_tone),
            address_sort_key(member.address),
        ),
        "zone": (
            Cell(printable(member.zone) or "-", text_tone if member.zone else "dim"),
            member.zone.casefold(),
        ),
        "tags": (Cell(tags or "-", text_tone if tags else "dim"), tags.casefold()),
        "started": (Cell(_format_start(member.epoch), "dim"), member.epoch),
        "id": (Cell(member.peer_id.short, "dim"), member.peer_id),
    }
    found = [built[each] if each in built else field_cell(member.to_dict(), each) for each in names]
    return Row(
        member.peer_id,
        tuple(cell for cell, _ in found),
        sort_values=tuple(value for _, value in found),
    )


EMPTY_TEXT: Final = "No other members yet."


class MembersScreen(TableScreen):
    """All members in a table, with a filter. The cursor begins at the member `selected`."""

    FILTER_HINT = "words name:bob zone:eu tag:role=web status:down -not"

    def __init__(
        self,
        model: Model,
        filter_text: str = "",
        names: Sequence[str] = MEMBER_DEFAULT,
        selected: PeerId | None = None,
    ) -> None:
        columns = columns_of(names, COLUMN_SPECS, MEMBER_DEFAULT)
        table = PeerGrid(columns, empty=EMPTY_TEXT, id="members")
        table.is_denied = lambda peer_id: peer_id in model.denied
        if filter_text:
            table.set_filter(parse_query(filter_text))
        super().__init__("members", table)
        self._model = model
        self._row_cache = MemberRowCache(model, names)
        self._selected = selected  # until its row is built

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def set_columns(self, names: Sequence[str]) -> None:
        """Show these columns from now on."""
        columns = columns_of(names, COLUMN_SPECS, MEMBER_DEFAULT)
        self.table.set_columns(columns, empty=EMPTY_TEXT)
        self._row_cache = MemberRowCache(self._model, names)
        self.show()

    def show(self) -> None:
        """Show the current members."""
        self.table.set_rows(self._row_cache.build())
        if self._selected is not None and self.table.go_to_key(self._selected):
            self._selected = None
        self.update_title()
        if self._row_cache.is_behind:
            self.set_timer(NEXT_PASS_DELAY_S, self.show)

    def build_title(self) -> Content:
        members = self._model.members
        counts = Counter(member_status(self._model, member) for member in members.values())
        parts = [
            (f"{counts[each]:,} {each.label}", TONE_COLORS[each.tone])
            for each in STATUS_ORDER
            if counts[each]
        ]
        filtered = filter_status(self.table.filter_query, len(self.table.rows))
        return format_title(f"Members {len(members):,}", *parts, *filtered)
