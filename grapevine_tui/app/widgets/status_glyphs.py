"""Glyph, label and tone of every peer state, member status and round outcome.

Invariants: each state has its own glyph, so that the screen can be read without colors.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from grapevine_proto.events import (
    MemberInfo,
    MemberStatus,
    PeerInfo,
    PeerState,
    RoundOutcome,
)
from grapevine_tui.host.model import Model


class StatusGlyph(NamedTuple):
    """A one-cell glyph, a label of at most seven cells and a tone (`TONES`)."""

    glyph: str
    label: str
    tone: str


# Peers and members share one vocabulary. Tables sort by `STATUS_ORDER`.
UP: Final = StatusGlyph("●", "up", "good")
STALE: Final = StatusGlyph("◐", "silent", "warn")
DIALING: Final = StatusGlyph("◌", "dialing", "dim")
SUSPECT: Final = StatusGlyph("▲", "suspect", "warn")
CLOSED: Final = StatusGlyph("◦", "closed", "dim")  # up, as far as is known, and not connected to us
DOWN: Final = StatusGlyph("✕", "down", "bad")
LEFT: Final = StatusGlyph("○", "left", "dim")
DENIED: Final = StatusGlyph("⊘", "denied", "bad")
STATUS_ORDER: Final = (UP, STALE, DIALING, SUSPECT, CLOSED, DOWN, LEFT, DENIED)
STATE_GLYPHS: Final = {
    PeerState.CONNECTING: DIALING,
    PeerState.CONNECTED: UP,
    PeerState.STALE: STALE,
    PeerState.DISCONNECTED: DOWN,
}
STATUS_GLYPHS: Final = {
    MemberStatus.UP: UP,
    MemberStatus.SUSPECT: SUSPECT,
    MemberStatus.DOWN: DOWN,
    MemberStatus.LEFT: LEFT,
}


def peer_status(model: Model, peer: PeerInfo) -> StatusGlyph:
    """Return the state of the link to `peer`, or its member status if it is not connected."""
    if peer.peer_id in model.denied:
        return DENIED
    member = model.members.get(peer.peer_id)
    if peer.state is not PeerState.DISCONNECTED or member is None:
        return STATE_GLYPHS[peer.state]
    return CLOSED if member.status is MemberStatus.UP else STATUS_GLYPHS[member.status]


def member_status(model: Model, member: MemberInfo) -> StatusGlyph:
    """Return the member status of `member`, or `DENIED`."""
    if member.peer_id in model.denied:
        return DENIED
    return STATUS_GLYPHS[member.status]


OUTCOME_GLYPHS: Final = {
    RoundOutcome.RUNNING: StatusGlyph("◌", "running", "dim"),
    RoundOutcome.IN_SYNC: StatusGlyph("=", "in sync", "good"),
    RoundOutcome.REPAIRED: StatusGlyph("+", "repaired", "accent"),
    RoundOutcome.PARTIAL: StatusGlyph("▲", "partial", "warn"),
    RoundOutcome.NO_ANSWER: StatusGlyph("✕", "no answer", "bad"),
}


def health_tone(health: float) -> str:
    return "good" if health >= 0.8 else "warn" if health >= 0.5 else "bad"
