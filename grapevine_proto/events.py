"""Events and status values that a node reports to its application.

Invariants: events are immutable values named for what happened, in the past tense; none of them can
change the node. Times are seconds of the node's own monotonic clock. Names, zones and payloads are
untrusted: escape them before display.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.ids import Address, MessageId, PeerId, Zone

# A receipt waits up to 100 ms at its member and 20 ms at each hop; the rest allows for one retransmission
# and for hops that no copy counts.
RECEIPT_DELAY_MS: Final = 500
RECEIPT_DELAY_PER_HOP_MS: Final = 100

SHOWN_PAYLOAD_BYTES: Final = 80  # in the `repr` of a message


class PeerState(StrEnum):
    """State of the connection to a peer. `overlay.peers.TRANSITIONS` lists the legal transitions."""

    CONNECTING = "connecting"
    """A dial is in progress."""
    CONNECTED = "connected"
    STALE = "stale"
    """Connected, but silent for three intervals or since an unanswered ping."""
    DISCONNECTED = "disconnected"


class MemberStatus(StrEnum):
    """Status of a member of the cluster, connected to this node or not (SWIM)."""

    UP = "up"
    SUSPECT = "suspect"
    """It does not answer; it can still refute the suspicion."""
    DOWN = "down"
    """The suspicion timeout has expired."""
    LEFT = "left"
    """It left by a graceful shutdown."""


class Standing(StrEnum):
    """Consequence of a peer's misconduct score. The score decays, and the consequence with it."""

    NORMAL = "normal"
    SLOWED = "slowed"
    """Its rate-limit tokens refill more slowly."""
    EXPELLED = "expelled"
    """It was disconnected and may not reconnect for a while."""


class Via(StrEnum):
    """How a message arrived."""

    EAGER = "eager"
    """Pushed with its payload."""
    LAZY = "lazy"
    """Announced by its ID, then requested."""
    REPAIR = "repair"
    """Delivered by anti-entropy."""
    LOCAL = "local"
    """Sent by this node."""
    CACHE = "cache"
    """Replayed from this node's cache to a subscription that began after it arrived."""


class RoundOutcome(StrEnum):
    """How an anti-entropy round ended."""

    RUNNING = "running"
    IN_SYNC = "in_sync"
    """Nothing was missing on either side."""
    REPAIRED = "repaired"
    PARTIAL = "partial"
    """The peer stopped answering in the middle."""
    NO_ANSWER = "no_answer"


class Message(NamedTuple):
    """One payload, delivered at most once."""

    id: MessageId
    payload: bytes
    hops: int
    """Hops that the copy traveled; 1 if it came directly from its origin."""
    via: Via
    received_at: float
    """Seconds of the node's monotonic clock."""
    is_direct: bool = False
    """Whether it is a direct message."""
    to: PeerId | None = None
    """Recipient of a direct message that this node sent; None for any other message."""
    topic: str = ""
    """Its topic; empty for a broadcast without one and for a direct message."""

    @property
    def origin(self) -> PeerId:
        """The node that sent it."""
        return self.id.origin

    def __repr__(self) -> str:
        """Shows at most `SHOWN_PAYLOAD_BYTES` of the payload, so that a log line stays short."""
        payload = repr(self.payload[:SHOWN_PAYLOAD_BYTES])
        if len(self.payload) > SHOWN_PAYLOAD_BYTES:
            payload += f"... ({len(self.payload)} bytes)"
        values = [
            payload if name == "payload" else repr(getattr(self, name)) for name in self._fields
        ]
        pairs = zip(self._fields, values, strict=True)
        return f"Message({', '.join(f'{name}={value}' for name, value in pairs)})"


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Snapshot of one peer."""

    peer_id: PeerId
    address: Address
    zone: Zone
    name: str
    state: PeerState
    health: float
    """From 0 (unreachable) to 1 (healthy)."""
    rtt_s: float | None
    """Round-trip time in seconds; None until measured."""
    sent: int
    """Datagrams sent to it."""
    received: int
    """Datagrams received from it."""
    allowed: int
    """Messages that its rate limit admitted."""
    throttled: int
    """Messages dropped because it exceeded its rate limit."""
    tokens: float
    """Rate-limit tokens left."""
    tokens_capacity: float
    last_seen_at: float
    """When its latest packet arrived."""
    epoch: int
    connected_at: float | None
    queued: int
    """Messages in the send queue."""
    health_reason: str = ""
    """What lowers `health`, for people; empty if nothing does."""
    subscribed: bool = False
    """Whether new messages are always pushed to it, as its strategy requested."""
    send_rate: float = 0.0
    """Bytes per second that congestion control permits."""
    lost: int = 0
    """Datagrams to it that were lost, by its acknowledgments."""
    datagram_bytes: int = 0
    """Largest datagram that the path carries."""
    score: float = 0.0
    """Decaying sum of its misconduct."""
    standing: Standing = Standing.NORMAL


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """Snapshot of one member of the cluster."""

    peer_id: PeerId
    address: Address | None
    zone: Zone
    name: str
    status: MemberStatus
    epoch: int


@dataclass(frozen=True, slots=True)
class Round:
    """One anti-entropy round that this node started.

    `started_at` and `duration_s` are in seconds. `sent` and `received` count payloads; `bytes` is
    their size in both directions.
    """

    number: int
    peer: PeerId
    started_at: float
    duration_s: float
    in_sync: bool
    sent: int
    received: int
    bytes: int
    outcome: RoundOutcome


class TraceAnswer(NamedTuple):
    """Confirmation that one member has a traced message.

    `delay_ms` is the age that its copy carried: a lower bound, because a copy does not age while
    the network or a suspended member delays it. `confirmed_ms` is when the receipt arrived: an
    upper bound. Both count from the broadcast.
    """

    peer_id: PeerId
    hops: int
    delay_ms: int
    confirmed_ms: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the receipt took unusually long, so that `delay_ms` may be far too low."""
        usual_ms = RECEIPT_DELAY_MS + 2 * self.delay_ms + RECEIPT_DELAY_PER_HOP_MS * self.hops
        return self.confirmed_ms > usual_ms

    @property
    def bound_ms(self) -> int:
        """The delay to use in summaries: the upper bound for a late answer, otherwise `delay_ms`."""
        return self.confirmed_ms if self.is_late else self.delay_ms


