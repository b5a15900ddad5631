"""One round: what counts as progress, when it is done, and with which outcome."""

from __future__ import annotations

import pytest

from grapevine_proto.events import RoundOutcome
from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.sync.sync_round import STREAMS_PER_ROUND, SyncRound
from grapevine_proto.wire.messages import Repair, RumorCopy, Vector
from tests.proto.overlay.builders import EPOCH, copy, peer_id, rumor


def stream(number: int) -> Stream:
    return Stream(peer_id(90), EPOCH + number)


def span(number: int, first: int = 1, last: int = 9) -> StreamRange:
    return StreamRange(stream(number), first, last)


def page(number: int, pages: int, *entries: StreamRange) -> Vector:
    return Vector(1, True, number, pages, entries)


def repair(*copies: RumorCopy, is_last: bool = True, has_more: bool = False) -> Repair:
    return Repair(1, is_last, has_more, copies)


def test_a_round_expires_without_progress_and_after_a_minute_in_any_case() -> None:
    one = SyncRound(1, 10.0)
    assert one.expires_at(3.0) == 13.0
    assert not one.is_expired(12.9, 3.0)
    assert one.is_expired(13.0, 3.0)
    one.on_vector_page(page(0, 2), 12.0)
    assert one.expires_at(3.0) == 15.0
    one.last_progress_at = 69.0
    assert one.expires_at(3.0) == 70.0


def test_a_new_round_has_compared_and_transferred_nothing() -> None:
    one = SyncRound(7, 10.0)
    assert (one.number, one.started_at, one.pages, one.streams_dropped) == (7, 10.0, 0, 0)
    assert not (one.is_answered)
    assert not (one.has_vector)
    assert not (one.differs)
    assert not (one.has_new_data)
    assert not (one.has_requested)
    assert not (one.awaits_request)
    assert not (one.has_all_pages)
    assert not (one.is_done)
    assert not (one.has_transferred)
    assert (one.sent, one.received, one.payload_bytes) == (0, 0, 0)
    assert one.outcome is RoundOutcome.NO_ANSWER


def test_pages_come_in_any_order_once_and_agree_on_their_number() -> None:
    one = SyncRound(1, 0.0)
    assert one.on_vector_page(page(1, 2, span(1)), 1.0)
    assert (one.is_answered, one.has_all_pages, one.last_progress_at) == (True, False, 1.0)
    assert not one.on_vector_page(page(1, 2, span(2)), 2.0)
    assert not one.on_vector_page(page(0, 3, span(2)), 2.0)
    assert one.last_progress_at == 1.0
    assert one.on_vector_page(page(0, 2, span(1, 5, 20), span(2)), 2.0)
    assert one.has_all_pages
    assert one.their_vector == {stream(1): 20, stream(2): 9}


def test_thirty_two_pages_are_all_of_a_vector() -> None:
    one = SyncRound(1, 0.0)
    for number in range(31):
        assert one.on_vector_page(page(number, 40), 0.0)
    complete = [one.has_all_pages]
    assert not one.on_vector_page(page(32, 40), 0.0)
    assert one.on_vector_page(page(31, 40), 0.0)
    assert [*complete, one.has_all_pages] == [False, True]


def test_576_streams_are_compared_and_the_rest_is_counted() -> None:
    assert STREAMS_PER_ROUND == 576
    one = SyncRound(1, 0.0)
    one.add_missing(span(number) for number in range(577))
    assert (len(one.unrequested), one.streams_dropped) == (576, 1)
    one.add_missing([span(0, 1, 50)])
    assert (one.unrequested[stream(0)], one.streams_dropped) == (span(0, 1, 50), 1)
    one.on_vector_page(page(0, 1, *(span(number) for number in range(577))), 0.0)
    assert len(one.their_vector) == 576


def test_what_was_not_fully_answered_goes_first_in_its_order() -> None:
    one = SyncRound(1, 0.0)
    one.add_missing([span(1), span(2, 20, 30), span(3)])
    one.requeue([span(4), span(2, 1, 5)])
    assert list(one.unrequested.values()) == [span(4), span(2, 1, 30), span(1), span(3)]


def test_transferred_messages_and_bytes_are_counted() -> None:
    one = SyncRound(1, 0.0)
    assert one.add_copies([copy(1, 1, size=7), RumorCopy(rumor(1, 2, b"ab", b"c"), 1, 0)]) == 3
    assert one.payload_bytes == 10
    assert one.add_copies([]) == 0


def done() -> SyncRound:
    one = SyncRound(1, 10.0)
    one.on_vector_page(page(0, 1), 11.0)
    one.has_vector = True
    return one


def test_a_round_is_done_when_everything_was_compared_requested_and_answered() -> None:
    assert done().is_done
    for name, value in [
        ("has_vector", False),
        ("requested", (span(1),)),
        ("awaits_request", True),
    ]:
        one = done()
        setattr(one, name, value)
        assert not one.is_done
        assert one.outcome is RoundOutcome.PARTIAL
    one = done()
    one.add_missing([span(1)])
    assert not one.is_done


