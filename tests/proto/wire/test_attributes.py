"""Attributes: one order, bounded, and what a version does with those it does not know."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.wire.attributes import (
    ATTRIBUTES_HEADER_BYTES,
    FIRST_CRITICAL,
    PLAIN,
    TRACE_ALL,
    RecordAttributes,
    RumorAttributes,
    decode_attributes,
    encode_attributes,
    parse_record_attributes,
    parse_rumor_attributes,
    record_attributes,
    record_coordinate,
    rumor_attributes,
)
from grapevine_proto.wire.bounded_msgpack import UNPACK_ERRORS
from grapevine_proto.wire.entry_terms import EntryTerms
from grapevine_proto.wire.query_terms import QueryTerms


def test_no_attributes_are_no_bytes() -> None:
    assert encode_attributes({}) == rumor_attributes() == b""
    assert parse_rumor_attributes(b"") is PLAIN


def test_attributes_are_encoded_in_ascending_order() -> None:
    assert encode_attributes({200: b"z", 3: 7}) == encode_attributes({3: 7, 200: b"z"})
    assert encode_attributes({200: b"z", 3: 7}) == bytes.fromhex("940307ccc8c4017a")
    assert list(decode_attributes(bytes.fromhex("940307ccc8c4017a"))) == [3, 200]


@pytest.mark.parametrize("share", [1, 300, TRACE_ALL])
def test_a_trace_share_is_an_attribute(share: int) -> None:
    assert parse_rumor_attributes(rumor_attributes(trace_share=share)) == RumorAttributes(share)


@pytest.mark.parametrize(
    ("value", "epoch"),
    [(1, 1), (5, 5), (2**48 - 1, 2**48 - 1), (0, 0), (2**48, 0), (-1, 0), (b"5", 0), (True, 0)],
)
def test_an_earlier_epoch_is_an_attribute_of_a_record(value: object, epoch: int) -> None:
    encoded = encode_attributes({7: value})
    assert parse_record_attributes(encoded).earlier_epoch == epoch
    assert epoch == 0 or record_attributes(earlier_epoch=epoch) == encoded


def test_a_topic_and_an_expiry_are_attributes() -> None:
    data = rumor_attributes(topic="deploy.web", expires_s=600)
    assert data == encode_attributes({2: b"deploy.web", 5: 600})
    assert parse_rumor_attributes(data) == RumorAttributes(topic="deploy.web", expires_s=600)


@pytest.mark.parametrize(
    ("values", "unsupported"),
    [
        ({FIRST_CRITICAL - 1: 1}, 0),
        ({FIRST_CRITICAL: 1}, FIRST_CRITICAL),
        ({1: 5, 100: b"x", 200: None, 255: 1}, 200),
        ({1: TRACE_ALL + 1}, 1),
        ({1: -1}, 1),
        ({1: 0}, 1),
        ({2: b"Not a topic"}, 2),
        ({2: "zürich".encode()}, 2),
        ({2: b""}, 2),
        ({2: 7}, 2),
        ({5: 0}, 5),
        ({5: 2**32}, 5),
        ({5: True}, 5),
        ({1: True}, 1),
        ({1: b"many"}, 1),
    ],
)
def test_unknown_critical_attributes_and_senseless_values_prevent_delivery(
    values: dict[int, object], unsupported: int
) -> None:
    assert parse_rumor_attributes(encode_attributes(values)).unsupported == unsupported


@given(st.binary(max_size=64))
def test_any_bytes_are_attributes_or_rejected(data: bytes) -> None:
    try:
        values = decode_attributes(data)
    except UNPACK_ERRORS:
        return
    assert list(values) == sorted(values)
    parse_rumor_attributes(data)


def test_a_rumor_without_attributes_is_plain() -> None:
    assert RumorAttributes(trace_share=0, topic="", expires_s=0, unsupported=0) == PLAIN
    assert RumorAttributes() == PLAIN


def test_a_rumor_is_expired_from_its_age_in_seconds_on() -> None:
    expiring = RumorAttributes(expires_s=2)
    assert [expiring.is_expired(age_ms) for age_ms in (0, 1999, 2000)] == [False, False, True]
    assert not PLAIN.is_expired(0)
    assert not PLAIN.is_expired(10**12)


@pytest.mark.parametrize(
    "flat",
    [
        [],
        [1],
        [0, 7],
        [256, 7],
        [-1, 7],
        [True, 7],
        [b"1", 7],
        [1, 7, 1, 7],
        [2, 7, 1, 7],
        [1, 7, 2],
    ],
)
def test_numbers_are_1_to_255_and_ascend(flat: list[object]) -> None:
    assert decode_attributes(msgpack.packb([1, 7, 255, b""])) == {1: 7, 255: b""}
    with pytest.raises(ValueError, match="attribute"):
        decode_attributes(msgpack.packb(flat))


def test_numbers_from_128_on_are_critical_and_the_largest_values_are_understood() -> None:
    assert parse_rumor_attributes(encode_attributes({127: 1})) == PLAIN
    assert parse_rumor_attributes(encode_attributes({128: 1})).unsupported == 128
    assert parse_rumor_attributes(encode_attributes({1: 65_535})).trace_share == 65_535
    assert parse_rumor_attributes(encode_attributes({1: 65_536})).unsupported == 1
    assert parse_rumor_attributes(encode_attributes({5: 2**32 - 1})).expires_s == 2**32 - 1
    assert parse_rumor_attributes(encode_attributes({5: 1})).expires_s == 1


@pytest.mark.parametrize(("value", "delay_s"), [(1, 0.001), (1000, 1.0), (0, 0.0), (1001, 0.0)])
def test_a_record_tells_how_long_acks_may_wait(value: int, delay_s: float) -> None:
    assert parse_record_attributes(encode_attributes({6: value})).max_ack_delay_s == delay_s


def test_what_is_no_delay_of_acks_counts_as_absent() -> None:
    for value in (-1, True, b"x", None, 1.5):
        assert parse_record_attributes(encode_attributes({6: value})).max_ack_delay_s == 0.0
    assert record_attributes(max_ack_delay_s=0.0) == b""


def test_each_delay_of_acks_is_announced_in_whole_milliseconds() -> None:
    for delay_ms in range(1, 1001):
        encoded = record_attributes(max_ack_delay_s=delay_ms / 1000)
        assert encoded == encode_attributes({6: delay_ms})


def test_a_record_without_attributes_has_no_introducers_no_earlier_run_and_no_delay() -> None:
    assert parse_record_attributes(b"") == RecordAttributes(None, 0, 0.0)


def test_the_field_of_the_largest_attributes_has_three_bytes_besides_them() -> None:
    assert len(msgpack.packb(bytes(512))) == 512 + ATTRIBUTES_HEADER_BYTES


def test_a_coordinate_is_attribute_3_of_a_record() -> None:
    coordinate = Coordinate(height_s=0.25)
    encoded = record_attributes(coordinate=coordinate)
    assert encoded == encode_attributes({3: coordinate.encode()})
    assert record_coordinate(encoded) == coordinate
    for values in ({3: b"short"}, {3: 7}, {2: coordinate.encode()}, {}):
        assert record_coordinate(encode_attributes(values)) is None


@pytest.mark.parametrize("count", range(4))
def test_up_to_three_introducers_are_attribute_4_of_a_record(count: int) -> None:
    introducers = tuple(bytes([number]) * 8 for number in range(count))
    encoded = record_attributes(introducers=introducers)
    assert encoded == encode_attributes({4: b"".join(introducers)})
    assert parse_record_attributes(encoded).introducers == introducers


@pytest.mark.parametrize("value", [bytes(7), bytes(9), bytes(4 * 8), 8, None, (bytes(8),)])
def test_what_names_no_introducers_counts_as_absent(value: object) -> None:
    assert parse_record_attributes(encode_attributes({4: value})).introducers is None
    assert parse_record_attributes(b"").introducers is None


def test_a_query_is_attribute_131_of_a_rumor() -> None:
    terms = QueryTerms("up", 5000)
    encoded = rumor_attributes(query=terms)
    assert encoded == encode_attributes({131: terms.to_value()})
    assert parse_rumor_attributes(encoded) == RumorAttributes(query=terms)


def test_an_entry_is_attribute_132_of_a_rumor() -> None:
    terms = EntryTerms("key", 7)
    encoded = rumor_attributes(entry=terms)
    assert encoded == encode_attributes({132: terms.to_value()})
    assert parse_rumor_attributes(encoded) == RumorAttributes(entry=terms)
    assert parse_rumor_attributes(encode_attributes({132: b"key"})).unsupported == 132


def test_256_sets_of_attributes_are_kept_as_they_were_understood() -> None:
    for parse in (parse_rumor_attributes, parse_record_attributes):
        for number in range(300):
            parse(encode_attributes({100: number}))
        assert parse.cache_info().currsize == 256
