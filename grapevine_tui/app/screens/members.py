"""The table of all members of the cluster, connected or not.

Invariants: a row is built only when its facts changed, and at most `ROWS_PER_PASS` per pass, so that
thousands of members stall neither the opening of the screen nor its refresh.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Final

from textual.content import Content

from grapevine_proto.coordinate import RttSource
from grapevine_proto.events import MemberInfo, MemberStatus, PeerState
from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.table import TableScreen
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
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import format_tags, parse_query
from grapevine_tui.text import printable

REFRESH_INTERVAL_S: Final = 0.5
ROWS_PER_PASS: Final = 500  # about 7 ms
NEXT_PASS_DELAY_S: Final = 0.01
COLUMNS: Final = (
    Column("status", 9),
    Column("name", 9, grow=3),
    Column("link", 9, drop_rank=1),
    Column("rtt", 7, is_right_aligned=True, drop_rank=2),
    Column("address", 15, grow=1, drop_rank=2),
    Column("zone", 8, grow=1, drop_rank=3),
    Column("tags", 8, grow=2, drop_rank=6),
    Column("started", 16, is_right_aligned=True, drop_rank=5),
    Column("id", 8, drop_rank=4),
)


class MemberRowCache:
    """Builds the rows and caches those whose facts have not changed."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cached: dict[
            PeerId, tuple[tuple[MemberInfo, str, PeerState | None, StatusGlyph, str], Row]
        ] = {}
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
                updated[peer_id] = (facts, _member_row(*facts))
                built += 1
        self.is_behind = built >= limit
        self._cached = updated
        return sorted((row for _, row in updated.values()), key=lambda row: row.sort_values[:2])


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
    member: MemberInfo, name: str, state: PeerState | None, status: StatusGlyph, rtt: str
) -> Row:
    glyph, label, tone = status
    is_connected = state is not None and state is not PeerState.DISCONNECTED
    link = STATE_GLYPHS[state] if state is not None and is_connected else None
    is_up = member.status is MemberStatus.UP
    text_tone = "text" if is_up else "dim"
    tags = printable(format_tags(member.tags))
    return Row(
        member.peer_id,
        (
            Cell(f"{glyph} {label}", tone),
            Cell(printable(name), "key" if is_up else "dim"),
            Cell(f"{link.glyph} {link.label}" if link else "-", link.tone if link else "dim"),
            Cell(rtt, text_tone if rtt != "-" and rtt[0] != "~" else "dim"),
            Cell(printable(str(member.address)) if member.address else "-", text_tone),
            Cell(printable(member.zone) or "-", text_tone if member.zone else "dim"),
            Cell(tags or "-", text_tone if tags else "dim"),
            Cell(_format_start(member.epoch), "dim"),
            Cell(member.peer_id.short, "dim"),
        ),
        sort_values=(
            STATUS_ORDER.index(status),
            name.casefold(),
            tuple(PeerState).index(state) if state is not None else len(PeerState),
            member.rtt.seconds if member.rtt is not None and rtt != "-" else math.inf,
            address_sort_key(member.address),
            member.zone.casefold(),
            tags.casefold(),
            member.epoch,
            member.peer_id,
        ),
    )


class MembersScreen(TableScreen):
    """All members in a table, with a filter."""

    FILTER_HINT = "words name:bob zone:eu tag:role=web status:down -not"

    def __init__(self, model: Model, filter_text: str = "") -> None:
        table = PeerGrid(COLUMNS, empty="No other members yet.", id="members")
        table.is_denied = lambda peer_id: peer_id in model.denied
        if filter_text:
            table.set_filter(parse_query(filter_text))
        super().__init__("members", table)
        self._model = model
        self._row_cache = MemberRowCache(model)

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        """Show the current members."""
        self.table.set_rows(self._row_cache.build())
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
