"""A screen in front with one table and a filter for it.

Invariants: `Esc` clears the filter; without one it goes back.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen

from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.app.widgets.input_bars import FilterBar
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.config.keymap import FRONT_SCREEN_KEYS
from grapevine_tui.filter_syntax import query_fault
from grapevine_tui.host.query import MATCH_ALL, parse_query


class TableScreen(Screen[None]):
    """Shows `table`. A subclass fills it in `show` and describes it in `build_title`."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(FRONT_SCREEN_KEYS)
    FILTER_HINT: ClassVar[str]
    """What can be typed into the filter."""

    def __init__(self, name: str, table: Grid) -> None:
        super().__init__(name=name)
        self._label = name
        self.table = table
        self.filter_bar = FilterBar(id=f"{name}-filter")

    @property
    def table_name(self) -> str:
        """What it shows, in one word."""
        return self._label

    def compose(self) -> ComposeResult:
        yield self.table
        yield self.filter_bar
        yield KeyFooter()

    def on_mount(self) -> None:
        self.show()
        self.table.focus()

    def show(self) -> None:
        """Show the current rows and the title."""
        raise NotImplementedError

    def build_title(self) -> Content:
        """Return the title for the rows that are shown."""
        raise NotImplementedError

    def update_title(self) -> None:
        new_title = self.build_title()
        if self.table.border_title != new_title.markup:
            self.table.border_title = new_title

    # Filter and navigation

    def action_filter(self) -> None:
        text = self.table.filter_query.text
        self.filter_bar.open(self._label, text, self.FILTER_HINT, self._filter_fault)

    def _filter_fault(self, text: str) -> str:
        return query_fault(parse_query(text), self.table.query_fields)

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        self.set_filter(message.text)

    def on_filter_bar_closed(self, message: FilterBar.Closed) -> None:
        if message.is_cleared:
            self.set_filter("")
        self.update_title()
        self.table.focus()

    def set_filter(self, text: str) -> None:
        """Show only rows that match; all if `text` is empty."""
        self.table.set_filter(parse_query(text) if text.strip() else MATCH_ALL)
        self.update_title()

    def action_back(self) -> None:
        """Clear the filter; without one, go back."""
        if self.table.filter_query:
            self.set_filter("")
        else:
            self.dismiss()
