"""The text being written: its history, its completions, what may be pasted into it.

What must stay true:

- Letters typed here are letters, never keys of the app; tab and enter never leave the box, escape does.
- Nothing pasted can drive the terminal: controls are taken out, line ends kept; what is long is asked
  about first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from grapevine_tui.commands import complete
from grapevine_tui.text import escape

HISTORY: Final = 200
PLACEHOLDER: Final = "say something to everyone, or / for commands"
PASTE_CHARACTERS: Final = 2_000  # more, or more lines, may not be what one meant
PASTE_LINES: Final = 20

# What a terminal would obey; what is merely unseen (joiners in emoji) stays as it was typed.
_OBEYED: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def presentable(text: str) -> str:
    """`text` as it may stand in the box: line ends as they are, controls spelled out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _OBEYED.sub(lambda found: escape(ord(found[0])), text)


class Draft(TextArea):
    """The text being written. Enter sends, alt+enter or ctrl+j begins a new line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send"),
        Binding("alt+enter,ctrl+j", "newline", "New line", show=False),
        Binding("escape", "release", "Panels"),
        Binding("up", "earlier", "Earlier line", show=False),
        Binding("down", "later", "Later line", show=False),
        Binding("tab,shift+tab", "complete", "Complete a command or a name", show=False),
        Binding("ctrl+c", "interrupt", "Copy what is selected, else clear the line", show=False),
    ]

    class Submitted(Message):
        """Enter was pressed on `line`."""

        def __init__(self, line: str) -> None:
            super().__init__()
            self.line = line

    class NothingToDo(Message):
        """A key had nothing to do here; `words` say why."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Released(Message):
        """Escape: the keys belong to the panels again."""

    class PasteAsked(Message):
        """So much that one may not have meant it; `insert` it if one did."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, names: Callable[[], tuple[str, ...]] = tuple) -> None:
        super().__init__(
            id="draft",
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
        )
        self._names = names
        self._history: list[str] = []
        self._place = 0  # in the history; its length: the line being written
        self._kept = ""

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        # Textual does not know that this one writes a character, and would offer it on the key line.
        return key == "slash" or super().check_consume_key(key, character)

    def remember(self, line: str) -> None:
        """Put a line into the history."""
        if not self._history or self._history[-1] != line:
            self._history.append(line)
            del self._history[:-HISTORY]
        self._place = len(self._history)

    def fill(self, text: str) -> None:
        """Have `text` in the box with the cursor behind it."""
        self.load_text(presentable(text))
        self.move_cursor(self.document.end)

    async def _on_key(self, event: events.Key) -> None:
        """Take our keys in their turn. As priority bindings they would overtake the letters typed
        just before them, and a quick hand's Enter would send an empty line."""
        action = {
            "enter": self.action_submit,
            "escape": self.action_release,
            "up": self.action_earlier,
            "down": self.action_later,
            "tab": self.action_complete,
            "shift+tab": self.action_complete,
            "ctrl+c": self.action_interrupt,
        }.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            action()

    async def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        self.take_paste(event.text)

    def take_paste(self, text: str) -> None:
        """Insert what was pasted; where it is long, ask first. Its line ends stay: nothing is sent."""
        if len(text) > PASTE_CHARACTERS or text.count("\n") + text.count("\r") > PASTE_LINES:
            self.post_message(self.PasteAsked(text))
        else:
            self.insert(presentable(text))

    # Completion

    @property
    def completions(self) -> tuple[str, ...]:
        """Whole lines that this may be the beginning of, while the cursor stands at its end."""
        text = self.text
        if not text.startswith("/") or self.cursor_location != self.document.end:
            return ()
        return tuple(each for each in complete(text, self._names()) if each != text)

    def update_suggestion(self) -> None:
        """Show what the first completion would add."""
        first = next(iter(self.completions), "")
        text = self.text
        self.suggestion = first[len(text) :].rstrip() if first.startswith(text) else ""

    def action_complete(self) -> None:
        """As far as all completions agree; where they part, as far as one goes: the next at each tab."""
        found = self.completions
        if not found:
            self.post_message(self.NothingToDo("nothing to complete; esc goes to the panels"))
            return
        lower = [each.lower() for each in found]
        common = 0
        while common < len(lower[0]) and len({each[: common + 1] for each in lower}) == 1:
            common += 1
        self.fill(found[0][:common] if common > len(self.text) else found[0])

    def action_submit(self) -> None:
        line = self.text
        if line.strip():
            self.remember(line)
        self.fill("")  # at once: the next letters may be typed already
        self.post_message(self.Submitted(line))

    def action_interrupt(self) -> None:
        """Copy what is selected; else clear the line, which stays in the history."""
        if self.selected_text:
            self.action_copy()
        elif self.text.strip():
            self.remember(self.text)
            self.fill("")
            self.post_message(self.NothingToDo("cleared; up brings the line back"))
        else:
            self.fill("")
            self.post_message(self.NothingToDo("esc goes to the panels, and q there leaves"))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_release(self) -> None:
        self.post_message(self.Released())

    def action_earlier(self) -> None:
        if self.cursor_location[0] > 0 or not self._place:
            self.action_cursor_up()
            return
        if self._place == len(self._history):
            self._kept = self.text
        self._place -= 1
        self.fill(self._history[self._place])

    def action_later(self) -> None:
        if self.cursor_location[0] < self.document.line_count - 1 or self._place == len(
            self._history
        ):
            self.action_cursor_down()
            return
        self._place += 1
        is_newest = self._place == len(self._history)
        self.fill(self._kept if is_newest else self._history[self._place])