def test_a_round_is_full_if_no_stream_was_left_out() -> None:
    assert done().is_full
    one = done()
    one.streams_dropped = 1
    assert not one.is_full
    one = done()
    one.their_vector = {stream(number): 1 for number in range(575)}
    full = [one.is_full]
    one.their_vector[stream(999)] = 1
    assert [*full, one.is_full] == [True, False]


@pytest.mark.parametrize(
    ("differs", "sent", "received", "outcome"),
    [
        (False, 0, 0, RoundOutcome.IN_SYNC),
        (True, 0, 0, RoundOutcome.PARTIAL),
        (True, 1, 0, RoundOutcome.REPAIRED),
        (True, 0, 1, RoundOutcome.REPAIRED),
    ],
)
def test_the_outcome_of_a_round_that_is_done(
    differs: bool, sent: int, received: int, outcome: RoundOutcome
) -> None:
    one = done()
    one.differs, one.sent, one.received = differs, sent, received
    assert one.outcome is outcome
    reported = one.to_round(peer_id(1), one.outcome, 12.5)
    assert (reported.outcome, reported.in_sync) == (outcome, outcome is RoundOutcome.IN_SYNC)
    assert (reported.sent, reported.received) == (sent, received)


def test_a_round_reports_when_it_began_and_how_long_it_took() -> None:
    reported = done().to_round(peer_id(1), RoundOutcome.IN_SYNC, 12.5)
    assert 2.5 in reported


# --- requests and repairs -----------------------------------------------------------------------


def test_a_vector_is_complete_once_with_its_last_page() -> None:
    one = SyncRound(1, 0.0)
    complete = []
    for number in (0, 1, 1):
        one.on_vector_page(page(number, 2), 1.0)
        complete.append((one.complete_vector(), one.has_vector))
    assert complete == [(False, False), (True, True), (False, True)]


def test_one_page_may_be_all() -> None:
    one = SyncRound(1, 0.0)
    one.on_vector_page(page(0, 1), 1.0)
    assert one.complete_vector()


def test_the_lowest_and_highest_of_each_stream_are_what_the_peer_has() -> None:
    one = SyncRound(1, 0.0)
    one.on_vector_page(page(0, 2, span(1, 5, 20), span(2, 0, 0)), 1.0)
    one.on_vector_page(page(1, 2, span(1, 3, 10)), 1.0)
    assert one.their_ranges() == [span(1, 3, 20), span(2, 0, 0)]


def test_a_peer_that_lacks_what_it_was_offered_is_awaited_until_it_requests_it() -> None:
    one = done()
    one.await_request()
    assert (one.is_done, one.differs) == (False, True)
    one.on_request([repair(copy(1, 1)), repair(copy(1, 2))], 20.0)
    assert (one.is_done, one.sent, one.last_progress_at) == (True, 2, 20.0)
    assert one.outcome is RoundOutcome.REPAIRED


def test_only_what_is_missing_makes_a_difference() -> None:
    one = done()
    one.on_missing([])
    differs = [one.differs]
    one.on_missing([span(1)])
    one.on_missing([])
    assert [*differs, one.differs] == [False, True]


def test_a_round_with_nothing_left_to_request_waits_for_nothing() -> None:
    one = done()
    one.add_missing([span(1)])
    one.request(())
    assert (one.is_done, one.requested) == (True, ())
    one.add_missing([span(1), span(2)])
    one.request((span(1),))
    assert list(one.unrequested.values()) == [span(1), span(2)]
    assert one.requested == (span(1),)


def test_progress_is_what_is_new() -> None:
    one = done()
    one.request((span(1),))
    one.on_repair(repair(copy(1, 1), is_last=False), 20.0, is_new=False)
    assert (one.last_progress_at, one.has_new_data, one.received) == (11.0, False, 1)
    one.on_repair(repair(copy(1, 2), is_last=False), 21.0, is_new=True)
    assert (one.last_progress_at, one.has_new_data, one.received) == (21.0, True, 2)
    one.on_progress(22.0)
    assert one.last_progress_at == 22.0


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("is_requested", [True, False])
def test_the_last_repair_completes_the_answer_to_a_request(
    is_last: bool, is_requested: bool
) -> None:
    one = done()
    one.request((span(1),) if is_requested else ())
    is_complete = one.on_repair(repair(copy(1, 1), is_last=is_last), 20.0, is_new=False)
    assert is_complete is (is_last and is_requested)
    assert one.requested == ((span(1),) if is_requested and not is_last else ())
    assert one.last_progress_at == (20.0 if is_complete else 11.0)


@pytest.mark.parametrize("has_more", [True, False])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_truncated_answer_that_brought_something_is_requested_again(
    has_more: bool, is_new: bool
) -> None:
    one = done()
    one.request((span(1),))
    assert one.on_repair(repair(copy(1, 1), has_more=has_more), 20.0, is_new=is_new)
    assert list(one.unrequested.values()) == [span(1)] * (has_more and is_new)
    assert not one.has_new_data, "the next answer begins with nothing"
