"""The trace screen: coverage, latency and hops of a traced broadcast, and members without a receipt.

Invariants: it shows the model's own traces; every name is printable; the layout is computed at most ten
times a second.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen

from grapevine_proto.events import Trace, TraceAnswer
from grapevine_proto.ids import PeerId
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.charts import eighths_bar
from grapevine_tui.app.widgets.format import format_duration, format_latency
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.app.widgets.status_glyphs import member_status
from grapevine_tui.app.widgets.text_view import Line, StyledText, TextView
from grapevine_tui.app.widgets.titles import format_title, shorten_title
from grapevine_tui.config.keymap import FRONT_SCREEN_KEYS, NEW_TRACE_KEYS, TRACE_KEYS
from grapevine_tui.host.model import Model, TraceEntry
from grapevine_tui.text import cells, format_payload, pad, printable, truncate, wrap

REFRESH_INTERVAL_S: Final = 0.1
MAX_HOP_LINES: Final = (
    8  # numbers of hops that have a bar of their own; what is beyond shares the last
)
NAME_CELLS: Final = 16
EMPTY_TEXT: Final = "No traces yet. Press + and type a text to see which members receive it."
NO_MEMBERS_TEXT: Final = "No other members yet. Press c to connect to an address."


def format_delay(delay_ms: int | None) -> str:
    """Return a delay of whole milliseconds, as receipts report it."""
    if delay_ms is None:
        return "--"
    return format_latency(delay_ms / 1000).replace(".0ms", "ms") if delay_ms else "<1ms"


def _format_answer_time(answer: TraceAnswer | None) -> str:
    """Return the delivery time of a receipt; a late one only bounds it (``≤``)."""
    if answer is None:
        return format_delay(None)
    return ("≤" if answer.is_late else "") + format_delay(answer.bound_ms)


class TraceReport(TextView, inherit_bindings=False):
    """A report that scrolls vertically only: the screen binds left and right."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "scroll_down", show=False),
        Binding("up,k", "scroll_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("home,g", "scroll_home", show=False),
        Binding("end,G", "scroll_end", show=False),
    ]


def format_tally(trace: Trace) -> str:
    """Return how many of the members asked have confirmed."""
    if not trace.known:
        return "no other members"
    return f"{trace.reached:,} of {trace.expected:,}"


def trace_lines(model: Model, entry: TraceEntry, width: int) -> list[Line]:
    """Return the report of one trace, in lines of at most `width` cells."""
    trace = entry.trace
    lines = [
        (StyledText(truncate(format_payload(entry.payload, 4 * width), width), "text"),),
        (),
        _coverage_line(trace, width),
        *_latency_lines(trace, width),
    ]
    if late := sum(answer.is_late for answer in trace.answers):
        text = f"≤: {late:,} confirmed late; the times are upper bounds"
        lines.append((StyledText(truncate(text, width), "warn"),))
    if trace.is_sample:
        text = f"a sample: {trace.expected:,} of {trace.known:,} members asked"
        lines.append((StyledText(truncate(text, width), "dim"),))
    if trace.others:
        text = f"{trace.others:,} more confirmed that joined after it was sent"
        lines.append((StyledText(truncate(text, width), "dim"),))
    return lines + _hop_lines(trace, width) + _unanswered_lines(model, trace, width)


def _coverage_line(trace: Trace, width: int) -> Line:
    if not trace.expected:
        return (StyledText("─" * max(1, width), "track"),)
    ratio = trace.reached / trace.expected
    text = f"  {int(ratio * 100)} %  {format_tally(trace)}"
    tone = "good" if trace.is_complete else "accent"
    filled, rest = eighths_bar(ratio, max(1, width - cells(text)))
    label_tone = "good" if trace.is_complete else "section"
    return (StyledText(filled, tone), StyledText(rest, "track"), StyledText(text, label_tone))


def _latency_lines(trace: Trace, width: int) -> list[Line]:
    """Return p50, p99 and last delivery time and the hop count, in one or two lines."""
    times = [
        (name, _format_answer_time(trace.percentile_answer(percent)))
        for name, percent in (("p50", 50), ("p99", 99), ("last", 100))
    ]
    named = [*times, ("hops", "--" if trace.hops is None else str(trace.hops))]
    is_long = sum(cells(name) + cells(value) + 3 for name, value in named) > width
    return [
        tuple(
            part
            for name, value in row
            for part in (StyledText(f"{name} ", "dim"), StyledText(f"{value}  ", "key"))
        )
        for row in ((named[:2], named[2:]) if is_long else (named,))
    ]


