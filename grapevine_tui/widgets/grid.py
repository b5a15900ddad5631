"""A table that paints only the lines that changed.

What must stay true:

- Rows are plain tuples of printable cells; a row keeps its key. The cursor stays on the first line until
  somebody moves it, and from then on with the key when rows are sorted anew or come and go.
- Rows come in an order of their own; `s` and `r` put them in that of any column instead, and a query
  leaves out those that do not match it. Both are shown, one in the heading, one by who entitles.
- Of a new set of rows only the lines that differ on the screen are painted again (Textual's
  DataTable repaints whole and measured 158 ms stalls here with thousands of rows).
- Columns that do not fit are left out by rank; what is left over goes to those that grow: first for
  words that would be cut, then to each its share.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import var
from textual.strip import Strip

from grapevine_proto.ids import PeerId
from grapevine_tui.keys import TABLES
from grapevine_tui.query import EVERYTHING, Query, matches_fields
from grapevine_tui.text import broken, cells, fit
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.look import Piece, bar, paint
from grapevine_tui.widgets.painted import CURSOR_HERE, PaintedView

MEASURED_ROWS: Final = 200  # whose words the columns are made to fit
NO_MATCH: Final = "Nothing matches. esc clears the filter."
SIGNS: Final = {False: "▲", True: "▼"}  # rising, falling


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
    """`alarm` paints the whole line so that it catches the eye. `order` holds what each column is
    sorted by; empty: the words themselves."""

    key: Hashable
    cells: tuple[Cell, ...]
    alarm: bool = False
    order: tuple[Any, ...] = ()

    def looks_like(self, other: Row) -> bool:
        return self.cells == other.cells and self.alarm == other.alarm

    def value(self, column: int) -> Any:
        """What the row is sorted by in that column."""
        return self.order[column] if self.order else self.cells[column].text.casefold()


class Sorting(NamedTuple):
    """By which column, and whether the highest comes first."""

    column: int
    is_falling: bool = False


def _fields(names: Sequence[str], row: Row) -> dict[str, str]:
    """What a query may look into: the row's words by column, and the id it is kept by."""
    found = {name: cell.text.lower() for name, cell in zip(names, row.cells, strict=True) if name}
    key = row.key[1] if isinstance(row.key, tuple) else row.key
    if isinstance(key, PeerId):
        found["id"] = str(key)
    found["from"] = found.get("peer", "")
    return found


def share_width(
    columns: Sequence[Column], width_cells: int, needs: Sequence[int] = ()
) -> list[int]:
    """The width of each column, 0 for one that is left out; one cell stands between two. `needs`: what
    the words in each would take."""
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
    wants = {index: max(0, needs[index] - widths[index]) for index in growers if needs}
    wanted, room = sum(wants.values()), max(0, spare)
    for index, want in wants.items():
        given = want if wanted <= room else want * room // wanted
        widths[index] += given
        spare -= given
    shares = sum(columns[index].grows for index in growers)
    for index in growers:
        if spare > 0:
            widths[index] += spare * columns[index].grows // shares
    if spare > 0 and growers:  # what the division left over
        used = sum(widths) + len(shown) - 1
        widths[growers[-1]] += width_cells - used
    return widths


