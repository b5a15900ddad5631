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

from grapevine_tui.control.commands import complete_command
from grapevine_tui.text import escape

MAX_HISTORY_LINES: Final = 200
PLACEHOLDER: Final = "message to everyone · / command · esc keys · ? help"
CONFIRM_PASTE_CHARACTERS: Final = 2_000  # more, or more lines, may not be what one meant
CONFIRM_PASTE_LINES: Final = 20

# What a terminal would obey; what is merely unseen (joiners in emoji) stays as it was typed.
_CONTROL_CHARACTERS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape_controls(text: str) -> str:
    """`text` as it may stand in the box: line ends as they are, controls spelled out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL_CHARACTERS.sub(lambda match: escape(ord(match[0])), text)


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

    class Feedback(Message):
        """A key had nothing to do here; `text` say why."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Released(Message):
        """Escape: the keys belong to the panels again."""

    class LargePaste(Message):
        """So much that one may not have meant it; `insert` it if one did."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, get_names: Callable[[], tuple[str, ...]] = tuple) -> None:
        super().__init__(
            id="draft",
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
        )
        self._get_names = get_names
        self._history: list[str] = []
        self._history_index = 0  # in the history; its length: the line being written
        self._current_text = ""

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        # Textual does not know that this one writes a character, and would offer it on the key line.
        return key == "slash" or super().check_consume_key(key, character)

    def add_to_history(self, line: str) -> None:
        """Put a line into the history."""
        if not self._history or self._history[-1] != line:
            self._history.append(line)
            del self._history[:-MAX_HISTORY_LINES]
        self._history_index = len(self._history)

    def replace_text(self, text: str) -> None:
        """Have `text` in the box with the cursor behind it."""
        self.load_text(escape_controls(text))
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
        self.insert_paste(event.text)

    def insert_paste(self, text: str) -> None:
        """Insert what was pasted; where it is long, ask first. Its line ends stay: nothing is sent."""
        if (
            len(text) > CONFIRM_PASTE_CHARACTERS
            or text.count("\n") + text.count("\r") > CONFIRM_PASTE_LINES
        ):
            self.post_message(self.LargePaste(text))
        else:
            self.insert(escape_controls(text))

    # Completion

    @property
    def completions(self) -> tuple[str, ...]:
        """Whole lines that this may be the beginning of, while the cursor stands at its end."""
        text = self.text
        if not text.startswith("/") or self.cursor_location != self.document.end:
            return ()
        return tuple(each for each in complete_command(text, self._get_names()) if each != text)

    def update_suggestion(self) -> None:
        """Show what the first completion would add."""
        first = next(iter(self.completions), "")
        text = self.text
        self.suggestion = first[len(text) :].rstrip() if first.startswith(text) else ""

    def action_complete(self) -> None:
        """As far as all completions agree; where they part, as far as one goes: the next at each tab."""
        completions = self.completions
        if not completions:
            self.post_message(self.Feedback("nothing to complete; esc goes to the panels"))
            return
        lower = [each.lower() for each in completions]
        common = 0
        while common < len(lower[0]) and len({each[: common + 1] for each in lower}) == 1:
            common += 1
        self.replace_text(completions[0][:common] if common > len(self.text) else completions[0])

    def action_submit(self) -> None:
        line = self.text
        if line.strip():
            self.add_to_history(line)
        self.replace_text("")  # at once: the next letters may be typed already
        self.post_message(self.Submitted(line))

    def action_interrupt(self) -> None:
        """Copy what is selected; else clear the line, which stays in the history."""
        if self.selected_text:
            self.action_copy()
        elif self.text.strip():
            self.add_to_history(self.text)
            self.replace_text("")
            self.post_message(self.Feedback("cleared; up brings the line back"))
        else:
            self.replace_text("")
            self.post_message(self.Feedback("esc goes to the panels, and q there leaves"))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_release(self) -> None:
        self.post_message(self.Released())

    def action_earlier(self) -> None:
        if self.cursor_location[0] > 0 or not self._history_index:
            self.action_cursor_up()
            return
        if self._history_index == len(self._history):
            self._current_text = self.text
        self._history_index -= 1
        self.replace_text(self._history[self._history_index])

    def action_later(self) -> None:
        if self.cursor_location[0] < self.document.line_count - 1 or self._history_index == len(
            self._history
        ):
            self.action_cursor_down()
            return
        self._history_index += 1
        is_newest = self._history_index == len(self._history)
        self.replace_text(self._current_text if is_newest else self._history[self._history_index])
