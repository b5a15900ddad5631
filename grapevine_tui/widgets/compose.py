"""Where one types: a line that grows, its size beside the limit, and what went wrong with it.

What must stay true:

- A line that was refused is not lost: it is in the history, and back in the box if that is empty.
- What is said about a line stands at the line itself, and goes: what was wrong with it when it is
  changed, everything else after `WORD_S`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from grapevine_tui.commands import CommandError, about, find
from grapevine_tui.text import cells, cut, printable
from grapevine_tui.widgets.draft import PLACEHOLDER, Draft
from grapevine_tui.widgets.look import bytes_words

WORD_S: Final = 10.0  # for which a word stays that asks for nothing
CONNECT: Final = "/connect "
TRACE: Final = "/trace "


def hint(
    line: str, completions: Sequence[str], width_cells: int, *, is_attached: bool = False
) -> str:
    """One printable line on what `line` may become: what each completion adds, or how to go on."""
    if not line.startswith("/") or line.startswith("//"):
        return ""
    if len(completions) > 1:
        last = [each.split()[-1] if each.split() else each for each in completions]
        return cut("  ".join(printable(each) for each in last), width_cells)
    name = (completions[0] if completions else line)[1:].split(" ")[0]
    with contextlib.suppress(CommandError):
        spec = find(name)
        words = about(spec, is_attached=is_attached)
        ways = (f"{spec.usage}   {words}", words, spec.usage)
        fitting = (each for each in ways if cells(each) <= width_cells)
        return next(fitting, None) or cut(words, width_cells)
    return ""


class ComposeBox(Vertical):
    """Prompt, draft, size; beneath them a line that speaks when there is something to say."""

    def __init__(
        self,
        limit_bytes: int,
        names: Callable[[], tuple[str, ...]] = tuple,
        *,
        is_attached: bool = False,
    ) -> None:
        super().__init__(id="compose")
        self._is_attached = is_attached
        self._limit_bytes = limit_bytes
        self._is_brief = False
        self._stashed = ""
        self._refused = ""  # the draft as it was when a word on it was said
        self._is_refused = False
        self._word_timer: Timer | None = None
        self.draft = Draft(names)
        self._prompt = Static(id="prompt", markup=False)
        self._measure = Static(id="size", markup=False)
        self._hint = Static(id="hint", markup=False)
        self._word = Static(id="word", markup=False)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield self._prompt
            yield self.draft
            yield self._measure
        yield self._hint
        yield self._word

    def on_mount(self) -> None:
        self._show_state()

    def on_text_area_changed(self) -> None:
        if self._is_refused and self.draft.text != self._refused:
            self.say("")  # it was about another line
        self._show_state()

    def on_draft_submitted(self) -> None:
        self.say("")

    def on_draft_nothing_to_do(self, message: Draft.NothingToDo) -> None:
        message.stop()
        self.say(message.words)

    def say(self, words: str, *, is_error: bool = False, is_lasting: bool = False) -> None:
        """Tell something about what was sent, at the line itself; empty: nothing more to tell.
        `is_lasting`: it is so until something else is said."""
        if self._word_timer is not None:
            self._word_timer.stop()
            self._word_timer = None
        self._is_refused = is_error
        self._refused = self.draft.text
        if words and not is_error and not is_lasting:
            self._word_timer = self.set_timer(WORD_S, lambda: self.say(""))
        self._word.update(Content(printable(words)))
        self._word.set_class(bool(words), "-speaks")
        self._word.set_class(is_error, "-error")
        self.set_class(is_error, "-refused")

    def restore(self, line: str) -> None:
        """Give a refused line back, unless something else has been begun meanwhile."""
        if not self.draft.text:
            self.draft.fill(line)
            self._refused = self.draft.text

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

    def ask_trace(self) -> None:
        """Begin a message to be traced; a draft that was there waits in the history."""
        if not self.draft.text.startswith(TRACE):
            if self.draft.text.strip():
                self.draft.remember(self.draft.text)
            self.draft.fill(TRACE)
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

    def _show_hint(self) -> None:
        """What a line that begins with a slash may become."""
        found = () if self._is_brief else self.draft.completions
        room = max(0, self.size.width - 4)
        words = hint(self.draft.text, found, room, is_attached=self._is_attached)
        self._hint.update(Content(words))
        self._hint.display = bool(words)

    def _limit(self) -> str:
        limit = self._limit_bytes
        return f"{limit:,} B" if limit < 10_000 else bytes_words(limit)

    def _show_state(self) -> None:
        self._show_hint()
        text = self.draft.text
        size = len(text.encode(errors="replace"))
        is_command = text.startswith("/") and not text.startswith("//")
        prompt = " to everyone" if not is_command else " command"
        if text.startswith(CONNECT):
            prompt = " connect to"
        elif text.startswith(TRACE):
            prompt = " trace to everyone"
        self._prompt.update(Content("❯" + ("" if self._is_brief else prompt)))
        self._prompt.set_class(is_command, "-command")
        self._measure.update(Content(f"{size:,} / {self._limit()}"))
        self._measure.set_class(size > self._limit_bytes, "-over")
