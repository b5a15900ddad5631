"""Outstanding requests: which ranges are exclusive to a peer, and for how long."""

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


def test_a_range_requested_from_one_peer_is_not_requested_from_others() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(1), False), (span(1, 5), span(9, 9)), 0.0, 3.0)
    assert requests.unrequested([span(1, 10)], 1.0) == [span(6, 8), span(10, 10)]
    assert requests.unrequested([span(1, 10)], 1.0, exclude=(peer_id(1), False)) == [span(1, 10)]
    assert requests.unrequested([span(1, 10, origin=91)], 1.0) == [span(1, 10, origin=91)]


def test_an_unanswered_request_ends_its_exclusivity_after_the_timeout() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(1), False), (span(1, 5),), 0.0, FIRST_ANSWER_TIMEOUT_S)
    assert requests.unrequested([span(1, 5)], FIRST_ANSWER_TIMEOUT_S - 0.1) == []
    assert requests.unrequested([span(1, 5)], FIRST_ANSWER_TIMEOUT_S) == [span(1, 5)]
    requests.expire(FIRST_ANSWER_TIMEOUT_S)
    assert requests.broken_promises == 1


def test_progress_extends_a_request_up_to_its_lifetime() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    now = 0.0
    while now < REQUEST_LIFETIME_LIMIT_S:
        assert requests.unrequested([span(1, 5)], now) == []
        requests.on_progress(peer_id(1), now)
        now += 1.0
    assert requests.unrequested([span(1, 5)], REQUEST_LIFETIME_LIMIT_S) == [span(1, 5)]
    assert requests.broken_promises == 0


def test_fragments_extend_a_request_but_keep_no_promise() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    requests.on_fragment(peer_id(1), 2.5)
    assert requests.unrequested([span(1, 5)], 5.0) == []
    requests.expire(5.5)
    assert requests.broken_promises == 1


def test_a_peer_that_broke_a_promise_gets_no_exclusivity_for_a_while() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(1), False), (span(1, 5),), 0.0, 3.0)
    requests.close((peer_id(1), False), 1.0)
    requests.add((peer_id(1), False), (span(1, 5),), 2.0, 3.0)
    assert requests.unrequested([span(1, 5)], 2.0) == [span(1, 5)]
    requests.add((peer_id(1), False), (span(1, 5),), 1.0 + BROKEN_PROMISE_S, 3.0)
    assert requests.unrequested([span(1, 5)], 1.0 + BROKEN_PROMISE_S) == []


def test_a_request_beyond_the_limit_evicts_the_oldest() -> None:
    requests = OutstandingRequests()
    for number in range(REQUESTS_LIMIT + 1):
        key = (PeerId(number.to_bytes(32, "big")), False)
        requests.add(key, (span(number + 1, number + 1),), 0.0, 3.0)
    assert len(requests) == REQUESTS_LIMIT
    assert requests.unrequested([span(1, 2)], 0.0) == [span(1, 1)]
    requests.expire(3.0)
    assert len(requests) == 0
    assert len(requests._broken_until) == REQUESTS_LIMIT
    assert not requests._by_stream
