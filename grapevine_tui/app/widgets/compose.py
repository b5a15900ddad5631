"""The compose box: the draft, its size beside the limit, completion hints and feedback.

Invariants:

- A rejected line is never lost: it is in the history, and back in the box if the box is empty.
- Feedback appears below the line. An error disappears when the line is edited, other feedback after
  `FEEDBACK_TIMEOUT_S`.
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

from grapevine_tui.app.widgets.draft import NO_SENDING_PLACEHOLDER, PLACEHOLDER, Draft
from grapevine_tui.app.widgets.format import format_bytes
from grapevine_tui.control.commands import CommandError, command_help, find_command
from grapevine_tui.control.slash_parser import KnownNames, quote_name
from grapevine_tui.text import cells, printable, truncate

FEEDBACK_TIMEOUT_S: Final = 10.0  # for feedback that is neither an error nor lasting
DIAL_PREFIX: Final = "/dial "
TRACE_PREFIX: Final = "/trace "


def format_hint(
    line: str, completions: Sequence[str], width_cells: int, *, is_attached: bool = False
) -> str:
    """Return one printable line: the completions of `line`, or the usage of its command."""
    if not line.startswith("/") or line.startswith("//"):
        return ""
    if len(completions) > 1:
        last = [each.split()[-1] if each.split() else each for each in completions]
        return truncate("  ".join(printable(each) for each in last), width_cells)
    name = (completions[0] if completions else line)[1:].split(" ")[0]
    with contextlib.suppress(CommandError):
        spec = find_command(name)
        description = command_help(spec, is_attached=is_attached)
        candidates = (f"{spec.usage}   {description}", description, spec.usage)
        fitting = (each for each in candidates if cells(each) <= width_cells)
        return next(fitting, None) or truncate(description, width_cells)
    return ""


class ComposeBox(Vertical):
    """Prompt, draft and size on one line; a hint and feedback below it when there are any.

    `get_names` returns the names to complete. `is_attached` tells that the node runs elsewhere. `no_sending`
    is a word for why nothing can be sent from here, if so."""

    def __init__(
        self,
        max_payload_bytes: int,
        get_names: Callable[[], KnownNames] = KnownNames,
        *,
        is_attached: bool = False,
        no_sending: str = "",
    ) -> None:
        super().__init__(id="compose")
        self._is_attached = is_attached
        self._no_sending = no_sending
        self._max_payload_bytes = max_payload_bytes
        self._is_compact = False
        self._stashed_draft = ""
        self._refused_text = ""  # the draft when the feedback was shown
        self._is_refused = False
        self.is_opened_by_key = False
        """Whether the line is the first since the key `write` moved the focus here."""
        self._feedback_timer: Timer | None = None
        self.draft = Draft(get_names)
        self.draft.placeholder = self._placeholder
        self.draft.submit_label = "Run" if no_sending else ""
        self._prompt = Static(id="prompt", markup=False)
        self._size_label = Static(id="size", markup=False)
        self._hint_label = Static(id="hint", markup=False)
        self._feedback_label = Static(id="feedback", markup=False)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield self._prompt
            yield self.draft
            yield self._size_label
        yield self._hint_label
        yield self._feedback_label

    def on_mount(self) -> None:
        self._update_state()

    def on_text_area_changed(self) -> None:
        if self._is_refused and self.draft.text != self._refused_text:
            self.show_feedback("")  # the error was about another line
        self._update_state()

    def on_draft_submitted(self) -> None:
        self.show_feedback("")

    def on_draft_feedback(self, message: Draft.Feedback) -> None:
        message.stop()
        self.show_feedback(message.text)

    def show_feedback(self, text: str, *, is_error: bool = False, is_lasting: bool = False) -> None:
        """Show feedback below the line; "" removes it. `is_lasting` keeps it until the next feedback."""
        if self._feedback_timer is not None:
            self._feedback_timer.stop()
            self._feedback_timer = None
        self._is_refused = is_error
        self._refused_text = self.draft.text
        if text and not is_error and not is_lasting:
            self._feedback_timer = self.set_timer(
                FEEDBACK_TIMEOUT_S, lambda: self.show_feedback("")
            )
        self._feedback_label.update(Content(printable(text)))
        self._feedback_label.set_class(bool(text), "-visible")
        self._feedback_label.set_class(is_error, "-error")
        self.set_class(is_error, "-refused")

    def restore(self, line: str) -> None:
        """Put a rejected line back, unless the user has begun another."""
        if not self.draft.text:
            self.draft.replace_text(line)
            self._refused_text = self.draft.text

    def begin_dial(self) -> None:
        """Begin a ``/connect`` line; `unstash` brings the current draft back afterwards."""
        if not self.draft.text.startswith(DIAL_PREFIX):
            self._stashed_draft = self.draft.text
            self.draft.replace_text(DIAL_PREFIX)
        self.screen.set_focus(self.draft)

    def begin_send(self, peer_ref: str) -> None:
        """Begin a direct message to one peer; a draft moves to the history."""
        if self.draft.text.strip():
            self.draft.add_to_history(self.draft.text)
        self.draft.replace_text(f"/send {quote_name(peer_ref)} ")
        self.screen.set_focus(self.draft)

    def begin_command(self, name: str) -> None:
        """Begin the slash command `name`; a draft moves to the history."""
        prefix = f"/{name} "
        if not self.draft.text.startswith(prefix):
            if self.draft.text.strip():
                self.draft.add_to_history(self.draft.text)
            self.draft.replace_text(prefix)
        self.screen.set_focus(self.draft)

    def unstash(self) -> None:
        """Restore the draft that `begin_dial` replaced."""
        if self._stashed_draft and not self.draft.text.removeprefix(DIAL_PREFIX).strip():
            self.draft.replace_text(self._stashed_draft)
        else:
            if self._stashed_draft:  # the user has begun another line
                self.draft.add_to_history(self._stashed_draft)
            if self.draft.text == DIAL_PREFIX:
                self.draft.replace_text("")
        self._stashed_draft = ""

    @property
    def _placeholder(self) -> str:
        return NO_SENDING_PLACEHOLDER if self._no_sending else PLACEHOLDER

    def set_compact(self, is_compact: bool) -> None:
        """Shorten the prompt and the placeholder on a narrow screen."""
        self._is_compact = is_compact
        self.draft.placeholder = "/ for commands" if is_compact else self._placeholder
        self._update_state()

    def _update_hint(self) -> None:
        """Show the completions of a line that begins with a slash."""
        completions = () if self._is_compact else self.draft.completions
        width_cells = max(0, self.size.width - 4)
        text = format_hint(self.draft.text, completions, width_cells, is_attached=self._is_attached)
        self._hint_label.update(Content(text))
        self._hint_label.display = bool(text)

    def _format_limit(self) -> str:
        limit = self._max_payload_bytes
        return f"{limit:,} B" if limit < 10_000 else format_bytes(limit)

    def _update_state(self) -> None:
        self._update_hint()
        text = self.draft.text
        size = len(text.encode(errors="replace"))
        is_command = text.startswith("/") and not text.startswith("//")
        prompt = " to everyone" if not is_command else " command"
        if self._no_sending and not is_command:
            prompt = f" {self._no_sending}"
        elif text.startswith(DIAL_PREFIX):
            prompt = " dial"
        elif text.startswith(TRACE_PREFIX):
            prompt = " trace to everyone"
        self._prompt.update(Content("❯" + ("" if self._is_compact else prompt)))
        self._prompt.set_class(is_command, "-command")
        self._size_label.update(Content(f"{size:,} B of {self._format_limit()}"))
        self._size_label.set_class(size > self._max_payload_bytes, "-over")
