"""Ranges of ids: whatever is done to them, none is lost and none made up."""

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


def ids_in(several: list[StreamRange]) -> list[tuple[Stream, int]]:
    return [
        (each.stream, number) for each in several for number in range(each.first, each.last + 1)
    ]


@given(ranges)
def test_a_share_and_the_rest_are_what_there_was_in_its_order(several: list[StreamRange]) -> None:
    share, rest = first_batch(several)
    assert ids_in(share + rest) == ids_in(several)
    assert len(ids_in(share)) <= MESSAGES_PER_REQUEST
    assert len(share) <= RANGES_PER_REQUEST
    if rest:
        assert len(ids_in(share)) == MESSAGES_PER_REQUEST or len(share) == RANGES_PER_REQUEST


@given(ranges, ranges)
def test_what_is_left_is_what_was_not_taken(
    several: list[StreamRange], taken: list[StreamRange]
) -> None:
    gone = set(ids_in(taken))
    assert ids_in(subtract(several, taken)) == [
        each for each in ids_in(several) if each not in gone
    ]


@given(ranges)
def test_ranges_that_follow_each_other_become_one(several: list[StreamRange]) -> None:
    found = coalesce(several)
    assert ids_in(found) == ids_in(several)
    assert not any(
        one.stream == two.stream and one.last + 1 == two.first for one, two in pairwise(found)
    )


def test_ids_are_cut_to_datagrams_at_their_widest() -> None:
    rng = random.Random(1)
    widest = [
        StreamRange(
            Stream(PeerId(rng.randbytes(32)), 2**48 - 1 - of % 2), 2**53 - 9000, 2**53 - 800
        )
        for of in range(40)
        for _ in range(rng.choice([1, 1, 2, 30]))
    ]
    batches = pack(widest)
    assert [each for batch in batches for each in batch] == widest
    assert all(len(codec.encode_message(IHave(b))) <= codec.BASE_PLAINTEXT_BYTES for b in batches)
    assert all(codec.decode_message(codec.encode_message(IHave(b))) == IHave(b) for b in batches)
