"""Events as the objects that scripts are told, summed up where they could be many.

What must stay true: rate limits and drops are told at most once a second each, by peer and by reason,
the first at once and then sums; everything else as it happens, in its order.

Driven by `headless` for its output and by `hooks` for its programs: `hear` each event, `flush` now and
then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from grapevine_proto.events import DatagramDropped, Event, EventsLost, NodeStarted, RateLimited
from grapevine_tui.answers import Answers
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import Object, describe

QUIET_S: Final = 1.0  # between two tellings of one kind of sum


class Summary:
    """Counts under keys, told at most once in `quiet_s` each: the first at once, then sums. Pure."""

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._told_at: dict[tuple[str, str], float] = {}
        self._waiting: dict[tuple[str, str], int] = {}

    def add(self, key: tuple[str, str], count: int, now: float) -> int:
        """How many to tell of now; 0: it is kept for later."""
        if now - self._told_at.get(key, -self._quiet_s) < self._quiet_s:
            self._waiting[key] = self._waiting.get(key, 0) + count
            return 0
        self._told_at[key] = now
        return count + self._waiting.pop(key, 0)

    def due(self, now: float, *, everything: bool = False) -> list[tuple[tuple[str, str], int]]:
        """What was kept and may be told now."""
        least = -1.0 if everything else self._quiet_s
        ready = [key for key in self._waiting if now - self._told_at[key] >= least]
        for key in ready:
            self._told_at[key] = now
        told = [(key, self._waiting.pop(key)) for key in ready]
        for key in [key for key, at in self._told_at.items() if now - at >= self._quiet_s]:
            if key not in self._waiting:
                del self._told_at[key]  # so that strangers' keys do not pile up
        return told


class Telling:
    """Says what happens at one host by `say`: a word and the fields that go with it."""

    def __init__(
        self,
        host: Host,
        say: Callable[[str, Object], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._say = say
        self._clock = clock
        self._summary = Summary()
        self._tokens: dict[str, float] = {}
        self._addresses: dict[str, str] = {}  # by reason, of the latest that is not told yet

    def hear(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self._say("started", Answers(self._host).who())
            case RateLimited(peer, dropped, tokens):
                self._tokens[str(peer)] = tokens
                self._sum("rate_limited", str(peer), dropped)
            case DatagramDropped(dropped_for, count, address):
                if address is not None:
                    self._addresses[dropped_for.value] = str(address)
                self._sum("dropped", dropped_for.value, count)
            case EventsLost(count):
                self._sum("dropped", "events_lost", count)
            case _:
                if told := describe(event, self._host.name_of):
                    self._say(*told)

    def flush(self, *, everything: bool = False) -> None:
        """Tell the sums that are due."""
        for (word, what), count in self._summary.due(self._clock(), everything=everything):
            self._say_sum(word, what, count)

    def _sum(self, word: str, what: str, count: int) -> None:
        if count := self._summary.add((word, what), count, self._clock()):
            self._say_sum(word, what, count)

    def _say_sum(self, word: str, what: str, count: int) -> None:
        if word == "rate_limited":
            tokens = round(self._tokens.pop(what, 0.0), 3)
            self._say(word, {"peer_id": what, "dropped": count, "tokens": tokens})
        else:
            self._say(
                word, {"reason": what, "count": count, "address": self._addresses.pop(what, None)}
            )
