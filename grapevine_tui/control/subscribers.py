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
from grapevine_tui.control.event_feed import EventFeed
from grapevine_tui.control.jsonlines import Object, encode_event, message_to_json, peer_to_json
from grapevine_tui.host.local import Host
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Changes

MAX_QUEUED_BYTES: Final = 2 * 2**20  # of events not yet taken; then they are let go
STUCK_TIMEOUT_S: Final = 60.0  # without room for a single event
MAX_REPLAYED_MESSAGES: Final = 1_000  # messages told again to who begins to watch,
MAX_REPLAYED_BYTES: Final = 2**20  # at most of so many bytes


class Subscriber:
    """One who watches. `dropped` events since it was last told so."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._dropped = 0
        self._stuck_at: float | None = None
        # Replies may wait behind a full load of events: `drain` is not to take that for slowness.
        writer.transport.set_write_buffer_limits(high=2 * MAX_QUEUED_BYTES)

    def send(self, line: bytes, now: float) -> None:
        transport = self._writer.transport
        if transport.get_write_buffer_size() + len(line) > MAX_QUEUED_BYTES:
            self._dropped += 1
            if self._stuck_at is None:
                self._stuck_at = now
            elif now - self._stuck_at > STUCK_TIMEOUT_S:
                transport.abort()
            return
        self._stuck_at = None
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._writer.write(encode_event("dropped", {"reason": "slow_reader", "count": dropped}))
        self._writer.write(line)


class Subscribers:
    """All who watch one host."""

    def __init__(self, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._clock = clock
        self._subscribers: dict[asyncio.StreamWriter, Subscriber] = {}
        self._event_feed = EventFeed(host, self._send_to_all, clock)
        host.listen(self._on_event)

    def add(self, writer: asyncio.StreamWriter) -> None:
        """Tell `writer` of the latest messages, and from now on of everything."""
        if writer in self._subscribers:
            return
        for entry in self._replayed_entries():
            fields = message_to_json(entry.message, self._host.name_of)
            writer.write(encode_event("message", fields | {"at": round(entry.at_unix, 3)}))
        self._subscribers[writer] = Subscriber(writer)

    def remove(self, writer: asyncio.StreamWriter) -> None:
        self._subscribers.pop(writer, None)

    def flush(self) -> None:
        """Tell the sums that are due."""
        if self._subscribers:
            self._event_feed.flush()

    def _replayed_entries(self) -> Iterator[LogEntry]:
        entries: list[LogEntry] = []
        size = 0
        for entry in self._host.model.messages.newest_first():
            size += len(entry.message.payload)
            if len(entries) >= MAX_REPLAYED_MESSAGES or size > MAX_REPLAYED_BYTES:
                break
            entries.append(entry)
        return reversed(entries)

    def _on_event(self, event: Event, _: Changes) -> None:
        if not self._subscribers:
            return
        match event:
            case NodeStarted():
                pass  # nobody can have come before
            case NodeStopped(reason):
                self._send_to_all("stopped", {"reason": reason})
            case PeerStateChanged(peer, previous, reason):
                peer_fields = peer_to_json(peer, self._host.node.now())
                fields = peer_fields | {"previous": previous and previous.value, "reason": reason}
                self._send_to_all("peer", fields)
            case _:
                self._event_feed.on_event(event)

    def _send_to_all(self, event_name: str, fields: Object) -> None:
        line, now = encode_event(event_name, fields), self._clock()
        for subscriber in self._subscribers.values():
            subscriber.send(line, now)
