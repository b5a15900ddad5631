"""Logs what happens to peers, members and the node, with reasons.

Invariants:

- The log of a node that lost peers shows when, which and why.
- Lines that remote nodes cause are bounded: `BURST_LINES` of each kind, then one a second. The next
  line of the kind says how many were suppressed.

Driven by `services`, for the app and headless nodes: `on_event` for each event of one host.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple, assert_never

from grapevine_proto.events import (
    CaughtUp,
    DialFailed,
    Event,
    EventsLost,
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
    RateLimited,
    StateSaveFailed,
)
from grapevine_tui.history.describe import format_port_mapping, format_undelivered
from grapevine_tui.host.model import Changes, format_dial_failure

logger = logging.getLogger("grapevine.events")

BURST_LINES: Final = 50.0  # lines of one kind at once: a whole rack may fail
LINES_PER_S: Final = 1.0


class LogLine(NamedTuple):
    """A line and the kind under which it is rate limited."""

    kind: str
    level: int
    text: str


def _format_node(node: PeerInfo | MemberInfo) -> str:
    address = f" at {node.address}" if node.address is not None else ""
    return f"{node.name or 'unnamed'} ({node.peer_id.short}){address}"


def _format_reach(event: PeerDiscovered | PortMappingChanged | DialFailed) -> LogLine:
    """Format an event about addresses."""
    match event:
        case PeerDiscovered(address, source):
            return LogLine("discovered", logging.INFO, f"found {address} by {source}")
        case PortMappingChanged(outcome):
            is_granted = outcome is PortMappingOutcome.GRANTED
            level = logging.INFO if is_granted else logging.WARNING
            return LogLine("port mapping", level, format_port_mapping(event))
        case DialFailed():
            return LogLine("dial", logging.WARNING, format_dial_failure(event))
        case _:
            assert_never(event)


def format_event(event: Event) -> LogLine | None:
    """Format `event` as a log line; None if it is not logged."""
    match event:
        case PeerStateChanged(peer, previous, reason):
            was_connected = peer.state is PeerState.DISCONNECTED and previous in (
                PeerState.CONNECTED,
                PeerState.STALE,
            )
            is_expected = reason in ("left", "denied")
            level = logging.WARNING if was_connected and not is_expected else logging.INFO
            previous_text = f"{previous.value} -> " if previous is not None else ""
            reason_text = f": {reason}" if reason else ""
            return LogLine(
                "peer",
                level,
                f"peer {_format_node(peer)}: {previous_text}{peer.state.value}{reason_text}",
            )
        case MemberChanged(member):
            level = logging.WARNING if member.status is MemberStatus.DOWN else logging.INFO
            text = f"member {_format_node(member)}: {member.status.value}"
            return LogLine("member", level, f"{text}: {member.reason}" if member.reason else text)
        case PeerDiscovered() | PortMappingChanged() | DialFailed():
            return _format_reach(event)
        case RateLimited(peer_id, dropped, _):
            text = f"peer {peer_id.short} over its rate limit: {dropped:,} messages dropped"
            return LogLine("rate", logging.WARNING, text)
        case StateSaveFailed(problem):
            text = f"state not saved: {problem}" if problem else "state saved again"
            return LogLine("state", logging.ERROR if problem else logging.INFO, text)
        case MessageUndelivered(message_id, to):
            text = f"direct message {message_id.short} to {to.short} is not known to have arrived"
            return LogLine("undelivered", logging.WARNING, f"{text}: {format_undelivered(event)}")
        case MessagesUnsupported(origin, _, first, last, attribute):
            text = (
                f"messages {first} to {last} of {origin.short} are not delivered: attribute "
                f"{attribute} is not known to this version"
            )
            return LogLine("unsupported", logging.WARNING, text)
        case MessagesSkipped(stream, first, last):
            text = f"messages {first} to {last} of {stream.origin.short} were skipped by ordered readers"
            return LogLine("skipped", logging.WARNING, text)
        case CaughtUp(peers):
            return LogLine("caught_up", logging.INFO, f"in sync with {peers} connected peers")
        case EventsLost(count):
            return LogLine(
                "events", logging.WARNING, f"{count:,} events were dropped: a slow reader"
            )
        case NodeStarted(peer_id, address, epoch):
            return LogLine("node", logging.INFO, f"started: {peer_id} at {address}, epoch {epoch}")
        case NodeStopped(reason):
            return LogLine("node", logging.INFO, f"stopped: {reason or 'on request'}")
        case _:
            return None


class EventLog:
    """Logs the events of one host.

    `clock` returns monotonic seconds. `demotes_info` logs normal events as debug, because stdout
    reports them already.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, demotes_info: bool = False
    ) -> None:
        self._clock = clock
        self._demotes_info = demotes_info
        self._budgets: dict[str, tuple[float, float]] = {}  # kind -> lines left, as of when
        self._suppressed: dict[str, int] = {}

    def on_event(self, event: Event, _: Changes) -> None:
        line = format_event(event)
        if line is not None and self._demotes_info and line.level == logging.INFO:
            line = line._replace(level=logging.DEBUG)
        if line is None or not logger.isEnabledFor(line.level):
            return
        if not self._try_consume_budget(line.kind):
            self._suppressed[line.kind] = self._suppressed.get(line.kind, 0) + 1
            return
        if suppressed := self._suppressed.pop(line.kind, 0):
            logger.log(line.level, "%s (and %d lines of this kind before)", line.text, suppressed)
        else:
            logger.log(line.level, "%s", line.text)

    def _try_consume_budget(self, kind: str) -> bool:
        now = self._clock()
        lines_left, updated_at = self._budgets.get(kind, (BURST_LINES, now))
        lines_left = min(BURST_LINES, lines_left + (now - updated_at) * LINES_PER_S)
        is_allowed = lines_left >= 1.0
        self._budgets[kind] = (lines_left - is_allowed, now)
        return is_allowed
