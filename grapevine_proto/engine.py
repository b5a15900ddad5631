"""The sans-I/O node: one transport, one overlay and one publisher.

Bytes, time and verbs go in (`receive`, `advance`, `broadcast`, ...); datagrams, events and the next
deadline come out (`datagrams_to_send`, `events`, `deadline`). After anything that went in, the driver
takes a turn: `advance` if `deadline` is reached, then `datagrams_to_send` and `events`. What is due is
decided, signed and queued by verbs and `advance`; `datagrams_to_send` only returns it.

Invariants:

- `receive` never raises, whatever the bytes; each drop is counted under one `DropReason`.
- A bug that shows while the node serves one peer ends the link with that peer, is counted and reported
  (`InternalErrorContained`), and costs no other peer its turn.
- The engine holds no protocol logic. It turns transport events into calls of the overlay and effects
  into calls of the transport: one `match` each.
- `now` never goes back, and is the only time there is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Final, assert_never

from grapevine_proto import stats
from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.node import LIVE_FIELDS, NodeConfig
from grapevine_proto.config.validate import BytesLike, payload_bytes
from grapevine_proto.coordinate import Coordinate, Estimate, RttSource
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.errors import (
    ConfigError,
    DropReason,
    InvalidArgument,
    MessageTooLarge,
    NoMatchingMember,
    NotRunning,
    Offense,
    StateFull,
    UnknownPeer,
)
from grapevine_proto.events import (
    AnswerStatus,
    AntiEntropyRound,
    EntryChanged,
    Event,
    MemberInfo,
    MemberStatus,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    QueryReport,
    Round,
    RoundOutcome,
    Stats,
    Trace,
    UndeliveredReason,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId, Stream
from grapevine_proto.message_order import MessageOrder, Ordered
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import (
    BumpEpoch,
    CountDrop,
    Credit,
    Deliver,
    Dial,
    Disconnect,
    Effect,
    Emit,
    InternalError,
    PeerTransitioned,
    Penalize,
    Send,
    Shutdown,
    UpdateRecord,
    UpdateRtt,
    WriteEntry,
)
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.overlay.overlay import Overlay
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.overlay.state.keyed_state import KeyedState, SavedEntry
from grapevine_proto.overlay.store.message_cache import Arrival
from grapevine_proto.overlay.store.message_store import SavedStream
from grapevine_proto.publisher import Publisher, SignedBatch
from grapevine_proto.tags import parse_tags
from grapevine_proto.topics import MAX_PATTERNS, TopicPatterns, topic_fault
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
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.transport.transport import SendOutcome, Transport
from grapevine_proto.wire.attributes import MAX_EXPIRY_S, rumor_attributes
from grapevine_proto.wire.entry_terms import RETAIN_PREFIX, key_fault
from grapevine_proto.wire.messages import (
    Announce,
    AnnounceTopic,
    CloseReason,
    DirectMessage,
    IWant,
    Offer,
    Pause,
    Repair,
    Rumors,
    StateDelta,
)
from grapevine_proto.wire.signed import PeerRecord, is_pulled

__all__ = ["Engine", "NodeState", "SavedEntry", "SavedStream"]

PAUSE_MS: Final = 1000  # the most that a peer grants
PAUSE_INTERVAL_S: Final = 0.5  # between requests: one may be lost without a gap
ERROR_PAUSE_S: Final = 0.5  # before a batch that met an error is tried again
SPREADING_MESSAGES: Final = (
    Rumors,
    Offer,
    Announce,
    AnnounceTopic,
)  # reach peers with a rumor of ours
REQUESTED_MESSAGES: Final = (Repair, StateDelta)  # whose work this node caused itself
PACKET_EVENTS: Final = (MessageIn, DirectMessageIn, PacketIn)  # which name the link they came over
SYNCED_OUTCOMES: Final = (RoundOutcome.IN_SYNC, RoundOutcome.REPAIRED)  # the peer has what we have


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node keeps over a restart. `epoch` is the one that this run uses; `seed` is the secret
    half of its identity."""

    seed: bytes = field(repr=False)
    epoch: int
    streams: tuple[SavedStream, ...] = ()
    peers: tuple[tuple[PeerId, Address], ...] = ()
    entries: tuple[SavedEntry, ...] = ()
    coordinate: bytes = b""  # encoded; empty: none
    is_lost: bool = False  # an earlier run of this identity kept something that is not here
    earlier_epoch: int = 0  # of the run that this state is from; not saved; 0: there was none


