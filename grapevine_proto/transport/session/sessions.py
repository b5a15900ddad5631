"""The sessions with one peer: the live one, which sends, and the retiring ones, which only receive.

Invariants:

- A replaced session still receives for a while, so packets in flight are not lost. At most
  `RETIRING_SESSIONS_LIMIT` sessions retire, and none outlives its expiry.
- Both ends choose the same one of two sessions, whichever they saw first.
- Two ends that send on different sessions, after losses during a handshake, converge on one by themselves.
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

RETIRING_TIMEOUT_S: Final = 10.0  # after its last packet: longer than a datagram stays in flight
RETIRING_SESSIONS_LIMIT: Final = 2  # one that was replaced and one that was superseded at once
FOLLOW_PEER_AFTER_S: Final = 5.0  # twice the interval of an end that still waits for a Confirm
# above the difference that lost packets make between the ends' views of one handshake
SIMULTANEOUS_DIALS_S: Final = 5.0


class Sessions:
    """The session table of one peer. Iterating yields `live`, then the retiring sessions, oldest first.

    Call `replace` or `retire` when a handshake completes, `follow_peer` for packets on a retiring session,
    and `advance` at `deadline`.
    """

    __slots__ = ("_live_deadline", "_retiring", "live")

    def __init__(self, live: Session, now: float) -> None:
        self.live = live
        self._retiring: list[tuple[Session, float]] = []  # (session, retired at), oldest first
        self._set_live_deadline(now)

    def __iter__(self) -> Iterator[Session]:
        yield self.live
        for session, _ in self._retiring:
            yield session

    def find(self, session_id: bytes) -> Session:
        """Returns the session whose `our_id` is `session_id`. Raises Dropped(UNKNOWN_SESSION)."""
        for session in self:
            if session.our_id == session_id:
                return session
        raise Dropped(DropReason.UNKNOWN_SESSION)

    def has(self, session_id: bytes) -> bool:
        """Whether a session has this `our_id`."""
        return any(session.our_id == session_id for session in self)

    def replace(self, session: Session, now: float) -> None:
        """Makes `session` the live one; the previous live session retires."""
        self._retiring = [each for each in self._retiring if each[0] is not session]
        replaced, self.live = self.live, session
        self.retire(replaced, now)

    def retire(self, session: Session, now: float) -> None:
        """Retires `session`, which was live or never became so: it only receives from now on."""
        self._retiring = [*self._retiring, (session, now)][-RETIRING_SESSIONS_LIMIT:]
        self._set_live_deadline(now)

    def follow_peer(self, session: Session, now: float) -> bool:
        """Handles a packet on the retiring `session`: makes it live again if the live session has been
        silent for long, because the peer may never have completed that one. Returns whether it did.

        The end that would switch to the session with the larger tiebreaker waits twice as long, so two
        ends do not keep swapping.
        """
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
        """When a retiring session ends, a rekey is due or the live session expires; math.inf: never."""
        return min([self._live_deadline, *(_expires_at(*each) for each in self._retiring)])

    def advance(self, now: float) -> bool:
        """Removes retiring sessions whose timeout has passed. Returns whether there were any."""
        self._set_live_deadline(now)
        if not self._retiring:
            return False
        retiring = [each for each in self._retiring if _expires_at(*each) > now]
        has_expired, self._retiring = len(retiring) < len(self._retiring), retiring
        return has_expired

    def _set_live_deadline(self, now: float) -> None:
        created_at = self.live.created_at
        due = created_at + REKEY_AFTER_S, created_at + REJECT_AFTER_S
        self._live_deadline = min((at for at in due if at > now), default=math.inf)


def supersedes(
    new: EstablishedSession, live: Session, live_epoch: int, our_id: PeerId, now: float
) -> bool:
    """Whether `new` should replace `live`, the session with the same peer from its run `live_epoch`.

    The higher epoch wins, then the newer session; on a simultaneous open, the one initiated by the lower
    peer ID. Both ends decide alike, whichever session they saw first. Should lost packets make them
    disagree after all, `Sessions.follow_peer` resolves it.
    """
    if live.is_expired(now):
        return True
    if new.record.epoch != live_epoch:
        return new.record.epoch > live_epoch
    age_difference_s = new.session.created_at - live.created_at
    is_initiator = new.session.is_initiator
    if is_initiator == live.is_initiator or abs(age_difference_s) > SIMULTANEOUS_DIALS_S:
        return age_difference_s >= 0
    return is_initiator == (our_id < new.record.peer_id)


def _expires_at(session: Session, retired_at: float) -> float:
    expires_at = max(session.last_opened_at, retired_at) + RETIRING_TIMEOUT_S
    return min(expires_at, session.created_at + REJECT_AFTER_S)


def _tiebreaker(session: Session) -> bytes:
    """A value that both ends compute alike."""
    return min(session.our_id, session.their_id)
