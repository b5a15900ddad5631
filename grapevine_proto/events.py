"""What a node tells its application.

What must stay true: events are plain values that say what *happened*, in the past tense; nothing
in them can be used to change the node. Times are seconds of the node's own monotonic clock.
Strings and payloads come from the network as they are: whoever shows them makes them printable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.ids import Address, MessageId, PeerId, Zone

# A receipt waits up to 100 ms at its member and 20 ms at each hop; the rest is for one that was lost
# and sent again, and for hops whose way no copy knows.
RECEIPT_MS: Final = 500
RECEIPT_HOP_MS: Final = 100


class PeerState(StrEnum):
    """Where a peer stands with us. The legal transitions are `overlay.peers.TRANSITIONS`."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    STALE = "stale"
    DISCONNECTED = "disconnected"


class MemberStatus(StrEnum):
    """What is thought of a member of the cluster, linked to us or not."""

    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    LEFT = "left"


class Standing(StrEnum):
    """What a peer's offenses have come to. They decay, and so does what follows from them."""

    NORMAL = "normal"
    SLOWED = "slowed"  # its tokens come back more slowly
    REFUSED = "refused"  # disconnected, and not let in for a while


class Via(StrEnum):
    """How a message came."""

    EAGER = "eager"  # pushed
    LAZY = "lazy"  # told of by its id, then asked for
    REPAIR = "repair"  # anti-entropy
    LOCAL = "local"  # our own


class RoundOutcome(StrEnum):
    """How an anti-entropy round ended."""

    RUNNING = "running"
    IN_SYNC = "in_sync"
    REPAIRED = "repaired"
    PARTIAL = "partial"  # the peer fell silent after some of it
    NO_ANSWER = "no_answer"


class Message(NamedTuple):
    """One payload, delivered once. `received_at` is in the node's monotonic seconds; `to` is the
    recipient of a direct message of ours, None for any other message."""

    id: MessageId
    payload: bytes
    hops: int
    via: Via
    received_at: float
    private: bool = False
    to: PeerId | None = None

    @property
    def origin(self) -> PeerId:
        return self.id.origin


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What there is to show of one peer, as of now.

    `rtt_s` is None until measured; `health` runs from 0 (hopeless) to 1, and
    `health_reason` says in a few words what it suffers from (empty: nothing); `tokens` are what is left
    of this peer's allowance here, `tokens_capacity` at most; `sent`, `received` count datagrams;
    `allowed`, `throttled` count what the rate limit let through and refused. `subscribed`: what we hear
    first is always pushed to it, as its strategy asked for. `send_rate`: bytes a second that the path
    to it is thought to bear; `lost`: datagrams to it that did not arrive, as far as it told;
    `datagram_bytes`: how large one may be. `score`: what counts against it, decaying; `standing`:
    what that has come to.
    """

    peer_id: PeerId
    address: Address
    zone: Zone
    name: str
    state: PeerState
    health: float
    rtt: float | None
    sent: int
    received: int
    allowed: int
    throttled: int
    tokens: float
    tokens_capacity: float
    last_seen: float
    epoch: int
    connected_at: float | None
    queued: int
    health_reason: str = ""
    subscribed: bool = False
    send_rate: float = 0.0
    lost: int = 0
    datagram_bytes: int = 0
    score: float = 0.0
    standing: Standing = Standing.NORMAL


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """What is known of one member of the cluster."""

    peer_id: PeerId
    address: Address | None
    zone: Zone
    name: str
    status: MemberStatus
    epoch: int


@dataclass(frozen=True, slots=True)
class Round:
    """One anti-entropy round that this node began. `started_at`, `duration` in seconds;
    `sent`, `received` count payloads, `bytes` theirs in both directions."""

    number: int
    peer: PeerId
    started_at: float
    duration: float
    in_sync: bool
    sent: int
    received: int
    bytes: int
    outcome: RoundOutcome


class TraceAnswer(NamedTuple):
    """One member has a traced message: over so many hops, so long after it was sent.

    `delay_ms` is the age that its copy carried: a lower bound, since a copy does not age while the
    network, or a frozen member, holds it up. `confirmed_ms` is when its receipt came: an upper bound.
    """

    peer_id: PeerId
    hops: int
    delay_ms: int
    confirmed_ms: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the receipt took longer than a receipt takes, so that `delay_ms` may be far too low."""
        usual_ms = RECEIPT_MS + 2 * self.delay_ms + RECEIPT_HOP_MS * self.hops
        return self.confirmed_ms > usual_ms

    @property
    def bound_ms(self) -> int:
        """The delay that may be relied upon: the upper bound of a late answer, else `delay_ms`."""
        return self.confirmed_ms if self.is_late else self.delay_ms


