"""Field codecs: the values that messages consist of, in msgpack with limits.

Invariants:

- Every number is checked against its limit here, so no other module needs to clamp it.
- A decoded value encodes to the same bytes, except for msgpack's choice of integer widths, so a relayed
  record or rumor keeps its signature.
- The cost of a datagram is bounded by its length (see `bounded_msgpack`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import msgpack

from grapevine_proto.crypto.identity import SIGNATURE_BYTES
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
    SEQUENCE_LIMIT,
    Address,
    MessageId,
    PeerId,
    Stream,
    StreamRange,
    canonical_host,
)
from grapevine_proto.wire.attributes import (
    MAX_RECORD_ATTRIBUTES_BYTES,
    MAX_RUMOR_ATTRIBUTES_BYTES,
    decode_attributes,
)
from grapevine_proto.wire.bounded_msgpack import UNPACK_ERRORS, Fields, unpack
from grapevine_proto.wire.entry_terms import Version
from grapevine_proto.wire.messages import (
    HEAD_DIGEST_BYTES,
    OWNER_PREFIX_BYTES,
    MemberUpdate,
    RumorCopy,
    StateHead,
    StateWant,
)
from grapevine_proto.wire.query_terms import MAX_LARGE_ANSWER_BYTES
from grapevine_proto.wire.signed import (
    BODY_HASH_BYTES,
    MAX_ANSWER_BYTES,
    MAX_ANSWERS_PER_MEMBER,
    MAX_PAYLOADS_PER_MESSAGE,
    Accusation,
    AnswerCode,
    PeerRecord,
    QueryAnswer,
    Rumor,
    TraceReceipt,
    is_pulled,
)

MAX_HOPS: Final = 255
MAX_AGE_MS: Final = (1 << 32) - 1
MAX_TEXT_BYTES: Final = 64  # of a zone or a name
MAX_ADDRESSES: Final = 4
MAX_RECORDS: Final = 16
RECORD_CACHE_SIZE: Final = 1024  # decoded records by their bytes: at most a megabyte
PEER_ID_CACHE_SIZE: Final = 4096  # likewise
MAX_MEMBER_UPDATES: Final = 4
MAX_ACCUSATIONS: Final = 3  # per member: as many as count
MAX_RUMOR_COPIES: Final = 64
MAX_STREAM_RANGES: Final = 64
MAX_IDS: Final = 64
MAX_PAGES: Final = 256
MAX_RECEIPTS: Final = 16
MAX_ANSWERS: Final = 16
MAX_STATE_HEADS: Final = 512
MAX_STATE_WANTS: Final = 32
MAX_PAYLOADS: Final = MAX_PAYLOADS_PER_MESSAGE  # in one message
MAX_PAYLOAD_BYTES: Final = (1 << 32) - 1
MAX_ID_PREFIXES: Final = 256  # per MemberDigest
MAX_COUNT: Final = (1 << 32) - 1
CHECKSUM_BYTES: Final = 16


def uint(value: Any, limit: int) -> int:
    """Returns `value` if it is an integer from 0 to `limit` and not a bool. Raises ValueError."""
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("not an integer in range")
    return value


def flag(value: Any) -> bool:
    """Returns `value` if it is a bool. Raises ValueError."""
    if type(value) is not bool:
        raise ValueError("not a boolean")
    return value


def binary(value: Any, size: int | None = None) -> bytes:
    """Returns `value` if it is bytes, of `size` if given. Raises ValueError."""
    if type(value) is not bytes or (size is not None and len(value) != size):
        raise ValueError("not bytes of the right length")
    return value


def _text(value: Any) -> str:
    data = binary(value)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError("text too long")
    return data.decode()


def array(value: Any) -> Fields:
    """Returns `value` if it is an array; unpacking it checks its length. Raises ValueError."""
    if type(value) is not tuple:
        raise ValueError("not an array")
    return value


def items(value: Any, limit: int) -> Fields:
    """Returns `value` if it is an array of at most `limit` items. Raises ValueError."""
    if type(value) is not tuple or len(value) > limit:
        raise ValueError("not an array, or too many items")
    return value


# --- values ---------------------------------------------------------------------------------------


def address_fields(address: Address) -> Fields:
    return (address.host.encode(), address.port)


def encode_record(record: PeerRecord) -> bytes:
    fields = (
        bytes(record.peer_id),
        record.epoch,
        record.incarnation,
        tuple(map(address_fields, record.addresses)),
        record.zone.encode(),
        record.name.encode(),
        record.rate_capacity,
        record.rate_refill,
        record.left,
        record.signature,
    )
    return msgpack.packb((*fields, record.attributes) if record.attributes else fields)


def decode_record(value: Any) -> PeerRecord:
    return decode_record_bytes(binary(value))


@lru_cache(RECORD_CACHE_SIZE)
def decode_record_bytes(data: bytes) -> PeerRecord:
    """Decodes a record. Cached: many peers send the same bytes. Raises one of `UNPACK_ERRORS`."""
    fields = unpack(data)
    attributes = b""
    if len(fields) == 11:
        fields, attributes = fields[:10], fields[10]
        _check_attributes(attributes, MAX_RECORD_ATTRIBUTES_BYTES)
    (peer_id, epoch, incarnation, addresses, zone, name, capacity, refill, left, signature) = fields
    return PeerRecord(
        PeerId(binary(peer_id, PEER_ID_BYTES)),
        uint(epoch, EPOCH_LIMIT - 1),
        uint(incarnation, MAX_COUNT),
        tuple(decode_address(address) for address in items(addresses, MAX_ADDRESSES)),
        _text(zone),
        _text(name),
        uint(capacity, MAX_COUNT),
        uint(refill, MAX_COUNT),
        flag(left),
        binary(signature, SIGNATURE_BYTES),
        attributes,
    )


def decode_records(value: Any) -> tuple[PeerRecord, ...]:
    return tuple(decode_record(record) for record in items(value, MAX_RECORDS))


def decode_address(fields: Any) -> Address:
    host, port = array(fields)
    text = _text(host)
    if canonical_host(text) != text:  # only one spelling keeps the signature valid
        raise ValueError("address not in canonical form")
    return Address(text, uint(port, 65535))


def rumor_copy_fields(copy: RumorCopy) -> Fields:
    rumor = copy.rumor
    fields = (
        bytes(rumor.origin),
        rumor.epoch,
        rumor.first,
        rumor.lengths,
        rumor.body,
        rumor.signature,
        min(copy.hops, MAX_HOPS),
        min(copy.age_ms, MAX_AGE_MS),
    )
    return (*fields, rumor.attributes) if rumor.attributes else fields


@lru_cache(PEER_ID_CACHE_SIZE)
def _peer_id(data: bytes) -> PeerId:
    """Returns the peer ID. Cached: few IDs repeat in many messages, and a cached one is hashed once."""
    return PeerId(data)


def _decode_rumor_copy(fields: Any, max_payloads: int) -> RumorCopy:
    attributes = b""
    if type(fields) is tuple and len(fields) == 8:  # without attributes: the common case
        origin, epoch, first, lengths, body, signature, hops, age_ms = fields
    else:
        origin, epoch, first, lengths, body, signature, hops, age_ms, attributes = array(fields)
        _check_attributes(attributes, MAX_RUMOR_ATTRIBUTES_BYTES)
    # The most frequent value of all: what follows is `binary`, `items` and `uint`, without their calls.
    if not type(origin) is type(body) is type(signature) is bytes:
        raise ValueError("not bytes")
    if len(origin) != PEER_ID_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ValueError("not bytes of the right length")
    if type(lengths) is not tuple or not 1 <= len(lengths) <= max_payloads:
        raise ValueError("not a list of the right length")
    for number in (epoch, first, hops, age_ms, *lengths):
        if type(number) is not int or number < 0:
            raise ValueError("not an integer in range")
    if epoch >= EPOCH_LIMIT or not 1 <= first <= SEQUENCE_LIMIT - MAX_PAYLOADS:
        raise ValueError("not an integer in range")
    if hops > MAX_HOPS or age_ms > MAX_AGE_MS:
        raise ValueError("not an integer in range")
    if sum(lengths) != len(body):
        raise ValueError("lengths do not add up to the body")
    rumor = Rumor(_peer_id(origin), epoch, first, lengths, body, signature, attributes)
    return RumorCopy(rumor, hops, age_ms)


def _check_attributes(value: Any, limit_bytes: int) -> None:
    if len(binary(value)) > limit_bytes:
        raise ValueError("attributes too large")
    decode_attributes(value)


def header_fields(copy: RumorCopy) -> Fields:
    """Returns the fields of a copy of one payload without its body, which has attributes and a holder."""
    rumor = copy.rumor.without_body()
    (length,) = rumor.lengths
    return (
        bytes(rumor.origin),
        rumor.epoch,
        rumor.first,
        length,
        rumor.body_hash,
        rumor.signature,
        min(copy.hops, MAX_HOPS),
        min(copy.age_ms, MAX_AGE_MS),
        rumor.attributes,
        bytes(copy.holder or b""),
    )


def decode_header(fields: Fields) -> RumorCopy:
    """Returns a copy of a rumor without its body."""
    origin, epoch, first, length, body_hash, signature, hops, age_ms, attributes, holder = fields
    _check_attributes(attributes, MAX_RUMOR_ATTRIBUTES_BYTES)
    if not is_pulled(uint(length, MAX_PAYLOAD_BYTES)):
        raise ValueError("a rumor of this size is pushed")
    rumor = Rumor(
        _peer_id(binary(origin, PEER_ID_BYTES)),
        uint(epoch, EPOCH_LIMIT - 1),
        uint(first, SEQUENCE_LIMIT - MAX_PAYLOADS) or reject_zero(),
        (length,),
        b"",
        binary(signature, SIGNATURE_BYTES),
        attributes,
        binary(body_hash, BODY_HASH_BYTES),
    )
    holder = _peer_id(binary(holder, PEER_ID_BYTES))
    return RumorCopy(rumor, uint(hops, MAX_HOPS), uint(age_ms, MAX_AGE_MS), holder)


def reject_zero() -> int:
    raise ValueError("sequence numbers start at 1")


def decode_rumor_copies(value: Any) -> tuple[RumorCopy, ...]:
    """Decodes the rumor copies of one message. Raises ValueError."""
    remaining, copies = MAX_PAYLOADS, []
    for fields in items(value, MAX_RUMOR_COPIES):
        copies.append(_decode_rumor_copy(fields, remaining))
        remaining -= len(copies[-1].rumor.lengths)
    return tuple(copies)


def range_fields(entry: StreamRange) -> Fields:
    return (bytes(entry.stream.origin), entry.stream.epoch, entry.first, entry.last)


def decode_range(fields: Any) -> StreamRange:
    origin, epoch, first, last = array(fields)
    stream = Stream(PeerId(binary(origin, PEER_ID_BYTES)), uint(epoch, EPOCH_LIMIT - 1))
    return StreamRange(stream, uint(first, SEQUENCE_LIMIT), uint(last, SEQUENCE_LIMIT))


def stream_ids_fields(ranges: tuple[StreamRange, ...]) -> Fields:
    """Returns the fields of `ranges` by stream, so each stream is named once."""
    return tuple(
        (
            bytes(stream.origin),
            stream.epoch,
            tuple(bound for each in stream_ranges for bound in each.bounds),
        )
        for stream, stream_ranges in groupby(ranges, key=lambda each: each.stream)
    )


def decode_stream_ids(value: Any) -> tuple[StreamRange, ...]:
    ranges: list[StreamRange] = []
    for fields in items(value, MAX_IDS):
        origin, epoch, bounds = array(fields)
        stream = Stream(PeerId(binary(origin, PEER_ID_BYTES)), uint(epoch, EPOCH_LIMIT - 1))
        for bound in items(bounds, 2 * MAX_IDS):
            uint(bound, SEQUENCE_LIMIT)
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            if not 1 <= first <= last:
                raise ValueError("empty range")
            ranges.append(StreamRange(stream, first, last))
    if len(ranges) > MAX_IDS:
        raise ValueError("too many ranges")
    return tuple(ranges)


def receipt_fields(receipt: TraceReceipt) -> Fields:
    member, relays = bytes(receipt.member), min(receipt.relays, MAX_HOPS)
    return (member, receipt.hops, receipt.delay_ms, relays, receipt.signature)


def decode_receipt(fields: Any) -> TraceReceipt:
    member, hops, delay_ms, relays, signature = array(fields)
    if binary(signature) and len(signature) != SIGNATURE_BYTES:
        raise ValueError("signature of the wrong length")
    return TraceReceipt(
        PeerId(binary(member, PEER_ID_BYTES)),
        uint(hops, MAX_HOPS),
        uint(delay_ms, MAX_AGE_MS),
        uint(relays, MAX_HOPS),
        signature,
    )


def message_id_fields(message_id: MessageId) -> Fields:
    origin, epoch, sequence, _ = message_id
    return bytes(origin), epoch, sequence


def decode_message_id(origin: Any, epoch: Any, sequence: Any) -> MessageId:
    return MessageId(
        PeerId(binary(origin, PEER_ID_BYTES)),
        uint(epoch, EPOCH_LIMIT - 1),
        uint(sequence, SEQUENCE_LIMIT) or reject_zero(),
    )


def answer_fields(answer: QueryAnswer) -> Fields:
    return (
        bytes(answer.member),
        answer.index,
        min(answer.hops, MAX_HOPS),
        min(answer.delay_ms, MAX_AGE_MS),
        int(answer.status),
        answer.payload,
        min(answer.relays, MAX_HOPS),
        answer.signature,
    )


def decode_answers(value: Any) -> tuple[QueryAnswer, ...]:
    """Decodes answers; only one that is alone may be large."""
    fields = items(value, MAX_ANSWERS)
    limit_bytes = MAX_LARGE_ANSWER_BYTES if len(fields) == 1 else MAX_ANSWER_BYTES
    return tuple(_decode_answer(each, limit_bytes) for each in fields)


def _decode_answer(fields: Any, limit_bytes: int) -> QueryAnswer:
    member, index, hops, delay_ms, status, payload, relays, signature = array(fields)
    if binary(signature) and len(signature) != SIGNATURE_BYTES:
        raise ValueError("signature of the wrong length")
    if len(binary(payload)) > (MAX_ANSWER_BYTES if signature else limit_bytes):
        raise ValueError("answer too large")
    return QueryAnswer(
        PeerId(binary(member, PEER_ID_BYTES)),
        uint(index, MAX_ANSWERS_PER_MEMBER - 1),
        uint(hops, MAX_HOPS),
        uint(delay_ms, MAX_AGE_MS),
        AnswerCode(uint(status, max(AnswerCode))),
        payload,
        uint(relays, MAX_HOPS),
        signature,
    )


def decode_state_heads(value: Any) -> tuple[StateHead, ...]:
    return tuple(_decode_state_head(fields) for fields in items(value, MAX_STATE_HEADS))


def _decode_state_head(fields: Any) -> StateHead:
    prefix, epoch, sequence, digest = array(fields)
    return StateHead(
        binary(prefix, OWNER_PREFIX_BYTES),
        _decode_version(epoch, sequence),
        binary(digest, HEAD_DIGEST_BYTES),
    )


def decode_state_wants(value: Any) -> tuple[StateWant, ...]:
    wants = []
    for fields in items(value, MAX_STATE_WANTS):
        prefix, epoch, sequence = array(fields)
        above = _decode_version(epoch, sequence)
        wants.append(StateWant(binary(prefix, OWNER_PREFIX_BYTES), above))
    return tuple(wants)


def _decode_version(epoch: Any, sequence: Any) -> Version:
    return uint(epoch, EPOCH_LIMIT - 1), uint(sequence, SEQUENCE_LIMIT)


def decode_tree_origin(value: Any) -> PeerId | None:
    return PeerId(binary(value, PEER_ID_BYTES)) if value != b"" else None


def decode_ranges(value: Any) -> tuple[StreamRange, ...]:
    return tuple(decode_range(entry) for entry in items(value, MAX_STREAM_RANGES))


def member_update_fields(update: MemberUpdate) -> Fields:
    accusations = tuple((bytes(each.accuser), each.signature) for each in update.accusations)
    return encode_record(update.record), accusations


def _decode_member_update(fields: Any) -> MemberUpdate:
    record, accusations = array(fields)
    decoded = tuple(map(_decode_accusation, items(accusations, MAX_ACCUSATIONS)))
    return MemberUpdate(decode_record(record), decoded)


def _decode_accusation(fields: Any) -> Accusation:
    accuser, signature = array(fields)
    return Accusation(PeerId(binary(accuser, PEER_ID_BYTES)), binary(signature, SIGNATURE_BYTES))


def decode_member_updates(value: Any) -> tuple[MemberUpdate, ...]:
    return tuple(map(_decode_member_update, items(value, MAX_MEMBER_UPDATES)))


# --- handshake credentials ------------------------------------------------------------------------


def encode_credentials(record: PeerRecord, signature: bytes) -> bytes:
    """Returns the plaintext of a credentials box: the signature of the transcript, then the record."""
    return signature + encode_record(record)


def decode_credentials(plaintext: bytes) -> tuple[PeerRecord, bytes]:
    """Returns (record, signature) from the plaintext of a credentials box. Raises Dropped(MALFORMED)."""
    try:
        return decode_record(plaintext[SIGNATURE_BYTES:]), plaintext[:SIGNATURE_BYTES]
    except UNPACK_ERRORS:
        raise Dropped(DropReason.MALFORMED) from None
