"""The three tables of the main screen: what stands in their columns and in their titles.

What must stay true: each is a function from the model to rows of printable cells and a title, so
that what the screen says can be tested without a screen.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Final

from textual.content import Content

from grapevine_proto.events import PeerInfo, PeerState, Round, RoundOutcome
from grapevine_proto.ids import Address, PeerId
from grapevine_tui.app.widgets.format import (
    OUTCOME_GLYPHS,
    STATUS_ORDER,
    UP,
    StatusGlyph,
    format_bytes,
    format_count,
    format_latency,
    health_tone,
    peer_status,
)
from grapevine_tui.app.widgets.grid import Cell, Column, Row
from grapevine_tui.host.model import Model, RoundEntry
from grapevine_tui.host.query import Query
from grapevine_tui.text import printable, truncate

NO_VALUE: Final = "-"
TONE_COLORS: Final = {
    "good": "$success",
    "warn": "$warning",
    "bad": "$error",
    "dim": "$text-muted",
}
MAX_FILTER_CELLS: Final = 24  # of what is looked for, in a title
SEPARATOR: Final = " · "  # between the parts of a title
FRAME_CELLS: Final = 6  # of a panel's width that its title cannot have
FLASH_S: Final = 1.5  # how long a throttled peer's line stands out
MAX_ROUND_ROWS: Final = 200

PEER_COLUMNS: Final = (
    Column("state", 9),
    Column("peer", 9, grow=3),
    Column("address", 15, grow=1, drop_rank=3),
    Column("zone", 7, grow=1, drop_rank=4),
    Column("rtt", 6, is_right_aligned=True),
    Column("health", 6, is_right_aligned=True, drop_rank=1),
    Column("in/s", 5, is_right_aligned=True, drop_rank=2),
    Column("tokens", 6, is_right_aligned=True, drop_rank=5),
)
RATE_COLUMNS: Final = (
    Column("peer", 9, grow=1),
    Column("", 8, grow=3, drop_rank=2),
    Column("tokens", 8, is_right_aligned=True),
    Column("allowed", 8, is_right_aligned=True, drop_rank=1),
    Column("throttled", 9, is_right_aligned=True),
)
ROUND_COLUMNS: Final = (
    Column("time", 8, drop_rank=3),
    Column("peer", 7, grow=1),
    Column("outcome", 14, grow=2),
    Column("bytes", 7, is_right_aligned=True, drop_rank=1),
    Column("took", 6, is_right_aligned=True, drop_rank=2),
)


def format_title(name: str, *parts: tuple[str, str]) -> Content:
    """``Name · part · part``, each part with the theme's colour that is named beside it."""
    pieces: list[tuple[str, str]] = [(name, "bold")]
    for text, color in parts:
        pieces += [(SEPARATOR, "$text-muted"), (text, color)]
    return Content.assemble(*pieces)


def format_as_of(model: Model) -> str:
    """When what is shown was so; empty: it is so now."""
    if not model.outdated_since:
        return ""
    return f"as of {time.strftime('%H:%M:%S', time.localtime(model.outdated_since))}"


def shorten_title(title_text: Content, panel_cells: int) -> Content:
    """A title without the last of its parts where a panel of that width would cut them."""
    while (
        title_text.cell_length > max(0, panel_cells - FRAME_CELLS) and SEPARATOR in title_text.plain
    ):
        title_text = title_text[: title_text.plain.rindex(SEPARATOR)]
    return title_text


# Peers


def peer_rows(model: Model) -> list[Row]:
    """Those that are up first, by name; a sign, a word and a colour for each state."""
    status_by_peer = {peer_id: peer_status(model, peer) for peer_id, peer in model.peers.items()}
    peers = sorted(
        model.peers.values(),
        key=lambda peer: (
            STATUS_ORDER.index(status_by_peer[peer.peer_id]),
            model.name_of(peer.peer_id),
            peer.peer_id,
        ),
    )
    return [_peer_row(model, peer, status_by_peer[peer.peer_id]) for peer in peers]


def address_sort_key(address: Address | None) -> tuple[int, tuple[int, ...], str, int]:
    """By number where it is one, so that 10.0.0.9 comes before 10.0.0.10; no address is last."""
    if address is None:
        return 2, (), "", 0
    parts = address.host.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        return 0, tuple(int(part[:5]) for part in parts), "", address.port
    return 1, (), address.host, address.port


