"""Signed values: what a signature covers, and the sizes they count as."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from grapevine_proto.crypto.identity import DigestPart, digest, verify
from grapevine_proto.ids import Address, MessageId, Stream, StreamRange
from grapevine_proto.wire.attributes import PLAIN, TRACE_ALL, record_attributes, rumor_attributes
from grapevine_proto.wire.fields import answer_fields, receipt_fields
from grapevine_proto.wire.query_terms import MAX_LARGE_ANSWER_BYTES
from grapevine_proto.wire.signed import (
    MAX_ANSWER_BYTES,
    MAX_ANSWERS_PER_MEMBER,
    MAX_PAYLOADS_PER_MESSAGE,
    PUSH_LIMIT_BYTES,
    Accusation,
    AnswerCode,
    LargeAnswer,
    PeerRecord,
    QueryAnswer,
    Rumor,
    TraceReceipt,
    counted_payload_bytes,
    is_announced_by_topic,
    is_large,
    is_pulled,
)
from tests.proto.overlay.builders import EPOCH, identity, peer_id, record

ATTRIBUTES = rumor_attributes(trace_share=300)
TOPIC = rumor_attributes(topic="news")
RUMOR = Rumor.signed(identity(1), "default", EPOCH, 5, (b"ab", b"", b"cde"))
MESSAGE = MessageId(peer_id(1), EPOCH, 7)
RECEIPT = TraceReceipt(peer_id(2), 3, 250).signed(identity(2), "default", MESSAGE)


@pytest.mark.parametrize(
    ("length", "counted"),
    [(0, 16), (14, 16), (15, 16), (16, 17), (127, 128), (128, 130), (255, 257), (256, 259),
     (65_535, 65_538), (65_536, 65_541)],
)  # fmt: skip
def test_a_payload_counts_with_its_length_field_and_at_least_sixteen_bytes(
    length: int, counted: int
) -> None:
    assert counted_payload_bytes(length) == counted


def test_a_payload_above_eight_kibibytes_is_pulled() -> None:
    assert (is_pulled(8192), is_pulled(8193), PUSH_LIMIT_BYTES) == (False, True, 8192)
    assert MAX_PAYLOADS_PER_MESSAGE == 512
    assert TRACE_ALL == 65_535


def rumor_of(*lengths: int, attributes: bytes = b"") -> Rumor:
    payloads = tuple(bytes(length) for length in lengths)
    return Rumor.signed(identity(1), "default", EPOCH, 5, payloads, attributes=attributes)


def test_a_rumor_is_pulled_for_its_largest_payload_with_or_without_its_body() -> None:
    assert not is_large(rumor_of(8192))
    assert is_large(rumor_of(8193))
    assert is_large(rumor_of(1, 8193))
    assert not is_large(rumor_of(8192, 8192)), "many small payloads would each wait a round trip"
    assert is_large(rumor_of(8193, attributes=TOPIC).without_body())


def test_only_a_single_large_payload_of_a_topic_is_announced_with_it() -> None:
    assert is_announced_by_topic(rumor_of(8193, attributes=TOPIC))
    assert not is_announced_by_topic(rumor_of(8193))
    assert not is_announced_by_topic(rumor_of(8193, attributes=ATTRIBUTES)), "without a topic"
    assert not is_announced_by_topic(rumor_of(8192, attributes=TOPIC))
    assert not is_announced_by_topic(rumor_of(1, 8193, attributes=TOPIC))


def test_what_is_known_by_its_header_alone_is_announced_by_it_again() -> None:
    assert is_announced_by_topic(rumor_of(8193, attributes=ATTRIBUTES).without_body())


def test_a_record_without_a_delay_of_acks_permits_none() -> None:
    assert record(1).max_ack_delay_s == 0.0
    delayed = record_attributes(max_ack_delay_s=0.5)
    assert replace(record(1), attributes=delayed).max_ack_delay_s == 0.5


def test_a_member_is_behind_a_nat_if_it_says_so_or_has_only_our_own_private_addresses() -> None:
    private, other, public = (Address(host, 1) for host in ("10.0.0.1", "10.0.0.2", "8.8.8.8"))
    bare = replace(record(1), addresses=(private,))
    introduced = record_attributes(introducers=(bytes(8),))
    assert replace(bare, attributes=introduced).is_behind_nat(())
    assert bare.is_behind_nat((private,)), "this node has that address itself"
    assert not bare.is_behind_nat((other,))
    delayed = record_attributes(max_ack_delay_s=0.5)
    assert not replace(bare, attributes=delayed).is_behind_nat((other,)), "it names no introducers"
    assert not replace(bare, addresses=(private, other)).is_behind_nat((private,))
    assert not replace(bare, addresses=(public,)).is_behind_nat((public,))
    assert not replace(bare, addresses=()).is_behind_nat((private,))


def test_the_size_of_a_record_grows_with_its_texts_addresses_and_attributes() -> None:
    bare = PeerRecord(peer_id(1), 1, 0, (), "", "", 90, 45, False, bytes(64))
    assert bare.size_bytes == 134
    assert replace(bare, zone="eu", name="ö").size_bytes == 138
    both = (Address("10.0.0.1", 1), Address("::1", 1))
    assert replace(bare, addresses=both).size_bytes == 134 + 6 + 8 + 6 + 3
    assert replace(bare, attributes=b"abcd").size_bytes == 134 + 3 + 4


def test_the_size_of_a_rumor_is_that_of_its_payloads_and_its_fields() -> None:
    assert RUMOR.size_bytes == 150 + 3 * 16
    attributed = replace(RUMOR, attributes=ATTRIBUTES)
    assert attributed.size_bytes == RUMOR.size_bytes + 3 + len(ATTRIBUTES)


def test_a_rumor_names_each_of_its_payloads() -> None:
    stream = Stream(peer_id(1), EPOCH)
    assert (RUMOR.stream, RUMOR.last) == (stream, 7)
    assert RUMOR.ids == StreamRange(stream, 5, 7)
    assert RUMOR.payloads() == [
        (MessageId(peer_id(1), EPOCH, 5), b"ab"),
        (MessageId(peer_id(1), EPOCH, 6), b""),
        (MessageId(peer_id(1), EPOCH, 7), b"cde"),
    ]


def test_a_rumor_without_attributes_has_none_and_others_are_read() -> None:
    assert RUMOR.known_attributes is PLAIN
    assert replace(RUMOR, attributes=ATTRIBUTES).known_attributes.trace_share == 300


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": peer_id(2)},
        {"epoch": EPOCH + 1},
        {"first": 6},
        {"lengths": (3, 0, 2)},
        {"body": b"abcdf"},
        {"attributes": ATTRIBUTES},
        {"signature": bytes(64)},
    ],
    ids=str,
)
def test_a_signature_covers_all_of_a_rumor_and_its_cluster(changes: dict[str, Any]) -> None:
    assert RUMOR.is_authentic("default")
    assert not RUMOR.is_authentic("other")
    assert not replace(RUMOR, **changes).is_authentic("default")


def test_attributes_are_signed_with_the_rumor() -> None:
    signed = Rumor.signed(identity(1), "default", EPOCH, 5, (b"ab",), attributes=ATTRIBUTES)
    assert signed.is_authentic("default")
    assert not replace(signed, attributes=b"").is_authentic("default")
    assert not replace(signed, attributes=rumor_attributes(trace_share=301)).is_authentic("default")
    assert not replace(signed, body=b"ac").is_authentic("default")


@pytest.mark.parametrize(
    "changes",
    [
        {"peer_id": peer_id(2)},
        {"epoch": EPOCH + 1},
        {"incarnation": 1},
        {"addresses": ()},
        {"zone": "eu"},
        {"name": "another"},
        {"rate_capacity": 91},
        {"rate_refill": 46},
        {"left": True},
        {"attributes": b"\x92\x01\x01"},
    ],
    ids=str,
)
def test_a_signature_covers_all_of_a_record_and_its_cluster(changes: dict[str, Any]) -> None:
    assert record(1).is_authentic("default")
    assert not record(1).is_authentic("other")
    assert not replace(record(1), **changes).is_authentic("default")


def test_attributes_are_signed_with_the_record() -> None:
    signed = replace(record(1), attributes=b"\x92\x01\x01").signed(identity(1), "default")
    assert signed.is_authentic("default")
    assert not replace(signed, attributes=b"\x92\x01\x02").is_authentic("default")
    assert not replace(signed, attributes=b"").is_authentic("default")


def test_a_record_is_newer_by_epoch_then_by_incarnation() -> None:
    older, newer = record(1, incarnation=9), record(1, epoch=EPOCH + 1)
    assert older.version == (EPOCH, 9)
    assert older.version < newer.version


def test_an_accusation_is_of_one_run_of_one_member_by_one_accuser() -> None:
    signed = Accusation.signed(identity(1), "default", record(2))
    assert (signed.accuser, signed.is_authentic("default", record(2))) == (peer_id(1), True)
    assert not signed.is_authentic("other", record(2))
    assert not signed.is_authentic("default", record(3))
    assert not signed.is_authentic("default", record(2, incarnation=1))
    assert not replace(signed, accuser=peer_id(3)).is_authentic("default", record(2))


@pytest.mark.parametrize(
    "changes", [{"member": peer_id(3)}, {"hops": 4}, {"delay_ms": 251}], ids=str
)
def test_a_receipt_is_signed_but_for_the_relays_that_carried_it(changes: dict[str, Any]) -> None:
    assert RECEIPT.is_authentic("default", MESSAGE)
    assert replace(RECEIPT, relays=9).is_authentic("default", MESSAGE)
    assert not RECEIPT.is_authentic("other", MESSAGE)
    assert not RECEIPT.is_authentic("default", MESSAGE._replace(sequence=8))
    assert not replace(RECEIPT, **changes).is_authentic("default", MESSAGE)
    assert (RECEIPT.relays, TraceReceipt(peer_id(2), 3, 250).signature) == (0, b"")


def test_what_an_answer_says_has_its_documented_number() -> None:
    assert {code.name: code.value for code in AnswerCode} == {
        "ACK": 0,
        "ANSWER": 1,
        "REFUSED": 2,
        "FAILED": 3,
        "LARGE": 4,
    }


@pytest.mark.parametrize(
    ("size_bytes", "hash_bytes", "is_valid"),
    [
        (MAX_ANSWER_BYTES, 32, False),
        (MAX_ANSWER_BYTES + 1, 32, True),
        (MAX_LARGE_ANSWER_BYTES, 32, True),
        (MAX_LARGE_ANSWER_BYTES + 1, 32, False),
        (MAX_LARGE_ANSWER_BYTES, 31, False),
        (MAX_LARGE_ANSWER_BYTES, 33, False),
    ],
)
def test_a_large_answer_is_larger_than_one_that_is_sent_and_has_a_hash(
    size_bytes: int, hash_bytes: int, is_valid: bool
) -> None:
    payload = size_bytes.to_bytes(4, "big") + bytes(hash_bytes)
    expected = LargeAnswer(size_bytes, bytes(hash_bytes)) if is_valid else None
    assert LargeAnswer.parse(payload) == expected


def test_a_large_answer_describes_its_body_alone() -> None:
    body = bytes(MAX_ANSWER_BYTES + 1)
    described = LargeAnswer.describing(body)
    assert LargeAnswer.parse(described.to_payload()) == described
    assert described.describes(body)
    assert not described.describes(body[:-1] + b"x")
    assert not described.describes(body + b"x")


ANSWER = QueryAnswer(peer_id(2), 1, 3, 250, AnswerCode.ANSWER, b"yes")


@pytest.mark.parametrize(
    "changes",
    [
        {"member": peer_id(3)},
        {"index": 0},
        {"hops": 4},
        {"delay_ms": 251},
        {"status": AnswerCode.REFUSED},
        {"payload": b"no"},
    ],
    ids=str,
)
def test_an_answer_is_signed_but_for_the_relays_that_carried_it(changes: dict[str, Any]) -> None:
    signed = ANSWER.signed(identity(2), "default", MESSAGE)
    assert signed.is_authentic("default", MESSAGE)
    assert replace(signed, relays=9).is_authentic("default", MESSAGE)
    assert not signed.is_authentic("other", MESSAGE)
    assert not signed.is_authentic("default", MESSAGE._replace(sequence=8))
    assert not replace(signed, **changes).is_authentic("default", MESSAGE)


def test_answers_have_limits_in_bytes_and_in_number() -> None:
    assert (MAX_ANSWER_BYTES, MAX_LARGE_ANSWER_BYTES, MAX_ANSWERS_PER_MEMBER) == (1024, 65_536, 4)
    assert ANSWER.size_bytes == replace(ANSWER, payload=b"").size_bytes + len(b"yes")
    signed = replace(
        ANSWER, payload=b"", signature=bytes(64), relays=255, hops=255, delay_ms=2**32 - 1
    )
    encoded = len(msgpack.packb(answer_fields(signed)))
    assert encoded <= signed.size_bytes <= 1.2 * encoded


def test_an_ack_and_an_answer_of_a_member_have_their_own_keys() -> None:
    assert ANSWER.key == (peer_id(2), 1, False)
    assert replace(ANSWER, index=0).key == (peer_id(2), 0, False)
    assert replace(ANSWER, status=AnswerCode.ACK).key == (peer_id(2), 1, True)
    assert ANSWER.key == replace(ANSWER, status=AnswerCode.FAILED, payload=b"", hops=1).key


def test_a_record_without_attributes_tells_of_no_introducers_and_no_earlier_run() -> None:
    assert (record(1).introducers, record(1).earlier_epoch) == (None, 0)
    named = record(1, attributes=record_attributes(introducers=(b"12345678",), earlier_epoch=5))
    assert (named.introducers, named.earlier_epoch) == ((b"12345678",), 5)


def test_a_receipt_counts_as_110_bytes_and_an_answer_as_120_and_its_payload() -> None:
    largest = replace(RECEIPT, hops=255, delay_ms=2**32 - 1, relays=255)
    assert len(msgpack.packb(receipt_fields(largest))) <= largest.size_bytes == 110
    assert ANSWER.size_bytes == 120 + len(b"yes")


def test_each_relay_of_a_receipt_and_of_an_answer_is_counted() -> None:
    assert (RECEIPT.key, ANSWER.relays) == (peer_id(2), 0)
    for one in (RECEIPT, ANSWER):
        assert [one.relayed().relays, one.relayed().relayed().relays] == [1, 2]


def test_a_header_proves_itself_without_the_body_and_covers_it() -> None:
    signed = Rumor.signed(identity(1), "default", EPOCH, 5, (b"ab",), attributes=ATTRIBUTES)
    header = signed.without_body()
    assert (header.has_body, header.body, len(header.body_hash)) == (False, b"", 32)
    assert header.is_authentic("default")
    assert header.without_body() is header
    other = Rumor.signed(identity(1), "default", EPOCH, 5, (b"ac",), attributes=ATTRIBUTES)
    assert not replace(header, body_hash=other.without_body().body_hash).is_authentic("default")


def test_signatures_are_over_the_documented_domains_and_fields() -> None:
    origin, lengths = peer_id(1), bytes.fromhex("000000020000000000000003")
    fields: tuple[DigestPart, ...] = ("default", origin, EPOCH, 5, lengths)
    assert verify(origin, RUMOR.signature, b"grapevine rumor 1", *fields, b"abcde")
    payloads = (b"ab", b"", b"cde")
    attributed = Rumor.signed(
        identity(1), "default", EPOCH, 5, payloads, attributes=ATTRIBUTES
    ).signature
    body_hash = digest(b"grapevine rumor body 1", b"abcde")
    assert verify(origin, attributed, b"grapevine rumor 2", *fields, body_hash, ATTRIBUTES)
    bare = record(1)
    own = ("10.0.0.1:8000", "", "node 1", 90, 45, 0)
    fields = ("default", origin, EPOCH, 0, *own)
    assert verify(origin, bare.signature, b"grapevine record 1", *fields)
    attributed = record(1, attributes=ATTRIBUTES).signature
    assert verify(origin, attributed, b"grapevine record 2", *fields, ATTRIBUTES)
    accusation = Accusation.signed(identity(1), "default", record(2))
    fields = ("default", origin, peer_id(2), EPOCH, 0)
    assert verify(origin, accusation.signature, b"grapevine accusation 1", *fields)
    fields = ("default", origin, EPOCH, 7, peer_id(2), 3, 250)
    assert verify(peer_id(2), RECEIPT.signature, b"grapevine receipt 1", *fields)
    answer = ANSWER.signed(identity(2), "default", MESSAGE)
    fields = ("default", origin, EPOCH, 7, peer_id(2), 1, 3, 250, 1, b"yes")
    assert verify(peer_id(2), answer.signature, b"grapevine answer 1", *fields)
    large = LargeAnswer.describing(b"large")
    assert large == LargeAnswer(5, digest(b"grapevine answer body 1", b"large"))
