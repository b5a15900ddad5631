"""Datagrams in, messages and links out: handshakes, sessions, links and transient sessions of a node.

Invariants:

- `receive` never raises. Each drop is counted under one `DropReason`; a drop that dooms a dial ends it.
- A session is live once a packet of the other end has opened on it. It then joins an existing link,
  becomes a link if the engine accepts it, or is closed with referrals.
- A node that is leaving admits no session.
- A bug that shows while the transport serves one peer ends that link, dial or session alone, is counted
  and reported (`InternalErrorContained`), and costs no other peer its turn.
- The transport decides nothing about the overlay. It asks for the few facts in `OverlayView`, and
  reports everything else as events.

Events are returned in order. Where the next one depends on what the engine does about the last, they
are generated one by one: the caller acts on each before it takes the next.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import Final, Protocol, assert_never

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.dial_purpose import LINK, TRANSIENT, DialPurpose
from grapevine_proto.errors import Dropped, DropReason, Offense, format_error
from grapevine_proto.events import (
    InternalErrorContained,
    Message,
    MessageSent,
    PathKind,
    Standing,
    StandingChanged,
    UndeliveredReason,
)
from grapevine_proto.ids import RELAY_HOST_PREFIX, Address, MessageId, PeerId
from grapevine_proto.transport.direct_deliveries import DirectDeliveries
from grapevine_proto.transport.drop_counts import DropCounts
from grapevine_proto.transport.events import (
    AnsweringChanged,
    DialAnswered,
    DialFailed,
    DialRejected,
    DirectMessageIn,
    LinkDown,
    LinkUp,
    MessageIn,
    Notify,
    PacketIn,
    PeerRestarted,
    ProbeDone,
    RumorsAcked,
    SessionReady,
    SwapAccepted,
    TransportEvent,
)
from grapevine_proto.transport.handshake.initiator import Initiator
from grapevine_proto.transport.handshakes import Handshakes
from grapevine_proto.transport.introducer import Introducer
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.peer_limits import RATE_LIMITED_MESSAGE_WORK
from grapevine_proto.transport.relay import Relays, mark_of
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.transport.transient_sessions import PendingSend, TransientSessions
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    RECEIPT_ABOVE_BYTES,
    REPAIR_DATAGRAMS_LIMIT,
    AnnounceTopic,
    AnswerFetch,
    Answers,
    Close,
    CloseReason,
    Confirm,
    Digest,
    DirectMessage,
    DirectReceipt,
    Frame,
    InSync,
    Introduce,
    Introduction,
    IWant,
    Kind,
    NeighborRequest,
    OpenTransient,
    OverlayMessage,
    Pause,
    Records,
    Relayed,
    Repair,
    Rumors,
    StateDelta,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.packets import Packet
from grapevine_proto.wire.signed import PeerRecord

PROTOCOL_VIOLATIONS: Final = (DropReason.MALFORMED, DropReason.CONTENT_CONFLICT)
"""Reasons to drop an opened packet that no honest node causes."""
TRANSIENT_MESSAGES: Final = (
    AnnounceTopic,
    DirectMessage,
    DirectReceipt,
    Digest,
    InSync,
    Vector,
    IWant,
    Repair,
    Records,
    Confirm,
    OpenTransient,
    Answers,
    AnswerFetch,
    Introduce,
    Introduction,
    Relayed,
)
"""What a transient session may carry besides Close: direct messages, repair, large answers, introductions
and relayed datagrams."""
OPENING_MESSAGES: Final = (IWant, AnswerFetch, Introduce)  # requests that open a transient session
REAP_INTERVAL_S: Final = 60.0  # between searches for limits of peers that say nothing
STALLED_SEND_S: Final = 1.0  # without a dial: a message that waits for a session is given up
RELAY_DELAYS_S: Final = (0.4, 1.0)  # before a way through a relay is tried besides the direct ones
TICK_INTERVAL_S: Final = 1.0  # for what is reported once a second, and for the age of sessions
INTERNAL_ERROR_EVENT_INTERVAL_S: Final = (
    1.0  # for errors of no peer in particular, which an unauthenticated peer may cause at will
)


class OverlayView(Protocol):
    """What the transport reads of the overlay."""

    @property
    def record(self) -> PeerRecord:
        """The signed record of this node."""
        ...

    @property
    def has_unclaimed(self) -> bool:
        """Whether a rumor of this node was announced and no peer has requested it yet."""
        ...

    def record_of(self, peer_id: PeerId) -> PeerRecord | None:
        """The latest record of a member."""
        ...

    def addresses_of(self, peer_id: PeerId) -> tuple[Address, ...]:
        """Where to dial a member, all at once."""
        ...

    def introducers_of(self, peer_id: PeerId) -> tuple[PeerId, ...]:
        """Who is asked to introduce this node to a member behind a NAT; empty if it is behind none."""
        ...

    def referrals(self, peer_id: PeerId) -> tuple[PeerRecord, ...]:
        """Peers that `peer_id` may try because this node has no room."""
        ...


class SendOutcome(Enum):
    """What became of a message to a member without a link."""

    SENT = "sent"
    QUEUED = "queued"  # for a session that is being opened; `MessageSent` is reported later
    DROPPED = "dropped"  # the queue for that session is full
    UNREACHABLE = "unreachable"  # no address, or no room for another session


class DatagramCounters:
    """Datagrams and their bytes, both ways."""

    __slots__ = ("bytes_in", "bytes_out", "datagrams_in", "datagrams_out")

    def __init__(self) -> None:
        self.datagrams_in = self.bytes_in = 0
        self.datagrams_out = self.bytes_out = 0

    def count_sent(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Counts datagrams that are handed out."""
        for datagram, _ in datagrams:
            self.datagrams_out += 1
            self.bytes_out += len(datagram)


