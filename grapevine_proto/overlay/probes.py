"""Probes under way: ours of silent peers, and those that others asked us for.

What must stay true: at most `ERRANDS_LIMIT` probes for others are under way, and each is answered once,
at the latest when its time is over, so that whoever asked knows that we at least are well.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from grapevine_proto.agenda import Agenda
from grapevine_proto.ids import PeerId

ERRANDS_LIMIT: Final = 256
NUMBER_LIMIT: Final = 1 << 32
# In one probe, half a timeout apart and a whole one after the last: at 10 % loss each way one probe in
# 4,000 goes unanswered. After the second and the fourth others are asked as well.
PINGS: Final = 5


class Probe:
    """Our probe of one peer, from `began_at` on, when its first ping is sent if it is silent still. After
    `PINGS` it is judged, and if accused pinged on, so that it hears of it."""

    __slots__ = (
        "asked",
        "began_at",
        "has_answers",
        "is_accused",
        "is_vouched",
        "number",
        "pings",
    )

    def __init__(self, number: int, began_at: float) -> None:
        self.number = number
        self.began_at = began_at
        self.pings = 0
        self.asked: dict[PeerId, float] = {}  # to help, and when
        self.is_accused = False
        self.has_answers = False  # of those asked: so it is not us
        self.is_vouched = False  # somebody heard it


class Probes:
    """Ours that are under way, by whom they are of."""

    def __init__(self) -> None:
        self._probes: dict[PeerId, Probe] = {}
        self._by_number: dict[int, PeerId] = {}
        self._agenda: Agenda[PeerId] = Agenda()
        self._number = 0

    def __contains__(self, peer_id: PeerId) -> bool:
        return peer_id in self._probes

    def __len__(self) -> int:
        return len(self._probes)

    def get(self, peer_id: PeerId) -> Probe | None:
        return self._probes.get(peer_id)

    def numbered(self, number: int) -> Probe | None:
        """The one with that number, which those who were asked to help give back."""
        peer_id = self._by_number.get(number)
        return None if peer_id is None else self._probes.get(peer_id)

    def begin(self, peer_id: PeerId, at: float) -> Probe:
        """A new one, in place of any before; its first step is due at `at`."""
        self.end(peer_id)
        self._number = (self._number + 1) % NUMBER_LIMIT
        self._probes[peer_id] = probe = Probe(self._number, at)
        self._by_number[self._number] = peer_id
        self._agenda.plan(peer_id, at)
        return probe

    def go_on(self, peer_id: PeerId, at: float) -> None:
        """Its next step is due at `at`."""
        if peer_id in self._probes:
            self._agenda.plan(peer_id, at)

    def hurry(self, peer_id: PeerId, at: float) -> None:
        """Its next step is due at `at`, or sooner where it was before."""
        self.go_on(peer_id, min(at, self._agenda.at(peer_id)))

    def end(self, peer_id: PeerId) -> Probe | None:
        """The one that there was."""
        probe = self._probes.pop(peer_id, None)
        if probe is not None:
            del self._by_number[probe.number]
            self._agenda.drop(peer_id)
        return probe

    def due(self, now: float) -> list[tuple[PeerId, Probe]]:
        """Those whose next step is due, each once: `go_on` says when again."""
        return [(peer_id, self._probes[peer_id]) for peer_id in self._agenda.due(now)]

    @property
    def deadline(self) -> float:
        return self._agenda.deadline

    def forgive(self, late_s: float) -> None:
        """We slept: nobody had the time to answer."""
        for peer_id, probe in self._probes.items():
            probe.began_at += late_s
            self._agenda.plan(peer_id, self._agenda.at(peer_id) + late_s)


class Errand(NamedTuple):
    """`asker` wants to know by `until` whether the peer lives; `number` is the asker's."""

    asker: PeerId
    number: int
    until: float


class Errands:
    """Probes for others, by whom they are about."""

    def __init__(self) -> None:
        self._errands: dict[PeerId, list[Errand]] = {}
        self._agenda: Agenda[PeerId] = Agenda()
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
        self._plan(subject)
        return True

    def _plan(self, subject: PeerId) -> None:
        self._agenda.plan(subject, min(each.until for each in self._errands[subject]))

    def done(self, subject: PeerId) -> list[Errand]:
        """Who asked after `subject`; all are to be answered now."""
        done = self._errands.pop(subject, [])
        self._agenda.drop(subject)
        self._count -= len(done)
        return done

    def overdue(self, now: float) -> list[Errand]:
        """Errands whose time is over, to be answered with no."""
        over: list[Errand] = []
        for subject in self._agenda.due(now):
            errands = self._errands.pop(subject)
            over += [each for each in errands if each.until <= now]
            left = [each for each in errands if each.until > now]
            if left:
                self._errands[subject] = left
                self._plan(subject)
        self._count -= len(over)
        return over

    @property
    def deadline(self) -> float:
        """When the next one is overdue."""
        return self._agenda.deadline
