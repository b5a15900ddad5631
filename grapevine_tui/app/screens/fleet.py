"""Screens over several contexts: one row for each, and two views of the members side by side.

Invariants:

- A row that is not of now is dimmed and says as of when it was so.
- Whatever comes from a node is printable and shown as text.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.charts import braille_graph
from grapevine_tui.app.widgets.format import format_count, format_duration, format_latency
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.status_glyphs import (
    DIALING,
    DOWN,
    LEFT,
    STALE,
    SUSPECT,
    UP,
    StatusGlyph,
)
from grapevine_tui.app.widgets.titles import TONE_COLORS, filter_status, format_title
from grapevine_tui.config.keymap import FLEET_KEYS
from grapevine_tui.remote.fleet import (
    CONNECTING,
    HIGH_LAG_S,
    HIGH_LOSS,
    LOST,
    SILENT,
    STATES,
    UNKNOWN,
    Fleet,
    FleetNode,
    FleetRow,
    MemberViews,
    compare_views,
)
from grapevine_tui.remote.fleet import UP as UP_STATE
from grapevine_tui.text import printable

REFRESH_INTERVAL_S: Final = 0.5
TREND_CELLS: Final = 8
MAX_NUMBERED: Final = 9  # contexts that a digit selects
NO_VALUE: Final = "-"
STATE_GLYPHS: Final = {
    UP_STATE: UP,
    CONNECTING: DIALING,
    SILENT: STALE,
    LOST: DOWN._replace(label="lost"),
}
FLEET_COLUMNS: Final = (
    Column("", 1, is_right_aligned=True),
    Column("context", 14, grow=2),
    Column("state", 9),
    Column("up", 4, is_right_aligned=True),
    Column("suspect", 7, is_right_aligned=True, drop_rank=3),
    Column("down", 4, is_right_aligned=True),
    Column("msg/s", 5, is_right_aligned=True, drop_rank=1),
    Column("trend", TREND_CELLS, drop_rank=7),
    Column("loss", 5, is_right_aligned=True, drop_rank=4),
    Column("lag", 6, is_right_aligned=True, drop_rank=5),
    Column("unacked", 7, is_right_aligned=True, drop_rank=6),
    Column("last event", 20, grow=4, drop_rank=2),
)
STATUS_GLYPHS: Final = {
    "up": UP,
    "suspect": SUSPECT,
    "down": DOWN,
    "left": LEFT,
    UNKNOWN: StatusGlyph("?", UNKNOWN, "dim"),
}


def fleet_row(row: FleetRow, number: int, now_unix: float) -> Row:
    """Return the row of a context; `number` is the digit that selects it, 0 for none."""
    glyph = STATE_GLYPHS[row.state]
    is_current = row.state == UP_STATE

    def cell(text: str, tone: str = "text") -> Cell:
        return Cell(text, tone if is_current else "dim")

    is_known = bool(row.up)
    event, event_tone = _event_text(row, now_unix)
    mark = " (r/o)" * row.is_readonly + " muted" * row.is_muted
    loss = NO_VALUE if row.loss is None else f"{row.loss * 100:.1f}%"
    counts = (
        cell(f"{row.up:,}", "good"),
        cell(f"{row.suspect:,}", "warn" if row.suspect else "dim"),
        cell(f"{row.down:,}", "bad" if row.down else "dim"),
        cell(format_count(row.messages_per_s)),
        cell(braille_graph(row.trend, TREND_CELLS, 1)[0], "accent"),
        cell(loss, "warn" if row.loss is not None and row.loss > HIGH_LOSS else "text"),
        cell(format_latency(row.lag_s), "bad" if row.lag_s > HIGH_LAG_S else "text"),
        cell(format_count(row.unacknowledged), "warn" if row.unacknowledged else "dim"),
    )
    return Row(
        row.name,
        (
            Cell(str(number) if number else "", "dim"),
            Cell(f"{row.name}{mark}", "key" if is_current else "dim"),
            Cell(f"{glyph.glyph} {glyph.label}", glyph.tone),
            *(counts if is_known else [cell(NO_VALUE, "dim")] * len(counts)),
            Cell(event, event_tone if is_current else "dim"),
        ),
        is_alarm=is_current and bool(row.alerts),
        sort_values=(
            number or None,
            row.name.casefold(),
            STATES.index(row.state),
            row.up if is_known else None,
            row.suspect if is_known else None,
            row.down if is_known else None,
            row.messages_per_s if is_known else None,
            row.messages_per_s if is_known else None,
            row.loss,
            row.lag_s if is_known else None,
            row.unacknowledged if is_known else None,
            -row.last_event_at,
        ),
    )


def _event_text(row: FleetRow, now_unix: float) -> tuple[str, str]:
    """Return the last event and how long ago, or as of when the row is and why."""
    if row.as_of:
        clock = time.strftime("%H:%M:%S", time.localtime(row.as_of))
        age = format_duration(now_unix - row.as_of)
        return f"as of {clock}, {age} ago: {row.reason}", "dim"
    if row.state != UP_STATE:
        return row.reason or row.place, "dim"
    if not row.last_event:
        return NO_VALUE, "dim"
    text = f"{format_duration(now_unix - row.last_event_at)} ago: {row.last_event}"
    if row.alerts:
        return f"! {', '.join(row.alerts)} · {text}", "bad"
    return text, "text"


class FleetScreen(TableScreen):
    """All contexts, worst first. Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(FLEET_KEYS)
    FILTER_HINT = "words context:eu state:lost -not"

    class CompareRequested(Message):
        """The views of two contexts are to be compared."""

        def __init__(self, first: str, second: str) -> None:
            super().__init__()
            self.first = first
            self.second = second

    def __init__(self, fleet: Fleet) -> None:
        grid = Grid(FLEET_COLUMNS, empty="No contexts.", id="fleet", select_label="Open")
        super().__init__("contexts", grid)
        self._fleet = fleet
        self._numbers = {
            name: number for number, name in enumerate(fleet.nodes, 1) if number <= MAX_NUMBERED
        }
        self._marked = ""  # the first of two contexts to compare

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        now = time.time()
        rows = self._fleet.rows()
        self.table.set_rows(
            [fleet_row(each, self._numbers.get(each.name, 0), now) for each in rows]
        )
        self.update_title()

    def build_title(self) -> Content:
        rows = self._fleet.rows()
        states = Counter(each.state for each in rows)
        parts = [
            (
                f"{states[state]:,} {STATE_GLYPHS[state].label}",
                TONE_COLORS[STATE_GLYPHS[state].tone],
            )
            for state in reversed(STATES)
            if states[state]
        ]
        if names := self._fleet.alert_names:
            parts.append((f"! {', '.join(names)}", "$error"))
        if unwell := sum(1 for each in rows if each.down or each.suspect):
            parts.append((f"{unwell:,} with members down or suspect", "$warning"))
        if self._marked:
            parts.append((f"comparing {self._marked} with…", "$accent"))
        return format_title(
            f"Fleet {len(rows):,}",
            *parts,
            *filter_status(self.table.filter_query, len(self.table.rows)),
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Nothing is behind this screen: a key only leads back from a filter."""
        return action != "back" or bool(self.table.filter_query)

    def _selected_node(self) -> FleetNode | None:
        key = self.table.cursor_key
        return self._fleet.nodes.get(key) if isinstance(key, str) else None

    def key_label(self, action: str) -> str:
        """A short label of the key that compares, and that of the mute key for a context that is muted."""
        if action == "compare":
            return "Compare"
        node = self._selected_node()
        return "Unmute" if action == "mute_context" and node and node.is_muted else ""

    def action_mute_context(self) -> None:
        """Mute the alerts of the context under the cursor in this app, or unmute them."""
        node = self._selected_node()
        if node is not None and self.table.ensure_cursor_visible():
            self.notify(node.toggle_mute(), markup=False)
            self.show()
            self.refresh_bindings()

    def action_compare(self) -> None:
        """Mark the context under the cursor; with a second one, compare both."""
        chosen = self.table.cursor_key
        if not isinstance(chosen, str) or not self.table.ensure_cursor_visible():
            return
        if len(self._fleet.nodes) == 2:
            self._marked = next(each for each in self._fleet.nodes if each != chosen)
        if not self._marked:
            self._marked = chosen
            self.notify(f"= on another context compares its members with {chosen}", markup=False)
        elif self._marked == chosen:
            self._marked = ""
        else:
            self.post_message(self.CompareRequested(self._marked, chosen))
            self._marked = ""
        self.update_title()


class ViewsGrid(Grid):
    """A table whose rows lead nowhere: a member is known to two nodes, and shown by neither."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        return action != "select" and super().check_action(action, parameters)


class CompareScreen(TableScreen):
    """The members as two contexts see them; rows that differ first, and marked."""

    FILTER_HINT = "words member:db-1 differs:≠ -not"

    def __init__(self, fleet: Fleet, first: str, second: str) -> None:
        columns = (
            Column("differs", 7),
            Column("member", 12, grow=2),
            Column(first, max(11, len(first)), grow=1),
            Column(second, max(11, len(second)), grow=1),
            Column("id", 8, drop_rank=1),
        )
        super().__init__("compare", ViewsGrid(columns, empty="No members.", id="compare"))
        self._compared = (fleet.nodes[first], fleet.nodes[second])

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        views = self._views()
        self.table.set_rows([_views_row(each) for each in views])
        self.update_title()

    def _views(self) -> list[MemberViews]:
        return compare_views(*self._compared)

    def build_title(self) -> Content:
        views = self._views()
        count = sum(each.differs for each in views)
        difference = (f"{count:,} differ", "$warning") if count else ("no difference", "$success")
        ages = [
            (f"{node.context.name} {text}", "$error")
            for node in self._compared
            if (text := _age_text(node.row()))
        ]
        first, second = (each.context.name for each in self._compared)
        return format_title(f"Members of {first} and {second}", difference, *ages)


def _age_text(row: FleetRow) -> str:
    """Return as of when a row is; empty if it is of now."""
    if row.as_of:
        return f"as of {time.strftime('%H:%M:%S', time.localtime(row.as_of))}"
    return "" if row.state == UP_STATE else row.state


def _views_row(views: MemberViews) -> Row:
    def status(value: str) -> Cell:
        glyph = STATUS_GLYPHS.get(value, StatusGlyph("?", printable(value), "warn"))
        return Cell(f"{glyph.glyph} {glyph.label}", glyph.tone)

    return Row(
        views.peer_id,
        (
            Cell("≠" if views.differs else "=", "warn" if views.differs else "dim"),
            Cell(views.name, "key" if views.differs else "text"),
            status(views.first),
            status(views.second),
            Cell(views.peer_id.short, "dim"),
        ),
        is_alarm=views.differs,
    )