def _hop_lines(trace: Trace, width: int) -> list[Line]:
    """Return a bar per hop count: the receipts and the slowest delivery time."""
    counts: Counter[int] = Counter()
    latest: dict[int, TraceAnswer] = {}
    for answer in trace.answers:
        hops = min(answer.hops, MAX_HOP_LINES)
        counts[hops] += 1
        latest[hops] = max(latest.get(hops, answer), answer, key=lambda each: each.bound_ms)
    if not counts:
        return []
    max_count = max(counts.values())
    lines: list[Line] = [()]
    for hops in sorted(counts):
        name = f"{hops}{'+' if hops == MAX_HOP_LINES else ''} hop{'s' * (hops != 1)}"
        text = f" {counts[hops]:,}, slowest {_format_answer_time(latest[hops])}"
        bar_cells = max(1, width - 8 - cells(text) - 2)
        filled, _ = eighths_bar(counts[hops] / max_count, bar_cells)
        lines.append(
            (StyledText(pad(name, 8), "dim"), StyledText(filled, "bar"), StyledText(text, "text"))
        )
    return lines


def _unanswered_lines(model: Model, trace: Trace, width: int) -> list[Line]:
    if not trace.expected:
        return [(), *((StyledText(each, "dim"),) for each in wrap(NO_MEMBERS_TEXT, width))]
    if not trace.unanswered:
        return [(), (StyledText(f"All {trace.expected:,} members have it.", "good"),)]
    heading = (
        f"{len(trace.unanswered):,} ha{'s' if len(trace.unanswered) == 1 else 've'} not confirmed"
    )
    rows = sorted(trace.unanswered, key=lambda each: (model.name_of(each), each))
    return [
        (),
        (StyledText(heading, "warn"),),
        *(_member_line(model, peer_id, width) for peer_id in rows),
    ]


def _member_line(model: Model, peer_id: PeerId, width: int) -> Line:
    member = model.members.get(peer_id)
    name = pad(printable(model.name_of(peer_id)), NAME_CELLS)
    if member is None:
        return (StyledText("? ", "dim"), StyledText(name, "text"))
    glyph, label, tone = member_status(model, member)
    address = str(member.address) if member.address else ""
    details = truncate(
        f"  {label:<8}{address}  {printable(member.zone)}", max(0, width - NAME_CELLS - 2)
    )
    return (StyledText(f"{glyph} ", tone), StyledText(name, "text"), StyledText(details, "dim"))


class TraceScreen(Screen[None]):
    """Shows the latest trace live; keys switch to older ones."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(
        NEW_TRACE_KEYS, TRACE_KEYS, FRONT_SCREEN_KEYS[:1]
    )

    class NewTraceRequested(Message):
        """Begin a new trace."""

    def __init__(self, model: Model) -> None:
        super().__init__(name="traces")
        self._model = model
        self._traces_back = 0  # 0 is the latest trace
        self._shown_state: object = None
        self.report = TraceReport(id="trace")

    def compose(self) -> ComposeResult:
        yield self.report
        yield KeyFooter()

    def on_mount(self) -> None:
        self.report.focus()
        self.show()
        self.set_interval(REFRESH_INTERVAL_S, self.show)

    def on_resize(self, event: events.Resize) -> None:
        self.show()

    def show(self) -> None:
        """Lay out the trace if anything changed."""
        traces = list(self._model.traces.values())
        entry = traces[-1 - self._traces_back] if traces else None
        ago = format_duration(self._model.wall_now() - entry.at_unix) if entry is not None else ""
        width = max(10, self.report.line_cells)
        state = (entry, ago, width, len(traces))
        if state == self._shown_state:
            return
        self._shown_state = state
        if entry is None:
            self.report.set_lines(
                [(StyledText(each, "empty"),) for each in wrap(EMPTY_TEXT, width)]
            )
            self.report.border_title = format_title("Trace")
            return
        trace = entry.trace
        self.report.set_lines(trace_lines(self._model, entry, width))
        color = "$success" if trace.is_complete else "$accent"
        new_title = format_title(
            "Trace", (format_tally(trace), color), (f"{ago} ago", "$text-muted")
        )
        self.report.border_title = shorten_title(new_title, self.report.outer_size.width)
        position = f"{len(traces) - self._traces_back} of {len(traces)}"
        self.report.border_subtitle = Content(position if len(traces) > 1 else "")

    def action_older(self, by: int) -> None:
        """Go `by` traces back; a negative number goes towards the latest."""
        self._traces_back = max(0, min(self._traces_back + by, len(self._model.traces) - 1))
        self.report.scroll_home(animate=False)
        self.show()

    def action_trace(self) -> None:
        self.post_message(self.NewTraceRequested())

    def action_back(self) -> None:
        self.dismiss()
