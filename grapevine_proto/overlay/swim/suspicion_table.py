"""The suspicion table: open suspicions with their accusers and timers (Lifeguard, Dadgar 2018,
section IV B).

Invariants:

- A suspicion is about one epoch and incarnation of one member; a newer record of its subject ends
  it.
- At most `ACCUSERS_LIMIT` distinct accusers count.
- At most `SUSPICIONS_LIMIT` suspicions. Beyond that new ones are counted and dropped, except our
  own, which evict a settled one.
- A suspicion that expires is handed out once (`pop_due`); `Detector` declares the member down.
- Only `SuspicionTable` changes a suspicion, so that its timers stay correct without a scan.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.swim.lifeguard import (
    expected_confirmations,
    min_timeout_s,
    suspicion_timeout_s,
)
from grapevine_proto.timers import TimerQueue
from grapevine_proto.wire.messages import MemberUpdate
from grapevine_proto.wire.signed import Accusation, PeerRecord

ACCUSERS_LIMIT: Final = 3
SUSPICIONS_LIMIT: Final = 1024
UPDATES_PER_MESSAGE: Final = 4  # updates in one message
UPDATES_MESSAGE_BYTES: Final = 1000
FINAL_QUERIES: Final = 2  # each to other peers: one may be lost, and we may have been stalled
FINAL_QUERY_FRACTION: Final = 1 / 8  # of the minimum timeout, to wait for answers to each


class Suspicion:
    """The accusations against one epoch and incarnation of a member.

    `is_cleared`: we have heard from it since. The suspicion is kept to send it to its subject, and
    to know which peers to correct when it refutes. `accused_by_us`: we are among the accusers, or
    would be if the limit were not reached. `queries_sent`: final queries sent to others shortly
    before the timeout. `is_declared_dead`: the timeout expired.
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
        self.subject_notified_at = -math.inf  # when the accusations were last sent to it
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
        """When to act next: the final queries, then the timeout."""
        if self.is_cleared or self.is_declared_dead:
            return self.expires_at
        query_s = FINAL_QUERY_FRACTION * self.min_timeout_s
        return max(
            self.expires_at - (FINAL_QUERIES - self.queries_sent) * query_s,
            self.last_query_at + query_s,
        )

    @property
    def has_sent_queries(self) -> bool:
        """Whether all final queries have been sent."""
        return self.queries_sent >= FINAL_QUERIES

    @property
    def expires_at(self) -> float:
        """When the suspicion times out, in monotonic seconds; math.inf once declared dead."""
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

    def on_subject_notified(self, now: float) -> None:
        """The accusations are sent to the subject now."""
        self.subject_notified_at = now

    def add(self, accusation: Accusation) -> bool:
        """Add an accusation; False if its accuser is known or the limit is reached."""
        if accusation.accuser in self.accusations or len(self.accusations) >= ACCUSERS_LIMIT:
            return False
        self.accusations[accusation.accuser] = accusation
        return True


class SuspicionTable:
    """All suspicions, with their timers."""

    def __init__(self) -> None:
        self._suspicions: dict[PeerId, Suspicion] = {}
        self.subjects = self._suspicions.keys()  # a live view, for the path of every packet
        self._evictable: dict[PeerId, None] = {}  # cleared or declared dead
        self._timers: TimerQueue[PeerId] = TimerQueue()
        self.rejected = 0

    def get(self, subject: PeerId) -> Suspicion | None:
        return self._suspicions.get(subject)

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._suspicions

    def __len__(self) -> int:
        return len(self._suspicions)

    # --- lifecycle ------------------------------------------------------------------------------

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
        """The suspicion of `record`, opened if there is none; None at the limit.

        `members` is the cluster size, `per_decade_s` and `max_factor` define the timeouts, and
        `accused_by_us` allows the eviction of another suspicion.
        """
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
        """Update the timer of a suspicion and whether it is evictable."""
        subject = suspicion.record.peer_id
        self._timers.schedule(subject, suspicion.due_at)
        if suspicion.is_declared_dead or suspicion.is_cleared:
            self._evictable[subject] = None
        else:
            self._evictable.pop(subject, None)

    def add_own(self, suspicion: Suspicion, accusation: Accusation) -> None:
        """Add an accusation of this node."""
        suspicion.accused_by_us = True
        self.add(suspicion, accusation)

    def add(self, suspicion: Suspicion, accusation: Accusation) -> bool:
        """Add an accusation; False if its accuser is known or the limit is reached."""
        is_new = suspicion.add(accusation)
        if is_new:
            self._reschedule(suspicion)
        return is_new

    def clear(self, suspicion: Suspicion, now: float) -> None:
        """The subject is alive: disregard all accusations here."""
        suspicion.is_cleared, suspicion.accused_by_us, suspicion.is_declared_dead = (
            True,
            False,
            False,
        )
        suspicion.opened_at = now
        self._reschedule(suspicion)

    def hold(self, suspicion: Suspicion) -> None:
        """Hold a suspicion of a linked member until we have probed it ourselves."""
        suspicion.is_cleared = True
        self._reschedule(suspicion)

    def reopen(self, suspicion: Suspicion, now: float) -> None:
        """Make a cleared suspicion active again and restart its timeout."""
        suspicion.is_cleared = False
        suspicion.opened_at, suspicion.queries_sent = now, 0
        self._reschedule(suspicion)

    def record_final_query(self, suspicion: Suspicion, now: float) -> None:
        """Count a final query sent to others."""
        suspicion.last_query_at = now
        suspicion.queries_sent += 1
        self._reschedule(suspicion)

    def declare_dead(self, suspicion: Suspicion) -> None:
        """The timeout expired: declare the subject dead."""
        suspicion.is_declared_dead = True
        self._reschedule(suspicion)

    def close(self, subject: PeerId) -> Suspicion | None:
        """Remove and return the suspicion of `subject`, if any."""
        self._timers.cancel(subject)
        self._evictable.pop(subject, None)
        return self._suspicions.pop(subject, None)

    # --- timers ---------------------------------------------------------------------------------

    def pop_due(self, now: float) -> list[tuple[PeerId, Suspicion]]:
        """Suspicions with a final query or a timeout due, each once."""
        return [(subject, self._suspicions[subject]) for subject in self._timers.pop_expired(now)]

    @property
    def deadline(self) -> float:
        """When the next suspicion is due."""
        return self._timers.deadline

    def shift_deadlines(self, late_s: float) -> list[Suspicion]:
        """Shift all timeouts by `late_s`, during which this node was stalled. Returns the active
        suspicions, whose refutations may have been missed; the caller sends final queries again.
        """
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
    """The longest prefix of `updates` that fits one message."""
    fitting: list[MemberUpdate] = []
    size_bytes = 0
    for update in itertools.islice(updates, UPDATES_PER_MESSAGE):
        size_bytes += update.size_bytes
        if fitting and size_bytes > UPDATES_MESSAGE_BYTES:
            break
        fitting.append(update)
    return tuple(fitting)
