"""Views of the whole network: the latency matrix, the topology, and the holders of a message.

Invariants:

- Only the app asks the node: a screen posts `Asked` and gets `show_reply` or `show_error`.
- The title says as of when the members were asked and how long ago, for what is shown may have changed. It is
  asked again on request, and by itself after `ASK_INTERVAL_S`.
- Every text of a member is printable and shown as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message as Posted
from textual.screen import Screen

from grapevine_tui.app.screens.trace import TraceReport
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.app.widgets.text_view import Line, StyledText
from grapevine_tui.app.widgets.titles import format_title, shorten_title
from grapevine_tui.config.keymap import FRONT_SCREEN_KEYS, NETWORK_KEYS, TREE_KEYS
from grapevine_tui.control.network_text import (
    HOLDER_COLUMNS,
    Text,
    TextLine,
    age_text,
    answered_text,
    holder_rows,
    holders_summary,
    matrix_lines,
    topology_lines,
)
from grapevine_tui.host.model import Model
from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowTopology
from grapevine_tui.text import cells, pad, printable, truncate, wrap

ASK_INTERVAL_S: Final = 10.0
AGE_INTERVAL_S: Final = 1.0
WAITING_TEXT: Final = "Asking the members."
NO_TRACE_TEXT: Final = "No trace to draw yet. /trace TEXT broadcasts and traces a message."
View = ShowMatrix | ShowTopology | ShowHolders


class NetworkScreen(Screen[None]):
    """Shows one view. A subclass lays out the reply."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(NETWORK_KEYS, FRONT_SCREEN_KEYS[:1])
    LABEL: ClassVar[str]

    class Asked(Posted):
        """`view` is to be asked for `screen`."""

        def __init__(self, screen: NetworkScreen, view: View) -> None:
            super().__init__()
            self.screen = screen
            self.view = view

    def __init__(self, name: str, model: Model, view: View) -> None:
        super().__init__(name=name)
        self._model = model
        self._view = view
        self._reply: Mapping[str, Any] | None = None
        self._error = ""
        self.is_asking = False
        self.report = TraceReport(id=name)

    def compose(self) -> ComposeResult:
        yield self.report
        yield KeyFooter()

    def on_mount(self) -> None:
        self.report.focus()
        self.ask()
        self.set_interval(ASK_INTERVAL_S, self.ask)
        self.set_interval(AGE_INTERVAL_S, self.show_age)

    def on_resize(self, event: events.Resize) -> None:
        self.show()

    @property
    def view(self) -> View:
        """What this screen asks."""
        return self._view

    def ask(self) -> None:
        """Ask the members, unless that is under way."""
        if not self.is_asking and self.is_current:
            self.is_asking = True
            self.post_message(self.Asked(self, self.view))

    def action_ask_again(self) -> None:
        self.ask()
        self.show_age()

    def show_reply(self, reply: Mapping[str, Any]) -> None:
        """The members answered."""
        self._reply, self._error, self.is_asking = reply, "", False
        self.show()

    def show_error(self, error: str) -> None:
        """The members could not be asked; what was shown stays, with its age."""
        self._error, self.is_asking = error, False
        self.show()

    def show(self) -> None:
        """Lay out the latest reply."""
        width = max(10, self.report.line_cells)
        lines: list[Line] = []
        if self._error:
            lines += [(StyledText(each, "warn"),) for each in wrap(printable(self._error), width)]
        if self._reply is None:
            lines += [] if self._error else [(StyledText(WAITING_TEXT, "empty"),)]
        else:
            shown = self.lay_out(self._reply, width)
            lines += [tuple(StyledText(*part) for part in line) for line in shown]
        self.report.set_lines(lines)
        self.show_age()

    def show_age(self) -> None:
        """Show the title with the age of what is shown."""
        if self._reply is None:
            self.report.border_title = format_title(self.LABEL)
            return
        title = format_title(
            self.LABEL,
            (self.summary(self._reply), "$accent"),
            (age_text(self._reply), "$text-muted"),
            *([("asking again", "$text-muted")] if self.is_asking else []),
        )
        self.report.border_title = shorten_title(title, self.report.outer_size.width)

    def lay_out(self, reply: Mapping[str, Any], width: int) -> Sequence[TextLine]:
        """Return the reply in lines of at most `width` cells."""
        raise NotImplementedError

    def summary(self, reply: Mapping[str, Any]) -> str:
        """Return the number that matters, for the title."""
        return answered_text(reply)

    def action_back(self) -> None:
        self.dismiss()


