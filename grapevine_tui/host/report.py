"""A report of one node for a ticket, as one Markdown or HTML file: status, members, events, the worst peers,
graphs and the settings that are not default.

Invariants:

- It is a pure function of a snapshot and of events in JSON, and of past values; it contains no secret.
- All text is made printable and escaped: a name or a reason is never markup.
- Graphs are inline SVG, so that the file needs no other.
"""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from grapevine_tui.history.describe import format_age
from grapevine_tui.history.records import event_text
from grapevine_tui.history.samples import PastValues
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.text import printable

Object = Mapping[str, Any]

MAX_WORST_PEERS: Final = 10
MAX_MEMBERS: Final = 200  # those that are not up come first
GRAPH_WIDTH: Final = 600
GRAPH_HEIGHT: Final = 80
GRAPHS: Final = {
    "messages": "messages delivered per second",
    "datagrams_in": "datagrams received per second",
    "datagrams_out": "datagrams sent per second",
    "duplicates": "duplicates per second",
}
COUNTERS: Final = {name: name for name in GRAPHS} | {"messages": "delivered"}  # of the statistics
PEER_COLUMNS: Final = ("name", "peer_id", "address", "zone", "state", "health", "health_reason", "rtt_ms",
                       "throttled", "queued", "last_seen_s")  # fmt: skip
MEMBER_COLUMNS: Final = ("name", "peer_id", "address", "zone", "status", "reason")
STATUS_FIELDS: Final = ("name", "peer_id", "version", "compiled", "address", "advertised", "zone", "cluster",
                        "keys", "uptime_s", "peers", "members", "unacknowledged", "lag_ms", "strategy",
                        "restart", "denied")  # fmt: skip
STATUS_ORDER: Final = ("down", "suspect", "left", "up")
_MARKDOWN_SIGNS: Final = str.maketrans({each: f"\\{each}" for each in "\\`*_{}[]()#+!|~"})


class _Table(NamedTuple):
    columns: Sequence[str]
    rows: list[list[str]]


class _Graph(NamedTuple):
    title: str
    svg: str


class _Section(NamedTuple):
    title: str
    parts: list[_Table | _Graph | str]


def render_report(
    snapshot: Object,
    events: Sequence[Object],
    output: ReportFormat,
    past: Sequence[PastValues] = (),
) -> str:
    """The report on `snapshot` (`whole_snapshot`) with `events` (rows of ``events``, oldest first). The
    graphs are those of the `past`, oldest first, or of the latest seconds if there is none."""
    name = snapshot["status"]["name"] or snapshot["status"]["peer_id"][:8]
    title = f"Grapevine node {name}, {_clock(snapshot['at'])}"
    render = _render_html if output is ReportFormat.HTML else _render_markdown
    return render(title, _sections(snapshot, events, past))


def _sections(
    snapshot: Object, events: Sequence[Object], past: Sequence[PastValues]
) -> list[_Section]:
    members, settings = snapshot["members"], snapshot["settings"]
    counts = Counter(each["status"] for each in members)
    summary = ", ".join(f"{counts[each]:,} {each}" for each in STATUS_ORDER if counts[each])
    status = {name: snapshot["status"].get(name) for name in STATUS_FIELDS}
    uptime = {"uptime": format_age(status.pop("uptime_s") or 0.0)}
    return [
        _Section("Status", [_facts(status | uptime)]),
        _Section(f"Members: {summary or 'none'}", _member_parts(members)),
        _Section(f"Worst peers of {len(snapshot['peers']):,}", [_worst_peers(snapshot["peers"])]),
        _Section("Events", _event_parts(events)),
        _Section("Graphs", list(_graphs(snapshot["traffic"], past))),
        _Section("Counters that are not zero", [_facts(_counters(snapshot["stats"]))]),
        _Section(
            "Settings that are not default",
            [_table(("name", "value", "origin"), settings)] if settings else ["none"],
        ),
    ]


def _member_parts(members: Sequence[Object]) -> list[_Table | _Graph | str]:
    def order(member: Object) -> tuple[int, str]:
        status = member["status"]
        return STATUS_ORDER.index(status) if status in STATUS_ORDER else 0, member["name"]

    shown = sorted(members, key=order)[:MAX_MEMBERS]
    more = len(members) - len(shown)
    parts: list[_Table | _Graph | str] = [_table(MEMBER_COLUMNS, shown)]
    return [*parts, f"and {more:,} more"] if more else parts


def _worst_peers(peers: Sequence[Object]) -> _Table:
    """Those that are not connected, then by health and round-trip time."""

    def order(peer: Object) -> tuple[bool, float, float]:
        is_connected = peer["state"] == "connected"
        return is_connected, peer.get("health") or 0.0, -(peer.get("rtt_ms") or 0.0)

    return _table(PEER_COLUMNS, sorted(peers, key=order)[:MAX_WORST_PEERS])


def _event_parts(events: Sequence[Object]) -> list[_Table | _Graph | str]:
    if not events:
        return ["none were kept"]
    rows = [[_clock(each["at"]), str(each["level"]), event_text(each)] for each in events]
    return [_Table(("time", "level", "event"), rows)]


