"""How far a traced message got: a bar that fills, how soon, over how many hops, who has not answered.

What must stay true: it shows what the model holds of the node's own traces; every name in it is
printable; at most ten times a second anything is laid out anew.
"""

from __future__ import annotations

import time
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
from grapevine_tui.keys import AGAIN, FRONT, TRACES
from grapevine_tui.model import Followed, Model
from grapevine_tui.text import broken, cells, cut, fit, printable, show_payload
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.keyline import KeyLine
from grapevine_tui.widgets.look import member_standing, ms_words, span_words
from grapevine_tui.widgets.tables import shortened, title
from grapevine_tui.widgets.written import Line, Part, Written

REFRESH_S: Final = 0.1
HOP_LINES: Final = 8  # numbers of hops that have a bar of their own; what is beyond shares the last
NAME_CELLS: Final = 16
PARTS: Final = " ▏▎▍▌▋▊▉█"  # a cell, by eighths
EMPTY: Final = "No trace yet. Press n, type a text, and see who gets it."
NOBODY: Final = "Nobody else is known, so nobody was asked. Connect to an address first."


def delay_words(delay_ms: int | None) -> str:
    """A delay as answers tell it, in whole milliseconds."""
    if delay_ms is None:
        return "--"
    return ms_words(delay_ms / 1000).replace(".0ms", "ms") if delay_ms else "<1ms"


def _at_words(answer: TraceAnswer | None) -> str:
    """When somebody had it; of a late answer only the latest time is known."""
    if answer is None:
        return delay_words(None)
    return ("≤" if answer.is_late else "") + delay_words(answer.bound_ms)


