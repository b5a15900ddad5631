"""Sessions of one peer: which ones receive and which one sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.session.session import (
    EstablishedSession,
    Session,
)
from grapevine_proto.transport.session.sessions import (
    Sessions,
    supersedes,
)
from grapevine_proto.wire.codec import Data, decode_packet
from tests.proto.transport.ends import EMPTY, KEY, End

ADA = End("ada", Address("192.0.2.1", 1000))
BOB = End("bob", Address("192.0.2.2", 2000))


def session(mark: int, now: float = 0.0) -> Session:
    our_id, their_id = bytes([mark] * 8), bytes([mark] * 7 + [255])
    return Session(our_id, their_id, KEY, True, bytes(32), bytes(32), now)


def receive_packet(other: Session, now: float) -> None:
    """Receives a packet that the peer sent on this session."""
    ids = other.their_id, other.our_id
    theirs = Session(*ids, KEY, not other.is_initiator, bytes(32), bytes(32), now)
    packet = decode_packet(theirs.seal(EMPTY, now))
    assert isinstance(packet, Data)
    other.open(packet, now)


# --- live and retiring ----------------------------------------------------------------------------


def test_iteration_yields_the_live_session_then_retiring_ones_oldest_first() -> None:
    first, second, third = session(1), session(2), session(3)
    sessions = Sessions(first, 0.0)
    assert list(sessions) == [first]

    sessions.replace(second, 1.0)
    sessions.retire(third, 2.0)
    assert list(sessions) == [second, first, third]
    for each in (first, second, third):
        assert sessions.find(each.our_id) is each


def test_beyond_the_limit_the_oldest_retiring_session_is_removed() -> None:
    retiring = [session(number) for number in range(3)]
    sessions = Sessions(session(9), 0.0)
    for each in retiring:
        sessions.retire(each, 1.0)

    assert list(sessions)[1:] == retiring[1:]
    with pytest.raises(Dropped) as refused:
        sessions.find(retiring[0].our_id)
    assert refused.value.reason is DropReason.UNKNOWN_SESSION


def test_a_session_that_is_live_again_no_longer_retires() -> None:
    first, second = session(1), session(2)
    sessions = Sessions(first, 0.0)
    sessions.replace(second, 1.0)
    sessions.replace(first, 2.0)

    assert list(sessions) == [first, second]


# --- expiry ---------------------------------------------------------------------------------------


def test_a_silent_session_ends_ten_seconds_after_it_was_replaced() -> None:
    first, second = session(1), session(2, 5.0)
    sessions = Sessions(first, 0.0)
    sessions.replace(second, 5.0)
    ends_at = 5.0 + 10.0

    assert sessions.deadline == ends_at
    assert not sessions.advance(ends_at - 0.001)
    assert list(sessions) == [second, first]
    assert sessions.advance(ends_at)
    assert list(sessions) == [second]
    assert not sessions.advance(ends_at + 0.001)


def test_a_retiring_session_ends_ten_seconds_after_its_last_packet() -> None:
    first, second = session(1), session(2, 5.0)
    sessions = Sessions(first, 0.0)
    sessions.replace(second, 5.0)
    receive_packet(first, 12.0)

    assert sessions.deadline == 12.0 + 10.0
    sessions.advance(12.0 + 10.0)
    assert list(sessions) == [second]


def test_no_session_retires_beyond_its_expiry() -> None:
    first, second = session(1), session(2, 179.0)
    sessions = Sessions(first, 0.0)
    sessions.replace(second, 179.0)

    assert sessions.deadline == 180.0
    sessions.advance(180.0)
    assert list(sessions) == [second]


def test_the_deadlines_of_the_live_session_are_rekey_and_expiry() -> None:
    sessions = Sessions(session(1), 0.0)
    deadlines = [sessions.deadline]
    for _ in range(2):
        sessions.advance(deadlines[-1])
        deadlines.append(sessions.deadline)

    assert deadlines == [120.0, 180.0, float("inf")]
    sessions.replace(session(2, 200.0), 200.0)
    sessions.advance(200.0)
    assert sessions.deadline == 200.0 + 120.0


# --- following the peer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current_mark", "other_mark", "patience_s"),
    [(2, 1, 5.0), (1, 2, 10.0)],
)
def test_the_peer_is_followed_after_silence_on_the_live_session_by_tiebreaker(
    current_mark: int, other_mark: int, patience_s: float
) -> None:
    live, other = session(current_mark), session(other_mark)
    sessions = Sessions(live, 0.0)
    sessions.retire(other, 0.0)
    receive_packet(live, 3.0)

    assert not sessions.follow_peer(other, 3.0 + patience_s - 0.001)
    assert list(sessions) == [live, other]
    assert sessions.follow_peer(other, 3.0 + patience_s)
    assert list(sessions) == [other, live]


# --- two ends -------------------------------------------------------------------------------------


def both_sides(began_at: float, by_ada: bool, epoch: int = 1) -> list[EstablishedSession]:
    """One session as Ada sees it and as Bob does."""
    adas_id, bobs_id = b"a%07d" % int(1000 * began_at), b"b%07d" % int(1000 * began_at)
    seen = []
    for them, our_id, their_id, by_us in (
        (BOB, adas_id, bobs_id, by_ada),
        (ADA, bobs_id, adas_id, not by_ada),
    ):
        session = Session(our_id, their_id, KEY, by_us, bytes(32), bytes(32), began_at)
        record = replace(them.record, epoch=epoch)
        seen.append(EstablishedSession(session, record, them.address, None, EMPTY))
    return seen


@pytest.mark.parametrize("first_began", [True, False])
@pytest.mark.parametrize("second_began", [True, False])
@pytest.mark.parametrize("apart_s", [0.0, 0.5, 4.0, 6.0, 60.0])
@pytest.mark.parametrize("skew_s", [-0.4, 0.0, 0.4])
def test_both_ends_choose_the_same_session_in_any_order(
    first_began: bool, second_began: bool, apart_s: float, skew_s: float
) -> None:
    if first_began == second_began:  # one end does not begin two at the same instant
        apart_s = max(apart_s, 0.5)
    one = both_sides(100.0, first_began)
    two = both_sides(100.0 + apart_s, second_began)
    winners = set()
    for side, end in enumerate((ADA, BOB)):
        early, late = one[side], two[side]
        late.session.created_at += skew_s * side  # the ends see it made at other instants
        for known, new in ((early, late), (late, early)):
            wins = supersedes(new, known.session, 1, end.peer_id, 200.0)
            winners.add("one" if (new is early) == wins else "two")

    assert len(winners) == 1
    if first_began == second_began or apart_s > 5.5:
        assert winners == {"two"}
    else:
        smaller_began_one = first_began == (ADA.peer_id < BOB.peer_id)
        assert winners == {"one" if smaller_began_one else "two"}


def test_the_higher_epoch_wins_whatever_the_age_of_its_session() -> None:
    old_run, new_run = (both_sides(100.0, True, epoch)[0] for epoch in (1, 2))
    new_run.session.created_at = 50.0

    assert supersedes(new_run, old_run.session, 1, ADA.peer_id, 101.0)
    assert not supersedes(old_run, new_run.session, 2, ADA.peer_id, 101.0)


def test_any_session_supersedes_an_expired_one() -> None:
    winner = both_sides(0.0, ADA.peer_id < BOB.peer_id)[0]
    other = both_sides(1.0, ADA.peer_id > BOB.peer_id)[0]

    assert not supersedes(other, winner.session, 1, ADA.peer_id, 2.0)
    assert supersedes(other, winner.session, 1, ADA.peer_id, 180.0)


@pytest.mark.parametrize(("apart_s", "is_newest"), [(5.0, False), (5.125, True)])
def test_dials_at_most_five_seconds_apart_are_simultaneous(apart_s: float, is_newest: bool) -> None:
    smaller_dials = ADA.peer_id < BOB.peer_id
    old = both_sides(100.0, smaller_dials)[0]
    new = both_sides(100.0 + apart_s, not smaller_dials)[0]
    assert supersedes(new, old.session, 1, ADA.peer_id, 110.0) is is_newest


def test_of_two_sessions_by_one_end_that_began_together_the_one_completed_last_wins() -> None:
    one, two = both_sides(100.0, True)[0], both_sides(100.0, True)[0]
    assert supersedes(two, one.session, 1, ADA.peer_id, 100.0)
    assert supersedes(one, two.session, 1, ADA.peer_id, 100.0)


def test_a_session_is_known_by_its_own_id_alone() -> None:
    first, second = session(1), session(2)
    sessions = Sessions(first, 0.0)
    sessions.replace(second, 1.0)
    assert sessions.has(first.our_id)
    assert sessions.has(second.our_id)
    assert not sessions.has(first.their_id)
    assert not sessions.has(bytes(8))