class Engine:
    """One gossip node. Not thread-safe; `now` is monotonic seconds in every method."""

    def __init__(
        self,
        config: NodeConfig,
        state: NodeState,
        *,
        address: Address,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        if not config.keys:
            raise ConfigError("keys", "no cluster key: without one no node starts")
        self._config = live = LiveConfig(config)
        self._identity = identity = Identity(state.seed)
        self._overlay = Overlay(
            OverlayContext(live, identity, rng),
            LocalRecord(live, identity, state.epoch, address, state.earlier_epoch),
            state.streams,
            state.peers,
            now,
            state.entries,
            is_state_lost=state.is_lost,
            coordinate=Coordinate.parse(state.coordinate) if state.coordinate else None,
        )
        self._transport = Transport(
            live, identity, self._overlay, rng=rng, entropy=entropy, now=now
        )
        self._publisher = Publisher(live, identity, state.epoch, self._transport)
        self._events: list[Event] = []
        self._message_order = MessageOrder(live, self._overlay.store.tracker)
        self._keeps_order = False
        self._unordered: list[Message] = []  # delivered since messages were put in order
        self._in_order: list[Ordered] = []
        self._stop_reason: str | None = None
        self._delivered = 0
        self._epoch_changes = 0
        self._is_paused = False  # our application is behind: nothing is requested meanwhile
        self._pause_at = math.inf  # when to ask peers again to hold back rumors
        self._has_tags_to_apply = False
        self._apply_tags(now)

    # --- in: bytes ------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Takes one datagram. Never raises; what is dropped is counted."""
        self._on_events(self._transport.receive(datagram, source, now), now)

    def adopt_session(self, established: EstablishedSession, now: float) -> None:
        """Takes a session as if its handshake had just ended here: for simulations that begin with
        connected nodes."""
        self._on_events(self._transport.establish(established, now, wants_room=False), now)

    # --- in: verbs ------------------------------------------------------------------------------

    def dial(self, address: Address, now: float) -> None:
        """Dials `address`; events report the result."""
        self._apply_effects(self._overlay.dial(address, now), now)

    def forget(self, peer_id: PeerId) -> None:
        """Removes a disconnected peer from all tables. Raises UnknownPeer if it is not disconnected."""
        self._overlay.membership.remove_peer(peer_id)

    def broadcast(self, payload: BytesLike, now: float, *, attributes: bytes = b"") -> MessageId:
        """Accepts `payload` for all members; without peers it is kept for those that connect in time.

        It shares a signature with other payloads of the same turn and the same encoded `attributes` (see
        `wire.attributes`); `MessageSent` follows when it is signed.
        Raises InvalidArgument, MessageTooLarge, NotRunning.
        """
        payload = self._check_payload(payload)
        message_id, due = self._publisher.broadcast(payload, now, attributes)
        if due:
            self._spread_all(due, now)
        return message_id

    def publish(
        self,
        topic: str,
        payload: BytesLike,
        now: float,
        *,
        expires_s: int = 0,
        retain: str | None = None,
    ) -> MessageId:
        """Accepts `payload` for the members that subscribe to `topic`. From the age of `expires_s` seconds
        on it is not delivered any more; 0: always. With `retain`, this node keeps it under that name for
        members that subscribe later, in place of the last one. While this node reads lost entries back, a
        message to retain waits, as entries do, and the ID returned has sequence 0.

        Raises as `broadcast`; InvalidArgument for a topic, an expiry or a name that is none; with `retain`
        StateFull and MessageTooLarge too.
        """
        if fault := topic_fault(topic):
            raise InvalidArgument(f"topic: {fault}")
        if type(expires_s) is not int or not 0 <= expires_s <= MAX_EXPIRY_S:
            raise InvalidArgument(f"expires_s: expected 0 to {MAX_EXPIRY_S}, got {expires_s!r:.40}")
        if retain is not None:
            if fault := key_fault(retain):
                raise InvalidArgument(f"retain: {fault}")
            key, payload = RETAIN_PREFIX + retain, self._check_payload(payload)
            return self._write_entry(WriteEntry(key, payload, expires_s, topic=topic), now)
        attributes = rumor_attributes(topic=topic, expires_s=expires_s)
        return self.broadcast(payload, now, attributes=attributes)

    def subscribe(self, topics: TopicPatterns) -> None:
        """From now on delivers the topics that these patterns or those of `NodeConfig.topics` select.
        Replaces earlier patterns. Raises InvalidArgument for more than `MAX_PATTERNS`."""
        if len(topics.patterns) > MAX_PATTERNS:
            raise InvalidArgument(f"a node may have at most {MAX_PATTERNS} patterns of topics")
        self._overlay.dissemination.subscribe(topics.patterns)

    def cached_messages(self, topics: TopicPatterns, now: float) -> list[Message]:
        """Messages of other nodes that arrived within `message_dedup_ttl`, are still cached, and have a topic
        that `topics` select, in order of arrival."""
        return self._overlay.dissemination.cached_messages(topics, now)

    def trace(self, payload: BytesLike, now: float) -> MessageId:
        """Accepts `payload` for all members as `broadcast` does, and asks those that receive it to confirm:
        `TraceUpdated` and `traces` report how far it got. Raises InvalidArgument, MessageTooLarge,
        NotRunning."""
        payload = self._check_payload(payload)
        self._spread_all(self._publisher.flush(now), now)
        message = self._publisher.next_message(payload, now)
        trace_share = self._overlay.start_trace(message.id, now)
        attributes = rumor_attributes(trace_share=trace_share)
        self._spread(self._publisher.sign([message], attributes, now), now)
        return message.id

    def query(self, request: QueryRequest, now: float) -> MessageId:
        """Asks members and gathers their answers: `QueryAnswered` reports each, `QueryEnded` the end. This
        node is asked as well, if the filter admits it.

        Raises MessageTooLarge, NotRunning, TooManyQueries, NoMatchingMember.
        """
        queries = self._overlay.queries
        payload = self._check_payload(request.payload)
        request = self._with_nearest(request, now)
        terms = queries.plan(request, now)
        self._spread_all(self._publisher.flush(now), now)
        message = self._publisher.next_message(payload, now)
        terms = queries.with_sample(message.id, request, terms)
        effects = queries.start(message.id, request, terms, now)
        batch = self._publisher.sign([message], rumor_attributes(query=terms), now)
        self._spread(batch._replace(messages=[]), now)  # a question is no message to show
        self._apply_effects(effects, now)
        return message.id

    def _with_nearest(self, request: QueryRequest, now: float) -> QueryRequest:
        """`request` with the nearest members by name instead of by number. Raises NoMatchingMember."""
        count = request.filter.nearest
        if count is None:
            return request
        members = self._overlay.membership.members
        admitted = [
            each.record.peer_id for each in members if request.filter.admits(each.record, each.tags)
        ]
        nearest = self.nearest(count, admitted, now)
        if not nearest:
            raise NoMatchingMember("no member that matches has a known round-trip time")
        return replace(request, filter=request.filter.narrowed(nearest))

    def answer(
        self,
        message_id: MessageId,
        payload: BytesLike,
        now: float,
        *,
        status: AnswerStatus = AnswerStatus.ANSWERED,
        index: int = 0,
    ) -> bool:
        """Answers a question that `QueryReceived` reported; `index`, 0 to 3, tells several answers of this
        node apart. Returns whether the question could still be answered. Raises InvalidArgument."""
        payload = payload_bytes(payload)
        is_pending = self._overlay.queries.is_pending(message_id, now)
        effects = self._overlay.queries.answer(message_id, index, status, payload, now)
        self._apply_effects(effects, now)
        return is_pending

    def acknowledge(self, message_id: MessageId, now: float, *, index: int = 0) -> None:
        """Tells the origin of a question that its handler still works, so that it waits for the answer."""
        self._apply_effects(self._overlay.queries.acknowledge(message_id, index, now), now)

    def cancel_query(self, message_id: MessageId, now: float) -> None:
        """Ends a query of this node; `QueryEnded` follows if it was open."""
        self._apply_effects(self._overlay.queries.cancel(message_id, now), now)

    def set_entry(
        self, key: str, value: BytesLike, now: float, *, ttl_s: int = 0, is_durable: bool = False
    ) -> None:
        """Sets the entry of this node under `key`; every member learns it. After `ttl_s` seconds it ends; 0:
        never. `is_durable`: another member adopts it when this node is gone for long.

        Raises InvalidArgument, MessageTooLarge, StateFull, NotRunning.
        """
        value = self._check_payload(value)
        self._write_entry(WriteEntry(key, value, ttl_s, is_durable), now)

    def delete_entry(self, key: str, now: float) -> bool:
        """Deletes `key`, with an entry of this node that says so; returns whether it had a value. Raises
        InvalidArgument, NotRunning."""
        self._check_payload(b"")
        write = WriteEntry(key, None)
        self.state.check(write)
        if not self.state.is_set(key) and self.state.shared.get(key, now) is None:
            return False
        self._write_entry(write, now)
        return True

    def set_tags(self, tags: Mapping[str, str], now: float) -> None:
        """Replaces the tags of this node until its next start. Raises InvalidArgument, StateFull,
        NotRunning."""
        self._check_payload(b"")
        writes = self.state.tag_writes(dict(tags))
        for write in writes:
            self.state.check(write)
        for write in writes:
            self._write_entry(write, now)

    def _apply_tags(self, now: float) -> None:
        """Makes the tags of the settings those of this node, once it knows which it has."""
        self._has_tags_to_apply = self.state.is_recovering
        if self._has_tags_to_apply:
            return
        for write in self.state.tag_writes(parse_tags(self.config.tags)):
            with suppress(StateFull):  # counted; the node runs without the tag
                self._write_entry(write, now, is_tracked=False)

    def _write_entry(self, write: WriteEntry, now: float, *, is_tracked: bool = True) -> MessageId:
        """Publishes an entry of this node as a rumor of its own, once it knows its map. Unless `is_tracked`
        it never counts as unacknowledged. Raises as `set_entry`."""
        state = self.state
        state.check(write)
        if state.is_recovering:
            state.hold(write)
            return MessageId(self.peer_id, self.epoch, 0)
        self._spread_all(self._publisher.flush(now), now)
        message = self._publisher.next_message(write.value or b"", now, write.topic)
        message = message._replace(is_retained=bool(write.topic))
        terms = state.terms_for(write, (message.id.epoch, message.id.sequence), now)
        expires_s = write.ttl_s if write.topic else 0
        attributes = rumor_attributes(topic=write.topic, expires_s=expires_s, entry=terms)
        batch = self._publisher.sign([message], attributes, now, is_tracked=is_tracked)
        self._apply_effects(state.on_own_rumor(batch.rumor, now), now)
        self._spread(batch if write.topic else batch._replace(messages=[]), now)
        return message.id

    def send(self, peer: PeerId, payload: BytesLike, now: float) -> MessageId:
        """Sends `payload` to one member: over its link, or a transient session. `MessageSent` follows
        when it is on its way, or with 0 peers if it was not sent; `MessageUndelivered`, unless the member
        acknowledges it.

        Raises InvalidArgument, MessageTooLarge, NotRunning, UnknownPeer.
        """
        payload = self._check_payload(payload)
        message = self._publisher.next_direct_message(peer, payload, now)
        outcome = self._transport.send_direct(peer, message, now)
        match outcome:
            case SendOutcome.SENT:
                self._events.append(MessageSent(message, 1))
            case SendOutcome.QUEUED:
                pass
            case SendOutcome.DROPPED:
                self._events.append(MessageSent(message, 0))
                reason = UndeliveredReason.QUEUE_FULL
                self._events += self._transport.direct.fail(message.id, reason)
            case SendOutcome.UNREACHABLE:
                self._publisher.undo_direct_message()
                raise UnknownPeer(self._unreachable_reason(peer))
            case _:
                assert_never(outcome)
        return message.id

    def _unreachable_reason(self, peer: PeerId) -> str:
        if not self._overlay.addresses_of(peer):
            return f"no member {peer.short} with an address is known here"
        in_use = len(self._transport.transients)
        return f"no room for a session with {peer.short}: {in_use} transient sessions are in use"

    def _check_payload(self, payload: BytesLike) -> bytes:
        """`payload` as immutable bytes of a size that can be sent."""
        if type(payload) is not bytes:
            payload = payload_bytes(payload)
        if self._transport.links.is_leaving or self._stop_reason:
            raise NotRunning("the node is leaving")
        limit = self._config.current.max_message_size
        if len(payload) > limit:
            raise MessageTooLarge(len(payload), limit)
        return payload

    @property
    def can_broadcast(self) -> bool:
        """Whether every peer has room for a small broadcast now. Slow peers, which have had no room for
        a second while others have, do not count."""
        return self.can_broadcast_bytes(0)

    def can_broadcast_bytes(self, size_bytes: int) -> bool:
        """The same for a payload of this size: a large one may have to wait for another."""
        if is_pulled(size_bytes):  # bounded by what peers pull, not by queues
            return self._overlay.dissemination.can_announce(size_bytes) and self.can_broadcast
        return self._publisher.has_room_for(size_bytes)

    def start_round(self, now: float) -> None:
        """Begins an anti-entropy round with some peers now."""
        self._apply_effects(self._overlay.antientropy.start_rounds(now), now)

    def catch_up(self, now: float, timeout_s: float) -> None:
        """Compares with every connected peer, now and as they connect: the event `CaughtUp` follows when
        this node has what they have, unless that takes `timeout_s`."""
        self._apply_effects(self._overlay.antientropy.catch_up(now, timeout_s), now)

    def on_resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> None:
        """The host name `name` among the bootstrap peers resolves to `addresses`; if to none, `DialFailed`
        reports it."""
        dialer = self._overlay.membership.dialer
        self._apply_effects(dialer.on_resolved(name, addresses, now), now)

    def hint(self, address: Address, now: float) -> None:
        """A source of discovery names `address`: it is dialed once, unless it is known already."""
        self._apply_effects(self._overlay.membership.dialer.hint(address, now), now)

    def on_emsgsize(self, size_bytes: int, address: Address, now: float) -> None:
        """The operating system rejected a datagram of this size to `address` (EMSGSIZE)."""
        self._transport.on_emsgsize(size_bytes, address, now)

    def on_unsendable(self, address: Address, reason: str, now: float) -> None:
        """The operating system cannot send to `address`: dials of it fail at once, for `reason`, and a peer
        linked there is dialed at its other addresses."""
        self._on_events(self._transport.on_unsendable(address, reason, now), now)

    def on_addresses_changed(self, addresses: tuple[Address, ...], now: float) -> bool:
        """This node may be dialed at `addresses` (at most four, best first) from now on. Addresses from the
        settings stay. Returns whether anything changed; if so, connected peers are informed."""
        before = self.record
        self._apply_effects(self._overlay.membership.set_addresses(addresses), now)
        return self.record is not before

    def on_port_mapped(self, address: Address | None, now: float) -> None:
        """A router maps `address` outside to this node, or does so no longer (None). It is advertised, unless
        the settings name another one."""
        self._apply_effects(self._overlay.membership.set_mapped_address(address, now), now)

    def on_lag(self, lag_s: float, now: float) -> None:
        """The driver's loop was late by this much; peers learn it as our load."""
        self._overlay.membership.on_lag(lag_s, now)

    def pause(self, now: float) -> None:
        """Our application is behind: asks peers to hold back rumors until `resume`, and requests no
        repair."""
        self._is_paused = True
        self._pause_at = now

    def resume(self, now: float) -> None:
        """The application has caught up: peers may send rumors again."""
        self._is_paused = False
        self._pause_at = math.inf
        self._transport.send(tuple(self._transport.links), Pause(0), now)

    def keep_order(self) -> None:
        """From now on `messages_in_order` returns received messages in the order of their origins too."""
        self._keeps_order = True

    def leave(self, now: float) -> None:
        """Accepts nothing more. Sends everything queued, then tells every peer that the node leaves."""
        if not self._transport.is_leaving:
            self._spread_all(self._publisher.flush(now), now)
            self._on_events(self._transport.leave(self._overlay.leave()), now)

    def end_deliveries(self) -> None:
        """The node stops: reports the direct messages that are not acknowledged as undelivered."""
        self._events += self._transport.direct.fail_all(UndeliveredReason.NODE_LEFT)

    @property
    def unacknowledged_direct(self) -> int:
        """How many direct messages their recipients have not acknowledged yet."""
        return len(self._transport.direct)

    @property
    def has_pending_sends(self) -> bool:
        """Whether a direct message waits for a session to be opened."""
        return self._transport.transients.has_pending_messages

    @property
    def unacknowledged(self) -> int:
        """How many of our broadcasts no peer is known to have, counted from when they are accepted."""
        return self._publisher.unacknowledged

    @property
    def has_peers(self) -> bool:
        """Whether a peer is connected now."""
        return len(self._transport.links) > 0

    @property
    def is_drained(self) -> bool:
        """After `leave`: whether everything queued was sent, then the leave messages."""
        return self._transport.is_drained

    def reconfigure(self, config: NodeConfig, now: float) -> tuple[str, ...]:
        """Applies settings that may change at run time; returns the names of the changed ones that need a
        restart, which stay as they are."""
        fixed = tuple(
            each.name
            for each in fields(NodeConfig)
            if each.name not in LIVE_FIELDS
            and getattr(config, each.name) != getattr(self.config, each.name)
        )
        config = config.replace(**{name: getattr(self.config, name) for name in fixed})
        if not config.keys:
            raise ConfigError("keys", "no cluster key: without one no node runs")
        has_new_tags = config.tags != self.config.tags
        self._config.replace(config)
        if has_new_tags:
            self._apply_tags(now)
        self._on_events(self._transport.reconfigure(now), now)
        self._apply_effects(self._overlay.reconfigure(now), now)
        return fixed

    # --- transport events -----------------------------------------------------------------------

    def _on_events(self, events: Iterable[TransportEvent], now: float) -> None:
        for event in events:
            try:
                self._on_event(event, now)
            except Exception as error:  # noqa: BLE001  of this event alone
                link = event.link if isinstance(event, PACKET_EVENTS) else None
                self._contain_error(error, link, now)

    def _on_event(self, event: TransportEvent, now: float) -> None:  # noqa: C901, PLR0912  one case each
        overlay, transport = self._overlay, self._transport
        if isinstance(event, PACKET_EVENTS) and event.is_linked:
            link = event.link
            effects = overlay.membership.on_packet(link.peer_id, link.address, now)
            if effects:
                self._apply_effects(effects, now)
        match event:
            case MessageIn(link, _, message):
                peer_id = link.peer_id
                work_before = overlay.work.units
                self._apply_effects(overlay.handle(message, peer_id, now), now)
                cost = overlay.work.units - work_before
                if cost and not isinstance(message, REQUESTED_MESSAGES):
                    self._on_events(transport.charge_work(peer_id, cost, now), now)
            case DirectMessageIn(link, _, message):
                self._on_direct_message(message, link, now)
            case PacketIn(link, _, has_progressed):
                if has_progressed:
                    overlay.on_fragment(link.peer_id, now)
            case RumorsAcked(keys):
                self._publisher.unacked.on_acked(keys)
            case AnsweringChanged(peer_id, is_answering, is_silent):
                effects = overlay.on_answering_changed(
                    peer_id, now, is_answering=is_answering, is_silent=is_silent
                )
                self._apply_effects(effects, now)
            case SessionReady():
                self._admit(event, now)
            case PeerRestarted(peer_id):
                self._apply_effects(overlay.on_peer_restarted(peer_id, now), now)
            case LinkUp(record, address, rtt_s, is_outbound):
                self._apply_effects(
                    overlay.on_link_up(record, address, rtt_s, now, is_outbound=is_outbound), now
                )
            case LinkDown(peer_id, detail, reason, referrals):
                self._apply_effects(
                    overlay.on_link_down(peer_id, detail, reason, referrals, now), now
                )
            case DialAnswered(address, expected, record):
                overlay.on_dial_answered(address, expected, record, now)
            case DialRejected(record, address, reason, referrals):
                self._apply_effects(
                    overlay.on_dial_rejected(record, address, reason, referrals, now), now
                )
            case SwapAccepted(victim, nearer):
                self._apply_effects(overlay.swap_link(victim, nearer), now)
            case DialFailed(address, expected, reason):
                self._apply_effects(overlay.on_dial_failed(address, expected, reason, now), now)
            case ProbeDone(address, expected, rtt_s):
                overlay.on_probe_done(address, expected, rtt_s, now)
            case Notify(notification):
                self._events.append(notification)
            case _:
                assert_never(event)

    def _on_direct_message(self, direct: DirectMessage, link: Link, now: float) -> None:
        message_id = MessageId(link.peer_id, link.epoch, direct.sequence, is_direct=True)
        message = Message(message_id, direct.payload, 1, Via.EAGER, now, is_direct=True)
        self._delivered += 1
        self._events.append(MessageReceived(message))
        if self._keeps_order:
            self._unordered.append(message)

    def _admit(self, ready: SessionReady, now: float) -> None:
        """A session is live with a peer that has no link: it becomes one if there is room."""
        established = ready.established
        effects = self._overlay.make_room(
            established.record,
            established.address,
            established.rtt_s,
            now,
            wants_room=ready.wants_room,
            swap_request=ready.swap_request,
            is_outbound=established.session.is_initiator,
        )
        self._apply_effects(effects, now)
        if self._overlay.has_room:
            self._on_events(self._transport.accept(established, now), now)
        else:
            self._transport.refuse(established, now)

    def _contain_error(self, error: Exception, link: Link | None, now: float) -> None:
        self._on_events(self._transport.contain_error(error, link, now), now)

    # --- effects --------------------------------------------------------------------------------

    def _apply_effects(self, effects: Iterable[Effect], now: float) -> None:
        for effect in effects:
            try:
                self._apply_effect(effect, now)
            except Exception as error:  # noqa: BLE001  of this effect alone
                self._contain_error(error, self._link_of_effect(effect), now)

    def _apply_effect(self, effect: Effect, now: float) -> None:  # noqa: C901, PLR0912  one case each
        transport = self._transport
        match effect:
            case Deliver(messages):
                if messages and messages[0].id.origin != self._identity.peer_id:
                    self._delivered += len(messages)
                    self._events += map(MessageReceived, messages)
                    if self._keeps_order:
                        self._unordered += messages
                # else published in a second that a crash forgot: nothing new to us
            case Emit(event):
                self._events.append(event)
                if isinstance(event, AntiEntropyRound) and event.round.outcome in SYNCED_OUTCOMES:
                    self._publisher.unacked.on_peer_in_sync(event.round.started_at)
            case Send():
                self._send(effect, now)
            case Dial(address, expected, purpose, max_hellos):
                self._on_events(
                    transport.dial(address, expected, purpose, now, max_hellos=max_hellos), now
                )
            case Disconnect(peer, reason, detail, referrals):
                self._on_events(
                    transport.disconnect(
                        peer, detail, reason, notify=True, now=now, referrals=referrals
                    ),
                    now,
                )
            case PeerTransitioned(peer, previous, detail):
                self._emit_peer_state(peer, previous, detail, now)
            case UpdateRecord(record):
                transport.apply_record(record, now)
            case UpdateRtt(peer, sample_s):
                transport.on_heartbeat_rtt(peer, sample_s, now)
            case CountDrop(peer, reason):
                transport.drops.count(reason)
                if reason is DropReason.BAD_SIGNATURE:
                    self._on_events(transport.penalize(peer, Offense.BAD_SIGNATURE, 1, now), now)
            case Penalize(peer, offense, count):
                self._on_events(transport.penalize(peer, offense, count, now), now)
            case Credit(peer, count):
                transport.links.peer_limits.credit_promises(peer, count, now)
            case BumpEpoch(epoch):
                self._bump_epoch(epoch, now)
            case WriteEntry():
                self._write_entry(effect, now)
            case InternalError(error):
                self._contain_error(error, None, now)
            case Shutdown(detail):
                self._stop_reason = detail
            case _:
                assert_never(effect)

    def _link_of_effect(self, effect: Effect) -> Link | None:
        """The link with the one peer that `effect` is about, if there is one."""
        match effect:
            case (
                Disconnect(peer)
                | PeerTransitioned(peer)
                | UpdateRtt(peer)
                | CountDrop(peer)
                | Penalize(peer)
                | Credit(peer)
                | Send((peer,))
            ):
                return self._transport.links.get(peer) or self._transport.transients.get(peer)
            case UpdateRecord(record):
                return self._transport.links.get(record.peer_id)
            case _:
                return None

    def _order_messages(self, now: float) -> None:
        """Not while effects are applied: the trackers would know messages that are not delivered yet."""
        messages, self._unordered = self._unordered, []
        if messages:
            self._put_in_order(self._message_order.add(messages, now))
        self._put_in_order(self._message_order.advance(now))

    def _put_in_order(self, ordered: list[Ordered]) -> None:
        self._in_order += ordered
        self._events += [each for each in ordered if isinstance(each, MessagesSkipped)]

    def _send(self, send: Send, now: float) -> int:
        """Queues a message; returns how many peers had room."""
        if self._is_paused and isinstance(send.message, IWant):
            return 0  # a later round requests what is still missing
        return self._transport.send(send.peers, send.message, now)

    def _emit_peer_state(
        self, peer_id: PeerId, previous: PeerState | None, reason: str, now: float
    ) -> None:
        peer = self._overlay.peers.get(peer_id)
        if peer is not None:
            timeout_s = self.config.peer_timeout
            info = stats.peer_info(peer, self._transport.links, self._overlay, timeout_s, now)
            self._events.append(PeerStateChanged(info, previous, reason))

    def _bump_epoch(self, epoch: int, now: float) -> None:
        """Outranks a record of our identity that is not ours: a new epoch, new streams, new links."""
        self._spread_all(self._publisher.start_epoch(epoch + 1, now), now)
        self._epoch_changes += 1
        self._overlay.start_epoch(epoch + 1, now)
        closed = self._transport.disconnect_all("new epoch", CloseReason.REDUNDANT, now)
        self._on_events(closed, now)

    # --- publishing -----------------------------------------------------------------------------

    def _spread_all(self, batches: Iterable[SignedBatch], now: float) -> None:
        for batch in batches:
            self._spread(batch, now)

    def _spread(self, batch: SignedBatch, now: float) -> None:
        """Pushes a signed rumor of ours."""
        peers = 0
        for effect in self._overlay.broadcast(batch.rumor, now):
            if isinstance(effect, Send) and isinstance(
                effect.message, (Rumors, Offer, Announce, AnnounceTopic)
            ):
                peers += self._send(effect, now)
            else:
                self._apply_effects([effect], now)
        self._events += [MessageSent(message, peers) for message in batch.messages]

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next, in the seconds of `now`; math.inf: never."""
        if self._transport.has_output:  # read after every datagram: the rest costs microseconds
            return -math.inf
        return min(
            self._pause_at,
            self._message_order.deadline,
            self._overlay.deadline,
            self._publisher.deadline,
            self._transport.deadline,
        )

    def advance(self, now: float) -> None:
        """Time passed: does what is due."""
        transport = self._transport
        self._contained(lambda: self._on_events(transport.expire_dials(now), now), now)
        if now >= self._overlay.deadline:
            self._apply_effects(self._overlay.advance(now), now)
        if self._has_tags_to_apply and not self.state.is_recovering:
            self._contained(lambda: self._apply_tags(now), now)
        if self._keeps_order:
            self._order_messages(now)
        if now >= self._pause_at:
            self._pause_at = now + PAUSE_INTERVAL_S
            transport.send(tuple(transport.links), Pause(PAUSE_MS), now)
        self._contained(lambda: self._on_events(transport.advance(now), now), now)
        publisher = self._publisher
        if not self._contained(lambda: self._spread_all(publisher.flush_due(now), now), now):
            publisher.postpone(now + ERROR_PAUSE_S)

    def _contained(self, step: Callable[[], None], now: float) -> bool:
        """Takes a step that concerns no peer in particular; returns whether it met no error."""
        try:
            step()
        except Exception as error:  # noqa: BLE001
            self._contain_error(error, None, now)
            return False
        return True

    # --- out ------------------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Datagrams that are due, each with its destination. Each is returned once."""
        transport, publisher = self._transport, self._publisher
        has_unacknowledged = not transport.is_leaving or publisher.unacknowledged > 0
        datagrams = transport.datagrams_to_send(now, has_unacknowledged=has_unacknowledged)
        while transport.has_pending_errors:  # the Close of a broken link goes in the same turn
            self._on_events(transport.contain_pending_errors(now), now)
            datagrams += transport.datagrams_to_send(now)
        if publisher.deadline < math.inf and not self._contained(
            lambda: publisher.update_deadline(now), now
        ):
            publisher.postpone(now + ERROR_PAUSE_S)
        transport.counters.count_sent(datagrams)
        return datagrams

    def events(self) -> list[Event]:
        """Returns what happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def messages_in_order(self, now: float) -> list[Ordered]:
        """After `keep_order`: returns the messages that may be read in order since the last call. A report
        stands in the place of those that are skipped; it is an event too."""
        if self._unordered:
            self._order_messages(now)
        ordered, self._in_order = self._in_order, []
        return ordered

    def release_order(self, now: float) -> None:
        """Skips what messages in order wait for, so that `messages_in_order` returns all of them."""
        self._order_messages(now)
        self._put_in_order(self._message_order.release_all())

    def waiting_for_order(self) -> list[MessageId]:
        """The messages that wait for earlier ones of their stream."""
        return [message.id for message in self._unordered] + self._message_order.waiting_ids()

    # --- look -----------------------------------------------------------------------------------

    @property
    def config(self) -> NodeConfig:
        """The settings in effect."""
        return self._config.current

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def epoch(self) -> int:
        """The epoch of this run; it may rise while the node runs."""
        return self._publisher.epoch

    @property
    def stop_reason(self) -> str | None:
        """Why this node must stop; None: it need not."""
        return self._stop_reason

    @property
    def record(self) -> PeerRecord:
        """The signed record of this node."""
        return self._overlay.record

    @property
    def observed(self) -> Address | None:
        """Where several peers see this node, other than at its own addresses."""
        return self._overlay.membership.local_record.observed

    @property
    def is_behind_nat(self) -> bool:
        """Whether peers see this node at an address that it does not have."""
        return self._overlay.membership.reachability.is_behind_nat

    def peers(self, now: float) -> list[PeerInfo]:
        """All peers, connected or not."""
        timeout_s, links = self.config.peer_timeout, self._transport.links
        return [
            stats.peer_info(peer, links, self._overlay, timeout_s, now)
            for peer in self._overlay.peers
        ]

    def members(self, now: float | None = None) -> list[MemberInfo]:
        """All known members of the cluster except this node; with `now`, with their round-trip times and
        paths."""
        members = self._overlay.membership.members
        if now is None:
            return [member.to_info() for member in members]
        path_to, rtt_to = self._transport.path_to, self._rtt_to
        ids = ((member, member.record.peer_id) for member in members)
        return [member.to_info(rtt_to(each, now), path_to(each)) for member, each in ids]

    @property
    def coordinate(self) -> Coordinate | None:
        """Where this node is; None until it is known."""
        return self._overlay.membership.coordinate_of(self.peer_id)

    def rtt(self, first: PeerId, second: PeerId | None, now: float) -> Estimate | None:
        """The round-trip time between two members; None as the second is this node. Measured if one end is
        this node and the other is connected, else estimated; None if it cannot be. Raises UnknownPeer."""
        second = second or self.peer_id
        for peer_id in (first, second):
            if peer_id != self.peer_id and peer_id not in self._overlay.membership.members:
                raise UnknownPeer(f"no member {peer_id.short}… is known")
        if first == second:
            return Estimate(0.0, 0.0, RttSource.MEASURED)
        if self.peer_id in (first, second):
            other = second if first == self.peer_id else first
            return self._rtt_to(other, now)
        return self._overlay.membership.estimate(first, second)

    def _rtt_to(self, peer_id: PeerId, now: float) -> Estimate | None:
        return stats.rtt_to(peer_id, self._transport.links, self._overlay, now)

    def nearest(self, count: int, among: Iterable[PeerId] | None, now: float) -> list[PeerId]:
        """The `count` members with the shortest round-trip times from this node, of those that are up and
        `among` these, nearest first. Members whose round-trip time is not known are left out."""
        members = self._overlay.membership.members
        wanted = [each.record.peer_id for each in members] if among is None else among
        by_rtt = []
        for peer_id in dict.fromkeys(wanted):
            member = members.get(peer_id)
            if member is None or member.status is not MemberStatus.UP:
                continue
            rtt = self._rtt_to(peer_id, now)
            if rtt is not None:
                by_rtt.append((rtt.seconds, peer_id))
        return [peer_id for _, peer_id in sorted(by_rtt)[: max(count, 0)]]

    @property
    def state(self) -> KeyedState:
        """The keyed state, to read."""
        return self._overlay.state

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of this node."""
        return self._overlay.membership.members.tags_of(self.peer_id)

    def retained_message(self, change: EntryChanged) -> Message:
        """The message that an entry with a topic, which has just come, retains."""
        return Message(
            change.id,
            change.value or b"",
            0,
            Via.RETAINED,
            self.state.changed_at,
            topic=change.topic,
            is_retained=True,
        )

    def retained_messages(self, topics: TopicPatterns, now: float) -> list[Message]:
        """Messages that other nodes retain and whose topic `topics` select, in order of their keys."""
        found = [each for each in self.state.shared.retained(now) if each.owner != self.peer_id]
        return [
            Message(
                each.id,
                each.rumor.body,
                0,
                Via.RETAINED,
                now,
                topic=each.topic,
                age_s=now - each.published_at,
                is_retained=True,
            )
            for each in sorted(found, key=lambda each: (each.owner, each.key))
            if topics.matches(each.topic)
        ]

    def peer_at(self, address: Address) -> PeerId | None:
        """The member that a session proved to be at `address`, the latest of several; None: there is
        none. Addresses that records only claim do not count: a member that claims the address of another
        would be sent what is meant for that one."""
        link = self._transport.links.find_by_address(address)
        if link is not None:
            return link.peer_id
        proved = [
            peer
            for peer in self._overlay.peers
            if peer.is_address_validated and peer.address == address
        ]
        last = max(proved, key=lambda peer: peer.last_heard_at, default=None)
        return None if last is None else last.peer_id

    def is_cached(self, message_id: MessageId) -> bool:
        """Whether the broadcast `message_id` is cached here, with its body."""
        return self._overlay.store.cache.has_message(message_id)

    def arrival(self, message_id: MessageId) -> Arrival | None:
        """How a cached broadcast came here; None if it is not cached."""
        return self._overlay.store.cache.arrival(message_id)

    def rounds(self) -> list[Round]:
        """The latest anti-entropy rounds that this node began, oldest first."""
        return list(self._overlay.antientropy.rounds)

    def traces(self) -> list[Trace]:
        """The latest traced messages of this node and how far they got, oldest first."""
        return self._overlay.tracing.reports()

    def queries(self) -> list[QueryReport]:
        """The latest queries of this node and what has come of them, ended ones first."""
        return self._overlay.queries.reports()

    def stats(self) -> Stats:
        """Counters and gauges."""
        return stats.stats(
            self._transport,
            self._overlay,
            self._publisher,
            self._message_order,
            delivered=self._delivered,
        )

    @property
    def duplicates(self) -> int:
        """Copies of messages beyond the first: one of `stats`, at no cost."""
        return self._overlay.dissemination.duplicates

    # --- kept -----------------------------------------------------------------------------------

    def snapshot(
        self,
        now: float,
        unhandled: Iterable[MessageId] = (),
        streams: Iterable[Stream] | None = None,
    ) -> NodeState:
        """What to keep for the next run, as of now; of all streams unless `streams` are given. `unhandled`
        broadcasts count as not seen: the next run requests them again."""
        store = self._overlay.store
        known = self._overlay.membership.dialer.known_addresses()
        saved = store.saved_streams(
            store.tracked_streams() if streams is None else streams, now, unhandled
        )
        entries = self.state.snapshot(now)
        coordinate = self._overlay.membership.coordinates.to_save()
        return NodeState(self._identity.seed, self.epoch, tuple(saved), known, entries, coordinate)

    def tracked_streams(self) -> list[Stream]:
        """All streams that a `snapshot` has."""
        return self._overlay.store.tracked_streams()

    def saved_streams(self, streams: Iterable[Stream], now: float) -> list[SavedStream]:
        """What a `snapshot` has of those of `streams` that still exist, without unhandled broadcasts."""
        return self._overlay.store.saved_streams(streams, now)

    def take_unsaved_streams(self) -> list[Stream] | None:
        """The streams that changed, appeared or were removed since the last call; None if any may have. For
        the only one who saves."""
        return self._overlay.store.take_unsaved()

    @property
    def state_version(self) -> int:
        """Grows whenever `snapshot` would differ in more than a small move of the coordinate, which happens
        all the time."""
        overlay = self._overlay
        versions = overlay.store.version + self._transport.version + self.state.version
        versions += overlay.membership.coordinates.times_recorded
        return versions + self._epoch_changes
