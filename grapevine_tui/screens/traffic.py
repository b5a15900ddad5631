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
from grapevine_tui.widgets.tables import title

REFRESH_S: Final = 0.5
LABEL_CELLS: Final = 9


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
        self._drawn: dict[int, list[str]] = {}
        self._top: dict[int, float] = {}

    def redraw(self) -> None:
        """Take the samples as they are now."""
        rows = self._rows()
        width = max(0, self.size.width - LABEL_CELLS - 2)
        for index, curve in enumerate(CURVES):
            values = self._values(curve.of(self._model), width * 2)
            self._top[index] = max(values, default=0.0)
            self._drawn[index] = graph(values, width, rows)
        self.refresh()

    def _values(self, series: Series, points: int) -> list[float]:
        source: Iterable[float] = series.coarse if self.span.step_s == COARSE else series.fine
        return resample(list(source), self.span.samples, points)

    def _rows(self) -> int:
        """Lines of one curve beneath its heading."""
        return max(1, (self.size.height - 1) // len(CURVES) - 1)

    def on_resize(self) -> None:
        self.redraw()

    def line(self, y: int, width: int) -> list[Piece]:
        dim = self.inks.ink("dim")
        index, row = divmod(y, self._rows() + 1)
        if index >= len(CURVES):
            return self._axis(width) if y == len(CURVES) * (self._rows() + 1) else []
        curve = CURVES[index]
        tone = self.inks.ink(curve.tone)
        if row == 0:
            now = curve.of(self._model).latest
            return [
                Piece(f" {curve.name}  ", tone),
                Piece(f"now {count_words(now)}/s  ", self.inks.ink("text")),
                Piece(f"highest {count_words(self._top.get(index, 0.0))}/s", dim),
            ]
        lines = self._drawn.get(index, [])
        label = count_words(self._top.get(index, 0.0)) if row == 1 else "0" * (row == self._rows())
        drawn = lines[row - 1] if row - 1 < len(lines) else ""
        return [Piece(fit(label, LABEL_CELLS - 1, right=True) + " ", dim), Piece(drawn, tone)]

    def _axis(self, width: int) -> list[Piece]:
        room = max(0, width - LABEL_CELLS - 2)
        left, right = f"{self.span.words} ago", "now"
        gap = max(1, room - len(left) - len(right))
        return [Piece(" " * LABEL_CELLS + left + " " * gap + right, self.inks.ink("dim"))]


class TrafficScreen(Screen[None]):
    """Curves that move on; the same key as opened it changes the span."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(SPAN, FRONT[:1])

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.plot = Plot(model)

    def compose(self) -> ComposeResult:
        yield self.plot
        yield KeyLine()

    def on_mount(self) -> None:
        self._entitle()
        self.set_interval(REFRESH_S, self.plot.redraw)

    def _entitle(self) -> None:
        parts = [
            (each.words, "$accent" if each is self.plot.span else "$text-muted") for each in SPANS
        ]
        self.plot.border_title = title("Traffic", *parts)
        self.plot.border_subtitle = Content("of several in one point the highest")

    def action_span(self) -> None:
        """The next longer span, then the shortest again."""
        self.plot.span = SPANS[(SPANS.index(self.plot.span) + 1) % len(SPANS)]
        self._entitle()
        self.plot.redraw()

    def action_back(self) -> None:
        self.dismiss()
