"""Where one types: a line that grows, its size beside the limit, and what went wrong with it.

What must stay true:

- Letters typed here are letters, never keys of the app.
- A line that was refused is not lost: it is in the history, and back in the box if that is empty.
- Nothing pasted can drive the terminal: controls are taken out, line ends kept.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static, TextArea

from grapevine_tui.text import escape, printable
from grapevine_tui.widgets.look import bytes_words

HISTORY: Final = 200
PLACEHOLDER: Final = "say something to everyone, or / for commands"
CONNECT: Final = "/connect "


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
    ]

    class Submitted(Message):
        """Enter was pressed on `line`."""

        def __init__(self, line: str) -> None:
            super().__init__()
            self.line = line

    class Released(Message):
        """Escape: the keys belong to the panels again."""

    def __init__(self) -> None:
        super().__init__(
            id="draft",
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
        )
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
        }.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            action()

    async def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        self.insert(presentable(event.text))

    def action_submit(self) -> None:
        line = self.text
        if line.strip():
            self.remember(line)
        self.fill("")  # at once: the next letters may be typed already
        self.post_message(self.Submitted(line))

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


class ComposeBox(Vertical):
    """Prompt, draft, size; beneath them a line that speaks when there is something to say."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(id="compose")
        self._limit_bytes = limit_bytes
        self._is_brief = False
        self._stashed = ""
        self.draft = Draft()
        self._prompt = Static(id="prompt", markup=False)
        self._measure = Static(id="size", markup=False)
        self._word = Static(id="word", markup=False)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield self._prompt
            yield self.draft
            yield self._measure
        yield self._word

    def on_mount(self) -> None:
        self._show_state()

    def on_text_area_changed(self) -> None:
        self._show_state()

    def on_draft_submitted(self) -> None:
        self.say("")

    def say(self, words: str, *, is_error: bool = False) -> None:
        """Tell something about what was sent, at the line itself; empty: nothing more to tell."""
        self._word.update(Content(printable(words)))
        self._word.set_class(bool(words), "-speaks")
        self._word.set_class(is_error, "-error")
        self.set_class(is_error, "-refused")

    def restore(self, line: str) -> None:
        """Give a refused line back, unless something else has been begun meanwhile."""
        if not self.draft.text:
            self.draft.fill(line)

    def ask_address(self) -> None:
        """Ask for an address to dial; the draft that was there comes back afterwards."""
        if not self.draft.text.startswith(CONNECT):
            self._stashed = self.draft.text
            self.draft.fill(CONNECT)
        self.screen.set_focus(self.draft)

    def address_to(self, who: str) -> None:
        """Begin a line to one peer; a draft that was there waits in the history."""
        if self.draft.text.strip():
            self.draft.remember(self.draft.text)
        name = f'"{who}"' if " " in who else who
        self.draft.fill(f"/send {name} ")
        self.screen.set_focus(self.draft)

    def unstash(self) -> None:
        """Put the draft back that `ask_address` laid aside."""
        if self._stashed and not self.draft.text.removeprefix(CONNECT).strip():
            self.draft.fill(self._stashed)
        else:
            if self._stashed:  # something else has been begun: it waits in the history
                self.draft.remember(self._stashed)
            if self.draft.text == CONNECT:
                self.draft.fill("")
        self._stashed = ""

    def be_brief(self, is_brief: bool) -> None:
        """Whether there is room for words."""
        self._is_brief = is_brief
        self.draft.placeholder = "/ for commands" if is_brief else PLACEHOLDER
        self._show_state()

    def _limit(self) -> str:
        limit = self._limit_bytes
        return f"{limit:,} B" if limit < 10_000 else bytes_words(limit)

    def _show_state(self) -> None:
        text = self.draft.text
        size = len(text.encode(errors="replace"))
        is_command = text.startswith("/") and not text.startswith("//")
        prompt = " to everyone" if not is_command else " command"
        if text.startswith(CONNECT):
            prompt = " connect to"
        self._prompt.update(Content("❯" + ("" if self._is_brief else prompt)))
        self._prompt.set_class(is_command, "-command")
        self._measure.update(Content(f"{size:,} / {self._limit()}"))
        self._measure.set_class(size > self._limit_bytes, "-over")
