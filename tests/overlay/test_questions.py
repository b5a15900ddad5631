"""Questions of rounds: whom they keep away, and for how long."""

from __future__ import annotations

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.questions import (
    ANSWER_S,
    BROKEN_S,
    QUESTION_LIMIT_S,
    QUESTIONS_LIMIT,
    Questions,
)
from tests.overlay.made import EPOCH, peer_id


def span(first: int, last: int, origin: int = 90) -> StreamRange:
    return StreamRange(Stream(peer_id(origin), EPOCH), first, last)


def test_what_one_is_asked_for_others_are_not() -> None:
    questions = Questions()
    questions.ask((peer_id(1), False), (span(1, 5), span(9, 9)), 0.0, 3.0)
    assert questions.free([span(1, 10)], 1.0) == [span(6, 8), span(10, 10)]
    assert questions.free([span(1, 10)], 1.0, but=(peer_id(1), False)) == [span(1, 10)]
    assert questions.free([span(1, 10, origin=91)], 1.0) == [span(1, 10, origin=91)]


def test_a_question_that_is_not_answered_is_free_for_others_after_its_time() -> None:
    questions = Questions()
    questions.ask((peer_id(1), False), (span(1, 5),), 0.0, ANSWER_S)
    assert questions.free([span(1, 5)], ANSWER_S - 0.1) == []
    assert questions.free([span(1, 5)], ANSWER_S) == [span(1, 5)]
    questions.expire(ANSWER_S)
    assert questions.broken == 1


def test_what_brings_something_new_may_take_longer_but_not_for_ever() -> None:
    questions = Questions()
    questions.ask((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    now = 0.0
    while now < QUESTION_LIMIT_S:
        assert questions.free([span(1, 5)], now) == []
        questions.brought(peer_id(1), now)
        now += 1.0
    assert questions.free([span(1, 5)], QUESTION_LIMIT_S) == [span(1, 5)]
    assert questions.broken == 0


def test_parts_of_a_large_message_give_time_but_keep_no_promise() -> None:
    questions = Questions()
    questions.ask((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    questions.arriving(peer_id(1), 2.5)
    assert questions.free([span(1, 5)], 5.0) == []
    questions.expire(5.5)
    assert questions.broken == 1


def test_who_broke_its_promise_keeps_nobody_away_for_a_while() -> None:
    questions = Questions()
    questions.ask((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    questions.close((peer_id(1), False), 1.0)
    questions.ask((peer_id(1), False), (span(1, 5),), 2.0, 3.0)
    assert questions.free([span(1, 5)], 2.0) == [span(1, 5)]
    questions.ask((peer_id(1), False), (span(1, 5),), 1.0 + BROKEN_S, 3.0)
    assert questions.free([span(1, 5)], 1.0 + BROKEN_S) == []


def test_one_question_more_than_the_limit_evicts_the_oldest() -> None:
    questions = Questions()
    for number in range(QUESTIONS_LIMIT + 1):
        asked = (PeerId(number.to_bytes(32, "big")), False)
        questions.ask(asked, (span(number + 1, number + 1),), 0.0, 3.0)
    assert len(questions) == QUESTIONS_LIMIT
    assert questions.free([span(1, 2)], 0.0) == [span(1, 1)]
    questions.expire(3.0)
    assert len(questions) == 0
    assert len(questions._broken) == QUESTIONS_LIMIT
    assert not questions._by_stream
