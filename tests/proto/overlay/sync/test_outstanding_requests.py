"""Outstanding requests: which ranges are exclusive to a peer, and for how long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import pytest

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.ranges import MESSAGES_PER_REQUEST
from grapevine_proto.overlay.sync.outstanding_requests import (
    BROKEN_PROMISE_S,
    FIRST_ANSWER_TIMEOUT_S,
    RANGES_SCANNED_LIMIT,
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


# --- at the limits ------------------------------------------------------------------------------

ONE, TWO = peer_id(1), peer_id(2)


def test_a_request_has_three_seconds_for_its_first_answer_even_if_it_is_exclusive_for_less() -> (
    None
):
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 1.0)
    assert requests.unrequested([span(1, 5)], 0.9) == []
    assert requests.unrequested([span(1, 5)], 1.0) == [span(1, 5)]
    requests.expire(2.9)
    assert (len(requests), requests.broken_promises) == (1, 0)
    requests.expire(3.0)
    assert (len(requests), requests.broken_promises) == (0, 1)


def test_a_longer_timeout_is_waited_for() -> None:
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 5.0)
    requests.expire(4.9)
    assert len(requests) == 1
    requests.expire(5.0)
    assert len(requests) == 0


def test_progress_makes_a_request_exclusive_for_ten_seconds_at_most() -> None:
    requests = OutstandingRequests()
    requests.add((ONE, True), (span(1, 5),), 0.0, 3.0)
    for now in (2.0, 4.0, 6.0, 8.0, 9.9):
        requests.on_progress(ONE, now)
    assert requests.unrequested([span(1, 5)], 9.9) == []
    assert requests.unrequested([span(1, 5)], 10.0) == [span(1, 5)]


def test_a_broken_promise_costs_the_exclusivity_of_a_minute() -> None:
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 3.0)
    requests.close((ONE, False), 1.0)
    requests.add((ONE, True), (span(1, 5),), 60.9, 3.0)
    assert len(requests) == 0
    requests.add((ONE, True), (span(1, 5),), 61.0, 3.0)
    assert len(requests) == 1
    requests.add((ONE, False), (), 61.0, 3.0)
    assert len(requests) == 1, "nothing was asked for"


def test_outcomes_are_counted_per_request_and_peer() -> None:
    requests = OutstandingRequests()
    for key in ((ONE, False), (ONE, True), (TWO, False)):
        requests.add(key, (span(1, 5),), 0.0, 3.0)
    requests.on_progress(ONE, 1.0)
    requests.on_progress(ONE, 2.0)
    for key in ((ONE, False), (ONE, True), (TWO, False)):
        requests.close(key, 2.5)
    assert requests.pop_outcomes() == [(ONE, 2, 0), (TWO, 0, 1)]
    assert requests.pop_outcomes() == []
    assert requests.broken_promises == 1


@pytest.mark.parametrize("arrivals", [1, 2, 5])
def test_a_request_is_kept_once_however_much_arrives(arrivals: int) -> None:
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 3.0)
    for _ in range(arrivals):
        requests.on_progress(ONE, 1.0)
    assert requests.pop_outcomes() == [(ONE, 1, 0)]


def test_a_peer_has_a_request_in_each_of_two_rounds_and_loses_both_with_its_link() -> None:
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 3.0)
    requests.add((ONE, True), (span(6, 9),), 0.0, 3.0)
    requests.add((TWO, True), (span(20, 29),), 0.0, 3.0)
    requests.on_fragment(ONE, 1.0)
    assert requests.unrequested([span(1, 9)], 3.5) == []
    requests.remove_peer(ONE)
    assert requests.unrequested([span(1, 29)], 1.0) == [span(1, 19)]
    assert (len(requests), requests.broken_promises) == (1, 0), "no promise was broken"


def test_a_new_request_closes_the_one_before() -> None:
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 3.0)
    requests.on_progress(ONE, 0.5)
    requests.add((ONE, False), (span(6, 9),), 1.0, 3.0)
    assert requests.unrequested([span(1, 9)], 1.0) == [span(1, 5)]
    assert (len(requests), requests.broken_promises) == (1, 0)


def test_1024_requests_and_broken_promises_are_kept() -> None:
    requests = OutstandingRequests()
    peers = [PeerId(number.to_bytes(32, "big")) for number in range(1026)]
    for peer in peers[:1025]:
        requests.add((peer, False), (span(1, 5),), 0.0, 3.0)
    assert len(requests) == 1024
    assert (peers[0], False) not in requests._open
    for peer in peers:
        requests._record_broken(peer, 0.0)
    assert len(requests._broken_until) == 1024
    requests._record_broken(peers[2], 0.0)
    requests._record_broken(peers[0], 0.0)
    assert peers[2] in requests._broken_until
    assert peers[3] not in requests._broken_until


def test_a_range_is_awaited_while_its_request_is_exclusive() -> None:
    requests = OutstandingRequests()
    requests.add((ONE, False), (span(1, 5),), 0.0, 4.0)
    assert requests.is_waiting(3.9)
    assert not requests.is_waiting(4.0)


# --- what to ask for next -------------------------------------------------------------------------


OURS: Final = (peer_id(1), False)


class Store:
    """A store that lacks what `is_missing` says; `scanned` counts the ranges that it was asked for."""

    def __init__(self, is_missing: Callable[[int], bool] = lambda sequence: True) -> None:
        self.is_missing = is_missing
        self.scanned = 0

    def missing(self, entry: StreamRange, now: float, limit: int) -> list[StreamRange]:
        found: list[StreamRange] = []
        for sequence in range(entry.first, entry.last + 1):
            if not self.is_missing(sequence):
                continue
            if found and found[-1].last == sequence - 1:
                found[-1] = StreamRange(entry.stream, found[-1].first, sequence)
            elif len(found) < limit:
                found.append(StreamRange(entry.stream, sequence, sequence))
            else:
                break
        self.scanned += len(found)
        return found


def next_batch(
    requests: OutstandingRequests, candidates: OrderedDict[Stream, StreamRange], store: Store
) -> tuple[StreamRange, ...]:
    return requests.next_batch(OURS, candidates, store, 0.0)  # type: ignore[arg-type]


def by_stream(*ranges: StreamRange) -> OrderedDict[Stream, StreamRange]:
    return OrderedDict((each.stream, each) for each in ranges)


def test_what_is_missing_is_asked_for_and_what_is_here_is_dropped() -> None:
    candidates = by_stream(span(1, 9, 1), span(1, 4, 2), span(5, 5, 3))
    batch = next_batch(OutstandingRequests(), candidates, Store(lambda each: each > 4))
    assert batch == (span(5, 9, 1), span(5, 5, 3))
    assert not candidates


def test_what_does_not_fit_into_one_batch_comes_first_in_the_next() -> None:
    candidates = by_stream(span(1, MESSAGES_PER_REQUEST + 5, 1), span(1, 3, 2))
    requests, store = OutstandingRequests(), Store()
    assert next_batch(requests, candidates, store) == (span(1, MESSAGES_PER_REQUEST, 1),)
    assert store.scanned == 1, "the batch was full"
    assert list(candidates.values()) == [
        span(MESSAGES_PER_REQUEST + 1, MESSAGES_PER_REQUEST + 5, 1),
        span(1, 3, 2),
    ]
    rest = (span(MESSAGES_PER_REQUEST + 1, MESSAGES_PER_REQUEST + 5, 1), span(1, 3, 2))
    assert next_batch(requests, candidates, store) == rest
    assert not candidates


def test_what_another_peer_was_asked_for_is_not_in_the_batch() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(7), False), (span(1, 5, 1),), 0.0, 3.0)
    requests.add(OURS, (span(6, 7, 1),), 0.0, 3.0)
    candidates = by_stream(span(1, 9, 1))
    assert next_batch(requests, candidates, Store()) == (span(6, 9, 1),)
    assert not candidates


def test_a_batch_scans_a_limited_number_of_ranges_and_the_next_goes_on_behind_them() -> None:
    requests = OutstandingRequests()
    requests.add((peer_id(7), False), (span(1, 2 * RANGES_SCANNED_LIMIT, 1),), 0.0, 3.0)
    candidates = by_stream(span(1, 2_000, 1), span(1, 9, 2))
    store = Store(lambda each: each % 2 == 1)
    assert next_batch(requests, candidates, store) == ()
    assert store.scanned == RANGES_SCANNED_LIMIT
    assert list(candidates.values()) == [span(2 * RANGES_SCANNED_LIMIT, 2_000, 1), span(1, 9, 2)]
    first = 2 * RANGES_SCANNED_LIMIT + 1
    assert next_batch(requests, candidates, store)[0] == span(first, first, 1)


def test_a_stream_without_anything_missing_costs_a_range_too() -> None:
    candidates = by_stream(
        *(span(1, 1, origin=number) for number in range(RANGES_SCANNED_LIMIT + 1))
    )
    assert next_batch(OutstandingRequests(), candidates, Store(lambda each: False)) == ()
    assert len(candidates) == 1


def test_the_ranges_of_all_streams_of_a_batch_count_together() -> None:
    requests = OutstandingRequests()
    spans = [span(1, 2_000, origin) for origin in (1, 2)]
    requests.add((peer_id(7), False), tuple(spans), 0.0, 3.0)
    candidates = by_stream(span(1, 199, 1), span(1, 2_000, 2))
    store = Store(lambda each: each % 2 == 1)
    assert next_batch(requests, candidates, store) == ()
    assert store.scanned == 100 + 155, "and one for the first stream itself"
    assert list(candidates.values()) == [span(310, 2_000, 2)]
