"""A sheet of facts: names in a column of their own, values beside them, broken where they are too long.

What must stay true:

- What is broken goes on beneath its own value, never beneath the name: it can be read at any width.
- What is written is printable: `Written` paints it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, zip_longest
from typing import Final, NamedTuple

from textual import events
from textual.geometry import Size
from textual.strip import Strip

from grapevine_tui.text import broken, cells
from grapevine_tui.widgets.written import Line, Part, Written

GAP: Final = 2  # between name and value
GUTTER: Final = 4  # between two columns
COLUMNS_FROM: Final = 100  # cells; below it lines would be broken too often
UNEVEN: Final = (
    0.15  # of all lines: so far from the middle the cut may be for the sake of a heading
)
LEAST_VALUE: Final = 12  # cells; where there are fewer beside the names, values stand beneath them
MOST_NAME: Final = (
    0.4  # of the width; a name that takes more has its value beneath it, and pushes no other
)


class Fact(NamedTuple):
    """A name and what there is to say, in a tone. No name: a line across; no value: a heading."""

    name: str
    value: str
    tone: str = "text"


def lay_out(facts: Sequence[Fact], width_cells: int) -> list[Line]:
    """The lines of `facts`, each at most `width_cells` where that is possible at all."""
    return [line for fact in _each_laid_out(facts, width_cells) for line in fact]


def _each_laid_out(facts: Sequence[Fact], width_cells: int) -> list[list[Line]]:
    taken = [cells(fact.name) for fact in facts if fact.value]
    names = max((each for each in taken if each <= width_cells * MOST_NAME), default=0) + GAP
    return [_lines(fact, names, width_cells) for fact in facts]


def _lines(fact: Fact, names: int, width_cells: int) -> list[Line]:
    """`names` is how wide the column of names is."""
    name, value, tone = fact
    if not name:
        return [(Part(each, tone),) for each in broken(value, width_cells)]
    if not value:
        return [(Part(name, "section"),)]
    if width_cells - names >= LEAST_VALUE and cells(name) <= names - GAP:
        first, *others = broken(value, width_cells - names)
        column = Part(name + " " * (names - cells(name)), "dim")
        indented = [(Part(" " * names, "dim"), Part(each, tone)) for each in others]
        return [(column, Part(first, tone)), *indented]
    beneath = broken(value, width_cells - GAP)
    return [
        (Part(name, "dim"),),
        *((Part(" " * GAP, "dim"), Part(each, tone)) for each in beneath),
    ]


def side_by_side(facts: Sequence[Fact], width_cells: int) -> list[Line]:
    """The lines of `facts` in two columns of about the same height; a heading stays with what it heads."""
    half = (width_cells - GUTTER) // 2
    heights = list(accumulate(map(len, _each_laid_out(facts, half)), initial=0))

    def unevenness(at: int) -> float:
        return abs(heights[at] / (heights[-1] or 1) - 0.5)

    headings = [at for at, fact in enumerate(facts) if fact.name and not fact.value and at]
    anywhere = [at for at in range(1, len(facts)) if facts[at - 1].value]
    cut = min(headings, key=unevenness, default=0)
    if unevenness(cut) > UNEVEN:
        cut = min(anywhere, key=unevenness, default=cut)
    left, right = lay_out(facts[:cut], half), lay_out(facts[cut:], half)
    return [_beside(one, other, half) for one, other in zip_longest(left, right, fillvalue=())]


def _beside(left: Line, right: Line, half: int) -> Line:
    used = sum(cells(part.text) for part in left)
    return (*left, Part(" " * (half - used + GUTTER), "dim"), *right) if right else left


class Sheet(Written):
    """Facts that scroll; its size is theirs where the style leaves that to it. With `columns` they stand
    in two where one would be too high."""

    def __init__(self, *, columns: bool = False, name_in_dom: str = "sheet") -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._has_columns = columns
        self._facts: Sequence[Fact] = ()
        self._laid_for = 0  # cells

    def show(self, facts: Sequence[Fact]) -> None:
        """Have these facts from now on; paints the lines that differ."""
        self._facts = facts
        self.write(self._laid_out())

    @property
    def _width(self) -> int:
        return self.room or self.app.size.width

    def _laid_out(self) -> list[Line]:
        width = self._laid_for = self._width
        lines = lay_out(self._facts, width)
        if self._has_columns and width >= COLUMNS_FROM and len(lines) > self.size.height:
            return side_by_side(self._facts, width)
        return lines

    def on_resize(self, event: events.Resize) -> None:
        self._lines = self._laid_out()
        self.virtual_size = Size(self.size.width, len(self._lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if (
            self._laid_for != self._width
        ):  # shown for the first time, or a scrollbar came: no word is cut
            self._lines = self._laid_out()
        return super().render_line(y)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        lines = lay_out(self._facts, container.width)
        return max((sum(cells(part.text) for part in line) for line in lines), default=0)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(lay_out(self._facts, width))
