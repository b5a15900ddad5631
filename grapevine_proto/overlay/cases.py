"""What is said against members, by whom, and what of it is still to be told on.

What must stay true:

- A case is about one run and incarnation of one member; a higher record of its subject ends it.
- At most `ACCUSERS` speak in one case: one is one voice, however often heard, and three are enough.
- At most `CASES_LIMIT` cases; what finds no room is counted, but for what we saw ourselves, which
  takes the place of a case that is settled.
- Each change is told a bounded number of times, the least told first (SWIM, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Opinion
from grapevine_proto.overlay.suspicion import expected_confirmations, least_s, timeout_s
from grapevine_proto.signed import Accusation, Record

ACCUSERS: Final = 3
CASES_LIMIT: Final = 1024
TOLD_AT_ONCE: Final = 4  # opinions in one message
TOLD_BYTES: Final = 1000
NEWS_LIMIT: Final = 1024


class Case:
    """What is said against one run and incarnation of a member.

    `is_dismissed`: we have heard it ourselves since, so this is only kept to tell it, and to know
    whom to tell when it answers. `is_ours`: we are among the accusers, or would be if there were not
    enough already. `is_over`: it is held for dead.
    """

    __slots__ = (
        "accusations",
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
    """All cases, and the news."""

    def __init__(self) -> None:
        self._cases: dict[PeerId, Case] = {}
        self._news: dict[PeerId, tuple[Record, int]] = {}  # and how often it is still to be told
        self.refused = 0

    def get(self, subject: PeerId) -> Case | None:
        return self._cases.get(subject)

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._cases

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[tuple[PeerId, Case]]:
        return iter(list(self._cases.items()))

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
        return case

    def _make_room(self, *, forced: bool) -> bool:
        for subject, case in self._cases.items():
            if case.is_over or case.is_dismissed:
                self.close(subject)
                return True
        if forced:
            self.close(next(iter(self._cases)))
        return forced

    def close(self, subject: PeerId) -> Case | None:
        """Nothing is said against it any more."""
        self._news.pop(subject, None)
        return self._cases.pop(subject, None)

    def due(self, now: float) -> list[tuple[PeerId, Case]]:
        """Cases whose subject's time is over."""
        return [(subject, case) for subject, case in self._cases.items() if case.closes_at <= now]

    @property
    def deadline(self) -> float:
        """When the next is due."""
        return min((case.closes_at for case in self._cases.values()), default=math.inf)

    def forgive(self, late_s: float) -> None:
        """We slept: nobody's time ran."""
        for case in self._cases.values():
            case.opened_at += late_s

    # --- telling --------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def spread(self, record: Record, times: int) -> None:
        """What is thought of `record`'s subject has changed: tell it so many times."""
        self._news.pop(record.peer_id, None)
        if len(self._news) >= NEWS_LIMIT:
            del self._news[next(iter(self._news))]  # the one longest told
        self._news[record.peer_id] = (record, times)

    def tell(self, times: int) -> tuple[Opinion, ...]:
        """News for one message, the least told first, counted as told so many times more."""
        told: list[Opinion] = []
        size_bytes = 0
        waiting = sorted(self._news.items(), key=lambda item: -item[1][1])
        for subject, (record, left) in waiting[:TOLD_AT_ONCE]:
            case = self._cases.get(subject)
            is_doubted = case is not None and not case.is_dismissed
            opinion = case.opinion if case is not None and is_doubted else Opinion(record)
            if told and size_bytes + opinion.size_bytes > TOLD_BYTES:
                break
            told.append(opinion)
            size_bytes += opinion.size_bytes
            if left > times:
                self._news[subject] = (record, left - times)
            else:
                del self._news[subject]
        return tuple(told)
