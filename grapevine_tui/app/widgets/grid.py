"""A table that repaints only the lines that changed.

Invariants:

- Rows are tuples of printable cells with a key. The cursor stays on the first line until the user moves
  it; from then on it follows its row's key when rows are sorted, added or removed.
- Rows have a default order; `s` and `r` sort by a column, and a filter hides rows that do not match. The
  header shows the sort order, and the panel's title the filter.
- `set_rows` repaints only lines that differ on the screen. Textual's DataTable repaints everything, which
  stalled the app for 158 ms with thousands of rows.
- Columns that do not fit are dropped by rank. Spare cells go to growing columns: first to content that
  would be cut, then by share.
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
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.charts import bar
from grapevine_tui.app.widgets.line_widget import (
    CURSOR_MOVED_TEXT,
    LineScrollView,
    Mark,
    Span,
    render_spans,
)
from grapevine_tui.config.keymap import TABLE_KEYS
from grapevine_tui.host.query import MATCH_ALL, Query, matches_row
from grapevine_tui.text import cells, pad, wrap

MIN_CHANGED_LINES: Final = 50  # beyond it, all that is on the screen is repainted at once
MAX_MEASURED_ROWS: Final = 200  # whose content the columns are fitted to
NO_MATCH: Final = "Nothing matches. esc clears the filter."
# Titles of the columns that one letter sorts by, in whatever table.
SORT_TITLES: Final = {
    "name": ("peer", "name", "author", "setting", "key"),
    "rtt": ("rtt",),
    "load": ("in/s", "/s", "allowed"),
    "zone": ("zone",),
}
SORT_ARROWS: Final = {False: "▲", True: "▼"}  # by `is_descending`


class Column(NamedTuple):
    """A column of at least `min_width` cells. `grow` is its share of spare cells. Without room the column
    with the highest `drop_rank` is dropped first; 0 is never dropped."""

    title: str
    min_width: int
    is_right_aligned: bool = False
    grow: int = 0
    drop_rank: int = 0


class Cell(NamedTuple):
    """Printable text in a tone; with a `fraction`, a bar before the text."""

    text: str
    tone: str = "text"
    fraction: float | None = None


class Row(NamedTuple):
    """A row of cells. `is_alarm` highlights the line; `mark` puts a sign in front.

    `sort_values` holds a sort value per column, None for one that is not known, which comes last in either
    direction; if empty, rows are sorted by their text.
    """

    key: Hashable
    cells: tuple[Cell, ...]
    is_alarm: bool = False
    sort_values: tuple[Any, ...] = ()
    mark: Mark | None = None

    def is_same_display(self, other: Row) -> bool:
        return (self.cells, self.is_alarm, self.mark) == (other.cells, other.is_alarm, other.mark)

    def sort_value(self, column: int) -> Any:
        """Return the value that `column` is sorted by."""
        return self.sort_values[column] if self.sort_values else self.cells[column].text.casefold()


class SortOrder(NamedTuple):
    """The column that rows are sorted by, and the direction."""

    column: int
    is_descending: bool = False


def _query_fields(names: Sequence[str], row: Row) -> dict[str, str]:
    """Return the fields that a filter can match: the row's text by column, and the ID that is its key."""
    named = zip(names, row.cells, strict=True)
    fields = {name.lower(): cell.text.lower() for name, cell in named if name}
    key = row.key[1] if isinstance(row.key, tuple) else row.key
    if isinstance(key, PeerId):
        fields["id"] = str(key)
    fields.setdefault("from", fields.get("peer", ""))
    fields.setdefault("tag", fields.get("tags", ""))
    return fields


def fit_columns(
    columns: Sequence[Column], width_cells: int, content_widths: Sequence[int] = ()
) -> list[int]:
    """Return the width of each column, 0 for a dropped one, for a table of `width_cells`.

    One cell separates columns. `content_widths` are the widths that the content would need."""
    shown = set(range(len(columns)))

    def min_total() -> int:
        return sum(columns[index].min_width for index in shown) + max(0, len(shown) - 1)

    for index in sorted(shown, key=lambda each: -columns[each].drop_rank):
        if min_total() <= width_cells or not columns[index].drop_rank:
            break
        shown.discard(index)
    widths = [columns[index].min_width if index in shown else 0 for index in range(len(columns))]
    spare = width_cells - min_total()
    growing = [index for index in sorted(shown) if columns[index].grow]
    missing = {
        index: max(0, content_widths[index] - widths[index]) for index in growing if content_widths
    }
    total_missing, available = sum(missing.values()), max(0, spare)
    for index, missing_cells in missing.items():
        granted = (
            missing_cells
            if total_missing <= available
            else missing_cells * available // total_missing
        )
        widths[index] += granted
        spare -= granted
    total_grow = sum(columns[index].grow for index in growing)
    for index in growing:
        if spare > 0:
            widths[index] += spare * columns[index].grow // total_grow
    if spare > 0 and growing:  # the remainder of the division
        used = sum(widths) + len(shown) - 1
        widths[growing[-1]] += width_cells - used
    return widths


