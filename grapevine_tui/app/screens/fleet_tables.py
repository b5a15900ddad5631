"""Members, messages and alerts of all contexts, each in one table.

Invariants:

- A row says which context knows it, and the cluster. One that is not of now is dimmed, with its age.
- At most `MAX_ROWS` rows are shown, those that come first in the order chosen; the title counts all.
- A row is built only when its facts changed, and a pass is bounded, so that many contexts stall nothing.
- Whatever comes from a node is printable and shown as text.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message as Posted

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.alerts import COLUMNS as ALERT_COLUMNS
from grapevine_tui.app.screens.alerts import alert_row
from grapevine_tui.app.screens.members import (
    COLUMN_SPECS,
    NEXT_PASS_DELAY_S,
    ROWS_PER_PASS,
    MemberRowCache,
)
from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.columns import columns_of
from grapevine_tui.app.widgets.format import format_count, format_duration
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.log import VIA_TONES
from grapevine_tui.app.widgets.merged_messages import (
    NODE_FIELDS,
    ContextMessage,
    MergedMessages,
)
from grapevine_tui.app.widgets.status_glyphs import STATUS_GLYPHS
from grapevine_tui.app.widgets.titles import TONE_COLORS, filter_status, format_title
from grapevine_tui.config.columns import MEMBER_DEFAULT
from grapevine_tui.config.keymap import ALERT_KEYS
from grapevine_tui.filter_syntax import MESSAGE_FIELDS
from grapevine_tui.host.alerts import AlertStatus
from grapevine_tui.host.query import parse_query
from grapevine_tui.remote.fleet import Fleet, FleetNode
from grapevine_tui.text import format_payload, printable, via_word

REFRESH_INTERVAL_S: Final = 0.5
MAX_ROWS: Final = 2_000
MEMBERS_PER_PASS: Final = 2_000  # whose facts are compared, about 8 ms
PREVIEW_BYTES: Final = 400  # of a payload
NO_VALUE: Final = "-"
NO_ALERTS_TEXT: Final = (
    "No alerts. Rules under [app.alerts] in your config file hold for every context."
)
CONTEXT_COLUMN: Final = Column("context", 10, grow=1)
CLUSTER_COLUMN: Final = Column("cluster", 8, grow=1, drop_rank=5)
MESSAGE_COLUMNS: Final = (
    Column("time", 8),
    CONTEXT_COLUMN,
    CLUSTER_COLUMN,
    Column("from", 9, grow=1),
    Column("via", 7, drop_rank=6),
    Column("topic", 8, grow=1, drop_rank=3),
    Column("text", 30, grow=8),
)
WORST_FIRST: Final = (MemberStatus.DOWN, MemberStatus.SUSPECT, MemberStatus.UP, MemberStatus.LEFT)


def age_text(node: FleetNode, now_unix: float) -> str:
    """How old what is known of a context is; empty if it is of now."""
    return f"{format_duration(now_unix - node.as_of)} ago" if node.as_of else ""


def context_cells(node: FleetNode, age: str) -> tuple[Cell, Cell]:
    """The cells of `CONTEXT_COLUMN` and `CLUSTER_COLUMN`."""
    name = f"{node.context.name} {age}".strip()
    tone = "key" if node.is_current else "dim"
    return Cell(name, tone), Cell(printable(node.cluster) or NO_VALUE, "dim")


def dimmed(cells: Sequence[Cell], *, is_current: bool) -> tuple[Cell, ...]:
    """`cells`, dimmed unless they are of now."""
    return tuple(cells) if is_current else tuple(each._replace(tone="dim") for each in cells)


def lost_parts(fleet: Fleet) -> list[tuple[str, str]]:
    """The part of a title that names the contexts whose rows are not of now."""
    states = [f"{name} {node.state}" for name, node in fleet.nodes.items() if not node.is_current]
    return [(", ".join(states), "$warning")] if states else []


class MergedGrid(Grid):
    """A table of which at most `MAX_ROWS` rows are shown. A row is matched once for each filter."""

    match_count = 0
    """The number of rows that match the filter."""

    def __init__(self, columns: Sequence[Column], *, empty: str, id: str) -> None:
        super().__init__(columns, empty=empty, id=id, select_label="Open")
        self._matched: dict[Hashable, tuple[object, Row, bool]] = {}

    def _is_match(self, row: Row) -> bool:
        known = self._matched.get(row.key)
        if known is None or known[0] is not self.filter_query or known[1] is not row:
            known = (self.filter_query, row, super()._is_match(row))
            self._matched[row.key] = known
        return known[2]

    def _filter_and_sort(self, rows: list[Row]) -> list[Row]:
        if len(self._matched) > 2 * len(rows):  # most of them have gone
            self._matched.clear()
        found = super()._filter_and_sort(rows)
        self.match_count = len(found)
        return found[:MAX_ROWS]

    def counts(self) -> list[tuple[str, str]]:
        """The parts of a title that count what is shown."""
        parts = filter_status(self.filter_query, self.match_count)
        if self.match_count > MAX_ROWS:
            parts.append((f"the first {MAX_ROWS:,} shown", "$warning"))
        return parts


class _ContextMembers:
    """The rows of the members of one context."""

    def __init__(self, node: FleetNode, names: Sequence[str]) -> None:
        self.node = node
        self.cache = MemberRowCache(node.model, names)
        self.rows: list[tuple[int, Row]] = []  # with their place in the order
        self._wrapped: dict[Hashable, tuple[Row, bool, str, tuple[int, Row]]] = {}

    def build(self, limit: int, now_unix: float) -> None:
        """Bring the rows up to date; build at most `limit`."""
        node = self.node
        is_current, age = node.is_current, age_text(node, now_unix)
        wrapped = {}
        for row in self.cache.build(limit):
            known = self._wrapped.get(row.key)
            if known is None or known[0] is not row or known[1:3] != (is_current, age):
                known = (row, is_current, age, self._wrap(row, is_current, age))
            wrapped[row.key] = known
        self._wrapped = wrapped
        self.rows = [each[3] for each in wrapped.values()]

    def _wrap(self, row: Row, is_current: bool, age: str) -> tuple[int, Row]:
        node = self.node
        assert isinstance(row.key, PeerId)
        member = node.model.members[row.key]
        first = context_cells(node, age)
        merged = Row(
            (node.context.name, row.key),
            (*first, *dimmed(row.cells, is_current=is_current)),
            sort_values=(node.context.name.casefold(), first[1].text.casefold(), *row.sort_values),
        )
        return WORST_FIRST.index(member.status), merged


class FleetMembersScreen(TableScreen):
    """The members of all contexts, as each sees them; those that are down come first."""

    FILTER_HINT = "words context:eu name:bob zone:eu status:down -not"

    def __init__(self, fleet: Fleet, names: Sequence[str] = MEMBER_DEFAULT) -> None:
        columns = (
            CONTEXT_COLUMN,
            CLUSTER_COLUMN,
            *columns_of(names, COLUMN_SPECS, MEMBER_DEFAULT),
        )
        grid = MergedGrid(columns, empty="No members yet.", id="fleet-members")
        super().__init__("members", grid)
        self._grid = grid
        self._fleet = fleet
        self._turns = deque(_ContextMembers(node, names) for node in fleet.nodes.values())

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        """Bring the rows of some contexts up to date, those whose turn it is, and show those of all."""
        now = time.time()
        limit = max(1, ROWS_PER_PASS // max(1, len(self._turns)))
        compared = 0
        for _ in range(len(self._turns)):
            turn = self._turns[0]
            turn.build(limit, now)
            self._turns.rotate(-1)
            compared += len(turn.node.model.members)
            if compared >= MEMBERS_PER_PASS:
                break
        ranked = [each for turn in self._turns for each in turn.rows]
        ranked.sort(key=lambda each: each[0])
        self.table.set_rows([row for _, row in ranked])
        self.update_title()
        if any(turn.cache.is_behind for turn in self._turns):
            self.set_timer(NEXT_PASS_DELAY_S, self.show)

    def build_title(self) -> Content:
        models = [each.model for each in self._fleet.nodes.values()]
        counts = Counter(each.status for model in models for each in model.members.values())
        parts = [
            (f"{counts[each]:,} {STATUS_GLYPHS[each].label}", TONE_COLORS[STATUS_GLYPHS[each].tone])
            for each in WORST_FIRST
            if counts[each]
        ]
        total = sum(counts.values())
        where = f"Members {total:,} of {len(models):,} contexts"
        return format_title(where, *parts, *lost_parts(self._fleet), *self._grid.counts())


class _MessageGrid(MergedGrid):
    """Its rows are filtered before they are built, by the fields of messages."""

    @property
    def query_fields(self) -> tuple[str, ...]:
        return (*NODE_FIELDS, *MESSAGE_FIELDS)

    def _is_match(self, row: Row) -> bool:
        return True


class FleetMessagesScreen(TableScreen):
    """The latest messages of all contexts, newest first."""

    FILTER_HINT = "words context:eu from:bob topic:deploy.> via:repair -not"

    def __init__(self, fleet: Fleet) -> None:
        grid = _MessageGrid(MESSAGE_COLUMNS, empty="No messages yet.", id="fleet-messages")
        super().__init__("messages", grid)
        self._grid = grid
        self._fleet = fleet
        self._messages = MergedMessages(fleet.nodes.values(), MAX_ROWS)
        self._rows: dict[Hashable, tuple[str, bool, Row]] = {}

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def set_filter(self, text: str) -> None:
        self._messages.set_filter(parse_query(text))
        super().set_filter(text)
        self.show()

    def show(self) -> None:
        """Show the messages that arrived, and those that a new filter lets through."""
        self._messages.sync()
        now = time.time()
        ages = {name: age_text(node, now) for name, node in self._fleet.nodes.items()}
        rows: dict[Hashable, tuple[str, bool, Row]] = {}
        for each in self._messages.newest_first():
            name = each.node.context.name
            key, is_current = (name, each.entry.number), each.node.is_current
            known = self._rows.get(key)
            if known is None or known[:2] != (ages[name], is_current):
                known = (ages[name], is_current, _message_row(each, ages[name]))
            rows[key] = known
        self._rows = rows
        self.table.set_rows([row for _, _, row in rows.values()])
        self.update_title()
        if self._messages.is_behind:
            self.set_timer(NEXT_PASS_DELAY_S, self.show)

    def build_title(self) -> Content:
        messages = self._messages
        parts = filter_status(messages.query, messages.match_count)
        if messages.match_count > MAX_ROWS:
            parts.append((f"the newest {MAX_ROWS:,} shown", "$warning"))
        rate = sum(each.model.traffic.messages_per_s for each in self._fleet.nodes.values())
        where = f"Messages {messages.count:,} of {len(self._fleet.nodes):,} contexts"
        parts.insert(0, (f"{format_count(rate)}/s", "$text-muted"))
        return format_title(where, *parts, *lost_parts(self._fleet))


def _message_row(known: ContextMessage, age: str) -> Row:
    node, entry = known
    message, model = entry.message, node.model
    is_own = model.local_node is not None and message.origin == model.local_node.peer_id
    author = printable((is_own and model.own_name) or model.name_of(message.origin))
    text = format_payload(message.payload, PREVIEW_BYTES)
    via, tone = via_word(message.via), VIA_TONES.get(message.via, "dim")
    if message.is_direct:
        via, tone = "direct", "accent"
    clock = time.strftime("%H:%M:%S", time.localtime(entry.at_unix))
    topic = printable(message.topic)
    first = context_cells(node, age)
    cells = (
        Cell(author, "good" if is_own else "key"),
        Cell(via, tone),
        Cell(topic or NO_VALUE, "accent" if topic else "dim"),
        Cell(text),
    )
    return Row(
        (node.context.name, entry.number),
        (Cell(clock, "dim"), *first, *dimmed(cells, is_current=node.is_current)),
        sort_values=(
            entry.at_unix,
            node.context.name.casefold(),
            first[1].text.casefold(),
            author.casefold(),
            via,
            topic.casefold() or None,
            text.casefold(),
        ),
    )


class FleetAlertsScreen(TableScreen):
    """The alerts of all contexts, firing ones first."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(ALERT_KEYS)
    FILTER_HINT = "words context:eu state:firing -not"

    class MuteRequested(Posted):
        """Mute the alert `name` of `node`, or with `is_muted` unmute it."""

        def __init__(self, node: FleetNode, name: str, *, is_muted: bool) -> None:
            super().__init__()
            self.node = node
            self.name = name
            self.is_muted = is_muted

    def __init__(self, fleet: Fleet) -> None:
        columns = (CONTEXT_COLUMN, CLUSTER_COLUMN, *ALERT_COLUMNS)
        grid = MergedGrid(columns, empty=NO_ALERTS_TEXT, id="fleet-alerts")
        super().__init__("alerts", grid)
        self._grid = grid
        self._fleet = fleet

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        """Show how the alerts stand now."""
        now = time.time()
        rows = []
        for node in self._fleet.nodes.values():
            rows += [_alert_row(node, each, now) for each in node.model.alerts]
        rows.sort(key=lambda row: row.sort_values[2:3])
        self.table.set_rows(rows)
        self.update_title()
        self.refresh_bindings()

    def build_title(self) -> Content:
        nodes = self._fleet.nodes.values()
        total = sum(len({each.name for each in node.model.alerts}) for node in nodes)
        names = self._fleet.alert_names
        parts = [(f"{len(names):,} firing: {', '.join(names)}", "$error")] if names else []
        muted = [node.context.name for node in nodes if node.is_muted]
        parts += [(f"muted here: {', '.join(muted)}", "$warning")] if muted else []
        where = f"Alerts {total:,} of {len(nodes):,} contexts"
        return format_title(where, *parts, *lost_parts(self._fleet), *self._grid.counts())

    def _selected(self) -> tuple[FleetNode, AlertStatus] | None:
        key = self.table.cursor_key
        for node in self._fleet.nodes.values():
            for alert in node.model.alerts:
                if (node.context.name, (alert.name, alert.peer_id)) == key:
                    return node, alert
        return None

    def key_label(self, action: str) -> str:
        """The label of the mute key for an alert that is muted."""
        selected = self._selected()
        return "Unmute" if action == "mute" and selected and selected[1].is_muted else ""

    def action_mute(self) -> None:
        """Mute the selected alert in its context, or unmute it."""
        selected = self._selected()
        if selected is not None and self.table.ensure_cursor_visible():
            node, alert = selected
            self.post_message(self.MuteRequested(node, alert.name, is_muted=alert.is_muted))


def _alert_row(node: FleetNode, alert: AlertStatus, now_unix: float) -> Row:
    row = alert_row(node.model, alert)
    first = context_cells(node, age_text(node, now_unix))
    return Row(
        (node.context.name, row.key),
        (*first, *dimmed(row.cells, is_current=node.is_current)),
        is_alarm=row.is_alarm and node.is_current and not node.is_muted,
        sort_values=(node.context.name.casefold(), first[1].text.casefold(), *row.sort_values),
    )
