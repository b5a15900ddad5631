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
from grapevine_tui.model import Completed, Model
from grapevine_tui.query import Query
from grapevine_tui.text import cut, printable
from grapevine_tui.widgets.grid import Cell, Column, Row
from grapevine_tui.widgets.look import (
    OUTCOME_SIGNS,
    STANDINGS,
    UP,
    Sign,
    bytes_words,
    count_words,
    health_tone,
    ms_words,
    peer_standing,
)

NONE: Final = "-"
TONE_COLOURS: Final = {
    "good": "$success",
    "warn": "$warning",
    "bad": "$error",
    "dim": "$text-muted",
}
FILTER_CELLS: Final = 24  # of what is looked for, in a title
DOT: Final = " · "  # between the parts of a title
FRAME_CELLS: Final = 6  # of a panel's width that its title cannot have
FLASH_S: Final = 1.5  # how long a throttled peer's line stands out
ROUNDS_SHOWN: Final = 200

PEER_COLUMNS: Final = (
    Column("state", 9),
    Column("peer", 9, grows=3),
    Column("address", 15, grows=1, rank=3),
    Column("zone", 7, grows=1, rank=4),
    Column("rtt", 6, right=True),
    Column("health", 6, right=True, rank=1),
    Column("in/s", 5, right=True, rank=2),
    Column("tokens", 6, right=True, rank=5),
)
RATE_COLUMNS: Final = (
    Column("peer", 9, grows=1),
    Column("", 8, grows=3, rank=2),
    Column("tokens", 8, right=True),
    Column("ok", 8, right=True, rank=1),
    Column("throttled", 9, right=True),
)
ROUND_COLUMNS: Final = (
    Column("time", 8, rank=3),
    Column("peer", 7, grows=1),
    Column("outcome", 14, grows=2),
    Column("bytes", 7, right=True, rank=1),
    Column("took", 6, right=True, rank=2),
)


def title(name: str, *parts: tuple[str, str]) -> Content:
    """``Name · part · part``, each part with the theme's colour that is named beside it."""
    pieces: list[tuple[str, str]] = [(name, "bold")]
    for text, colour in parts:
        pieces += [(DOT, "$text-muted"), (text, colour)]
    return Content.assemble(*pieces)


def as_of_words(model: Model) -> str:
    """When what is shown was so; empty: it is so now."""
    if not model.lost_at:
        return ""
    return f"as of {time.strftime('%H:%M:%S', time.localtime(model.lost_at))}"


def shortened(words: Content, panel_cells: int) -> Content:
    """A title without the last of its parts where a panel of that width would cut them."""
    while words.cell_length > max(0, panel_cells - FRAME_CELLS) and DOT in words.plain:
        words = words[: words.plain.rindex(DOT)]
    return words


# Peers


def peer_rows(model: Model) -> list[Row]:
    """Those that are up first, by name; a sign, a word and a colour for each state."""
    standing = {peer_id: peer_standing(model, peer) for peer_id, peer in model.peers.items()}
    peers = sorted(
        model.peers.values(),
        key=lambda peer: (
            STANDINGS.index(standing[peer.peer_id]),
            model.name_of(peer.peer_id),
            peer.peer_id,
        ),
    )
    return [_peer_row(model, peer, standing[peer.peer_id]) for peer in peers]


def address_order(address: Address | None) -> tuple[int, tuple[int, ...], str, int]:
    """By number where it is one, so that 10.0.0.9 comes before 10.0.0.10; no address is last."""
    if address is None:
        return 2, (), "", 0
    parts = address.host.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        return 0, tuple(int(part[:5]) for part in parts), "", address.port
    return 1, (), address.host, address.port


def _peer_row(model: Model, peer: PeerInfo, standing: Sign) -> Row:
    """Figures are of now: a peer without a link has none."""
    sign, word, tone = standing
    is_here = peer.state in (PeerState.CONNECTED, PeerState.STALE)
    is_silent = peer.state is PeerState.STALE  # then its round trip is the last that was measured
    flow = model.flows.get(peer.peer_id)
    slow = peer.rtt is not None and peer.rtt > 0.3  # a user waits from about here on
    is_low = peer.tokens_capacity > 0 and peer.tokens < peer.tokens_capacity / 5
    rtt = ms_words(peer.rtt) if is_here else NONE
    rate = count_words(flow.in_per_s) if flow and is_here else "0" if is_here else NONE
    tokens = count_words(int(peer.tokens)) if is_here and peer.tokens_capacity else NONE
    return Row(
        peer.peer_id,
        (
            Cell(f"{sign} {word}", tone),
            Cell(printable(model.name_of(peer.peer_id)), "key" if is_here else "dim"),
            Cell(printable(str(peer.address)), "text" if is_here else "dim"),
            Cell(printable(peer.zone) or "-", "text" if is_here and peer.zone else "dim"),
            Cell(rtt, "dim" if is_silent or not is_here else "warn" if slow else "text"),
            Cell(f"{peer.health:.2f}", health_tone(peer.health)) if is_here else Cell(NONE, "dim"),
            Cell(rate, "text" if is_here else "dim"),
            Cell(tokens, "bad" if is_low and is_here else "text" if is_here else "dim"),
        ),
        order=(
            STANDINGS.index(standing),
            model.name_of(peer.peer_id).casefold(),
            address_order(peer.address),
            peer.zone.casefold(),
            math.inf if peer.rtt is None or not is_here else peer.rtt,
            peer.health if is_here else -1.0,
            flow.in_per_s if flow and is_here else -1.0,
            peer.tokens if peer.tokens_capacity and is_here else math.inf,
        ),
    )


