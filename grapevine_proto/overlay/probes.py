"""Probes under way: ours of silent peers, and those that others asked us for.

What must stay true: at most `ERRANDS_LIMIT` probes for others are under way, and each is answered once,
at the latest when its time is over, so that whoever asked knows that we at least are well.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId

ERRANDS_LIMIT: Final = 256
# In one probe, half a timeout apart and a whole one after the last: at 10 % loss each way one probe in
# 4,000 goes unanswered. After the second and the fourth others are asked as well.
PINGS: Final = 5


class Probe:
    """Our probe of one silent peer. After `PINGS` it is judged, and if accused pinged on, so that it
    hears of it."""

    __slots__ = (
        "asked",
        "began_at",
        "has_answers",
        "is_accused",
        "is_vouched",
        "next_at",
        "number",
        "pings",
    )

    def __init__(self, number: int, now: float, next_at: float) -> None:
        self.number = number
        self.began_at = now
        self.next_at = next_at
        self.pings = 1
        self.asked: set[PeerId] = set()
        self.is_accused = False
        self.has_answers = False  # of those asked: so it is not us
        self.is_vouched = False  # somebody heard it


class Errand(NamedTuple):
    """`asker` wants to know by `until` whether the peer lives; `number` is the asker's."""

    asker: PeerId
    number: int
    until: float


class Errands:
    """Probes for others, by whom they are about."""

    def __init__(self) -> None:
        self._errands: dict[PeerId, list[Errand]] = {}
        self._count = 0
        self.refused = 0

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._errands

    def __len__(self) -> int:
        return self._count

    def add(self, subject: PeerId, errand: Errand) -> bool:
        """One more; False, and counted, where there are too many."""
        if self._count >= ERRANDS_LIMIT:
            self.refused += 1
            return False
        self._errands.setdefault(subject, []).append(errand)
        self._count += 1
        return True

    def done(self, subject: PeerId) -> list[Errand]:
        """Who asked after `subject`; all are to be answered now."""
        done = self._errands.pop(subject, [])
        self._count -= len(done)
        return done

    def overdue(self, now: float) -> list[Errand]:
        """Errands whose time is over, to be answered with no."""
        over: list[Errand] = []
        for subject, errands in list(self._errands.items()):
            late = [each for each in errands if each.until <= now]
            if late:
                over += late
                self._errands[subject] = [each for each in errands if each.until > now]
                if not self._errands[subject]:
                    del self._errands[subject]
        self._count -= len(over)
        return over

    @property
    def deadline(self) -> float:
        """When the next one is overdue."""
        return min(
            (each.until for errands in self._errands.values() for each in errands),
            default=math.inf,
        )