class Report(Written, inherit_bindings=False):
    """Scrolls up and down alone: left and right are the screen's."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "scroll_down", show=False),
        Binding("up,k", "scroll_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("home,g", "scroll_home", show=False),
        Binding("end,G", "scroll_end", show=False),
    ]


def bar(share: float, width_cells: int) -> tuple[str, str]:
    """What is filled of a bar, to an eighth of a cell, and the rest of it. Full only when it is."""
    eighths = int(max(0.0, min(share, 1.0)) * width_cells * 8)
    full, part = divmod(eighths, 8)
    filled = "█" * full + (PARTS[part] if part else "")
    return filled, "─" * (width_cells - len(filled))


def tally_words(trace: Trace) -> str:
    """How many of whom have answered."""
    if not trace.known:
        return "no member is known"
    return f"{trace.reached:,} of {trace.asked:,}"


def trace_lines(model: Model, followed: Followed, width: int) -> list[Line]:
    """All there is to say of one trace, in lines of `width` cells."""
    trace = followed.trace
    lines = [
        (Part(cut(show_payload(followed.payload, 4 * width), width), "text"),),
        (),
        _coverage(trace, width),
        *_figures(trace, width),
    ]
    if late := sum(answer.is_late for answer in trace.answers):
        words = f"≤: {late:,} answered late, and had it then at the latest"
        lines.append((Part(cut(words, width), "warn"),))
    if trace.is_sample:
        words = f"a sample: {trace.asked:,} of {trace.known:,} members were asked"
        lines.append((Part(cut(words, width), "dim"),))
    if trace.others:
        words = f"{trace.others:,} more answered who were not known when it was sent"
        lines.append((Part(cut(words, width), "dim"),))
    return lines + _hops(trace, width) + _unanswered(model, trace, width)


def _coverage(trace: Trace, width: int) -> Line:
    if not trace.asked:
        return (Part("─" * max(1, width), "track"),)
    share = trace.reached / trace.asked
    words = f"  {int(share * 100)} %  {tally_words(trace)}"
    tone = "good" if trace.is_complete else "accent"
    filled, rest = bar(share, max(1, width - cells(words)))
    loud = "good" if trace.is_complete else "section"
    return (Part(filled, tone), Part(rest, "track"), Part(words, loud))


def _figures(trace: Trace, width: int) -> list[Line]:
    """How soon and how far, in one line or, where that is too long, two."""
    times = [
        (name, _at_words(trace.answer_at(percent)))
        for name, percent in (("p50", 50), ("p99", 99), ("last", 100))
    ]
    named = [*times, ("hops", "--" if trace.hops is None else str(trace.hops))]
    is_long = sum(cells(name) + cells(value) + 3 for name, value in named) > width
    return [
        tuple(
            part
            for name, value in row
            for part in (Part(f"{name} ", "dim"), Part(f"{value}  ", "key"))
        )
        for row in ((named[:2], named[2:]) if is_long else (named,))
    ]


def _hops(trace: Trace, width: int) -> list[Line]:
    """How many answers came over how many hops, and how soon at the latest."""
    counts: Counter[int] = Counter()
    last: dict[int, TraceAnswer] = {}
    for answer in trace.answers:
        hops = min(answer.hops, HOP_LINES)
        counts[hops] += 1
        last[hops] = max(last.get(hops, answer), answer, key=lambda each: each.bound_ms)
    if not counts:
        return []
    most = max(counts.values())
    lines: list[Line] = [()]
    for hops in sorted(counts):
        name = f"{hops}{'+' if hops == HOP_LINES else ''} hop{'s' * (hops != 1)}"
        words = f" {counts[hops]:,} within {_at_words(last[hops])}"
        room = max(1, width - 8 - cells(words) - 2)
        filled, _ = bar(counts[hops] / most, room)
        lines.append((Part(fit(name, 8), "dim"), Part(filled, "bar"), Part(words, "text")))
    return lines


def _unanswered(model: Model, trace: Trace, width: int) -> list[Line]:
    if not trace.asked:
        return [(), *((Part(each, "dim"),) for each in broken(NOBODY, width))]
    if not trace.unanswered:
        return [(), (Part("Everyone who was asked has answered.", "good"),)]
    head = f"No answer from {len(trace.unanswered):,}"
    rows = sorted(trace.unanswered, key=lambda each: (model.name_of(each), each))
    return [(), (Part(head, "warn"),), *(_member(model, peer_id, width) for peer_id in rows)]


def _member(model: Model, peer_id: PeerId, width: int) -> Line:
    member = model.members.get(peer_id)
    name = fit(printable(model.name_of(peer_id)), NAME_CELLS)
    if member is None:
        return (Part("? ", "dim"), Part(name, "text"))
    sign, word, tone = member_standing(model, member)
    address = str(member.address) if member.address else ""
    beside = cut(f"  {word:<8}{address}  {printable(member.zone)}", max(0, width - NAME_CELLS - 2))
    return (Part(f"{sign} ", tone), Part(name, "text"), Part(beside, "dim"))


class TraceScreen(Screen[None]):
    """The latest trace, as it goes; older ones a key away."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(AGAIN, TRACES, FRONT[:1])

    class Asked(Message):
        """Another trace is wanted."""

    def __init__(self, model: Model) -> None:
        super().__init__(name="trace")
        self._model = model
        self._back = 0  # how many traces ago
        self._shown: object = None
        self.report = Report(name_in_dom="trace")

    def compose(self) -> ComposeResult:
        yield self.report
        yield KeyLine()

    def on_mount(self) -> None:
        self.report.focus()
        self.show()
        self.set_interval(REFRESH_S, self.show)

    def on_resize(self, event: events.Resize) -> None:
        self.show()

    def show(self) -> None:
        """Lay the trace out if anything about it is new."""
        traces = list(self._model.traces.values())
        followed = traces[-1 - self._back] if traces else None
        ago = span_words(time.time() - followed.at_unix) if followed is not None else ""
        width = max(10, self.report.room)
        stamp = (followed, ago, width, len(traces))
        if stamp == self._shown:
            return
        self._shown = stamp
        if followed is None:
            self.report.write([(Part(each, "empty"),) for each in broken(EMPTY, width)])
            self.report.border_title = title("Trace")
            return
        trace = followed.trace
        self.report.write(trace_lines(self._model, followed, width))
        colour = "$success" if trace.is_complete else "$accent"
        words = title("Trace", (tally_words(trace), colour), (f"{ago} ago", "$text-muted"))
        self.report.border_title = shortened(words, self.report.outer_size.width)
        place = f"{len(traces) - self._back} of {len(traces)}"
        self.report.border_subtitle = Content(place if len(traces) > 1 else "")

    def action_older(self, by: int) -> None:
        """Go `by` traces back; negative: towards the latest."""
        self._back = max(0, min(self._back + by, len(self._model.traces) - 1))
        self.report.scroll_home(animate=False)
        self.show()

    def action_new_trace(self) -> None:
        self.post_message(self.Asked())

    def action_back(self) -> None:
        self.dismiss()
