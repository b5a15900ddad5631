"""Tells whoever watches a node over its control socket what happens, as it happens.

What must stay true:

- An event is made into a line once, however many watch, and not at all where nobody does.
- What waits for a watcher that reads slowly is bounded; beyond that it loses events, which it is told,
  and one that has not read for long is hung up on. The node waits for nobody.
- Between what was there when somebody began to watch and what happens afterwards nothing is left out.

Driven by `control`: `add` in the same turn in which the reply to ``watch`` was written, `flush` now
and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from grapevine_proto.events import Event, NodeStarted, NodeStopped, PeerStateChanged
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import Object, encode, message_object, peer_object
from grapevine_tui.model import Changes
from grapevine_tui.ring import Entry
from grapevine_tui.telling import Telling

WAITING_BYTES: Final = 2 * 2**20  # of events not yet taken; then they are let go
STUCK_S: Final = 60.0  # without room for a single event
PAST: Final = 1_000  # messages told again to who begins to watch,
PAST_BYTES: Final = 2**20  # at most of so many bytes


class Watcher:
    """One who watches. `lost` events since it was last told so."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._lost = 0
        self._stuck_at: float | None = None
        # Replies may wait behind a full load of events: `drain` is not to take that for slowness.
        writer.transport.set_write_buffer_limits(high=2 * WAITING_BYTES)

    def tell(self, line: bytes, now: float) -> None:
        transport = self._writer.transport
        if transport.get_write_buffer_size() + len(line) > WAITING_BYTES:
            self._lost += 1
            if self._stuck_at is None:
                self._stuck_at = now
            elif now - self._stuck_at > STUCK_S:
                transport.abort()
            return
        self._stuck_at = None
        if self._lost:
            lost, self._lost = self._lost, 0
            self._writer.write(encode("dropped", {"reason": "slow_reader", "count": lost}))
        self._writer.write(line)


class Watchers:
    """All who watch one host."""

    def __init__(self, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._clock = clock
        self._watchers: dict[asyncio.StreamWriter, Watcher] = {}
        self._telling = Telling(host, self._say, clock)
        host.listen(self._hear)

    def add(self, writer: asyncio.StreamWriter) -> None:
        """Tell `writer` of the latest messages, and from now on of everything."""
        if writer in self._watchers:
            return
        for entry in self._past():
            fields = message_object(entry.message, self._host.name_of)
            writer.write(encode("message", fields | {"at": round(entry.at_unix, 3)}))
        self._watchers[writer] = Watcher(writer)

    def remove(self, writer: asyncio.StreamWriter) -> None:
        self._watchers.pop(writer, None)

    def flush(self) -> None:
        """Tell the sums that are due."""
        if self._watchers:
            self._telling.flush()

    def _past(self) -> Iterator[Entry]:
        entries: list[Entry] = []
        size = 0
        for entry in self._host.model.messages.latest():
            size += len(entry.message.payload)
            if len(entries) >= PAST or size > PAST_BYTES:
                break
            entries.append(entry)
        return reversed(entries)

    def _hear(self, event: Event, _: Changes) -> None:
        if not self._watchers:
            return
        match event:
            case NodeStarted():
                pass  # nobody can have come before
            case NodeStopped(reason):
                self._say("stopped", {"reason": reason})
            case PeerStateChanged(peer, previous, reason):
                whole = peer_object(peer, self._host.node.now())
                told = whole | {"previous": previous and previous.value, "reason": reason}
                self._say("peer", told)
            case _:
                self._telling.hear(event)

    def _say(self, word: str, fields: Object) -> None:
        line, now = encode(word, fields), self._clock()
        for watcher in self._watchers.values():
            watcher.tell(line, now)
