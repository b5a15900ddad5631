"""What becomes of peers, members and the node itself, as lines of the log, with the reasons.

Invariants:

- Whoever reads the log of a node that lost peers finds when, which and why.
- What others cause is bounded: of each kind `BURST` lines, then one a second; how many were left out
  is told with the next line of that kind.

Driven by `service`, for the app and headless alike: `hear` each event of one host.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from grapevine_proto.events import (
    DialFailed,
    Event,
    EventsLost,
    MemberChanged,
    MemberInfo,
    MemberStatus,
    NodeStarted,
    NodeStopped,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    RateLimited,
    StateUnsaved,
)
from grapevine_tui.model import Changes, dial_words

logger = logging.getLogger("grapevine.events")

BURST: Final = 50.0  # lines of one kind at once: a whole rack that goes
PER_S: Final = 1.0


class Line(NamedTuple):
    """`kind` is what it is counted under."""

    kind: str
    level: int
    words: str


def _called(node: PeerInfo | MemberInfo) -> str:
    address = f" at {node.address}" if node.address is not None else ""
    return f"{node.name or 'unnamed'} ({node.peer_id.short}){address}"


def line_of(event: Event) -> Line | None:
    """What the log says of `event`; None: nothing."""
    match event:
        case PeerStateChanged(peer, previous, reason):
            is_lost = peer.state is PeerState.DISCONNECTED and previous in (
                PeerState.CONNECTED,
                PeerState.STALE,
            )
            is_asked_for = reason in ("left", "denied")
            level = logging.WARNING if is_lost and not is_asked_for else logging.INFO
            before = f"{previous.value} -> " if previous is not None else ""
            why = f": {reason}" if reason else ""
            return Line("peer", level, f"peer {_called(peer)}: {before}{peer.state.value}{why}")
        case MemberChanged(member):
            level = logging.WARNING if member.status is MemberStatus.DOWN else logging.INFO
            return Line("member", level, f"member {_called(member)}: {member.status.value}")
        case DialFailed():
            return Line("dial", logging.WARNING, dial_words(event))
        case RateLimited(peer_id, dropped, _):
            words = f"peer {peer_id.short} is throttled: {dropped:,} messages beyond its allowance"
            return Line("rate", logging.WARNING, words)
        case StateUnsaved(problem):
            words = f"state not saved: {problem}" if problem else "state saved again"
            return Line("state", logging.ERROR if problem else logging.INFO, words)
        case EventsLost(count):
            return Line("events", logging.WARNING, f"{count:,} events were dropped: a slow reader")
        case NodeStarted(peer_id, address, epoch):
            return Line("node", logging.INFO, f"started: {peer_id} at {address}, epoch {epoch}")
        case NodeStopped(reason):
            return Line("node", logging.INFO, f"stopped: {reason or 'asked to'}")
        case _:
            return None


class EventLog:
    """Writes lines for the events of one host. `clock` gives monotonic seconds. `is_brief`: what is in
    order is a line for debugging only, since stdout tells it already."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, is_brief: bool = False
    ) -> None:
        self._clock = clock
        self._is_brief = is_brief
        self._budgets: dict[str, tuple[float, float]] = {}  # kind -> lines left, as of when
        self._left_out: dict[str, int] = {}

    def hear(self, event: Event, _: Changes) -> None:
        line = line_of(event)
        if line is not None and self._is_brief and line.level == logging.INFO:
            line = line._replace(level=logging.DEBUG)
        if line is None or not logger.isEnabledFor(line.level):
            return
        if not self._may_write(line.kind):
            self._left_out[line.kind] = self._left_out.get(line.kind, 0) + 1
            return
        if left_out := self._left_out.pop(line.kind, 0):
            logger.log(line.level, "%s (and %d lines of this kind before)", line.words, left_out)
        else:
            logger.log(line.level, "%s", line.words)

    def _may_write(self, kind: str) -> bool:
        now = self._clock()
        left, at = self._budgets.get(kind, (BURST, now))
        left = min(BURST, left + (now - at) * PER_S)
        is_allowed = left >= 1.0
        self._budgets[kind] = (left - is_allowed, now)
        return is_allowed
