"""State of the node for the screen: events folded into plain values.

Invariants:

- `apply` costs a few dictionary lookups per event, independent of table sizes, so that 10,000
  messages a second leave time to draw. Nothing is formatted here.
- Everything kept is bounded, and evictions are counted.
- Nothing here depends on Textual, a terminal or a socket. Texts are kept as received and escaped
  where they are shown; notices, which are only for people, are escaped when created.

Driven by the host: `apply` for each event, `refresh` periodically with the node's tables.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from itertools import islice
from typing import Any, Final, NamedTuple

from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    DatagramDropped,
    DialFailed,
    EntryChanged,
    Event,
    EventsLost,
    IdentityInUse,
    InternalErrorContained,
    MemberChanged,
    MemberInfo,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessagesUnsupported,
    MessageUndelivered,
    NodeStarted,
    NodeStopped,
    PeerDiscovered,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    PortMappingChanged,
    PortMappingOutcome,
    QueryAnswered,
    QueryEnded,
    QueryReceived,
    RateLimited,
    Round,
    Standing,
    StandingChanged,
    StateSaveFailed,
    Stats,
    Trace,
    TraceUpdated,
)
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_tui.filter_syntax import OWN_NAME
from grapevine_tui.history.describe import format_port_mapping, format_undelivered
from grapevine_tui.host.alerts import AlertChange, AlertStatus
from grapevine_tui.host.link_quality import LinkQuality
from grapevine_tui.host.message_buffer import (
    MAX_BUFFERED_BYTES,
    MAX_BUFFERED_MESSAGES,
    MessageBuffer,
)
from grapevine_tui.host.timeseries import AuthorTable, PeerRates, Sampler, TrafficSeries
from grapevine_tui.text import printable

logger = logging.getLogger("grapevine.commands")

MAX_TRACES: Final = 16  # as many as the node keeps
TRACE_SEARCH_MESSAGES: Final = 256  # latest messages, searched for the payload of a new trace
MAX_QUERIES: Final = 16
MAX_TOPICS: Final = 256  # the latest, for completion
MAX_KEYS: Final = 256  # the same
MAX_ROUNDS: Final = 1_000  # three peers every 30 s for three hours
MAX_NOTICES: Final = 200
MAX_COMMANDS: Final = 200  # lines of the command log
THROTTLE_NOTICE_INTERVAL_S: Final = (
    30.0  # a peer throttled again within this time gets no new notice
)
DIAL_NOTICE_INTERVAL_S: Final = (
    600.0  # bootstrap peers are dialed every 30 s; one notice is enough for many failures
)
NO_ANSWER_PREFIX: Final = "no answer"  # prefix of the node's reason for a dial without a reply
GRACEFUL_STOP_REASONS: Final = frozenset({"stopped", "left", "leaving"})
SILENT_TEXT: Final = "the node does not answer"
MAX_UNDELIVERED: Final = 256  # direct messages remembered as undelivered for the log
UNSUPPORTED_NOTICE_INTERVAL_S: Final = 60.0
MAX_DISCOVERED: Final = 256
SHOWN_DISCOVERED: Final = 3  # in one line
MAX_DIAL_NOTICES: Final = 256  # addresses with a recent dial notice


class Changes(Flag):
    """Parts of the model that an event changed, so that only they are redrawn."""

    NONE = 0
    PEERS = auto()
    MEMBERS = auto()
    MESSAGES = auto()
    RATES = auto()
    ROUNDS = auto()
    NOTICES = auto()
    STATUS = auto()
    TRACES = auto()
    STATE = auto()


ALL_CHANGES: Final = (
    Changes.PEERS
    | Changes.MEMBERS
    | Changes.MESSAGES
    | Changes.RATES
    | Changes.ROUNDS
    | Changes.NOTICES
    | Changes.STATUS
    | Changes.TRACES
    | Changes.STATE
)


class NoticeLevel(StrEnum):
    """Severity of a notice, in Textual's terms."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"


class Notice(NamedTuple):
    """Something an operator should know; `text` is printable."""

    at_unix: float
    level: NoticeLevel
    text: str


class RoundEntry(NamedTuple):
    """An anti-entropy round and the wall-clock time at which it was reported."""

    at_unix: float
    round: Round