class Grid(PaintedView):
    """Rows under a heading that stays. Enter posts `Chosen` with the key of the row; `chooses` says on
    the key line what that does."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(TABLES)

    class Chosen(Message):
        """Enter, or a click on the line that has the cursor."""

        def __init__(self, grid: Grid, key: Hashable) -> None:
            super().__init__()
            self.grid = grid
            self.key = key

        @property
        def control(self) -> Grid:
            return self.grid

    cursor_at: var[Hashable | None] = var(None)
    """The key of the row under the cursor, for those who watch."""

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        empty: str = "",
        name_in_dom: str,
        newest_first: bool = False,
        chooses: str = "",
    ) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._chooses = chooses
        self._columns = tuple(columns)
        self._empty = empty
        self._all: list[Row] = []
        self._rows: list[Row] = []  # those that are wanted, in the order that is
        self.sorting: Sorting | None = None
        self.wanted = EVERYTHING
        self._newest_first = (
            newest_first  # whoever looks away from such rows wants the latest again
        )
        self._cursor = 0
        self._is_placed = False  # by hand
        self._widths: list[int] = []
        self._measured = 0  # the width they were shared out of

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def count(self) -> int:
        """How many rows there are, wanted or not."""
        return len(self._all)

    @property
    def cursor_key(self) -> Hashable | None:
        """The key of the row under the cursor, None where there are no rows."""
        return self._rows[self._cursor].key if self._rows else None

    def head(self, columns: Sequence[Column], *, empty: str) -> None:
        """Have other columns from now on; the next rows are for these."""
        self._columns = tuple(columns)
        self._empty = empty
        self._measured = 0
        self.sorting = None
        self._all = []
        self._take([])
        self.refresh()

    def show(self, rows: list[Row]) -> None:
        """Have these rows from now on; paints the lines that differ."""
        self._all = rows
        self._take(self._arranged(rows))

    def want(self, query: Query) -> None:
        """Show those rows alone that match."""
        if query != self.wanted:
            self.wanted = query
            self._take(self._arranged(self._all))

    def _arranged(self, rows: list[Row]) -> list[Row]:
        if self.wanted:
            names = [column.title for column in self._columns]
            rows = [row for row in rows if matches_fields(self.wanted, _fields(names, row))]
        if self.sorting is not None:
            column, is_falling = self.sorting
            rows = sorted(rows, key=lambda row: row.value(column), reverse=is_falling)
        return rows

    def _take(self, rows: list[Row]) -> None:
        old, old_cursor, key = self._rows, self._cursor, self.cursor_key
        was_seen = 0 <= old_cursor - self.scroll_offset.y < max(1, self.size.height - 1)
        self._rows = rows
        places = (index for index, row in enumerate(rows) if self._is_placed and row.key == key)
        self._cursor = next(places, max(0, min(self._cursor, len(rows) - 1)))
        if len(old) != len(rows):
            self._measure()
            self.refresh()
        else:
            for index, (before, after) in enumerate(zip(old, rows, strict=True)):
                if not before.looks_like(after) or (
                    old_cursor != self._cursor and index in (old_cursor, self._cursor)
                ):
                    self.refresh_line(index + 1)
        if was_seen and self._cursor != old_cursor:
            self._reveal()
        self.cursor_at = self.cursor_key

    def _needs(self) -> list[int]:
        """The cells that the words of each column take."""
        rows = self._rows[:MEASURED_ROWS]
        return [
            max((cells(row.cells[index].text) for row in rows), default=0)
            for index in range(len(self._columns))
        ]

    def _measure(self) -> None:
        self._measured = 0  # other rows, other words
        # One line more for the heading, which takes the first line of the view.
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)

    def on_blur(self) -> None:
        if self._newest_first:
            self._move_to(0)

    def on_resize(self, event: events.Resize) -> None:
        self._measure()
        self._reveal()
        self.refresh()

    # Painting

    def render_line(self, y: int) -> Strip:
        width = self.room
        if width - 2 != self._measured:  # a scrollbar came or went
            self._measured = width - 2
            self._widths = share_width(self._headed(), self._measured, self._needs())
        base = self.inks.base
        if y == 0:
            return self._heading(width, base)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._rows):
            return self._vacant(y - 1, width, base)
        row = self._rows[index]
        if row.alarm:
            base += self.inks.ground("alarm")
        if index == self._cursor and self.has_focus:
            base += self.inks.ground("cursor")
        return paint(self._pieces(row), width, base)

    def _vacant(self, line: int, width: int, base: Style) -> Strip:
        """Where there are no rows, why."""
        if not self._rows:
            words = list(broken(NO_MATCH if self._all else self._empty, width - 2))
            if line < len(words):
                return paint([Piece(" " + words[line], self.inks.ink("empty"))], width, base)
        return Strip.blank(width, base)

    def _headed(self) -> list[Column]:
        """The columns, the one that rows are sorted by with room for the sign behind its title."""
        at = self.sorting.column if self.sorting is not None else -1
        return [
            each._replace(width=max(each.width, cells(each.title) + 1)) if index == at else each
            for index, each in enumerate(self._columns)
        ]

    def _heading(self, width: int, base: Style) -> Strip:
        style, lit = self.inks.ink("heading"), self.inks.ink("accent")
        pieces = [Piece(" ", style)]
        for index, (column, size) in enumerate(zip(self._columns, self._widths, strict=False)):
            if not size:
                continue
            is_sorted = self.sorting is not None and self.sorting.column == index
            # The sign stands with its title, and a blank before the next.
            sign = SIGNS[self.sorting.is_falling] if self.sorting is not None and is_sorted else ""
            words = fit(f"{column.title}{sign}", size, right=column.right)
            pieces += [Piece(words, lit if is_sorted else style), Piece(" ", style)]
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
        self._is_placed = self._cursor > 0
        self.refresh_line(before + 1)
        self.refresh_line(self._cursor + 1)
        self._reveal()
        self.cursor_at = self.cursor_key

    def _reveal(self) -> None:
        """Bring the cursor's line into view."""
        body = self.size.height - 1
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self._cursor >= top + body:
            self.scroll_to(y=self._cursor - body + 1, animate=False)

    def on_click(self, event: events.Click) -> None:
        line = event.get_content_offset(self)
        if line is None:
            return
        if line.y == 0:
            self._sort_at(line.x)
            return
        index = line.y - 1 + self.scroll_offset.y
        if index < len(self._rows):
            was_there = index == self._cursor and event.chain > 1
            self._move_to(index)
            if was_there:
                self.action_choose()

    def key_words(self, action: str) -> str:
        """What a key does now."""
        return self._chooses if action == "choose" else ""

    @property
    def is_cursor_seen(self) -> bool:
        """Whether the line that keys act upon is lit and on the screen."""
        if not self._rows:
            return False
        at = self._cursor - self.scroll_offset.y
        return self.screen.focused is self and 0 <= at < max(1, self.size.height - 1)

    def find_cursor(self) -> bool:
        """Whether a key may act. Where the cursor was not seen it is brought into view instead."""
        if self.is_cursor_seen:
            return True
        if self._rows:
            self.focus()
            self._reveal()
            self.app.notify(CURSOR_HERE, markup=False)
        return False

    def action_choose(self) -> None:
        if self.find_cursor():
            self.post_message(self.Chosen(self, self._rows[self._cursor].key))

    def _sortable(self) -> list[int]:
        """The columns that are on the screen and have a name."""
        return [
            index
            for index, (column, size) in enumerate(zip(self._columns, self._widths, strict=False))
            if size and column.title
        ]

    def sort_by(self, sorting: Sorting | None) -> None:
        """Have the rows in this order from now on; None: in their own."""
        self.sorting = sorting
        self._measured = 0  # the sign takes a cell
        self._take(self._arranged(self._all))
        self.refresh()

    def _sort_at(self, x: int) -> None:
        """A click on a heading: by that column, and once more the other way."""
        at = 1
        for index, size in enumerate(self._widths):
            if size and at <= x < at + size + 1 and self._columns[index].title:
                is_again = self.sorting == Sorting(index)
                self.sort_by(Sorting(index, is_falling=is_again))
                return
            at += size + 1 if size else 0

    def action_sort(self) -> None:
        """By the next column; after the last one in the rows' own order again."""
        columns = self._sortable()
        here = self.sorting.column if self.sorting is not None else -1
        following = [each for each in columns if each > here]
        self.sort_by(Sorting(following[0]) if following else None)

    def action_reverse(self) -> None:
        """The other way round; rows in their own order are sorted by the first column first."""
        if self.sorting is None:
            self.action_sort()
        if self.sorting is not None:
            self.sort_by(self.sorting._replace(is_falling=not self.sorting.is_falling))

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._cursor + by * max(1, self.size.height - 2))

    def action_first(self) -> None:
        self._move_to(0)

    def action_last(self) -> None:
        self._move_to(len(self._rows) - 1)
