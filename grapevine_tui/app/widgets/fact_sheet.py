"""A scrolling list of facts: names in one column, wrapped values in the next.

Invariants:

- A wrapped value continues below itself, never below its name, at any width.
- Names and values are printable: `TextView` renders them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, zip_longest
from typing import Final, NamedTuple

from textual import events
from textual.geometry import Size
from textual.strip import Strip

from grapevine_tui.app.widgets.text_view import Line, StyledText, TextView
from grapevine_tui.text import cells, wrap

NAME_GAP_CELLS: Final = 2  # between name and value
COLUMN_GAP_CELLS: Final = 4  # between two columns
TWO_COLUMN_MIN_CELLS: Final = 100  # in a narrower sheet two columns would wrap too often
# Share of the lines by which a split at a heading may miss the middle.
MAX_IMBALANCE: Final = 0.15
MIN_VALUE_CELLS: Final = 12  # beside the names; with less room, values go below their names
# Share of the width. A longer name has its value below it and does not widen the column of names.
MAX_NAME_FRACTION: Final = 0.4


class Fact(NamedTuple):
    """A name and a value in a tone. Without a name the value spans the line; without a value the name is a
    heading."""

    name: str
    value: str
    tone: str = "text"


def layout_facts(facts: Sequence[Fact], width_cells: int) -> list[Line]:
    """Return the lines of `facts`, each at most `width_cells` wide where possible."""
    return [line for fact in _layout_each(facts, width_cells) for line in fact]


def _layout_each(facts: Sequence[Fact], width_cells: int) -> list[list[Line]]:
    name_cells = [cells(fact.name) for fact in facts if fact.value]
    name_column_cells = (
        max((each for each in name_cells if each <= width_cells * MAX_NAME_FRACTION), default=0)
        + NAME_GAP_CELLS
    )
    return [_fact_lines(fact, name_column_cells, width_cells) for fact in facts]


def _fact_lines(fact: Fact, name_column_cells: int, width_cells: int) -> list[Line]:
    """Return the lines of one fact; `name_column_cells` is the width of the column of names."""
    name, value, tone = fact
    if not name:
        return [(StyledText(each, tone),) for each in wrap(value, width_cells)]
    if not value:
        return [(StyledText(name, "section"),)]
    if (
        width_cells - name_column_cells >= MIN_VALUE_CELLS
        and cells(name) <= name_column_cells - NAME_GAP_CELLS
    ):
        first, *continuation = wrap(value, width_cells - name_column_cells)
        name_part = StyledText(name + " " * (name_column_cells - cells(name)), "dim")
        indented = [
            (StyledText(" " * name_column_cells, "dim"), StyledText(each, tone))
            for each in continuation
        ]
        return [(name_part, StyledText(first, tone)), *indented]
    value_lines = wrap(value, width_cells - NAME_GAP_CELLS)
    return [
        (StyledText(name, "dim"),),
        *(
            (StyledText(" " * NAME_GAP_CELLS, "dim"), StyledText(each, tone))
            for each in value_lines
        ),
    ]


def layout_two_columns(facts: Sequence[Fact], width_cells: int) -> list[Line]:
    """Return the lines of `facts` in two columns of similar height; headings stay with their facts."""
    column_cells = (width_cells - COLUMN_GAP_CELLS) // 2
    heights = list(accumulate(map(len, _layout_each(facts, column_cells)), initial=0))

    def imbalance(at: int) -> float:
        return abs(heights[at] / (heights[-1] or 1) - 0.5)

    headings = [at for at, fact in enumerate(facts) if fact.name and not fact.value and at]
    breaks = [at for at in range(1, len(facts)) if facts[at - 1].value]
    split_at = min(headings, key=imbalance, default=0)
    if imbalance(split_at) > MAX_IMBALANCE:
        split_at = min(breaks, key=imbalance, default=split_at)
    left, right = (
        layout_facts(facts[:split_at], column_cells),
        layout_facts(facts[split_at:], column_cells),
    )
    return [
        _join_columns(one, other, column_cells)
        for one, other in zip_longest(left, right, fillvalue=())
    ]


def _join_columns(left: Line, right: Line, column_cells: int) -> Line:
    used = sum(cells(part.text) for part in left)
    return (
        (*left, StyledText(" " * (column_cells - used + COLUMN_GAP_CELLS), "dim"), *right)
        if right
        else left
    )


class FactSheet(TextView):
    """Scrolling facts, sized to its content if the style says so. With `has_columns` it uses two columns if
    one does not fit the height."""

    def __init__(self, *, has_columns: bool = False, id: str = "sheet") -> None:
        super().__init__(id=id)
        self._has_columns = has_columns
        self._facts: Sequence[Fact] = ()
        self._layout_cells = 0  # the width that the lines were laid out for

    def set_facts(self, facts: Sequence[Fact]) -> None:
        """Replace the facts and repaint the lines that differ."""
        self._facts = facts
        self.set_lines(self._build_lines())

    @property
    def _width(self) -> int:
        return self.line_cells or self.app.size.width

    def _build_lines(self) -> list[Line]:
        width = self._layout_cells = self._width
        lines = layout_facts(self._facts, width)
        if self._has_columns and width >= TWO_COLUMN_MIN_CELLS and len(lines) > self.size.height:
            return layout_two_columns(self._facts, width)
        return lines

    def on_resize(self, event: events.Resize) -> None:
        self._lines = self._build_lines()
        self.virtual_size = Size(self.size.width, len(self._lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if self._layout_cells != self._width:  # first render, or a scrollbar appeared
            self._lines = self._build_lines()
        return super().render_line(y)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        lines = layout_facts(self._facts, container.width)
        return max((sum(cells(part.text) for part in line) for line in lines), default=0)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(layout_facts(self._facts, width))
