"""The text area of the compose box, with its history, completion and paste handling.

Invariants:

- Characters typed here are text, never keys of the app. Tab and Enter stay in the box; Escape leaves it.
- A paste cannot control the terminal: control characters are escaped and line breaks kept. A large paste
  needs a confirmation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from grapevine_tui.control.slash_parser import KnownNames, complete_command
from grapevine_tui.text import escape

MAX_HISTORY_LINES: Final = 200
PLACEHOLDER: Final = "message to everyone · / command · esc keys · ? help"
NO_SENDING_PLACEHOLDER: Final = "nothing is sent from here · / command · esc keys · ? help"
CONFIRM_PASTE_CHARACTERS: Final = 2_000  # a larger paste, in either unit, may be a mistake
CONFIRM_PASTE_LINES: Final = 20

# Characters that a terminal obeys. Invisible ones that it does not (joiners in emoji) stay as typed.
_CONTROL_CHARACTERS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape_controls(text: str) -> str:
    """Return `text` with ``\\n`` line breaks and control characters escaped."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL_CHARACTERS.sub(lambda match: escape(ord(match[0])), text)


class Draft(TextArea):
    """The draft. Enter submits it, as `submit_label` says; alt+enter or ctrl+j inserts a line break."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send"),
        Binding("alt+enter,ctrl+j", "newline", "New line", show=False),
        Binding("escape", "release", "Panels"),
        Binding("up", "earlier", "Earlier line", show=False),
        Binding("down", "later", "Later line", show=False),
        Binding("tab,shift+tab", "complete", "Complete a command or a name", show=False),
        Binding("ctrl+c", "interrupt", "Copy the selection, else clear the line", show=False),
    ]

    submit_label = ""

    def key_label(self, action: str) -> str:
        """Return the label of Enter, if it has another than usual; "" for other keys."""
        return self.submit_label if action == "submit" else ""

    class Submitted(Message):
        """Enter was pressed on `line`."""

        def __init__(self, line: str) -> None:
            super().__init__()
            self.line = line

    class Feedback(Message):
        """A key did nothing, or something that is not visible; `text` says what."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Released(Message):
        """Escape was pressed: the focus goes to the panels."""

    class LargePaste(Message):
        """A large paste; the screen asks and then inserts `text`."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, get_names: Callable[[], KnownNames] = KnownNames) -> None:
        super().__init__(
            id="draft",
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
        )
        self._get_names = get_names
        self._history: list[str] = []
        self._history_index = 0  # len(_history): the line being written
        self._current_text = ""  # the line being written, while an older one is shown

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        # Textual does not count "slash" as a character and would offer its binding in the footer.
        return key == "slash" or super().check_consume_key(key, character)

    def add_to_history(self, line: str) -> None:
        """Add a line to the history."""
        if not self._history or self._history[-1] != line:
            self._history.append(line)
            del self._history[:-MAX_HISTORY_LINES]
        self._history_index = len(self._history)

    def replace_text(self, text: str) -> None:
        """Replace the draft by `text` and move the cursor to its end."""
        self.load_text(escape_controls(text))
        self.move_cursor(self.document.end)

    async def _on_key(self, event: events.Key) -> None:
        """Handle our keys in order. As priority bindings they would overtake the characters typed before
        them: Enter would send an incomplete line."""
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
        """Insert pasted text, or post `LargePaste`. Line breaks are kept and send nothing."""
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
        """Whole lines that complete the draft, while the cursor is at its end."""
        text = self.text
        if not text.startswith("/") or self.cursor_location != self.document.end:
            return ()
        return tuple(each for each in complete_command(text, self._get_names()) if each != text)

    def update_suggestion(self) -> None:
        """Suggest the first completion."""
        first = next(iter(self.completions), "")
        text = self.text
        self.suggestion = first[len(text) :].rstrip() if first.startswith(text) else ""

    def action_complete(self) -> None:
        """Insert the common prefix of all completions, else the next completion at each Tab."""
        completions = self.completions
        if not completions:
            self.post_message(self.Feedback("nothing to complete; esc leaves the compose box"))
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
        self.replace_text("")  # at once: the next characters may already be queued
        self.post_message(self.Submitted(line))

    def action_interrupt(self) -> None:
        """Copy the selection; else clear the line and keep it in the history."""
        if self.selected_text:
            self.action_copy()
        elif self.text.strip():
            self.add_to_history(self.text)
            self.replace_text("")
            self.post_message(self.Feedback("cleared; up restores the line"))
        else:
            self.replace_text("")
            self.post_message(self.Feedback("to quit, press esc, then q"))

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
