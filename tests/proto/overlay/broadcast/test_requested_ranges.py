"""What was asked for by id: once at a time, and within a cap."""

from __future__ import annotations

import math

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.broadcast.requested_ranges import (
    RANGES_PER_STREAM_LIMIT,
    REQUESTED_STREAMS_LIMIT,
    RequestedRanges,
)
from tests.proto.overlay.builders import EPOCH, peer_id


def span(first: int, last: int, origin: PeerId | None = None) -> StreamRange:
    return StreamRange(Stream(origin or peer_id(90), EPOCH), first, last)


def test_what_is_under_way_is_not_asked_for_again_before_its_time() -> None:
    asked = RequestedRanges()
    asked.add([span(3, 4), span(8, 8)], 1.0, 0.0)
    assert asked.unrequested([span(1, 9)], 0.5) == ([span(1, 2), span(5, 7), span(9, 9)], 1.0)
    assert asked.unrequested([span(1, 9)], 1.0) == ([span(1, 9)], math.inf)


def test_one_range_more_than_a_stream_may_have_is_not_remembered_until_others_are_over() -> None:
    asked = RequestedRanges()
    for number in range(RANGES_PER_STREAM_LIMIT + 1):
        asked.add([span(2 * number + 1, 2 * number + 1)], 1.0, 0.0)
    assert (len(asked), asked.untracked) == (RANGES_PER_STREAM_LIMIT, 1)
    asked.add([span(9999, 9999)], 2.0, 1.0)
    assert len(asked) == 1


def test_one_stream_more_than_the_limit_is_not_remembered_until_others_are_over() -> None:
    asked = RequestedRanges()
    for number in range(REQUESTED_STREAMS_LIMIT + 1):
        asked.add([span(1, 1, PeerId(number.to_bytes(32, "big")))], 1.0, 0.0)
    assert (len(asked), asked.untracked) == (REQUESTED_STREAMS_LIMIT, 1)
    asked.add([span(1, 1)], 2.0, 1.0)
    assert len(asked) == 1
