"""The status line at the top, and a two-line summary that replaces panels on small screens.

Invariants: items that do not fit are dropped whole, by rank. Errors and the paused state go last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from grapevine_proto.config.node import LIVE_FIELDS, NodeConfig
from grapevine_proto.events import PeerState
from grapevine_tui.app.widgets.charts import braille_graph
from grapevine_tui.app.widgets.format import format_count, format_duration
from grapevine_tui.app.widgets.line_widget import LineWidget, Span
from grapevine_tui.app.widgets.round_table import format_round, round_number, seconds_to_round
from grapevine_tui.app.widgets.titles import format_as_of
from grapevine_tui.app.widgets.traffic import redundancy
from grapevine_tui.host.model import Model
from grapevine_tui.text import cells, printable, truncate

LAG_WARNING_S: Final = 0.05  # the loop lag that the app allows itself
MAX_NAME_CELLS: Final = 20
MAX_ERROR_CELLS: Final = 48
NAMED_CELLS: Final = 60  # of a summary that names rate limits and anti-entropy in full


class StatusItem(NamedTuple):
    """One item of a line; on a short line the highest `drop_rank` is dropped first."""

    text: str
    tone: str
    drop_rank: int


def fit_items(items: list[StatusItem], width_cells: int) -> list[StatusItem]:
    """Return the items that fit, two cells apart, in their order."""
    kept = list(items)
    while kept and sum(cells(part.text) + 2 for part in kept) > width_cells:
        kept.remove(max(kept, key=lambda item: item.drop_rank))
    return kept


class StatusLine(LineWidget):
    """Identity of the node on the left; errors, uptime, loop lag and time on the right."""

    def __init__(
        self, model: Model, config: NodeConfig, get_lag_s: Callable[[], float], *, id: str
    ) -> None:
        super().__init__(id=id)
        self._model = model
        self._config = config
        self._get_lag_s = get_lag_s
        self.is_paused = False
        self.paused_at = 0.0
        self.is_leaving = False
        self.is_tiny = False

    @property
    def node_name(self) -> str:
        """The name of the node as it was set: unchecked text."""
        return self._config.name

    def apply_config(self, config: NodeConfig, *, is_restarted: bool = False) -> None:
        """What the node goes by now; what needs a restart stays as it was."""
        self._config = (
            config
            if is_restarted
            else self._config.replace(
                **{name: getattr(config, name) for name in LIVE_FIELDS if name != "keys"}
            )
        )
        self.refresh()

    def line_spans(self, y: int, width: int) -> list[Span]:
        if y:
            return []
        left, right = self._left_items(), self._right_items()
        kept = fit_items(left + right, width - 1)
        shown_left = [item for item in left if item in kept]
        shown_right = [item for item in right if item in kept]
        used = sum(cells(item.text) + 2 for item in kept)
        spans = [Span(" ", self.tone_styles.foreground("text"))]
        for item in shown_left:
            spans.append(Span(f"{item.text}  ", self.tone_styles.foreground(item.tone)))
        spans.append(Span(" " * (width - 1 - used), self.tone_styles.foreground("text")))
        for item in shown_right:
            spans.append(Span(f"{item.text}  ", self.tone_styles.foreground(item.tone)))
        return spans

    @property
    def _kind(self) -> str:
        """What is shown: a node here, one elsewhere, or a recording of one."""
        if self._model.replay:
            return "recorded:"
        return "attached:" if self._model.is_remote else "grapevine"

    def _left_items(self) -> list[StatusItem]:
        config, local_node = self._config, self._model.local_node
        items = [] if self.is_tiny else [StatusItem(self._kind, "good", 5)]
        if config.name:
            items.append(StatusItem(truncate(printable(config.name), MAX_NAME_CELLS), "key", 2))
        if local_node is None:
            items.append(StatusItem("starting…", "warn", 1))
        else:
            items.append(StatusItem(str(local_node.address), "text", 3))
            items.append(StatusItem(f"id {local_node.peer_id.short}", "dim", 6))
        items.append(
            StatusItem(f"cluster {truncate(printable(config.cluster), MAX_NAME_CELLS)}", "dim", 9)
        )
        if config.zone:
            items.append(
                StatusItem(f"zone {truncate(printable(config.zone), MAX_NAME_CELLS)}", "dim", 10)
            )
        items.append(StatusItem(f"strategy {config.strategy}", "accent", 11))
        return items

    def _right_items(self) -> list[StatusItem]:
        model = self._model
        items = []
        ago = (
            f"{format_duration(model.wall_now() - model.outdated_since)} ago"
            if model.outdated_since
            else ""
        )
        if model.replay:
            items.append(StatusItem(f"REPLAY {model.replay}", "warn", 0))
        if model.disconnect_reason and not self.is_leaving:
            text = f"NODE LOST {ago}: {printable(model.disconnect_reason)}"
            items.append(StatusItem(truncate(text, MAX_ERROR_CELLS), "bad", 0))
        elif model.stop_reason and not self.is_leaving:
            text = f"STOPPED {ago}: {printable(model.stop_reason)}"
            items.append(StatusItem(truncate(text, MAX_ERROR_CELLS), "bad", 0))
        if model.save_error:
            items.append(StatusItem("STATE NOT SAVED", "bad", 1))
        if firing := model.audible_alerts:
            first = firing[0]
            peer = "" if first.peer_id is None else f" {model.name_of(first.peer_id)}"
            text = f"ALERT {first.name}{peer}" if len(firing) == 1 else f"{len(firing)} ALERTS"
            items.append(StatusItem(truncate(printable(text), MAX_NAME_CELLS * 2), "bad", 1))
        if self.is_leaving:
            items.append(StatusItem("detaching…" if model.is_remote else "leaving…", "warn", 0))
        if self.is_paused:
            clock = time.strftime("%H:%M:%S", time.localtime(self.paused_at))
            items.append(StatusItem(f"PAUSED at {clock}", "warn", 0))
        if self.is_tiny:
            connected = sum(1 for peer in model.peers.values() if peer.state is PeerState.CONNECTED)
            items.append(StatusItem(f"● {connected}", "good" if connected else "warn", 0))
            return items
        if model.outdated_since:  # uptime and lag would keep counting
            items.append(
                StatusItem(time.strftime("%H:%M:%S", time.localtime(model.wall_now())), "text", 4)
            )
            return items
        if model.local_node is not None:
            up_s = model.wall_now() - model.local_node.started_at
            items.append(StatusItem(f"up {format_duration(up_s)}", "dim", 8))
        lag_s = self._get_lag_s()
        if lag_s > LAG_WARNING_S:
            items.append(StatusItem(f"loop lag {lag_s * 1000:.0f}ms", "bad", 7))
        items.append(
            StatusItem(time.strftime("%H:%M:%S", time.localtime(model.wall_now())), "text", 4)
        )
        return items


class Summary(LineWidget):
    """Rates on one line and anti-entropy rounds on the next, for screens of one column."""

    def __init__(self, model: Model, now: Callable[[], float], *, id: str) -> None:
        super().__init__(id=id)
        self._model = model
        self._now = now

    def line_spans(self, y: int, width: int) -> list[Span]:
        items = self._rate_items(width) if y == 0 else self._round_items(width) if y == 1 else []
        spans = [Span(" ", self.tone_styles.foreground("dim"))]
        for item in fit_items(items, width - 1):
            spans.append(Span(f"{item.text}  ", self.tone_styles.foreground(item.tone)))
        return spans

    def _rate_items(self, width: int) -> list[StatusItem]:
        traffic, stats = self._model.traffic, self._model.stats
        throttled = sum(peer.throttled for peer in self._model.peers.values())
        in_rate = traffic.in_per_s[-1] if traffic.in_per_s else 0.0
        out_rate = traffic.out_per_s[-1] if traffic.out_per_s else 0.0
        size = max(4, min(16, (width - 58) // 2))
        return [
            StatusItem(
                f"in {braille_graph(traffic.in_per_s, size, 1)[0]} {format_count(in_rate)}/s",
                "good",
                1,
            ),
            StatusItem(
                f"out {braille_graph(traffic.out_per_s, size, 1)[0]} {format_count(out_rate)}/s",
                "accent",
                2,
            ),
            StatusItem(f"copies/msg {redundancy(stats):.2f}", "dim", 5),
            StatusItem(
                f"lost {format_count(stats.gaps_abandoned)}",
                "bad" if stats.gaps_abandoned else "dim",
                4,
            ),
            StatusItem(
                f"{'rate limits ' * (width >= NAMED_CELLS)}{format_count(throttled)} throttled",
                "bad" if throttled else "dim",
                3,
            ),
        ]

    def _round_items(self, width: int) -> list[StatusItem]:
        model = self._model
        number = round_number(model)
        wait_s = seconds_to_round(model, self._now())
        name = "anti-entropy " * (width >= NAMED_CELLS)
        items = [StatusItem(f"{name}round {number}" if number else f"{name}no rounds", "key", 2)]
        if model.outdated_since:
            items.append(StatusItem(format_as_of(model), "bad", 0))
        elif wait_s is not None:
            items.append(StatusItem(f"next in {wait_s} s", "accent", 1))
        for back in range(min(2, len(model.rounds))):
            latest = model.rounds[-1 - back].round
            name = truncate(printable(model.name_of(latest.peer)), MAX_NAME_CELLS)
            items.append(StatusItem(f"{name} {format_round(latest)}", "dim", 3 + back))
        return items
