"""Transient sessions: short-lived sessions with members that have no link, for repair and direct messages.

Invariants:

- A transient session makes no peer, carries no heartbeat and relays nothing.
- At most `limits.transient_sessions` are live or opening, and with `max_peers` links at most
  `limits.sessions`. One more evicts the one idle for longest, if that is `TRANSIENT_EVICTABLE_IDLE_S`;
  otherwise it is refused and counted.
- A session closes after `TRANSIENT_IDLE_TIMEOUT_S` without a message. Both ends measure this, so no end
  starts anything on a session that was idle for `TRANSIENT_USABLE_S`: the message could arrive after the
  other end has closed.
- Messages that wait for a session are limited like the queue of a link. Those without room or without a
  session in the end are counted.

A passive table, driven by the transport as sessions open and messages are sent, and by `advance`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.events import Message
from grapevine_proto.ids import PeerId
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.wire.messages import Close, CloseReason

TRANSIENT_IDLE_TIMEOUT_S: Final = 10.0
TRANSIENT_USABLE_S: Final = (
    7.0  # three seconds less than the timeout, longer than a datagram is in flight
)
TRANSIENT_EVICTABLE_IDLE_S: Final = 1.0  # after which another session may evict it
TRANSIENT_UNACKED_TIMEOUT_S: Final = (
    30.0  # retransmissions of the last message take about ten seconds
)


class PendingSend(NamedTuple):
    """A message that is sent as soon as a session is open. `message`: the application's, if it is one of
    those."""

    plaintext: bytes
    message: Message | None


class TransientSessions:
    """Live transient sessions by peer, and messages that wait for one. `refused` counts sessions without
    room, `send_drops` messages without room or session."""

    def __init__(self, config: LiveConfig, links: LinkTable) -> None:
        self._config = config
        self._links = links
        self._sessions: dict[PeerId, Link] = {}
        self._pending: dict[PeerId, list[PendingSend]] = {}
        self._opening_since: dict[PeerId, float] = {}
        self.refused = 0
        self.send_drops = 0

    @property
    def _limit(self) -> int:
        limits = self._config.current.limits
        return min(limits.transient_sessions, limits.sessions - self._config.current.max_peers)

    def __len__(self) -> int:
        """Number of sessions that are live or opening."""
        return len(self._sessions.keys() | self._pending.keys())

    def get(self, peer_id: PeerId) -> Link | None:
        return self._sessions.get(peer_id)

    def all(self) -> list[Link]:
        return list(self._sessions.values())

    def usable(self, peer_id: PeerId, now: float) -> Link | None:
        """The session with `peer_id` on which a new message may be sent."""
        link = self._sessions.get(peer_id)
        if link is None or now - link.last_heard_at >= TRANSIENT_USABLE_S or link.is_expired(now):
            return None
        return link

    # --- opening --------------------------------------------------------------------------------

    def make_room(self, peer_id: PeerId, now: float) -> bool:
        """Whether a session with `peer_id` may open; evicts an idle one if necessary."""
        if peer_id in self._sessions or peer_id in self._pending:
            return True
        if len(self) >= self._limit:
            idle = min(self._sessions.values(), key=lambda link: link.last_heard_at, default=None)
            if (
                idle is None
                or not idle.is_idle
                or now - idle.last_heard_at < TRANSIENT_EVICTABLE_IDLE_S
            ):
                self.refused += 1
                return False
            self.close(idle.peer_id, CloseReason.REDUNDANT, now)
        return True

    def is_opening(self, peer_id: PeerId) -> bool:
        """Whether a message waits for a session with `peer_id`, so that one is opening."""
        return peer_id in self._pending

    def opening(self) -> list[tuple[PeerId, float]]:
        """The peers for whose session messages wait, and since when."""
        return list(self._opening_since.items())

    def opening_since(self, peer_id: PeerId) -> float | None:
        """Since when messages wait for a session with this peer; None: none does."""
        return self._opening_since.get(peer_id)

    @property
    def has_pending_messages(self) -> bool:
        """Whether a message of the application waits for a session."""
        return any(each.message is not None for queue in self._pending.values() for each in queue)

    def enqueue_pending(self, peer_id: PeerId, pending: PendingSend, now: float) -> bool:
        """Keeps a message until the session is open. Returns False, and counts it, if there is no room."""
        queue = self._pending.get(peer_id, [])
        size_bytes = sum(len(each.plaintext) for each in queue) + len(pending.plaintext)
        limits = self._config.current.limits
        is_full = len(queue) >= limits.queue_messages or size_bytes > limits.queue_bytes
        if queue and is_full:
            self.send_drops += 1
            return False
        self._pending[peer_id] = [*queue, pending]
        self._opening_since.setdefault(peer_id, now)
        return True

    def pop_pending(self, peer_id: PeerId) -> list[PendingSend]:
        """Removes and returns the messages that wait for `peer_id`, to be sent over whatever opened."""
        self._opening_since.pop(peer_id, None)
        return self._pending.pop(peer_id, [])

    def fail_pending(self, peer_id: PeerId) -> list[PendingSend]:
        """Counts and removes the messages that wait for `peer_id`, as no session opened."""
        failed = self.pop_pending(peer_id)
        self.send_drops += len(failed)
        return failed

    def add(self, established: EstablishedSession, now: float) -> Link:
        """Adds a live transient session, the first or another one with that peer. The caller has made
        room."""
        record = established.record
        link = self._sessions.get(record.peer_id)
        if link is not None and record.epoch == link.epoch:
            self._links.add_session(link, established, now)
            return link
        if link is not None:
            self._remove(link, now)
        link = self._sessions[record.peer_id] = self._links.add_transient(established, now)
        return link

    # --- closing --------------------------------------------------------------------------------

    def close(self, peer_id: PeerId, reason: CloseReason | None, now: float) -> None:
        """Closes the session with `peer_id`, if any, and sends the reason if that helps the peer."""
        link = self._sessions.get(peer_id)
        if link is None:
            return
        if reason is not None:
            link.clear()
            self._links.linger(link, Close(reason), now)
        self._remove(link, now)

    def _remove(self, link: Link, now: float) -> None:
        del self._sessions[link.peer_id]
        self._links.remove(link, now)

    def discard(self, link: Link) -> None:
        """Removes `link` if it is a transient session, whatever its state."""
        if self._sessions.get(link.peer_id) is link:
            del self._sessions[link.peer_id]

    def advance(self, now: float) -> None:
        """Closes idle sessions; called about once a second."""
        for link in list(self._sessions.values()):
            try:
                self._maintain(link, now)
            except Exception as error:  # noqa: BLE001  only this session ends
                self._links.note_error(link, error)

    def _maintain(self, link: Link, now: float) -> None:
        self._links.maintain(link, now)
        idle_s = now - link.last_heard_at
        if link.is_expired(now) or idle_s >= (
            TRANSIENT_IDLE_TIMEOUT_S if link.is_idle else TRANSIENT_UNACKED_TIMEOUT_S
        ):
            self.close(link.peer_id, None, now)
