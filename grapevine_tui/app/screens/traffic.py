"""The traffic screen: graphs over 1 minute, 15 minutes or 3 hours.

Invariants: it draws only the model's samples, a few thousand numbers per second at any load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Final, NamedTuple

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen

from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.charts import braille_graph
from grapevine_tui.app.widgets.format import format_count
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.app.widgets.line_widget import LineWidget, Span
from grapevine_tui.app.widgets.titles import FRAME_CELLS, format_title
from grapevine_tui.config.keymap import FRONT_SCREEN_KEYS, TIME_RANGE_KEYS
from grapevine_tui.host.model import Model
from grapevine_tui.host.timeseries import FINE_PER_COARSE, TimeSeries
from grapevine_tui.text import pad

REFRESH_INTERVAL_S: Final = 0.5
LABEL_CELLS: Final = 9
NOW_PREFIX: Final = "now "
PEAK_NOTE: Final = "each point is the peak of its interval"


class TimeRange(NamedTuple):
    """`samples` of `step_s` seconds each."""

    label: str
    samples: int
    step_s: int


TIME_RANGES: Final = (
    TimeRange("1 min", 60, 1),
    TimeRange("15 min", 900, 1),
    TimeRange("3 h", 1_080, FINE_PER_COARSE),
)


class Curve(NamedTuple):
    name: str
    tone: str
    get_series: Callable[[Model], TimeSeries]


CURVES: Final = (
    Curve("datagrams in", "good", lambda model: model.traffic.datagrams_in),
    Curve("datagrams out", "accent", lambda model: model.traffic.datagrams_out),
    Curve("messages", "author-0", lambda model: model.traffic.messages),
    Curve("duplicates", "warn", lambda model: model.traffic.duplicates),
    Curve("lost", "bad", lambda model: model.traffic.gaps_abandoned),
)


def resample(values: Sequence[float], count: int, points: int) -> list[float]:
    """Return the last `count` of `values`, preceded by zeros if there are fewer, as `points` numbers.

    Where samples share a point, the maximum is plotted, so that bursts stay visible."""
    if points <= 0:
        return []
    shown = list(values)[-count:]
    shown = [0.0] * (count - len(shown)) + shown
    edges = [index * count // points for index in range(points + 1)]
    return [max(shown[start : max(end, start + 1)]) for start, end in pairwise(edges)]


class TrafficPlot(LineWidget):
    """All graphs, one below the other, sharing the height."""

    def __init__(self, model: Model) -> None:
        super().__init__(id="plot")
        self._model = model
        self.time_range = TIME_RANGES[0]
        self._peaks = [0.0] * len(CURVES)
        self._lines: list[
            tuple[int, int, str]
        ] = []  # index of the curve, its row, the graph's text

    def redraw(self) -> None:
        """Draw the current samples."""
        width = max(0, self.size.width - LABEL_CELLS - 2)
        sampled = [self._values(curve.get_series(self._model), width * 2) for curve in CURVES]
        self._peaks = [max(values, default=0.0) for values in sampled]
        rows = self._rows_per_curve()
        self._lines = []
        for index, values in enumerate(sampled):
            plotted = braille_graph(values, width, rows) if self._peaks[index] else []
            self._lines += [(index, row, text) for row, text in enumerate(["", *plotted])]
        self.refresh()

    def _values(self, series: TimeSeries, points: int) -> list[float]:
        source: Iterable[float] = (
            series.coarse if self.time_range.step_s == FINE_PER_COARSE else series.fine
        )
        return resample(list(source), self.time_range.samples, points)

    def _rows_per_curve(self) -> int:
        """Return the lines of one graph below its heading. A curve without traffic has only a heading."""
        curves = sum(peak > 0 for peak in self._peaks)
        return max(1, (self.size.height - 1 - len(CURVES)) // max(1, curves))

    def on_resize(self) -> None:
        self.redraw()

    def line_spans(self, y: int, width: int) -> list[Span]:
        if y >= len(self._lines):
            return self._axis_spans(width) if y == len(self._lines) else []
        index, row, plotted = self._lines[y]
        if row == 0:
            return self._heading_spans(index, width)
        dim, tone = (
            self.tone_styles.foreground("dim"),
            self.tone_styles.foreground(CURVES[index].tone),
        )
        label = (
            format_count(self._peaks[index]) if row == 1 else "0" * (row == self._rows_per_curve())
        )
        return [Span(pad(label, LABEL_CELLS - 1, right=True) + " ", dim), Span(plotted, tone)]

    def _heading_spans(self, index: int, width: int) -> list[Span]:
        curve, dim = CURVES[index], self.tone_styles.foreground("dim")
        name = Span(f" {curve.name}  ", self.tone_styles.foreground(curve.tone))
        if not self._peaks[index]:
            return [name, Span(f"none in the last {self.time_range.label}", dim)]
        now = f"{format_count(curve.get_series(self._model).latest)}/s  "
        peak = f"peak {format_count(self._peaks[index])}/s"
        if len(name.text) + len(now) + len(peak) + len(NOW_PREFIX) <= width:
            now = NOW_PREFIX + now
        return [name, Span(now, self.tone_styles.foreground("text")), Span(peak, dim)]

    def _axis_spans(self, width: int) -> list[Span]:
        axis_cells = max(0, width - LABEL_CELLS - 2)
        left, right = f"{self.time_range.label} ago", "now"
        gap = max(1, axis_cells - len(left) - len(right))
        return [
            Span(" " * LABEL_CELLS + left + " " * gap + right, self.tone_styles.foreground("dim"))
        ]


class TrafficScreen(Screen[None]):
    """Live graphs over one of `TIME_RANGES`."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(TIME_RANGE_KEYS, FRONT_SCREEN_KEYS[:1])

    def __init__(self, model: Model) -> None:
        super().__init__(name="traffic")
        self.plot = TrafficPlot(model)

    def compose(self) -> ComposeResult:
        yield self.plot
        yield KeyFooter()

    def on_mount(self) -> None:
        self._set_plot_title()
        self.set_interval(REFRESH_INTERVAL_S, self.plot.redraw)

    def on_resize(self) -> None:
        self._set_plot_title()

    def _set_plot_title(self) -> None:
        parts = [
            (each.label, "$accent" if each is self.plot.time_range else "$text-muted")
            for each in TIME_RANGES
        ]
        self.plot.border_title = format_title("Traffic", *parts)
        has_room = self.size.width >= len(PEAK_NOTE) + FRAME_CELLS
        self.plot.border_subtitle = Content(PEAK_NOTE if has_room else "")

    def action_time_range(self, by: int) -> None:
        """Switch to a longer or shorter time range."""
        at = TIME_RANGES.index(self.plot.time_range) + by
        self.plot.time_range = TIME_RANGES[max(0, min(at, len(TIME_RANGES) - 1))]
        self._set_plot_title()
        self.plot.redraw()

    def action_back(self) -> None:
        self.dismiss()
