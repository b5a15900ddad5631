"""What is said against members, and by whom.

What must stay true:

- A case is about one run and incarnation of one member; a higher record of its subject ends it.
- At most `ACCUSERS` speak in one case: one is one voice, however often heard, and three are enough.
- At most `CASES_LIMIT` cases; what finds no room is counted, but for what we saw ourselves, which
  takes the place of a case that is settled.
- Whatever changes a case goes through `Cases`, which knows when each is due without looking at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Final

from grapevine_proto.agenda import Agenda
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Opinion
from grapevine_proto.overlay.suspicion import expected_confirmations, least_s, timeout_s
from grapevine_proto.signed import Accusation, Record

ACCUSERS: Final = 3
CASES_LIMIT: Final = 1024
TOLD_AT_ONCE: Final = 4  # opinions in one message
TOLD_BYTES: Final = 1000
LAST_CALLS: Final = 2  # each to other peers: one may be lost, and we may have been asleep
CALL_SHARE: Final = 1 / 8  # of the least time a suspect has, for answers to each


class Case:
    """What is said against one run and incarnation of a member.

    `is_dismissed`: we have heard it ourselves since, so this is only kept to tell it, and to know
    whom to tell when it answers. `is_ours`: we are among the accusers, or would be if there were not
    enough already. `calls`: how often others were asked whether they know better, shortly before the end.
    `is_over`: it is held for dead.
    """

    __slots__ = (
        "accusations",
        "called_at",
        "calls",
        "expected",
        "is_dismissed",
        "is_ours",
        "is_over",
        "least_s",
        "most_s",
        "opened_at",
        "record",
        "told_at",
    )

    def __init__(
        self, record: Record, least: float, factor: float, expected: int, now: float
    ) -> None:
        self.record = record
        self.accusations: dict[PeerId, Accusation] = {}
        self.opened_at = now
        self.told_at = -math.inf  # when its subject was last told
        self.least_s = least
        self.most_s = least * factor
        self.expected = expected
        self.is_dismissed = False
        self.is_ours = False
        self.is_over = False
        self.calls = 0
        self.called_at = -math.inf

    @property
    def due_at(self) -> float:
        """When something is to be done about it: the last calls, then the end."""
        if self.is_dismissed or self.is_over:
            return self.closes_at
        call_s = CALL_SHARE * self.least_s
        return max(self.closes_at - (LAST_CALLS - self.calls) * call_s, self.called_at + call_s)

    @property
    def is_called_for(self) -> bool:
        """Whether others were asked as often as they are."""
        return self.calls >= LAST_CALLS

    @property
    def closes_at(self) -> float:
        """When its subject's time is over."""
        if self.is_over:
            return math.inf
        confirmations = max(len(self.accusations) - 1, 0)
        if self.is_dismissed:
            return self.opened_at + self.most_s
        return self.opened_at + timeout_s(self.least_s, self.most_s, confirmations, self.expected)

    @property
    def opinion(self) -> Opinion:
        return Opinion(self.record, tuple(self.accusations.values()))

    def add(self, accusation: Accusation) -> bool:
        """One more voice; False where there are enough."""
        if accusation.accuser in self.accusations or len(self.accusations) >= ACCUSERS:
            return False
        self.accusations[accusation.accuser] = accusation
        return True


class Cases:
    """All cases, and when their subjects' time is over."""

    def __init__(self) -> None:
        self._cases: dict[PeerId, Case] = {}
        self._settled: dict[PeerId, None] = {}  # over or dismissed: these may make room
        self._agenda: Agenda[PeerId] = Agenda()
        self.refused = 0

    def get(self, subject: PeerId) -> Case | None:
        return self._cases.get(subject)

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._cases

    def __len__(self) -> int:
        return len(self._cases)

    # --- how a case goes ------------------------------------------------------------------------

    def open(
        self,
        record: Record,
        now: float,
        *,
        members: int,
        per_decade_s: float,
        factor: float,
        is_ours: bool,
    ) -> Case | None:
        """The case against what `record` tells of, new where there is none; None: no room for it."""
        case = self._cases.get(record.peer_id)
        if case is not None and case.record.version == record.version:
            return case
        if case is None and len(self._cases) >= CASES_LIMIT and not self._make_room(forced=is_ours):
            self.refused += 1
            return None
        least = least_s(members, per_decade_s)
        case = Case(record, least, factor, expected_confirmations(members), now)
        self._cases[record.peer_id] = case
        self._changed(case)
        return case

    def _make_room(self, *, forced: bool) -> bool:
        subject = next(iter(self._settled), None)
        if subject is None and forced:
            subject = next(iter(self._cases))
        if subject is not None:
            self.close(subject)
        return subject is not None

    def _changed(self, case: Case) -> None:
        """Know anew when its time is over, and whether it may make room."""
        subject = case.record.peer_id
        self._agenda.plan(subject, case.due_at)
        if case.is_over or case.is_dismissed:
            self._settled[subject] = None
        else:
            self._settled.pop(subject, None)

    def add(self, case: Case, accusation: Accusation) -> bool:
        """One more voice; False where there are enough."""
        is_new = case.add(accusation)
        if is_new:
            self._changed(case)
        return is_new

    def dismiss(self, case: Case, now: float) -> None:
        """Its subject lives: nothing of what was said is believed here."""
        case.is_dismissed, case.is_ours, case.is_over = True, False, False
        case.opened_at = now
        self._changed(case)

    def doubt(self, case: Case) -> None:
        """Others accuse somebody to whom we are linked: we look for ourselves first."""
        case.is_dismissed = True
        self._changed(case)

    def reopen(self, case: Case, now: float) -> None:
        """It was dismissed, and is not any more."""
        case.is_dismissed = False
        case.opened_at, case.calls = now, 0
        self._changed(case)

    def call(self, case: Case, now: float) -> None:
        """Others are being asked whether they know better."""
        case.called_at = now
        case.calls += 1
        self._changed(case)

    def convict(self, case: Case) -> None:
        """Its subject's time is over."""
        case.is_over = True
        self._changed(case)

    def close(self, subject: PeerId) -> Case | None:
        """Nothing is said against it any more."""
        self._agenda.drop(subject)
        self._settled.pop(subject, None)
        return self._cases.pop(subject, None)

    # --- when -----------------------------------------------------------------------------------

    def due(self, now: float) -> list[tuple[PeerId, Case]]:
        """Cases whose subject's time is over or nearly over, each once."""
        return [(subject, self._cases[subject]) for subject in self._agenda.due(now)]

    @property
    def deadline(self) -> float:
        """When the next is due."""
        return self._agenda.deadline

    def forgive(self, late_s: float) -> list[Case]:
        """We slept: nobody's time ran. Gives the cases in which we may have missed what was said for their
        subjects meanwhile; others are to be asked anew."""
        for case in self._cases.values():
            case.opened_at += late_s
            case.calls = 0
            self._changed(case)
        return [each for each in self._cases.values() if not (each.is_dismissed or each.is_over)]


def message_of(opinions: Iterable[Opinion]) -> tuple[Opinion, ...]:
    """As many of them, from the first on, as go into one message."""
    told: list[Opinion] = []
    size_bytes = 0
    for opinion in itertools.islice(opinions, TOLD_AT_ONCE):
        size_bytes += opinion.size_bytes
        if told and size_bytes > TOLD_BYTES:
            break
        told.append(opinion)
    return tuple(told)
