"""Views of the network as text, for screens and for ``ctl``: the latency matrix, the topology, holders.

Invariants:

- Every text of a member passes `printable` and is cut by cells; no line is wider than asked.
- An estimate is marked with ``~``. What stands out has a word or a sign besides its tone.
- Importing this module imports no Textual.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from grapevine_tui.text import cells, pad, printable, truncate, via_word

Object: TypeAlias = Mapping[str, Any]

SHADES: Final = " ░▒▓█"  # five steps, from near to far
SHADE_TONES: Final = ("good", "text", "accent", "warn", "bad")
MEMBER_NAME_CELLS: Final = 14
PAIR_CELLS: Final = 7
BOX_MIN_CELLS: Final = 36
MAX_LINKS_SHOWN: Final = 12  # per member: the nearest, and those that stand out
STATE_SIGNS: Final = {
    "up": ("●", "good"),
    "suspect": ("◐", "warn"),
    "down": ("○", "bad"),
    "denied": ("⊘", "bad"),
    "unknown": ("?", "dim"),
}
SEEN_WORDS: Final = {"both": "", "half": "half-seen", "one-way": "one-way"}
UNNAMED_ZONE: Final = "no zone"


class Text(NamedTuple):
    """A printable text in a tone of the app."""

    text: str
    tone: str = "text"


TextLine: TypeAlias = tuple[Text, ...]


def plain(lines: Iterable[TextLine]) -> list[str]:
    """The lines without tones, as a pipe gets them."""
    return ["".join(part.text for part in line).rstrip() for line in lines]


def member_name(member: Object) -> str:
    """Its name, or the beginning of its ID."""
    return printable(str(member["name"])) or printable(str(member["peer_id"]))[:8]


def format_rtt(rtt_ms: float | None, source: str | None = "measured") -> str:
    """Milliseconds, with a decimal below ten; ``~`` marks an estimate."""
    if rtt_ms is None:
        return "-"
    mark = "~" if source == "estimated" else ""
    return f"{mark}{rtt_ms:.1f}" if rtt_ms < 9.95 else f"{mark}{rtt_ms:,.0f}"


def age_text(reply: Object, now_unix: float | None = None) -> str:
    """As of when the members were asked, with the age."""
    at_unix = float(reply["as_of_unix"])
    age_s = max(0.0, (time.time() if now_unix is None else now_unix) - at_unix)
    return f"as of {time.strftime('%H:%M:%S', time.localtime(at_unix))}, {age_s:.0f} s ago"


def answered_text(reply: Object) -> str:
    """How many members answered."""
    return f"{reply['members_answered']:,} of {reply['members_asked']:,} answered"


def rtt_text(reply: Object) -> str:
    """The answer to ``rtt A B`` as one line."""
    ends = " - ".join(
        printable(str(reply[name])) or printable(str(reply[peer_id]))[:12]
        for name, peer_id in (("name", "peer_id"), ("other_name", "other_id"))
    )
    if reply["rtt_ms"] is None:
        return f"{ends}: not known yet; an estimate needs about a minute of heartbeats at both ends"
    rtt = format_rtt(reply["rtt_ms"], reply["rtt_source"])
    error = format_rtt(reply["rtt_error_ms"])
    return f"{ends}: {rtt} ms ({reply['rtt_source']}, ± {error} ms)"


# --- the latency matrix ---------------------------------------------------------------------------


class Matrix(NamedTuple):
    """The pairs of a reply by both ends, and the limits of the five steps."""

    pairs: Mapping[tuple[int, int], Object]
    steps_ms: tuple[float, ...]

    @classmethod
    def of(cls, reply: Object) -> Matrix:
        """Steps are quantiles of what is shown, so that every cluster has near and far pairs."""
        pairs: dict[tuple[int, int], Object] = {}
        for each in reply["pairs"]:
            pairs[each["a"], each["b"]] = pairs[each["b"], each["a"]] = each
        ordered = sorted(each["rtt_ms"] for each in reply["pairs"])
        quantiles = [ordered[len(ordered) * n // 5] for n in (1, 2, 3, 4)] if ordered else []
        return cls(pairs, tuple(quantiles))

    def step(self, rtt_ms: float) -> int:
        """0, near, to 4, far."""
        if self.steps_ms and self.steps_ms[-1] <= 1.5 * self.steps_ms[0]:
            return 0  # all are alike
        return sum(rtt_ms >= each for each in self.steps_ms)


def matrix_lines(reply: Object, width: int) -> list[TextLine]:
    """The matrix in lines of `width` cells: zones as blocks of rows, as many columns as fit, then a table of
    the means between zones."""
    members = reply["members"]
    if len(members) < 2:
        return [(Text("No other members yet.", "dim"),)]
    matrix = Matrix.of(reply)
    lines = _zone_means(reply, width)
    name_cells = min(MEMBER_NAME_CELLS, max(6, width // 5))
    per_block = max(1, (width - name_cells - 4) // PAIR_CELLS)
    for start in range(0, len(members), per_block):
        columns = range(start, min(start + per_block, len(members)))
        lines += [(), *_matrix_block(members, matrix, columns, name_cells)]
    lines += [(), _legend(matrix, width)]
    if reply["left_out"]:
        text = truncate(f"members left out: {reply['left_out']:,}", width)
        lines.append((Text(text, "dim"),))
    return lines


def _matrix_block(
    members: Sequence[Object], matrix: Matrix, columns: range, name_cells: int
) -> list[TextLine]:
    heads = [
        Text(_right(truncate(member_name(members[column]), PAIR_CELLS - 1), PAIR_CELLS), "section")
        for column in columns
    ]
    lines: list[TextLine] = [(Text(" " * (name_cells + 4)), *heads)]
    zone: object = None
    for row, member in enumerate(members):
        if member["zone"] != zone:
            zone = member["zone"]
            room = name_cells + 4 + len(columns) * PAIR_CELLS
            lines.append((Text(truncate(_zone_name(member), room), "accent"),))
        sign, tone = STATE_SIGNS.get(member["state"], STATE_SIGNS["unknown"])
        name = pad(truncate(member_name(member), name_cells), name_cells)
        cells_ = [_pair_cell(matrix, row, column) for column in columns]
        is_self = member["is_self"]
        lines.append((Text(f"  {sign} ", tone), Text(name, "key" if is_self else "text"), *cells_))
    return lines


def _pair_cell(matrix: Matrix, row: int, column: int) -> Text:
    if row == column:
        return Text(_right("─", PAIR_CELLS), "track")
    pair = matrix.pairs.get((row, column))
    if pair is None:
        return Text(_right("?", PAIR_CELLS), "dim")
    step = matrix.step(pair["rtt_ms"])
    text = SHADES[step] + _right(format_rtt(pair["rtt_ms"], pair["rtt_source"]), 5)
    return Text(_right(text, PAIR_CELLS), SHADE_TONES[step])


def _zone_means(reply: Object, width: int) -> list[TextLine]:
    """The mean round-trip times within and between zones; nothing with a single zone."""
    members = reply["members"]
    zones = list(dict.fromkeys(_zone_name(each) for each in members))
    if len(zones) < 2:
        return []
    found: dict[tuple[str, str], list[Object]] = {}
    for each in reply["pairs"]:
        ends = sorted((_zone_name(members[each["a"]]), _zone_name(members[each["b"]])))
        found.setdefault((ends[0], ends[1]), []).append(each)
    lines: list[TextLine] = [(Text("Zones, mean in ms", "section"),)]
    parts: list[Text] = []
    used = 0
    for one, other in sorted(found):
        pairs = found[one, other]
        mean_ms = sum(each["rtt_ms"] for each in pairs) / len(pairs)
        estimated = all(each["rtt_source"] == "estimated" for each in pairs)
        label = one if one == other else f"{one} - {other}"
        text = f"{label}: {format_rtt(mean_ms, 'estimated' if estimated else 'measured')}   "
        if used and used + cells(text) > width:
            lines.append(tuple(parts))
            parts, used = [], 0
        parts.append(Text(truncate(text, width)))
        used += cells(text)
    return [*lines, tuple(parts)]


def _legend(matrix: Matrix, width: int) -> TextLine:
    if not matrix.steps_ms:
        return (Text(truncate("~ estimated, ? not known yet", width), "dim"),)
    bounds = [format_rtt(each) for each in matrix.steps_ms]
    texts = [f"below {bounds[0]}", *(f"from {each}" for each in bounds)]
    parts = [
        Text(f"{shade} {text}  ", tone)
        for shade, text, tone in zip(SHADES, texts, SHADE_TONES, strict=True)
    ]
    note = Text("ms; ~ estimated, ? not known yet", "dim")
    is_long = sum(cells(each.text) for each in (*parts, note)) > width
    return (Text(truncate(note.text, width), "dim"),) if is_long else (*parts, note)


def _right(text: str, width: int) -> str:
    return " " * (width - cells(text)) + text


def _zone_name(member: Object) -> str:
    return printable(str(member["zone"])) or UNNAMED_ZONE


def _by_zone(members: Iterable[Object]) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = {}
    for member in members:
        found.setdefault(_zone_name(member), []).append(member)
    return found


def _names(members: Iterable[Object]) -> dict[str, str]:
    """The shown names by peer ID."""
    return {each["peer_id"]: member_name(each) for each in members}


# --- topology -------------------------------------------------------------------------------------


class LinkEnd(NamedTuple):
    """A link as one of its ends lists it."""

    other: str
    link: Object


def links_of(reply: Object) -> dict[str, list[LinkEnd]]:
    """The links of each member, nearest first."""
    found: dict[str, list[LinkEnd]] = {each["peer_id"]: [] for each in reply["members"]}
    for link in reply["links"]:
        for end, other in ((link["a"], link["b"]), (link["b"], link["a"])):
            found.setdefault(end, []).append(LinkEnd(other, link))
    for ends in found.values():
        ends.sort(key=lambda end: (end.link["rtt_ms"] is None, end.link["rtt_ms"] or 0.0))
    return found


def topology_lines(reply: Object, width: int) -> list[TextLine]:
    """A box for each zone, side by side as far as `width` admits; below it the tree of the message, if one
    is given, and the links that stand out."""
    members = reply["members"]
    if len(members) < 2:
        return [(Text("No other members yet.", "dim"),)]
    by_zone = _by_zone(members)
    names = _names(members)
    links = links_of(reply)
    holders = {each["peer_id"]: each for each in reply.get("holders") or ()}
    count = max(1, min(len(by_zone), width // BOX_MIN_CELLS))
    box_cells = (width - (count - 1)) // count
    boxes = [
        _zone_box(zone, each, names, links, holders, box_cells) for zone, each in by_zone.items()
    ]
    lines = _side_by_side(boxes, count, box_cells)
    lines += _outstanding_lines(reply, names, width)
    return lines + (tree_lines(reply, names, width) if holders else [])


def _zone_box(
    zone: str,
    members: Sequence[Object],
    names: Mapping[str, str],
    links: Mapping[str, list[LinkEnd]],
    holders: Mapping[str, Object],
    width: int,
) -> list[TextLine]:
    up = sum(each["state"] == "up" for each in members)
    title = truncate(f" {zone}  {up:,} of {len(members):,} up ", width - 4)
    lines: list[TextLine] = [
        (
            Text("╭─", "track"),
            Text(title, "section"),
            Text("─" * (width - 3 - cells(title)) + "╮", "track"),
        )
    ]
    for member in members:
        inner = _member_lines(member, names, links, holders, width - 4)
        lines += [_framed(line, width) for line in inner]
    return [*lines, (Text("╰" + "─" * (width - 2) + "╯", "track"),)]


def _framed(line: TextLine, width: int) -> TextLine:
    used = sum(cells(part.text) for part in line)
    return (Text("│ ", "track"), *line, Text(" " * (width - 4 - used) + " │", "track"))


def _member_lines(
    member: Object,
    names: Mapping[str, str],
    links: Mapping[str, list[LinkEnd]],
    holders: Mapping[str, Object],
    width: int,
) -> list[TextLine]:
    """The member with its state, then its links, nearest first, wrapped."""
    peer_id, state = member["peer_id"], member["state"]
    sign, tone = STATE_SIGNS.get(state, STATE_SIGNS["unknown"])
    ends = links.get(peer_id, [])
    words = [f"{len(ends):,} link{'' if len(ends) == 1 else 's'}"]
    words += [] if state == "up" else [printable(state)]
    words += [] if member["has_answered"] else ["no answer"]
    holder = holders.get(peer_id)
    if holder is not None and (holder["has"] is not None or member["has_answered"]):
        words.append(_holder_word(holder))
    name = truncate(names[peer_id], max(1, width - 2))
    details = truncate("  " + ", ".join(words), max(0, width - 2 - cells(name)))
    is_warned = state != "up" or not member["has_answered"]
    lines: list[TextLine] = [
        (
            Text(f"{sign} ", tone),
            Text(name, "key" if member["is_self"] else "text"),
            Text(details, "warn" if is_warned else "dim"),
        )
    ]
    parts: list[Text] = []
    used = 4
    odd = [end for end in ends if _stands_out(end.link)]
    shown = ends[:MAX_LINKS_SHOWN]
    shown = [*shown, *[end for end in odd if end not in shown][:MAX_LINKS_SHOWN]]
    if len(shown) < len(ends):
        lines.append((Text(truncate(f"    the nearest {len(shown):,}:", width), "dim"),))
    for end in shown:
        text = f"{names.get(end.other, end.other[:8])} {format_rtt(end.link['rtt_ms'])}"
        word = SEEN_WORDS.get(end.link["seen"], "")
        text = truncate(f"{text} {word}".rstrip(), width - 6)
        if used + cells(text) + 2 > width and parts:
            lines.append((Text("    "), *parts))
            parts, used = [], 4
        tone = "warn" if _stands_out(end.link) else "dim"
        parts.append(Text(f"{text}  " if used + cells(text) + 2 <= width else text, tone))
        used += cells(parts[-1].text)
    return [*lines, (Text("    "), *parts)] if parts else lines


def _stands_out(link: Object) -> bool:
    """Whether only one end is known to see it, or it is silent."""
    return bool(link["seen"] != "both" or link["is_stale"])


def _holder_word(holder: Object) -> str:
    if holder["has"] is None:
        return "message: no answer"
    if not holder["has"]:
        return "message: missing"
    hops = holder["hops"]
    if not hops:
        return "message: origin" if hops == 0 else "has the message"
    return f"message: {hops} hop{'' if hops == 1 else 's'}"


def _side_by_side(boxes: Sequence[list[TextLine]], count: int, width: int) -> list[TextLine]:
    """Boxes in `count` columns, each put into the shortest."""
    columns: list[list[TextLine]] = [[] for _ in range(count)]
    for box in boxes:
        min(columns, key=len).extend(box)
    height = max(map(len, columns))
    blank: TextLine = (Text(" " * width),)
    lines: list[TextLine] = []
    for row in range(height):
        parts: list[Text] = []
        for number, column in enumerate(columns):
            parts += [Text(" ")] if number else []
            parts += column[row] if row < len(column) else blank
        lines.append(tuple(parts))
    return lines


def _outstanding_lines(reply: Object, names: Mapping[str, str], width: int) -> list[TextLine]:
    """One line for each link that only one end sees, or whose other end did not answer."""
    odd = [each for each in reply["links"] if _stands_out(each)]
    if not odd:
        return []
    lines: list[TextLine] = [
        (),
        (Text(truncate(f"Links that stand out: {len(odd):,}", width), "warn"),),
    ]
    for link in odd:
        seen_by = names.get(link["seen_by"], "")
        other = names.get(link["b"] if link["seen_by"] == link["a"] else link["a"], "")
        if link["seen"] == "one-way":
            text = f"one-way: {seen_by} lists {other}, which does not list it"
        elif link["seen"] == "half":
            text = f"half-seen: {seen_by} lists {other}, which did not answer"
        else:
            text = f"silent: {seen_by} - {other}"
        lines.append((Text(truncate(f"  {text}", width), "warn"),))
    return lines


def tree_lines(reply: Object, names: Mapping[str, str], width: int) -> list[TextLine]:
    """How the message spread: each member below the one that its first copy came from."""
    holders = reply["holders"]
    children: dict[str, list[Object]] = {}
    roots: list[Object] = []
    known = {each["peer_id"] for each in holders if each["has"]}
    for each in holders:
        if each["has"]:
            source = each["from"]
            is_root = source == each["peer_id"] or source not in known
            (roots if is_root else children.setdefault(source, [])).append(each)
    lines: list[TextLine] = [
        (),
        (Text(f"Tree of {printable(str(reply['message']))[:24]}…", "section"),),
    ]
    stack = [(each, 0) for each in reversed(roots)]
    seen: set[str] = set()
    while stack:
        holder, depth = stack.pop()
        peer_id = holder["peer_id"]
        if peer_id in seen:  # members may name each other
            continue
        seen.add(peer_id)
        lines.append(_tree_line(holder, depth, names, width))
        below = sorted(children.get(peer_id, []), key=lambda each: each["age_ms"] or 0)
        stack += [(each, depth + 1) for each in reversed(below)]
    for each in holders:
        if each["peer_id"] not in seen:
            what = (
                "no answer" if each["has"] is None else "missing" if not each["has"] else "has it"
            )
            text = truncate(f"  {names.get(each['peer_id'], '')}: {what}", width)
            lines.append((Text(text, "warn"),))
    return lines


def _tree_line(holder: Object, depth: int, names: Mapping[str, str], width: int) -> TextLine:
    branch = "  " * min(depth, 12) + ("└ " if depth else "")
    name = names.get(holder["peer_id"], holder["peer_id"][:8])
    details = f"  {via_word(holder['via'] or '?')}, {_ms_text(holder['age_ms'])}"
    room = max(1, width - cells(branch) - 2)
    return (
        Text(f"  {branch}", "track"),
        Text(truncate(name, room), "text"),
        Text(truncate(printable(details), max(0, room - cells(name))), "dim"),
    )


def _ms_text(age_ms: int | None) -> str:
    return "-" if age_ms is None else f"{age_ms:,} ms"


def topology_dot(reply: Object) -> list[str]:
    """The topology in the language of Graphviz."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    names = _names(reply["members"])
    lines = ["graph grapevine {", "  layout=neato; overlap=false; node [shape=box];"]
    for number, (zone, members) in enumerate(_by_zone(reply["members"]).items()):
        lines += [f"  subgraph cluster_{number} {{", f"    label={quoted(zone)};"]
        for member in members:
            style = "solid" if member["state"] == "up" else "dashed"
            label = quoted(names[member["peer_id"]])
            lines.append(f"    {quoted(member['peer_id'])} [label={label}, style={style}];")
        lines.append("  }")
    for link in reply["links"]:
        label = format_rtt(link["rtt_ms"])
        style = "solid" if link["seen"] == "both" else "dashed"
        lines.append(
            f"  {quoted(link['a'])} -- {quoted(link['b'])} [label={quoted(label)}, style={style}];"
        )
    return [*lines, "}"]


