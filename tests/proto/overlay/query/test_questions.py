"""Questions: answered once and in time; large answers wait for their origin, within limits."""

from __future__ import annotations

import pytest

from grapevine_proto.overlay.query.questions import (
    Questions,
)
from grapevine_proto.wire.query_terms import MAX_LARGE_ANSWER_BYTES
from grapevine_proto.wire.signed import (
    MAX_ANSWER_BYTES,
    MAX_ANSWERS_PER_MEMBER,
    AnswerCode,
    LargeAnswer,
    QueryAnswer,
)
from tests.proto.overlay.builders import peer_id
from tests.proto.overlay.trace.traces import message_id

US = peer_id(500)
ANSWER = AnswerCode.ANSWER


def asked(count: int = 1, *, max_answer_bytes: int = MAX_LARGE_ANSWER_BYTES) -> Questions:
    questions = Questions(US)
    for sequence in range(1, count + 1):
        questions.add(message_id(sequence), 2, 70, 5.0, max_answer_bytes)
    return questions


def test_an_answer_states_what_the_question_traveled() -> None:
    answer = asked().answer(message_id(), 0, ANSWER, b"yes", 1.0)
    assert answer == QueryAnswer(US, 0, 2, 70, ANSWER, b"yes")


def test_a_question_is_answered_once_per_index_after_one_ack() -> None:
    questions = asked()
    assert questions.answer(message_id(), 0, AnswerCode.ACK, b"", 1.0) is not None
    assert questions.answer(message_id(), 0, AnswerCode.ACK, b"", 1.0) is None
    assert questions.answer(message_id(), 0, ANSWER, b"yes", 1.0) is not None
    assert questions.answer(message_id(), 0, ANSWER, b"no", 1.0) is None
    assert questions.answer(message_id(), 0, AnswerCode.ACK, b"", 1.0) is None
    last = MAX_ANSWERS_PER_MEMBER - 1
    assert questions.answer(message_id(), last, ANSWER, b"yes", 1.0) is not None
    assert questions.answer(message_id(), last + 1, ANSWER, b"yes", 1.0) is None
    assert questions.answer(message_id(), -1, ANSWER, b"yes", 1.0) is None


def test_a_question_is_not_answered_after_its_deadline() -> None:
    questions = asked()
    assert questions.is_pending(message_id(), 4.9)
    assert not questions.is_pending(message_id(), 5.0)
    assert questions.answer(message_id(), 0, ANSWER, b"late", 5.0) is None
    assert questions.answer(message_id(7), 0, ANSWER, b"unknown", 1.0) is None
    questions.expire(5.0)
    assert not questions._questions


def test_questions_are_limited() -> None:
    questions = asked(81)
    assert not questions.is_pending(message_id(1), 1.0)
    assert questions.is_pending(message_id(2), 1.0)
    assert len(questions._questions) == 80


@pytest.mark.parametrize("size", [MAX_ANSWER_BYTES, MAX_ANSWER_BYTES + 1])
def test_an_answer_that_does_not_fit_is_described_and_kept(size: int) -> None:
    questions, body = asked(), bytes(size)
    answer = questions.answer(message_id(), 1, ANSWER, body, 1.0)
    assert answer is not None
    if size <= MAX_ANSWER_BYTES:
        assert (answer.status, answer.payload) == (ANSWER, body)
        assert questions.fetch(message_id(), 1, 1.0) is None
        return
    assert answer.status is AnswerCode.LARGE
    large = LargeAnswer.parse(answer.payload)
    assert large is not None
    assert large.size_bytes == size
    fetched = questions.fetch(message_id(), 1, 1.0)
    assert fetched == QueryAnswer(US, 1, 0, 0, ANSWER, body)  # from its member itself
    assert large.describes(fetched.payload)
    assert questions.fetch(message_id(), 0, 1.0) is None


def test_an_answer_larger_than_wanted_is_a_failure() -> None:
    answer = asked(max_answer_bytes=2000).answer(message_id(), 0, ANSWER, bytes(2001), 1.0)
    assert answer is not None
    assert answer.status is AnswerCode.FAILED
    assert answer.payload == b"the answer has 2,001 bytes; at most 2,000 are wanted"


def test_reasons_are_cut_to_what_fits() -> None:
    answer = asked().answer(message_id(), 0, AnswerCode.FAILED, bytes(5000), 1.0)
    assert answer is not None
    assert len(answer.payload) == MAX_ANSWER_BYTES


def test_a_large_answer_is_kept_for_a_while_and_served_a_few_times() -> None:
    questions = asked()
    questions.answer(message_id(), 0, ANSWER, bytes(5000), 1.0)
    served = [questions.fetch(message_id(), 0, 1.0) for _ in range(5)]
    assert [each is not None for each in served] == [True] * 4 + [False]
    questions = asked()
    questions.answer(message_id(), 0, ANSWER, bytes(5000), 1.0)
    assert questions.fetch(message_id(), 0, 30.9) is not None
    assert questions.fetch(message_id(), 0, 31.0) is None


def test_large_answers_are_limited_in_bytes() -> None:
    fitting = (1 << 20) // MAX_LARGE_ANSWER_BYTES
    questions = asked(fitting + 1)
    for sequence in range(1, fitting + 2):
        questions.answer(message_id(sequence), 0, ANSWER, bytes(MAX_LARGE_ANSWER_BYTES), 1.0)
    assert questions._large_bytes == (1 << 20)
    assert questions.fetch(message_id(1), 0, 1.0) is None
    assert questions.fetch(message_id(2), 0, 1.0) is not None


def test_an_answer_as_large_as_wanted_is_sent() -> None:
    answer = asked(max_answer_bytes=1000).answer(message_id(), 0, ANSWER, bytes(1000), 1.0)
    assert answer is not None
    assert (answer.status, len(answer.payload)) == (ANSWER, 1000)


def test_bodies_that_are_kept_no_longer_leave_room_for_others() -> None:
    questions = Questions(US)
    for sequence, now in ((1, 0.0), (2, 20.0), (3, 30.0)):
        questions.add(message_id(sequence), 2, 70, now + 5.0, MAX_LARGE_ANSWER_BYTES)
        questions.answer(message_id(sequence), 0, ANSWER, bytes(5000 * sequence), now)
    assert questions._large_bytes == 25_000, "the first was kept for 30 s"
    assert questions.fetch(message_id(1), 0, 30.0) is None
    assert questions.fetch(message_id(2), 0, 49.9) is not None
    assert questions.fetch(message_id(2), 0, 50.0) is None
    assert questions.fetch(message_id(3), 0, 50.0) is not None