@dataclass(slots=True)
class QueryEntry:
    """A query asked in this app. `reply` is the JSON reply at its end, `error` why there is none."""

    line: str
    """The slash command."""
    at_unix: float
    reply: Mapping[str, Any] | None = None
    error: str = ""

    @property
    def is_running(self) -> bool:
        return self.reply is None and not self.error


class RecentNames:
    """The latest `limit` different names, for completion. `evicted` counts those that made room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: OrderedDict[str, None] = OrderedDict()
        self.evicted = 0

    def add(self, name: str) -> None:
        self._names[name] = None
        self._names.move_to_end(name)
        if len(self._names) > self._limit:
            self._names.popitem(last=False)
            self.evicted += 1

    def sorted(self) -> tuple[str, ...]:
        return tuple(sorted(self._names))


class StateView(NamedTuple):
    """Keys of the keyed state as JSON fields, as the node returned them."""

    keys: Sequence[Mapping[str, Any]] = ()
    has_more: bool = False
    fetched_at_unix: float = 0.0


class TraceEntry(NamedTuple):
    """One of our traced messages: when it was sent, and its latest report."""

    at_unix: float
    payload: bytes
    trace: Trace


@dataclass(slots=True)
class LocalNode:
    """This node, once it has started."""

    peer_id: PeerId
    address: Address
    epoch: int
    started_at: float  # wall clock, Unix seconds


class Model:
    """Everything there is to show, as plain values. `wall_clock` returns Unix seconds."""

    def __init__(
        self,
        *,
        max_messages: int = MAX_BUFFERED_MESSAGES,
        max_message_bytes: int = MAX_BUFFERED_BYTES,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._wall_clock = wall_clock
        self.local_node: LocalNode | None = None
        self.peers: dict[PeerId, PeerInfo] = {}
        self.members: dict[PeerId, MemberInfo] = {}
        self.messages = MessageBuffer(max_messages, max_message_bytes)
        self.rounds: deque[RoundEntry] = deque(maxlen=MAX_ROUNDS)
        self.traces: dict[MessageId, TraceEntry] = {}  # oldest first
        self.queries: deque[QueryEntry] = deque(maxlen=MAX_QUERIES)  # of this app, oldest first
        self.state = StateView()  # fetched while it is shown
        self.tags: Mapping[str, str] = {}  # of this node
        self.own_name = ""  # its name, unescaped: screens call it `OWN_NAME`
        self.observed: Address | None = None  # where peers see it, if that is none of its addresses
        self.mapped: Address | None = None  # which a router maps to it
        self.topics = RecentNames(MAX_TOPICS)  # of messages
        self.keys = RecentNames(MAX_KEYS)  # of the keyed state
        self.notices: deque[Notice] = deque(maxlen=MAX_NOTICES)
        self.notice_count = 0
        self.commands: deque[Notice] = deque(maxlen=MAX_COMMANDS)
        self.stats = Stats()
        self.now = 0.0
        self.sampler = Sampler()
        self.throttled_at: dict[PeerId, float] = {}  # Unix seconds of the last dropped message
        self.dial_noticed_at: dict[
            Address | str, float
        ] = {}  # when the last notice about the address was added
        self.alerts: Sequence[AlertStatus] = ()  # firing ones first
        self.discovered: dict[Address, str] = {}  # the source of each address, oldest first
        self.events_lost = 0
        self.save_error = ""  # why the state directory cannot be written; empty if it can
        self.history_error = ""  # why the history cannot be written; empty if it can
        self.stop_reason = ""  # why the node stopped; empty while it runs
        self.is_remote = False  # the node runs in another process
        self.replay = ""  # of a recording: the time shown and the speed; empty if this is now
        self.disconnect_reason = ""  # why that process cannot be reached; empty if it can
        self.outdated_since = (
            0.0  # Unix seconds since when the values shown are outdated; 0 if they are current
        )
        self.denied: frozenset[PeerId] = frozenset()
        # direct messages of ours that are not known to have arrived, and why
        self.undelivered: OrderedDict[MessageId, str] = OrderedDict()
        self._unsupported_notice_at = 0.0  # not before, in the seconds of the wall clock
        self._names: dict[PeerId, str] = {}
        self._ids_by_name: dict[str, set[PeerId]] = {}
        self._handlers: dict[type[Event], Callable[..., Changes]] = {
            MessageReceived: self._on_message,
            MessageSent: self._on_message,
            MessageUndelivered: self._on_undelivered,
            MessagesUnsupported: self._on_unsupported,
            PeerStateChanged: self._on_peer_state_changed,
            MemberChanged: self._on_member_changed,
            RateLimited: self._on_rate_limited,
            StandingChanged: self._on_standing_changed,
            AntiEntropyRound: self._on_round,
            TraceUpdated: self._on_trace_updated,
            DatagramDropped: lambda _: Changes.RATES,
            DialFailed: self._on_dial_failed,
            PeerDiscovered: self._on_discovered,
            PortMappingChanged: self._on_port_mapping_changed,
            EventsLost: self._on_events_lost,
            StateSaveFailed: self._on_state_save_failed,
            InternalErrorContained: self._on_internal_error,
            IdentityInUse: self._on_identity_in_use,
            NodeStarted: self._on_node_started,
            NodeStopped: self._on_node_stopped,
            # for programs that read messages in order or ask queries: nothing is shown of them
            **dict.fromkeys(
                (MessagesSkipped, CaughtUp, QueryReceived, QueryAnswered, QueryEnded),
                lambda _: Changes.NONE,
            ),
            EntryChanged: self._on_entry_changed,
        }

    def wall_now(self) -> float:
        """The time of what is shown, in Unix seconds: now, or a time of a recording."""
        return self._wall_clock()

    def clear(self) -> None:
        """Forget everything but this node, what the operator did and the numbers of messages."""
        self.peers, self.members, self.tags, self.denied = {}, {}, {}, frozenset()
        self.messages.clear()
        for table in (self.rounds, self.traces, self.notices, self.throttled_at):
            table.clear()
        self.dial_noticed_at.clear()
        self.undelivered.clear()
        self.stats, self.now, self.sampler = Stats(), 0.0, Sampler()
        self.alerts = ()
        self.save_error = self.history_error = self.stop_reason = self.disconnect_reason = ""
        self.outdated_since = 0.0

    def apply(self, event: Event) -> Changes:
        """Apply one event; return the parts of the model it changed."""
        return self._handlers[type(event)](event)

    def refresh(
        self, peers: Iterable[PeerInfo], members: Iterable[MemberInfo], stats: Stats, now: float
    ) -> Changes:
        """Replace the node's tables by those of `now` (its monotonic seconds); return what changed."""
        changes = Changes.NONE
        self.now = now
        new_peers = {peer.peer_id: peer for peer in peers}
        if new_peers != self.peers:
            changes |= Changes.PEERS | Changes.RATES
            self.peers = new_peers
            for departed in self.throttled_at.keys() - new_peers.keys():
                del self.throttled_at[departed]
            for peer in new_peers.values():
                self._set_name(peer.peer_id, peer.name)
        new_members = {member.peer_id: member for member in members}
        if new_members != self.members:
            changes |= Changes.MEMBERS
            for departed in self._names.keys() - new_members.keys() - new_peers.keys():
                self._set_name(departed, "")
            for member in new_members.values():
                self._set_name(member.peer_id, member.name)
        self.members = new_members  # also if only round-trip times changed, which are no change
        if stats != self.stats:
            changes |= Changes.STATUS
            self.stats = stats
        if self.sampler.sample(self.peers, stats, now):
            changes |= Changes.RATES | Changes.PEERS
        return changes

    @property
    def traffic(self) -> TrafficSeries:
        return self.sampler.traffic

    @property
    def authors(self) -> AuthorTable:
        return self.sampler.authors

    @property
    def peer_rates(self) -> Mapping[PeerId, PeerRates]:
        return self.sampler.peer_rates

    @property
    def rtts(self) -> Mapping[PeerId, Sequence[float]]:
        return self.sampler.rtts

    @property
    def link_quality(self) -> LinkQuality:
        return self.sampler.link_quality

    def tags_of(self, peer_id: PeerId) -> Mapping[str, str]:
        """Tags of a node, unescaped."""
        if self.local_node is not None and peer_id == self.local_node.peer_id:
            return self.tags
        member = self.members.get(peer_id)
        return {} if member is None else member.tags

    # Names

    def name_of(self, peer_id: PeerId) -> str:
        """Name of a node, unescaped; with an ID prefix if two nodes have the name or it has none."""
        if self.local_node is not None and peer_id == self.local_node.peer_id:
            return OWN_NAME
        name = self._names.get(peer_id, "")
        if not name:
            return peer_id.short
        return name if len(self._ids_by_name[name]) == 1 else f"{name}·{peer_id.short[:4]}"

    def searched_name_of(self, peer_id: PeerId) -> str:
        """What a filter looks for in the name of a node: the name shown, and that of this node."""
        name = self.name_of(peer_id)
        return f"{name} {self.own_name}" if name == OWN_NAME else name

    def ids_named(self, name: str) -> frozenset[PeerId]:
        """All known nodes named `name`."""
        return frozenset(self._ids_by_name.get(name, ()))

    def _set_name(self, peer_id: PeerId, name: str) -> None:
        previous = self._names.get(peer_id, "")
        if previous == name:
            return
        if previous:
            ids = self._ids_by_name[previous]
            ids.discard(peer_id)
            if not ids:
                del self._ids_by_name[previous]
        if name:
            self._names[peer_id] = name
            self._ids_by_name.setdefault(name, set()).add(peer_id)
        else:
            self._names.pop(peer_id, None)

    # Events

    def _on_message(self, event: MessageReceived | MessageSent) -> Changes:
        now = self._wall_clock()
        message = event.message
        self.messages.append(message, now)
        self.note_topic(message.topic)
        self.sampler.authors.add(message)
        return Changes.MESSAGES

    def _on_undelivered(self, event: MessageUndelivered) -> Changes:
        reason = format_undelivered(event)
        self.undelivered[event.id] = reason
        while len(self.undelivered) > MAX_UNDELIVERED:
            self.undelivered.popitem(last=False)
        text = f"not delivered to {self.name_of(event.to)}: {reason}"
        self._add_notice(NoticeLevel.WARNING, text)
        return Changes.MESSAGES | Changes.NOTICES

    def note_topic(self, topic: str) -> None:
        """A message with `topic` was seen; empty: without one."""
        if topic:
            self.topics.add(topic)

    def _on_entry_changed(self, event: EntryChanged) -> Changes:
        if event.is_deleted:
            return Changes.STATE
        self.keys.add(event.key)
        return Changes.STATE

    def _on_peer_state_changed(self, event: PeerStateChanged) -> Changes:
        peer = event.peer
        self.peers[peer.peer_id] = peer
        self._set_name(peer.peer_id, peer.name)
        if peer.state is PeerState.CONNECTED:
            self.dial_noticed_at.pop(peer.address, None)
        # DialFailed reports a peer that was never connected; a member that left is not lost.
        was_connected = event.previous is not None and event.previous.is_connected
        if peer.state is PeerState.DISCONNECTED and was_connected:
            if event.reason in ("left", "denied"):
                self._add_notice(
                    NoticeLevel.INFORMATION, f"{self.name_of(peer.peer_id)} {event.reason}"
                )
            else:
                reason = f": {event.reason}" if event.reason else ""
                self._add_notice(
                    NoticeLevel.WARNING, f"{self.name_of(peer.peer_id)} disconnected{reason}"
                )
            return Changes.PEERS | Changes.RATES | Changes.NOTICES
        return Changes.PEERS | Changes.RATES

    def _on_member_changed(self, event: MemberChanged) -> Changes:
        self.members[event.member.peer_id] = event.member
        self._set_name(event.member.peer_id, event.member.name)
        return Changes.MEMBERS

    def _on_rate_limited(self, event: RateLimited) -> Changes:
        now = self._wall_clock()
        noticed_at = self.throttled_at.get(event.peer)
        self.throttled_at[event.peer] = now
        if noticed_at is not None and now - noticed_at < THROTTLE_NOTICE_INTERVAL_S:
            return Changes.RATES
        name = self.name_of(event.peer)
        self._add_notice(
            NoticeLevel.WARNING,
            f"throttling {name}: {event.dropped:,} messages over its rate limit",
        )
        return Changes.RATES | Changes.NOTICES

    def _on_standing_changed(self, event: StandingChanged) -> Changes:
        name = self.name_of(event.peer)
        if event.standing is Standing.NORMAL:
            self._add_notice(NoticeLevel.INFORMATION, f"{name} is no longer limited for misconduct")
        else:
            self._add_notice(
                NoticeLevel.WARNING, f"{name} is {event.standing.value} for {event.reason}"
            )
        return Changes.PEERS | Changes.NOTICES

    def _on_round(self, event: AntiEntropyRound) -> Changes:
        entry = RoundEntry(self._wall_clock(), event.round)
        # A round is reported when it starts and when it ends; the later report replaces the earlier
        # one.
        for index in range(len(self.rounds) - 1, max(-1, len(self.rounds) - 16), -1):
            existing = self.rounds[index].round
            if (existing.number, existing.peer) == (event.round.number, event.round.peer):
                self.rounds[index] = entry
                return Changes.ROUNDS
        self.rounds.append(entry)
        return Changes.ROUNDS

    def _on_trace_updated(self, event: TraceUpdated) -> Changes:
        trace = event.trace
        existing = self.traces.get(trace.id)
        if existing is not None:
            self.traces[trace.id] = existing._replace(trace=trace)
            return Changes.TRACES
        latest = (
            entry.message for entry in islice(self.messages.newest_first(), TRACE_SEARCH_MESSAGES)
        )
        payload = next((each.payload for each in latest if each.id == trace.id), b"")
        self.traces[trace.id] = TraceEntry(self._wall_clock(), payload, trace)
        while len(self.traces) > MAX_TRACES:
            del self.traces[next(iter(self.traces))]
        return Changes.TRACES

    def _on_dial_failed(self, event: DialFailed) -> Changes:
        now = self._wall_clock()
        noticed_at = self.dial_noticed_at.get(event.address)
        if noticed_at is not None and now - noticed_at < DIAL_NOTICE_INTERVAL_S:
            return Changes.NONE
        if len(self.dial_noticed_at) >= MAX_DIAL_NOTICES:
            del self.dial_noticed_at[next(iter(self.dial_noticed_at))]
        self.dial_noticed_at[event.address] = now
        self._add_notice(NoticeLevel.WARNING, format_dial_failure(event))
        return Changes.NOTICES

    def _on_discovered(self, event: PeerDiscovered) -> Changes:
        self.discovered.pop(event.address, None)
        self.discovered[event.address] = event.source
        if len(self.discovered) > MAX_DISCOVERED:
            del self.discovered[next(iter(self.discovered))]
        return Changes.PEERS

    def _on_port_mapping_changed(self, event: PortMappingChanged) -> Changes:
        self.mapped = event.address if event.outcome is PortMappingOutcome.GRANTED else None
        is_granted = event.outcome is PortMappingOutcome.GRANTED
        level = NoticeLevel.INFORMATION if is_granted else NoticeLevel.WARNING
        self._add_notice(level, format_port_mapping(event))
        return Changes.NOTICES

    def _on_unsupported(self, event: MessagesUnsupported) -> Changes:
        now = self._wall_clock()
        if now < self._unsupported_notice_at:
            return Changes.NONE
        self._unsupported_notice_at = now + UNSUPPORTED_NOTICE_INTERVAL_S
        self._add_notice(
            NoticeLevel.WARNING,
            f"messages from {self.name_of(event.origin)} are not shown: they need a newer version "
            f"(attribute {event.attribute})",
        )
        return Changes.NOTICES

    @property
    def audible_alerts(self) -> list[AlertStatus]:
        """The alerts that fire and are not muted."""
        return [each for each in self.alerts if each.is_firing and not each.is_muted]

    def on_alert(self, change: AlertChange) -> Changes:
        """Note that an alert began to fire, or is over. One that is muted gives no notice."""
        if not change.is_muted:
            level = NoticeLevel.WARNING if change.is_firing else NoticeLevel.INFORMATION
            self._add_notice(level, change.text)
        return Changes.NOTICES | Changes.STATUS

    def _on_events_lost(self, event: EventsLost) -> Changes:
        self.events_lost += event.count
        return Changes.STATUS

    def _on_state_save_failed(self, event: StateSaveFailed) -> Changes:
        if event.problem:
            self._add_notice(NoticeLevel.ERROR, f"state not saved: {event.problem}")
        elif self.save_error:
            self._add_notice(NoticeLevel.INFORMATION, "state saved again")
        self.save_error = event.problem
        return Changes.NOTICES | Changes.STATUS

    def on_history_problem(self, problem: str) -> None:
        """Note that the history cannot be written, or with an empty text that it can again."""
        if problem:
            self._add_notice(NoticeLevel.WARNING, f"history not saved: {problem}")
        elif self.history_error:
            self._add_notice(NoticeLevel.INFORMATION, "history saved again")
        self.history_error = problem

    def _on_identity_in_use(self, event: IdentityInUse) -> Changes:
        self._add_notice(
            NoticeLevel.ERROR, f"{event.problem}: a copy of this node's state; it is superseded"
        )
        return Changes.NOTICES

    def _on_internal_error(self, event: InternalErrorContained) -> Changes:
        consequence = (
            "" if event.peer is None else f"; the link to {self.name_of(event.peer)} was closed"
        )
        self._add_notice(
            NoticeLevel.ERROR, f"internal error, contained{consequence}: {event.problem}"
        )
        return Changes.NOTICES

    def _on_node_started(self, event: NodeStarted) -> Changes:
        self.local_node = LocalNode(event.peer_id, event.address, event.epoch, self._wall_clock())
        self.stop_reason = ""
        self.outdated_since = 0.0
        return Changes.STATUS

    def _on_node_stopped(self, event: NodeStopped) -> Changes:
        self.stop_reason = event.reason or "stopped"
        self.outdated_since = self.outdated_since or self._wall_clock()
        if self.stop_reason not in GRACEFUL_STOP_REASONS:
            self._add_notice(NoticeLevel.ERROR, f"the node stopped: {event.reason}")
        return Changes.STATUS | Changes.NOTICES

    def on_disconnected(self, reason: str) -> Changes:
        """Note that the process of the node cannot be reached, so the values shown are outdated."""
        if not self.disconnect_reason:
            self._add_notice(NoticeLevel.ERROR, f"connection to the node closed: {reason}")
            self.outdated_since = self._wall_clock()
        self.disconnect_reason = reason
        return Changes.NOTICES | Changes.STATUS

    def on_silent(self, since_unix: float) -> Changes:
        """Note that the node is connected and does not answer: what is shown is as of `since_unix`."""
        if self.disconnect_reason:
            return Changes.NONE
        self._add_notice(NoticeLevel.ERROR, SILENT_TEXT)
        self.disconnect_reason, self.outdated_since = SILENT_TEXT, since_unix
        return Changes.NOTICES | Changes.STATUS

    def on_reconnected(self) -> Changes:
        """Note that the process of the node can be reached again, or answers again."""
        if self.outdated_since:
            text = (
                "the node answers again"
                if self.disconnect_reason == SILENT_TEXT
                else "reconnected to the node"
            )
            self._add_notice(NoticeLevel.WARNING, text)
            self.outdated_since = 0.0
        self.disconnect_reason = ""
        return Changes.NOTICES | Changes.STATUS

    def add_query(self, line: str) -> QueryEntry:
        """Add a query that begins now; the caller sets its outcome."""
        entry = QueryEntry(line, self._wall_clock())
        self.queries.append(entry)
        return entry

    def log_command(self, text: str) -> None:
        """Add a line to the command log."""
        line = printable(text)
        self.commands.append(Notice(self._wall_clock(), NoticeLevel.INFORMATION, line))
        logger.info("%s", line)

    def _add_notice(self, level: NoticeLevel, text: str) -> None:
        self.notices.append(Notice(self._wall_clock(), level, printable(text)))
        self.notice_count += 1


def format_discovered(discovered: Mapping[Address, str]) -> str:
    """The addresses that were found last, for one line; what to do if there are none."""
    if not discovered:
        return "nothing found; sources are --discover mdns, --discover local and --peer @FILE"
    latest = list(discovered.items())[-SHOWN_DISCOVERED:]
    shown = ", ".join(printable(f"{address} ({source})") for address, source in latest)
    rest = len(discovered) - len(latest)
    return f"found {shown}" + (f" and {rest:,} more" if rest else "")


def format_dial_failure(event: DialFailed) -> str:
    """Describe a failed dial."""
    if event.reason.startswith(NO_ANSWER_PREFIX):
        return (
            f"{NO_ANSWER_PREFIX} from {event.address}{event.reason.removeprefix(NO_ANSWER_PREFIX)}"
        )
    return f"cannot reach {event.address}: {event.reason}"
