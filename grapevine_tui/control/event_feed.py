"""Events as the objects that scripts are told, summed up where they could be many.

What must stay true: rate limits and drops are told at most once a second each, by peer and by reason,
the first at once and then sums; everything else as it happens, in its order.

Driven by `headless` for its output and by `hooks` for its programs: `on_event` each event, `flush` now and
then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from grapevine_proto.events import DatagramDropped, Event, EventsLost, NodeStarted, RateLimited
from grapevine_tui.control.executor import CommandExecutor
from grapevine_tui.control.jsonlines import Object, event_to_json
from grapevine_tui.host.local import Host

SUMMARY_INTERVAL_S: Final = 1.0  # between two tellings of one kind of sum


class RateLimitedCounter:
    """Counts under keys, told at most once in `interval_s` each: the first at once, then sums. Pure."""

    def __init__(self, interval_s: float = SUMMARY_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._reported_at: dict[tuple[str, str], float] = {}
        self._pending: dict[tuple[str, str], int] = {}

    def add(self, key: tuple[str, str], count: int, now: float) -> int:
        """How many to tell of now; 0: it is kept for later."""
        if now - self._reported_at.get(key, -self._interval_s) < self._interval_s:
            self._pending[key] = self._pending.get(key, 0) + count
            return 0
        self._reported_at[key] = now
        return count + self._pending.pop(key, 0)

    def pop_due(
        self, now: float, *, all_pending: bool = False
    ) -> list[tuple[tuple[str, str], int]]:
        """What was kept and may be told now."""
        min_elapsed_s = -1.0 if all_pending else self._interval_s
        ready = [key for key in self._pending if now - self._reported_at[key] >= min_elapsed_s]
        for key in ready:
            self._reported_at[key] = now
        counts = [(key, self._pending.pop(key)) for key in ready]
        for key in [key for key, at in self._reported_at.items() if now - at >= self._interval_s]:
            if key not in self._pending:
                del self._reported_at[key]  # so that strangers' keys do not pile up
        return counts


class EventFeed:
    """Says what happens at one host by `emit`: a word and the fields that go with it."""

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
        self._addresses: dict[str, str] = {}  # by reason, of the latest that is not told yet

    def on_event(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self._emit("started", CommandExecutor(self._host).identity())
            case RateLimited(peer, dropped, tokens):
                self._tokens[str(peer)] = tokens
                self._count("rate_limited", str(peer), dropped)
            case DatagramDropped(drop_reason, count, address):
                if address is not None:
                    self._addresses[drop_reason.value] = str(address)
                self._count("dropped", drop_reason.value, count)
            case EventsLost(count):
                self._count("dropped", "events_lost", count)
            case _:
                if named_fields := event_to_json(event, self._host.name_of):
                    self._emit(*named_fields)

    def flush(self, *, all_pending: bool = False) -> None:
        """Tell the sums that are due."""
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
