"""The line in which one changes a value, with what is wrong with it beneath.

What must stay true: what is wrong is told while one types; nothing is changed before enter.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from grapevine_tui.text import printable
from grapevine_tui.widgets.filterbar import Wish


class EditBar(Vertical):
    """A prompt, the input and a word on it."""

    class Changed(Message):
        """Another letter: is that right?"""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Kept(Message):
        """Enter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """Escape."""

    def __init__(self) -> None:
        super().__init__(id="edit")
        self._prompt = Static(classes="filterprompt", markup=False)
        self.wish = Wish(compact=True, classes="wish")
        self._word = Static(id="edit-word", markup=False)
        self.display = False

    def compose(self) -> ComposeResult:
        with Horizontal(classes="filterbar"):
            yield self._prompt
            yield self.wish
        yield self._word

    def ask(self, name: str, text: str) -> None:
        """Open the line on the setting `name`."""
        self._prompt.update(Content(f"{name} ="))
        self.say("")
        self.display = True
        self.wish.take_up(text)

    def say(self, words: str) -> None:
        """What is wrong; empty: nothing."""
        self._word.update(Content(printable(words)))
        self._word.display = bool(words)

    def close(self) -> None:
        self.display = False

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(message.value))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.post_message(self.Kept(message.value))

    def on_wish_dropped(self, message: Wish.Dropped) -> None:
        message.stop()
        self.post_message(self.Left())