# --- holders of a message -------------------------------------------------------------------------

HOLDER_COLUMNS: Final = {
    "message": 9,
    "member": 16,
    "zone": 10,
    "state": 8,
    "via": 9,
    "hops": 5,
    "ms": 8,
    "from": 16,
}
"""The columns of the table of holders, and their cells on the screen."""


def holders_summary(reply: Object) -> str:
    """How many members have it."""
    parts = [f"{reply['have_it']:,} have it"]
    parts += [f"{reply['missing']:,} do not"] if reply["missing"] else []
    parts += [f"{reply['no_answer']:,} did not answer"] if reply["no_answer"] else []
    return ", ".join(parts)


def holder_rows(reply: Object) -> list[dict[str, Any]]:
    """A row of printable texts and numbers for each member, missing ones first."""
    names = _names(reply["members"])
    rows = []
    for each in reply["members"]:
        source = each["from"]
        is_own = source == each["peer_id"]
        rows.append(
            {
                "message": {True: "has it", False: "missing", None: "no answer"}[each["has"]],
                "member": names[each["peer_id"]],
                "zone": printable(str(each["zone"])),
                "state": printable(str(each["state"])),
                "via": via_word(printable(str(each["via"] or ""))),
                "hops": each["hops"],
                "ms": each["age_ms"],
                "from": ""
                if source is None or is_own
                else names.get(source, printable(source)[:8]),
            }
        )
    return rows
