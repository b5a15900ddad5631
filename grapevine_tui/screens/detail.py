"""A screen in front of the others that shows one thing whole: a peer, a message, the counters.

What must stay true: facts are asked for anew while it stands open, so it never shows the past;
all values are printable.
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

from grapevine_tui.widgets.keyline import KeyLine
from grapevine_tui.widgets.sheet import Fact, Sheet

REFRESH_S = 0.5


class DetailScreen(Screen[None]):
    """`facts` is asked twice a second; None: the thing is gone, and the last facts stay with their time.

    `name` is the title; `kind`, one word, tells screens that stand behind each other apart.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="back"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("pagedown", "scroll(10)", "Page down", show=False),
        Binding("pageup", "scroll(-10)", "Page up", show=False),
        Binding("home,g", "scroll(-1000000)", "First", show=False),
        Binding("end,G", "scroll(1000000)", "Last", show=False),
        Binding("y", "copy(0)", "Copy"),
        Binding("Y", "copy(1)", "Copy the id"),
    ]

    class Copied(Message):
        """`text` was asked for."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(
        self,
        name: str,
        facts: Callable[[], Sequence[Fact] | None],
        *,
        copies: Sequence[str] = (),
        columns: bool = False,
        kind: str = "",
    ) -> None:
        super().__init__(name=kind or name.lower())
        self._copies = copies  # what y copies, and what Y
        self.sheet = Sheet(columns=columns)
        self._title = name
        self._facts = facts
        self._shown: Sequence[Fact] = ()
        self._gone_at = ""  # since when the thing is gone

    def compose(self) -> ComposeResult:
        self.sheet.border_title = Content(self._title)
        yield self.sheet
        yield KeyLine()

    def on_mount(self) -> None:
        self.show()
        self.set_interval(REFRESH_S, self.show)

    def show(self) -> None:
        """Ask for the facts and show them, if they are new."""
        facts = self._facts()
        if facts is None and not self._gone_at:
            self._gone_at = time.strftime("%H:%M:%S")
            self.sheet.border_subtitle = Content(f"no longer known: as of {self._gone_at}")
        elif facts is not None and self._gone_at:
            self._gone_at = ""
            self.sheet.border_subtitle = Content("")
        if facts is not None and facts != self._shown:
            self._shown = facts
            self.sheet.show(facts)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "copy" or bool(self._copies)

    def action_back(self) -> None:
        self.dismiss()

    def action_copy(self, which: int) -> None:
        if which < len(self._copies):
            self.post_message(self.Copied(self._copies[which]))

    def action_scroll(self, lines: int) -> None:
        self.sheet.scroll_relative(y=lines, animate=False)
