"""Limits of messages: the greatest value of each field is decoded and the next one is malformed."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId, Stream, StreamRange
from grapevine_proto.wire import codec
from grapevine_proto.wire.fields import decode_record_bytes
from grapevine_proto.wire.messages import (
    Close,
    CloseReason,
    IHave,
    Kind,
    Receipts,
    Records,
    Rumors,
)
from grapevine_proto.wire.signed import PeerRecord, TraceReceipt
from tests.proto.overlay.builders import copy, peer_id

COUNT, EPOCH, SEQUENCE = 2**32 - 1, 2**48 - 1, 2**53
ID, SUM, SIGNATURE, OWNER = bytes(32), bytes(16), bytes(64), bytes(8)
SMALL = PeerRecord(PeerId(ID), 1, 0, (), "", "", 1, 1, False, SIGNATURE)

ATTRIBUTES = msgpack.packb([1, 7])
HEADER = [ID, 0, 1, 20_000, bytes(32), SIGNATURE, 0, 0, ATTRIBUTES, ID, True]
"""An announcement of a topic."""
ANSWER = [ID, 0, 0, 0, 1, b"", 0, SIGNATURE]


def reason(kind: Kind, *fields: Any) -> DropReason | None:
    """Why a message is dropped; None if it is decoded."""
    try:
        codec.decode_message(bytes((kind,)) + msgpack.packb(fields))
    except Dropped as dropped:
        return dropped.reason
    return None


GREATEST: list[tuple[Kind, list[Any], dict[int, int]]] = [
    (Kind.HEARTBEAT, [0, 0, 0, 0, 0, SUM, []], {0: COUNT, 1: COUNT, 2: COUNT, 3: 1000, 4: COUNT}),
    (Kind.DIGEST, [0, 0, SUM], {0: COUNT, 1: COUNT}),
    (Kind.IN_SYNC, [0], {0: COUNT}),
    (Kind.VECTOR, [0, True, 0, 256, []], {0: COUNT, 2: 255}),
    (Kind.DIRECT_MESSAGE, [1, b""], {0: SEQUENCE}),
    (Kind.DIRECT_RECEIPT, [1], {0: SEQUENCE}),
    (Kind.IWANT, [0, []], {0: COUNT}),
    (Kind.REPAIR, [0, True, True, []], {0: COUNT}),
    (Kind.PING, [0, []], {0: COUNT}),
    (Kind.PING_REQ, [0, ID], {0: COUNT}),
    (Kind.PING_ACK, [0, True], {0: COUNT}),
    (Kind.MEMBER_DIGEST, [0, 0, b"", True], {0: COUNT, 1: COUNT}),
    (Kind.RECEIPTS, [0, ID, 0, 1, []], {0: COUNT, 2: EPOCH, 3: SEQUENCE}),
    (Kind.RECEIPT_ACK, [0], {0: COUNT}),
    (Kind.ANNOUNCE, [[ID, 0, 1, 1], 1], {1: COUNT}),
    (Kind.ANNOUNCE_TOPIC, HEADER, {1: EPOCH, 2: SEQUENCE - 512, 3: COUNT, 6: 255, 7: COUNT}),
    (Kind.ANSWERS, [0, ID, 0, 1, []], {0: COUNT, 2: EPOCH, 3: SEQUENCE}),
    (Kind.ANSWER_ACK, [0], {0: COUNT}),
    (Kind.ANSWER_FETCH, [ID, 0, 1, 0], {1: EPOCH, 2: SEQUENCE, 3: 3}),
    (Kind.PAUSE, [0], {0: COUNT}),
    (Kind.STATE_REQUEST, [0, []], {0: COUNT}),
    (Kind.STATE_DELTA, [0, True, []], {0: COUNT}),
]


@pytest.mark.parametrize(
    ("kind", "fields", "index", "greatest"),
    [
        (kind, fields, index, most)
        for kind, fields, limits in GREATEST
        for index, most in limits.items()
    ],
)
def test_the_greatest_number_is_decoded_and_the_next_is_malformed(
    kind: Kind, fields: list[Any], index: int, greatest: int
) -> None:
    def with_value(value: Any) -> list[Any]:
        return [*fields[:index], value, *fields[index + 1 :]]

    assert reason(kind, *with_value(greatest)) is None
    assert reason(kind, *with_value(greatest + 1)) is DropReason.MALFORMED
    assert reason(kind, *with_value(-1)) is DropReason.MALFORMED
    assert reason(kind, *with_value(True)) is DropReason.MALFORMED


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.DIRECT_MESSAGE, [0, b""]),
        (Kind.DIRECT_RECEIPT, [0]),
        (Kind.RECEIPTS, [0, ID, 0, 0, []]),
        (Kind.ANNOUNCE, [[ID, 0, 0, 1], 1]),
        (Kind.ANNOUNCE, [[ID, 0, 2, 1], 1]),
        (Kind.ANNOUNCE, [[ID, 0, 1, 1], 0]),
        (Kind.IWANT, [0, [[ID, 0, 0, 1]]]),
        (Kind.IWANT, [0, [[ID, 0, 2, 1]]]),
        (Kind.IHAVE, [[[ID, 0, [0, 1]]]]),
        (Kind.IHAVE, [[[ID, 0, [2, 1]]]]),
        (Kind.IHAVE, [[[ID, 0, [1, 2, 3]]]]),
        (Kind.VECTOR, [0, True, 0, 0, []]),
        (Kind.VECTOR, [0, True, 1, 1, []]),
        (Kind.VECTOR, [0, True, 2, 1, []]),
        (Kind.VECTOR, [0, True, 0, 257, []]),
        (Kind.VECTOR, [0, 1, 0, 1, []]),
        (Kind.DIGEST, [0, 0, bytes(15)]),
        (Kind.HEARTBEAT, [0, 0, 0, 0, 0, bytes(17), []]),
    ],
)
def test_sequences_begin_at_one_and_ranges_and_pages_are_not_empty(
    kind: Kind, fields: list[Any]
) -> None:
    assert reason(kind, *fields) is DropReason.MALFORMED


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.ANNOUNCE, [[ID, EPOCH, 1, 1], 1]),
        (Kind.ANNOUNCE, [[ID, 0, SEQUENCE, SEQUENCE], 1]),
        (Kind.IWANT, [0, [[ID, EPOCH, 1, 1], [ID, 0, SEQUENCE, SEQUENCE]]]),
        (Kind.IHAVE, [[[ID, EPOCH, [1, 1, SEQUENCE, SEQUENCE]]]]),
        (Kind.VECTOR, [0, False, 0, 1, [[ID, EPOCH, 0, SEQUENCE], [ID, 0, 5, 1]]]),
        (Kind.VECTOR, [0, False, 255, 256, []]),
    ],
)
def test_ranges_at_their_limits_are_decoded(kind: Kind, fields: list[Any]) -> None:
    assert reason(kind, *fields) is None


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.ANNOUNCE, [[ID, EPOCH + 1, 1, 1], 1]),
        (Kind.ANNOUNCE, [[ID, 0, 1, SEQUENCE + 1], 1]),
        (Kind.IHAVE, [[[ID, EPOCH + 1, [1, 1]]]]),
        (Kind.IHAVE, [[[ID, 0, [1, SEQUENCE + 1]]]]),
        (Kind.IHAVE, [[[bytes(31), 0, [1, 1]]]]),
    ],
)
def test_ranges_beyond_their_limits_are_malformed(kind: Kind, fields: list[Any]) -> None:
    assert reason(kind, *fields) is DropReason.MALFORMED


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ([EPOCH, SEQUENCE], None),
        ([EPOCH + 1, 0], DropReason.MALFORMED),
        ([0, SEQUENCE + 1], DropReason.MALFORMED),
        ([-1, 0], DropReason.MALFORMED),
        ([0, -1], DropReason.MALFORMED),
    ],
)
def test_a_version_of_an_entry_is_decoded_up_to_the_greatest(
    version: list[int], expected: DropReason | None
) -> None:
    assert reason(Kind.STATE_HEADS, False, ID, [[OWNER, *version, bytes(4)]]) is expected
    assert reason(Kind.STATE_REQUEST, 0, [[OWNER, *version]]) is expected


@pytest.mark.parametrize(
    ("kind", "make", "most"),
    [
        (Kind.IWANT, lambda n: [0, [[ID, 0, 1, 1]] * n], 64),
        (Kind.VECTOR, lambda n: [0, True, 0, 1, [[ID, 0, 1, 1]] * n], 64),
        (Kind.IHAVE, lambda n: [[[ID, 0, [1, 1]]] * n], 64),
        (Kind.IHAVE, lambda n: [[[ID, 0, [1, 1] * n]]], 64),
        (Kind.IHAVE, lambda n: [[[ID, 0, [1, 1] * 32], [ID, 1, [1, 1] * (n - 32)]]], 64),
        (Kind.OFFER, lambda n: [[[ID, 0, [1, 1]]] * n], 64),
        (Kind.MEMBER_DIGEST, lambda n: [0, 0, bytes(4 * n), False], 256),
        (Kind.RECEIPTS, lambda n: [0, ID, 0, 1, [[ID, 0, 0, 0, b""]] * n], 16),
        (Kind.ANSWERS, lambda n: [0, ID, 0, 1, [ANSWER] * n], 16),
        (Kind.RUMORS, lambda n: [[[ID, 0, 1, [0], b"", SIGNATURE, 0, 0]] * n], 64),
        (Kind.REPAIR, lambda n: [0, True, False, [[ID, 0, 1, [0], b"", SIGNATURE, 0, 0]] * n], 64),
        (Kind.RUMORS, lambda n: [[[ID, 0, 1, [0] * n, b"", SIGNATURE, 0, 0]]], 512),
        (Kind.STATE_HEADS, lambda n: [False, ID, [[OWNER, 0, 0, bytes(4)]] * n], 512),
        (Kind.STATE_REQUEST, lambda n: [0, [[OWNER, 0, 0]] * n], 32),
        (Kind.RECORDS, lambda n: [[codec.encode_record(SMALL)] * n], 16),
        (Kind.PING, lambda n: [0, [[codec.encode_record(SMALL), []]] * n], 4),
        (Kind.PING, lambda n: [0, [[codec.encode_record(SMALL), [[ID, SIGNATURE]] * n]]], 3),
    ],
)
def test_a_list_has_at_most_its_limit_of_items(kind: Kind, make: Any, most: int) -> None:
    assert reason(kind, *make(most)) is None
    assert reason(kind, *make(most + 1)) is DropReason.MALFORMED


def record_with(**changes: Any) -> DropReason | None:
    return reason(Kind.RECORDS, [codec.encode_record(replace(SMALL, **changes))])


@pytest.mark.parametrize(
    ("name", "most", "beyond"),
    [
        ("epoch", EPOCH, EPOCH + 1),
        ("incarnation", COUNT, COUNT + 1),
        ("rate_capacity", COUNT, COUNT + 1),
        ("rate_refill", COUNT, COUNT + 1),
        ("zone", "z" * 64, "z" * 65),
        ("name", "ö" * 32, "ö" * 32 + "n"),
        ("addresses", (Address("::1", 65_535),) * 4, (Address("::1", 1),) * 5),
        ("addresses", (), (Address("::1", 65_536),)),
    ],
)
def test_a_record_at_its_limits_is_decoded_and_beyond_them_malformed(
    name: str, most: Any, beyond: Any
) -> None:
    assert record_with(**{name: most}) is None
    assert record_with(**{name: beyond}) is DropReason.MALFORMED


def test_in_a_record_a_number_is_no_truth_value() -> None:
    fields = list(msgpack.unpackb(codec.encode_record(SMALL), use_list=False))
    assert fields[8] is False
    for left, expected in ((True, None), (1, DropReason.MALFORMED)):
        fields[8] = left
        assert reason(Kind.RECORDS, [msgpack.packb(tuple(fields))]) is expected


def test_a_message_with_records_has_at_most_2048_bytes() -> None:
    def message(total_bytes: int) -> bytes:
        records = [replace(SMALL, name="n" * 40)] * 12
        for size in range(128):
            padded = replace(SMALL, name="n" * min(size, 64), zone="z" * max(size - 64, 0))
            plaintext = codec.encode_message(Records((*records, padded)))
            if len(plaintext) == total_bytes:
                return plaintext
        raise AssertionError(total_bytes)

    assert codec.decode_message(message(2048))
    with pytest.raises(Dropped, match="malformed"):
        codec.decode_message(message(2049))


@pytest.mark.parametrize(
    ("name", "most", "beyond"),
    [
        ("epoch", EPOCH, EPOCH + 1),
        ("first", SEQUENCE - 512, SEQUENCE - 511),
        ("hops", 255, 256),
        ("age_ms", COUNT, COUNT + 1),
        ("lengths", [0, 0], [1, -1]),
    ],
)
def test_a_rumor_at_its_limits_is_decoded_and_beyond_them_malformed(
    name: str, most: Any, beyond: Any
) -> None:
    fields = {"origin": ID, "epoch": 0, "first": 1, "lengths": [0], "body": b"", "signature": SIGNATURE,
              "hops": 0, "age_ms": 0}  # fmt: skip
    assert reason(Kind.RUMORS, [list((fields | {name: most}).values())]) is None
    rejected = reason(Kind.RUMORS, [list((fields | {name: beyond}).values())])
    assert rejected is DropReason.MALFORMED


@pytest.mark.parametrize(
    ("receipt", "expected"),
    [
        ([ID, 255, COUNT, 255, SIGNATURE], None),
        ([ID, 0, 0, 0, b""], None),
        ([ID, 256, 0, 0, b""], DropReason.MALFORMED),
        ([ID, 0, COUNT + 1, 0, b""], DropReason.MALFORMED),
        ([ID, 0, 0, 256, b""], DropReason.MALFORMED),
        ([ID, 0, 0, 0, bytes(63)], DropReason.MALFORMED),
        ([bytes(31), 0, 0, 0, b""], DropReason.MALFORMED),
    ],
)
def test_a_receipt_at_its_limits_is_decoded(
    receipt: list[Any], expected: DropReason | None
) -> None:
    assert reason(Kind.RECEIPTS, 0, ID, 0, 1, [receipt]) is expected


def test_only_what_is_pulled_is_announced_by_a_header() -> None:
    for size_bytes, expected in ((8192, DropReason.MALFORMED), (8193, None)):
        assert reason(Kind.ANNOUNCE_TOPIC, *HEADER[:3], size_bytes, *HEADER[4:]) is expected


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, bytes(31)),
        (2, 0),
        (4, bytes(31)),
        (5, bytes(63)),
        (8, b""),
        (8, b"\x91\x01"),
        (9, bytes(31)),
        (9, b""),
        (10, 1),
    ],
)
def test_a_header_with_a_field_of_the_wrong_length_is_malformed(index: int, value: Any) -> None:
    assert reason(Kind.ANNOUNCE_TOPIC, *HEADER) is None
    fields = [*HEADER[:index], value, *HEADER[index + 1 :]]
    assert reason(Kind.ANNOUNCE_TOPIC, *fields) is DropReason.MALFORMED


def test_attributes_have_at_most_512_bytes_in_a_rumor_and_128_in_a_record() -> None:
    def attributes(size_bytes: int) -> bytes:
        header_bytes = 4 if size_bytes < 256 else 5
        encoded: bytes = msgpack.packb([1, bytes(size_bytes - header_bytes)])
        assert len(encoded) == size_bytes
        return encoded

    for size_bytes, expected in ((512, None), (513, DropReason.MALFORMED)):
        encoded = attributes(size_bytes)
        assert reason(Kind.ANNOUNCE_TOPIC, *HEADER[:8], encoded, *HEADER[9:]) is expected
        fields = [ID, 0, 1, [0], b"", SIGNATURE, 0, 0, encoded]
        assert reason(Kind.RUMORS, [fields]) is expected
    for size_bytes, expected in ((128, None), (129, DropReason.MALFORMED)):
        assert record_with(attributes=attributes(size_bytes)) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ANSWER, None),
        ([ID, 3, 255, COUNT, 4, bytes(1024), 255, SIGNATURE], None),
        ([ID, 0, 0, 0, 1, bytes(65_536), 0, b""], None),
        ([bytes(31), *ANSWER[1:]], DropReason.MALFORMED),
        ([ID, 4, *ANSWER[2:]], DropReason.MALFORMED),
        ([ID, 0, 256, *ANSWER[3:]], DropReason.MALFORMED),
        ([ID, 0, 0, COUNT + 1, *ANSWER[4:]], DropReason.MALFORMED),
        ([*ANSWER[:4], 5, *ANSWER[5:]], DropReason.MALFORMED),
        ([*ANSWER[:5], bytes(1025), *ANSWER[6:]], DropReason.MALFORMED),
        ([*ANSWER[:5], bytes(65_537), 0, b""], DropReason.MALFORMED),
        ([*ANSWER[:6], 256, SIGNATURE], DropReason.MALFORMED),
        ([*ANSWER[:7], bytes(63)], DropReason.MALFORMED),
    ],
)
def test_an_answer_at_its_limits_is_decoded(answer: list[Any], expected: DropReason | None) -> None:
    assert reason(Kind.ANSWERS, 0, ID, 0, 1, [answer]) is expected


def test_only_an_answer_that_is_alone_may_be_large() -> None:
    large = [*ANSWER[:5], bytes(1025), 0, b""]
    assert reason(Kind.ANSWERS, 0, ID, 0, 1, [large]) is None
    assert reason(Kind.ANSWERS, 0, ID, 0, 1, [large, ANSWER]) is DropReason.MALFORMED


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.RUMORS, [[[ID, 0, 1, [0], b"", SIGNATURE, 0, 0]]]),
        (Kind.IWANT, [0, [[ID, 0, 1, 1]]]),
        (Kind.IHAVE, [[[ID, 0, [1, 1]]]]),
        (Kind.RECEIPTS, [0, ID, 0, 1, [[ID, 0, 0, 0, b""]]]),
        (Kind.ANSWERS, [0, ID, 0, 1, [ANSWER]]),
        (Kind.PING, [0, [[codec.encode_record(SMALL), [[ID, SIGNATURE]]]]]),
        (Kind.ANNOUNCE_TOPIC, HEADER),
        (Kind.STATE_HEADS, [False, ID, [[OWNER, 0, 0, bytes(4)]]]),
        (Kind.STATE_REQUEST, [0, [[OWNER, 0, 0]]]),
    ],
)
def test_a_field_more_or_less_anywhere_is_malformed(kind: Kind, fields: list[Any]) -> None:
    def lists_in(value: Any) -> Iterator[list[Any]]:
        if isinstance(value, list):
            yield value
            for each in value:
                yield from lists_in(each)

    assert reason(kind, *fields) is None
    for number in range(len(list(lists_in(fields)))):
        surpluses: tuple[Any, ...] = ([], b"", None)
        for surplus in surpluses:
            changed = deepcopy(fields)
            list(lists_in(changed))[number].append(surplus)
            assert reason(kind, *changed) is DropReason.MALFORMED
    for number, original in enumerate(lists_in(fields)):
        if any(isinstance(each, bytes | int) for each in original):
            changed = deepcopy(fields)
            list(lists_in(changed))[number].pop()
            assert reason(kind, *changed) is DropReason.MALFORMED


def test_claims_beyond_what_the_wire_carries_are_encoded_as_the_greatest() -> None:
    message = codec.decode_message(
        codec.encode_message(Rumors((copy(1, 1)._replace(hops=256, age_ms=COUNT + 1),)))
    )
    assert isinstance(message, Rumors)
    assert (message.copies[0].hops, message.copies[0].age_ms) == (255, COUNT)
    receipts = Receipts(
        1, copy(1, 1).rumor.payloads()[0][0], (TraceReceipt(peer_id(1), 1, 1, 256),)
    )
    decoded = codec.decode_message(codec.encode_message(receipts))
    assert isinstance(decoded, Receipts)
    assert decoded.receipts[0].relays == 255


def test_a_message_without_a_kind_or_of_an_unknown_one_is_no_protocol_violation() -> None:
    for plaintext in (b"", b"\xfe\x90"):
        with pytest.raises(Dropped) as dropped:
            codec.decode_message(plaintext)
        assert dropped.value.reason is DropReason.UNKNOWN_KIND


def test_each_reason_to_close_is_decoded_and_another_is_malformed() -> None:
    for each in CloseReason:
        assert codec.decode_message(codec.encode_message(Close(each))) == Close(each)
    assert reason(Kind.CLOSE, 6, []) is DropReason.MALFORMED
    assert reason(Kind.CLOSE, True, []) is DropReason.MALFORMED


def test_ranges_of_one_stream_are_sent_under_one_head() -> None:
    one, two = Stream(PeerId(ID), 1), Stream(PeerId(ID), 2)
    ranges = (StreamRange(one, 1, 2), StreamRange(one, 5, 5), StreamRange(two, 7, 9))
    message = IHave(ranges)
    plaintext = codec.encode_message(message)
    assert msgpack.unpackb(plaintext[1:]) == [[[ID, 1, [1, 2, 5, 5]], [ID, 2, [7, 9]]]]
    assert codec.decode_message(plaintext) == message


def test_credentials_are_a_signature_of_64_bytes_and_a_record() -> None:
    signature = bytes(range(64))
    plaintext = codec.encode_credentials(SMALL, signature)
    assert plaintext == signature + codec.encode_record(SMALL)
    assert codec.decode_credentials(plaintext) == (SMALL, signature)
    for other in (signature, plaintext[1:], plaintext + b"\x00"):
        with pytest.raises(Dropped, match="malformed"):
            codec.decode_credentials(other)


def test_the_latest_1024_records_are_kept_decoded() -> None:
    decode_record_bytes.cache_clear()
    for incarnation in range(1100):
        decode_record_bytes(codec.encode_record(replace(SMALL, incarnation=incarnation)))
    assert decode_record_bytes.cache_info().currsize == 1024


def test_the_latest_4096_peer_ids_of_rumors_are_kept() -> None:
    def decoded(number: int) -> PeerId:
        one = copy(1, 1)
        rumor = replace(one.rumor, origin=PeerId(number.to_bytes(32, "big")))
        message = codec.decode_message(codec.encode_message(Rumors((one._replace(rumor=rumor),))))
        assert isinstance(message, Rumors)
        return message.copies[0].rumor.origin

    first = decoded(0)
    for number in range(1, 4096):
        decoded(number)
    assert decoded(0) is first, "used again, it is kept"
    for number in range(4096, 4096 + 4095):
        decoded(number)
    assert decoded(0) is first
    for number in range(10_000, 10_000 + 4096):
        decoded(number)
    assert decoded(0) is not first
