"""The suspicion table: three accusers, one incarnation, and a limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grapevine_proto.overlay.swim import suspicion_table as suspicion_table
from grapevine_proto.overlay.swim.suspicion_table import (
    SUSPICIONS_LIMIT,
    Suspicion,
    SuspicionTable,
    fit_updates,
)
from grapevine_proto.wire.messages import MemberUpdate
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import identity, peer_id, record


def open_suspicion(
    suspicions: SuspicionTable,
    subject_record: PeerRecord,
    now: float = 0.0,
    *,
    accused_by_us: bool = False,
) -> Suspicion | None:
    return suspicions.open(
        subject_record,
        now,
        members=100,
        per_decade_s=4.0,
        max_factor=6.0,
        accused_by_us=accused_by_us,
    )


def accusation(number: int, subject_record: PeerRecord) -> Accusation:
    return Accusation.signed(identity(number), "default", subject_record)


def bare(number: int) -> PeerRecord:
    """A record whose signature is not checked."""
    public_key = (number).to_bytes(32, "big")
    return PeerRecord(type(peer_id(1))(public_key), 1, 0, (), "", "", 0, 0, False, bytes(64))


def test_an_accusation_is_valid_for_one_epoch_and_incarnation_of_one_member() -> None:
    signed = accusation(1, record(2))
    assert signed.is_authentic("default", record(2))
    assert not signed.is_authentic("other", record(2))
    assert not signed.is_authentic("default", record(2, incarnation=1))
    assert not signed.is_authentic("default", record(2, epoch=record(2).epoch + 1))
    assert not signed.is_authentic("default", record(3))
    assert not Accusation(peer_id(4), signed.signature).is_authentic("default", record(2))


def test_three_distinct_accusers_give_the_minimum_timeout() -> None:
    suspicion = open_suspicion(SuspicionTable(), record(9))
    assert suspicion is not None
    assert suspicion.expires_at == 48.0
    assert suspicion.add(accusation(1, record(9)))
    assert not suspicion.add(accusation(1, record(9)))
    assert suspicion.expires_at == 48.0, "the same accuser counts once"
    assert suspicion.add(accusation(2, record(9)))
    assert suspicion.add(accusation(3, record(9)))
    assert suspicion.expires_at == 8.0
    assert not suspicion.add(accusation(4, record(9)))
    assert len(suspicion.member_update.accusations) == 3


def test_a_newer_incarnation_opens_another_suspicion() -> None:
    suspicions = SuspicionTable()
    first = open_suspicion(suspicions, record(9))
    assert first is not None
    first.add(accusation(1, record(9)))
    assert open_suspicion(suspicions, record(9)) is first
    later = open_suspicion(suspicions, record(9, incarnation=1))
    assert later is not None
    assert later.accusations == {}
    assert len(suspicions) == 1


def test_two_final_queries_precede_the_timeout() -> None:
    suspicions = SuspicionTable()
    open_suspicion(suspicions, record(9))
    assert suspicions.pop_due(45.9) == [], "two eighths of the minimum timeout before"
    [(subject, suspicion)] = suspicions.pop_due(46.0)
    assert subject == peer_id(9)
    suspicions.record_final_query(suspicion, 46.0)
    assert suspicions.pop_due(46.9) == []
    assert suspicions.pop_due(47.0) == [(subject, suspicion)]
    suspicions.record_final_query(suspicion, 47.0)
    assert suspicion.has_sent_queries
    assert suspicions.pop_due(47.9) == []
    assert suspicions.pop_due(48.0) == [(subject, suspicion)]
    suspicions.declare_dead(suspicion)
    assert suspicions.deadline == math.inf


def test_a_stall_shifts_the_timeout_and_repeats_final_queries() -> None:
    suspicions = SuspicionTable()
    open_suspicion(suspicions, record(9))
    [(_, suspicion)] = suspicions.pop_due(46.0)
    suspicions.record_final_query(suspicion, 46.0)
    assert suspicions.shift_deadlines(10.0) == [suspicion]
    assert suspicions.pop_due(55.9) == []
    assert suspicions.pop_due(56.0) == [(peer_id(9), suspicion)]
    suspicions.clear(suspicion, 56.0)
    assert suspicions.shift_deadlines(1.0) == []


def test_final_queries_are_sent_even_if_three_late_accusers_shorten_the_timeout() -> None:
    suspicions = SuspicionTable()
    suspicion = open_suspicion(suspicions, record(9))
    assert suspicion is not None
    for accuser in (1, 2, 3):
        suspicions.add(suspicion, accusation(accuser, record(9)))
    for queried_at in (40.0, 41.0):
        [(_, due)] = suspicions.pop_due(queried_at)
        assert not due.has_sent_queries
        suspicions.record_final_query(due, queried_at)
    assert suspicions.deadline == 42.0


def test_beyond_the_limit_a_suspicion_is_rejected_unless_it_is_our_own() -> None:
    suspicions = SuspicionTable()
    for number in range(SUSPICIONS_LIMIT):
        assert open_suspicion(suspicions, bare(number)) is not None
    assert open_suspicion(suspicions, bare(SUSPICIONS_LIMIT)) is None
    assert (len(suspicions), suspicions.rejected) == (SUSPICIONS_LIMIT, 1)
    assert open_suspicion(suspicions, bare(SUSPICIONS_LIMIT), accused_by_us=True) is not None
    assert len(suspicions) == SUSPICIONS_LIMIT


def test_at_the_limit_a_settled_suspicion_is_evicted() -> None:
    suspicions = SuspicionTable()
    for number in range(SUSPICIONS_LIMIT):
        open_suspicion(suspicions, bare(number))
    settled = suspicions.get(bare(7).peer_id)
    assert settled is not None
    suspicions.declare_dead(settled)
    assert open_suspicion(suspicions, bare(SUSPICIONS_LIMIT)) is not None
    assert bare(7).peer_id not in suspicions
    assert (len(suspicions), suspicions.rejected) == (SUSPICIONS_LIMIT, 0)


def test_work_does_not_grow_with_the_number_of_suspicions(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    suspicions = SuspicionTable()
    for number in range(500):
        open_suspicion(suspicions, bare(number), now=number)
    suspicion = suspicions.get(bare(499).peer_id)
    assert suspicion is not None
    evaluations = 0

    def count(suspicion: Suspicion) -> float:
        nonlocal evaluations
        evaluations += 1
        return suspicion.opened_at + suspicion.max_timeout_s

    patch_sources.setattr(Suspicion, "expires_at", property(count))
    for now in range(50):
        suspicions.clear(suspicion, 500.0 + now)
        assert suspicions.deadline == 46.0
    assert evaluations == 50, "only the suspicion that changed"


def test_updates_in_a_message_carry_accusations_and_fit_one_datagram() -> None:
    suspicions = SuspicionTable()
    updates = []
    for number in range(1, 6):
        suspicion = open_suspicion(suspicions, record(number))
        assert suspicion is not None
        for accuser in (11, 12, 13):
            suspicions.add(suspicion, accusation(accuser, record(number)))
        updates.append(suspicion.member_update)
    fitting = fit_updates(updates)
    assert fitting == tuple(updates[: len(fitting)])
    assert sum(update.size_bytes for update in fitting) <= suspicion_table.UPDATES_MESSAGE_BYTES
    assert fit_updates([]) == ()


# --- at the limits ------------------------------------------------------------------------------


def test_a_suspicion_without_answers_sends_two_final_queries_before_its_timeout() -> None:
    suspicions = SuspicionTable()
    suspicion = open_suspicion(suspicions, record(9))
    assert suspicion is not None
    assert (suspicion.expires_at, suspicion.due_at) == (48.0, 46.0), (
        "an eighth of eight seconds each"
    )
    asked = [suspicion.has_sent_queries]
    suspicions.record_final_query(suspicion, 46.0)
    assert suspicion.due_at == suspicions.deadline == 47.0
    asked.append(suspicion.has_sent_queries)
    suspicions.record_final_query(suspicion, 47.5)  # late: each still waits for its answers
    assert [*asked, suspicion.has_sent_queries] == [False, False, True]
    assert suspicion.due_at == 48.5
    suspicions.declare_dead(suspicion)
    assert suspicion.due_at == suspicions.deadline == math.inf


def test_a_suspicion_that_is_cleared_is_kept_for_the_maximum_and_sends_no_query() -> None:
    suspicions = SuspicionTable()
    suspicion = open_suspicion(suspicions, record(9), accused_by_us=True)
    assert suspicion is not None
    suspicion.accused_by_us = True
    suspicions.declare_dead(suspicion)
    suspicions.clear(suspicion, 10.0)
    assert suspicion.due_at == suspicion.expires_at == suspicions.deadline == 58.0
    assert (suspicion.is_cleared, suspicion.accused_by_us, suspicion.is_declared_dead) == (
        True,
        False,
        False,
    )
    suspicions.record_final_query(suspicion, 10.0)
    suspicions.reopen(suspicion, 20.0)
    assert (suspicion.queries_sent, suspicion.expires_at) == (0, 68.0)
    assert not suspicion.is_cleared


def test_a_new_suspicion_was_sent_to_no_peer() -> None:
    suspicion = open_suspicion(SuspicionTable(), record(9))
    assert suspicion is not None
    assert (suspicion.subject_notified_at, suspicion.last_query_at) == (-math.inf, -math.inf)
    assert suspicion.queries_sent == 0
    assert not (suspicion.is_cleared)
    assert not (suspicion.accused_by_us)
    assert not (suspicion.is_declared_dead)


def test_the_same_version_keeps_its_suspicion_and_a_newer_one_replaces_it() -> None:
    suspicions = SuspicionTable()
    suspicion = open_suspicion(suspicions, record(9))
    assert open_suspicion(suspicions, record(9), 5.0) is suspicion
    newer = open_suspicion(suspicions, record(9, incarnation=1), 5.0)
    assert newer is not suspicion
    assert newer is suspicions.get(peer_id(9))
    assert len(suspicions) == 1
    assert suspicions.close(peer_id(9)) is newer
    assert suspicions.close(peer_id(9)) is None


def test_the_1025th_suspicion_is_rejected_unless_one_is_settled_or_it_is_our_own() -> None:
    suspicions = SuspicionTable()
    for number in range(1024):
        assert open_suspicion(suspicions, bare(number))
    assert open_suspicion(suspicions, bare(2000)) is None
    assert (len(suspicions), suspicions.rejected) == (1024, 1)
    settled = suspicions.get(bare(5).peer_id)
    assert settled is not None
    suspicions.hold(settled)
    assert open_suspicion(suspicions, bare(2001))
    assert bare(5).peer_id not in suspicions
    assert open_suspicion(suspicions, bare(2002), accused_by_us=True)
    assert bare(0).peer_id not in suspicions, "the oldest makes room for our own"
    assert (len(suspicions), suspicions.rejected) == (1024, 1)
    reopened = suspicions.get(bare(6).peer_id)
    assert reopened is not None
    suspicions.hold(reopened)
    suspicions.reopen(reopened, 0.0)
    assert open_suspicion(suspicions, bare(2003)) is None, "an active one is not evicted"


def test_after_a_stall_timeouts_move_and_active_suspicions_ask_again() -> None:
    suspicions = SuspicionTable()
    active, held, dead = (open_suspicion(suspicions, record(number)) for number in (1, 2, 3))
    assert active is not None
    assert held is not None
    assert dead is not None
    suspicions.hold(held)
    suspicions.declare_dead(dead)
    suspicions.record_final_query(active, 1.0)
    assert suspicions.shift_deadlines(2.5) == [active]
    assert (active.opened_at, active.queries_sent, active.expires_at) == (2.5, 0, 50.5)
    assert suspicions.deadline == active.due_at == 48.5


def update_of_size(size_bytes: int) -> MemberUpdate:
    update = MemberUpdate(replace(record(1), zone="", name=""))
    padded = replace(update.record, name="n" * (size_bytes - update.size_bytes))
    return MemberUpdate(padded)


@pytest.mark.parametrize(
    ("sizes", "fitting"),
    [
        ([500, 500], 2),
        ([500, 501], 1),
        ([1001], 1),
        ([200, 200, 200, 200, 200], 4),
        ([250, 250, 250, 250], 4),
        ([250, 250, 250, 251], 3),
        ([], 0),
    ],
)
def test_a_message_holds_at_most_four_updates_and_a_thousand_bytes(
    sizes: list[int], fitting: int
) -> None:
    updates = [update_of_size(size) for size in sizes]
    assert fit_updates(updates) == tuple(updates[:fitting])


def test_final_queries_are_spread_over_a_quarter_of_the_minimum_timeout() -> None:
    suspicions = SuspicionTable()
    suspicion = suspicions.open(
        record(9), 0.0, members=10_000, per_decade_s=4.0, max_factor=6.0, accused_by_us=False
    )
    assert suspicion is not None
    assert (suspicion.expires_at, suspicion.due_at) == (96.0, 92.0)
    suspicions.record_final_query(suspicion, 50.0)  # after a stall, say
    assert suspicion.due_at == 94.0
