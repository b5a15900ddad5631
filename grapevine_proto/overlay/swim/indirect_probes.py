"""Probes in progress: our own of unresponsive peers, and indirect probes that others requested
(SWIM, Das 2002, section 3.1).

Invariants:

- At most `INDIRECT_PROBES_LIMIT` indirect probes are in progress.
- Each is answered exactly once, at the latest when it expires, so that the requester knows that
  this helper is alive.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.timers import TimerQueue

INDIRECT_PROBES_LIMIT: Final = 256
PROBE_NUMBER_MODULUS: Final = 1 << 32
# Half a timeout apart, with a full one after the last: at 10 % loss each way one probe in 4,000
# goes unanswered. After the second and the fourth ping, others are asked to ping as well.
PINGS_PER_PROBE: Final = 5


class Probe:
    """Our probe of one peer. The first ping is sent at `started_at` if the peer is still silent.

    After `PINGS_PER_PROBE` pings the peer is judged. If accused, it is pinged on, so that it learns
    of the accusation.
    """

    __slots__ = (
        "has_helper_answers",
        "heard_by_others",
        "helpers",
        "is_accused",
        "number",
        "pings_sent",
        "started_at",
    )

    def __init__(self, number: int, started_at: float) -> None:
        self.number = number
        self.started_at = started_at
        self.pings_sent = 0
        self.helpers: dict[PeerId, float] = {}  # helper: when it was asked
        self.is_accused = False
        self.has_helper_answers = False  # at least one did, so our own connectivity works
        self.heard_by_others = False  # a helper reached it


class ProbeTable:
    """Our probes in progress, by peer."""

    def __init__(self) -> None:
        self._probes: dict[PeerId, Probe] = {}
        self.subjects = self._probes.keys()  # a live view, for the path of every packet
        self._by_number: dict[int, PeerId] = {}
        self._timers: TimerQueue[PeerId] = TimerQueue()
        self._last_number = 0

    def __contains__(self, peer_id: PeerId) -> bool:
        return peer_id in self._probes

    def __len__(self) -> int:
        return len(self._probes)

    def get(self, peer_id: PeerId) -> Probe | None:
        return self._probes.get(peer_id)

    def find_by_number(self, number: int) -> Probe | None:
        """The probe with `number`, which helpers echo."""
        peer_id = self._by_number.get(number)
        return None if peer_id is None else self._probes.get(peer_id)

    def start(self, peer_id: PeerId, at: float) -> Probe:
        """Start a probe of `peer_id` that replaces an earlier one; its first step is due at `at`."""
        self.remove(peer_id)
        self._last_number = (self._last_number + 1) % PROBE_NUMBER_MODULUS
        self._probes[peer_id] = probe = Probe(self._last_number, at)
        self._by_number[self._last_number] = peer_id
        self._timers.schedule(peer_id, at)
        return probe

    def reschedule(self, peer_id: PeerId, at: float) -> None:
        """Make the next step due at `at`."""
        if peer_id in self._probes:
            self._timers.schedule(peer_id, at)

    def expedite(self, peer_id: PeerId, at: float) -> None:
        """Make the next step due at `at`, if it was due later."""
        self.reschedule(peer_id, min(at, self._timers.deadline_of(peer_id)))

    def remove(self, peer_id: PeerId) -> Probe | None:
        """End the probe and return it, if any."""
        probe = self._probes.pop(peer_id, None)
        if probe is not None:
            del self._by_number[probe.number]
            self._timers.cancel(peer_id)
        return probe

    def pop_due(self, now: float) -> list[tuple[PeerId, Probe]]:
        """Probes whose next step is due, each once; the caller calls `reschedule`."""
        return [(peer_id, self._probes[peer_id]) for peer_id in self._timers.pop_expired(now)]

    @property
    def deadline(self) -> float:
        return self._timers.deadline

    def shift_deadlines(self, late_s: float) -> None:
        """Shift all probes by `late_s`, during which this node was stalled and could not receive
        answers.
        """
        for peer_id, probe in self._probes.items():
            probe.started_at += late_s
            self._timers.schedule(peer_id, self._timers.deadline_of(peer_id) + late_s)


class IndirectProbe(NamedTuple):
    """`requester` asked whether a peer is alive and expects an answer by `expires_at`; `number` is
    its own.
    """

    requester: PeerId
    number: int
    expires_at: float


class IndirectProbes:
    """Probes requested by others, by subject."""

    def __init__(self) -> None:
        self._by_subject: dict[PeerId, list[IndirectProbe]] = {}
        self.subjects = self._by_subject.keys()  # a live view, for the path of every packet
        self._timers: TimerQueue[PeerId] = TimerQueue()
        self._count = 0
        self.rejected = 0

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._by_subject

    def __len__(self) -> int:
        return self._count

    def add(self, subject: PeerId, indirect_probe: IndirectProbe) -> bool:
        """Add a probe; False, and counted in `rejected`, at the limit."""
        if self._count >= INDIRECT_PROBES_LIMIT:
            self.rejected += 1
            return False
        self._by_subject.setdefault(subject, []).append(indirect_probe)
        self._count += 1
        self._schedule(subject)
        return True

    def _schedule(self, subject: PeerId) -> None:
        self._timers.schedule(subject, min(each.expires_at for each in self._by_subject[subject]))

    def pop_subject(self, subject: PeerId) -> list[IndirectProbe]:
        """Remove and return all probes of `subject`, to be answered now."""
        done = self._by_subject.pop(subject, [])
        self._timers.cancel(subject)
        self._count -= len(done)
        return done

    def pop_expired(self, now: float) -> list[IndirectProbe]:
        """Remove and return expired probes, to be answered negatively."""
        expired: list[IndirectProbe] = []
        for subject in self._timers.pop_expired(now):
            indirect_probes = self._by_subject.pop(subject)
            expired += [each for each in indirect_probes if each.expires_at <= now]
            remaining = [each for each in indirect_probes if each.expires_at > now]
            if remaining:
                self._by_subject[subject] = remaining
                self._schedule(subject)
        self._count -= len(expired)
        return expired

    @property
    def deadline(self) -> float:
        """When the next probe expires."""
        return self._timers.deadline
