"""Events and status values that a node reports to its application.

Invariants: events are immutable values named for what happened, in the past tense; none of them can
change the node. Times are seconds of the node's own monotonic clock. Names, zones and payloads are
untrusted: escape them before display.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

from grapevine_proto.coordinate import NO_RTT, Coordinate, Estimate
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.ids import Address, MessageId, PeerId, Stream, Zone
from grapevine_proto.tags import includes

# A receipt waits up to 100 ms at its member and 20 ms at each hop; the rest allows for one retransmission
# and for hops that no copy counts.
RECEIPT_DELAY_MS: Final = 500
RECEIPT_DELAY_PER_HOP_MS: Final = 100

SHOWN_PAYLOAD_BYTES: Final = 80  # in the `repr` of a message


JsonObject: TypeAlias = dict[str, Any]
"""What JSON can express: IDs and addresses as text, enumerations as their words, null for a number that JSON
lacks."""


def json_number(value: float) -> float | None:
    """Returns `value` to three decimals; None if JSON has no such number."""
    return round(value, 3) if math.isfinite(value) else None


def _payload_fields(payload: bytes) -> JsonObject:
    fields: JsonObject = {}
    with suppress(UnicodeDecodeError):  # then base64 is all there is
        fields["text"] = payload.decode()
    return fields | {"base64": b64encode(payload).decode("ascii")}


def _seconds_between(at: float | None, now: float | None) -> float | None:
    return None if at is None or now is None else json_number(max(0.0, now - at))


class PeerState(StrEnum):
    """State of the connection to a peer. `overlay.peers.TRANSITIONS` lists the legal transitions."""

    CONNECTING = "connecting"
    """A dial is in progress."""
    CONNECTED = "connected"
    STALE = "stale"
    """Connected, but silent for three intervals or since an unanswered ping."""
    DISCONNECTED = "disconnected"

    @property
    def is_connected(self) -> bool:
        """Whether there is a link, silent or not."""
        return self in (PeerState.CONNECTED, PeerState.STALE)


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


class PathKind(StrEnum):
    """How the packets of a link reach its peer."""

    DIRECT = "direct"
    PUNCHED = "punched"
    """Through NATs that both ends opened at the same time: a common peer introduced them."""
    RELAYED = "relayed"
    """Through a common peer, which cannot read them: only direct messages travel so, on transient
    sessions."""


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
    RETAINED = "retained"
    """Retained by its origin, and given to a subscription that began after it was published."""


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
    age_s: float = 0.0
    """Its age in seconds when it arrived, by the copy that arrived first: a hint, because relays add to
    it and none signs it. A copy does not age in the network. 0 for a direct message."""
    is_retained: bool = False
    """Whether its origin keeps it for subscribers to come, until the next one with the same key."""

    @property
    def sent_at(self) -> float:
        """When it was sent, in seconds of the clock of this node, as far as `age_s` is true."""
        return self.received_at - self.age_s

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``message``; the payload as `base64`, and as `text` if it is
        UTF-8."""
        fields: JsonObject = {
            "id": str(self.id),
            "origin": str(self.origin),
            "sequence": self.id.sequence,
            "hops": self.hops,
            "via": self.via.value,
            "direct": self.is_direct,
            "topic": self.topic,
            "retained": self.is_retained,
            "bytes": len(self.payload),
            "age_s": json_number(self.age_s),
        }
        if self.to is not None:
            fields["to"] = str(self.to)
        return fields | _payload_fields(self.payload)

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


