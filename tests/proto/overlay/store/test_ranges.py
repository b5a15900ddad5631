"""Ranges of message IDs: no operation loses or adds any."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.ranges import (
    MESSAGES_PER_REQUEST,
    RANGES_PER_REQUEST,
    coalesce,
    first_batch,
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
