"""Replies that are due on one link: ACKs, session confirmations and path responses.

Invariants:

- Ack-eliciting packets are acknowledged once per RTT, on the live session (RFC 9000, section 13.2). An ACK
  shares a packet that goes anyway, if it fits, and otherwise goes alone when it is due.
- The initiator of a session gets a packet on it, because it sends Confirm until then. The responder is owed
  nothing, so two ends never answer each other endlessly.
- After `stop_acks` nothing is acknowledged: the link has ended, and what still arrives is dropped.
- Each PathChallenge gets one PathResponse; beyond `PATH_RESPONSES_LIMIT` the oldest is evicted.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.transport.session.session import Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import ACK_BYTES, ACK_RANGE_BYTES, encode_frame, encode_message
from grapevine_proto.wire.messages import (
    Ack,
    Confirm,
    PathChallenge,
    PathResponse,
    PiggybackedAck,
)

PATH_RESPONSES_LIMIT: Final = 4  # pending PathResponses

_CONFIRM: Final = encode_message(Confirm())


class PendingReplies:
    """Collects what is due to the peer of `sessions`.

    Call the `schedule_` methods as packets arrive, and `piggyback` for each packet that goes. From `due_at`
    on, call `seal_acks_and_responses`, append all other datagrams, then call `append_confirms`.
    """

    __slots__ = (
        "_ack_at",
        "_has_stopped_acks",
        "_path_responses",
        "_sessions",
        "_sessions_to_confirm",
        "due_at",
    )

    def __init__(self, sessions: Sessions) -> None:
        self.due_at = math.inf  # cached: read for every packet
        self._ack_at = math.inf
        self._has_stopped_acks = False
        self._sessions = sessions
        self._path_responses: list[bytes] = []
        self._sessions_to_confirm: list[Session] = []  # initiated by the peer

    def schedule_ack(
        self, session: Session, counter: int, now: float, max_delay_s: float = 0.0
    ) -> None:
        """Acknowledges the ack-eliciting packet number `counter` of `session` in time. `max_delay_s` is how
        long the peer permits to wait for a packet that the ACK can share."""
        ack_tracker = session.ack_tracker
        ack_tracker.schedule_ack(counter, now, max_delay_s)
        if ack_tracker.due_at < self._ack_at:
            self._ack_at = ack_tracker.due_at
            self.due_at = min(self.due_at, self._ack_at)

    def schedule_confirm(self, session: Session, now: float) -> None:
        """Sends a packet on `session` now if the peer initiated it and may wait for a confirmation."""
        if not session.is_initiator and session not in self._sessions_to_confirm:
            self._sessions_to_confirm.append(session)
            self.due_at = min(self.due_at, now)

    def schedule_path_response(self, challenge: PathChallenge, now: float) -> None:
        """Answers a PathChallenge (RFC 9000, section 8.2.2)."""
        self._path_responses = [*self._path_responses, encode_frame(PathResponse(challenge.token))][
            -PATH_RESPONSES_LIMIT:
        ]
        self.due_at = min(self.due_at, now)

    def piggyback(self, plaintext: bytes, limit_bytes: int, now: float) -> bytes:
        """Returns `plaintext`, which goes now on the live session, together with the pending ACK of that
        session if there is one and both fit `limit_bytes`."""
        session = self._sessions.live
        ack_tracker = session.ack_tracker
        if self._has_stopped_acks or not ack_tracker.can_piggyback(now):
            return plaintext
        ack_bytes = ACK_BYTES + ACK_RANGE_BYTES * ack_tracker.ack_ranges
        if len(plaintext) + ack_bytes > limit_bytes:
            return plaintext
        frame = PiggybackedAck(_build_ack(session, now), plaintext)
        self._ack_at = min(each.ack_tracker.due_at for each in self._sessions)
        if not self._path_responses and not self._sessions_to_confirm:
            self.due_at = self._ack_at
        return encode_frame(frame)

    def seal_acks_and_responses(self, now: float) -> list[bytes]:
        """Returns the path responses and the ACKs that are due."""
        live = self._sessions.live
        datagrams = [live.seal(response, now) for response in self._path_responses]
        self._path_responses.clear()
        if now >= self._ack_at and not self._has_stopped_acks:
            datagrams += self._seal_acks(now)
        return datagrams

    def append_confirms(self, datagrams: list[bytes], now: float) -> None:
        """Appends the pending confirmations to `datagrams`, which holds everything else sent now. Any packet
        on the live session confirms that session."""
        live, live_is_confirmed = self._sessions.live, bool(datagrams)
        for session in self._sessions_to_confirm:
            if not (session is live and live_is_confirmed) and not session.is_expired(now):
                datagrams.append(session.seal(_CONFIRM, now))
        self._sessions_to_confirm.clear()
        self.due_at = self._ack_at

    def stop_acks(self) -> None:
        """Acknowledges nothing from now on: otherwise the peer would take for delivered what is dropped."""
        self._has_stopped_acks = True

    def clear(self) -> None:
        """Discards everything: the session has expired."""
        self._path_responses.clear()
        self._sessions_to_confirm.clear()
        self.due_at = self._ack_at = math.inf

    def _seal_acks(self, now: float) -> list[bytes]:
        """Returns the ACKs that are due, for every session the peer may have sent on."""
        datagrams: list[bytes] = []
        self._ack_at = math.inf
        for session in self._sessions:
            if session.ack_tracker.due_at <= now:
                ack = _build_ack(session, now)
                datagrams.append(self._sessions.live.seal(encode_frame(ack), now))
            self._ack_at = min(self._ack_at, session.ack_tracker.due_at)
        return datagrams


def _build_ack(session: Session, now: float) -> Ack:
    """Returns the ACK of the packets that arrived on `session`."""
    first, end, latest, delay_s, missing = session.ack_tracker.build_ack(now)
    return Ack(session.our_id, first, end, latest, int(delay_s * 1e6), missing)
