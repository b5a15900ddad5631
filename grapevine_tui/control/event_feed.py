"""Turns events into JSON objects for scripts and aggregates frequent ones.

Invariants: rate limits and drops are reported at most once a second, by peer and by reason: the
first at once, then counts. Everything else is reported at once, in order.

Driven by `Headless` for its output and by `HookRunner` for its programs: `on_event` for each event,
`flush` periodically.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from grapevine_proto.events import (
    DatagramDropped,
    Event,
    EventsLost,
    NodeStarted,
    NodeStopped,
    RateLimited,
)
from grapevine_tui.control.jsonlines import Object, named_event
from grapevine_tui.host import snapshot
from grapevine_tui.host.local import Host

SUMMARY_INTERVAL_S: Final = 1.0  # between two reports of one counter


class RateLimitedCounter:
    """Counts by key, each reported at most once per `interval_s`: the first at once, then sums.
    Pure.
    """

    def __init__(self, interval_s: float = SUMMARY_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._reported_at: dict[tuple[str, str], float] = {}
        self._pending: dict[tuple[str, str], int] = {}

    def add(self, key: tuple[str, str], count: int, now: float) -> int:
        """Add `count`; return the count to report now, 0 if it is kept for later."""
        if now - self._reported_at.get(key, -self._interval_s) < self._interval_s:
            self._pending[key] = self._pending.get(key, 0) + count
            return 0
        self._reported_at[key] = now
        return count + self._pending.pop(key, 0)

    def pop_due(
        self, now: float, *, all_pending: bool = False
    ) -> list[tuple[tuple[str, str], int]]:
        """Remove and return the counts that are due at `now`."""
        min_elapsed_s = -1.0 if all_pending else self._interval_s
        ready = [key for key in self._pending if now - self._reported_at[key] >= min_elapsed_s]
        for key in ready:
            self._reported_at[key] = now
        counts = [(key, self._pending.pop(key)) for key in ready]
        for key in [key for key, at in self._reported_at.items() if now - at >= self._interval_s]:
            if key not in self._pending:
                del self._reported_at[key]  # so that keys chosen by remote nodes do not accumulate
        return counts


class EventFeed:
    """Reports the events of one host with `emit`: a name and its fields."""

    def __init__(
        self,
        host: Host,
        emit: Callable[[str, Object], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._emit = emit
        self._clock = clock
        self._counter = RateLimitedCounter()
        self._tokens: dict[str, float] = {}
        self._addresses: dict[str, str] = {}  # by reason: latest address not yet reported

    def on_event(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self._emit("started", snapshot.identity(self._host))
            case RateLimited(peer, dropped, tokens):
                self._tokens[str(peer)] = tokens
                self._count("rate_limited", str(peer), dropped)
            case DatagramDropped(drop_reason, count, address):
                if address is not None:
                    self._addresses[drop_reason.value] = str(address)
                self._count("dropped", drop_reason.value, count)
            case EventsLost(count):
                self._count("dropped", "events_lost", count)
            case NodeStopped():
                pass  # the last line is for those who stop the node
            case _:
                self._emit(*named_event(event, self._host.name_of))

    def flush(self, *, all_pending: bool = False) -> None:
        """Emit the counts that are due."""
        for (event_name, key), count in self._counter.pop_due(
            self._clock(), all_pending=all_pending
        ):
            self._emit_sum(event_name, key, count)

    def _count(self, event_name: str, key: str, count: int) -> None:
        if count := self._counter.add((event_name, key), count, self._clock()):
            self._emit_sum(event_name, key, count)

    def _emit_sum(self, event_name: str, key: str, count: int) -> None:
        if event_name == "rate_limited":
            tokens = round(self._tokens.pop(key, 0.0), 3)
            self._emit(event_name, {"peer_id": key, "dropped": count, "tokens": tokens})
        else:
            self._emit(
                event_name,
                {"reason": key, "count": count, "address": self._addresses.pop(key, None)},
            )
