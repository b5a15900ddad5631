"""Short sessions: a few words with a member that is no neighbour, and what waits for one to open.

What must stay true:

- The overlay hears of nobody by a short session: it makes no peer, no heartbeat and no relay.
- At most `limits.transient_sessions`, live or being opened, and with `max_peers` links at most
  `limits.sessions`. One more closes the one that has been idle
  for longest, if that is `TRANSIENT_EVICTABLE_IDLE_S`; while all are in use it is refused, and counted.
- One closes after `TRANSIENT_IDLE_TIMEOUT_S` without a word; since both ends count, nobody begins
  anything on one that
  has been idle for `TRANSIENT_USABLE_S`, or words would be lost on the way to a session that just closed.
- What waits for one to open is bounded like the queue of a link; what finds no room or waits in vain
  is counted.

It is a table: driven by the engine's parts as sessions open and words are said, and by `advance`.
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
TRANSIENT_USABLE_S: Final = 7.0  # three seconds less: more than any datagram lives on the way
TRANSIENT_EVICTABLE_IDLE_S: Final = 1.0  # idle for so long, it may give way to another
TRANSIENT_UNACKED_TIMEOUT_S: Final = 30.0  # what was said last is repaired for about ten seconds


class PendingSend(NamedTuple):
    """A message that goes as soon as a session is open; `message` is the application's, if it is one
    of those."""

    plaintext: bytes
    message: Message | None


class TransientSessions:
    """Live short sessions by peer, and what waits for others. `refused` counts sessions for which there
    was no room, `send_drops` messages that found none or waited in vain."""

    def __init__(self, config: LiveConfig, links: LinkTable) -> None:
        self._config = config
        self._links = links
        self._sessions: dict[PeerId, Link] = {}
        self._pending: dict[PeerId, list[PendingSend]] = {}
        self.refused = 0
        self.send_drops = 0

    @property
    def _limit(self) -> int:
        limits = self._config.current.limits
        return min(limits.transient_sessions, limits.sessions - self._config.current.max_peers)

    def __len__(self) -> int:
        """How many are live or being opened."""
        return len(self._sessions.keys() | self._pending.keys())

    def get(self, peer_id: PeerId) -> Link | None:
        return self._sessions.get(peer_id)

    def all(self) -> list[Link]:
        return list(self._sessions.values())

    def usable(self, peer_id: PeerId, now: float) -> Link | None:
        """The session with `peer_id` on which something may be begun."""
        link = self._sessions.get(peer_id)
        if link is None or now - link.last_heard_at >= TRANSIENT_USABLE_S or link.is_expired(now):
            return None
        return link

    # --- opening --------------------------------------------------------------------------------

    def make_room(self, peer_id: PeerId, now: float) -> bool:
        """Whether a session with `peer_id` may be opened; an idle one gives way to it."""
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
        """Whether something waits for a session with `peer_id`, so that one is being opened."""
        return peer_id in self._pending

    def enqueue_pending(self, peer_id: PeerId, pending: PendingSend) -> bool:
        """Keep a message until the session is open; False: there is no room, and it is counted."""
        queue = self._pending.get(peer_id, [])
        size_bytes = sum(len(each.plaintext) for each in queue) + len(pending.plaintext)
        limits = self._config.current.limits
        is_full = len(queue) >= limits.queue_messages or size_bytes > limits.queue_bytes
        if queue and is_full:
            self.send_drops += 1
            return False
        self._pending[peer_id] = [*queue, pending]
        return True

    def pop_pending(self, peer_id: PeerId) -> list[PendingSend]:
        """All that waits for `peer_id`: it can go now, over whatever opened."""
        return self._pending.pop(peer_id, [])

    def fail_pending(self, peer_id: PeerId) -> list[PendingSend]:
        """No session came of it: what waited is counted."""
        failed = self._pending.pop(peer_id, [])
        self.send_drops += len(failed)
        return failed

    def add(self, established: EstablishedSession, now: float) -> Link:
        """A session is live that shall be short: another one with that peer, or a new one. There is
        room for it."""
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
        """End the session with `peer_id`, where there is one, and say why, where that is of use."""
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
        """Forget `link`, whatever state it is in, where it is one of these."""
        if self._sessions.get(link.peer_id) is link:
            del self._sessions[link.peer_id]

    def advance(self, now: float) -> None:
        """Once a second or so: close what is idle."""
        for link in list(self._sessions.values()):
            try:
                self._maintain(link, now)
            except Exception as error:  # noqa: BLE001  of this one alone
                self._links.note_error(link, error)

    def _maintain(self, link: Link, now: float) -> None:
        self._links.maintain(link, now)
        idle_s = now - link.last_heard_at
        if link.is_expired(now) or idle_s >= (
            TRANSIENT_IDLE_TIMEOUT_S if link.is_idle else TRANSIENT_UNACKED_TIMEOUT_S
        ):
            self.close(link.peer_id, None, now)