class PeerInfo(NamedTuple):
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
    path: PathKind | None = None
    """How its packets travel; None without a link."""
    advertised: tuple[Address, ...] = ()
    """Where its record says that it is dialed."""

    def to_dict(self, *, now: float | None = None) -> JsonObject:
        """Returns the fields of a peer in JSON. `now`, a time of `Node.now`, is needed for `last_seen_s` and
        `connected_s`, which are null without it."""
        is_connected = self.state.is_connected
        return {
            "peer_id": str(self.peer_id),
            "address": str(self.address),
            "zone": self.zone,
            "name": self.name,
            "state": self.state.value,
            "health": json_number(self.health),
            "health_reason": self.health_reason,
            # A measurement of a closed link says nothing about the present.
            "rtt_ms": None
            if self.rtt_s is None or not is_connected
            else json_number(self.rtt_s * 1000),
            "sent": self.sent,
            "received": self.received,
            "allowed": self.allowed,
            "throttled": self.throttled,
            "tokens": json_number(self.tokens),
            "tokens_capacity": json_number(self.tokens_capacity),
            "last_seen_s": _seconds_between(self.last_seen_at, now),
            "connected_s": _seconds_between(self.connected_at, now),
            "epoch": self.epoch,
            "queued": self.queued,
            "subscribed": self.subscribed,
            "send_rate": json_number(self.send_rate),
            "lost": self.lost,
            "datagram_bytes": self.datagram_bytes,
            "score": json_number(self.score),
            "standing": self.standing.value,
            "path": None if self.path is None else self.path.value,
            "advertised": [str(each) for each in self.advertised],
        }


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """Snapshot of one member of the cluster."""

    peer_id: PeerId
    address: Address | None
    zone: Zone
    name: str
    status: MemberStatus
    epoch: int
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    reason: str = ""
    """Why it has this status, for people: what this node saw, or which members accuse it. Empty if it never
    changed here. Contains names that remote nodes chose."""
    coordinate: Coordinate | None = field(default=None, compare=False, repr=False)
    """Where it is, as far as is known here; changes without an event."""
    rtt: Estimate | None = field(default=None, compare=False)
    """The round-trip time from this node, as in `Node.rtt`; only in the result of `Node.members`."""
    path: PathKind | None = field(default=None, compare=False)
    """How its packets travel, over a link or a transient session; None without either; only in the result of
    `Node.members`."""

    def has_tags(self, tags: Mapping[str, str]) -> bool:
        """Whether it has all of `tags`, with these values."""
        return includes(self.tags, tags)

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``member``."""
        return {
            "peer_id": str(self.peer_id),
            "address": None if self.address is None else str(self.address),
            "zone": self.zone,
            "name": self.name,
            "status": self.status.value,
            "epoch": self.epoch,
            "tags": dict(self.tags),
            "reason": self.reason,
            "path": None if self.path is None else self.path.value,
            **(NO_RTT if self.rtt is None else self.rtt.to_dict()),
        }


class EntryInfo(NamedTuple):
    """One entry of the keyed state: what `owner` says under `key`."""

    owner: PeerId
    key: str
    value: bytes | None
    """None: it is deleted, or its time is over."""
    clock: int
    """Orders entries of several owners under one key: of equal ones the greater owner wins."""
    epoch: int
    sequence: int
    """With `epoch`, the version of the entry; versions of one owner only rise."""
    ttl_s: int = 0
    """Seconds after which it ends, counted from when it was set; 0: never."""
    remaining_s: float | None = None
    """Seconds until it ends, as far as this node knows; None: never."""
    is_durable: bool = False
    """Whether another member adopts it when its owner is gone for long."""
    topic: str = ""
    """The topic of a retained message; empty for any other entry."""
    is_winner: bool = False
    """Whether it decides the value of the key."""
    conflict: bool = False
    """Whether its owner signed two contents under one version; its map is frozen until it restarts."""
    clock_ahead: bool = False
    """Whether its clock is so far above those of others that it does not count."""

    def to_dict(self) -> JsonObject:
        """Returns the fields of an entry in JSON. `text` and `base64` are missing in one that is deleted."""
        fields: JsonObject = {
            "owner": str(self.owner),
            "key": self.key,
            "deleted": self.value is None,
            "winner": self.is_winner,
            "clock": self.clock,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "ttl_s": self.ttl_s,
            "remaining_s": None if self.remaining_s is None else json_number(self.remaining_s),
            "durable": self.is_durable,
            "topic": self.topic,
            "conflict": self.conflict,
            "clock_ahead": self.clock_ahead,
        }
        return fields if self.value is None else fields | _payload_fields(self.value)


class KeyInfo(NamedTuple):
    """All entries of one key: the one that decides its value, and those of other owners, highest first."""

    key: str
    winner: EntryInfo | None
    """None: only entries whose clock is ahead are there."""
    others: tuple[EntryInfo, ...] = ()

    @property
    def value(self) -> bytes | None:
        """The value of the key; None if it is deleted."""
        return None if self.winner is None else self.winner.value

    def to_dict(self) -> JsonObject:
        """Returns the fields of a key in JSON."""
        return {
            "key": self.key,
            "winner": self.winner and self.winner.to_dict(),
            "others": [each.to_dict() for each in self.others],
        }


class Round(NamedTuple):
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

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``round``."""
        return {
            "number": self.number,
            "peer_id": str(self.peer),
            "in_sync": self.in_sync,
            "sent": self.sent,
            "received": self.received,
            "bytes": self.bytes,
            "duration_ms": json_number(self.duration_s * 1000),
            "outcome": self.outcome.value,
        }


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