class Transport:
    """All sessions of one node. `links`, `transients`, `handshakes`, `drops` and `counters` may be read;
    `version` grows whenever the set of links changes. `now` is monotonic seconds."""

    def __init__(
        self,
        config: LiveConfig,
        identity: Identity,
        overlay: OverlayView,
        *,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._config = config
        self._overlay = overlay
        self._our_id = identity.peer_id
        self.links = LinkTable(config, identity.peer_id, entropy=entropy)
        self.handshakes = Handshakes(
            config,
            identity,
            is_expelled=self.links.peer_limits.is_expelled,
            rng=rng,
            entropy=entropy,
            now=now,
        )
        self.transients = TransientSessions(config, self.links)
        self.direct = DirectDeliveries()
        self.introducer = Introducer(self.links)
        self.relays = Relays(config, self._session_with, self._find_peer, now)
        self.drops = DropCounts()
        self.counters = DatagramCounters()
        self.version = 0
        self._tick_at = self._reap_at = now
        self._internal_error_reported_at = -math.inf

    def reconfigure(self, now: float) -> Iterator[TransportEvent]:
        """Settings changed: sessions whose key or peer is no longer allowed end."""
        config = self._config.current
        self.handshakes.reconfigure(now)
        self.links.reconfigure(now)
        for peer_id, link in list(self.links.items()):
            if link.session.key not in config.keys:
                yield from self.disconnect(
                    peer_id, "key removed", CloseReason.KEY_REMOVED, notify=True, now=now
                )
        for link in self.transients.all():
            if link.session.key not in config.keys:
                self.transients.close(link.peer_id, CloseReason.KEY_REMOVED, now)
            elif link.peer_id in config.denied:
                self.transients.close(link.peer_id, CloseReason.MISCONDUCT, now)

    # --- in: datagrams --------------------------------------------------------------------------

    def receive(
        self, datagram: bytes, source: Address, now: float, *, is_relayed: bool = False
    ) -> Iterable[TransportEvent]:
        """Takes one datagram, `is_relayed`: out of a message of a relay. Never raises."""
        if not is_relayed:
            self.counters.datagrams_in += 1
            self.counters.bytes_in += len(datagram)
            if source.host.startswith(RELAY_HOST_PREFIX):  # none of a socket
                self.drops.count(DropReason.UNEXPECTED, source)
                return ()
        try:
            packet = codec.decode_packet(datagram)
            if isinstance(packet, codec.Data):
                link = self.links.take_receiver(packet.session_id)
                if link is not None:
                    return self._on_link_packet(link, packet, source, now)
            events = self._on_other_packet(packet, datagram, source, now)
        except Dropped as dropped:
            self.drops.count(dropped.reason, source)
            return ()
        except Exception as error:  # noqa: BLE001
            return self._contain_datagram_error(error, datagram, now)
        return self._contained(events, datagram, source, now)

    def _contained(
        self, events: Iterator[TransportEvent], datagram: bytes, source: Address, now: float
    ) -> Iterator[TransportEvent]:
        try:
            yield from events
        except Dropped as dropped:
            self.drops.count(dropped.reason, source)
        except Exception as error:  # noqa: BLE001
            yield from self._contain_datagram_error(error, datagram, now)

    def _on_other_packet(
        self, packet: Packet, datagram: bytes, source: Address, now: float
    ) -> Iterator[TransportEvent]:
        """Any packet but one of a live session."""
        match packet:
            case codec.Data():
                return self._on_unclaimed_data(packet, source, now)
            case codec.Hello() | codec.Proof():
                return self._on_initial(packet, datagram, source, now)
            case codec.Challenge() | codec.Welcome():
                return self._on_response(packet, datagram, source, now)
            case _:
                assert_never(packet)

    # --- in: packets of live sessions -----------------------------------------------------------

    def _on_link_packet(
        self, link: Link, packet: codec.Data, source: Address, now: float
    ) -> Iterable[TransportEvent]:
        try:
            plaintext = link.receive(packet, now, source)
        except Dropped as dropped:
            return self._on_dropped_packet(link, dropped.reason, source, now)
        is_linked = self.links.is_link(link)
        events: Iterable[TransportEvent]
        if plaintext is None:
            events = (PacketIn(link, is_linked, link.has_progressed),)
        else:
            try:
                events = self._on_message(link, is_linked, codec.decode_message(plaintext), now)
            except Dropped as dropped:
                events = (
                    PacketIn(link, is_linked, False),
                    *self._on_dropped_packet(link, dropped.reason, source, now),
                )
        if link.has_acked and (acked := self._take_acked(link, now)):
            return chain((RumorsAcked(acked),), events)
        return events

    def _take_acked(self, link: Link, now: float) -> list[tuple[int, int]]:
        """Returns the rumors that the peer of `link` acknowledged, and ends the direct messages."""
        acked = link.take_acked()
        direct = [key for key in acked if isinstance(key, MessageId)] if self.direct else ()
        if direct:
            self.direct.on_acked(direct, now)
        return [key for key in acked if not isinstance(key, MessageId)] if acked else []

    def _on_message(
        self,
        link: Link,
        is_linked: bool,
        message: OverlayMessage | Frame,
        now: float,
    ) -> Iterable[TransportEvent]:
        """Raises Dropped if a transient session carries what it may not."""
        if not is_linked and not isinstance(message, (*TRANSIENT_MESSAGES, Close)):
            raise Dropped(DropReason.UNEXPECTED)
        match message:
            case DirectMessage(sequence, payload):
                if len(payload) > RECEIPT_ABOVE_BYTES:
                    receipt = codec.encode_message(DirectReceipt(sequence))
                    self._enqueue_contained(link, receipt, now)
                return (DirectMessageIn(link, is_linked, message),)
            case DirectReceipt(sequence):
                self.direct.on_receipt(link.peer_id, sequence)
            case Pause(duration_ms):
                self.links.coalescer.pause(link.peer_id, duration_ms / 1000, now)
            case Introduce():
                for receiver, plaintext in self.introducer.introduce(link, message, now):
                    self._enqueue_contained(receiver, plaintext, now)
            case Relayed():
                return self._on_relayed(link, is_linked, message, now)
            case Close():
                return self._on_close(link, is_linked, message, now)
            case Confirm() | NeighborRequest() | SwapRequest() | OpenTransient():
                pass
            case Rumors() | Repair() | StateDelta() if link.transfer_s:
                # Their sender told their age before the first fragment.
                copies = tuple(copy.aged(link.transfer_s) for copy in message.copies)
                return (MessageIn(link, is_linked, message._replace(copies=copies)),)
            case _:
                return (MessageIn(link, is_linked, message),)
        return (PacketIn(link, is_linked, False),)

    def _on_relayed(
        self, link: Link, is_linked: bool, message: Relayed, now: float
    ) -> Iterator[TransportEvent]:
        """A peer sends a datagram through this node, or another one sent it to this node through the peer."""
        yield PacketIn(link, is_linked, False)
        if not self.relays.admit(link, message, now):
            return
        if message.is_forwarded:
            source = self.relays.address_via(link.peer_id, message.mark)
            yield from self.receive(message.datagram, source, now, is_relayed=True)
        elif (passed_on := self.relays.forward(link, message)) is not None:
            self._enqueue_contained(*passed_on, now)

    def path_to(self, peer_id: PeerId) -> PathKind | None:
        """How packets reach a peer now; None without a link or transient session."""
        link = self._session_with(peer_id)
        return None if link is None else link.path_kind

    def _session_with(self, peer_id: PeerId) -> Link | None:
        return self.links.get(peer_id) or self.transients.get(peer_id)

    def _find_peer(self, mark: bytes) -> PeerId | None:
        """The peer with a session whose ID begins like this."""
        for peer_id in self.links:
            if peer_id.startswith(mark):
                return peer_id
        return next(
            (each.peer_id for each in self.transients.all() if each.peer_id.startswith(mark)), None
        )

    def _on_close(
        self, link: Link, is_linked: bool, close: Close, now: float
    ) -> Iterator[TransportEvent]:
        yield PacketIn(link, is_linked, False)
        try:
            yield from self._close(link, is_linked, close, now)
        except Exception as error:  # noqa: BLE001
            yield from self.contain_error(error, link, now)

    def _close(
        self, link: Link, is_linked: bool, close: Close, now: float
    ) -> Sequence[TransportEvent]:
        """The peer closed the link or transient session."""
        if not is_linked:
            self.transients.close(link.peer_id, None, now)
            return ()
        is_leaving = close.reason is CloseReason.LEAVING
        return self.disconnect(
            link.peer_id,
            "left" if is_leaving else f"closed: {close.reason.name.lower()}",
            close.reason,
            notify=False,
            now=now,
            suggested=close.records,
        )

    def _on_dropped_packet(
        self, link: Link, reason: DropReason, source: Address, now: float
    ) -> Sequence[TransportEvent]:
        """Counts a dropped packet of `link`. Its peer answers only for what its session proved: anyone on
        the path can repeat a packet or flip bits of one."""
        self.drops.count(reason, source)
        if reason in PROTOCOL_VIOLATIONS:
            return self.penalize(link.peer_id, Offense.PROTOCOL_VIOLATION, 1, now)
        if reason is DropReason.RATE_LIMITED:
            self.links.peer_limits.count_throttled(link.peer_id, now)
            return self.charge_work(link.peer_id, RATE_LIMITED_MESSAGE_WORK, now)
        return ()

    # --- in: handshakes -------------------------------------------------------------------------

    def _on_initial(
        self, packet: codec.Hello | codec.Proof, datagram: bytes, source: Address, now: float
    ) -> Iterator[TransportEvent]:
        if self.links.is_leaving:  # a session that began now would end without a word
            raise Dropped(DropReason.UNEXPECTED)
        is_known = self.links.find_by_address(source) is not None
        record = self._overlay.record
        try:
            reply = self.handshakes.on_initial(
                packet, datagram, source, record, now, exempt=is_known
            )
        except Dropped as dropped:
            if dropped.reason is DropReason.SELF_DIAL and isinstance(packet, codec.Proof):
                yield from self._end_dial(packet.hello.session_id, dropped.reason, now)
            raise
        self.links.enqueue_raw([(reply, source)])

    def _on_response(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> Iterator[TransportEvent]:
        try:
            dial = self.handshakes.on_response(packet, datagram, source, now)
        except Dropped as dropped:
            if dropped.reason in (DropReason.SELF_DIAL, DropReason.WRONG_PEER):
                yield from self._end_dial(packet.session_id, dropped.reason, now)
            raise
        if dial.is_rtt_too_high:
            yield from self._end_dial(packet.session_id, None, now)

    def _on_unclaimed_data(
        self, packet: codec.Data, source: Address, now: float
    ) -> Iterator[TransportEvent]:
        """Data of no live session: it confirms a session, or belongs to one that is closed."""
        initiated = self.handshakes.confirm_initiated(packet, source, now)
        if initiated is not None:
            yield from self._on_dial_confirmed(initiated.dial, initiated.established, now)
            return
        if self.links.find_closed(packet.session_id) is not None:
            yield from self._on_closed_packet(packet, now)
            return
        accepted = self.handshakes.confirm_accepted(packet, source, now)
        if accepted is None:
            raise Dropped(DropReason.UNKNOWN_SESSION)
        if accepted.address.is_via_relay:
            if accepted.plaintext[0] != Kind.OPEN_TRANSIENT:
                raise Dropped(DropReason.UNEXPECTED)
            accepted = accepted._replace(path=PathKind.RELAYED)
        else:
            accepted = self._with_path(accepted)
        if accepted.plaintext[0] == Kind.OPEN_TRANSIENT:
            yield from self._open_transient(accepted, now)
        else:
            wants_room = accepted.plaintext[0] == Kind.NEIGHBOR_REQUEST
            yield from self.establish(accepted, now, wants_room=wants_room)

    def _on_dial_confirmed(
        self, dial: Initiator, established: EstablishedSession, now: float
    ) -> Iterator[TransportEvent]:
        established = self._with_path(established)
        record, purpose = established.record, dial.purpose
        self.handshakes.end_siblings(dial)
        is_rejected = established.plaintext[0] == Kind.CLOSE
        if purpose.is_transient:
            if is_rejected:
                yield from self._fail_transient(record.peer_id, UndeliveredReason.REFUSED, "full")
            else:
                yield from self._open_transient(established, now)
            return
        yield DialAnswered(dial.address, dial.expected, record)
        if is_rejected:
            close = codec.decode_message(established.plaintext)
            if isinstance(close, Close):
                yield DialRejected(record, established.address, close.reason, close.records)
        else:
            if purpose.swap_for is not None:
                yield SwapAccepted(purpose.swap_for, record)
            yield from self.establish(established, now, wants_room=purpose.wants_room)
        yield from self._retry_transient(record.peer_id, now)

    def _with_path(self, established: EstablishedSession) -> EstablishedSession:
        """The session with its kind of path. Of two ends that dial each other through their NATs one may not
        know that it was introduced, because that message was lost: its own dial looks like any other."""
        if established.path is not PathKind.DIRECT:
            return established
        address, record = established.address, established.record
        is_punched = self.handshakes.is_punching(record.peer_id, address.host) or (
            record.introducers is not None
            and self._overlay.record.introducers is not None
            and ":" not in address.host
            and not address.is_private
        )
        return established._replace(path=PathKind.PUNCHED) if is_punched else established

    def _on_closed_packet(self, packet: codec.Data, now: float) -> Iterator[TransportEvent]:
        closed = self.links.on_closed_packet(packet, now)
        if closed is None:
            return
        if acked := self._take_acked(closed.link, now):
            yield RumorsAcked(acked)
        if isinstance(closed.message, DirectMessage):
            yield DirectMessageIn(closed.link, False, closed.message)
        elif isinstance(closed.message, Rumors):
            yield MessageIn(closed.link, False, closed.message)

    # --- sessions become links ------------------------------------------------------------------

    def establish(
        self, established: EstablishedSession, now: float, *, wants_room: bool
    ) -> Iterator[TransportEvent]:
        """A session is live: it joins or replaces the link with its peer, or waits to be accepted.
        `wants_room`: the end that dialed asked for room. Raises Dropped: DENIED, MISCONDUCT."""
        if self._is_admission_closed(established, now):
            return
        record = established.record
        link = self.links.get(record.peer_id)
        if link is None:
            swap_request = None
            if established.plaintext[0] == Kind.SWAP_REQUEST:
                message = codec.decode_message(established.plaintext)
                swap_request = message if isinstance(message, SwapRequest) else None
            yield SessionReady(established, wants_room, swap_request)
        elif record.epoch > link.epoch:
            self.links.supersede(link, established, now)
            yield PeerRestarted(record.peer_id)
            yield from self.accept(established, now)
        elif record.epoch < link.epoch:
            self.drops.count(DropReason.STALE_EPOCH)
            superseded = Close(CloseReason.SUPERSEDED, (link.record,))
            self.links.reject(established, superseded, now)
        else:
            self.links.add_session(link, established, now)
            yield from self._on_first_packet(link, established, now)

    def accept(self, established: EstablishedSession, now: float) -> Iterator[TransportEvent]:
        """Makes a link of a session that is ready."""
        link = self.links.add(established, now)
        self.version += 1
        is_outbound = established.session.is_initiator
        yield LinkUp(established.record, link.address, established.rtt_s, is_outbound)
        yield from self._send_pending(link, now)
        yield from self._on_first_packet(link, established, now)

    def refuse(self, established: EstablishedSession, now: float) -> None:
        """Closes a session for which there is no room, with referrals."""
        referrals = self._overlay.referrals(established.record.peer_id)
        self.links.reject(established, Close(CloseReason.FULL, referrals), now)

    def _is_admission_closed(self, established: EstablishedSession, now: float) -> bool:
        """Whether this node is leaving. Raises Dropped: DENIED, MISCONDUCT."""
        peer_id = established.record.peer_id
        if peer_id in self._config.current.denied:
            raise Dropped(DropReason.DENIED)
        if self.links.peer_limits.is_expelled(peer_id, now):
            raise Dropped(DropReason.MISCONDUCT)
        if self.links.is_leaving:
            self.links.reject(established, Close(CloseReason.LEAVING), now)
        return self.links.is_leaving

    def _on_first_packet(
        self, link: Link, established: EstablishedSession, now: float
    ) -> Iterator[TransportEvent]:
        """The packet that made the session live also carries a message."""
        self.links.mark_dirty(link)
        session = established.session
        try:
            plaintext = link.handle_payload(
                established.plaintext, session, session.ack_tracker.highest, now
            )
            is_linked = self.links.is_link(link)
            if plaintext is None:
                if acked := self._take_acked(link, now):
                    yield RumorsAcked(acked)
                yield PacketIn(link, is_linked, link.has_progressed)
            else:
                yield from self._on_message(link, is_linked, codec.decode_message(plaintext), now)
        except Dropped as dropped:
            self.drops.count(dropped.reason, established.address)
        except Exception as error:  # noqa: BLE001
            yield from self.contain_error(error, link, now)

    # --- transient sessions ---------------------------------------------------------------------

    def _open_transient(
        self, established: EstablishedSession, now: float
    ) -> Iterator[TransportEvent]:
        """A transient session is live, whichever end dialed. It leaves a link with the same peer as it is;
        an earlier run of the peer gets none."""
        if self._is_admission_closed(established, now):
            return
        record = established.record
        latest = self._overlay.record_of(record.peer_id)
        if latest is not None and record.epoch < latest.epoch:
            self.drops.count(DropReason.STALE_EPOCH)
            self.links.reject(established, Close(CloseReason.SUPERSEDED, (latest,)), now)
            return
        if not self.transients.make_room(record.peer_id, now):
            self.refuse(established, now)
            return
        link = self.transients.add(established, now)
        self.links.mark_dirty(link)
        yield from self._send_pending(link, now)
        yield from self._on_first_packet(link, established, now)

    def send_transient(self, peer_id: PeerId, pending: PendingSend, now: float) -> SendOutcome:
        """Sends to a member without a link on a transient session, which is opened first if needed."""
        link = self.transients.usable(peer_id, now)
        if link is not None:
            is_queued = self._enqueue_pending_send(link, pending, now)
            return SendOutcome.SENT if is_queued else SendOutcome.DROPPED
        if not self.transients.is_opening(peer_id):
            if not self._is_dialable(peer_id):
                return SendOutcome.UNREACHABLE
            if not self.transients.make_room(peer_id, now):
                return SendOutcome.UNREACHABLE
            # Else the result of that dial decides. Behind a NAT it may be none, and a relay is sooner.
            if not self.handshakes.is_dialing(peer_id) or self._is_behind_nat(peer_id):
                self._dial_transient(peer_id, now)
        is_queued = self.transients.enqueue_pending(peer_id, pending, now)
        return SendOutcome.QUEUED if is_queued else SendOutcome.DROPPED

    def _is_dialable(self, peer_id: PeerId) -> bool:
        """Whether a transient session with this member can be opened, if there is room for it."""
        has_way = bool(self._overlay.addresses_of(peer_id)) or self._is_behind_nat(peer_id)
        return has_way and self.handshakes.can_dial

    def _is_behind_nat(self, peer_id: PeerId) -> bool:
        record = self._overlay.record_of(peer_id)
        return record is not None and record.is_behind_nat(self._overlay.record.addresses)

    def _dial_transient(self, peer_id: PeerId, now: float) -> None:
        """Dials a member at all its addresses for a transient session; behind a NAT also asks for an
        introduction."""
        for address in self._overlay.addresses_of(peer_id):
            if self.handshakes.can_dial:
                self._dial(address, peer_id, TRANSIENT, now)
        introducers = self._overlay.introducers_of(peer_id)
        if not introducers:
            return
        self.send(introducers, Introduce(peer_id, True), now)
        for relay, delay_s in zip(introducers, RELAY_DELAYS_S, strict=False):
            if self.handshakes.can_dial:
                address = self.relays.address_via(relay, mark_of(peer_id))
                record = self._overlay.record
                self.handshakes.dial(address, peer_id, record, now, TRANSIENT, delay_s=delay_s)

    def _send_pending(self, link: Link, now: float) -> Iterator[TransportEvent]:
        """A session with a peer is open: what waited for it goes."""
        for pending in self.transients.pop_pending(link.peer_id):
            if self._enqueue_pending_send(link, pending, now):
                yield from _sent(pending, 1)
            else:
                yield from self._undelivered(pending, UndeliveredReason.QUEUE_FULL)

    def _enqueue_pending_send(self, link: Link, pending: PendingSend, now: float) -> bool:
        """Queues a message on `link`. Returns False if there is no room."""
        if not self._enqueue(link, pending.plaintext, now):
            return False
        if pending.message is not None:
            self.direct.on_queued(pending.message.id, link, now)
        return True

    def _undelivered(
        self, pending: PendingSend, reason: UndeliveredReason, detail: str = ""
    ) -> Iterator[TransportEvent]:
        """Reports a message that was not sent, if it is one of the application."""
        yield from _sent(pending, 0)
        if pending.message is not None:
            for report in self.direct.fail(pending.message.id, reason, detail):
                yield Notify(report)

    def _retry_transient(self, peer_id: PeerId, now: float) -> Iterator[TransportEvent]:
        """A dial for a link with a peer is over: what waited for it may open a transient session."""
        if not self.transients.is_opening(peer_id) or self.handshakes.is_dialing(peer_id):
            return
        if not self._is_dialable(peer_id):
            yield from self._fail_transient(peer_id, UndeliveredReason.NO_ANSWER, "no address")
        else:
            self._dial_transient(peer_id, now)

    def _fail_transient(
        self, peer_id: PeerId, reason: UndeliveredReason, detail: str
    ) -> Iterator[TransportEvent]:
        """No transient session came of a dial."""
        for failed in self.transients.fail_pending(peer_id):
            yield from self._undelivered(failed, reason, detail)

    def _fail_stalled(self, now: float) -> Iterator[TransportEvent]:
        """Messages wait for a session that nothing opens any more: the handshake ended without one."""
        for peer_id, since in self.transients.opening():
            if self.handshakes.is_dialing(peer_id) or now < since + STALLED_SEND_S:
                continue
            yield from self._fail_transient(peer_id, UndeliveredReason.REFUSED, "no session")

    # --- dials ----------------------------------------------------------------------------------

    def dial(
        self,
        address: Address,
        expected: PeerId | None,
        purpose: DialPurpose,
        now: float,
        *,
        max_hellos: int | None = None,
    ) -> Sequence[TransportEvent]:
        """Dials `address`, and drops an answer from any peer but `expected`, if that is known. Sends at
        most `max_hellos` Hellos before the first answer."""
        if expected is not None and self.links.peer_limits.is_expelled(expected, now):
            return (DialFailed(address, expected, DropReason.MISCONDUCT),)
        if purpose.is_punch and expected is not None:
            pending = self.handshakes.find(address, expected, is_transient=purpose.is_transient)
            if pending is not None:
                pending.on_introduced()
                return ()
        if not self.handshakes.can_dial:
            return () if purpose.is_transient else (DialFailed(address, expected, None),)
        self._dial(address, expected, purpose, now, max_hellos)
        return ()

    def _dial(
        self,
        address: Address,
        expected: PeerId | None,
        purpose: DialPurpose,
        now: float,
        max_hellos: int | None = None,
    ) -> None:
        record = self._overlay.record
        self.handshakes.dial(address, expected, record, now, purpose, max_hellos=max_hellos)

    def _end_dial(
        self, session_id: bytes, reason: DropReason | str | None, now: float
    ) -> Iterator[TransportEvent]:
        """A dial of this node failed. `reason`: as in `DialFailed`."""
        dial = self.handshakes.end_dial(session_id)
        if dial is None:
            return
        if dial.purpose.is_transient and self._has_other_way(dial, now):
            return
        if dial.purpose.is_transient and dial.expected is not None:
            yield from self._fail_transient(dial.expected, *_why_not_answered(reason))
        elif dial.purpose.swap_for is not None and reason is None:
            yield ProbeDone(dial.address, dial.expected, dial.rtt_s)
        else:
            yield DialFailed(dial.address, dial.expected, reason)
            if dial.expected is not None:
                yield from self._retry_transient(dial.expected, now)

    def _has_other_way(self, dial: Initiator, now: float) -> bool:
        """Whether a transient session with the peer of a failed dial may still open: at another address, or
        by an introduction, for which `_fail_stalled` waits."""
        if self.handshakes.has_siblings(dial):
            return True
        since = None if dial.expected is None else self.transients.opening_since(dial.expected)
        if dial.expected is None or since is None or now >= since + STALLED_SEND_S:
            return False
        return self._is_behind_nat(dial.expected)

    def on_unsendable(self, address: Address, reason: str, now: float) -> Iterator[TransportEvent]:
        """The operating system cannot send to `address`: dials of it fail at once, and a link there is not
        answered."""
        self.links.on_unsendable(address, now)
        for session_id in self.handshakes.sessions_dialing(address):
            yield from self._end_dial(session_id, reason, now)

    def on_emsgsize(self, size_bytes: int, address: Address, now: float) -> None:
        """The operating system rejected a datagram of this size to `address` (EMSGSIZE)."""
        link = self.links.find_by_address(address)
        if link is not None:
            link.path.on_emsgsize(size_bytes, now)
            self.links.mark_dirty(link)

    # --- sending --------------------------------------------------------------------------------

    def send(self, peers: Sequence[PeerId], message: OverlayMessage, now: float) -> int:
        """Queues `message` for each peer; returns how many links had room. Repair also reaches members
        without a link, on transient sessions."""
        links = [self.links[peer_id] for peer_id in peers if peer_id in self.links]
        if isinstance(message, Rumors):
            return self.links.enqueue_rumors(message, links, now)
        if isinstance(message, Repair):
            plaintext = codec.encode_repair(message, self._our_id)
        else:
            plaintext = codec.encode_message(message)
        if len(links) < len(peers) and isinstance(message, TRANSIENT_MESSAGES):
            for peer_id in peers:
                if peer_id not in self.links:
                    self._send_unlinked(peer_id, message, plaintext, now)
        for link in links:
            self._enqueue_contained(link, plaintext, now)
        return len(links)

    def _send_unlinked(
        self,
        peer_id: PeerId,
        message: OverlayMessage,
        plaintext: bytes | codec.ChunkedMessage,
        now: float,
    ) -> None:
        """Sends on the transient session with a peer. A request opens one."""
        link = self.transients.get(peer_id)
        if isinstance(message, OPENING_MESSAGES) and isinstance(plaintext, bytes):
            self.send_transient(peer_id, PendingSend(plaintext, None), now)
        elif link is not None:
            self._enqueue(link, plaintext, now)

    def _enqueue(self, link: Link, plaintext: bytes | codec.ChunkedMessage, now: float) -> bool:
        if isinstance(plaintext, bytes) and plaintext[0] == Kind.IWANT:
            link.inbound_limit.grant_repair_credit(REPAIR_DATAGRAMS_LIMIT)
        return self.links.enqueue(link, plaintext, now)

    def _enqueue_contained(
        self, link: Link, plaintext: bytes | codec.ChunkedMessage, now: float
    ) -> bool:
        """Returns False if there is no room. After an error the link ends."""
        try:
            return self._enqueue(link, plaintext, now)
        except Exception as error:  # noqa: BLE001  of this link alone
            self.links.note_error(link, error)
            return True

    def send_direct(self, peer_id: PeerId, message: Message, now: float) -> SendOutcome:
        """Sends a message of the application to one member, over its link if there is one. Unless it is
        UNREACHABLE, `direct` watches it, and the caller reports what was DROPPED."""
        is_full = self.direct.is_full
        self.direct.begin(message)
        if is_full:
            return SendOutcome.DROPPED
        direct = DirectMessage(message.id.sequence, message.payload)
        plaintext = codec.with_tracking(codec.encode_message(direct), [message.id])
        link = self.links.get(peer_id)
        if link is None:
            outcome = self.send_transient(peer_id, PendingSend(plaintext, message), now)
            if outcome is SendOutcome.UNREACHABLE:
                self.direct.withdraw(message.id)
            return outcome
        if not self._enqueue_contained(link, plaintext, now):
            return SendOutcome.DROPPED
        self.direct.on_queued(message.id, link, now)
        return SendOutcome.SENT

    def apply_record(self, record: PeerRecord, now: float) -> None:
        """Follows a linked peer's newer record, whose limits may differ."""
        link = self.links.get(record.peer_id)
        if link is not None:
            link.apply_record(record, now)
            self.links.mark_dirty(link)

    def on_heartbeat_rtt(self, peer_id: PeerId, sample_s: float, now: float) -> None:
        """A heartbeat of `peer_id` measured the RTT."""
        link = self.links.get(peer_id)
        if link is not None:
            link.on_heartbeat_rtt(sample_s, now)

    def datagrams_to_send(
        self, now: float, *, has_unacknowledged: bool = True
    ) -> list[tuple[bytes, Address]]:
        """Datagrams that are due, each with its destination. Each is returned once. `has_unacknowledged`: a
        broadcast of this node is not acknowledged, so that leaving waits for every peer."""
        self.links.enqueue_raw(self.handshakes.transmit(now))
        is_settled = not has_unacknowledged and not self.direct
        hold_open = self._overlay.has_unclaimed
        datagrams = self.links.collect_datagrams(now, hold_open=hold_open, is_settled=is_settled)
        if self.relays.has_ways:
            direct = [each for each in datagrams if not each[1].is_via_relay]
            if len(direct) < len(datagrams):
                self._relay([each for each in datagrams if each[1].is_via_relay], now)
                # one hop: these are none that go through a relay
                datagrams = direct + self.links.collect_datagrams(
                    now, hold_open=hold_open, is_settled=is_settled
                )
            datagrams = [each for each in datagrams if not each[1].is_via_relay]
        return datagrams

    def _relay(self, datagrams: Iterable[tuple[bytes, Address]], now: float) -> None:
        """Queues datagrams for the relays that they go through. One without a way is lost."""
        for datagram, address in datagrams:
            wrapped = self.relays.wrap(datagram, address)
            if wrapped is not None:
                self._enqueue_contained(*wrapped, now)

    # --- closing --------------------------------------------------------------------------------

    def disconnect(
        self,
        peer_id: PeerId,
        detail: str,
        reason: CloseReason | None,
        *,
        notify: bool,
        now: float,
        referrals: tuple[PeerRecord, ...] = (),
        suggested: tuple[PeerRecord, ...] | None = None,
    ) -> Sequence[TransportEvent]:
        """Ends the link with `peer_id`, if there is one. `notify`: the peer receives the reason and
        `referrals`. `suggested`: the referrals of a peer that closed the link itself."""
        if not self.links.disconnect(peer_id, reason, notify=notify, now=now, referrals=referrals):
            return ()
        self.version += 1
        return (LinkDown(peer_id, detail, reason, suggested),)

    def disconnect_all(
        self, detail: str, reason: CloseReason, now: float
    ) -> Iterator[TransportEvent]:
        """Ends all links and transient sessions."""
        for peer_id in list(self.links):
            yield from self.disconnect(peer_id, detail, reason, notify=True, now=now)
        for link in self.transients.all():
            self.transients.close(link.peer_id, reason, now)

    def leave(self, record: Records) -> list[TransportEvent]:
        """Admits no session from now on. Each peer gets what is queued, then `record` and a Close."""
        events: list[TransportEvent] = []
        for peer_id, _ in self.transients.opening():
            events += self._fail_transient(peer_id, UndeliveredReason.NODE_LEFT, "")
        self.handshakes.cancel_dials()
        close = Close(CloseReason.LEAVING)
        self.links.close_all([codec.encode_message(record), codec.encode_message(close)])
        return events

    @property
    def is_leaving(self) -> bool:
        return self.links.is_leaving

    @property
    def is_drained(self) -> bool:
        """After `leave`: whether everything queued has been sent."""
        return self.links.is_drained

    # --- conduct --------------------------------------------------------------------------------

    def penalize(
        self, peer_id: PeerId, offense: Offense, count: float, now: float
    ) -> Sequence[TransportEvent]:
        """Counts an offense of a peer, and slows or disconnects it if its score is too high."""
        change = self.links.peer_limits.penalize(peer_id, offense, count, now)
        return () if change is None else self._on_standing_changed(change, now)

    def charge_work(self, peer_id: PeerId, units: int, now: float) -> Sequence[TransportEvent]:
        """Charges a peer for the work that its message caused."""
        change = self.links.peer_limits.charge_work(peer_id, units, now)
        return () if change is None else self._on_standing_changed(change, now)

    def _on_standing_changed(self, change: StandingChanged, now: float) -> Sequence[TransportEvent]:
        if change.standing is not Standing.EXPELLED:
            return (Notify(change),)
        detail, reason = f"misconduct: {change.reason}", CloseReason.MISCONDUCT
        down = self.disconnect(change.peer, detail, reason, notify=True, now=now)
        self.transients.close(change.peer, reason, now)
        return (Notify(change), *down)

    # --- internal errors ------------------------------------------------------------------------

    def contain_error(
        self, error: Exception, link: Link | None, now: float
    ) -> Sequence[TransportEvent]:
        """Counts and reports a bug that showed while `link` was served (None: no link in particular), and
        ends that link whatever state it is in. Never raises."""
        self.drops.count(DropReason.INTERNAL_ERROR)
        problem = format_error(error)
        peer_id = None if link is None else link.peer_id
        events: list[TransportEvent] = []
        is_due = now - self._internal_error_reported_at >= INTERNAL_ERROR_EVENT_INTERVAL_S
        if link is not None or is_due:
            self._internal_error_reported_at = now
            events.append(Notify(InternalErrorContained(peer_id, problem)))
        if link is None or peer_id is None:
            return events
        reason, was_linked = CloseReason.MISCONDUCT, self.links.is_link(link)
        try:
            if was_linked:
                self.links.disconnect(peer_id, reason, notify=True, now=now)
            elif self.transients.get(peer_id) is link:
                self.transients.close(peer_id, reason, now)
            else:
                self.links.discard(link)
        except Exception:  # noqa: BLE001  it is in no state to be closed properly
            self.links.discard(link)
            self.transients.discard(link)
        if was_linked:
            self.version += 1
            events.append(LinkDown(peer_id, f"internal error: {problem}", reason))
        # A peer that triggers one error after the other is expelled for a while.
        with contextlib.suppress(Exception):
            events += self.penalize(peer_id, Offense.PROTOCOL_VIOLATION, 1, now)
        return events

    def contain_pending_errors(self, now: float) -> Iterator[TransportEvent]:
        """Contains the errors that occurred while datagrams were sealed."""
        for dial, error in self.handshakes.take_internal_errors():
            yield from self._end_dial(dial.session_id, None, now)
            yield from self.contain_error(error, None, now)
        for link, error in self.links.take_internal_errors():
            yield from self.contain_error(error, link, now)

    @property
    def has_pending_errors(self) -> bool:
        """Whether `contain_pending_errors` has something to do."""
        return self.links.has_internal_errors or self.handshakes.has_internal_errors

    def _contain_datagram_error(
        self, error: Exception, datagram: bytes, now: float
    ) -> Iterator[TransportEvent]:
        """Ends the session or the dial that the datagram belongs to, and nothing else."""
        packet = codec.decode_packet(datagram)
        link = None
        if isinstance(packet, codec.Data):
            link = self.links.find_by_session(packet.session_id)
            link = link or self.links.find_closed(packet.session_id)
        elif isinstance(packet, codec.Challenge | codec.Welcome):
            yield from self._end_dial(packet.session_id, None, now)
        yield from self.contain_error(error, link, now)

    # --- time -----------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether `datagrams_to_send` may have something to return now, because a link changed."""
        return self.links.has_changed

    @property
    def deadline(self) -> float:
        """When to call `expire_dials` and `advance` next; math.inf: never."""
        return min(self._tick_at, self.handshakes.deadline, self.links.deadline)

    def expire_dials(self, now: float) -> Iterator[TransportEvent]:
        """Ends dials that timed out. The first step of a turn, so that the overlay knows of them."""
        self.handshakes.advance(now)
        for session_id in self.handshakes.expired_dials(now):
            yield from self._end_dial(session_id, None, now)

    def advance(self, now: float) -> Iterator[TransportEvent]:
        """Time passed: maintains links and sessions. The last step of a turn."""
        self.links.advance(now)
        for answering in self.links.take_answering_changes():
            yield AnsweringChanged(*answering)
        if now < self._tick_at:
            return
        self._tick_at = now + TICK_INTERVAL_S
        if now >= self._reap_at:
            self._reap_at = now + REAP_INTERVAL_S
            self.links.peer_limits.reap(now)
        for link in list(self.links.values()):
            try:
                yield from self._maintain(link, now)
            except Exception as error:  # noqa: BLE001  of this link alone
                yield from self.contain_error(error, link, now)
        for link in self.transients.all():
            try:
                if link.needs_rekey(now):
                    self.handshakes.rekey(link, self._overlay.record, now, TRANSIENT)
            except Exception as error:  # noqa: BLE001
                yield from self.contain_error(error, link, now)
        self.transients.advance(now)
        yield from self._fail_stalled(now)
        yield from self._end_deliveries(now)
        self.links.expire_closed(now)
        for change in self.links.peer_limits.update_standings(now):
            yield Notify(change)
        for event in self.drops.take_events():
            yield Notify(event)

    def _end_deliveries(self, now: float) -> Iterator[TransportEvent]:
        """Reports direct messages whose link gave them up, or whose session or time is over."""
        for link in (*self.links.values(), *self.transients.all()):
            if abandoned := link.take_abandoned():
                direct = [key for key in abandoned if isinstance(key, MessageId)]
                for report in self.direct.abandon(direct):
                    yield Notify(report)
        for report in self.direct.advance(now, self._is_live):
            yield Notify(report)

    def _is_live(self, link: Link) -> bool:
        return self.links.is_link(link) or self.transients.get(link.peer_id) is link

    def _maintain(self, link: Link, now: float) -> Iterator[TransportEvent]:
        self.links.maintain(link, now)
        if link.is_expired(now):
            yield from self.disconnect(link.peer_id, "session expired", None, notify=False, now=now)
        elif link.needs_rekey(now):
            self.handshakes.rekey(link, self._overlay.record, now, LINK)
        event = self.links.peer_limits.take_rate_limited_event(link.peer_id, now)
        if event is not None:
            yield Notify(event)


def _why_not_answered(reason: DropReason | str | None) -> tuple[UndeliveredReason, str]:
    """Why a dial failed, for the sender of a direct message. `reason`: as in `DialFailed`."""
    if reason is None:
        return UndeliveredReason.NO_ANSWER, ""
    detail = reason.value if isinstance(reason, DropReason) else reason
    return UndeliveredReason.REFUSED, detail


def _sent(pending: PendingSend, peers: int) -> Iterator[TransportEvent]:
    """The event of a message of the application that left the queue for a transient session."""
    if pending.message is not None:
        yield Notify(MessageSent(pending.message, peers))