def _peer_row(model: Model, peer: PeerInfo, status: StatusGlyph) -> Row:
    """Figures are of now: a peer without a link has none."""
    glyph, label, tone = status
    is_connected = peer.state in (PeerState.CONNECTED, PeerState.STALE)
    is_stale = peer.state is PeerState.STALE  # then its round trip is the last that was measured
    rates = model.peer_rates.get(peer.peer_id)
    is_slow = peer.rtt_s is not None and peer.rtt_s > 0.3  # a user waits from about here on
    is_low = peer.tokens_capacity > 0 and peer.tokens < peer.tokens_capacity / 5
    rtt = format_latency(peer.rtt_s) if is_connected else NO_VALUE
    rate = (
        format_count(rates.in_per_s)
        if rates and is_connected
        else "0"
        if is_connected
        else NO_VALUE
    )
    tokens = format_count(int(peer.tokens)) if is_connected and peer.tokens_capacity else NO_VALUE
    return Row(
        peer.peer_id,
        (
            Cell(f"{glyph} {label}", tone),
            Cell(printable(model.name_of(peer.peer_id)), "key" if is_connected else "dim"),
            Cell(printable(str(peer.address)), "text" if is_connected else "dim"),
            Cell(printable(peer.zone) or "-", "text" if is_connected and peer.zone else "dim"),
            Cell(rtt, "dim" if is_stale or not is_connected else "warn" if is_slow else "text"),
            Cell(f"{peer.health:.2f}", health_tone(peer.health))
            if is_connected
            else Cell(NO_VALUE, "dim"),
            Cell(rate, "text" if is_connected else "dim"),
            Cell(tokens, "bad" if is_low and is_connected else "text" if is_connected else "dim"),
        ),
        sort_values=(
            STATUS_ORDER.index(status),
            model.name_of(peer.peer_id).casefold(),
            address_sort_key(peer.address),
            peer.zone.casefold(),
            math.inf if peer.rtt_s is None or not is_connected else peer.rtt_s,
            peer.health if is_connected else -1.0,
            rates.in_per_s if rates and is_connected else -1.0,
            peer.tokens if peer.tokens_capacity and is_connected else math.inf,
        ),
    )


def filter_status(query: Query, shown: int) -> list[tuple[str, str]]:
    """What a title says of a filter: nothing where there is none."""
    if not query:
        return []
    return [
        (f"{shown:,} match {truncate(printable(query.text), MAX_FILTER_CELLS)}", "$text-accent")
    ]


def peer_title(model: Model, max_peers: int, filtered: list[tuple[str, str]]) -> Content:
    """``Peers 4 up · 1 down · max 50``: each word of the table with how many it is true of."""
    counts = Counter(peer_status(model, peer) for peer in model.peers.values())
    parts = [
        (f"{counts[each]} {each.label}", TONE_COLORS[each.tone])
        for each in STATUS_ORDER[1:]
        if counts[each]
    ]
    return format_title(
        f"Peers {counts[UP]} up", *parts, (f"max {max_peers}", "$text-muted"), *filtered
    )


# Rate limits


def rate_rows(model: Model, wall_now: float) -> list[Row]:
    """Those in trouble first: the throttled, then by how little is left."""
    peers = sorted(
        (peer for peer in model.peers.values() if peer.tokens_capacity > 0),
        key=lambda peer: (-peer.throttled, model.name_of(peer.peer_id), peer.peer_id),
    )
    return [_rate_row(model, peer, wall_now) for peer in peers]


def _rate_row(model: Model, peer: PeerInfo, wall_now: float) -> Row:
    fraction = peer.tokens / peer.tokens_capacity
    tone = "good" if fraction > 0.5 else "warn" if fraction > 0.2 else "bad"
    throttled_at = model.throttled_at.get(peer.peer_id)
    is_flashing = throttled_at is not None and wall_now - throttled_at < FLASH_S
    usage = f"{format_count(int(peer.tokens))}/{format_count(peer.tokens_capacity)}"
    is_connected = peer.state in (PeerState.CONNECTED, PeerState.STALE)
    tone = tone if is_connected else "dim"
    return Row(
        peer.peer_id,
        (
            Cell(printable(model.name_of(peer.peer_id)), "key" if is_connected else "dim"),
            Cell("", tone, fraction=fraction),
            Cell(usage, tone),
            Cell(_format_grouped(peer.allowed), "dim"),
            Cell(_format_grouped(peer.throttled), "bad" if peer.throttled else "dim"),
        ),
        is_alarm=is_flashing,
        sort_values=(
            model.name_of(peer.peer_id).casefold(),
            fraction,
            peer.tokens,
            peer.allowed,
            peer.throttled,
        ),
    )


