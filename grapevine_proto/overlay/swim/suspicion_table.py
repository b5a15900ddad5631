"""What is said against members, and by whom.

What must stay true:

- A case is about one run and incarnation of one member; a higher record of its subject ends it.
- At most `ACCUSERS_LIMIT` speak in one case: one is one voice, however often heard, and three are enough.
- At most `SUSPICIONS_LIMIT` cases; what finds no room is counted, but for what we saw ourselves, which
  takes the place of a case that is settled.
- Whatever changes a case goes through `SuspicionTable`, which knows when each is due without looking at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.swim.suspicion import (
    expected_confirmations,
    min_timeout_s,
    suspicion_timeout_s,
)
from grapevine_proto.timers import TimerQueue
from grapevine_proto.wire.messages import MemberUpdate
from grapevine_proto.wire.signed import Accusation, PeerRecord

ACCUSERS_LIMIT: Final = 3
SUSPICIONS_LIMIT: Final = 1024
UPDATES_PER_MESSAGE: Final = 4  # opinions in one message
UPDATES_MESSAGE_BYTES: Final = 1000
FINAL_QUERIES: Final = 2  # each to other peers: one may be lost, and we may have been asleep
FINAL_QUERY_FRACTION: Final = 1 / 8  # of the least time a suspect has, for answers to each


class Suspicion:
    """What is said against one run and incarnation of a member.

    `is_cleared`: we have heard it ourselves since, so this is only kept to tell it, and to know
    whom to tell when it answers. `accused_by_us`: we are among the accusers, or would be if there were not
    enough already. `queries_sent`: how often others were asked whether they know better, shortly before
    the end.
    `is_declared_dead`: it is held for dead.
    """

    __slots__ = (
        "accusations",
        "accused_by_us",
        "expected_confirmations",
        "is_cleared",
        "is_declared_dead",
        "last_query_at",
        "max_timeout_s",
        "min_timeout_s",
        "opened_at",
        "queries_sent",
        "record",
        "subject_notified_at",
    )

    def __init__(
        self, record: PeerRecord, min_s: float, max_factor: float, expected: int, now: float
    ) -> None:
        self.record = record
        self.accusations: dict[PeerId, Accusation] = {}
        self.opened_at = now
        self.subject_notified_at = -math.inf  # when its subject was last told
        self.min_timeout_s = min_s
        self.max_timeout_s = min_s * max_factor
        self.expected_confirmations = expected
        self.is_cleared = False
        self.accused_by_us = False
        self.is_declared_dead = False
        self.queries_sent = 0
        self.last_query_at = -math.inf

    @property
    def due_at(self) -> float:
        """When something is to be done about it: the last calls, then the end."""
        if self.is_cleared or self.is_declared_dead:
            return self.expires_at
        query_s = FINAL_QUERY_FRACTION * self.min_timeout_s
        return max(
            self.expires_at - (FINAL_QUERIES - self.queries_sent) * query_s,
            self.last_query_at + query_s,
        )

    @property
    def has_sent_queries(self) -> bool:
        """Whether others were asked as often as they are."""
        return self.queries_sent >= FINAL_QUERIES

    @property
    def expires_at(self) -> float:
        """When its subject's time is over."""
        if self.is_declared_dead:
            return math.inf
        confirmations = max(len(self.accusations) - 1, 0)
        if self.is_cleared:
            return self.opened_at + self.max_timeout_s
        return self.opened_at + suspicion_timeout_s(
            self.min_timeout_s, self.max_timeout_s, confirmations, self.expected_confirmations
        )

    @property
    def member_update(self) -> MemberUpdate:
        return MemberUpdate(self.record, tuple(self.accusations.values()))

    def add(self, accusation: Accusation) -> bool:
        """One more voice; False where there are enough."""
        if accusation.accuser in self.accusations or len(self.accusations) >= ACCUSERS_LIMIT:
            return False
        self.accusations[accusation.accuser] = accusation
        return True


