"""Codec: every message survives a round trip, and arbitrary bytes do no harm."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, MessageId, PeerId, Stream, StreamRange, canonical_host
from grapevine_proto.overlay.query.queries import ANSWERS_MESSAGE_BYTES
from grapevine_proto.wire import codec, frames, message_codec
from grapevine_proto.wire.attributes import (
    encode_attributes,
    rumor_attributes,
)
from grapevine_proto.wire.message_codec import MAX_RECORD_MESSAGE_BYTES, RECORD_KINDS
from grapevine_proto.wire.messages import (
    Ack,
    Announce,
    AnnounceTopic,
    AnswerAck,
    AnswerFetch,
    Answers,
    Close,
    CloseReason,
    Confirm,
    Digest,
    DirectMessage,
    DirectReceipt,
    Fragment,
    Graft,
    Heartbeat,
    IHave,
    InSync,
    Introduce,
    Introduction,
    IWant,
    Kind,
    LinkFrame,
    MemberDigest,
    MemberUpdate,
    MemberUpdates,
    MtuProbe,
    NeighborRequest,
    ObservedAddress,
    Offer,
    OpenTransient,
    PathChallenge,
    PathResponse,
    Pause,
    PiggybackedAck,
    Ping,
    PingAck,
    PingReq,
    Prune,
    ReceiptAck,
    Receipts,
    Records,
    Relayed,
    Repair,
    Retransmit,
    RumorCopy,
    Rumors,
    StateDelta,
    StateDigest,
    StateHead,
    StateHeads,
    StateRequest,
    StateWant,
    Subscribe,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.signed import (
    ANSWER_OVERHEAD_BYTES,
    MAX_ANSWER_BYTES,
    PUSH_LIMIT_BYTES,
    Accusation,
    AnswerCode,
    PeerRecord,
    QueryAnswer,
    Rumor,
    TraceReceipt,
    counted_payload_bytes,
)
from tests import message_equality  # noqa: F401  messages are keys below

counts = st.integers(0, 2**32 - 1)
id_prefixes = st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(b"".join)
epochs = st.integers(0, 2**48 - 1)
sequences = st.integers(1, 2**53 - codec.MAX_PAYLOADS)
peer_ids = st.binary(min_size=32, max_size=32).map(PeerId)
signatures = st.binary(min_size=64, max_size=64)
totals = st.binary(min_size=16, max_size=16)
owner_prefixes = st.binary(min_size=8, max_size=8)
versions = st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**53))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=16)
addresses = st.builds(
    lambda ip, port: Address(canonical_host(str(ip)), port),
    st.ip_addresses(),
    st.integers(0, 65535),
)
attribute_values = st.recursive(
    st.none() | st.booleans() | counts | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
attributes = st.dictionaries(st.integers(1, 255), attribute_values, max_size=3).map(
    encode_attributes
)
records = st.builds(
    PeerRecord,
    peer_ids,
    epochs,
    counts,
    st.lists(addresses, max_size=4).map(tuple),
    texts,
    texts,
    counts,
    counts,
    st.booleans(),
    signatures,
    attributes,
)


def joined(
    origin: PeerId,
    epoch: int,
    first: int,
    payloads: list[bytes],
    signature: bytes,
    attributes: bytes,
) -> Rumor:
    lengths = tuple(map(len, payloads))
    return Rumor(origin, epoch, first, lengths, b"".join(payloads), signature, attributes)


rumors = st.builds(
    joined,
    peer_ids,
    epochs,
    sequences,
    st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    signatures,
    attributes,
)
copies = st.builds(RumorCopy, rumors, st.integers(0, 255), counts, st.none())
headers = st.builds(
    lambda rumor, holder: RumorCopy(
        replace(
            rumor, lengths=(PUSH_LIMIT_BYTES + 1,), attributes=rumor_attributes(topic="a.b")
        ).without_body(),
        1,
        2,
        holder,
    ),
    rumors,
    peer_ids,
)
streams = st.builds(Stream, peer_ids, epochs)
ranges = st.builds(StreamRange, streams, st.integers(0, 2**53), st.integers(0, 2**53))
valid_ranges = st.builds(
    lambda stream, a, b: StreamRange(stream, min(a, b), max(a, b)), streams, sequences, sequences
)

receipts = st.builds(
    TraceReceipt,
    peer_ids,
    st.integers(0, 255),
    counts,
    st.integers(0, 255),
    signatures | st.just(b""),
)
answers = st.builds(
    QueryAnswer,
    peer_ids,
    st.integers(0, 3),
    st.integers(0, 255),
    counts,
    st.sampled_from(AnswerCode),
    st.binary(max_size=20),
    st.integers(0, 255),
    signatures | st.just(b""),
)
message_ids = st.builds(MessageId, peer_ids, epochs, sequences, st.just(False))


def some(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=4).map(tuple)


accusations = st.builds(Accusation, peer_ids, signatures)
member_updates = st.builds(MemberUpdate, records, st.lists(accusations, max_size=3).map(tuple))

coordinates = st.builds(
    Coordinate,
    st.tuples(*[st.floats(-9.9, 9.9)] * 8),
    st.floats(1e-5, 9.9),
    st.floats(-9.9, 9.9),
    st.floats(0.0, 1.5),
).map(Coordinate.encode)

STRATEGIES: tuple[st.SearchStrategy[Any], ...] = (
    st.builds(
        Heartbeat,
        counts,
        counts,
        counts,
        st.integers(0, 1000),
        counts,
        totals,
        some(records),
        st.just(b"") | coordinates,
    ),
    st.builds(Records, some(records)),
    st.builds(Rumors, some(copies)),
    st.builds(DirectMessage, sequences, st.binary(max_size=50)),
    st.builds(DirectReceipt, sequences),
    st.builds(Digest, counts, counts, totals),
    st.builds(InSync, counts),
    st.builds(Vector, counts, st.booleans(), st.integers(0, 3), st.integers(4, 256), some(ranges)),
    st.builds(IWant, counts, some(valid_ranges)),
    st.builds(Repair, counts, st.booleans(), st.booleans(), some(copies)),
    st.builds(IHave, some(valid_ranges)),
    st.builds(Ping, counts, some(member_updates)),
    st.builds(PingReq, counts, peer_ids),
    st.builds(PingAck, counts, st.booleans()),
    st.builds(MemberUpdates, some(member_updates)),
    st.builds(MemberDigest, counts, counts, id_prefixes, st.booleans()),
    st.builds(Receipts, counts, message_ids, some(receipts)),
    st.builds(ReceiptAck, counts),
    st.builds(Answers, counts, message_ids, some(answers)),
    st.builds(AnswerAck, counts),
    st.builds(AnswerFetch, message_ids, st.integers(0, 3)),
    st.builds(StateDigest, totals, st.just(b"") | st.binary(min_size=1024, max_size=1024)),
    st.builds(
        StateHeads,
        st.booleans(),
        st.binary(min_size=32, max_size=32),
        some(st.builds(StateHead, owner_prefixes, versions, st.binary(min_size=4, max_size=4))),
    ),
    st.builds(StateRequest, counts, some(st.builds(StateWant, owner_prefixes, versions))),
    st.builds(StateDelta, counts, st.booleans(), some(copies)),
    st.builds(Offer, some(valid_ranges)),
    st.builds(Announce, valid_ranges, st.integers(1, 2**32 - 1)),
    st.builds(AnnounceTopic, headers, st.booleans()),
    st.builds(Subscribe, st.booleans()),
    st.builds(Graft, st.none() | peer_ids),
    st.builds(Prune, st.none() | peer_ids),
    st.builds(Pause, st.integers(0, 2**32 - 1)),
    st.builds(ObservedAddress, addresses),
    st.builds(Introduce, peer_ids, st.booleans()),
    st.builds(Relayed, st.booleans(), owner_prefixes, st.binary(max_size=50)),
    st.builds(Introduction, records, addresses, st.booleans()),
    st.just(Confirm()),
    st.just(OpenTransient()),
    st.just(NeighborRequest()),
    st.builds(SwapRequest, records),
    st.builds(Close, st.sampled_from(CloseReason), some(records)),
)
messages = st.one_of(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: str(each).split(",")[0])
@settings(max_examples=20)
@given(data=st.data())
def test_encoded_values_decode_to_the_same_values(
    strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    message = data.draw(strategy)
    plaintext = codec.encode_message(message)
    if plaintext[0] in RECORD_KINDS:
        assume(len(plaintext) <= MAX_RECORD_MESSAGE_BYTES)
    assert codec.decode_message(plaintext) == message


@pytest.mark.parametrize("make", [Records, lambda each: Close(CloseReason.FULL, each)])
def test_more_records_than_a_token_pays_for_are_malformed(
    make: Callable[[tuple[PeerRecord, ...]], Records | Close],
) -> None:
    hosts = tuple(Address(f"2001:db8:1:2:3:4:5:{each}", 8000) for each in range(1, 5))
    record = PeerRecord(
        PeerId(bytes(32)), 1, 0, hosts, "z" * 64, "n" * 64, 90, 45, False, bytes(64)
    )
    assert codec.decode_message(codec.encode_message(make((record,) * 4)))
    with pytest.raises(Dropped, match="malformed"):
        codec.decode_message(codec.encode_message(make((record,) * 16)))


def test_every_kind_has_a_decoder_and_the_strategies_above_make_each() -> None:
    assert set(message_codec.MESSAGE_DECODERS) | set(frames.FRAME_DECODERS) == set(Kind)
    first = settings(phases=[Phase.generate])  # any value will do, so none is made smaller
    made = (find(each, lambda _: True, settings=first) for each in STRATEGIES)
    assert {codec.encode_message(each)[0] for each in made} == set(message_codec.MESSAGE_DECODERS)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_dropped(data: bytes) -> None:
    for decode in (codec.decode_packet, codec.decode_message, codec.decode_credentials):
        with contextlib.suppress(Dropped):
            decode(data)


@given(
    st.sampled_from(list(Kind)),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=5)
        | st.binary(max_size=70),
        lambda inner: (
            st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        max_leaves=25,
    ),
)
def test_arbitrary_msgpack_decodes_or_is_dropped(kind: Kind, value: object) -> None:
    with contextlib.suppress(Dropped):
        codec.decode_message(bytes((kind,)) + msgpack.packb(value))


@given(messages, st.randoms(use_true_random=False))
def test_a_corrupted_message_decodes_or_is_dropped(message: Rumors, rng: random.Random) -> None:
    plaintext = bytearray(codec.encode_message(message))
    for _ in range(rng.randint(1, 3)):
        plaintext[rng.randrange(len(plaintext))] = rng.randrange(256)
    with contextlib.suppress(Dropped):
        codec.decode_message(bytes(plaintext))


# --- exact shapes -------------------------------------------------------------------------------

BODY = b"\x01" * 5


def fields_of_rumor(**changes: object) -> list[object]:
    named: dict[str, object] = {
        "origin": bytes(32),
        "epoch": 1,
        "first": 1,
        "lengths": [2, 3],
        "body": BODY,
        "signature": bytes(64),
        "hops": 0,
        "age": 0,
    }
    return list((named | changes).values())


def decode_rumor(fields: list[object]) -> object:
    return codec.decode_message(bytes((Kind.RUMORS,)) + msgpack.packb([[fields]]))


def test_a_valid_rumor_is_decoded() -> None:
    decode_rumor(fields_of_rumor())
    decode_rumor(fields_of_rumor(attributes=encode_attributes({1: 1, 200: (b"x", -1)})))


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": bytes(31)},
        {"origin": "x" * 32},
        {"epoch": -1},
        {"epoch": 2**48},
        {"epoch": 1.0},
        {"epoch": True},
        {"first": 0},
        {"first": 2**53},
        {"lengths": [2, 2]},
        {"lengths": [6, -1]},
        {"lengths": []},
        {"lengths": 5},
        {"body": "text!"},
        {"body": None},
        {"attributes": 1},
        {"attributes": b""},
        {"attributes": msgpack.packb([])},
        {"attributes": msgpack.packb([1])},
        {"attributes": msgpack.packb([0, 1])},
        {"attributes": msgpack.packb([256, 1])},
        {"attributes": msgpack.packb([True, 1])},
        {"attributes": msgpack.packb([2, 1, 1, 1])},
        {"attributes": msgpack.packb([1, 1, 1, 1])},
        {"attributes": msgpack.packb([1, "text"])},
        {"attributes": msgpack.packb([1, {1: 1}])},
        {"attributes": msgpack.packb([1, 1]) + b"\0"},
        {"attributes": encode_attributes({1: bytes(508)})},
        {"attributes": encode_attributes({1: 1}), "more": 1},
        {"signature": bytes(63)},
        {"hops": 256},
        {"age": 2**32},
        {"age": None},
        {"more": b"1"},
    ],
    ids=str,
)
def test_an_invalid_rumor_is_malformed(changes: dict[str, object]) -> None:
    with pytest.raises(Dropped, match="malformed"):
        decode_rumor(fields_of_rumor(**changes))


RECORD = codec.encode_record(
    PeerRecord(
        PeerId(bytes(32)), 1, 0, (Address("10.0.0.1", 8000),), "eu", "a", 90, 45, False, bytes(64)
    )
)


def test_valid_member_updates_are_decoded() -> None:
    full = [[RECORD, [[bytes(32), bytes(64)]] * 3]] * 4
    message = codec.decode_message(bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([full]))
    assert isinstance(message, MemberUpdates)
    assert [len(each.accusations) for each in message.updates] == [3] * 4


@pytest.mark.parametrize(
    "plaintext",
    [
        bytes((Kind.DIGEST,)) + msgpack.packb([1, 2, bytes(16), 3]),
        bytes((Kind.DIGEST,)) + msgpack.packb([1, 2, bytes(16)]) + b"\0",
        bytes((Kind.DIGEST,)) + msgpack.packb({1: 2}),
        bytes((Kind.IWANT,)) + msgpack.packb([1, [[bytes(32), 1, 5, 4]]]),
        bytes((Kind.IWANT,)) + msgpack.packb([1, [[bytes(32), 1, 0, 4]]]),
        bytes((Kind.VECTOR,)) + msgpack.packb([1, True, 2, 2, []]),
        bytes((Kind.CLOSE,)) + msgpack.packb([99, []]),
        bytes((Kind.HEARTBEAT,)) + msgpack.packb([1, 1, 1, 1001, 1, bytes(16), []]),
        bytes((Kind.RECORDS,)) + msgpack.packb([[b""] * 17]),
        bytes((Kind.RECORDS,)) + msgpack.packb([[b"\x9b" + RECORD[1:] + b"\xc4\0"]]),
        bytes((Kind.PING,)) + msgpack.packb([1]),
        bytes((Kind.PING,)) + msgpack.packb([-1, []]),
        bytes((Kind.PING,)) + msgpack.packb([2**32, []]),
        bytes((Kind.PING_REQ,)) + msgpack.packb([1, bytes(31)]),
        bytes((Kind.MEMBER_DIGEST,)) + msgpack.packb([0, 1, bytes(3), False]),
        bytes((Kind.MEMBER_DIGEST,)) + msgpack.packb([0, 2**32, bytes(4), False]),
        bytes((Kind.MEMBER_DIGEST,)) + msgpack.packb([0, 1, bytes(4 * 257), False]),
        bytes((Kind.MEMBER_DIGEST,)) + msgpack.packb([0, 1, bytes(4), 0]),
        bytes((Kind.PING_REQ,)) + msgpack.packb([1, bytes(32), True]),
        bytes((Kind.PING_ACK,)) + msgpack.packb([1, 1]),
        bytes((Kind.PING_ACK,)) + msgpack.packb([1, None]),
        bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([[[RECORD, [[bytes(32), bytes(63)]]]]]),
        bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([[[RECORD, [[bytes(31), bytes(64)]]]]]),
        bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([[[RECORD, [[bytes(32), bytes(64)]] * 4]]]),
        bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([[[RECORD, []]] * 5]),
        bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([[[b"", []]]]),
        bytes((Kind.MEMBER_UPDATES,)) + msgpack.packb([[[RECORD]]]),
        bytes((Kind.RECEIPTS,)) + msgpack.packb([1, bytes(32), 1, 0, []]),
        bytes((Kind.ANSWERS,)) + msgpack.packb([1, bytes(32), 1, 0, []]),
        bytes((Kind.ANSWERS,))
        + msgpack.packb([1, bytes(32), 1, 1, [[bytes(32), 4, 1, 9, 1, b"", 0, b""]]]),
        bytes((Kind.ANSWERS,))
        + msgpack.packb([1, bytes(32), 1, 1, [[bytes(32), 0, 1, 9, 5, b"", 0, b""]]]),
        bytes((Kind.ANSWERS,))
        + msgpack.packb([1, bytes(32), 1, 1, [[bytes(32), 0, 1, 9, 1, b"", 0, b"s"]]]),
        bytes((Kind.ANSWER_FETCH,)) + msgpack.packb([bytes(32), 1, 1, 4]),
        bytes((Kind.ANSWER_FETCH,)) + msgpack.packb([bytes(32), 1]),
        bytes((Kind.STATE_DIGEST,)) + msgpack.packb([bytes(15), b""]),
        bytes((Kind.STATE_DIGEST,)) + msgpack.packb([bytes(16), bytes(1023)]),
        bytes((Kind.STATE_HEADS,)) + msgpack.packb([False, bytes(31), []]),
        bytes((Kind.STATE_HEADS,)) + msgpack.packb([0, bytes(32), []]),
        bytes((Kind.STATE_HEADS,)) + msgpack.packb([True, bytes(32), [[bytes(8), 1, 1, bytes(3)]]]),
        bytes((Kind.STATE_HEADS,))
        + msgpack.packb([True, bytes(32), [[bytes(8), 1, 1, bytes(4)]] * 513]),
        bytes((Kind.STATE_REQUEST,)) + msgpack.packb([1, [[bytes(8), 1, -1]]]),
        bytes((Kind.STATE_REQUEST,)) + msgpack.packb([1, [[bytes(7), 1, 1]]]),
        bytes((Kind.STATE_REQUEST,)) + msgpack.packb([1, [[bytes(8), 1, 1]] * 33]),
        bytes((Kind.STATE_DELTA,)) + msgpack.packb([1, 1, []]),
        bytes((Kind.RECEIPTS,)) + msgpack.packb([1, bytes(32), 1, 1, [[bytes(32), 1, 9, 0, b"s"]]]),
        bytes((Kind.OFFER,)) + msgpack.packb([[[bytes(32), 1, [3, 2]]]]),
        bytes((Kind.OFFER,)) + msgpack.packb([[[bytes(32), 1, [1, 1] * 65]]]),
        bytes((Kind.SUBSCRIBE,)) + msgpack.packb([1]),
        bytes((Kind.SUBSCRIBE,)) + msgpack.packb([True, True]),
        bytes((Kind.GRAFT,)) + msgpack.packb([bytes(31)]),
        bytes((Kind.GRAFT,)) + msgpack.packb([None]),
        bytes((Kind.PRUNE,)) + msgpack.packb([b"", b""]),
        bytes((Kind.PRUNE,)) + msgpack.packb([[]]),
    ],
)
def test_nearly_valid_messages_are_malformed(plaintext: bytes) -> None:
    with pytest.raises(Dropped, match="malformed"):
        codec.decode_message(plaintext)


@pytest.mark.parametrize("host", ["10.0.0.01", "::0001", "localhost", "10.0.0.256", ""])
def test_an_address_has_one_spelling(host: str) -> None:
    fields = [
        bytes(32), 1, 0, [[host.encode(), 1]], b"", b"", 1, 1, False, bytes(64)
    ]  # fmt: skip
    record = msgpack.packb(fields)
    with pytest.raises(Dropped, match="malformed"):
        codec.decode_message(bytes((Kind.RECORDS,)) + msgpack.packb([[record]]))


BOMBS: list[Callable[[], bytes]] = [
    lambda: b"\xdd\x7f\xff\xff\xff" + bytes(1100),  # an array of two thousand million
    lambda: b"\xdf\x7f\xff\xff\xff" + bytes(1100),
    lambda: b"\xc6\x7f\xff\xff\xff" + bytes(1100),
    lambda: b"\x91" * 1160,  # arrays in arrays
    lambda: b"\x81\x00" * 580,
    lambda: b"\xc9\x00\x00\x04\x00\x01" + bytes(1100),
    lambda: b"\x93" + b"\xdc\x01\x7f" + b"\x00" * 383 + b"\xdc\x01\x7f" + b"\x00" * 383,
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_datagram_built_to_be_expensive_is_dropped_within_little_memory(
    bomb: Callable[[], bytes],
) -> None:
    plaintext = bytes((Kind.RUMORS,)) + bomb()
    tracemalloc.start()
    with pytest.raises(Dropped, match="malformed"):
        codec.decode_message(plaintext)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024


# --- packets ------------------------------------------------------------------------------------


def test_encoded_packets_decode_to_the_same_packets() -> None:
    hello = codec.Hello(b"\1\0\0\0", b"s" * 8, b"e" * 32)
    for packet in (
        hello,
        codec.Challenge(b"s" * 8, 1, b"c" * 32),
        codec.Proof(hello, 1, b"c" * 32, b"box"),
        codec.Welcome(b"s" * 8, b"e" * 32, b"o" * 8, b"box"),
    ):
        assert codec.decode_packet(codec.encode_packet(packet) + bytes(16)) == packet
    data = codec.Data(b"s" * 8, 7, b"x" * 17)
    assert codec.decode_packet(codec.encode_packet(data)) == data


@pytest.mark.parametrize("size", [0, 1, 16, 32])
@pytest.mark.parametrize("kind", range(7))
def test_short_packets_are_dropped(kind: int, size: int) -> None:
    with pytest.raises(Dropped) as refused:
        codec.decode_packet(bytes((kind,)) + bytes(size))
    expected = DropReason.TOO_SHORT if 1 <= kind <= 5 else DropReason.UNKNOWN_TYPE
    assert refused.value.reason is expected


def test_a_challenge_is_no_longer_than_the_hello_that_asks_for_it() -> None:
    assert codec.CHALLENGE_BYTES <= codec.HELLO_BYTES


# --- sizes --------------------------------------------------------------------------------------


@given(records, st.lists(accusations, max_size=3).map(tuple))
def test_a_member_update_never_exceeds_its_declared_size(
    record: PeerRecord, suspicions: tuple[Accusation, ...]
) -> None:
    update = MemberUpdate(record, suspicions)
    alone = len(codec.encode_message(MemberUpdates((update,))))
    both = len(codec.encode_message(MemberUpdates((update, update))))
    assert both - alone <= update.size_bytes


@given(records)
def test_a_record_never_exceeds_its_declared_size(record: PeerRecord) -> None:
    alone = len(codec.encode_message(Records((record,))))
    both = len(codec.encode_message(Records((record, record))))
    assert both - alone <= record.size_bytes


@pytest.mark.parametrize("limit_bytes", [codec.BASE_PLAINTEXT_BYTES, 64_900])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 900])
def test_a_full_rumor_fits_its_message_pushed_or_repaired(limit_bytes: int, length: int) -> None:
    count = min(
        codec.max_payload_bytes(limit_bytes) // counted_payload_bytes(length), codec.MAX_PAYLOADS
    )
    rumor = Rumor(
        PeerId(bytes(32)),
        2**48 - 1,
        2**53 - codec.MAX_PAYLOADS,
        (length,) * count,
        bytes(length * count),
        bytes(64),
    )
    copy = RumorCopy(rumor, 255, 2**32 - 1)
    for message in (Rumors((copy,)), Repair(2**32 - 1, True, True, (copy,))):
        assert len(codec.encode_message(message)) <= limit_bytes
    assert count == codec.MAX_PAYLOADS or rumor.size_bytes > limit_bytes - 2 * length - 30


@pytest.mark.parametrize("counts", [(513,), (512, 1), (256, 257), (8192,) * 7])
def test_one_payload_more_than_a_message_may_hold_is_malformed(counts: tuple[int, ...]) -> None:
    def copies_with(*of: int) -> tuple[RumorCopy, ...]:
        return tuple(
            RumorCopy(Rumor(PeerId(bytes(32)), 1, 1, (0,) * count, b"", bytes(64)), 0, 0)
            for count in of
        )

    for make in (Rumors, lambda copies: Repair(1, True, False, copies)):
        most = make(copies_with(codec.MAX_PAYLOADS - 2, 1, 1))
        assert codec.decode_message(codec.encode_message(most)) == most
        with pytest.raises(Dropped) as refused:
            codec.decode_message(codec.encode_message(make(copies_with(*counts))))
        assert refused.value.reason is DropReason.MALFORMED


# --- golden bytes: another implementation can be held against these -----------------------------

GOLDEN_RECORD = PeerRecord(PeerId(bytes(32)), 1, 2, (), "eu", "a", 90, 45, False, bytes(64))
GOLDEN_RECORD_BYTES = "9ac420" + "00" * 32 + "010290c4026575c401615a2dc2c440" + "00" * 64

TRACED = rumor_attributes(trace_share=300)

GOLDEN = {
    Confirm(): "0090",
    Subscribe(True): "1491c3",
    Graft(None): "1591c400",
    Prune(PeerId(bytes(32))): "1691c420" + "00" * 32,
    Pause(1000): "3a91cd03e8",
    Heartbeat(1, 0, 0, 0, 0, bytes(16), ()): "0297" + "0100000000" + "c410" + "00" * 16 + "90",
    Heartbeat(
        1,
        0,
        0,
        0,
        0,
        bytes(16),
        (),
        Coordinate((0.01, *(0.0,) * 7), 0.002, -0.001, 0.25).encode(),
    ): (
        "0298" + "0100000000" + "c410" + "00" * 16 + "90"
        "c418" + "002710" + "0000" * 7 + "000007d0" + "fc18" + "20"
    ),
    ObservedAddress(Address("1.2.3.4", 8000)): "3092c407312e322e332e34cd1f40",
    Relayed(True, bytes(range(8)), b"box"): "3293c3c4080001020304050607c403626f78",
    Introduce(PeerId(bytes(32)), True): "3192c420" + "00" * 32 + "c3",
    Introduction(GOLDEN_RECORD, Address("1.2.3.4", 8000), False): (
        "3693c472" + GOLDEN_RECORD_BYTES + "92c407312e322e332e34cd1f40c2"
    ),
    Announce(StreamRange(Stream(PeerId(bytes(32)), 1), 3, 300), 9000): (
        "189294c420" + "00" * 32 + "0103cd012ccd2328"
    ),
    Offer((StreamRange(Stream(PeerId(bytes(32)), 1), 3, 300),)): (
        "17919193c420" + "00" * 32 + "019203cd012c"
    ),
    Close(CloseReason.FULL): "01920190",
    InSync(7): "079107",
    DirectMessage(1, b"hi"): "059201c4026869",
    DirectReceipt(1): "3b9101",
    PingReq(300, PeerId(bytes(32))): "1a92cd012cc420" + "00" * 32,
    PingAck(7, True): "1b9207c3",
    Ping(7, ()): "19920790",
    MemberDigest(0, 2**32 - 1, b"\x00\x00\x00\x01"): "1d9400ceffffffffc40400000001c2",
    MemberUpdates((MemberUpdate(GOLDEN_RECORD, (Accusation(PeerId(bytes(32)), bytes(64)),)),)): (
        "1c919192c472" + GOLDEN_RECORD_BYTES + "9192c420" + "00" * 32 + "c440" + "00" * 64
    ),
    Digest(300, 2, bytes(range(16))): "0693cd012c02c410000102030405060708090a0b0c0d0e0f",
    IWant(1, (StreamRange(Stream(PeerId(bytes(32)), 1_700_000_000), 3, 300),)): (
        "0992019194c420" + "00" * 32 + "ce6553f10003cd012c"
    ),
    Rumors((RumorCopy(Rumor(PeerId(bytes(32)), 1, 1, (2, 1), b"abc", bytes(64)), 2, 1000),)): (
        "04919198c420" + "00" * 32 + "0101920201c403616263c440" + "00" * 64 + "02cd03e8"
    ),
    Rumors((RumorCopy(Rumor(PeerId(bytes(32)), 1, 1, (1,), b"a", bytes(64), TRACED), 2, 1000),)): (
        "04919199c420" + "00" * 32 + "01019101c40161c440" + "00" * 64 + "02cd03e8c4059201cd012c"
    ),
    Receipts(5, MessageId(PeerId(bytes(32)), 1, 9), (TraceReceipt(PeerId(bytes(32)), 3, 300),)): (
        "239505c420" + "00" * 32 + "01099195c420" + "00" * 32 + "03cd012c00c400"
    ),
    ReceiptAck(5): "249105",
    Answers(
        5,
        MessageId(PeerId(bytes(32)), 1, 9),
        (QueryAnswer(PeerId(bytes(32)), 2, 3, 300, AnswerCode.ANSWER, b"yes", 1, bytes(64)),),
    ): (
        "289505c420"
        + "00" * 32
        + "01099198c420"
        + "00" * 32
        + "0203cd012c01c40379657301c440"
        + "00" * 64
    ),
    AnswerAck(5): "299105",
    StateDigest(bytes(range(16))): "2c92c410000102030405060708090a0b0c0d0e0fc400",
    StateHeads(True, bytes(32), (StateHead(bytes(range(8)), (1_700_000_000, 300), b"abcd"),)): (
        "2d93c3c420" + "00" * 32 + "9194c4080001020304050607ce6553f100cd012cc40461626364"
    ),
    StateRequest(7, (StateWant(bytes(range(8)), (1_700_000_000, 300)),)): (
        "2e92079193c4080001020304050607ce6553f100cd012c"
    ),
    StateDelta(
        7,
        True,
        (RumorCopy(Rumor(PeerId(bytes(32)), 1, 1, (1,), b"a", bytes(64), TRACED), 0, 1000),),
    ): (
        "2f9307c39199c420" + "00" * 32 + "01019101c40161c440" + "00" * 64 + "00cd03e8c4059201cd012c"
    ),
    AnswerFetch(MessageId(PeerId(bytes(32)), 1, 9), 2): "2a94c420" + "00" * 32 + "010902",
}


def signed_answer(size: int) -> QueryAnswer:
    member, signature = PeerId(bytes(32)), bytes(64)
    code = AnswerCode.ANSWER
    return QueryAnswer(member, 3, 255, 2**32 - 1, code, bytes(size), 255, signature)


@pytest.mark.parametrize("size", [0, 20, 100, MAX_ANSWER_BYTES])
def test_answers_are_no_larger_than_they_count(size: int) -> None:
    message_id = MessageId(PeerId(bytes(32)), 2**48 - 1, 2**53)
    count = max(min(ANSWERS_MESSAGE_BYTES // (ANSWER_OVERHEAD_BYTES + size), 16), 1)
    one, several = (
        len(codec.encode_message(Answers(2**32 - 1, message_id, (signed_answer(size),) * each)))
        for each in (1, count)
    )
    assert several - one <= (count - 1) * (ANSWER_OVERHEAD_BYTES + size)
    if size < MAX_ANSWER_BYTES:
        assert several <= codec.BASE_PLAINTEXT_BYTES


def test_only_an_unsigned_answer_that_is_alone_may_be_large() -> None:
    message_id = MessageId(PeerId(bytes(32)), 1, 1)
    large = QueryAnswer(PeerId(bytes(32)), 0, 0, 0, AnswerCode.ANSWER, bytes(65_536))
    alone = Answers(0, message_id, (large,))
    assert codec.decode_message(codec.encode_message(alone)) == alone
    for answers in (
        (large, large),
        (replace(large, signature=bytes(64)),),
        (replace(large, payload=bytes(65_537)),),
    ):
        with pytest.raises(Dropped):
            codec.decode_message(codec.encode_message(Answers(0, message_id, answers)))


def test_ten_signed_receipts_fit_one_datagram() -> None:
    receipt = TraceReceipt(PeerId(bytes(32)), 255, 2**32 - 1, 255, bytes(64))
    message_id = MessageId(PeerId(bytes(32)), 2**48 - 1, 2**53)
    message = Receipts(2**32 - 1, message_id, (receipt,) * 10)
    assert len(codec.encode_message(message)) <= codec.BASE_PLAINTEXT_BYTES


@pytest.mark.parametrize(
    ("message", "expected"), list(GOLDEN.items()), ids=lambda v: type(v).__name__
)
def test_messages_are_encoded_as_documented(message: Rumors, expected: str) -> None:
    assert codec.encode_message(message).hex() == expected
    assert codec.decode_message(bytes.fromhex(expected)) == message


GOLDEN_FRAMES = {
    Fragment(1, 5000, 1151, b"abc"): "0c0000000000000001000013880000047f616263",
    Fragment(2, 9, 8, b"x", is_repair=True): "0d0000000000000002000000090000000878",
    Retransmit(b"session!", 7, b"\x07\x91\x07"): "0e73657373696f6e2100000007079107",
    Ack(b"session!", 3, 20, 19, 1500, ((5, 5), (7, 9))): "0f"
    "73657373696f6e21"
    "00000003"
    "00000014"
    "00000013"
    "000005dc"
    "02"
    "0000000500000005"
    "0000000700000009",
    PiggybackedAck(Ack(b"session!", 3, 20, 19, 1500, ((5, 5),)), b"\x07\x91\x07"): "3c"
    "73657373696f6e21"
    "00000003"
    "00000014"
    "00000013"
    "000005dc"
    "01"
    "0000000500000005"
    "079107",
    MtuProbe(3): "10000000",
    PathChallenge(b"12345678"): "113132333435363738",
    PathResponse(b"12345678"): "123132333435363738",
}


@pytest.mark.parametrize(
    ("frame", "expected"), list(GOLDEN_FRAMES.items()), ids=lambda v: type(v).__name__
)
def test_link_frames_are_encoded_as_documented(frame: LinkFrame, expected: str) -> None:
    assert codec.encode_frame(frame).hex() == expected
    assert codec.decode_frame(bytes.fromhex(expected)) == frame