def filter_part(query: Query, shown: int) -> list[tuple[str, str]]:
    """What a title says of a filter: nothing where there is none."""
    if not query:
        return []
    return [(f"{shown:,} match {cut(printable(query.text), FILTER_CELLS)}", "$text-accent")]


def peer_title(model: Model, max_peers: int, filtered: list[tuple[str, str]]) -> Content:
    """``Peers 4 up · 1 down · max 50``: each word of the table with how many it is true of."""
    counts = Counter(peer_standing(model, peer) for peer in model.peers.values())
    parts = [
        (f"{counts[each]} {each.word}", TONE_COLOURS[each.tone])
        for each in STANDINGS[1:]
        if counts[each]
    ]
    return title(f"Peers {counts[UP]} up", *parts, (f"max {max_peers}", "$text-muted"), *filtered)


# Rate limits


def rate_rows(model: Model, wall_now: float) -> list[Row]:
    """Those in trouble first: the throttled, then by how little is left."""
    peers = sorted(
        (peer for peer in model.peers.values() if peer.tokens_capacity > 0),
        key=lambda peer: (-peer.throttled, model.name_of(peer.peer_id), peer.peer_id),
    )
    return [_rate_row(model, peer, wall_now) for peer in peers]


def _rate_row(model: Model, peer: PeerInfo, wall_now: float) -> Row:
    left = peer.tokens / peer.tokens_capacity
    tone = "good" if left > 0.5 else "warn" if left > 0.2 else "bad"
    throttled_at = model.throttled_at.get(peer.peer_id)
    is_flashing = throttled_at is not None and wall_now - throttled_at < FLASH_S
    room = f"{count_words(int(peer.tokens))}/{count_words(peer.tokens_capacity)}"
    is_here = peer.state in (PeerState.CONNECTED, PeerState.STALE)
    tone = tone if is_here else "dim"
    return Row(
        peer.peer_id,
        (
            Cell(printable(model.name_of(peer.peer_id)), "key" if is_here else "dim"),
            Cell("", tone, fraction=left),
            Cell(room, tone),
            Cell(_grouped(peer.allowed), "dim"),
            Cell(_grouped(peer.throttled), "bad" if peer.throttled else "dim"),
        ),
        alarm=is_flashing,
        order=(
            model.name_of(peer.peer_id).casefold(),
            left,
            peer.tokens,
            peer.allowed,
            peer.throttled,
        ),
    )


def _grouped(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else count_words(count)


def rate_title(model: Model, filtered: list[tuple[str, str]]) -> Content:
    throttled = sum(peer.throttled for peer in model.peers.values())
    tone = "$error" if throttled else "$text-muted"
    return title("Rate limits", (f"{throttled:,} throttled", tone), *filtered)


# Anti-entropy

OUTCOMES: Final = tuple(RoundOutcome)


def round_rows(model: Model) -> list[Row]:
    """The newest first."""
    latest = [model.rounds[-1 - back] for back in range(min(ROUNDS_SHOWN, len(model.rounds)))]
    return [_round_row(model, done) for done in latest]


def round_words(done: Round) -> str:
    """What came of a round."""
    if done.in_sync or done.outcome not in (RoundOutcome.REPAIRED, RoundOutcome.PARTIAL):
        return OUTCOME_SIGNS[done.outcome].word
    words = f"sent {count_words(done.sent)} got {count_words(done.received)}"
    if done.outcome is RoundOutcome.REPAIRED:
        return words
    return f"cut short, {words}" if done.sent or done.received else "cut short"


def round_key(done: Completed) -> tuple[int, PeerId]:
    return done.round.number, done.round.peer


def _round_row(model: Model, done: Completed) -> Row:
    each = done.round
    sign, _, tone = OUTCOME_SIGNS[each.outcome]
    is_over = each.outcome is not RoundOutcome.RUNNING
    return Row(
        round_key(done),
        (
            Cell(time.strftime("%H:%M:%S", time.localtime(done.at_unix)), "dim"),
            Cell(printable(model.name_of(each.peer)), "key"),
            Cell(f"{sign} {round_words(each)}", tone),
            Cell(bytes_words(each.bytes) if is_over and each.bytes else "", "text"),
            Cell(ms_words(each.duration) if is_over else "", "text"),
        ),
        order=(
            done.at_unix,
            model.name_of(each.peer).casefold(),
            OUTCOMES.index(each.outcome),
            each.bytes,
            each.duration,
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
    model: Model, now: float, filtered: list[tuple[str, str]], *, is_brief: bool = False
) -> Content:
    wait_s = seconds_to_round(model, now)
    number = round_number(model)
    parts = [("off", "$text-muted")] if wait_s is None else [(f"next in {wait_s} s", "$accent")]
    parts = [] if model.lost_at else parts
    name = f"Anti-entropy {'' if is_brief else 'round '}{number}" if number else "Anti-entropy"
    return title(name, *parts, *filtered)


# Messages


def log_title(
    model: Model,
    *,
    is_following: bool,
    below: int,
    is_paused: bool,
    filtered: list[tuple[str, str]],
) -> Content:
    parts: list[tuple[str, str]] = [*filtered]
    if model.messages.let_go:
        parts.append((f"{count_words(model.messages.let_go)} let go", "$text-muted"))
    if is_paused:
        parts.append(("paused", "$warning"))
    elif is_following:
        parts.append(("following", "$success"))
    else:
        parts.append((f"{below:,} below", "$warning"))
    return title(f"Messages {model.messages.end:,}", *parts)
