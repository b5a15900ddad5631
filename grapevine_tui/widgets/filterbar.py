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

from grapevine_tui.widgets.draft import presentable


class Wish(Input):
    """The input itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep"),
        Binding("escape", "drop", "Drop"),
    ]

    class Dropped(Message):
        """Escape."""

    def take_up(self, text: str) -> None:
        """Go on typing behind `text`, which is no change, and at once: the next letters may be typed
        already."""
        with self.prevent(Input.Changed):
            self.value = text
        self.cursor_position = len(text)
        self.screen.set_focus(self)

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        lines = presentable(event.text).split("\n")
        self.insert_text_at_cursor(lines[0][:1000])

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        # Textual does not know that this one writes a character, and would offer it on the key line.
        return key == "slash" or super().check_consume_key(key, character)

    def action_drop(self) -> None:
        self.post_message(self.Dropped())


class FilterBar(Horizontal):
    """A prompt and the input. `Changed`, `Kept` and `Dropped` are posted by it."""

    class Changed(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Closed(Message):
        """Done with typing; the filter stays, unless `is_dropped`."""

        def __init__(self, is_dropped: bool) -> None:
            super().__init__()
            self.is_dropped = is_dropped

    def __init__(self, *, name_in_dom: str = "filter") -> None:
        super().__init__(id=name_in_dom, classes="filterbar")
        self._prompt = Static(Content("/"), classes="filterprompt", markup=False)
        self.wish = Wish(compact=True, placeholder="words", classes="wish")
        self.display = False

    def compose(self) -> ComposeResult:
        yield self._prompt
        yield self.wish

    def ask(self, what: str, text: str, hint: str) -> None:
        """Open the line over `what`, with what is looked for there already."""
        self._prompt.update(Content(f"/ {what}"))
        self.wish.placeholder = hint
        self.display = True
        self.wish.take_up(text)

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(message.value))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self._close(is_dropped=not message.value.strip())

    def on_wish_dropped(self, message: Wish.Dropped) -> None:
        message.stop()
        self._close(is_dropped=True)

    def _close(self, *, is_dropped: bool) -> None:
        self.display = False
        self.post_message(self.Closed(is_dropped))
