"""Traffic: what comes in grows up from the middle, what goes out hangs down from it.

What must stay true: drawn from the model's samples alone, so a repaint costs the same at any load.
"""

from __future__ import annotations

from typing import Final

from textual.content import Content

from grapevine_proto.events import Stats
from grapevine_tui.model import Model
from grapevine_tui.text import cells, fit
from grapevine_tui.widgets.look import (
    Piece,
    bytes_words,
    count_words,
    graph,
)
from grapevine_tui.widgets.painted import Painted
from grapevine_tui.widgets.tables import title

LABEL_CELLS: Final = 16  # "      225 KB/s"
GRAPH_ROWS: Final = 2


def redundancy(stats: Stats) -> float:
    """Copies of a payload received beyond the first, for each one delivered."""
    return stats.duplicates / stats.delivered if stats.delivered else 0.0


class Traffic(Painted):
    """Two curves and the counters that tell whether anything is being lost."""

    def __init__(self, model: Model, *, name_in_dom: str) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._model = model

    def make_title(self) -> Content:
        rate = self._model.traffic.messages_per_s
        return title("Traffic", (f"{count_words(rate)} messages/s", "$text-accent"))

    def line(self, y: int, width: int) -> list[Piece]:
        if y < GRAPH_ROWS:
            return self._curve(y, width, is_in=True)
        if y < 2 * GRAPH_ROWS:
            return self._curve(y - GRAPH_ROWS, width, is_in=False)
        return self._counters(width) if y == 2 * GRAPH_ROWS else []

    def _curve(self, row: int, width: int, *, is_in: bool) -> list[Piece]:
        traffic = self._model.traffic
        values = traffic.in_per_s if is_in else traffic.out_per_s
        bytes_per_s = traffic.bytes_in_per_s if is_in else traffic.bytes_out_per_s
        tone = self.inks.ink("good" if is_in else "accent")
        now = values[-1] if values else 0.0
        words = ("in   " if is_in else "out  ") + f"{count_words(now)}/s"
        label = words if row == 0 else f"     {bytes_words(bytes_per_s)}/s"
        room = width - LABEL_CELLS - 2
        lines = graph(values, max(0, room), GRAPH_ROWS, hanging=not is_in)
        style = tone if row == 0 else self.inks.ink("dim")
        return [Piece(fit(f" {label}", LABEL_CELLS), style), Piece(lines[row], tone)]

    def _counters(self, width: int) -> list[Piece]:
        stats = self._model.stats
        dropped = sum(count for _, count in stats.dropped)
        facts = [
            ("dup", f"{redundancy(stats):.2f}", "text"),
            ("lost", count_words(stats.lost), "bad" if stats.lost else "text"),
            ("unsent", count_words(stats.unsent), "warn" if stats.unsent else "text"),
            ("refused", count_words(dropped), "warn" if dropped else "text"),
            ("repaired", count_words(stats.repaired), "text"),
            ("held", count_words(stats.held), "text"),
        ]
        pieces = [Piece(" ", self.inks.ink("dim"))]
        used = 1
        for name, value, tone in facts:
            size = cells(name) + cells(value) + 3
            if used + size - 1 > width:
                break
            used += size
            pieces += [
                Piece(f"{name} ", self.inks.ink("dim")),
                Piece(f"{value}  ", self.inks.ink(tone)),
            ]
        return pieces
