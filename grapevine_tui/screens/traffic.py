"""Traffic over a minute, a quarter of an hour or three hours, as curves in front of the others.

What must stay true: drawn from the model's samples alone; at most a few thousand numbers a second
are looked at, whatever the load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Final, NamedTuple

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen

from grapevine_tui.keys import FRONT, SPAN
from grapevine_tui.model import Model
from grapevine_tui.samples import COARSE, Series
from grapevine_tui.text import fit
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.keyline import KeyLine
from grapevine_tui.widgets.look import Piece, count_words, graph
from grapevine_tui.widgets.painted import Painted
from grapevine_tui.widgets.tables import FRAME_CELLS, title

REFRESH_S: Final = 0.5
LABEL_CELLS: Final = 9
NOW: Final = "now "
HIGHEST: Final = "of several in one point the highest"


class Span(NamedTuple):
    """`samples` of `step_s` seconds each."""

    words: str
    samples: int
    step_s: int


SPANS: Final = (Span("1 min", 60, 1), Span("15 min", 900, 1), Span("3 h", 1_080, COARSE))


class Curve(NamedTuple):
    name: str
    tone: str
    of: Callable[[Model], Series]


CURVES: Final = (
    Curve("datagrams in", "good", lambda model: model.traffic.datagrams_in),
    Curve("datagrams out", "accent", lambda model: model.traffic.datagrams_out),
    Curve("messages", "author-0", lambda model: model.traffic.messages),
    Curve("duplicates", "warn", lambda model: model.traffic.duplicates),
    Curve("lost", "bad", lambda model: model.traffic.lost),
)


def resample(values: Sequence[float], wanted: int, points: int) -> list[float]:
    """The last `wanted` of `values`, nothing before they began, as `points` numbers. Of several that
    fall into one point the highest stands: a burst must not be smoothed away."""
    if points <= 0:
        return []
    shown = list(values)[-wanted:]
    shown = [0.0] * (wanted - len(shown)) + shown
    edges = [index * wanted // points for index in range(points + 1)]
    return [max(shown[low : max(high, low + 1)]) for low, high in pairwise(edges)]


class Plot(Painted):
    """All curves, one below the other, sharing the height."""

    def __init__(self, model: Model) -> None:
        super().__init__(name_in_dom="plot")
        self._model = model
        self.span = SPANS[0]
        self._tops = [0.0] * len(CURVES)
        self._lines: list[tuple[int, int, str]] = []  # the curve, its line, what is drawn there

    def redraw(self) -> None:
        """Take the samples as they are now."""
        width = max(0, self.size.width - LABEL_CELLS - 2)
        sampled = [self._values(curve.of(self._model), width * 2) for curve in CURVES]
        self._tops = [max(values, default=0.0) for values in sampled]
        rows = self._rows()
        self._lines = []
        for index, values in enumerate(sampled):
            drawn = graph(values, width, rows) if self._tops[index] else []
            self._lines += [(index, row, text) for row, text in enumerate(["", *drawn])]
        self.refresh()

    def _values(self, series: Series, points: int) -> list[float]:
        source: Iterable[float] = series.coarse if self.span.step_s == COARSE else series.fine
        return resample(list(source), self.span.samples, points)

    def _rows(self) -> int:
        """Lines of one curve beneath its heading. Where there was nothing the heading says so alone."""
        curves = sum(top > 0 for top in self._tops)
        return max(1, (self.size.height - 1 - len(CURVES)) // max(1, curves))

    def on_resize(self) -> None:
        self.redraw()

    def line(self, y: int, width: int) -> list[Piece]:
        if y >= len(self._lines):
            return self._axis(width) if y == len(self._lines) else []
        index, row, drawn = self._lines[y]
        if row == 0:
            return self._heading(index, width)
        dim, tone = self.inks.ink("dim"), self.inks.ink(CURVES[index].tone)
        label = count_words(self._tops[index]) if row == 1 else "0" * (row == self._rows())
        return [Piece(fit(label, LABEL_CELLS - 1, right=True) + " ", dim), Piece(drawn, tone)]

    def _heading(self, index: int, width: int) -> list[Piece]:
        curve, dim = CURVES[index], self.inks.ink("dim")
        name = Piece(f" {curve.name}  ", self.inks.ink(curve.tone))
        if not self._tops[index]:
            return [name, Piece(f"none for {self.span.words}", dim)]
        now = f"{count_words(curve.of(self._model).latest)}/s  "
        highest = f"highest {count_words(self._tops[index])}/s"
        if len(name.text) + len(now) + len(highest) + len(NOW) <= width:
            now = NOW + now
        return [name, Piece(now, self.inks.ink("text")), Piece(highest, dim)]

    def _axis(self, width: int) -> list[Piece]:
        room = max(0, width - LABEL_CELLS - 2)
        left, right = f"{self.span.words} ago", "now"
        gap = max(1, room - len(left) - len(right))
        return [Piece(" " * LABEL_CELLS + left + " " * gap + right, self.inks.ink("dim"))]


class TrafficScreen(Screen[None]):
    """Curves that move on, over one of three spans."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(SPAN, FRONT[:1])

    def __init__(self, model: Model) -> None:
        super().__init__(name="traffic")
        self.plot = Plot(model)

    def compose(self) -> ComposeResult:
        yield self.plot
        yield KeyLine()

    def on_mount(self) -> None:
        self._entitle()
        self.set_interval(REFRESH_S, self.plot.redraw)

    def on_resize(self) -> None:
        self._entitle()

    def _entitle(self) -> None:
        parts = [
            (each.words, "$accent" if each is self.plot.span else "$text-muted") for each in SPANS
        ]
        self.plot.border_title = title("Traffic", *parts)
        has_room = self.size.width >= len(HIGHEST) + FRAME_CELLS
        self.plot.border_subtitle = Content(HIGHEST if has_room else "")

    def action_span(self, by: int) -> None:
        """The next longer span, or the next shorter one; at either end it stays."""
        at = SPANS.index(self.plot.span) + by
        self.plot.span = SPANS[max(0, min(at, len(SPANS) - 1))]
        self._entitle()
        self.plot.redraw()

    def action_back(self) -> None:
        self.dismiss()
