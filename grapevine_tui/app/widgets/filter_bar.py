"""The line in which one types what to look for.

What must stay true: it obeys nothing that is pasted into it, and each change is told at once.
"""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from grapevine_tui.app.widgets.draft import escape_controls


class LineInput(Input):
    """The input itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep"),
        Binding("escape", "cancel", "Drop"),
    ]

    class Canceled(Message):
        """Escape."""

    def start_editing(self, text: str) -> None:
        """Go on typing behind `text`, which is no change, and at once: the next letters may be typed
        already."""
        with self.prevent(Input.Changed):
            self.value = text
        self.cursor_position = len(text)
        self.screen.set_focus(self)

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        lines = escape_controls(event.text).split("\n")
        self.insert_text_at_cursor(lines[0][:1000])

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        # Textual does not know that this one writes a character, and would offer it on the key line.
        return key == "slash" or super().check_consume_key(key, character)

    def action_cancel(self) -> None:
        self.post_message(self.Canceled())


class FilterBar(Horizontal):
    """A prompt and the input. `Changed`, `Kept` and `Canceled` are posted by it."""

    class Changed(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Closed(Message):
        """Done with typing; the filter stays, unless `is_cleared`."""

        def __init__(self, is_cleared: bool) -> None:
            super().__init__()
            self.is_cleared = is_cleared

    def __init__(self, *, id: str = "filter") -> None:
        super().__init__(id=id, classes="filterbar")
        self._prompt = Static(Content("/"), classes="filterprompt", markup=False)
        self.line_input = LineInput(compact=True, placeholder="words", classes="wish")
        self.display = False

    def compose(self) -> ComposeResult:
        yield self._prompt
        yield self.line_input

    def open(self, label: str, text: str, hint: str) -> None:
        """Open the line over `label`, with what is looked for there already."""
        self._prompt.update(Content(f"/ {label}"))
        self.line_input.placeholder = hint
        self.display = True
        self.line_input.start_editing(text)

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(message.value))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self._close(is_cleared=not message.value.strip())

    def on_line_input_canceled(self, message: LineInput.Canceled) -> None:
        message.stop()
        self._close(is_cleared=True)

    def _close(self, *, is_cleared: bool) -> None:
        self.display = False
        self.post_message(self.Closed(is_cleared))