class Trace(NamedTuple):
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

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``trace``."""
        return {
            "id": str(self.id),
            "reached": self.reached,
            "known": self.known,
            "expected": self.expected,
            "sample": self.is_sample,
            "complete": self.is_complete,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "last_ms": self.last_ms,
            "hops": self.hops,
            "unanswered": [str(peer_id) for peer_id in self.unanswered],
            "answers": [[str(each.peer_id), each.hops, each.delay_ms] for each in self.answers],
            "confirmed_ms": [each.confirmed_ms for each in self.answers],
            "late": sum(each.is_late for each in self.answers),
            "others": self.others,
        }


class AnswerStatus(StrEnum):
    """What became of a query at one member."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """It has no handler for the query, or no time."""
    FAILED = "failed"
    """Its handler failed, or its answer was too large or could not be fetched."""


class QueryEnd(StrEnum):
    """Why a query of this node ended."""

    COMPLETE = "complete"
    """Every member that was asked has answered."""
    LIMIT = "limit"
    """As many answers as wanted have arrived."""
    STALLED = "stalled"
    """No answer arrived for a while, and no member is known to work on one."""
    DEADLINE = "deadline"
    CANCELED = "canceled"


class UndeliveredReason(StrEnum):
    """Why a direct message of this node is not known to have arrived."""

    NO_ANSWER = "no_answer"
    """No session could be opened: the member does not answer at its addresses."""
    REFUSED = "refused"
    """The member, or the network of this machine, refused a session."""
    QUEUE_FULL = "queue_full"
    """It was not sent: too many messages wait for the member, or for acknowledgments."""
    SESSION_ENDED = "session_ended"
    """The session that carried it ended before the member acknowledged it."""
    NOT_ACKNOWLEDGED = "not_acknowledged"
    """The member did not acknowledge it in time."""
    NODE_LEFT = "node_left"
    """This node left before the member acknowledged it."""


class Question(NamedTuple):
    """A query that this node is asked to answer."""

    id: MessageId
    name: str
    payload: bytes
    remaining_s: float
    """Seconds until its deadline, at the time it arrived."""
    max_answer_bytes: int
    hops: int

    @property
    def origin(self) -> PeerId:
        """The node that asks."""
        return self.id.origin

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``query``."""
        fields: JsonObject = {
            "id": str(self.id),
            "name": self.name,
            "origin": str(self.origin),
            "hops": self.hops,
            "remaining_s": json_number(self.remaining_s),
            "max_answer_bytes": self.max_answer_bytes,
            "bytes": len(self.payload),
        }
        return fields | _payload_fields(self.payload)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one member to a query of this node."""

    peer_id: PeerId
    status: AnswerStatus
    payload: bytes
    """The answer; for `refused` and `failed` the reason, for people."""
    hops: int
    """Hops that the question traveled to the member."""
    delay_ms: int
    """Age of the question when the member received it, as the member states."""
    arrived_ms: int
    """Milliseconds from the query to the arrival of the answer."""
    index: int = 0
    """Tells several answers of one member apart."""

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``answer`` besides the ID of the query."""
        fields: JsonObject = {
            "peer_id": str(self.peer_id),
            "status": self.status.value,
            "index": self.index,
            "hops": self.hops,
            "delay_ms": self.delay_ms,
            "arrived_ms": self.arrived_ms,
            "bytes": len(self.payload),
        }
        return fields | _payload_fields(self.payload)