class Grid(LineScrollView):
    """Rows under a fixed header. Enter posts `RowSelected` with the row's key.

    `empty` is the text of a table without rows. `newest_first` moves the cursor back to the first row when
    the focus leaves. `select_label` is the footer's label of Enter."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(TABLE_KEYS)

    class RowSelected(Message):
        """Enter was pressed, or the cursor's row double-clicked."""

        def __init__(self, grid: Grid, key: Hashable) -> None:
            super().__init__()
            self.grid = grid
            self.key = key

        @property
        def control(self) -> Grid:
            return self.grid

    cursor_row_key: var[Hashable | None] = var(None)
    """The key of the row under the cursor, as a reactive attribute."""

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        empty: str = "",
        id: str,
        newest_first: bool = False,
        select_label: str = "",
    ) -> None:
        super().__init__(id=id)
        self._select_label = select_label
        self._columns = tuple(columns)
        self._empty = empty
        self._all_rows: list[Row] = []
        self._visible_rows: list[Row] = []  # filtered and sorted
        self.row_order: SortOrder | None = None
        self.filter_query = MATCH_ALL
        self._newest_first = newest_first
        self._cursor = 0
        self._is_cursor_placed = False  # by the user
        self._widths: list[int] = []
        self._measured_width = 0  # the table width that `_widths` were fitted to

    @property
    def query_fields(self) -> tuple[str, ...]:
        """The fields that a filter can have: the columns, the ID, and what means the same everywhere."""
        titles = (column.title.lower() for column in self._columns if column.title)
        return tuple(dict.fromkeys((*titles, "id", "from", "tag")))

    @property
    def rows(self) -> Sequence[Row]:
        return self._visible_rows

    @property
    def count(self) -> int:
        """The number of rows, without the filter."""
        return len(self._all_rows)

    @property
    def cursor_key(self) -> Hashable | None:
        """The key of the row under the cursor, or None without rows."""
        return self._visible_rows[self._cursor].key if self._visible_rows else None

    def set_columns(self, columns: Sequence[Column], *, empty: str) -> None:
        """Replace the columns, drop all rows and reset the sort order."""
        self._columns = tuple(columns)
        self._empty = empty
        self._measured_width = 0
        self.row_order = None
        self._all_rows = []
        self._replace_rows([])
        self.refresh()

    def set_empty_text(self, text: str) -> None:
        """Replace the printable text that is shown while there are no rows."""
        if text != self._empty:
            self._empty = text
            self.refresh()

    @property
    def cursor_index(self) -> int:
        """The line of the cursor, from 0; 0 without rows."""
        return self._cursor

    def go_to(self, index: int) -> None:
        """Put the cursor on that line, or the nearest one."""
        self._move_cursor(max(0, min(index, len(self._visible_rows) - 1)))
        self.call_after_refresh(
            self._scroll_to_cursor
        )  # a table that was just opened has no size yet

    def go_to_key(self, key: Hashable) -> bool:
        """Put the cursor on the row of that key; return whether there is one."""
        found = (index for index, row in enumerate(self._visible_rows) if row.key == key)
        index = next(found, None)
        if index is not None:
            self.go_to(index)
        return index is not None

    def set_rows(self, rows: list[Row]) -> None:
        """Replace the rows and repaint the lines that differ."""
        self._all_rows = rows
        self._replace_rows(self._filter_and_sort(rows))

    def set_filter(self, query: Query) -> None:
        """Show only rows that match."""
        if query != self.filter_query:
            self.filter_query = query
            self._replace_rows(self._filter_and_sort(self._all_rows))

    def _filter_and_sort(self, rows: list[Row]) -> list[Row]:
        if self.filter_query:
            rows = [row for row in rows if self._is_match(row)]
        if self.row_order is not None:
            column, is_descending = self.row_order
            known = [row for row in rows if row.sort_value(column) is not None]
            known.sort(key=lambda row: row.sort_value(column), reverse=is_descending)
            rows = [*known, *(row for row in rows if row.sort_value(column) is None)]
        return rows

    def _is_match(self, row: Row) -> bool:
        """Return whether the filter lets that row through."""
        names = [column.title for column in self._columns]
        return matches_row(self.filter_query, _query_fields(names, row))

    def _replace_rows(self, rows: list[Row]) -> None:
        old, old_cursor, key = self._visible_rows, self._cursor, self.cursor_key
        was_visible = 0 <= old_cursor - self.scroll_offset.y < max(1, self.size.height - 1)
        self._visible_rows = rows
        matches = (
            index for index, row in enumerate(rows) if self._is_cursor_placed and row.key == key
        )
        self._cursor = next(matches, max(0, min(self._cursor, len(rows) - 1)))
        if len(old) != len(rows):
            self._update_virtual_size()
            self.refresh()
        else:
            changed = [
                index
                for index, (before, after) in enumerate(zip(old, rows, strict=True))
                if not before.is_same_display(after)
                or (old_cursor != self._cursor and index in (old_cursor, self._cursor))
            ]
            if len(changed) > max(MIN_CHANGED_LINES, self.size.height):
                self.refresh()
            else:
                for index in changed:
                    self.refresh_line(index + 1)
        if was_visible and self._cursor != old_cursor:
            self._scroll_to_cursor()
        self.cursor_row_key = self.cursor_key

    def _content_widths(self) -> list[int]:
        """Return the widest content of each column, in cells."""
        rows = self._visible_rows[:MAX_MEASURED_ROWS]
        return [
            max((cells(row.cells[index].text) for row in rows), default=0)
            for index in range(len(self._columns))
        ]

    def _update_virtual_size(self) -> None:
        self._measured_width = 0  # the content changed
        # One more line for the header, which takes the first line of the view.
        self.virtual_size = Size(self.size.width, len(self._visible_rows) + 1)

    def on_blur(self) -> None:
        if self._newest_first:
            self._move_cursor(0)

    def on_resize(self, event: events.Resize) -> None:
        self._update_virtual_size()
        self._scroll_to_cursor()
        self.refresh()

    # Rendering

    def render_line(self, y: int) -> Strip:
        width = self.line_cells
        if width - 2 != self._measured_width:  # the content or the scrollbar changed
            self._measured_width = width - 2
            self._widths = fit_columns(
                self._columns_with_arrow(), self._measured_width, self._content_widths()
            )
        base = self.tone_styles.base
        if y == 0:
            return self._heading_line(width, base)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._visible_rows):
            return self._empty_line(y - 1, width, base)
        row = self._visible_rows[index]
        if row.is_alarm:
            base += self.tone_styles.background("alarm")
        if index == self._cursor and self.has_focus:
            base += self.tone_styles.background("cursor")
        return render_spans(self._row_spans(row), width, base)

    def _empty_line(self, line: int, width: int, base: Style) -> Strip:
        """Return a line that says why there are no rows."""
        if not self._visible_rows:
            lines = list(wrap(NO_MATCH if self._all_rows else self._empty, width - 2))
            if line < len(lines):
                return render_spans(
                    [Span(" " + lines[line], self.tone_styles.foreground("empty"))], width, base
                )
        return Strip.blank(width, base)

    def _columns_with_arrow(self) -> list[Column]:
        """Return the columns, with room for the arrow behind the title of the sorted one."""
        at = self.row_order.column if self.row_order is not None else -1
        return [
            each._replace(min_width=max(each.min_width, cells(each.title) + 1))
            if index == at
            else each
            for index, each in enumerate(self._columns)
        ]

    def _heading_line(self, width: int, base: Style) -> Strip:
        style, sorted_style = (
            self.tone_styles.foreground("heading"),
            self.tone_styles.foreground("accent"),
        )
        spans = [Span(" ", style)]
        for index, (column, size) in enumerate(zip(self._columns, self._widths, strict=False)):
            if not size:
                continue
            is_sorted = self.row_order is not None and self.row_order.column == index
            # The arrow follows its title directly, with a blank before the next column.
            arrow = (
                SORT_ARROWS[self.row_order.is_descending]
                if self.row_order is not None and is_sorted
                else ""
            )
            text = pad(f"{column.title}{arrow}", size, right=column.is_right_aligned)
            spans += [Span(text, sorted_style if is_sorted else style), Span(" ", style)]
        return render_spans(spans, width, base)

    def _row_spans(self, row: Row) -> list[Span]:
        blank = Style.null()
        spans = [self.mark_span(row.mark)]
        for column, cell, size in zip(self._columns, row.cells, self._widths, strict=False):
            if not size:
                continue
            style = (
                self.mark_style(row.mark) if row.mark else self.tone_styles.foreground(cell.tone)
            )
            if cell.fraction is None:
                spans.append(Span(pad(cell.text, size, right=column.is_right_aligned), style))
            else:
                filled, track = bar(cell.fraction, size - cells(cell.text))
                spans.append(Span(filled, style))
                empty = self.tone_styles.foreground("track")
                spans.append(Span(track, empty))
                spans.append(Span(cell.text, style))
            spans.append(Span(" ", blank))
        return spans

    # Keys and mouse

    def _move_cursor(self, index: int) -> None:
        if not self._visible_rows:
            return
        before = self._cursor
        self._cursor = max(0, min(index, len(self._visible_rows) - 1))
        self._is_cursor_placed = self._cursor > 0
        self.refresh_line(before + 1)
        self.refresh_line(self._cursor + 1)
        self._scroll_to_cursor()
        self.cursor_row_key = self.cursor_key

    def _scroll_to_cursor(self) -> None:
        """Scroll the cursor's line into view."""
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
            self._sort_by_heading_at(line.x)
            return
        index = line.y - 1 + self.scroll_offset.y
        if index < len(self._visible_rows):
            was_selected = index == self._cursor and event.chain > 1
            self._move_cursor(index)
            if was_selected:
                self.action_select()

    def key_label(self, action: str) -> str:
        """Return the label of Enter; "" for other keys."""
        return self._select_label if action == "select" else ""

    @property
    def is_cursor_visible(self) -> bool:
        """Whether the line that keys act on is highlighted and on the screen."""
        if not self._visible_rows:
            return False
        at = self._cursor - self.scroll_offset.y
        return self.screen.focused is self and 0 <= at < max(1, self.size.height - 1)

    def ensure_cursor_visible(self) -> bool:
        """Return whether a key may act now; if the cursor was out of sight, bring it into view instead."""
        if self.is_cursor_visible:
            return True
        if self._visible_rows:
            self.focus()
            self._scroll_to_cursor()
            self.app.notify(CURSOR_MOVED_TEXT, markup=False)
        return False

    def action_select(self) -> None:
        if self.ensure_cursor_visible():
            self.post_message(self.RowSelected(self, self._visible_rows[self._cursor].key))

    def _sortable_columns(self) -> list[int]:
        """Return the visible columns that have a title."""
        return [
            index
            for index, (column, size) in enumerate(zip(self._columns, self._widths, strict=False))
            if size and column.title
        ]

    @property
    def sortable_titles(self) -> list[str]:
        return [self._columns[index].title for index in self._sortable_columns()]

    def sort_by_title(self, title: str) -> bool:
        """Sort by the column of that title, or the first that begins so: numbers descending, and the other
        way round at a second call. Return whether there is one."""
        columns = [each.title for each in self._columns]
        found = [index for index, each in enumerate(columns) if each and each == title.strip()]
        found += [
            index for index, each in enumerate(columns) if each and each.startswith(title.strip())
        ]
        if not found:
            return False
        is_number = self._columns[found[0]].is_right_aligned
        order = SortOrder(found[0], is_descending=is_number)
        is_again = self.row_order == order
        self.sort_by(order._replace(is_descending=not is_number) if is_again else order)
        self._move_cursor(0)
        return True

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Sorting by a letter is a key only where the table has such a column."""
        if action != "sort_by":
            return True
        titles = {each.title for each in self._columns}
        return any(each in titles for each in SORT_TITLES[str(parameters[0])])

    def action_sort_by(self, kind: str) -> None:
        """Sort by the first column that the table has of those of `SORT_TITLES`."""
        titles = {each.title for each in self._columns}
        self.sort_by_title(next(each for each in SORT_TITLES[kind] if each in titles))

    def sort_by(self, order: SortOrder | None) -> None:
        """Sort the rows, or restore their default order if None."""
        self.row_order = order
        self._measured_width = 0  # the arrow takes a cell
        self._replace_rows(self._filter_and_sort(self._all_rows))
        self.refresh()

    def _sort_by_heading_at(self, x: int) -> None:
        """Sort by the column whose header is at cell `x`; a second time in descending order."""
        at = 1
        for index, size in enumerate(self._widths):
            if size and at <= x < at + size + 1 and self._columns[index].title:
                is_again = self.row_order == SortOrder(index)
                self.sort_by(SortOrder(index, is_descending=is_again))
                return
            at += size + 1 if size else 0

    def action_sort(self) -> None:
        """Sort by the next column; after the last one, restore the default order."""
        columns = self._sortable_columns()
        current = self.row_order.column if self.row_order is not None else -1
        following = [each for each in columns if each > current]
        self.sort_by(SortOrder(following[0]) if following else None)

    def action_reverse(self) -> None:
        """Reverse the sort order; rows in default order are first sorted by the first column."""
        if self.row_order is None:
            self.action_sort()
        if self.row_order is not None:
            self.sort_by(self.row_order._replace(is_descending=not self.row_order.is_descending))

    def action_move(self, by: int) -> None:
        self._move_cursor(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_cursor(self._cursor + by * max(1, self.size.height - 2))

    def action_first(self) -> None:
        self._move_cursor(0)

    def action_last(self) -> None:
        self._move_cursor(len(self._visible_rows) - 1)