def _format_grouped(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else format_count(count)


def rate_title(model: Model, filtered: list[tuple[str, str]]) -> Content:
    throttled = sum(peer.throttled for peer in model.peers.values())
    tone = "$error" if throttled else "$text-muted"
    return format_title("Rate limits", (f"{throttled:,} throttled", tone), *filtered)


# Anti-entropy

OUTCOMES: Final = tuple(RoundOutcome)


def round_rows(model: Model) -> list[Row]:
    """The newest first."""
    latest = [model.rounds[-1 - back] for back in range(min(MAX_ROUND_ROWS, len(model.rounds)))]
    return [_round_row(model, entry) for entry in latest]


def format_round(round_info: Round) -> str:
    """What came of a round."""
    if round_info.in_sync or round_info.outcome not in (
        RoundOutcome.REPAIRED,
        RoundOutcome.PARTIAL,
    ):
        return OUTCOME_GLYPHS[round_info.outcome].label
    text = f"sent {format_count(round_info.sent)} got {format_count(round_info.received)}"
    if round_info.outcome is RoundOutcome.REPAIRED:
        return text
    return f"partial, {text}" if round_info.sent or round_info.received else "partial"


def round_key(entry: RoundEntry) -> tuple[int, PeerId]:
    return entry.round.number, entry.round.peer


def _round_row(model: Model, entry: RoundEntry) -> Row:
    round_info = entry.round
    glyph, _, tone = OUTCOME_GLYPHS[round_info.outcome]
    is_finished = round_info.outcome is not RoundOutcome.RUNNING
    return Row(
        round_key(entry),
        (
            Cell(time.strftime("%H:%M:%S", time.localtime(entry.at_unix)), "dim"),
            Cell(printable(model.name_of(round_info.peer)), "key"),
            Cell(f"{glyph} {format_round(round_info)}", tone),
            Cell(
                format_bytes(round_info.bytes) if is_finished and round_info.bytes else "", "text"
            ),
            Cell(format_latency(round_info.duration_s) if is_finished else "", "text"),
        ),
        sort_values=(
            entry.at_unix,
            model.name_of(round_info.peer).casefold(),
            OUTCOMES.index(round_info.outcome),
            round_info.bytes,
            round_info.duration_s,
        ),
    )


def seconds_to_round(model: Model, now: float) -> int | None:
    """Whole seconds until the next round, None where none is planned."""
    if not model.stats.next_round_at:
        return None
    wait_s = model.stats.next_round_at - now
    return max(0, round(wait_s)) if wait_s < 86_400 * 2 else None


def round_number(model: Model) -> int:
    return model.rounds[-1].round.number if model.rounds else 0


def round_title(
    model: Model, now: float, filtered: list[tuple[str, str]], *, is_short: bool = False
) -> Content:
    wait_s = seconds_to_round(model, now)
    number = round_number(model)
    parts = [("off", "$text-muted")] if wait_s is None else [(f"next in {wait_s} s", "$accent")]
    parts = [] if model.outdated_since else parts
    name = f"Anti-entropy {'' if is_short else 'round '}{number}" if number else "Anti-entropy"
    return format_title(name, *parts, *filtered)


# Messages


def log_title(
    model: Model,
    *,
    is_following: bool,
    newer_count: int,
    is_paused: bool,
    filtered: list[tuple[str, str]],
) -> Content:
    parts: list[tuple[str, str]] = [*filtered]
    if model.messages.evicted:
        parts.append((f"{format_count(model.messages.evicted)} evicted", "$text-muted"))
    if is_paused:
        parts.append(("paused", "$warning"))
    elif is_following:
        parts.append(("following", "$success"))
    else:
        parts.append((f"{newer_count:,} newer", "$warning"))
    return format_title(f"Messages {model.messages.end:,}", *parts)
