"""The traffic panel: incoming datagrams above the middle, outgoing ones below, and counters.

Invariants: it draws only the model's samples, so a repaint costs the same at any load.
"""

from __future__ import annotations

from typing import Final

from textual.content import Content

from grapevine_proto.events import Stats
from grapevine_tui.app.widgets.charts import braille_graph
from grapevine_tui.app.widgets.format import format_bytes, format_count
from grapevine_tui.app.widgets.line_widget import LineWidget, Span
from grapevine_tui.app.widgets.titles import format_title
from grapevine_tui.host.model import Model
from grapevine_tui.text import cells, pad

LABEL_CELLS: Final = 16  # "      225 KB/s"
MIN_GRAPH_ROWS: Final = 2  # of each graph


def redundancy(stats: Stats) -> float:
    """Return the duplicates received per delivered message."""
    return stats.duplicates / stats.delivered if stats.delivered else 0.0


class TrafficPanel(LineWidget):
    """Two graphs and the counters that show losses."""

    def __init__(self, model: Model, *, id: str) -> None:
        super().__init__(id=id)
        self._model = model

    def panel_title(self) -> Content:
        rate = self._model.traffic.messages_per_s
        return format_title("Traffic", (f"{format_count(rate)} messages/s", "$text-accent"))

    @property
    def _graph_rows(self) -> int:
        """The lines of each graph: what the panel has beside the counters."""
        return max(MIN_GRAPH_ROWS, (self.size.height - 1) // 2)

    def line_spans(self, y: int, width: int) -> list[Span]:
        rows = self._graph_rows
        if y < rows:
            return self._curve_spans(y, width, rows, is_in=True)
        if y < 2 * rows:
            return self._curve_spans(y - rows, width, rows, is_in=False)
        return self._counter_spans(width) if y == 2 * rows else []

    def _curve_spans(self, row: int, width: int, rows: int, *, is_in: bool) -> list[Span]:
        traffic = self._model.traffic
        values = traffic.in_per_s if is_in else traffic.out_per_s
        bytes_per_s = traffic.bytes_in_per_s if is_in else traffic.bytes_out_per_s
        tone = self.tone_styles.foreground("good" if is_in else "accent")
        now = values[-1] if values else 0.0
        rate_text = ("in   " if is_in else "out  ") + f"{format_count(now)}/s"
        byte_text = f"     {format_bytes(bytes_per_s)}/s" if row == 1 else ""
        label = rate_text if row == 0 else byte_text
        graph_cells = width - LABEL_CELLS - 2
        lines = braille_graph(values, max(0, graph_cells), rows, hanging=not is_in)
        style = tone if row == 0 else self.tone_styles.foreground("dim")
        return [Span(pad(f" {label}", LABEL_CELLS), style), Span(lines[row], tone)]

    def _counter_spans(self, width: int) -> list[Span]:
        stats = self._model.stats
        dropped = sum(count for _, count in stats.dropped)
        facts = [
            ("copies/msg", f"{redundancy(stats):.2f}", "text"),
            ("lost", format_count(stats.gaps_abandoned), "bad" if stats.gaps_abandoned else "text"),
            ("send drops", format_count(stats.send_drops), "warn" if stats.send_drops else "text"),
            ("dropped", format_count(dropped), "warn" if dropped else "text"),
            ("repaired", format_count(stats.repaired), "text"),
            ("cached", format_count(stats.cached), "text"),
        ]
        spans = [Span(" ", self.tone_styles.foreground("dim"))]
        used = 1
        for name, value, tone in facts:
            size = cells(name) + cells(value) + 3
            if used + size - 1 > width:
                break
            used += size
            spans += [
                Span(f"{name} ", self.tone_styles.foreground("dim")),
                Span(f"{value}  ", self.tone_styles.foreground(tone)),
            ]
        return spans
