"""What the peer is owed, whether or not there is anything else to say.

What must stay true:

- While content comes in, its sender is told what arrived and what is missing, once a round trip, on
  the session that we send on.
- Who began a session hears from us on that one, for it says Empty until it does. The other way round
  nothing is owed, so that two ends never answer each other for ever.
- Each path check is answered once, but for the oldest of more than `PATH_RESPONSES_LIMIT`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.transport.session.session import Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import encode_frame, encode_message
from grapevine_proto.wire.messages import Ack, Confirm, PathChallenge, PathResponse

PATH_RESPONSES_LIMIT: Final = 4  # to path checks, between two times that anything goes

_CONFIRM: Final = encode_message(Confirm())


class PendingReplies:
    """Driven by the `owe`s as packets come; from `due_at` on by `seal_acks_and_responses` and then
    `append_confirms`, with all else
    that goes between them."""

    __slots__ = ("_ack_at", "_path_responses", "_sessions_to_confirm", "due_at")

    def __init__(self) -> None:
        self.due_at = math.inf  # asked for at every packet, and so kept
        self._ack_at = math.inf
        self._path_responses: list[bytes] = []  # to path checks
        self._sessions_to_confirm: list[
            Session
        ] = []  # the peer has not heard from us on these, its own

    def schedule_ack(self, session: Session, counter: int, now: float) -> None:
        """The packet with this number carried content."""
        ack_tracker = session.ack_tracker
        ack_tracker.schedule_ack(counter, now)
        if ack_tracker.due_at < self._ack_at:
            self._ack_at = ack_tracker.due_at
            self.due_at = min(self.due_at, self._ack_at)

    def schedule_confirm(self, session: Session, now: float) -> None:
        """The peer may be waiting to hear from us on `session`."""
        if not session.is_initiator and session not in self._sessions_to_confirm:
            self._sessions_to_confirm.append(session)
            self.due_at = min(self.due_at, now)

    def schedule_path_response(self, challenge: PathChallenge, now: float) -> None:
        """The peer asks whether we are where it sends."""
        self._path_responses = [*self._path_responses, encode_frame(PathResponse(challenge.token))][
            -PATH_RESPONSES_LIMIT:
        ]
        self.due_at = min(self.due_at, now)

    def seal_acks_and_responses(self, sessions: Sessions, now: float) -> list[bytes]:
        """Datagrams that go before all else."""
        datagrams = self._seal_acks(sessions, now) if now >= self._ack_at else []
        datagrams += [sessions.live.seal(response, now) for response in self._path_responses]
        self._path_responses.clear()
        return datagrams

    def append_confirms(self, datagrams: list[bytes], live: Session, now: float) -> None:
        """Add to `datagrams`, all that goes now, what is still owed: whatever goes on the live session
        is answer enough there."""
        live_is_confirmed = bool(datagrams)
        for session in self._sessions_to_confirm:
            if not (session is live and live_is_confirmed) and not session.is_expired(now):
                datagrams.append(session.seal(_CONFIRM, now))
        self._sessions_to_confirm.clear()
        self.due_at = self._ack_at

    def clear(self) -> None:
        """Nothing can be said any more."""
        self._path_responses.clear()
        self._sessions_to_confirm.clear()
        self.due_at = self._ack_at = math.inf

    def _seal_acks(self, sessions: Sessions, now: float) -> list[bytes]:
        """What the peer is to be told of what it sent, on all sessions that it may have used."""
        datagrams: list[bytes] = []
        self._ack_at = math.inf
        for session in sessions:
            ack_tracker = session.ack_tracker
            if ack_tracker.due_at <= now:
                first, end, latest, delay_s, missing = ack_tracker.build_ack(now)
                delay_us = int(delay_s * 1e6)
                ack = Ack(session.our_id, first, end, latest, delay_us, missing)
                datagrams.append(sessions.live.seal(encode_frame(ack), now))
            self._ack_at = min(self._ack_at, ack_tracker.due_at)
        return datagrams
