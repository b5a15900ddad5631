"""Every setting with its value and where that came from; changed in place, applied and saved by one key.

What must stay true: what is shown is what was merged, never what somebody typed and nobody checked; no
secret is among it; nothing is lost by leaving without being asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from grapevine_proto.errors import GrapevineError
from grapevine_tui.editing import Editing, Saved, is_editable, is_live, value_words
from grapevine_tui.folders import home
from grapevine_tui.keys import SETTINGS
from grapevine_tui.layers import CHANGED, Value
from grapevine_tui.query import EVERYTHING, parse
from grapevine_tui.screens.question import Question
from grapevine_tui.settings import Settings
from grapevine_tui.template import reasons
from grapevine_tui.text import ELLIPSIS, broken, printable
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.draft import presentable
from grapevine_tui.widgets.editbar import EditBar
from grapevine_tui.widgets.filterbar import FilterBar
from grapevine_tui.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.widgets.keyline import KeyLine
from grapevine_tui.widgets.sheet import Fact
from grapevine_tui.widgets.tables import filter_part, title

COLUMNS: Final = (
    Column("setting", 20, grows=2),
    Column("value", 12, grows=4),
    Column("from", 10, grows=4, rank=2),
    Column("applies", 8, rank=1),
)
HOME: Final = "~"
REASON_LINES: Final = 4
REASON_INDENT: Final = 2  # cells, on either side


def home_words(text: str) -> str:
    """A path of this user's, shortened."""
    own = str(home() or "/")
    return text.replace(own, HOME, 1) if own != "/" else text


def setting_row(each: Value) -> Row:
    """`each` as a line of the table."""
    is_own = each.origin == "default" or each.origin.startswith("profile ")
    is_changed = each.origin == CHANGED
    when = "now" if is_live(each.name) else "at start"
    words = value_words(each.value)
    return Row(
        each.name,
        (
            Cell(each.name, "key" if is_editable(each.name) else "dim"),
            Cell(printable(words) or "-", "warn" if is_changed else "text" if words else "dim"),
            Cell(
                printable(home_words(each.origin)),
                "warn" if is_changed else "dim" if is_own else "accent",
            ),
            Cell(when if is_editable(each.name) else "-", "dim"),
        ),
    )


def saved_words(saved: Saved) -> str:
    """What became of ctrl+s, in one or two sentences."""
    where = home_words(str(saved.path))
    words = [f"saved in {where}" if saved.path else "applied; a demonstration saves nothing"]
    if not saved.keeps_comments:
        words.append("its comments could not be kept")
    if saved.restart:
        words.append(f"from the next start on: {', '.join(saved.restart)}")
    words += [f"there {origin} will win over {name}" for name, origin in saved.overruled.items()]
    return "; ".join(words)


