"""Ranges of message IDs: no operation loses or adds any."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.ranges import (
    MESSAGES_PER_REQUEST,
    RANGES_PER_REQUEST,
    coalesce,
    first_batch,
    hull,
    hulls_by_stream,
    merge,
    pack,
    subtract,
)
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import IHave
from tests.proto.overlay.builders import EPOCH, peer_id

spans = st.tuples(st.integers(0, 2), st.integers(1, 300), st.integers(0, 200))
ranges = st.lists(
    spans.map(
        lambda span: StreamRange(Stream(peer_id(span[0]), EPOCH), span[1], span[1] + span[2])
    ),
    max_size=30,
)


def ids_in(given: list[StreamRange]) -> list[tuple[Stream, int]]:
    return [(each.stream, number) for each in given for number in range(each.first, each.last + 1)]


@given(ranges)
def test_a_batch_and_the_rest_are_the_input_in_order(given: list[StreamRange]) -> None:
    batch, rest = first_batch(given)
    assert ids_in(batch + rest) == ids_in(given)
    assert len(ids_in(batch)) <= MESSAGES_PER_REQUEST
    assert len(batch) <= RANGES_PER_REQUEST
    if rest:
        assert len(ids_in(batch)) == MESSAGES_PER_REQUEST or len(batch) == RANGES_PER_REQUEST


@given(ranges, ranges)
def test_subtract_leaves_exactly_the_other_ids(
    given: list[StreamRange], subtracted: list[StreamRange]
) -> None:
    subtracted_ids = set(ids_in(subtracted))
    assert ids_in(subtract(given, subtracted)) == [
        each for each in ids_in(given) if each not in subtracted_ids
    ]


@given(ranges)
def test_adjacent_ranges_are_coalesced(given: list[StreamRange]) -> None:
    found = coalesce(given)
    assert ids_in(found) == ids_in(given)
    assert not any(
        one.stream == two.stream and one.last + 1 == two.first for one, two in pairwise(found)
    )


def test_ranges_of_maximum_width_are_packed_into_datagrams() -> None:
    rng = random.Random(1)
    widest = [
        StreamRange(
            Stream(PeerId(rng.randbytes(32)), 2**48 - 1 - number % 2), 2**53 - 9000, 2**53 - 800
        )
        for number in range(40)
        for _ in range(rng.choice([1, 1, 2, 30]))
    ]
    batches = pack(widest)
    assert [each for batch in batches for each in batch] == widest
    assert all(len(codec.encode_message(IHave(b))) <= codec.BASE_PLAINTEXT_BYTES for b in batches)
    assert all(codec.decode_message(codec.encode_message(IHave(b))) == IHave(b) for b in batches)


# --- at the limits ------------------------------------------------------------------------------


def span(first: int, last: int, origin: int = 1) -> StreamRange:
    return StreamRange(Stream(peer_id(origin), EPOCH), first, last)


def test_a_request_has_128_messages_in_sixteen_ranges() -> None:
    assert first_batch([span(1, 128)]) == ([span(1, 128)], [])
    assert first_batch([span(1, 129)]) == ([span(1, 128)], [span(129, 129)])
    assert first_batch([span(1, 100), span(201, 228), span(301, 301)]) == (
        [span(1, 100), span(201, 228)],
        [span(301, 301)],
    )
    assert first_batch([span(1, 100), span(201, 300), span(401, 401)]) == (
        [span(1, 100), span(201, 228)],
        [span(229, 300), span(401, 401)],
    )
    many = [span(10 * number, 10 * number) for number in range(17)]
    assert first_batch(many) == (many[:16], many[16:])
    assert first_batch(many[:16]) == (many[:16], [])


def test_the_hull_of_a_stream_spans_its_ranges_and_ignores_empty_ones() -> None:
    given = [span(5, 7), span(2, 3), span(9, 9, origin=2), span(20, 19), span(8, 7, origin=3)]
    assert hulls_by_stream(given) == {
        span(1, 1).stream: span(2, 7),
        span(1, 1, origin=2).stream: span(9, 9, origin=2),
    }
    assert hull(None, span(1, 2)) == span(1, 2)
    assert hull(span(4, 9), span(1, 2)) == span(1, 9)
    assert hull(span(1, 9), span(2, 3)) == span(1, 9)


def test_merged_ranges_are_disjoint_ascending_and_not_adjacent() -> None:
    given = [span(5, 9), span(1, 2), span(3, 3), span(6, 7), span(11, 12), span(1, 1, origin=2)]
    assert merge(given) == [span(1, 3), span(5, 9), span(11, 12), span(1, 1, origin=2)]


def test_only_ranges_that_follow_one_another_in_one_stream_are_coalesced() -> None:
    given = [span(1, 2), span(3, 4), span(6, 7), span(8, 8, origin=2), span(9, 9)]
    assert coalesce(given) == [span(1, 4), span(6, 7), span(8, 8, origin=2), span(9, 9)]
    assert coalesce([]) == []


@pytest.mark.parametrize(
    ("subtracted", "remaining"),
    [
        ([], [(10, 20)]),
        ([(1, 9), (21, 30)], [(10, 20)]),
        ([(20, 30)], [(10, 19)]),
        ([(1, 10)], [(11, 20)]),
        ([(12, 13), (15, 15)], [(10, 11), (14, 14), (16, 20)]),
        ([(10, 19)], [(20, 20)]),
        ([(11, 20)], [(10, 10)]),
        ([(10, 20)], []),
        ([(1, 30)], []),
    ],
)
def test_ranges_are_subtracted_to_the_sequence(
    subtracted: list[tuple[int, int]], remaining: list[tuple[int, int]]
) -> None:
    others = [span(10, 20, origin=2)]
    found = subtract([span(10, 20), *others], [span(*each) for each in subtracted])
    assert found == [*(span(*each) for each in remaining), *others]


def test_a_datagram_has_1100_bytes_of_ranges_and_a_new_stream_costs_48_of_them() -> None:
    fitting = [span(10 * number, 10 * number) for number in range(58)]  # 48 + 58 x 18 = 1092
    assert [len(batch) for batch in pack(fitting)] == [58]
    assert [len(batch) for batch in pack([*fitting, span(999, 999)])] == [58, 1]
    streams = [span(1, 1, origin=number) for number in range(17)]  # 66 bytes each
    assert [len(batch) for batch in pack(streams)] == [16, 1]
    assert [len(batch) for batch in pack([*streams[:16], span(3, 3, origin=15), streams[16]])] == [
        17,
        1,
    ]
    assert [len(batch) for batch in pack([*fitting, *fitting])] == [58, 58]
    assert pack([]) == []


def test_a_datagram_may_be_filled_to_the_last_byte() -> None:
    given = [span(10 * number, 10 * number) for number in range(7)]
    assert [len(batch) for batch in pack(given, 48 + 3 * 18)] == [3, 3, 1]
    streams = [span(1, 1, origin=number) for number in range(3)]
    assert [len(batch) for batch in pack(streams, 2 * (48 + 18))] == [2, 1]
    assert [len(batch) for batch in pack(streams, 2 * (48 + 18) - 1)] == [1, 1, 1]


def test_a_message_has_at_most_sixty_four_ranges() -> None:
    given = [span(10 * number, 10 * number) for number in range(65)]
    assert [len(batch) for batch in pack(given, 10_000)] == [64, 1]
