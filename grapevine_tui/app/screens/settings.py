"""The settings screen: every setting with its value and source, edited in place and saved together.

Invariants: only merged and validated values are shown; no secret is shown; leaving with unsaved edits
needs a confirmation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from grapevine_proto.errors import GrapevineError
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.draft import escape_controls
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.input_bars import EditBar
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.app.widgets.titles import filter_status, format_title
from grapevine_tui.config.edit import SaveResult, SettingsEditor, format_value, is_editable, is_live
from grapevine_tui.config.keymap import SETTINGS_KEYS
from grapevine_tui.config.settings import Settings
from grapevine_tui.config.sources import EDITED_ORIGIN, SettingValue
from grapevine_tui.config.template import setting_help
from grapevine_tui.config.user_files import home_directory
from grapevine_tui.text import ELLIPSIS, printable, wrap

COLUMNS: Final = (
    Column("setting", 20, grow=2),
    Column("value", 12, grow=4),
    Column("from", 10, grow=4, drop_rank=2),
    Column("applies", 8, drop_rank=1),
)
HOME_SYMBOL: Final = "~"
MAX_REASON_LINES: Final = 4
REASON_INDENT_CELLS: Final = 2  # on either side


def format_home_path(text: str) -> str:
    """Return a path with the home directory shortened to ``~``."""
    home_path = str(home_directory() or "/")
    return text.replace(home_path, HOME_SYMBOL, 1) if home_path != "/" else text


def setting_row(each: SettingValue) -> Row:
    """Return the table row of a setting."""
    is_default = each.origin == "default" or each.origin.startswith("profile ")
    is_changed = each.origin == EDITED_ORIGIN
    applies = "live" if is_live(each.name) else "restart"
    text = format_value(each.value)
    return Row(
        each.name,
        (
            Cell(each.name, "key" if is_editable(each.name) else "dim"),
            Cell(printable(text) or "-", "warn" if is_changed else "text" if text else "dim"),
            Cell(
                printable(format_home_path(each.origin)),
                "warn" if is_changed else "dim" if is_default else "accent",
            ),
            Cell(applies if is_editable(each.name) else "-", "dim"),
        ),
    )


def format_save_result(result: SaveResult) -> str:
    """Return what saving did, as text for a toast."""
    path = format_home_path(str(result.path))
    sentences = [f"saved in {path}" if result.path else "applied (a demo saves nothing)"]
    if not result.comments_preserved:
        sentences.append("comments in it were lost")
    if result.pending_restart:
        sentences.append(f"applies after a restart: {', '.join(result.pending_restart)}")
    sentences += [
        f"{name} is overridden by {origin} after a reload or restart"
        for name, origin in result.overridden_by.items()
    ]
    return "; ".join(sentences)


class SettingsScreen(TableScreen, inherit_bindings=False):
    """A table of settings, an edit bar, and the help of the setting under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(SETTINGS_KEYS)
    FILTER_HINT = "words from:flag applies:live -not"

    class Applied(Message):
        """The settings were applied and saved."""

        def __init__(self, settings: Settings) -> None:
            super().__init__()
            self.settings = settings

    class EditsDiscarded(Message):
        """Unsaved edits were discarded; `editor.restore` brings them back."""

        def __init__(self, editor: SettingsEditor, edits: Mapping[str, Any]) -> None:
            super().__init__()
            self.editor = editor
            self.edits = edits

    def __init__(self, editor: SettingsEditor) -> None:
        super().__init__("settings", Grid(COLUMNS, id="settings", select_label="Change"))
        self._editor = editor
        self._reasons = setting_help()
        self._edited_name = ""  # the setting in the edit bar
        self.edit_bar = EditBar()
        self._reason = Static(id="reason", markup=False)

    def compose(self) -> ComposeResult:
        yield self.table
        yield self._reason
        yield self.filter_bar
        yield self.edit_bar
        yield KeyFooter()

    def on_mount(self) -> None:
        self.watch(self.table, "cursor_row_key", self._show_reason)

    def show(self) -> None:
        """Show all settings with the unsaved edits applied."""
        self.table.set_rows([setting_row(each) for each in self._editor.values_with_restart_notes])
        self.update_title()
        self._show_reason()

    def build_title(self) -> Content:
        count = len(self._editor.pending)
        unsaved = [(f"{count} changed, ctrl+s saves", "$warning")] if count else []
        filtered = filter_status(self.table.filter_query, len(self.table.rows))
        number = len(self._editor.settings.values)
        return format_title(f"Settings {number}", *unsaved, *filtered)

    def _show_reason(self) -> None:
        name = self.table.cursor_key
        text = self._reasons.get(name, "") if isinstance(name, str) else ""
        lines = list(wrap(text, max(1, self.size.width - 2 * REASON_INDENT_CELLS)))
        if len(lines) > MAX_REASON_LINES:
            lines[MAX_REASON_LINES - 1 :] = [lines[MAX_REASON_LINES - 1].rstrip(".,;:") + ELLIPSIS]
        self._reason.update(Content("\n".join(lines)))
        self._reason.display = bool(text)

    def on_resize(self) -> None:
        self._show_reason()

    # Editing

    def on_grid_row_selected(self, message: Grid.RowSelected) -> None:
        message.stop()
        name = message.key
        if not isinstance(name, str):
            return
        value = self._editor.value(name).value
        if not is_editable(name):
            self.app.notify(f"{name} can be set only at start", markup=False)
        elif isinstance(value, bool):
            self._change_setting(name, "false" if value else "true")
        elif escape_controls(format_value(value)) != format_value(value):
            self.app.notify(f"{name} cannot be typed here: change it in the file", markup=False)
        else:
            self._edited_name = name
            self.edit_bar.open(name, format_value(value))

    def on_edit_bar_changed(self, message: EditBar.Changed) -> None:
        try:
            self._editor.check(self._edited_name, message.text)
        except (GrapevineError, OSError) as error:
            self.edit_bar.show_error(str(error))
        else:
            self.edit_bar.show_error("")

    def on_edit_bar_submitted(self, message: EditBar.Submitted) -> None:
        if self._change_setting(self._edited_name, message.text):
            self._close_edit_bar()

    def on_edit_bar_canceled(self) -> None:
        self._close_edit_bar()

    def _close_edit_bar(self) -> None:
        self.edit_bar.close()
        self.set_focus(self.table)

    def _change_setting(self, name: str, text: str) -> bool:
        """Set an edited value; return whether it was valid."""
        try:
            self._editor.set_value(name, text)
        except (GrapevineError, OSError) as error:
            if self.edit_bar.display:
                self.edit_bar.show_error(str(error))
            else:
                self.app.notify(printable(str(error)), severity="warning", markup=False)
            return False
        self.show()
        return True

    async def action_save(self) -> None:
        """Apply and save the edits."""
        if not self._editor.pending:
            self.app.notify("no changes", markup=False)
            return
        try:
            result = await self._editor.save_async()
        except (GrapevineError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self.app.notify(f"not saved: {printable(str(reason))}", severity="error", markup=False)
        else:
            self.app.notify(printable(format_save_result(result)), timeout=10, markup=False)
            self.post_message(self.Applied(self._editor.settings))
        self.show()

    def action_back(self) -> None:
        """Clear the filter; without one, go back, with a confirmation if there are unsaved edits."""
        if self.table.filter_query or not self._editor.pending:
            super().action_back()
        else:
            facts = [Fact(name, "changed") for name in self._editor.pending]
            confirm_screen = ConfirmScreen("Discard changes?", facts, yes="Discard", no="Stay")
            self.app.push_screen(confirm_screen, self._discard_and_dismiss)

    def _discard_and_dismiss(self, is_confirmed: bool | None) -> None:
        if is_confirmed:
            self.post_message(self.EditsDiscarded(self._editor, self._editor.discard()))
            self.dismiss()
