"""Fetches of large answers: a few at a time, each checked, and given up after a few tries."""

from __future__ import annotations

import math
from dataclasses import replace

from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.query.fetches import (
    AnswerFetcher,
    FailedFetch,
)
from grapevine_proto.wire.messages import AnswerFetch
from grapevine_proto.wire.query_terms import MAX_LARGE_ANSWER_BYTES
from grapevine_proto.wire.signed import (
    AnswerCode,
    LargeAnswer,
    QueryAnswer,
)
from tests.proto.overlay.builders import peer_id
from tests.proto.overlay.trace.traces import message_id

BODY = bytes(5000)


def described(member: int, body: bytes = BODY) -> QueryAnswer:
    payload = LargeAnswer.describing(body).to_payload()
    return QueryAnswer(peer_id(member), 0, 3, 40, AnswerCode.LARGE, payload)


def body_of(member: int, body: bytes = BODY) -> QueryAnswer:
    return QueryAnswer(peer_id(member), 0, 0, 0, AnswerCode.ANSWER, body)


def test_a_large_answer_is_requested_from_its_member_and_reported_as_it_was_described() -> None:
    fetcher = AnswerFetcher()
    assert fetcher.add(message_id(), described(1), 1.0)
    assert fetcher.deadline == 1.0
    effects, failed = fetcher.advance(1.0)
    assert effects == [Send((peer_id(1),), AnswerFetch(message_id(), 0))]
    assert (failed, fetcher.is_fetching(message_id())) == ([], True)
    assert fetcher.on_reply(message_id(), body_of(1), 1.5) == described(1)
    assert fetcher.on_reply(message_id(), body_of(1), 1.5) is None
    assert not fetcher.is_fetching(message_id())
    assert fetcher.advance(2.0) == ([], [])
    assert fetcher.deadline == math.inf


def test_only_the_body_that_its_member_described_counts() -> None:
    fetcher = AnswerFetcher()
    fetcher.add(message_id(), described(1), 1.0)
    assert fetcher.on_reply(message_id(), body_of(1), 1.0) is None  # not requested yet
    fetcher.advance(1.0)
    assert fetcher.on_reply(message_id(), body_of(1, BODY + b"x"), 1.0) is None
    assert fetcher.on_reply(message_id(), body_of(2), 1.0) is None
    assert fetcher.on_reply(message_id(2), body_of(1), 1.0) is None
    assert fetcher.on_reply(message_id(), replace(body_of(1), index=1), 1.0) is None
    assert fetcher.on_reply(message_id(), body_of(1), 1.0) is not None


def test_a_fetch_is_repeated_and_then_given_up() -> None:
    fetcher = AnswerFetcher()
    fetcher.add(message_id(), described(1), 0.0)
    requests = 0
    failed: list[FailedFetch] = []
    while fetcher.deadline < math.inf:
        effects, failed = fetcher.advance(fetcher.deadline)
        requests += len(effects)
    assert requests == 3
    assert [(each.message_id, each.answer) for each in failed] == [(message_id(), described(1))]
    assert not fetcher.is_fetching(message_id())


def test_a_few_are_fetched_at_a_time() -> None:
    fetcher = AnswerFetcher()
    for number in range(1, 10):
        fetcher.add(message_id(), described(number), 0.0)
    assert len(fetcher.advance(0.0)[0]) == 8
    assert fetcher.advance(0.1) == ([], [])
    fetcher.on_reply(message_id(), body_of(3), 0.2)
    assert fetcher.advance(0.2)[0] == [Send((peer_id(9),), AnswerFetch(message_id(), 0))]
    assert fetcher.deadline == 2.0


def test_the_bytes_of_one_query_are_limited() -> None:
    fetcher, body = AnswerFetcher(), bytes(MAX_LARGE_ANSWER_BYTES)
    fitting = (8 << 20) // MAX_LARGE_ANSWER_BYTES
    answers = [described(number, body) for number in range(fitting + 1)]
    added = [fetcher.add(message_id(), answer, 0.0) for answer in answers]
    assert added == [True] * fitting + [False]
    assert fetcher.add(message_id(2), answers[0], 0.0)


def test_the_last_byte_of_a_query_may_be_fetched() -> None:
    for spare_bytes, fits in ((0, True), (1, False)):
        fetcher, body = AnswerFetcher(), bytes(MAX_LARGE_ANSWER_BYTES)
        for number in range((8 << 20) // MAX_LARGE_ANSWER_BYTES - 1):
            fetcher.add(message_id(), described(number, body), 0.0)
        assert fetcher.add(message_id(), described(500, bytes(MAX_LARGE_ANSWER_BYTES - 2000)), 0.0)
        assert fetcher.add(message_id(), described(501, bytes(2000 + spare_bytes)), 0.0) is fits


def test_a_description_that_makes_no_sense_is_refused() -> None:
    fetcher, answer = AnswerFetcher(), described(1)
    for payload in (
        b"",
        answer.payload[:-1],
        (0).to_bytes(4, "big") + answer.payload[4:],
        (MAX_LARGE_ANSWER_BYTES + 1).to_bytes(4, "big") + answer.payload[4:],
    ):
        assert not fetcher.add(message_id(), replace(answer, payload=payload), 0.0)
    assert fetcher.deadline == math.inf


def test_a_query_that_ended_is_fetched_no_more_and_others_have_their_turn() -> None:
    fetcher = AnswerFetcher()
    for number in range(1, 9):
        fetcher.add(message_id(), described(number), 0.0)
    fetcher.add(message_id(2), described(1), 0.0)
    fetcher.advance(0.0)
    fetcher.forget(message_id(), 0.5)
    assert not fetcher.is_fetching(message_id())
    assert fetcher.deadline == 0.5
    assert fetcher.advance(0.5)[0] == [Send((peer_id(1),), AnswerFetch(message_id(2), 0))]
    fetcher.forget(message_id(2), 0.6)
    assert fetcher.deadline == 2.5
    assert not fetcher._bytes_by_query
