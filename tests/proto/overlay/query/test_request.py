"""Requests: what cannot be asked is refused, and defaults follow the size of the cluster."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import InvalidArgument, MessageTooLarge
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.query.filters import MemberFilter
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.wire.query_terms import ASK_ALL, MAX_QUESTION_BYTES, QueryTerms


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": ""},
        {"name": "n" * 65},
        {"name": b"up"},
        {"name": "\ud800"},
        {"payload": "text"},
        {"filter": {"zone": "eu"}},
        {"timeout_s": 0},
        {"timeout_s": 60.01},
        {"timeout_s": "5"},
        {"timeout_s": True},
        {"stall_s": 0},
        {"limit": 0},
        {"limit": 1.5},
        {"sample": True},
        {"max_answer_bytes": 0},
        {"max_answer_bytes": 65_537},
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        QueryRequest(**{"name": "up"} | arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "n"},
        {"name": "n" * 64},
        {"timeout_s": 60},
        {"stall_s": 1e9},
        {"limit": 1},
        {"sample": 1},
        {"max_answer_bytes": 1},
        {"max_answer_bytes": 65_536},
    ],
)
def test_what_is_just_within_the_limits_can_be_asked(arguments: dict[str, object]) -> None:
    request = QueryRequest(**{"name": "up"} | arguments)  # type: ignore[arg-type]
    terms = request.to_terms(5)
    assert QueryTerms.from_value(terms.to_value()) == terms


def test_the_shortest_deadline_is_a_millisecond() -> None:
    assert QueryRequest("up", timeout_s=1e-9).to_terms(1).deadline_ms == 1


def test_a_question_has_at_most_8_kib() -> None:
    assert QueryRequest("up", bytes(MAX_QUESTION_BYTES)).payload == bytes(MAX_QUESTION_BYTES)
    with pytest.raises(MessageTooLarge):
        QueryRequest("up", bytes(MAX_QUESTION_BYTES + 1))


def test_a_filter_that_fits_no_rumor_is_refused() -> None:
    ids = tuple(PeerId(bytes([number] * 32)) for number in range(64))
    assert QueryRequest("up", filter=MemberFilter(ids=ids, zone="z" * 64))
    with pytest.raises(InvalidArgument, match="too many bytes"):
        QueryRequest("up", filter=MemberFilter(ids=ids, tags={"role": ("v" * 128, "w" * 128)}))


@pytest.mark.parametrize(
    ("members", "deadline_ms"),
    [(0, 2000), (1, 2000), (10, 3000), (11, 4000), (100, 4000), (101, 5000), (10_000, 6000)],
)
def test_the_default_deadline_grows_with_the_magnitude_of_the_cluster(
    members: int, deadline_ms: int
) -> None:
    assert QueryRequest("up").to_terms(members).deadline_ms == deadline_ms
    assert QueryRequest("up", timeout_s=0.5).to_terms(members).deadline_ms == 500


def test_all_are_asked_up_to_the_limit_and_a_share_above_it() -> None:
    assert QueryRequest("up").to_terms(1024).share == ASK_ALL
    assert QueryRequest("up").to_terms(2048).share == ASK_ALL // 2
    assert QueryRequest("up", sample=10).to_terms(10).share == ASK_ALL
    assert QueryRequest("up", sample=10).to_terms(100).share == ASK_ALL // 10
    assert QueryRequest("up", sample=5000).to_terms(2048).share == ASK_ALL // 2
    assert QueryRequest("up", sample=1).to_terms(100_000).share == 1
