"""The sessions with one peer: the live one, which we send on, and the retiring ones, which only receive.

What must stay true:

- A session that was replaced still receives for a while, so nothing on its way is lost. No more than
  `RETIRING_SESSIONS_LIMIT` do, and none longer than it can open anything.
- Of two sessions both ends take the same one, whichever they saw first.
- Two ends that send on different sessions, after losses in a handshake, agree again by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import PeerId
from grapevine_proto.transport.session.session import (
    REJECT_AFTER_S,
    REKEY_AFTER_S,
    EstablishedSession,
    Session,
)

RETIRING_TIMEOUT_S: Final = 10.0  # after the last packet: longer than any datagram lives on the way
RETIRING_SESSIONS_LIMIT: Final = 2  # one replaced, and one that lost against it
FOLLOW_PEER_AFTER_S: Final = 5.0  # twice what passes between the packets of whoever still confirms
SIMULTANEOUS_DIALS_S: Final = (
    5.0  # above what lost packets set two ends' views of one handshake apart
)


class Sessions:
    """Which sessions there are: iterating gives `live`, then the retiring ones, the oldest first.

    Driven by `replace` and `retire` as handshakes end, `follow_peer` as packets come, `advance` at
    `deadline`.
    """

    __slots__ = ("_live_deadline", "_retiring", "live")

    def __init__(self, live: Session, now: float) -> None:
        self.live = live
        self._retiring: list[tuple[Session, float]] = []  # and since when, the oldest first
        self._set_live_deadline(now)

    def __iter__(self) -> Iterator[Session]:
        yield self.live
        for session, _ in self._retiring:
            yield session

    def find(self, session_id: bytes) -> Session:
        """The one with this id of ours. Raises Refused(UNKNOWN_SESSION)."""
        for session in self:
            if session.our_id == session_id:
                return session
        raise Dropped(DropReason.UNKNOWN_SESSION)

    def replace(self, session: Session, now: float) -> None:
        """Send on `session` from now on; the one before only receives."""
        self._retiring = [each for each in self._retiring if each[0] is not session]
        replaced, self.live = self.live, session
        self.retire(replaced, now)

    def retire(self, session: Session, now: float) -> None:
        """Only receive on `session`; it may have been live, or not take over at all."""
        self._retiring = [*self._retiring, (session, now)][-RETIRING_SESSIONS_LIMIT:]
        self._set_live_deadline(now)

    def follow_peer(self, session: Session, now: float) -> bool:
        """The peer spoke on `session`, which retires. Send where it does, when for long nothing has come
        on the session we send on: the peer may have given that up before it was live there. The end
        that would go over to the session with the larger mark waits longer, so two ends never swap for
        ever. Whether `session` is live now."""
        wait_s = (
            FOLLOW_PEER_AFTER_S
            if _tiebreaker(session) < _tiebreaker(self.live)
            else 2 * FOLLOW_PEER_AFTER_S
        )
        if now - self.live.last_opened_at < wait_s:
            return False
        self.replace(session, now)
        return True

    @property
    def deadline(self) -> float:
        """When a retiring session ends, a rekey is due, or the live one is spent."""
        return min([self._live_deadline, *(_expires_at(*each) for each in self._retiring)])

    def advance(self, now: float) -> None:
        """Forget retiring sessions whose time is over."""
        self._retiring = [each for each in self._retiring if _expires_at(*each) > now]
        self._set_live_deadline(now)

    def _set_live_deadline(self, now: float) -> None:
        created_at = self.live.created_at
        due = created_at + REKEY_AFTER_S, created_at + REJECT_AFTER_S
        self._live_deadline = min((at for at in due if at > now), default=math.inf)


def supersedes(
    new: EstablishedSession, live: Session, live_epoch: int, our_id: PeerId, now: float
) -> bool:
    """Whether `new` should replace the live session with the same peer, made in its run `live_epoch`.

    The higher epoch wins, else the later session, but of two made at once, as when both ends dial,
    the one begun by the smaller PeerId. Both ends come to the same answer, whichever session they
    saw first; where the road has them disagree after all, `Sessions` follows the peer in time.
    """
    if live.is_expired(now):
        return True
    if new.record.epoch != live_epoch:
        return new.record.epoch > live_epoch
    newer_by_s = new.session.created_at - live.created_at
    is_initiator = new.session.is_initiator
    if is_initiator == live.is_initiator or abs(newer_by_s) > SIMULTANEOUS_DIALS_S:
        return newer_by_s >= 0
    return is_initiator == (our_id < new.record.peer_id)


def _expires_at(session: Session, retired_at: float) -> float:
    expires_at = max(session.last_opened_at, retired_at) + RETIRING_TIMEOUT_S
    return min(expires_at, session.created_at + REJECT_AFTER_S)


def _tiebreaker(session: Session) -> bytes:
    """The same seen from both ends."""
    return min(session.our_id, session.their_id)
