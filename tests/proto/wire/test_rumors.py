"""Encodings of rumors that peers share: equal to the plain ones, and never larger than their message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.ids import PeerId
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import encode_attributes, rumor_attributes
from grapevine_proto.wire.messages import Kind, Repair, RumorCopy, Rumors
from grapevine_proto.wire.rumors import (
    RUMORS_OVERHEAD_BYTES,
    ChunkedMessage,
    encode_repair,
    encode_rumor_copy,
    encode_rumors,
    max_payload_bytes,
    with_tracking,
)
from grapevine_proto.wire.signed import Rumor, counted_payload_bytes
from grapevine_proto.wire.tracked_bytes import TrackedBytes, TrackedKey
from tests.proto.overlay.builders import EPOCH, copy, peer_id

ATTRIBUTES = rumor_attributes(trace_share=300)


def keys_of(message: bytes | ChunkedMessage) -> tuple[TrackedKey, ...]:
    assert isinstance(message, TrackedBytes | ChunkedMessage)
    return message.tracked_keys


@pytest.mark.parametrize("count", [0, 1, 15, 16, 64])
def test_joined_copies_are_the_message_of_those_copies(count: int) -> None:
    copies = tuple(copy(1, first) for first in range(1, count + 1))
    encoded = [encode_rumor_copy(each) for each in copies]
    message = encode_rumors(encoded)
    assert message == codec.encode_message(Rumors(copies))
    assert not isinstance(message, TrackedBytes)
    overhead = len(message) - sum(map(len, encoded))
    assert overhead == (3 if count < 16 else 5)
    assert overhead <= RUMORS_OVERHEAD_BYTES == 5


def test_tracked_copies_are_named_in_order_and_others_are_not() -> None:
    tracked = [encode_rumor_copy(copy(1, first), is_tracked=True) for first in (3, 7)]
    assert tracked[0] == encode_rumor_copy(copy(1, 3))
    assert keys_of(tracked[0]) == ((EPOCH, 3),)
    message = encode_rumors([tracked[0], encode_rumor_copy(copy(2, 5)), tracked[1]])
    assert keys_of(message) == ((EPOCH, 3), (EPOCH, 7))
    assert not isinstance(encode_rumor_copy(copy(1, 3)), TrackedBytes)
    assert with_tracking(b"x", []) == b"x"


@pytest.mark.parametrize(("size", "is_chunked"), [(7, False), (65_535, False), (65_536, True)])
@pytest.mark.parametrize("attributes", [b"", ATTRIBUTES])
def test_a_repair_with_one_large_rumor_is_chunked_and_has_the_same_bytes(
    size: int, is_chunked: bool, attributes: bytes
) -> None:
    one = copy(1, 9, size=size, hops=4, age_ms=70_000)
    repair = Repair(
        300, False, True, (one._replace(rumor=replace(one.rumor, attributes=attributes)),)
    )
    plain = codec.encode_message(repair)
    message = encode_repair(repair, peer_id(1))
    assert isinstance(message, ChunkedMessage) is is_chunked
    assert keys_of(message) == ((EPOCH, 9),)
    assert len(message) == len(plain)
    if isinstance(message, ChunkedMessage):
        assert message.kind == Kind.REPAIR == plain[0]
        assert message.slice_bytes(0, len(message)) == plain


def test_a_repair_of_others_or_with_several_rumors_is_plain() -> None:
    large = copy(1, 1, size=70_000), copy(2, 2, size=70_000)
    both = encode_repair(Repair(1, True, False, large), peer_id(2))
    assert isinstance(both, TrackedBytes)
    assert both.tracked_keys == ((EPOCH, 2),)
    assert both == codec.encode_message(Repair(1, True, False, large))
    empty = encode_repair(Repair(1, True, False, ()), peer_id(1))
    assert empty == codec.encode_message(Repair(1, True, False, ()))
    other = encode_repair(Repair(1, True, False, large[:1]), peer_id(3))
    assert keys_of(other) == ()


def test_any_slice_of_a_chunked_message_is_that_of_its_whole() -> None:
    message = ChunkedMessage(b"head", b"0123456789", b"tail")
    whole = b"head0123456789tail"
    assert len(message) == len(whole)
    for start in range(len(whole) + 1):
        for end in range(start, len(whole) + 1):
            assert message.slice_bytes(start, end) == whole[start:end], (start, end)


@pytest.mark.parametrize("limit_bytes", [1175, 64_900])
@pytest.mark.parametrize(("count", "spare_bytes"), [(1, 2), (15, 2), (16, 0), (40, 0)])
@pytest.mark.parametrize(
    ("attributes", "spare_header_bytes"),
    [(b"", 3), (ATTRIBUTES, 1), (encode_attributes({1: bytes(300)}), 0)],
)
def test_a_rumor_of_the_greatest_size_fills_its_message_to_the_byte(
    limit_bytes: int, count: int, spare_bytes: int, attributes: bytes, spare_header_bytes: int
) -> None:
    lengths = [15] * (count - 1)  # the least that count as what they are
    room = max_payload_bytes(limit_bytes) - len(attributes) - 16 * (count - 1)
    lengths.append(next(n for n in range(room) if counted_payload_bytes(n) == room))
    rumor = Rumor(
        PeerId(bytes(32)),
        2**48 - 1,
        2**53 - 512,
        tuple(lengths),
        bytes(sum(lengths)),
        bytes(64),
        attributes,
    )
    repair = Repair(2**32 - 1, True, True, (RumorCopy(rumor, 255, 2**32 - 1),))
    unused = limit_bytes - len(codec.encode_message(repair))
    assert unused == spare_bytes + spare_header_bytes
