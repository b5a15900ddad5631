"""One-line inputs that open over a panel: the filter and the editor of a setting.

Invariants:

- Pasted text is reduced to its first line with control characters escaped.
- `FilterBar` reports every change at once, and stays open at Enter while the filter is not valid; `EditBar`
  validates while typing and changes nothing before Enter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import Input, Static

from grapevine_tui.app.widgets.draft import escape_controls
from grapevine_tui.config.keymap import PUNCTUATION_KEYS
from grapevine_tui.host.query import complete_topic
from grapevine_tui.text import printable


class LineInput(Input):
    """An input that Escape cancels and that takes one line of a paste."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Set"),
        Binding("escape", "cancel", "Cancel"),
    ]

    class Canceled(Message):
        """Escape."""

    def start_editing(self, text: str, *, is_selected: bool = True) -> None:
        """Put `text` in the input, without a `Changed`, and focus it. The next key replaces the text, or is
        added at its end if it is not selected. The focus must move at once: the next keys may already be
        queued."""
        with self.prevent(Input.Changed):
            self.value = text
        self.select_on_focus = is_selected
        self.cursor_position = len(text)
        self.screen.set_focus(self)

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        lines = escape_controls(event.text).split("\n")
        self.insert_text_at_cursor(lines[0][:1000])

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        # Textual does not count "slash" or "at" as a character and would offer its binding in the footer.
        return key in PUNCTUATION_KEYS or super().check_consume_key(key, character)

    def action_cancel(self) -> None:
        self.post_message(self.Canceled())


class _TopicSuggester(Suggester):
    """Suggests the rest of a topic."""

    def __init__(self, get_topics: Callable[[], tuple[str, ...]]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._get_topics = get_topics

    async def get_suggestion(self, value: str) -> str | None:
        completed = complete_topic(value, self._get_topics())
        return completed if completed != value else None


class FilterInput(LineInput):
    """The input of a filter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep filter"),
        Binding("escape", "cancel", "Clear"),
        Binding("tab", "complete", "Complete a topic", show=False),
    ]

    def __init__(self, **options: Any) -> None:
        self._topics: tuple[str, ...] = ()
        super().__init__(suggester=_TopicSuggester(lambda: self._topics), **options)

    def set_topics(self, topics: tuple[str, ...]) -> None:
        """Set the topics that complete a term ``topic:``."""
        self._topics = topics

    def action_complete(self) -> None:
        """Complete the topic at the end; without one, do nothing: Tab stays in the bar."""
        completed = complete_topic(self.value, self._topics)
        if completed != self.value:
            self.value = completed
            self.cursor_position = len(completed)


class FilterBar(Horizontal):
    """A prompt and an input. Posts `Changed` for each edit and `Closed` at Enter or Escape."""

    class Changed(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Closed(Message):
        """Typing ended. The filter stays unless `is_cleared`."""

        def __init__(self, is_cleared: bool) -> None:
            super().__init__()
            self.is_cleared = is_cleared

    def __init__(self, *, id: str = "filter") -> None:
        super().__init__(id=id, classes="filterbar")
        self._prompt = Static(Content("/"), classes="filterprompt", markup=False)
        self.line_input = FilterInput(compact=True, placeholder="words", classes="line-input")
        self._get_fault: Callable[[str], str] = lambda text: ""
        self.display = False

    def compose(self) -> ComposeResult:
        yield self._prompt
        yield self.line_input

    def open(
        self,
        label: str,
        text: str,
        hint: str,
        get_fault: Callable[[str], str],
        topics: tuple[str, ...] = (),
        *,
        is_selected: bool = True,
    ) -> None:
        """Open the bar for the panel `label` with its current filter `text`. `get_fault` says what is wrong
        with a filter, or nothing; `topics` complete it. The next key replaces the text, unless it is not
        selected."""
        self._get_fault = get_fault
        self.line_input.set_topics(topics)
        self._prompt.update(Content(f"/ {label}"))
        self.line_input.placeholder = hint
        self.display = True
        self.line_input.start_editing(text, is_selected=is_selected)

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Changed(message.value))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        if fault := self._get_fault(message.value):
            self.app.notify(printable(fault), severity="warning", markup=False)
        else:
            self._close(is_cleared=not message.value.strip())

    def on_line_input_canceled(self, message: LineInput.Canceled) -> None:
        message.stop()
        self._close(is_cleared=True)

    def _close(self, *, is_cleared: bool) -> None:
        self.display = False
        self.post_message(self.Closed(is_cleared))


class EditBar(Vertical):
    """A prompt, an input and an error line."""

    class Changed(Message):
        """The text was edited; the screen validates it."""

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
        self.line_input = LineInput(compact=True, classes="line-input")
        self._error_label = Static(id="edit-error", markup=False)
        self.display = False

    def compose(self) -> ComposeResult:
        with Horizontal(classes="filterbar"):
            yield self._prompt
            yield self.line_input
        yield self._error_label

    def open(self, name: str, text: str) -> None:
        """Open the bar for the setting `name` with its value `text`."""
        self._prompt.update(Content(f"{name} ="))
        self.show_error("")
        self.display = True
        self.line_input.start_editing(text)

    def show_error(self, text: str) -> None:
        """Show an error; "" hides the line."""
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