class QueryReport(NamedTuple):
    """A query of this node and what has come of it so far."""

    id: MessageId
    name: str
    started_at: float
    """Seconds of the node's monotonic clock."""
    asked: int
    """Known members that were asked, this node included if the filter admits it."""
    answered: int
    """Members that were asked and have answered."""
    refused: int
    failed: int
    unanswered: tuple[PeerId, ...]
    """Members that were asked and have not answered."""
    others: int
    """Answers of members that were not known at the query."""
    arrivals_ms: tuple[int, ...]
    """When the answers arrived, after the query, in order."""
    end: QueryEnd | None = None
    """Why it ended; None while it runs."""

    @property
    def p50_ms(self) -> int | None:
        return self._arrival_ms(50)

    @property
    def p99_ms(self) -> int | None:
        return self._arrival_ms(99)

    @property
    def last_ms(self) -> int | None:
        return self._arrival_ms(100)

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``query_done``; `end` is null while the query runs."""
        return {
            "id": str(self.id),
            "name": self.name,
            "end": self.end and self.end.value,
            "asked": self.asked,
            "answered": self.answered,
            "refused": self.refused,
            "failed": self.failed,
            "unanswered": [str(peer_id) for peer_id in self.unanswered],
            "others": self.others,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "last_ms": self.last_ms,
        }

    def _arrival_ms(self, percent: int) -> int | None:
        """The time by which `percent` of the answers had arrived; None while there is none."""
        arrivals = self.arrivals_ms
        return arrivals[max(-(-len(arrivals) * percent // 100), 1) - 1] if arrivals else None


class Stats(NamedTuple):
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
    skipped: int = 0
    """Messages that readers in order did not get, because `order_wait` or the room for waiting ones ended."""
    late: int = 0
    """Messages that readers in order did not get, because they arrived after they were skipped."""
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
    answers_relayed: int = 0
    answers_dropped: int = 0
    """Answers to queries dropped: late, invalid, or beyond a limit."""
    answers_lost: int = 0
    """Answers to queries that no peer acknowledged."""
    entries_refused: int = 0
    """State entries of this node or of other members for which there was no room."""
    entries_clock_ahead: int = 0
    """State entries that came with a clock too far above those of other members to count."""
    entry_conflicts: int = 0
    """Members that signed two state entries under one version."""
    entries_adopted: int = 0
    """Durable state entries taken over from members that are gone."""
    undelivered: tuple[tuple[UndeliveredReason, int], ...] = ()
    """Direct messages of this node that are not known to have arrived, by reason."""
    unacknowledged_direct: int = 0
    """Direct messages of this node whose recipient has not acknowledged them yet."""
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
    introduced: int = 0
    """Times this node introduced two peers to each other, so that both dial through their NATs."""
    relayed_datagrams: int = 0
    """Datagrams that this node passed on between two peers that cannot reach each other."""
    relayed_bytes: int = 0
    """Their bytes."""
    relay_refused: int = 0
    """Datagrams not passed on: beyond a limit, to a peer without a session, or `relay` is off."""
    introductions_refused: int = 0
    """Requests to do so that were beyond the rate of a peer, or about a member without a link."""
    reassembly_dropped: int = 0
    """Large messages dropped before they were complete."""
    evictions: int = 0
    """Table entries evicted for lack of room."""
    members: int = 0
    """Known members."""
    entries: int = 0
    """State entries of all members."""
    links_optimized: int = 0
    """Links replaced with nearer ones."""
    coordinate_samples: int = 0
    """Round trips that moved the coordinate of this node."""
    coordinate_samples_ignored: int = 0
    """Round trips that did not: out of range, or with peers that are not where they say."""
    coordinate_error: float = 0.0
    """The relative error that this node expects of its coordinate."""
    port_mappings_granted: int = 0
    """Times a router mapped a port to this node."""
    port_mappings_refused: int = 0
    """Times a router refused to, or none answered, for another reason than before."""
    port_mappings_lost: int = 0
    """Times such a mapping ended while this node ran."""
    next_round_at: float = 0.0
    """When the next anti-entropy round starts, in seconds of the node's monotonic clock."""
    subscribers: int = 0
    """Peers that this node pushes every new message to."""
    subscriptions: int = 0
    """Peers that push every new message to this node."""

    def to_dict(self, *, now: float | None = None) -> JsonObject:
        """Returns the counters by name. `now`, a time of `Node.now`, is needed for `next_round_s`, which is
        null without it."""
        values: JsonObject = self._asdict()
        values["dropped"] = {reason.value: count for reason, count in self.dropped}
        values["undelivered"] = {reason.value: count for reason, count in self.undelivered}
        values["offenses"] = {offense.value: count for offense, count in self.offenses}
        next_at = values.pop("next_round_at")
        in_s = None if now is None or not next_at else json_number(max(0.0, next_at - now))
        return values | {"next_round_s": in_s}


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
class MessagesSkipped:
    """Readers that asked for messages in order do not get the sequences `first` to `last` of `stream`:
    they did not arrive within `order_wait`, or too much would have been kept waiting."""

    stream: Stream
    first: int
    last: int


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
class CaughtUp:
    """This node has what each of its `peers` connected peers had when `Node.synced` was called."""

    peers: int


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
class PeerDiscovered:
    """A source of discovery names an address that it did not name before. It is a hint: the node dials it
    if it needs to, and only a session proves that a member of the cluster is there.

    `source` is the name of the source: ``mdns``, ``local``, ``@FILE``, ``srv+NAME`` or what a source
    of the application calls itself.
    """

    address: Address
    source: str