class SuspicionTable:
    """All cases, and when their subjects' time is over."""

    def __init__(self) -> None:
        self._suspicions: dict[PeerId, Suspicion] = {}
        self._evictable: dict[PeerId, None] = {}  # over or dismissed: these may make room
        self._timers: TimerQueue[PeerId] = TimerQueue()
        self.rejected = 0

    def get(self, subject: PeerId) -> Suspicion | None:
        return self._suspicions.get(subject)

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._suspicions

    def __len__(self) -> int:
        return len(self._suspicions)

    # --- how a case goes ------------------------------------------------------------------------

    def open(
        self,
        record: PeerRecord,
        now: float,
        *,
        members: int,
        per_decade_s: float,
        max_factor: float,
        accused_by_us: bool,
    ) -> Suspicion | None:
        """The case against what `record` tells of, new where there is none; None: no room for it."""
        suspicion = self._suspicions.get(record.peer_id)
        if suspicion is not None and suspicion.record.version == record.version:
            return suspicion
        if (
            suspicion is None
            and len(self._suspicions) >= SUSPICIONS_LIMIT
            and not self._evict_one(forced=accused_by_us)
        ):
            self.rejected += 1
            return None
        min_s = min_timeout_s(members, per_decade_s)
        suspicion = Suspicion(record, min_s, max_factor, expected_confirmations(members), now)
        self._suspicions[record.peer_id] = suspicion
        self._reschedule(suspicion)
        return suspicion

    def _evict_one(self, *, forced: bool) -> bool:
        subject = next(iter(self._evictable), None)
        if subject is None and forced:
            subject = next(iter(self._suspicions))
        if subject is not None:
            self.close(subject)
        return subject is not None

    def _reschedule(self, suspicion: Suspicion) -> None:
        """Know anew when its time is over, and whether it may make room."""
        subject = suspicion.record.peer_id
        self._timers.schedule(subject, suspicion.due_at)
        if suspicion.is_declared_dead or suspicion.is_cleared:
            self._evictable[subject] = None
        else:
            self._evictable.pop(subject, None)

    def add(self, suspicion: Suspicion, accusation: Accusation) -> bool:
        """One more voice; False where there are enough."""
        is_new = suspicion.add(accusation)
        if is_new:
            self._reschedule(suspicion)
        return is_new

    def clear(self, suspicion: Suspicion, now: float) -> None:
        """Its subject lives: nothing of what was said is believed here."""
        suspicion.is_cleared, suspicion.accused_by_us, suspicion.is_declared_dead = (
            True,
            False,
            False,
        )
        suspicion.opened_at = now
        self._reschedule(suspicion)

    def hold(self, suspicion: Suspicion) -> None:
        """Others accuse somebody to whom we are linked: we look for ourselves first."""
        suspicion.is_cleared = True
        self._reschedule(suspicion)

    def reopen(self, suspicion: Suspicion, now: float) -> None:
        """It was dismissed, and is not any more."""
        suspicion.is_cleared = False
        suspicion.opened_at, suspicion.queries_sent = now, 0
        self._reschedule(suspicion)

    def record_final_query(self, suspicion: Suspicion, now: float) -> None:
        """Others are being asked whether they know better."""
        suspicion.last_query_at = now
        suspicion.queries_sent += 1
        self._reschedule(suspicion)

    def declare_dead(self, suspicion: Suspicion) -> None:
        """Its subject's time is over."""
        suspicion.is_declared_dead = True
        self._reschedule(suspicion)

    def close(self, subject: PeerId) -> Suspicion | None:
        """Nothing is said against it any more."""
        self._timers.cancel(subject)
        self._evictable.pop(subject, None)
        return self._suspicions.pop(subject, None)

    # --- when -----------------------------------------------------------------------------------

    def pop_due(self, now: float) -> list[tuple[PeerId, Suspicion]]:
        """Cases whose subject's time is over or nearly over, each once."""
        return [(subject, self._suspicions[subject]) for subject in self._timers.pop_expired(now)]

    @property
    def deadline(self) -> float:
        """When the next is due."""
        return self._timers.deadline

    def shift_deadlines(self, late_s: float) -> list[Suspicion]:
        """We slept: nobody's time ran. Gives the cases in which we may have missed what was said for their
        subjects meanwhile; others are to be asked anew."""
        for suspicion in self._suspicions.values():
            suspicion.opened_at += late_s
            suspicion.queries_sent = 0
            self._reschedule(suspicion)
        return [
            each
            for each in self._suspicions.values()
            if not (each.is_cleared or each.is_declared_dead)
        ]


def fit_updates(updates: Iterable[MemberUpdate]) -> tuple[MemberUpdate, ...]:
    """As many of them, from the first on, as go into one message."""
    fitting: list[MemberUpdate] = []
    size_bytes = 0
    for update in itertools.islice(updates, UPDATES_PER_MESSAGE):
        size_bytes += update.size_bytes
        if fitting and size_bytes > UPDATES_MESSAGE_BYTES:
            break
        fitting.append(update)
    return tuple(fitting)