def _counters(stats: Object) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in stats.items():
        items = value.items() if isinstance(value, dict) else ((None, value),)
        for key, count in items:
            if count and isinstance(count, (int, float)):
                flat[name if key is None else f"{name} {key}"] = count
    return flat


def _facts(values: Object) -> _Table:
    rows = [[name.replace("_", " "), _cell(value)] for name, value in values.items()]
    return _Table(("what", "value"), [each for each in rows if each[1]])


def _table(columns: Sequence[str], rows: Iterable[Object]) -> _Table:
    return _Table(
        [each.replace("_", " ") for each in columns],
        [[_cell(row.get(name)) for name in columns] for row in rows],
    )


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case int():
            return f"{value:,}"
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _clock(at_unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at_unix))


def _graphs(traffic: Object, past: Sequence[PastValues]) -> list[_Graph]:
    """The graphs of the past values, or of the latest seconds if those reach as far back."""
    span_s = len(traffic["messages"]) * traffic["interval_s"]
    if len(past) < 2 or past[-1].at_unix - past[0].at_unix <= span_s:
        return [
            _graph([float(each) for each in traffic[key]], title, span_s)
            for key, title in GRAPHS.items()
        ]
    return _past_graphs(past)


def _past_graphs(past: Sequence[PastValues]) -> list[_Graph]:
    """The graphs of past values. Counters restart with the node, which shows as no rate."""
    span_s = past[-1].at_unix - past[0].at_unix
    graphs = [
        _graph(_rates(past, COUNTERS[key]), f"{title}, means of {_interval(past)}", span_s)
        for key, title in GRAPHS.items()
    ]
    connected, lags = [float(each.peers) for each in past], [each.lag_ms for each in past]
    return [
        *graphs,
        _graph(connected, "connected peers", span_s),
        _graph(lags, "lag of the event loop in ms", span_s),
    ]


def _interval(past: Sequence[PastValues]) -> str:
    """The time between two values, for people."""
    return format_age(max(1.0, (past[-1].at_unix - past[0].at_unix) / (len(past) - 1)))


def _rates(past: Sequence[PastValues], counter: str) -> list[float]:
    """What was counted per second between each value and the next."""
    rates = []
    for before, after in pairwise(past):
        count = after.counters.get(counter, 0.0) - before.counters.get(counter, 0.0)
        rates.append(max(0.0, count) / max(0.001, after.at_unix - before.at_unix))
    return rates


def _graph(values: Sequence[float], title: str, span_s: float) -> _Graph:
    peak = max(values, default=0.0)
    step = GRAPH_WIDTH / max(1, len(values) - 1)
    points = " ".join(
        f"{index * step:.1f},{GRAPH_HEIGHT - 1 - value / (peak or 1.0) * (GRAPH_HEIGHT - 2):.1f}"
        for index, value in enumerate(values)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{GRAPH_WIDTH}" height="{GRAPH_HEIGHT}" role="img">'
        f'<rect width="100%" height="100%" fill="#f4f4f4"/>'
        f'<polyline fill="none" stroke="#2563a8" stroke-width="1.5" points="{points}"/></svg>'
    )
    return _Graph(f"{title}: peak {peak:,.1f}, last {format_age(span_s)}", svg)


# --- output ---------------------------------------------------------------------------------------


def _render_markdown(title: str, sections: list[_Section]) -> str:
    lines = [f"# {_markdown(title)}", ""]
    for section in sections:
        lines += [f"## {_markdown(section.title)}", ""]
        for part in section.parts:
            match part:
                case _Table(columns, rows):
                    lines.append(f"| {' | '.join(map(_markdown, columns))} |")
                    lines.append("|" + "---|" * len(columns))
                    lines += [f"| {' | '.join(map(_markdown, row))} |" for row in rows]
                case _Graph(caption, svg):
                    lines += [_markdown(caption), "", svg]
                case _:
                    lines.append(_markdown(part))
            lines.append("")
    return "\n".join(lines)


def _markdown(text: str) -> str:
    # Escaped as HTML first: Markdown passes tags through.
    return html.escape(printable(text).translate(_MARKDOWN_SIGNS), quote=False)


def _render_html(title: str, sections: list[_Section]) -> str:
    head = html.escape(printable(title))
    lines = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{head}</title>',
        "<style>body{font:14px/1.4 sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}</style></head><body>",
        f"<h1>{head}</h1>",
    ]
    for section in sections:
        lines.append(f"<h2>{_html(section.title)}</h2>")
        for part in section.parts:
            match part:
                case _Table(columns, rows):
                    lines.append("<table>")
                    lines.append(_html_row("th", columns))
                    lines += [_html_row("td", row) for row in rows]
                    lines.append("</table>")
                case _Graph(caption, svg):
                    lines.append(f"<p>{_html(caption)}<br>{svg}</p>")
                case _:
                    lines.append(f"<p>{_html(part)}</p>")
    return "\n".join([*lines, "</body></html>", ""])


def _html(text: str) -> str:
    return html.escape(printable(text))


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_html(each)}</{tag}>" for each in cells) + "</tr>"
