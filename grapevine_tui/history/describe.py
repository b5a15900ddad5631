"""Describes each event that the history keeps in one sentence, with the reason.

Invariants:

- Only changes are described: a member reported with the same status as before is not one.
- What remote nodes cause is limited to `BURST_EVENTS` of each kind, then `EVENTS_PER_S`. The next event of
  the kind says how many were left out.
- Every table here is bounded; the oldest entry is evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    DialFailed,
    Event,
    EventsLost,
    IdentityInUse,
    InternalErrorContained,
    MemberChanged,
    MemberInfo,
    MemberStatus,
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
    QueryEnded,
    QueryReceived,
    RateLimited,
    RoundOutcome,
    Standing,
    StandingChanged,
    StateSaveFailed,
    UndeliveredReason,
)
from grapevine_proto.ids import PeerId
from grapevine_tui.history.records import MAX_TEXT_CHARACTERS, StoredEvent, to_key
from grapevine_tui.text import printable

K = TypeVar("K")
V = TypeVar("V")

BURST_EVENTS: Final = 200.0  # of one kind at once: a whole rack may fail
EVENTS_PER_S: Final = 2.0
MAX_TRACKED_NODES: Final = 10_000
THROTTLE_INTERVAL_S: Final = 30.0  # a peer throttled again within this time is the same event
EXPECTED_REASONS: Final = frozenset({"left", "denied"})
UNDELIVERED_TEXTS: Final[Mapping[UndeliveredReason, str]] = {
    UndeliveredReason.NO_ANSWER: "no answer",
    UndeliveredReason.REFUSED: "no session",
    UndeliveredReason.QUEUE_FULL: "too many messages wait",
    UndeliveredReason.SESSION_ENDED: "the session ended before it was acknowledged",
    UndeliveredReason.NOT_ACKNOWLEDGED: "not acknowledged",
    UndeliveredReason.NODE_LEFT: "this node left before it was acknowledged",
}


class EventDescriber:
    """Turns the events of one node into rows of the history. `name_of` returns a name, "" if unknown."""

    def __init__(self, name_of: Callable[[PeerId], str]) -> None:
        self._name_of = name_of
        self._statuses: OrderedDict[PeerId, MemberStatus] = OrderedDict()
        self._lost_at: OrderedDict[tuple[str, PeerId], float] = OrderedDict()
        self._throttled_at: OrderedDict[PeerId, float] = OrderedDict()
        self._budgets: dict[str, tuple[float, float]] = {}  # kind -> events left, as of when
        self._suppressed: dict[str, int] = {}

    def describe(self, event: Event, at_unix: float) -> StoredEvent | None:
        """Return the row for `event`, which happened at `at_unix` (Unix seconds); None if it is not kept."""
        found = self._describe(event, at_unix)
        return None if found is None else self._within_budget(found, at_unix)

    def note(
        self,
        kind: str,
        text: str,
        at_unix: float,
        *,
        peer_id: PeerId | None = None,
        level: str = "info",
    ) -> StoredEvent:
        """Return the row for something that an operator or a script did."""
        name = "" if peer_id is None else self._name_of(peer_id)
        return _row(at_unix, kind, level, text, peer_id=peer_id, name=name)

    def _within_budget(self, row: StoredEvent, now: float) -> StoredEvent | None:
        left, updated_at = self._budgets.get(row.kind, (BURST_EVENTS, now))
        left = min(BURST_EVENTS, left + max(0.0, now - updated_at) * EVENTS_PER_S)
        self._budgets[row.kind] = (left - (left >= 1.0), now)
        if left < 1.0:
            self._suppressed[row.kind] = self._suppressed.get(row.kind, 0) + 1
            return None
        return row._replace(suppressed=self._suppressed.pop(row.kind, 0))

    def _describe(self, event: Event, now: float) -> StoredEvent | None:
        match event:
            case PeerStateChanged():
                return self._describe_peer(event, now)
            case MemberChanged(member):
                return self._describe_member(member, now)
            case DialFailed(address, reason):
                text = f"dial of {address} failed: {reason}"
                return _row(now, "dial", "warning", text, address=str(address), reason=reason)
            case PeerDiscovered(address, source):
                text = f"found {address} by {source}"
                return _row(now, "discovered", "info", text, address=str(address), reason=source)
            case PortMappingChanged(outcome, mapped, _, _):
                level = "info" if outcome is PortMappingOutcome.GRANTED else "warning"
                text = format_port_mapping(event)
                address = "" if mapped is None else str(mapped)
                return _row(now, "port mapping", level, text, address=address, reason=event.reason)
            case RateLimited(peer_id, dropped, _):
                return self._describe_throttled(peer_id, dropped, now)
            case StandingChanged(peer_id, standing, _, reason):
                is_normal = standing is Standing.NORMAL
                what = (
                    "is no longer limited for misconduct"
                    if is_normal
                    else f"is {standing.value}: {reason}"
                )
                return self._of_node(now, "standing", "info" if is_normal else "warning", peer_id, what,
                                     state=standing.value, reason=reason)  # fmt: skip
            case _:
                return self._describe_node(event, now)

    def _describe_node(self, event: Event, now: float) -> StoredEvent | None:
        """Describe an event of this node itself."""
        match event:
            case NodeStarted(_, address, epoch):
                return _row(
                    now,
                    "node",
                    "info",
                    f"node started at {address}, epoch {epoch}",
                    address=str(address),
                )
            case NodeStopped(reason):
                return _row(
                    now, "node", "info", f"node stopped: {reason or 'on request'}", reason=reason
                )
            case StateSaveFailed(problem):
                text = f"state not saved: {problem}" if problem else "state saved again"
                return _row(now, "state", "error" if problem else "info", text, reason=problem)
            case IdentityInUse(address, problem):
                text = f"{problem}: a copy of this node's state"
                return _row(
                    now, "identity", "error", text, address=str(address or ""), reason=problem
                )
            case InternalErrorContained(peer_id, problem):
                text = f"internal error, contained: {problem}"
                return _row(now, "error", "error", text, peer_id=peer_id, reason=problem)
            case _:
                return self._describe_messages(event, now)

    def _describe_messages(self, event: Event, now: float) -> StoredEvent | None:
        """Describe an event of messages, rounds or queries."""
        match event:
            case MessageUndelivered(message_id, to):
                reason = format_undelivered(event)
                what = (
                    f"is not known to have received the direct message {message_id.short}: {reason}"
                )
                return self._of_node(now, "undelivered", "warning", to, what, reason=reason)
            case MessagesSkipped(stream, first, last):
                what = f"messages {first} to {last} were skipped by ordered readers"
                return self._of_node(now, "skipped", "warning", stream.origin, what)
            case MessagesUnsupported(origin, _, first, last, attribute):
                what = f"messages {first} to {last} need a newer version (attribute {attribute})"
                return self._of_node(now, "unsupported", "warning", origin, what)
            case EventsLost(count):
                text = f"{count:,} events were dropped: a reader of this process is slow"
                return _row(now, "lost", "warning", text)
            case AntiEntropyRound(done) if done.outcome in (
                RoundOutcome.NO_ANSWER,
                RoundOutcome.PARTIAL,
            ):
                what = "did not answer an anti-entropy round"
                if done.outcome is RoundOutcome.PARTIAL:
                    what = "stopped answering in the middle of an anti-entropy round"
                return self._of_node(
                    now, "round", "warning", done.peer, what, state=done.outcome.value
                )
            case CaughtUp(peers):
                return _row(now, "synced", "info", f"in sync with {peers} connected peers")
            case QueryEnded(report):
                end = "" if report.end is None else report.end.value
                text = f"query {report.name}: {report.answered} of {report.asked} members answered ({end})"
                level = "warning" if report.unanswered else "info"
                return _row(now, "query", level, text, state=end)
            case QueryReceived(question):
                return self._of_node(
                    now, "query", "info", question.origin, f"asked the query {question.name}"
                )
            case _:
                return None

    # --- peers and members ------------------------------------------------------------------------

    def _describe_peer(self, event: PeerStateChanged, now: float) -> StoredEvent | None:
        peer, previous, reason = event.peer, event.previous, event.reason
        was_connected = previous is not None and previous.is_connected
        match peer.state:
            case PeerState.CONNECTED if previous is PeerState.STALE:
                return self._of_peer(now, "info", peer, "answers again", reason)
            case PeerState.CONNECTED:
                return self._of_peer(
                    now, "info", peer, f"connected{self._back_after('peer', peer, now)}", reason
                )
            case PeerState.STALE:
                detail = reason.removeprefix("no answer")  # which the sentence says itself
                what = f"does not answer{_because(reason) if detail == reason else detail}"
                return self._of_peer(now, "warning", peer, what, reason)
            case PeerState.DISCONNECTED if was_connected:
                is_expected = reason in EXPECTED_REASONS
                if not is_expected:
                    _remember(self._lost_at, ("peer", peer.peer_id), now)
                level = "info" if is_expected else "warning"
                return self._of_peer(now, level, peer, f"disconnected{_because(reason)}", reason)
            case _:
                return None  # a dial, or its failure, which is an event of its own

    def _describe_member(self, member: MemberInfo, now: float) -> StoredEvent | None:
        previous = self._statuses.get(member.peer_id)
        if previous is member.status:
            return None
        _remember(self._statuses, member.peer_id, member.status)
        level = "info"
        match member.status:
            case MemberStatus.UP if previous is None:
                what = "is a member"
            case MemberStatus.UP:
                what = f"is up{self._back_after('member', member, now)}"
            case MemberStatus.SUSPECT:
                what, level = "is suspect", "warning"
            case MemberStatus.DOWN:
                _remember(self._lost_at, ("member", member.peer_id), now)
                what, level = "is down", "warning"
            case MemberStatus.LEFT:
                what = "left"
        name = member.name or member.peer_id.short
        return _row(
            now,
            "member",
            level,
            f"{name} {what}{_because(member.reason)}",
            peer_id=member.peer_id,
            name=member.name,
            address=str(member.address or ""),
            state=member.status.value,
            reason=member.reason,
        )

    def _describe_throttled(self, peer_id: PeerId, dropped: int, now: float) -> StoredEvent | None:
        before = self._throttled_at.get(peer_id)
        _remember(self._throttled_at, peer_id, now)
        if before is not None and now - before < THROTTLE_INTERVAL_S:
            return None
        what = f"is over its rate limit: {dropped:,} messages dropped"
        return self._of_node(now, "rate_limited", "warning", peer_id, what)

    def _back_after(self, kind: str, node: PeerInfo | MemberInfo, now: float) -> str:
        lost_at = self._lost_at.pop((kind, node.peer_id), None)
        return "" if lost_at is None else f" again after {format_age(now - lost_at)}"

    def _of_peer(
        self, now: float, level: str, peer: PeerInfo, what: str, reason: str
    ) -> StoredEvent:
        name = peer.name or peer.peer_id.short
        return _row(
            now,
            "peer",
            level,
            f"{name} {what}",
            peer_id=peer.peer_id,
            name=peer.name,
            address=str(peer.address),
            state=peer.state.value,
            reason=reason,
        )

    def _of_node(
        self,
        now: float,
        kind: str,
        level: str,
        peer_id: PeerId,
        what: str,
        *,
        state: str = "",
        reason: str = "",
    ) -> StoredEvent:
        name = self._name_of(peer_id)
        text = f"{name or peer_id.short} {what}"
        return _row(now, kind, level, text, peer_id=peer_id, name=name, state=state, reason=reason)


def _remember(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MAX_TRACKED_NODES:
        table.popitem(last=False)


def format_undelivered(event: MessageUndelivered) -> str:
    """Why a direct message is not known to have arrived, in a few words."""
    text = UNDELIVERED_TEXTS[event.reason]
    return f"{text} ({printable(event.detail)})" if event.detail else text


def format_port_mapping(event: PortMappingChanged) -> str:
    """What became of the port that the router maps to this node."""
    if event.outcome is PortMappingOutcome.GRANTED:
        return f"the router maps {event.address} to this node ({event.protocol})"
    what = "maps no port" if event.address is None else f"no longer maps {event.address}"
    return f"the router {what}: {printable(event.reason)}"


def format_age(seconds: float) -> str:
    """`seconds` in its two largest units: ``6 m 4 s``."""
    whole = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _row(
    at_unix: float,
    kind: str,
    level: str,
    text: str,
    *,
    peer_id: PeerId | None = None,
    name: str = "",
    address: str = "",
    state: str = "",
    reason: str = "",
) -> StoredEvent:
    return StoredEvent(
        to_key(at_unix),
        kind,
        level,
        text[:MAX_TEXT_CHARACTERS],
        peer_id,
        name,
        address,
        state,
        reason[:MAX_TEXT_CHARACTERS],
    )
