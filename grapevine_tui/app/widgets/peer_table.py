"""A table whose rows are nodes, and the actions on the selected one.

Invariants: the table only posts requests; the app executes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Final, NamedTuple

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_proto.events import (
    PeerInfo,
    PeerState,
)
from grapevine_proto.ids import Address, PeerId
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.charts import braille_graph
from grapevine_tui.app.widgets.columns import (
    NO_VALUE,
    columns_of,
    field_cell,
    marked,
    outlier_limit,
)
from grapevine_tui.app.widgets.format import format_count, format_latency
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.status_glyphs import (
    STATUS_ORDER,
    UP,
    StatusGlyph,
    health_tone,
    peer_status,
)
from grapevine_tui.app.widgets.titles import TONE_COLORS, format_title
from grapevine_tui.config.columns import PEER_DEFAULT
from grapevine_tui.config.keymap import PEER_KEYS
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import format_tags
from grapevine_tui.text import printable

COLUMN_SPECS: Final[Mapping[str, Column]] = {
    "state": Column("state", 9),
    "peer": Column("peer", 9, grow=3),
    "address": Column("address", 15, grow=1, drop_rank=3),
    "zone": Column("zone", 7, grow=1, drop_rank=4),
    "rtt": Column("rtt", 6, is_right_aligned=True),
    "health": Column("health", 6, is_right_aligned=True, drop_rank=1),
    "in/s": Column("in/s", 5, is_right_aligned=True, drop_rank=2),
    "tokens": Column("tokens", 6, is_right_aligned=True, drop_rank=5),
    "tags": Column("tags", 8, grow=2, drop_rank=6),
    "out/s": Column("out/s", 5, is_right_aligned=True),
    "rtt_graph": Column("rtt", 12),
    "jitter": Column("jitter", 6, is_right_aligned=True),
    "loss": Column("loss", 6, is_right_aligned=True),
    "repaired": Column("repaired", 8, is_right_aligned=True),
    **{
        name: Column(name, max(7, len(name)), is_right_aligned=True)
        for name in ("rtt_ms", "sent", "received", "allowed", "throttled", "queued", "lost")
    },
}
# How far above the median a value must be at least to stand out, where more is worse.
MIN_EXCESS: Final[Mapping[str, float]] = {
    "rtt": 0.02,
    "jitter": 0.01,
    "loss": 0.01,
    "lost": 10,
    "queued": 10,
    "throttled": 1,
}


def peer_columns(names: Sequence[str] = PEER_DEFAULT) -> list[Column]:
    """The columns of the table with these names."""
    return columns_of(names, COLUMN_SPECS, PEER_DEFAULT)


def peer_rows(model: Model, names: Sequence[str] = PEER_DEFAULT) -> list[Row]:
    """Return a row per peer, sorted by status and name, with the columns of these names."""
    status_by_peer = {peer_id: peer_status(model, peer) for peer_id, peer in model.peers.items()}
    peers = sorted(
        model.peers.values(),
        key=lambda peer: (
            STATUS_ORDER.index(status_by_peer[peer.peer_id]),
            model.name_of(peer.peer_id),
            peer.peer_id,
        ),
    )
    context = _Context(model, _repaired_by(model) if "repaired" in names else Counter())
    rows = [
        [_cell(context, peer, status_by_peer[peer.peer_id], name) for name in names]
        for peer in peers
    ]
    limits = {
        index: outlier_limit([row[index][1] for row in rows if row[index][1] is not None], excess)
        for index, name in enumerate(names)
        if (excess := MIN_EXCESS.get(name)) is not None
    }
    return [
        Row(
            peer.peer_id,
            tuple(
                marked(cell, value, limits[index]) if index in limits else cell
                for index, (cell, value) in enumerate(row)
            ),
            sort_values=tuple(value for _, value in row),
        )
        for peer, row in zip(peers, rows, strict=True)
    ]


class _Context(NamedTuple):
    """What the cells of all rows are built from."""

    model: Model
    repaired: Counter[PeerId]


def _repaired_by(model: Model) -> Counter[PeerId]:
    """The messages that each peer repaired here, by the rounds that are kept."""
    found: Counter[PeerId] = Counter()
    for entry in model.rounds:
        found[entry.round.peer] += entry.round.received
    return found


def address_sort_key(address: Address | None) -> tuple[int, tuple[int, ...], str, int]:
    """Return a key that sorts IPv4 addresses by number, then host names, then None."""
    if address is None:
        return 2, (), "", 0
    parts = address.host.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        return 0, tuple(int(part[:5]) for part in parts), "", address.port
    return 1, (), address.host, address.port


def _cell(context: _Context, peer: PeerInfo, status: StatusGlyph, name: str) -> tuple[Cell, Any]:
    """Return a cell and its sort value. A peer without a link has no measurements."""
    model, is_connected = context.model, peer.state.is_connected
    tone = "text" if is_connected else "dim"
    match name:
        case "state":
            return Cell(f"{status.glyph} {status.label}", status.tone), STATUS_ORDER.index(status)
        case "peer":
            shown = model.name_of(peer.peer_id)
            return Cell(printable(shown), "key" if is_connected else "dim"), shown.casefold()
        case "address":
            return Cell(printable(str(peer.address)), tone), address_sort_key(peer.address)
        case "zone":
            zone_tone = tone if peer.zone else "dim"
            return Cell(printable(peer.zone) or NO_VALUE, zone_tone), peer.zone.casefold()
        case "tags":
            tags = printable(format_tags(model.tags_of(peer.peer_id)))
            return Cell(tags or NO_VALUE, tone if tags else "dim"), tags.casefold()
        case "repaired":
            count = context.repaired[peer.peer_id]
            return Cell(format_count(count), "text" if count else "dim"), count
        case _ if name in MEASURED:
            return _measured_cell(model, peer, name) if is_connected else (NO_CELL, None)
        case _:
            row = peer.to_dict(now=model.now) | {"tags": model.tags_of(peer.peer_id)}
            return field_cell(row, name)


NO_CELL: Final = Cell(NO_VALUE, "dim")
MEASURED: Final = frozenset(
    ("rtt", "health", "in/s", "out/s", "tokens", "rtt_graph", "jitter", "loss")
)


def _measured_cell(model: Model, peer: PeerInfo, name: str) -> tuple[Cell, Any]:
    """Return what was measured of a connected peer."""
    rates = model.peer_rates.get(peer.peer_id)
    match name:
        case "rtt":
            is_stale = peer.state is PeerState.STALE  # then it is the last one measured
            return Cell(format_latency(peer.rtt_s), "dim" if is_stale else "text"), peer.rtt_s
        case "rtt_graph":
            values = model.rtts.get(peer.peer_id, ())
            graph = braille_graph(values, COLUMN_SPECS[name].min_width, 1)[0]
            return Cell(graph, "accent"), peer.rtt_s
        case "health":
            return Cell(f"{peer.health:.2f}", health_tone(peer.health)), peer.health
        case "tokens":
            if not peer.tokens_capacity:
                return NO_CELL, None
            is_low = peer.tokens < peer.tokens_capacity / 5
            return Cell(format_count(int(peer.tokens)), "bad" if is_low else "text"), peer.tokens
        case "jitter":
            jitter_s = model.link_quality.jitter_s(peer.peer_id)
            if jitter_s is None:
                return NO_CELL, None
            return Cell(format_latency(jitter_s)), jitter_s
        case "loss":
            loss = model.link_quality.loss(peer.peer_id)
            return (NO_CELL, None) if loss is None else (Cell(f"{loss * 100:.1f}%"), loss)
        case _:
            if rates is None:
                return Cell("0"), None
            per_s = rates.in_per_s if name == "in/s" else rates.out_per_s
            return Cell(format_count(per_s)), per_s


def peer_title(model: Model, max_peers: int, filtered: list[tuple[str, str]]) -> Content:
    """Return ``Peers 4 up · 1 down · max 50``: the number of peers in each state."""
    counts = Counter(peer_status(model, peer) for peer in model.peers.values())
    parts = [
        (f"{counts[each]} {each.label}", TONE_COLORS[each.tone])
        for each in STATUS_ORDER[1:]
        if counts[each]
    ]
    return format_title(
        f"Peers {counts[UP]} up", *parts, (f"max {max_peers}", "$text-muted"), *filtered
    )


DENY_ACTION: Final = "request('deny')"
ALLOW_LABEL: Final = "Allow"


class PeerAction(Enum):
    """What can be requested for the selected peer. The value is the name of the key."""

    SEND = "send"
    REDIAL = "redial"
    DENY = "deny"
    FORGET = "forget"
    FOLLOW = "follow"
    COPY = "copy"
    COPY_ID = "copy_id"


class PeerGrid(Grid):
    """Rows whose key is a PeerId. Posts `ActionRequested` for the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PEER_KEYS)

    is_denied: Callable[[PeerId], bool] | None = None
    """Whether a node is denied; None: not known here."""

    class ActionRequested(Message):
        """`action` is requested for the peer `peer_id`."""

        def __init__(self, action: PeerAction, peer_id: PeerId) -> None:
            super().__init__()
            self.action = action
            self.peer_id = peer_id

    def key_label(self, action: str) -> str:
        """The label of a key, where its effect depends on the selected row."""
        key = self.cursor_key
        if (
            action == DENY_ACTION
            and self.is_denied
            and isinstance(key, PeerId)
            and self.is_denied(key)
        ):
            return ALLOW_LABEL
        return super().key_label(action)

    def action_request(self, action: str) -> None:
        key = self.cursor_key
        if isinstance(key, PeerId) and self.ensure_cursor_visible():
            self.post_message(self.ActionRequested(PeerAction(action), key))
