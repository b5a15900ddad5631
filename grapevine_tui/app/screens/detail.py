"""The base of detail screens: a fact sheet about one peer, member or message, the status or the help.

Invariants: the facts are fetched again while the screen is open; all values are printable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen

from grapevine_tui.app.widgets.fact_sheet import Fact, FactSheet
from grapevine_tui.app.widgets.key_footer import KeyFooter

REFRESH_INTERVAL_S = 0.5


class DetailScreen(Screen[None]):
    """Shows the facts from `get_facts`, called twice a second.

    If it returns None the subject no longer exists; the last facts stay, with their time. `kind`, one word,
    identifies the screen on the stack. `copy_texts` are the texts that the keys y and Y copy.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="back"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("pagedown", "scroll(10)", "Page down", show=False),
        Binding("pageup", "scroll(-10)", "Page up", show=False),
        Binding("home,g", "scroll(-1000000)", "First", show=False),
        Binding("end,G", "scroll(1000000)", "Last", show=False),
        Binding("y", "copy(0)", "Copy", id="copy"),
        Binding("Y", "copy(1)", "Copy ID", id="copy_id"),
    ]

    class CopyRequested(Message):
        """Copy `text` to the clipboard."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(
        self,
        title: str,
        get_facts: Callable[[], Sequence[Fact] | None],
        *,
        copy_texts: Sequence[str] = (),
        has_columns: bool = False,
        kind: str = "",
    ) -> None:
        super().__init__(name=kind or title.lower())
        self._copy_texts = copy_texts
        self.sheet = FactSheet(has_columns=has_columns)
        self._title = title
        self._get_facts = get_facts
        self._shown_facts: Sequence[Fact] = ()
        self._gone_since = ""  # the time when `get_facts` first returned None

    def compose(self) -> ComposeResult:
        self.sheet.border_title = Content(self._title)
        yield self.sheet
        yield KeyFooter()

    def on_mount(self) -> None:
        self.show()
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def show(self) -> None:
        """Fetch the facts and show them if they changed."""
        facts = self._get_facts()
        if facts is None and not self._gone_since:
            self._gone_since = time.strftime("%H:%M:%S")
            self.sheet.border_subtitle = Content(f"no longer known: as of {self._gone_since}")
        elif facts is not None and self._gone_since:
            self._gone_since = ""
            self.sheet.border_subtitle = Content("")
        if facts is not None and facts != self._shown_facts:
            self._shown_facts = facts
            self.sheet.set_facts(facts)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "copy" or bool(self._copy_texts)

    def action_back(self) -> None:
        self.dismiss()

    def action_copy(self, index: int) -> None:
        if index < len(self._copy_texts):
            self.post_message(self.CopyRequested(self._copy_texts[index]))

    def action_scroll(self, lines: int) -> None:
        self.sheet.scroll_relative(y=lines, animate=False)