@dataclass(frozen=True, slots=True)
class Trace:
    """How far a traced message of this node has spread, by the receipts received so far.

    Summaries are None while no member has confirmed. They count a late answer with its upper bound,
    so they are never too low.
    """

    id: MessageId
    sent_at: float
    """Seconds of the node's monotonic clock."""
    known: int
    """Members that were known at the broadcast."""
    answers: tuple[TraceAnswer, ...]
    """Confirmations of the members that were asked, fastest first."""
    unanswered: tuple[PeerId, ...]
    """Members that were asked and have not confirmed. They may have the message: a receipt can get
    lost."""
    others: int = 0
    """Confirmations of members that were not known at the broadcast."""

    @property
    def expected(self) -> int:
        """Members that were asked to confirm: all known ones, or a sample."""
        return len(self.answers) + len(self.unanswered)

    @property
    def reached(self) -> int:
        """Members that have confirmed."""
        return len(self.answers)

    @property
    def is_sample(self) -> bool:
        return self.expected < self.known

    @property
    def is_complete(self) -> bool:
        return not self.unanswered

    @property
    def p50_ms(self) -> int | None:
        return self._delay_ms(50)

    @property
    def p99_ms(self) -> int | None:
        return self._delay_ms(99)

    @property
    def last_ms(self) -> int | None:
        return self._delay_ms(100)

    def _delay_ms(self, percent: int) -> int | None:
        """The smallest delay that `percent` of the answers do not exceed."""
        answer = self.percentile_answer(percent)
        return None if answer is None else answer.bound_ms

    def percentile_answer(self, percent: int) -> TraceAnswer | None:
        """Returns the answer at percentile `percent` of the delays; None while no member has
        confirmed."""
        if not self.answers:
            return None
        ordered = sorted(self.answers, key=lambda each: each.bound_ms)
        return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]

    @property
    def hops(self) -> int | None:
        """Largest hop count among the answers."""
        return max((answer.hops for answer in self.answers), default=None)


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start of the node, which only grow, and gauges."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    delivered: int = 0
    """Messages delivered to the application."""
    published: int = 0
    """Broadcasts published by this node."""
    duplicates: int = 0
    """Redundant copies received."""
    relayed: int = 0
    """Rumors relayed to other peers."""
    unsubscribed: int = 0
    """Messages relayed but not delivered: this node does not subscribe to their topic."""
    expired: int = 0
    """Messages relayed but not delivered: they arrived after their expiry."""
    unsupported: int = 0
    """Messages relayed but not delivered: an attribute of theirs is not known to this version."""
    repaired: int = 0
    """Messages received through anti-entropy or requested by ID."""
    repair_requests: int = 0
    """Ranges requested by ID."""
    announcements_dropped: int = 0
    """Announcements dropped for lack of room."""
    gaps_abandoned: int = 0
    """Sequence numbers given up because no node could supply them in time."""
    cache_evictions: int = 0
    """Message bodies evicted from the cache."""
    send_drops: int = 0
    """Messages dropped on send: the peer's queue was full, or the system refused."""
    unacked_untracked: int = 0
    """Own broadcasts no longer tracked, counted as unacknowledged."""
    traces_evicted: int = 0
    """Traces evicted."""
    receipts_relayed: int = 0
    receipts_dropped: int = 0
    """Trace receipts dropped: invalid, or beyond a limit."""
    receipts_lost: int = 0
    """Trace receipts that no peer acknowledged."""
    events_lost: int = 0
    """Events that a slow handler or reader of this process did not get."""
    callback_errors: int = 0
    """Exceptions raised by handlers and listeners of this process."""
    dropped: tuple[tuple[DropReason, int], ...] = ()
    """Dropped datagrams by reason."""
    offenses: tuple[tuple[Offense, int], ...] = ()
    """Misconduct of peers by kind."""
    slowed: int = 0
    """Times a peer was slowed for misconduct."""
    expelled: int = 0
    """Times a peer was disconnected for misconduct."""
    cached: int = 0
    """Cached messages."""
    cached_bytes: int = 0
    streams: int = 0
    """Streams (origin, epoch) whose sequence numbers are tracked."""
    sessions: int = 0
    """Sessions, including transient ones."""
    transient_sessions: int = 0
    """Transient sessions."""
    transient_refused: int = 0
    """Transient sessions refused for lack of room."""
    reassembly_dropped: int = 0
    """Large messages dropped before they were complete."""
    evictions: int = 0
    """Table entries evicted for lack of room."""
    members: int = 0
    """Known members."""
    links_optimized: int = 0
    """Links replaced with nearer ones."""
    next_round_at: float = 0.0
    """When the next anti-entropy round starts, in seconds of the node's monotonic clock."""
    subscribers: int = 0
    """Peers that this node pushes every new message to."""
    subscriptions: int = 0
    """Peers that push every new message to this node."""


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """The node is bound to `address` and runs under `epoch`."""

    peer_id: PeerId
    address: Address
    epoch: int


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message from another node was delivered."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageSent:
    """A message of this node was accepted and is on its way to `peers` peers."""

    message: Message
    peers: int


