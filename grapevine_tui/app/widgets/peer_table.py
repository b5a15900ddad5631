"""A table whose rows are nodes, and the actions on the selected one.

Invariants: the table only posts requests; the app executes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import ClassVar, Final

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from grapevine_proto.events import (
    PeerInfo,
    PeerState,
)
from grapevine_proto.ids import Address, PeerId
from grapevine_tui.app.widgets.bindings import bindings
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
from grapevine_tui.config.keymap import PEER_KEYS
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import format_tags
from grapevine_tui.text import printable

NO_VALUE: Final = "-"

PEER_COLUMNS: Final = (
    Column("state", 9),
    Column("peer", 9, grow=3),
    Column("address", 15, grow=1, drop_rank=3),
    Column("zone", 7, grow=1, drop_rank=4),
    Column("rtt", 6, is_right_aligned=True),
    Column("health", 6, is_right_aligned=True, drop_rank=1),
    Column("in/s", 5, is_right_aligned=True, drop_rank=2),
    Column("tokens", 6, is_right_aligned=True, drop_rank=5),
    Column("tags", 8, grow=2, drop_rank=6),
)


def peer_rows(model: Model) -> list[Row]:
    """Return a row per peer, sorted by status and name."""
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
    """Return a key that sorts IPv4 addresses by number, then host names, then None."""
    if address is None:
        return 2, (), "", 0
    parts = address.host.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        return 0, tuple(int(part[:5]) for part in parts), "", address.port
    return 1, (), address.host, address.port


def _peer_row(model: Model, peer: PeerInfo, status: StatusGlyph) -> Row:
    """Return the row of `peer`. A peer without a link has no measurements."""
    glyph, label, tone = status
    is_connected = peer.state.is_connected
    is_stale = peer.state is PeerState.STALE  # its RTT is then the last one measured
    rates = model.peer_rates.get(peer.peer_id)
    is_slow = peer.rtt_s is not None and peer.rtt_s > 0.3  # about where a user notices the wait
    is_low = peer.tokens_capacity > 0 and peer.tokens < peer.tokens_capacity / 5
    rtt = format_latency(peer.rtt_s) if is_connected else NO_VALUE
    rate = (
        format_count(rates.in_per_s)
        if rates and is_connected
        else "0"
        if is_connected
        else NO_VALUE
    )
    tags = printable(format_tags(model.tags_of(peer.peer_id)))
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
            Cell(tags or NO_VALUE, "text" if tags and is_connected else "dim"),
        ),
        sort_values=(
            STATUS_ORDER.index(status),
            model.name_of(peer.peer_id).casefold(),
            address_sort_key(peer.address),
            peer.zone.casefold(),
            peer.rtt_s if is_connected else None,
            peer.health if is_connected else None,
            rates.in_per_s if rates and is_connected else None,
            peer.tokens if peer.tokens_capacity and is_connected else None,
            tags.casefold(),
        ),
    )


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
