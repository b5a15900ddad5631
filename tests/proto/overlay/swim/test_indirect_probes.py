"""Indirect probes: bounded in number, each answered once."""

from __future__ import annotations

import math

from grapevine_proto.overlay.swim.indirect_probes import (
    INDIRECT_PROBES_LIMIT,
    IndirectProbe,
    IndirectProbes,
    ProbeTable,
)
from tests.proto.overlay.builders import peer_id

REQUESTER, SUBJECT, OTHER = peer_id(1), peer_id(2), peer_id(3)


def test_requesters_are_answered_when_the_subject_is_heard() -> None:
    indirect_probes = IndirectProbes()
    indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, 7, 1.0))
    indirect_probes.add(SUBJECT, IndirectProbe(OTHER, 9, 1.0))
    assert SUBJECT in indirect_probes
    assert [(each.requester, each.number) for each in indirect_probes.pop_subject(SUBJECT)] == [
        (REQUESTER, 7),
        (OTHER, 9),
    ]
    assert indirect_probes.pop_subject(SUBJECT) == []
    assert indirect_probes.pop_expired(2.0) == []


def test_expired_probes_are_answered_negatively() -> None:
    indirect_probes = IndirectProbes()
    indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, 7, 1.0))
    indirect_probes.add(SUBJECT, IndirectProbe(OTHER, 9, 2.0))
    assert indirect_probes.deadline == 1.0
    assert [each.number for each in indirect_probes.pop_expired(1.0)] == [7]
    assert indirect_probes.deadline == 2.0
    assert [each.number for each in indirect_probes.pop_expired(5.0)] == [9]
    assert (len(indirect_probes), indirect_probes.deadline) == (0, math.inf)


def test_a_probe_beyond_the_limit_is_rejected_and_counted() -> None:
    indirect_probes = IndirectProbes()
    for number in range(INDIRECT_PROBES_LIMIT):
        assert indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, number, 1.0))
    assert not indirect_probes.add(OTHER, IndirectProbe(REQUESTER, 0, 1.0))
    assert (len(indirect_probes), indirect_probes.rejected) == (INDIRECT_PROBES_LIMIT, 1)
    indirect_probes.pop_subject(SUBJECT)
    assert indirect_probes.add(OTHER, IndirectProbe(REQUESTER, 0, 1.0))


def test_the_limit_is_256_whatever_their_subjects() -> None:
    indirect_probes = IndirectProbes()
    for number in range(256):
        assert indirect_probes.add(peer_id(number % 5), IndirectProbe(REQUESTER, number, 1.0))
    assert not indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, 999, 1.0))
    assert len(indirect_probes.pop_expired(1.0)) == 256
    assert len(indirect_probes) == 0


def test_a_new_probe_has_sent_and_heard_nothing() -> None:
    probe = ProbeTable().start(SUBJECT, 3.0)
    assert (probe.number, probe.started_at, probe.pings_sent) == (1, 3.0, 0)
    assert probe.helpers == {}
    assert not (probe.is_accused)
    assert not (probe.has_helper_answers)
    assert not (probe.heard_by_others)


def test_probes_are_found_by_their_numbers_which_grow_by_one() -> None:
    probes = ProbeTable()
    first, second = probes.start(SUBJECT, 0.0), probes.start(OTHER, 0.0)
    assert (first.number, second.number) == (1, 2)
    assert probes.find_by_number(1) is first
    assert probes.find_by_number(2) is second
    assert probes.find_by_number(3) is None
    assert probes.start(SUBJECT, 1.0).number == 3
    assert probes.find_by_number(1) is None, "a new probe replaces the earlier one"
    assert len(probes) == 2


def test_probe_numbers_fit_four_bytes() -> None:
    probes = ProbeTable()
    probes._last_number = 2**32 - 2
    assert [probes.start(SUBJECT, 0.0).number for _ in range(2)] == [2**32 - 1, 0]


def test_a_probe_is_due_at_its_step_and_only_once() -> None:
    probes = ProbeTable()
    probe = probes.start(SUBJECT, 1.0)
    assert probes.pop_due(0.9) == []
    assert probes.pop_due(1.0) == [(SUBJECT, probe)]
    assert probes.pop_due(9.0) == []
    probes.reschedule(SUBJECT, 2.0)
    probes.expedite(SUBJECT, 3.0)
    assert probes.deadline == 2.0, "expediting never postpones"
    probes.expedite(SUBJECT, 1.5)
    assert probes.deadline == 1.5
    assert probes.remove(SUBJECT) is probe
    assert probes.remove(SUBJECT) is None
    probes.reschedule(SUBJECT, 4.0)
    assert (probes.deadline, len(probes)) == (math.inf, 0)


def test_after_a_stall_all_probes_begin_later_by_its_length() -> None:
    probes = ProbeTable()
    probe = probes.start(SUBJECT, 1.0)
    probes.shift_deadlines(2.5)
    assert (probe.started_at, probes.deadline) == (3.5, 3.5)
