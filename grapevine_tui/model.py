"""What the screen knows of the node: events folded into plain values.

What must stay true:

- `apply` is a few dictionary look-ups for any event, whatever there is already: ten thousand
  messages a second must leave the screen time to be drawn. Nothing is formatted here.
- Everything kept is bounded, and what was let go is counted.
- Nothing here knows of Textual, of a terminal or of a socket; texts are kept as they came and made
  printable where they are shown (notices, which are for people alone, are printable from birth).

Driven by `grapevine_tui.host`: `apply` for each event as it happens, `refresh` now and then with
the node's tables.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from itertools import islice
from typing import Final, NamedTuple

from grapevine_proto.events import (
    AntiEntropyRound,
    DatagramDropped,
    DialFailed,
    Event,
    EventsLost,
    FaultContained,
    IdentityInUse,
    MemberChanged,
    MemberInfo,
    MessageReceived,
    MessageSent,
    NodeStarted,
    NodeStopped,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    RateLimited,
    Round,
    Standing,
    StandingChanged,
    StateUnsaved,
    Stats,
    Trace,
    TraceUpdated,
)
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_tui.ring import MESSAGE_BYTES, MESSAGES, Log
from grapevine_tui.samples import Authors, Flow, Samples, Traffic
from grapevine_tui.text import printable

logger = logging.getLogger("grapevine.commands")

TRACES: Final = 16  # as many as the node follows
TRACED_AMONG: Final = 256  # latest messages, among which the text of a new trace is found
ROUNDS: Final = 1_000  # at three peers a round and 30 s: three hours
NOTICES: Final = 200
COMMANDS: Final = 200  # lines of the command log
THROTTLE_QUIET_S: Final = 30.0  # a peer throttled again within this is still the same trouble
DIAL_QUIET_S: Final = (
    600.0  # bootstrap peers are tried every 30 s; once is news, twenty times a nuisance
)
NO_ANSWER: Final = "no answer"  # how the node begins what it says of silence
POLITE_ENDS: Final = frozenset({"stopped", "left", "leaving"})
UNDELIVERED: Final = 256  # direct messages remembered for their mark in the log
UNANSWERED: Final = 256  # addresses remembered for that


class Changes(Flag):
    """Which parts of the model an event touched, so that the screen redraws those alone."""

    NONE = 0
    PEERS = auto()
    MEMBERS = auto()
    MESSAGES = auto()
    RATES = auto()
    ROUNDS = auto()
    NOTICES = auto()
    STATUS = auto()
    TRACES = auto()


ALL_CHANGES: Final = (
    Changes.PEERS
    | Changes.MEMBERS
    | Changes.MESSAGES
    | Changes.RATES
    | Changes.ROUNDS
    | Changes.NOTICES
    | Changes.STATUS
    | Changes.TRACES
)


class Level(StrEnum):
    """How much a notice matters; the words are Textual's severities."""

    INFORMATION = "information"
    WARNING = "warning"
    ERROR = "error"


class Notice(NamedTuple):
    """Something that an operator should know; `text` is printable."""

    at_unix: float
    level: Level
    text: str


class Completed(NamedTuple):
    """An anti-entropy round with the time of day it was heard of."""

    at_unix: float
    round: Round


class Followed(NamedTuple):
    """A traced message of ours, when it was said, and how far it got."""

    at_unix: float
    payload: bytes
    trace: Trace


@dataclass(slots=True)
class Me:
    """This node, once it has started."""

    peer_id: PeerId
    address: Address
    epoch: int
    started_at: float  # by the wall clock, Unix seconds