class SettingsScreen(Screen[None]):
    """The table, a line to change a value in, and the reason for the setting under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(SETTINGS)

    class Applied(Message):
        """These are the settings now."""

        def __init__(self, settings: Settings) -> None:
            super().__init__()
            self.settings = settings

    class Dropped(Message):
        """These edits were dropped; `editing` can take them back."""

        def __init__(self, editing: Editing, edits: Mapping[str, Any]) -> None:
            super().__init__()
            self.editing = editing
            self.edits = edits

    def __init__(self, editing: Editing) -> None:
        super().__init__(name="settings")
        self._editing = editing
        self._reasons = reasons()
        self._edited = ""  # the setting that the line is open for
        self.table = Grid(COLUMNS, name_in_dom="settings", chooses="Change")
        self.filter_bar = FilterBar(name_in_dom="settings-filter")
        self.edit_bar = EditBar()
        self._reason = Static(id="reason", markup=False)

    def compose(self) -> ComposeResult:
        yield self.table
        yield self._reason
        yield self.filter_bar
        yield self.edit_bar
        yield KeyLine()

    def on_mount(self) -> None:
        self.show()
        self.set_focus(self.table)
        self.watch(self.table, "cursor_at", self._explain)

    def show(self) -> None:
        """Show all settings as they would be."""
        self.table.show([setting_row(each) for each in self._editing.shown])
        count = len(self._editing.pending)
        unsaved = [(f"{count} changed, ctrl+s saves", "$warning")] if count else []
        filtered = filter_part(self.table.wanted, len(self.table.rows))
        number = len(self._editing.settings.values)
        self.table.border_title = title(f"Settings {number}", *unsaved, *filtered)
        self._explain()

    def _explain(self) -> None:
        name = self.table.cursor_key
        words = self._reasons.get(name, "") if isinstance(name, str) else ""
        lines = list(broken(words, max(1, self.size.width - 2 * REASON_INDENT)))
        if len(lines) > REASON_LINES:
            lines[REASON_LINES - 1 :] = [lines[REASON_LINES - 1].rstrip(".,;:") + ELLIPSIS]
        self._reason.update(Content("\n".join(lines)))
        self._reason.display = bool(words)

    def on_resize(self) -> None:
        self._explain()

    # Changing

    def on_grid_chosen(self, message: Grid.Chosen) -> None:
        message.stop()
        name = message.key
        if not isinstance(name, str):
            return
        value = self._editing.value(name).value
        if not is_editable(name):
            self.app.notify(f"{name} is chosen at the start only", markup=False)
        elif isinstance(value, bool):
            self._change(name, "false" if value else "true")
        elif presentable(value_words(value)) != value_words(value):
            self.app.notify(
                f"{name} holds what cannot be typed: change it in the file", markup=False
            )
        else:
            self._edited = name
            self.edit_bar.ask(name, value_words(value))

    def on_edit_bar_changed(self, message: EditBar.Changed) -> None:
        try:
            self._editing.check(self._edited, message.text)
        except (GrapevineError, OSError) as error:
            self.edit_bar.say(str(error))
        else:
            self.edit_bar.say("")

    def on_edit_bar_kept(self, message: EditBar.Kept) -> None:
        if self._change(self._edited, message.text):
            self._close()

    def on_edit_bar_left(self) -> None:
        self._close()

    def _close(self) -> None:
        self.edit_bar.close()
        self.set_focus(self.table)

    def _change(self, name: str, text: str) -> bool:
        """Whether `text` was right."""
        try:
            self._editing.change(name, text)
        except (GrapevineError, OSError) as error:
            if self.edit_bar.display:
                self.edit_bar.say(str(error))
            else:
                self.app.notify(printable(str(error)), severity="warning", markup=False)
            return False
        self.show()
        return True

    async def action_save(self) -> None:
        """Apply and save what was changed."""
        if not self._editing.pending:
            self.app.notify("nothing was changed", markup=False)
            return
        try:
            saved = await self._editing.keep()
        except (GrapevineError, OSError) as error:
            words = error.strerror if isinstance(error, OSError) and error.strerror else error
            self.app.notify(f"not saved: {printable(str(words))}", severity="error", markup=False)
        else:
            self.app.notify(printable(saved_words(saved)), timeout=10, markup=False)
            self.post_message(self.Applied(self._editing.settings))
        self.show()

    # Looking

    def action_filter(self) -> None:
        self.filter_bar.ask("settings", self.table.wanted.text, "words from:flag applies:now -not")

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        self.table.want(parse(message.text) if message.text.strip() else EVERYTHING)
        self.show()

    def on_filter_bar_closed(self, message: FilterBar.Closed) -> None:
        if message.is_dropped:
            self.table.want(EVERYTHING)
        self.show()
        self.set_focus(self.table)

    def action_back(self) -> None:
        """Clear the filter; where there is none, go back, and ask before changes are dropped."""
        if self.table.wanted:
            self.table.want(EVERYTHING)
            self.show()
        elif not self._editing.pending:
            self.dismiss()
        else:
            facts = [Fact(name, "changed") for name in self._editing.pending]
            question = Question("Leave without saving?", facts, yes="Discard", no="Stay")
            self.app.push_screen(question, self._leave)

    def _leave(self, is_meant: bool | None) -> None:
        if is_meant:
            self.post_message(self.Dropped(self._editing, self._editing.drop()))
            self.dismiss()