class MatrixScreen(NetworkScreen):
    """The round-trip times between all members."""

    LABEL = "Latency, ms"

    def __init__(self, model: Model) -> None:
        super().__init__("matrix", model, ShowMatrix())

    def lay_out(self, reply: Mapping[str, Any], width: int) -> Sequence[TextLine]:
        return matrix_lines(reply, width)


class TopologyScreen(NetworkScreen):
    """Zones, members and their links; over them the tree of the latest trace, or of a message."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(TREE_KEYS)
    LABEL = "Topology"

    def __init__(self, model: Model, message: str = "") -> None:
        super().__init__("topology", model, ShowTopology(message))
        self._shows_latest_trace = False

    @property
    def view(self) -> ShowTopology:
        assert isinstance(self._view, ShowTopology)
        if self._shows_latest_trace and self._model.traces:
            return ShowTopology(str(next(reversed(self._model.traces))))
        return self._view

    def lay_out(self, reply: Mapping[str, Any], width: int) -> Sequence[TextLine]:
        return topology_lines(reply, width)

    def summary(self, reply: Mapping[str, Any]) -> str:
        return f"{len(reply['links']):,} links, {answered_text(reply)}"

    def action_tree(self) -> None:
        """Show the tree of the latest trace, or hide it."""
        if not self._model.traces:
            self.notify(NO_TRACE_TEXT, markup=False)
            return
        self._shows_latest_trace = not self._shows_latest_trace
        self.ask()


class HoldersScreen(NetworkScreen):
    """Member by member: who has a message, by which way, after how many hops and ms; missing ones first."""

    LABEL = "Who has it"

    def __init__(self, model: Model, view: ShowHolders) -> None:
        super().__init__("has", model, view)

    def lay_out(self, reply: Mapping[str, Any], width: int) -> Sequence[TextLine]:
        return holder_lines(reply, width)

    def summary(self, reply: Mapping[str, Any]) -> str:
        return holders_summary(reply)


def holder_lines(reply: Mapping[str, Any], width: int) -> list[TextLine]:
    """A table of the members, without the columns for which there is no room."""
    columns = []
    used = 2
    for name, column_cells in HOLDER_COLUMNS.items():
        if used + column_cells + 1 <= width:
            columns.append((name, column_cells))
            used += column_cells + 1
    heading = "".join(pad(name, size) + " " for name, size in columns)
    tones = {"missing": "bad", "no answer": "warn", "has it": "text"}
    signs = {"missing": "✕", "no answer": "?", "has it": "●"}
    lines: list[TextLine] = [
        _text_line(truncate(f"message {reply['id']}", width), "dim"),
        _text_line("  " + heading, "section"),
    ]
    for row in holder_rows(reply):
        parts = []
        for name, size in columns:
            value = row[name]
            text = "-" if value in (None, "") else f"{value:,}" if isinstance(value, int) else value
            text = truncate(text, size)
            is_number = name in ("hops", "ms")
            parts.append(" " * (size - cells(text)) + text if is_number else pad(text, size))
        line = f"{signs[row['message']]} " + " ".join(parts)
        lines.append(_text_line(line, tones[row["message"]]))
    return lines


def _text_line(text: str, tone: str) -> TextLine:
    return (Text(text, tone),)
