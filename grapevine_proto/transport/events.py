"""What the transport reports to the engine.

Invariants: an event says what has happened to bytes, sessions or links. It asks for nothing, except
`SessionReady`, which waits until the engine calls `Transport.accept` or `Transport.refuse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from grapevine_proto.errors import DropReason
from grapevine_proto.events import Event
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.wire.messages import (
    CloseReason,
    DirectMessage,
    GossipMessage,
    SwapRequest,
)
from grapevine_proto.wire.signed import PeerRecord


class MessageIn(NamedTuple):
    """`link` carried a message for the overlay. `is_linked`: it is a link, not a transient session."""

    link: Link
    is_linked: bool
    message: GossipMessage


class DirectMessageIn(NamedTuple):
    """`link` carried a message for the application."""

    link: Link
    is_linked: bool
    message: DirectMessage


class PacketIn(NamedTuple):
    """`link` carried a packet without a message for anyone above the transport. `has_progressed`: it
    brought a large message closer to completion."""

    link: Link
    is_linked: bool
    has_progressed: bool


class RumorsAcked(NamedTuple):
    """A peer acknowledged packets with rumors of this node: (epoch, first sequence) of each."""

    keys: Sequence[tuple[int, int]]


class AnsweringChanged(NamedTuple):
    """A linked peer acknowledges nothing that is sent to it, or does so again. `is_silent`: nothing is heard
    of it either."""

    peer_id: PeerId
    is_answering: bool
    is_silent: bool = False


class SessionReady(NamedTuple):
    """A session with a peer that has no link is live. The engine accepts or refuses it at once.
    `wants_room` and `swap_request`: what the end that dialed asks for, if anything."""

    established: EstablishedSession
    wants_room: bool
    swap_request: SwapRequest | None


class PeerRestarted(NamedTuple):
    """A later run of a linked peer replaces the link of the earlier one; `LinkUp` follows."""

    peer_id: PeerId


class LinkUp(NamedTuple):
    """A link is up. `source`: the address that the session proved. `is_outbound`: this node dialed."""

    record: PeerRecord
    source: Address
    rtt_s: float | None
    is_outbound: bool


class LinkDown(NamedTuple):
    """A link is down. `reason`: None if neither end closed it. `referrals`: peers to try instead, as
    the peer that closed the link suggests; None if the peer did not close it."""

    peer_id: PeerId
    detail: str
    reason: CloseReason | None
    referrals: tuple[PeerRecord, ...] | None = None


class DialAnswered(NamedTuple):
    """The peer with `record` completed the handshake of a dial."""

    address: Address
    expected: PeerId | None
    record: PeerRecord


class DialRejected(NamedTuple):
    """The dialed peer completed the handshake and closed the session at once."""

    record: PeerRecord
    address: Address
    reason: CloseReason
    referrals: tuple[PeerRecord, ...]


class SwapAccepted(NamedTuple):
    """The dialed peer made room for this node; this node now closes its link to `victim`."""

    victim: PeerRecord
    nearer: PeerRecord


class DialFailed(NamedTuple):
    """No session came of a dial. `reason`: how it was answered, or a description of what prevented
    it; None: no answer."""

    address: Address
    expected: PeerId | None
    reason: DropReason | str | None


class ProbeDone(NamedTuple):
    """A dial that looked for a nearer peer ended. `rtt_s`: None without an answer."""

    address: Address
    expected: PeerId | None
    rtt_s: float | None


class Notify(NamedTuple):
    """Something for the application."""

    event: Event


TransportEvent: TypeAlias = (
    MessageIn
    | DirectMessageIn
    | PacketIn
    | RumorsAcked
    | AnsweringChanged
    | SessionReady
    | PeerRestarted
    | LinkUp
    | LinkDown
    | DialAnswered
    | DialRejected
    | SwapAccepted
    | DialFailed
    | ProbeDone
    | Notify
)