@dataclass(frozen=True, slots=True)
class MessagesUnsupported:
    """Messages of `origin` with the sequences `first` to `last` of `epoch` arrived and are not delivered:
    their `attribute` is not known to this version, or has no valid value. They are relayed like any other.
    """

    origin: PeerId
    epoch: int
    first: int
    last: int
    attribute: int


@dataclass(frozen=True, slots=True)
class PeerStateChanged:
    """The state of a peer changed. `reason` is for people: do not parse it."""

    peer: PeerInfo
    previous: PeerState | None
    reason: str


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member joined, or its status, address, name or zone changed."""

    member: MemberInfo


@dataclass(frozen=True, slots=True)
class RateLimited:
    """A peer exceeded its rate limit: `dropped` messages since the last such event, at most once a
    second."""

    peer: PeerId
    dropped: int
    tokens: float


@dataclass(frozen=True, slots=True)
class StandingChanged:
    """A peer's misconduct score crossed a threshold, or decayed below it. `reason` names the main
    cause, for people."""

    peer: PeerId
    standing: Standing
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class AntiEntropyRound:
    """An anti-entropy round of this node started or ended."""

    round: Round


@dataclass(frozen=True, slots=True)
class TraceUpdated:
    """A traced message was sent, or more receipts arrived; at most ten times a second per trace."""

    trace: Trace


@dataclass(frozen=True, slots=True)
class DatagramDropped:
    """`count` datagrams were dropped for `reason` since the last such event, at most once a second
    per reason. `address` is the unauthenticated source of the latest one."""

    reason: DropReason
    count: int
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class EventsLost:
    """This reader was too slow and lost the `count` oldest events since the last such event."""

    count: int


@dataclass(frozen=True, slots=True)
class DialFailed:
    """No reply from `address`, or it is a name (``host:port``) that does not resolve. Reported
    again only after a success in between. A node never answers a peer without its cluster key, so
    this event cannot distinguish a node that is down from one with another key."""

    address: Address | str
    reason: str


@dataclass(frozen=True, slots=True)
class StateSaveFailed:
    """The state directory cannot be written. The node continues and retries; `problem` is empty
    once it succeeds."""

    problem: str


@dataclass(frozen=True, slots=True)
class IdentityInUse:
    """Another node uses this node's identity, for example because it runs on a copy of the state
    directory. This node was first: it continues under a higher epoch, and the other one stops.
    `address` is the one that the other node's record claims."""

    address: Address | None
    problem: str


@dataclass(frozen=True, slots=True)
class InternalErrorContained:
    """An internal error while serving `peer` (None: no particular peer). The link to it was closed and
    everything else continues. `problem` names the error and its location; at most one per second without
    a peer. Please report it."""

    peer: PeerId | None
    problem: str


@dataclass(frozen=True, slots=True)
class NodeStopped:
    """The node has stopped; `reason` is for people. Always the last event."""

    reason: str


Event: TypeAlias = (
    NodeStarted
    | MessageReceived
    | MessageSent
    | PeerStateChanged
    | MemberChanged
    | RateLimited
    | StandingChanged
    | AntiEntropyRound
    | TraceUpdated
    | DatagramDropped
    | EventsLost
    | DialFailed
    | StateSaveFailed
    | InternalErrorContained
    | IdentityInUse
    | NodeStopped
    | MessagesUnsupported  # new kinds go last: trace hashes number them
)
