"""The table of alerts: how each rule stands, firing ones first.

Invariants: the screen posts what is requested; only the app mutes.
"""

from __future__ import annotations

from typing import ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.format import format_duration
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.titles import TONE_COLORS, filter_status, format_title
from grapevine_tui.config.keymap import ALERT_KEYS
from grapevine_tui.host.alerts import STATE_ORDER, AlertStatus
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable

REFRESH_INTERVAL_S: Final = 0.5
EMPTY_TEXT: Final = (
    'No alerts. Set them in the config file under [app.alerts], such as few = "peers < 3 for 30s".'
)
COLUMNS: Final = (
    Column("state", 9),
    Column("alert", 10, grow=1),
    Column("peer", 8, grow=1, drop_rank=1),
    Column("value", 12, grow=1, drop_rank=2),
    Column("for", 7, is_right_aligned=True, drop_rank=3),
    Column("muted", 5, drop_rank=4),
    Column("rule", 16, grow=3, drop_rank=5),
)
STATE_CELLS: Final = {
    "firing": Cell("! firing", "bad"),
    "pending": Cell("~ pending", "warn"),
    "quiet": Cell("  quiet", "dim"),
}


def alert_row(model: Model, alert: AlertStatus) -> Row:
    """The row of an alert, with the cells of `COLUMNS`."""
    name = "" if alert.peer_id is None else model.name_of(alert.peer_id)
    duration = "-" if alert.since_s is None else format_duration(alert.since_s)
    tone = "dim" if alert.state == "quiet" else "text"
    return Row(
        (alert.name, alert.peer_id),
        (
            STATE_CELLS.get(alert.state, Cell(printable(alert.state), "warn")),
            Cell(printable(alert.name), "key"),
            Cell(printable(name) or "-", tone),
            Cell(printable(alert.value) or "-", tone),
            Cell(duration, tone),
            Cell("muted" if alert.is_muted else "-", "warn" if alert.is_muted else "dim"),
            Cell(printable(alert.rule), tone),
        ),
        is_alarm=alert.is_firing and not alert.is_muted,
        sort_values=(
            STATE_ORDER.index(alert.state) if alert.state in STATE_ORDER else len(STATE_ORDER),
            alert.name.casefold(),
            name.casefold(),
            alert.value,
            alert.since_s,
            not alert.is_muted,
            alert.rule,
        ),
    )


class AlertsScreen(TableScreen):
    """All alerts in a table, with a filter and a key that mutes the selected one."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(ALERT_KEYS)
    FILTER_HINT = "words state:firing peer:bob -not"

    class MuteRequested(Message):
        """Mute the alert `name`, or with `is_muted` unmute it."""

        def __init__(self, name: str, *, is_muted: bool) -> None:
            super().__init__()
            self.name = name
            self.is_muted = is_muted

    def __init__(self, model: Model) -> None:
        super().__init__("alerts", Grid(COLUMNS, empty=EMPTY_TEXT, id="alerts"))
        self._model = model

    def on_mount(self) -> None:
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        """Show how the alerts stand now."""
        self.table.set_rows([alert_row(self._model, each) for each in self._model.alerts])
        self.update_title()
        self.refresh_bindings()

    def build_title(self) -> Content:
        alerts = self._model.alerts
        firing = sum(each.is_firing for each in alerts)
        muted = len({each.name for each in alerts if each.is_muted})
        parts = [(f"{firing} firing", TONE_COLORS["bad"])] if firing else []
        parts += [(f"{muted} muted", TONE_COLORS["warn"])] if muted else []
        filtered = filter_status(self.table.filter_query, len(self.table.rows))
        return format_title(f"Alerts {len({each.name for each in alerts})}", *parts, *filtered)

    def _selected(self) -> AlertStatus | None:
        key = self.table.cursor_key
        return next((each for each in self._model.alerts if (each.name, each.peer_id) == key), None)

    def key_label(self, action: str) -> str:
        """The label of the mute key for an alert that is muted."""
        selected = self._selected()
        return "Unmute" if action == "mute" and selected and selected.is_muted else ""

    def action_mute(self) -> None:
        """Mute the selected alert, or unmute it."""
        selected = self._selected()
        if selected is not None:
            self.post_message(self.MuteRequested(selected.name, is_muted=selected.is_muted))