@dataclass(frozen=True, slots=True)
class Trace:
    """How far a traced message of ours got, by the receipts that came.

    `known` members were there when it was sent; `asked` of them were to answer, all or a sample.
    `answers` are theirs, the quickest first; `unanswered` are those whose receipt has not come,
    which may be the receipt's fault and not the message's. `others` answered too and were not known
    here. The figures are None while nobody has answered, and count a late answer with its upper bound, so
    that they are never too low. `sent_at` is in the node's monotonic seconds.
    """

    id: MessageId
    sent_at: float
    known: int
    answers: tuple[TraceAnswer, ...]
    unanswered: tuple[PeerId, ...]
    others: int = 0

    @property
    def asked(self) -> int:
        return len(self.answers) + len(self.unanswered)

    @property
    def reached(self) -> int:
        return len(self.answers)

    @property
    def is_sample(self) -> bool:
        return self.asked < self.known

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
        """The least delay that at least so many of the answers do not exceed."""
        answer = self.answer_at(percent)
        return None if answer is None else answer.bound_ms

    def answer_at(self, percent: int) -> TraceAnswer | None:
        """The answer whose delay so many of all do not exceed; None while nobody has answered."""
        if not self.answers:
            return None
        ordered = sorted(self.answers, key=lambda each: each.bound_ms)
        return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]

    @property
    def hops(self) -> int | None:
        """The most that an answer tells of."""
        return max((answer.hops for answer in self.answers), default=None)


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, and gauges as of now. All counts only grow."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    delivered: int = 0
    broadcast: int = 0
    duplicates: int = 0
    relayed: int = 0
    repaired: int = 0
    asked: int = 0
    unheeded: int = 0
    lost: int = 0
    evicted: int = 0
    unsent: int = 0
    unfollowed: int = 0
    traces_forgotten: int = 0
    receipts_relayed: int = 0
    receipts_refused: int = 0
    receipts_lost: int = 0
    events_lost: int = 0
    callback_errors: int = 0
    dropped: tuple[tuple[DropReason, int], ...] = ()
    offenses: tuple[tuple[Offense, int], ...] = ()
    slowed: int = 0
    expelled: int = 0
    held: int = 0
    held_bytes: int = 0
    streams: int = 0
    sessions: int = 0
    short_sessions: int = 0
    short_refused: int = 0
    unfinished: int = 0
    crowded_out: int = 0
    members: int = 0
    nearer: int = 0
    next_round_at: float = 0.0
    subscribers: int = 0
    subscriptions: int = 0


@dataclass(frozen=True, slots=True)
class NodeStarted:
    peer_id: PeerId
    address: Address
    epoch: int


@dataclass(frozen=True, slots=True)
class MessageReceived:
    message: Message


@dataclass(frozen=True, slots=True)
class MessageSent:
    """Our own message was accepted; `peers` is how many it is on its way to at once."""

    message: Message
    peers: int


@dataclass(frozen=True, slots=True)
class PeerStateChanged:
    """`reason` is a few plain words ("no answer", "left", "refused: full")."""

    peer: PeerInfo
    previous: PeerState | None
    reason: str


@dataclass(frozen=True, slots=True)
class MemberChanged:
    member: MemberInfo


@dataclass(frozen=True, slots=True)
class RateLimited:
    """A peer spoke beyond its allowance: `dropped` messages since the last such event."""

    peer: PeerId
    dropped: int
    tokens: float


@dataclass(frozen=True, slots=True)
class StandingChanged:
    """What counts against a peer passed a bound, or decayed below one. `reason` names in a few plain
    words what counts most."""

    peer: PeerId
    standing: Standing
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class AntiEntropyRound:
    round: Round


@dataclass(frozen=True, slots=True)
class TraceUpdated:
    """More receipts of a traced message came, or it has just been sent; at most ten times a second."""

    trace: Trace


@dataclass(frozen=True, slots=True)
class DatagramDropped:
    """`count` refusals under `reason` since the last such event (at most one a second each). `address` is
    where the latest of them came from, as far as its UDP header says: nothing has proved it."""

    reason: DropReason
    count: int
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class EventsLost:
    """A slow reader of events lost `count` of the oldest since the last such event."""

    count: int


@dataclass(frozen=True, slots=True)
class DialFailed:
    """Nobody answered at `address`, or it is a name (``host:port``) that does not resolve; told again
    once it has worked and fails anew. Silence is all that an unauthenticated peer gets, so this cannot
    tell a node that is down from one with another cluster key."""

    address: Address | str
    reason: str


@dataclass(frozen=True, slots=True)
class StateUnsaved:
    """The state directory cannot be written; the node goes on and tries again. Empty: saved again."""

    problem: str


@dataclass(frozen=True, slots=True)
class IdentityInUse:
    """Another node runs on this node's identity, as one does that was started on a copy of its state
    directory. This one was here first: it goes on in a higher epoch, and the other is to stop. `address`
    is where the other one's record claims to be."""

    address: Address | None
    problem: str


@dataclass(frozen=True, slots=True)
class FaultContained:
    """An error of this program while it served `peer` (None: no peer in particular); the link with the
    peer ended, and everything else went on. `problem` names the error and where it happened. At most
    one a second without a peer."""

    peer: PeerId | None
    problem: str


@dataclass(frozen=True, slots=True)
class NodeStopped:
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
    | StateUnsaved
    | FaultContained
    | IdentityInUse
    | NodeStopped
)