class Model:
    """All there is to show, as plain values. `wall` gives Unix seconds."""

    def __init__(
        self,
        *,
        messages: int = MESSAGES,
        message_bytes: int = MESSAGE_BYTES,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self.me: Me | None = None
        self.peers: dict[PeerId, PeerInfo] = {}
        self.members: dict[PeerId, MemberInfo] = {}
        self.messages = Log(messages, message_bytes)
        self.rounds: deque[Completed] = deque(maxlen=ROUNDS)
        self.traces: dict[MessageId, Followed] = {}  # the oldest first
        self.notices: deque[Notice] = deque(maxlen=NOTICES)
        self.notice_count = 0
        self.commands: deque[Notice] = deque(maxlen=COMMANDS)
        self.stats = Stats()
        self.now = 0.0
        self.samples = Samples()
        self.throttled_at: dict[PeerId, float] = {}  # Unix seconds of the last refusal
        self.unanswered: dict[
            Address | str, float
        ] = {}  # when we last told that nobody answers there
        self.events_lost = 0
        self.unsaved = ""  # why the state directory cannot be written; empty: it can
        self.stopped = ""  # why the node stopped; empty: it runs
        self.is_remote = False  # the node runs in another process
        self.out_of_touch = ""  # why that process cannot be asked now; empty: it can
        self.lost_at = 0.0  # Unix seconds since when what is shown is no longer so; 0: it is
        self.denied: frozenset[PeerId] = frozenset()
        self.undelivered: OrderedDict[MessageId, None] = OrderedDict()  # direct messages of ours
        self._names: dict[PeerId, str] = {}
        self._bearers: dict[str, set[PeerId]] = {}
        self._fold: dict[type[Event], Callable[..., Changes]] = {
            MessageReceived: self._message,
            MessageSent: self._message,
            PeerStateChanged: self._peer,
            MemberChanged: self._member,
            RateLimited: self._rate_limited,
            StandingChanged: self._standing,
            AntiEntropyRound: self._round,
            TraceUpdated: self._trace,
            DatagramDropped: lambda _: Changes.RATES,
            DialFailed: self._dial_failed,
            EventsLost: self._events_lost,
            StateUnsaved: self._state_unsaved,
            FaultContained: self._fault_contained,
            IdentityInUse: self._identity_in_use,
            NodeStarted: self._started,
            NodeStopped: self._node_stopped,
        }

    def apply(self, event: Event) -> Changes:
        """Take in one event; tells which parts of the model it changed."""
        return self._fold[type(event)](event)

    def refresh(
        self, peers: Iterable[PeerInfo], members: Iterable[MemberInfo], stats: Stats, now: float
    ) -> Changes:
        """Take in the node's tables as of `now` (its monotonic seconds); tells what differs."""
        changes = Changes.NONE
        self.now = now
        new_peers = {peer.peer_id: peer for peer in peers}
        if new_peers != self.peers:
            changes |= Changes.PEERS | Changes.RATES
            self.peers = new_peers
            for gone in self.throttled_at.keys() - new_peers.keys():
                del self.throttled_at[gone]
            for peer in new_peers.values():
                self._name(peer.peer_id, peer.name)
        new_members = {member.peer_id: member for member in members}
        if new_members != self.members:
            changes |= Changes.MEMBERS
            for gone in self._names.keys() - new_members.keys() - new_peers.keys():
                self._name(gone, "")
            self.members = new_members
            for member in new_members.values():
                self._name(member.peer_id, member.name)
        if stats != self.stats:
            changes |= Changes.STATUS
            self.stats = stats
        if self.samples.take(self.peers, stats, now):
            changes |= Changes.RATES | Changes.PEERS
        return changes

    @property
    def traffic(self) -> Traffic:
        return self.samples.traffic

    @property
    def authors(self) -> Authors:
        return self.samples.authors

    @property
    def flows(self) -> Mapping[PeerId, Flow]:
        return self.samples.flows

    @property
    def round_trips(self) -> Mapping[PeerId, Sequence[float]]:
        return self.samples.round_trips

    # Names

    def name_of(self, peer_id: PeerId) -> str:
        """What people call this node, as it came: its name; with an id where two bear it or none."""
        if self.me is not None and peer_id == self.me.peer_id:
            return "you"
        name = self._names.get(peer_id, "")
        if not name:
            return peer_id.short
        return name if len(self._bearers[name]) == 1 else f"{name}·{peer_id.short[:4]}"

    def ids_named(self, name: str) -> frozenset[PeerId]:
        """Every node known to bear `name`."""
        return frozenset(self._bearers.get(name, ()))

    def _name(self, peer_id: PeerId, name: str) -> None:
        known = self._names.get(peer_id, "")
        if known == name:
            return
        if known:
            bearers = self._bearers[known]
            bearers.discard(peer_id)
            if not bearers:
                del self._bearers[known]
        if name:
            self._names[peer_id] = name
            self._bearers.setdefault(name, set()).add(peer_id)
        else:
            self._names.pop(peer_id, None)

    # Events

    def _message(self, event: MessageReceived | MessageSent) -> Changes:
        now = self._wall()
        message = event.message
        self.messages.append(message, now)
        self.samples.authors.count(message)
        if isinstance(event, MessageSent) and message.to is not None and not event.peers:
            self.undelivered[message.id] = None
            while len(self.undelivered) > UNDELIVERED:
                self.undelivered.popitem(last=False)
            self._note(Level.WARNING, f"not delivered: {self.name_of(message.to)} did not answer")
            return Changes.MESSAGES | Changes.NOTICES
        return Changes.MESSAGES

    def _peer(self, event: PeerStateChanged) -> Changes:
        peer = event.peer
        self.peers[peer.peer_id] = peer
        self._name(peer.peer_id, peer.name)
        if peer.state is PeerState.CONNECTED:
            self.unanswered.pop(peer.address, None)
        # One that was never connected is told of by DialFailed; one that left, left.
        was_here = event.previous in (PeerState.CONNECTED, PeerState.STALE)
        if peer.state is PeerState.DISCONNECTED and was_here:
            if event.reason in ("left", "denied"):
                self._note(Level.INFORMATION, f"{self.name_of(peer.peer_id)} {event.reason}")
            else:
                reason = f": {event.reason}" if event.reason else ""
                self._note(Level.WARNING, f"lost {self.name_of(peer.peer_id)}{reason}")
            return Changes.PEERS | Changes.RATES | Changes.NOTICES
        return Changes.PEERS | Changes.RATES

    def _member(self, event: MemberChanged) -> Changes:
        self.members[event.member.peer_id] = event.member
        self._name(event.member.peer_id, event.member.name)
        return Changes.MEMBERS

    def _rate_limited(self, event: RateLimited) -> Changes:
        now = self._wall()
        before = self.throttled_at.get(event.peer)
        self.throttled_at[event.peer] = now
        if before is not None and now - before < THROTTLE_QUIET_S:
            return Changes.RATES
        name = self.name_of(event.peer)
        self._note(Level.WARNING, f"throttling {name}: {event.dropped:,} beyond its allowance")
        return Changes.RATES | Changes.NOTICES

    def _standing(self, event: StandingChanged) -> Changes:
        name = self.name_of(event.peer)
        if event.standing is Standing.NORMAL:
            self._note(Level.INFORMATION, f"{name} is trusted again")
        else:
            self._note(Level.WARNING, f"{name} is {event.standing.value} for {event.reason}")
        return Changes.PEERS | Changes.NOTICES

    def _round(self, event: AntiEntropyRound) -> Changes:
        done = Completed(self._wall(), event.round)
        # A round is told when it begins and when it ends: the later word takes the place.
        for index in range(len(self.rounds) - 1, max(-1, len(self.rounds) - 16), -1):
            known = self.rounds[index].round
            if (known.number, known.peer) == (event.round.number, event.round.peer):
                self.rounds[index] = done
                return Changes.ROUNDS
        self.rounds.append(done)
        return Changes.ROUNDS

    def _trace(self, event: TraceUpdated) -> Changes:
        trace = event.trace
        known = self.traces.get(trace.id)
        if known is not None:
            self.traces[trace.id] = known._replace(trace=trace)
            return Changes.TRACES
        latest = (entry.message for entry in islice(self.messages.latest(), TRACED_AMONG))
        payload = next((each.payload for each in latest if each.id == trace.id), b"")
        self.traces[trace.id] = Followed(self._wall(), payload, trace)
        while len(self.traces) > TRACES:
            del self.traces[next(iter(self.traces))]
        return Changes.TRACES

    def _dial_failed(self, event: DialFailed) -> Changes:
        now = self._wall()
        told_at = self.unanswered.get(event.address)
        if told_at is not None and now - told_at < DIAL_QUIET_S:
            return Changes.NONE
        if len(self.unanswered) >= UNANSWERED:
            del self.unanswered[next(iter(self.unanswered))]
        self.unanswered[event.address] = now
        self._note(Level.WARNING, dial_words(event))
        return Changes.NOTICES

    def _events_lost(self, event: EventsLost) -> Changes:
        self.events_lost += event.count
        return Changes.STATUS

    def _state_unsaved(self, event: StateUnsaved) -> Changes:
        if event.problem:
            self._note(Level.ERROR, f"state not saved: {event.problem}")
        elif self.unsaved:
            self._note(Level.INFORMATION, "state saved again")
        self.unsaved = event.problem
        return Changes.NOTICES | Changes.STATUS

    def _identity_in_use(self, event: IdentityInUse) -> Changes:
        self._note(Level.ERROR, f"{event.problem}: a copy of this node's state; it is outranked")
        return Changes.NOTICES

    def _fault_contained(self, event: FaultContained) -> Changes:
        ended = "" if event.peer is None else f"; the link with {self.name_of(event.peer)} ended"
        self._note(Level.ERROR, f"a fault in the node, which goes on{ended}: {event.problem}")
        return Changes.NOTICES

    def _started(self, event: NodeStarted) -> Changes:
        self.me = Me(event.peer_id, event.address, event.epoch, self._wall())
        self.stopped = ""
        self.lost_at = 0.0
        return Changes.STATUS

    def _node_stopped(self, event: NodeStopped) -> Changes:
        self.stopped = event.reason or "stopped"
        self.lost_at = self.lost_at or self._wall()
        if self.stopped not in POLITE_ENDS:
            self._note(Level.ERROR, f"the node stopped: {event.reason}")
        return Changes.STATUS | Changes.NOTICES

    def lose_touch(self, why: str) -> Changes:
        """The process in which the node runs cannot be asked: what is shown is what was known last."""
        if not self.out_of_touch:
            self._note(Level.ERROR, f"lost the node: {why}")
            self.lost_at = self._wall()
        self.out_of_touch = why
        return Changes.NOTICES | Changes.STATUS

    def regain_touch(self) -> Changes:
        """It answers again."""
        if self.out_of_touch:
            self._note(Level.WARNING, "found the node again")
            self.lost_at = 0.0
        self.out_of_touch = ""
        return Changes.NOTICES | Changes.STATUS

    def note_command(self, text: str) -> None:
        """Something was done at the operator's wish: a line of the command log."""
        line = printable(text)
        self.commands.append(Notice(self._wall(), Level.INFORMATION, line))
        logger.info("%s", line)

    def _note(self, level: Level, text: str) -> None:
        self.notices.append(Notice(self._wall(), level, printable(text)))
        self.notice_count += 1


def dial_words(event: DialFailed) -> str:
    """A failed dial, said so that one knows where to look."""
    if event.reason.startswith(NO_ANSWER):
        return f"{NO_ANSWER} from {event.address}{event.reason.removeprefix(NO_ANSWER)}"
    return f"cannot reach {event.address}: {event.reason}"
