"""What is said against members: three voices, one incarnation, and a cap on all of it."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.overlay.swim import suspicion_table as cases_module
from grapevine_proto.overlay.swim.suspicion_table import (
    SUSPICIONS_LIMIT,
    Suspicion,
    SuspicionTable,
    fit_updates,
)
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import identity, peer_id, record


def open_case(
    cases: SuspicionTable, against: PeerRecord, now: float = 0.0, *, is_ours: bool = False
) -> Suspicion | None:
    return cases.open(
        against, now, members=100, per_decade_s=4.0, max_factor=6.0, accused_by_us=is_ours
    )


def accusation(number: int, against: PeerRecord) -> Accusation:
    return Accusation.signed(identity(number), "default", against)


def bare(number: int) -> PeerRecord:
    """A record that nobody checks."""
    who = (number).to_bytes(32, "big")
    return PeerRecord(type(peer_id(1))(who), 1, 0, (), "", "", 0, 0, False, bytes(64))


def test_an_accusation_counts_for_one_run_and_incarnation_of_one_member() -> None:
    said = accusation(1, record(2))
    assert said.is_authentic("default", record(2))
    assert not said.is_authentic("other", record(2))
    assert not said.is_authentic("default", record(2, incarnation=1))
    assert not said.is_authentic("default", record(2, epoch=record(2).epoch + 1))
    assert not said.is_authentic("default", record(3))
    assert not Accusation(peer_id(4), said.signature).is_authentic("default", record(2))


def test_three_voices_are_enough_and_the_same_one_counts_once() -> None:
    case = open_case(SuspicionTable(), record(9))
    assert case is not None
    assert case.expires_at == 48.0
    assert case.add(accusation(1, record(9)))
    assert not case.add(accusation(1, record(9)))
    assert case.expires_at == 48.0, "one voice, however often"
    assert case.add(accusation(2, record(9)))
    assert case.add(accusation(3, record(9)))
    assert case.expires_at == 8.0
    assert not case.add(accusation(4, record(9)))
    assert len(case.member_update.accusations) == 3


def test_a_later_incarnation_is_another_case() -> None:
    cases = SuspicionTable()
    first = open_case(cases, record(9))
    assert first is not None
    first.add(accusation(1, record(9)))
    assert open_case(cases, record(9)) is first
    later = open_case(cases, record(9, incarnation=1))
    assert later is not None
    assert later.accusations == {}
    assert len(cases) == 1


def test_before_its_subjects_time_is_over_others_are_asked_twice() -> None:
    cases = SuspicionTable()
    open_case(cases, record(9))
    assert cases.pop_due(45.9) == [], "two eighths of the least time before"
    [(subject, case)] = cases.pop_due(46.0)
    assert subject == peer_id(9)
    cases.record_final_query(case, 46.0)
    assert cases.pop_due(46.9) == []
    assert cases.pop_due(47.0) == [(subject, case)]
    cases.record_final_query(case, 47.0)
    assert case.has_sent_queries
    assert cases.pop_due(47.9) == []
    assert cases.pop_due(48.0) == [(subject, case)]
    cases.declare_dead(case)
    assert cases.deadline == math.inf


def test_what_we_slept_does_not_count_and_whoever_was_asked_before_is_asked_anew() -> None:
    cases = SuspicionTable()
    open_case(cases, record(9))
    [(_, case)] = cases.pop_due(46.0)
    cases.record_final_query(case, 46.0)
    assert cases.shift_deadlines(10.0) == [case]
    assert cases.pop_due(55.9) == []
    assert cases.pop_due(56.0) == [(peer_id(9), case)]
    cases.clear(case, 56.0)
    assert cases.shift_deadlines(1.0) == []


def test_who_is_accused_by_three_at_once_late_is_called_for_before_the_end_all_the_same() -> None:
    cases = SuspicionTable()
    case = open_case(cases, record(9))
    assert case is not None
    for accuser in (1, 2, 3):
        cases.add(case, accusation(accuser, record(9)))
    for called_at in (40.0, 41.0):
        [(_, due)] = cases.pop_due(called_at)
        assert not due.has_sent_queries
        cases.record_final_query(due, called_at)
    assert cases.deadline == 42.0


def test_at_the_cap_one_more_case_is_refused_and_counted_but_not_what_we_saw_ourselves() -> None:
    cases = SuspicionTable()
    for number in range(SUSPICIONS_LIMIT):
        assert open_case(cases, bare(number)) is not None
    assert open_case(cases, bare(SUSPICIONS_LIMIT)) is None
    assert (len(cases), cases.rejected) == (SUSPICIONS_LIMIT, 1)
    assert open_case(cases, bare(SUSPICIONS_LIMIT), is_ours=True) is not None
    assert len(cases) == SUSPICIONS_LIMIT


def test_at_the_cap_a_settled_case_makes_room() -> None:
    cases = SuspicionTable()
    for number in range(SUSPICIONS_LIMIT):
        open_case(cases, bare(number))
    settled = cases.get(bare(7).peer_id)
    assert settled is not None
    cases.declare_dead(settled)
    assert open_case(cases, bare(SUSPICIONS_LIMIT)) is not None
    assert bare(7).peer_id not in cases
    assert (len(cases), cases.rejected) == (SUSPICIONS_LIMIT, 0)


def test_work_does_not_grow_with_how_many_cases_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = SuspicionTable()
    for number in range(500):
        open_case(cases, bare(number), now=number)
    case = cases.get(bare(499).peer_id)
    assert case is not None
    looked_at = 0

    def count(case: Suspicion) -> float:
        nonlocal looked_at
        looked_at += 1
        return case.opened_at + case.max_timeout_s

    monkeypatch.setattr(Suspicion, "expires_at", property(count))
    for now in range(50):
        cases.clear(case, 500.0 + now)
        assert cases.deadline == 46.0
    assert looked_at == 50, "only the one that changed"


def test_an_opinion_in_a_message_carries_what_is_said_and_fits_one_datagram() -> None:
    cases = SuspicionTable()
    opinions = []
    for number in range(1, 6):
        case = open_case(cases, record(number))
        assert case is not None
        for accuser in (11, 12, 13):
            cases.add(case, accusation(accuser, record(number)))
        opinions.append(case.member_update)
    told = fit_updates(opinions)
    assert told == tuple(opinions[: len(told)])
    assert sum(opinion.size_bytes for opinion in told) <= cases_module.UPDATES_MESSAGE_BYTES
    assert fit_updates([]) == ()
