"""A table that paints only the lines that changed.

What must stay true:

- Rows are plain tuples of printable cells; a row keeps its key, and the cursor stays with the key
  when rows are sorted anew or come and go.
- Of a new set of rows only the lines that differ on the screen are painted again (Textual's
  DataTable repaints whole and measured 158 ms stalls here with thousands of rows).
- Columns that do not fit are left out by rank; what is left over is shared by those that grow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar, NamedTuple

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from grapevine_tui.text import cells, fit
from grapevine_tui.widgets.look import Piece, bar, paint
from grapevine_tui.widgets.painted import PaintedView


class Column(NamedTuple):
    """`width` in cells is what it has at least; `grows`: its share of what is left over; `rank`:
    where there is no room the highest is left out first, 0 never."""

    title: str
    width: int
    right: bool = False
    grows: int = 0
    rank: int = 0


class Cell(NamedTuple):
    """Printable text in a tone; with a `fraction` a bar of it, in the column's whole width."""

    text: str
    tone: str = "text"
    fraction: float | None = None


class Row(NamedTuple):
    """`alarm` paints the whole line so that it catches the eye."""

    key: Hashable
    cells: tuple[Cell, ...]
    alarm: bool = False


def share_width(columns: Sequence[Column], width_cells: int) -> list[int]:
    """The width of each column, 0 for one that is left out; one cell stands between two."""
    shown = set(range(len(columns)))

    def needed() -> int:
        return sum(columns[index].width for index in shown) + max(0, len(shown) - 1)

    for index in sorted(shown, key=lambda each: -columns[each].rank):
        if needed() <= width_cells or not columns[index].rank:
            break
        shown.discard(index)
    widths = [columns[index].width if index in shown else 0 for index in range(len(columns))]
    spare = width_cells - needed()
    growers = [index for index in sorted(shown) if columns[index].grows]
    shares = sum(columns[index].grows for index in growers)
    for index in growers:
        if spare > 0:
            widths[index] += spare * columns[index].grows // shares
    if spare > 0 and growers:  # what the division left over
        used = sum(widths) + len(shown) - 1
        widths[growers[-1]] += width_cells - used
    return widths


class Grid(PaintedView):
    """Rows under a heading that stays. Enter posts `Chosen` with the key of the row."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Details"),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
    ]

    class Chosen(Message):
        """Enter, or a click on the line that has the cursor."""

        def __init__(self, grid: Grid, key: Hashable) -> None:
            super().__init__()
            self.grid = grid
            self.key = key

        @property
        def control(self) -> Grid:
            return self.grid

    def __init__(self, columns: Sequence[Column], *, empty: str = "", name_in_dom: str) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._columns = tuple(columns)
        self._empty = empty
        self._rows: list[Row] = []
        self._cursor = 0
        self._widths: list[int] = []
        self._measured = 0  # the width they were shared out of

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def cursor_key(self) -> Hashable | None:
        """The key of the row under the cursor, None where there are no rows."""
        return self._rows[self._cursor].key if self._rows else None

    def show(self, rows: list[Row]) -> None:
        """Have these rows from now on; paints the lines that differ."""
        old, old_cursor, key = self._rows, self._cursor, self.cursor_key
        self._rows = rows
        for index, row in enumerate(rows):
            if row.key == key:
                self._cursor = index
                break
        else:
            self._cursor = max(0, min(self._cursor, len(rows) - 1))
        if len(old) != len(rows):
            self._measure()
            self.refresh()
            return
        for index, (before, after) in enumerate(zip(old, rows, strict=True)):
            if before != after or (
                old_cursor != self._cursor and index in (old_cursor, self._cursor)
            ):
                self.refresh_line(index + 1)

    def _measure(self) -> None:
        # One line more for the heading, which takes the first line of the view.
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)

    def on_resize(self, event: events.Resize) -> None:
        self._measure()
        self.refresh()

    # Painting

    def render_line(self, y: int) -> Strip:
        width = self.room
        if width - 2 != self._measured:  # a scrollbar came or went
            self._measured = width - 2
            self._widths = share_width(self._columns, self._measured)
        base = self.inks.base
        if y == 0:
            return self._heading(width, base)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._rows):
            if not self._rows and y == 1 and self._empty:
                style = self.inks.ink("empty")
                return paint([Piece(" " + self._empty, style)], width, base)
            return Strip.blank(width, base)
        row = self._rows[index]
        if row.alarm:
            base += self.inks.ground("alarm")
        if index == self._cursor and self.has_focus:
            base += self.inks.ground("cursor")
        return paint(self._pieces(row), width, base)

    def _heading(self, width: int, base: Style) -> Strip:
        style = self.inks.ink("heading")
        pieces = [Piece(" ", style)]
        for column, size in zip(self._columns, self._widths, strict=False):
            if size:
                pieces.append(Piece(fit(column.title, size, right=column.right) + " ", style))
        return paint(pieces, width, base)

    def _pieces(self, row: Row) -> list[Piece]:
        blank = Style.null()
        pieces = [Piece(" ", blank)]
        for column, cell, size in zip(self._columns, row.cells, self._widths, strict=False):
            if not size:
                continue
            style = self.inks.ink(cell.tone)
            if cell.fraction is None:
                pieces.append(Piece(fit(cell.text, size, right=column.right), style))
            else:
                filled, track = bar(cell.fraction, size - cells(cell.text))
                pieces.append(Piece(filled, style))
                empty = self.inks.ink("track")
                pieces.append(Piece(track, empty))
                pieces.append(Piece(cell.text, style))
            pieces.append(Piece(" ", blank))
        return pieces

    # Keys and mouse

    def _move_to(self, index: int) -> None:
        if not self._rows:
            return
        before = self._cursor
        self._cursor = max(0, min(index, len(self._rows) - 1))
        self.refresh_line(before + 1)
        self.refresh_line(self._cursor + 1)
        body = self.size.height - 1
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self._cursor >= top + body:
            self.scroll_to(y=self._cursor - body + 1, animate=False)

    def on_click(self, event: events.Click) -> None:
        line = event.get_content_offset(self)
        if line is None or line.y == 0:
            return
        index = line.y - 1 + self.scroll_offset.y
        if index < len(self._rows):
            was_there = index == self._cursor and event.chain > 1
            self._move_to(index)
            if was_there:
                self.action_choose()

    def action_choose(self) -> None:
        if self._rows:
            self.post_message(self.Chosen(self, self._rows[self._cursor].key))

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._cursor + by * max(1, self.size.height - 2))

    def action_first(self) -> None:
        self._move_to(0)

    def action_last(self) -> None:
        self._move_to(len(self._rows) - 1)
