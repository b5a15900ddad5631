"""Streams events to the clients that ``watch`` a node over its control socket.

Invariants:

- An event is encoded once for all subscribers, and not at all if there are none.
- The queue of a slow subscriber is bounded. Beyond that it loses events and gets their count; one
  that does not read for long is disconnected. The node never waits.
- No event is missed between the snapshot in the reply and the first streamed event.

Driven by `ControlServer`: `add` in the same turn as the reply to ``watch``, `flush` periodically.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from copy import copy
from typing import Final

from grapevine_proto.events import Event, NodeStarted, NodeStopped, PeerStateChanged
from grapevine_proto.topics import TopicPatterns
from grapevine_tui.control.event_feed import EventFeed
from grapevine_tui.control.jsonlines import Object, encode_event, named_message
from grapevine_tui.host.alerts import AlertChange
from grapevine_tui.host.local import Host
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Changes

MAX_QUEUED_BYTES: Final = 2 * 2**20  # of unread events; beyond that events are dropped
STUCK_TIMEOUT_S: Final = 60.0  # without room for a single event
MAX_REPLAYED_MESSAGES: Final = 1_000  # recent messages sent to a new subscriber,
MAX_KEY_PREFIXES: Final = 64  # of one client
MAX_REPLAYED_BYTES: Final = 2**20  # up to this size


class Subscriber:
    """A client that watches everything, or that subscribes to topics or keys."""

    def __init__(self, writer: asyncio.StreamWriter, *, is_watching: bool = False) -> None:
        self._is_watching = is_watching
        self._topics = TopicPatterns(())
        self._key_prefixes: tuple[str, ...] = ()
        self._writer = writer
        self._dropped = 0
        self._stuck_at: float | None = None
        # Replies may wait behind a full queue of events; `drain` must not take that for a slow
        # client.
        writer.transport.set_write_buffer_limits(high=2 * MAX_QUEUED_BYTES)

    def watch(self) -> bool:
        """From now on it gets every event; returns whether that is new."""
        is_new, self._is_watching = not self._is_watching, True
        return is_new

    def subscribe(self, pattern: str) -> bool:
        """Adds a pattern; returns whether that may select more than before."""
        if self._is_watching or pattern in self._topics.patterns:
            return False
        self._topics = TopicPatterns((*self._topics.patterns, pattern))
        return True

    def add_keys(self, prefix: str) -> None:
        """Adds the keys that begin with `prefix`. Beyond `MAX_KEY_PREFIXES` it gets all keys."""
        if not self._key_prefixes or not prefix.startswith(self._key_prefixes):
            self._key_prefixes += (prefix,)
        if len(self._key_prefixes) > MAX_KEY_PREFIXES:
            self._key_prefixes = ("",)

    def wants(self, event_name: str, fields: Object) -> bool:
        """Whether this client gets the event: all of them, or those of its topics and keys."""
        if self._is_watching:
            return True
        if event_name == "message":
            return self._topics.matches(fields["topic"])
        if event_name == "entry":
            return bool(fields["key"].startswith(self._key_prefixes))
        return event_name == "stopped"

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
    """All clients that watch one host."""

    def __init__(self, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._clock = clock
        self._subscribers: dict[asyncio.StreamWriter, Subscriber] = {}
        self._releases: dict[asyncio.StreamWriter, list[Callable[[], None]]] = {}  # of topics
        self._event_feed = EventFeed(host, self._send_to_all, clock)
        host.listen(self._on_event)
        host.listen_to_alerts(self._on_alert)

    def watch(self, writer: asyncio.StreamWriter) -> None:
        """Send `writer` the recent messages and every event from now on."""
        subscriber = self._subscribers.get(writer) or Subscriber(writer)
        before = copy(subscriber)
        if subscriber.watch():
            self._replay(writer, subscriber, before)

    def subscribe(self, writer: asyncio.StreamWriter, pattern: str) -> None:
        """Send `writer` the recent messages of the topics that `pattern` selects, and further ones."""
        subscriber = self._subscribers.get(writer) or Subscriber(writer)
        before = copy(subscriber)
        if subscriber.subscribe(pattern):
            release = self._host.node.hold_topics(pattern)
            self._releases.setdefault(writer, []).append(release)
            self._replay(writer, subscriber, before)

    def watch_keys(self, writer: asyncio.StreamWriter, prefix: str) -> None:
        """Send `writer` the changes of keys that begin with `prefix` from now on."""
        subscriber = self._subscribers.setdefault(writer, Subscriber(writer))
        subscriber.add_keys(prefix)

    def _replay(
        self, writer: asyncio.StreamWriter, subscriber: Subscriber, before: Subscriber
    ) -> None:
        """Send the recent messages that it wants now and did not want before."""
        for entry in self._replayed_entries():
            fields = named_message(entry.message, self._host.name_of)
            if subscriber.wants("message", fields) and not before.wants("message", fields):
                writer.write(encode_event("message", fields | {"at": round(entry.at_unix, 3)}))
        self._subscribers.setdefault(writer, subscriber)

    def remove(self, writer: asyncio.StreamWriter) -> None:
        self._subscribers.pop(writer, None)
        for release in self._releases.pop(writer, ()):
            release()

    def flush(self) -> None:
        """Emit the counts that are due."""
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
                pass  # subscribers are added later
            case NodeStopped(reason):
                self._send_to_all("stopped", {"reason": reason})
            case PeerStateChanged(peer, previous, reason):
                peer_fields = peer.to_dict(now=self._host.node.now())
                fields = peer_fields | {"previous": previous and previous.value, "reason": reason}
                self._send_to_all("peer", fields)
            case _:
                self._event_feed.on_event(event)

    def _on_alert(self, change: AlertChange) -> None:
        if self._subscribers:
            self._send_to_all("alert", change.to_dict())

    def _send_to_all(self, event_name: str, fields: Object) -> None:
        line, now = encode_event(event_name, fields), self._clock()
        for subscriber in self._subscribers.values():
            if subscriber.wants(event_name, fields):
                subscriber.send(line, now)
