"""Requested ranges: each requested once at a time, within limits."""

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


def test_a_requested_range_is_not_requested_again_before_it_expires() -> None:
    requested = RequestedRanges()
    requested.add([span(3, 4), span(8, 8)], 1.0, 0.0)
    assert requested.unrequested([span(1, 9)], 0.5) == ([span(1, 2), span(5, 7), span(9, 9)], 1.0)
    assert requested.unrequested([span(1, 9)], 1.0) == ([span(1, 9)], math.inf)


def test_ranges_beyond_the_limit_per_stream_are_untracked_until_others_expire() -> None:
    requested = RequestedRanges()
    for number in range(RANGES_PER_STREAM_LIMIT + 1):
        requested.add([span(2 * number + 1, 2 * number + 1)], 1.0, 0.0)
    assert (len(requested), requested.untracked) == (RANGES_PER_STREAM_LIMIT, 1)
    requested.add([span(9999, 9999)], 2.0, 1.0)
    assert len(requested) == 1


def test_streams_beyond_the_limit_are_untracked_until_others_expire() -> None:
    requested = RequestedRanges()
    for number in range(REQUESTED_STREAMS_LIMIT + 1):
        requested.add([span(1, 1, PeerId(number.to_bytes(32, "big")))], 1.0, 0.0)
    assert (len(requested), requested.untracked) == (REQUESTED_STREAMS_LIMIT, 1)
    requested.add([span(1, 1)], 2.0, 1.0)
    assert len(requested) == 1
