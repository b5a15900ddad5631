"""The line in which one changes a value, with what is wrong with it beneath.

What must stay true: what is wrong is told while one types; nothing is changed before enter.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from grapevine_tui.app.widgets.filter_bar import LineInput
from grapevine_tui.text import printable


class EditBar(Vertical):
    """A prompt, the input and a word on it."""

    class Changed(Message):
        """Another letter: is that right?"""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Submitted(Message):
        """Enter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Canceled(Message):
        """Escape."""

    def __init__(self) -> None:
        super().__init__(id="edit")
        self._prompt = Static(classes="filterprompt", markup=False)
        self.line_input = LineInput(compact=True, classes="wish")
        self._error_label = Static(id="edit-word", markup=False)
        self.display = False

    def compose(self) -> ComposeResult:
        with Horizontal(classes="filterbar"):
            yield self._prompt
            yield self.line_input
        yield self._error_label

    def open(self, name: str, text: str) -> None:
        """Open the line on the setting `name`."""
        self._prompt.update(Content(f"{name} ="))
        self.show_error("")
        self.display = True
        self.line_input.start_editing(text)

    def show_error(self, text: str) -> None:
        """What is wrong; empty: nothing."""
        self._error_label.update(Content(printable(text)))
        self._error_label.display = bool(text)

    def close(self) -> None:
        self.display = False

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(message.value))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.post_message(self.Submitted(message.value))

    def on_line_input_canceled(self, message: LineInput.Canceled) -> None:
        message.stop()
        self.post_message(self.Canceled())
