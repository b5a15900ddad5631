"""What the peer is owed, whether or not there is anything else to say.

What must stay true:

- While content comes in, its sender is told what arrived and what is missing, once a round trip, on
  the session that we send on.
- Who began a session hears from us on that one, for it says Empty until it does. The other way round
  nothing is owed, so that two ends never answer each other for ever.
- Each path check is answered once, but for the oldest of more than `ANSWERS_LIMIT`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.codec import encode_frame, encode_message
from grapevine_proto.link.session import Session
from grapevine_proto.link.sessions import Sessions
from grapevine_proto.messages import Empty, Feedback, PathAnswer, PathCheck

ANSWERS_LIMIT: Final = 4  # to path checks, between two times that anything goes

_EMPTY: Final = encode_message(Empty())


class Replies:
    """Driven by the `owe`s as packets come; from `due_at` on by `first` and then `last`, with all else
    that goes between them."""

    __slots__ = ("_answers", "_feedback_at", "_unanswered", "due_at")

    def __init__(self) -> None:
        self.due_at = math.inf  # asked for at every packet, and so kept
        self._feedback_at = math.inf
        self._answers: list[bytes] = []  # to path checks
        self._unanswered: list[Session] = []  # the peer has not heard from us on these, its own

    def owe_feedback(self, session: Session, counter: int, now: float) -> None:
        """The packet with this number carried content."""
        arrivals = session.arrivals
        arrivals.owe(counter, now)
        if arrivals.due_at < self._feedback_at:
            self._feedback_at = arrivals.due_at
            self.due_at = min(self.due_at, self._feedback_at)

    def owe_word(self, session: Session, now: float) -> None:
        """The peer may be waiting to hear from us on `session`."""
        if not session.began_by_us and session not in self._unanswered:
            self._unanswered.append(session)
            self.due_at = min(self.due_at, now)

    def owe_answer(self, check: PathCheck, now: float) -> None:
        """The peer asks whether we are where it sends."""
        self._answers = [*self._answers, encode_frame(PathAnswer(check.token))][-ANSWERS_LIMIT:]
        self.due_at = min(self.due_at, now)

    def first(self, sessions: Sessions, now: float) -> list[bytes]:
        """Datagrams that go before all else."""
        datagrams = self._feedback(sessions, now) if now >= self._feedback_at else []
        datagrams += [sessions.live.seal(answer, now) for answer in self._answers]
        self._answers.clear()
        return datagrams

    def last(self, datagrams: list[bytes], live: Session, now: float) -> None:
        """Add to `datagrams`, all that goes now, what is still owed: whatever goes on the live session
        is answer enough there."""
        is_answered = bool(datagrams)
        for session in self._unanswered:
            if not (session is live and is_answered) and not session.is_spent(now):
                datagrams.append(session.seal(_EMPTY, now))
        self._unanswered.clear()
        self.due_at = self._feedback_at

    def clear(self) -> None:
        """Nothing can be said any more."""
        self._answers.clear()
        self._unanswered.clear()
        self.due_at = self._feedback_at = math.inf

    def _feedback(self, sessions: Sessions, now: float) -> list[bytes]:
        """What the peer is to be told of what it sent, on all sessions that it may have used."""
        datagrams: list[bytes] = []
        self._feedback_at = math.inf
        for session in sessions:
            arrivals = session.arrivals
            if arrivals.due_at <= now:
                first, end, latest, delay_s, missing = arrivals.report(now)
                delay_us = int(delay_s * 1e6)
                told = Feedback(session.our_id, first, end, latest, delay_us, missing)
                datagrams.append(sessions.live.seal(encode_frame(told), now))
            self._feedback_at = min(self._feedback_at, arrivals.due_at)
        return datagrams
