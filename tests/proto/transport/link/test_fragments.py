"""Fragments: cut when they are sent, charged as they are sent, and put together over a real link."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import Dropped
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.fragments import (
    BYTES_PER_TOKEN,
    FragmentedMessage,
)
from grapevine_proto.wire.codec import (
    BASE_PLAINTEXT_BYTES,
    ChunkedMessage,
    decode_frame,
    encode_frame,
    encode_message,
)
from grapevine_proto.wire.messages import (
    Ack,
    DirectMessage,
    Fragment,
    Kind,
    LinkFrame,
    MtuProbe,
    PathChallenge,
    PathResponse,
    Retransmit,
)
from tests.proto.transport.link.test_link import Pair
from tests.proto.transport.paths import OneWayPath, PathNetwork

MAX: int = 10 * 2**20


def message(size_bytes: int, seed: int = 1) -> bytes:
    return bytes((Kind.RUMORS,)) + random.Random(seed).randbytes(size_bytes - 1)


def cut(whole: bytes, at: list[int], number: int = 1) -> list[Fragment]:
    edges = sorted({0, *(each % len(whole) for each in at), len(whole)})
    return [
        Fragment(number, len(whole), start, whole[start:end])
        for start, end in itertools.pairwise(edges)
    ]


def test_a_large_message_is_stored_once_and_sliced_when_sent() -> None:
    whole = message(100_000)
    one, two = FragmentedMessage(whole, 7, 0), FragmentedMessage(whole, 8, 0)
    assert all(isinstance(each._plaintext, memoryview) for each in (one, two))
    assert all(each._plaintext.obj is whole for each in (one, two))  # type: ignore[union-attr]
    part = decode_frame(one.encode_fragment(500, 1500))
    assert part == Fragment(7, 100_000, 500, whole[500:1500])


# --- over a link ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [1, 1150, 1151, 1168, 1200, 5000, 65_536, 300_000])
def test_a_message_of_any_size_arrives_unchanged(size_bytes: int) -> None:
    network = PathNetwork()
    ours, theirs = network.join(
        OneWayPath(loss=0.2, seed=size_bytes), OneWayPath(loss=0.2), rtt_s=0.05
    )
    whole = encode_message(DirectMessage(1, random.Random(1).randbytes(size_bytes)))
    assert ours.link.send(whole, 0.0)
    network.run(20.0)
    assert theirs.got == [whole]
    assert ours.link.is_idle
    assert not theirs.link.is_receiving


def test_a_large_message_costs_a_token_for_each_64_kib() -> None:
    pair = Pair(bucket=TokenBucket(100, 0.1, 0.0))
    whole = message(3 * BYTES_PER_TOKEN + 1)
    for piece in cut(whole, list(range(0, len(whole), 1024))):
        pair.deliver(encode_frame(piece))
    assert pair.link.inbound_limit.bucket is not None
    assert pair.link.inbound_limit.bucket.available(0.0) == pytest.approx(96.0)


def test_a_sender_is_charged_for_a_large_message_as_it_is_sent() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(), rtt_s=0.05)
    ours.link.send_limit, theirs.link.inbound_limit.bucket = (
        TokenBucket(3, 1.0, 0.0),
        TokenBucket(3, 1.0, 0.0),
    )
    whole = message(6 * BYTES_PER_TOKEN)
    ours.link.send(whole, 0.0)
    took_s = network.run(20.0, until=lambda: bool(theirs.got))
    assert theirs.got == [whole]
    assert 3.0 <= took_s < 4.0
    assert theirs.link.inbound_limit.throttled == 0


def test_requested_repairs_are_free_in_fragments_too() -> None:
    pair = Pair(bucket=TokenBucket(1, 0.1, 0.0))
    pair.link.inbound_limit.grant_repair_credit(1)
    whole = bytes((Kind.REPAIR,)) + bytes(2 * BYTES_PER_TOKEN)
    pieces = [
        Fragment(1, len(whole), at, whole[at : at + 1000], is_repair=True)
        for at in range(0, len(whole), 1000)
    ]
    for piece in pieces[:-1]:
        pair.deliver(encode_frame(piece))
    session = pair.theirs
    assert pair.deliver(encode_frame(pieces[-1]), 0.0, session) == whole
    assert pair.link.inbound_limit.bucket is not None
    assert pair.link.inbound_limit.bucket.available(0.0) == 1.0


def test_large_messages_have_their_own_room_and_one_always_fits() -> None:
    pair = Pair(limits=LimitsConfig(queue_bytes=50_000))
    assert pair.link.send(message(200_000), 0.0)
    assert not pair.link.send(message(70_000), 0.0)
    assert not pair.link.has_room_for(70_000)
    assert pair.link.send(message(5_000), 0.0)
    assert pair.link.has_room_for(BASE_PLAINTEXT_BYTES)
    assert pair.link.send(message(100), 0.0)
    assert pair.link.send_drops == 1


# --- bytes ----------------------------------------------------------------------------------------

ids = st.binary(min_size=8, max_size=8)
counts = st.integers(0, 2**32 - 1)
frames = st.one_of(
    st.builds(
        lambda number, before, body, after, of_repair: Fragment(
            number, before + len(body) + after, before, body, of_repair
        ),
        st.integers(0, 2**64 - 1),
        st.integers(0, 1000),
        st.binary(min_size=1, max_size=50),
        st.integers(0, 1000),
        st.booleans(),
    ),
    st.builds(Retransmit, ids, counts, st.binary(min_size=1, max_size=50)),
    st.builds(MtuProbe, st.integers(0, 65_000)),
    st.builds(PathChallenge, ids),
    st.builds(PathResponse, ids),
    st.builds(
        lambda session_id, first, latest, delay, steps: Ack(
            session_id,
            first,
            first + sum(steps) + 1,
            latest,
            delay,
            tuple(
                (first + sum(steps[:i]), first + sum(steps[:i]) + steps[i] // 2)
                for i in range(len(steps))
            ),
        ),
        ids,
        st.integers(0, 2**31),
        counts,
        counts,
        st.lists(st.integers(1, 1000), max_size=64),
    ),
)


@given(frames)
def test_an_encoded_frame_decodes_to_the_same_frame(frame: LinkFrame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@given(st.sampled_from(list(Kind)), st.binary(max_size=200))
def test_arbitrary_bytes_are_a_frame_or_dropped(kind: Kind, data: bytes) -> None:
    with contextlib.suppress(Dropped):
        frame = decode_frame(bytes((kind,)) + data)
        assert isinstance(frame, MtuProbe) or encode_frame(frame)[1:] == data


def test_a_token_pays_for_64_kibibytes() -> None:
    assert BYTES_PER_TOKEN == 65_536


def test_of_a_new_message_nothing_is_sent_charged_or_acknowledged() -> None:
    one = FragmentedMessage(message(5000), 1, 0)
    assert (one.sent_bytes, one.charged_bytes, one.acked_bytes) == (0, 0, 0)
    assert not one.is_abandoned
    assert one.tracked_keys == ()


def test_the_first_byte_of_a_message_decides_whether_it_is_a_free_repair() -> None:
    repair, rumors = bytes((Kind.REPAIR, Kind.RUMORS)), bytes((Kind.RUMORS, Kind.REPAIR))
    for whole, is_free in ((repair, True), (rumors, False)):
        assert FragmentedMessage(whole, 1, 0).is_free is is_free
        assert FragmentedMessage(ChunkedMessage(whole, b"body", b""), 1, 0).is_free is is_free


def test_a_chunked_message_is_sliced_and_keeps_its_tracked_keys() -> None:
    chunked = ChunkedMessage(b"head", b"body", b"tail")
    chunked.tracked_keys = ((1, 5),)
    one = FragmentedMessage(chunked, 7, 0)
    assert one.tracked_keys == ((1, 5),)
    assert decode_frame(one.encode_fragment(2, 10)) == Fragment(7, 12, 2, b"adbodyta")