class PortMappingOutcome(StrEnum):
    """What became of the port that a router maps to this node."""

    GRANTED = "granted"
    REFUSED = "refused"
    """The router says no, or there is none that answers. Reported again only for another reason."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class PortMappingChanged:
    """A router maps a port to this node (`NodeConfig.port_mapping`), refuses to, or does so no longer.

    `address` is outside, None if there was none; `protocol` is ``PCP``, ``NAT-PMP`` or ``UPnP``, `reason`
    is for people, empty for GRANTED.
    """

    outcome: PortMappingOutcome
    address: Address | None
    protocol: str
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


@dataclass(frozen=True, slots=True)
class QueryReceived:
    """A query arrived that this node is asked to answer. `Node` runs the handler of its name."""

    question: Question


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """An answer to query `id` of this node arrived; the first of each member and index."""

    id: MessageId
    answer: Answer


@dataclass(frozen=True, slots=True)
class QueryEnded:
    """A query of this node ended; no more answers of it are reported."""

    report: QueryReport


@dataclass(frozen=True, slots=True)
class MessageUndelivered:
    """A direct message of this node is not known to have arrived: each that `send` accepts is acknowledged by
    its recipient, or reported by this event. It may have arrived nevertheless, if its acknowledgment was
    lost."""

    id: MessageId
    to: PeerId
    reason: UndeliveredReason
    detail: str = ""
    """What is known besides, for people."""


@dataclass(frozen=True, slots=True)
class EntryChanged:
    """The entry of `owner` under `key` changed, at this node as well as at others. Tags are entries under
    ``tag/``, retained messages under ``retain/``."""

    owner: PeerId
    key: str
    value: bytes | None
    """None: it was deleted, or has expired."""
    previous: bytes | None
    """The value that this owner had there before; None: none."""
    is_deleted: bool
    is_winner: bool
    """Whether it is the winner of the key now; always true for tags and retained messages, of which each
    member has its own."""
    id: MessageId
    """Its owner, and its version."""
    topic: str = ""
    """The topic of a retained message."""

    def to_dict(self) -> JsonObject:
        """Returns the fields of the JSON event ``entry``."""
        fields: JsonObject = {
            "owner": str(self.owner),
            "key": self.key,
            "deleted": self.is_deleted,
            "winner": self.is_winner,
            "epoch": self.id.epoch,
            "sequence": self.id.sequence,
            "topic": self.topic,
        }
        if self.previous is not None:
            fields["previous_base64"] = b64encode(self.previous).decode("ascii")
        return fields if self.value is None else fields | _payload_fields(self.value)


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
    | MessagesSkipped
    | CaughtUp
    | QueryReceived
    | QueryAnswered
    | QueryEnded
    | EntryChanged
    | MessageUndelivered
    | PeerDiscovered
    | PortMappingChanged
)


def event_to_json(event: Event) -> JsonObject:
    """Returns `event` as an object of JSON: its word under `event`, and its fields as in the JSON Lines of
    ``grapevine-tui --headless``.

    IDs are hex, times are in the unit that ends their name. Scripts may depend on fields and words: they
    are only added.
    """
    word, fields = _event_fields(event)
    return {"event": word, **fields}


def _event_fields(event: Event) -> tuple[str, JsonObject]:  # noqa: C901, PLR0912  one case each
    match event:
        case NodeStarted(peer_id, address, epoch):
            return "started", {"peer_id": str(peer_id), "address": str(address), "epoch": epoch}
        case MessageReceived(message):
            return "message", message.to_dict()
        case MessageSent(message, peers):
            return "message", message.to_dict() | {"peers": peers}
        case MessageUndelivered(message_id, to, undelivered_reason, detail):
            ids = {"id": str(message_id), "to": str(to)}
            return "undelivered", ids | {"reason": undelivered_reason.value, "detail": detail}
        case MessagesUnsupported(origin, epoch, first, last, attribute):
            fields = _range_fields(Stream(origin, epoch), first, last)
            return "unsupported", fields | {"attribute": attribute}
        case MessagesSkipped(stream, first, last):
            return "skipped", _range_fields(stream, first, last)
        case PeerStateChanged(peer, previous, reason):
            all_fields = peer.to_dict()
            names = ("peer_id", "address", "zone", "name", "state")
            fields = {name: all_fields[name] for name in names}
            return "peer", fields | {"previous": previous and previous.value, "reason": reason}
        case MemberChanged(member):
            return "member", member.to_dict()
        case RateLimited(peer_id, dropped, tokens):
            fields = {"peer_id": str(peer_id), "dropped": dropped}
            return "rate_limited", fields | {"tokens": json_number(tokens)}
        case StandingChanged(peer_id, standing, score, reason):
            fields = {"peer_id": str(peer_id), "standing": standing.value}
            return "standing", fields | {"score": json_number(score), "reason": reason}
        case AntiEntropyRound(done):
            return "round", done.to_dict()
        case CaughtUp(peers):
            return "caught_up", {"peers": peers}
        case TraceUpdated(trace):
            return "trace", trace.to_dict()
        case DatagramDropped(drop_reason, count, address):
            fields = {"reason": drop_reason.value, "count": count}
            return "dropped", fields | {"address": address and str(address)}
        case EventsLost(count):
            return "dropped", {"reason": "events_lost", "count": count, "address": None}
        case DialFailed(address, reason):
            return "dial_failed", {"address": str(address), "reason": reason}
        case PeerDiscovered(address, source):
            return "discovered", {"address": str(address), "source": source}
        case PortMappingChanged(outcome, mapped, protocol, reason):
            fields = {"outcome": outcome.value, "address": mapped and str(mapped)}
            return "port_mapping", fields | {"protocol": protocol, "reason": reason}
        case StateSaveFailed(problem):
            return "state_save_failed", {"problem": problem}
        case IdentityInUse(address, problem):
            return "identity_in_use", {"address": address and str(address), "problem": problem}
        case InternalErrorContained(peer_id, problem):
            return "internal_error", {"peer_id": peer_id and str(peer_id), "problem": problem}
        case NodeStopped(reason):
            return "stopped", {"reason": reason}
        case QueryReceived(question):
            return "query", question.to_dict()
        case QueryAnswered(query_id, answer):
            return "answer", {"id": str(query_id)} | answer.to_dict()
        case QueryEnded(report):
            return "query_done", report.to_dict()
        case EntryChanged():
            return "entry", event.to_dict()
        case _:
            assert_never(event)


def _range_fields(stream: Stream, first: int, last: int) -> JsonObject:
    return {"origin": str(stream.origin), "epoch": stream.epoch, "first": first, "last": last}
