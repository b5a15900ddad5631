"""Questions of rounds: whom they keep away, and for how long."""

from __future__ import annotations

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.sync.outstanding_requests import (
    BROKEN_PROMISE_S,
    FIRST_ANSWER_TIMEOUT_S,
    REQUEST_LIFETIME_LIMIT_S,
    REQUESTS_LIMIT,
    OutstandingRequests,
)
from tests.proto.overlay.builders import EPOCH, peer_id


def span(first: int, last: int, origin: int = 90) -> StreamRange:
    return StreamRange(Stream(peer_id(origin), EPOCH), first, last)


def test_what_one_is_asked_for_others_are_not() -> None:
    questions = OutstandingRequests()
    questions.add((peer_id(1), False), (span(1, 5), span(9, 9)), 0.0, 3.0)
    assert questions.unrequested([span(1, 10)], 1.0) == [span(6, 8), span(10, 10)]
    assert questions.unrequested([span(1, 10)], 1.0, exclude=(peer_id(1), False)) == [span(1, 10)]
    assert questions.unrequested([span(1, 10, origin=91)], 1.0) == [span(1, 10, origin=91)]


def test_a_question_that_is_not_answered_is_free_for_others_after_its_time() -> None:
    questions = OutstandingRequests()
    questions.add((peer_id(1), False), (span(1, 5),), 0.0, FIRST_ANSWER_TIMEOUT_S)
    assert questions.unrequested([span(1, 5)], FIRST_ANSWER_TIMEOUT_S - 0.1) == []
    assert questions.unrequested([span(1, 5)], FIRST_ANSWER_TIMEOUT_S) == [span(1, 5)]
    questions.expire(FIRST_ANSWER_TIMEOUT_S)
    assert questions.broken_promises == 1


def test_what_brings_something_new_may_take_longer_but_not_for_ever() -> None:
    questions = OutstandingRequests()
    questions.add((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    now = 0.0
    while now < REQUEST_LIFETIME_LIMIT_S:
        assert questions.unrequested([span(1, 5)], now) == []
        questions.on_progress(peer_id(1), now)
        now += 1.0
    assert questions.unrequested([span(1, 5)], REQUEST_LIFETIME_LIMIT_S) == [span(1, 5)]
    assert questions.broken_promises == 0


def test_parts_of_a_large_message_give_time_but_keep_no_promise() -> None:
    questions = OutstandingRequests()
    questions.add((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    questions.on_fragment(peer_id(1), 2.5)
    assert questions.unrequested([span(1, 5)], 5.0) == []
    questions.expire(5.5)
    assert questions.broken_promises == 1


def test_who_broke_its_promise_keeps_nobody_away_for_a_while() -> None:
    questions = OutstandingRequests()
    questions.add((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    questions.close((peer_id(1), False), 1.0)
    questions.add((peer_id(1), False), (span(1, 5),), 2.0, 3.0)
    assert questions.unrequested([span(1, 5)], 2.0) == [span(1, 5)]
    questions.add((peer_id(1), False), (span(1, 5),), 1.0 + BROKEN_PROMISE_S, 3.0)
    assert questions.unrequested([span(1, 5)], 1.0 + BROKEN_PROMISE_S) == []


def test_one_question_more_than_the_limit_evicts_the_oldest() -> None:
    questions = OutstandingRequests()
    for number in range(REQUESTS_LIMIT + 1):
        asked = (PeerId(number.to_bytes(32, "big")), False)
        questions.add(asked, (span(number + 1, number + 1),), 0.0, 3.0)
    assert len(questions) == REQUESTS_LIMIT
    assert questions.unrequested([span(1, 2)], 0.0) == [span(1, 1)]
    questions.expire(3.0)
    assert len(questions) == 0
    assert len(questions._broken_until) == REQUESTS_LIMIT
    assert not questions._by_stream
