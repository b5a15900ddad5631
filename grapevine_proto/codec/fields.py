"""The parts that messages are made of, in msgpack under limits.

What must stay true:

- Every number is checked against its limit here, so that nobody further in needs to clamp it.
- What decodes encodes to the same bytes again, but for msgpack's choice of integer widths, so that
  a relayed record or rumor keeps its signature.
- No datagram costs more than its own length: the library's own defaults would let one of 1,200 bytes
  cost 4.6 ms and 9.8 MB; the limits below make that 25 us.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import msgpack

from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.identity import SIGNATURE_BYTES
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
    SEQUENCE_LIMIT,
    Address,
    PeerId,
    Stream,
    StreamRange,
    canonical_host,
)
from grapevine_proto.messages import Opinion, RumorCopy
from grapevine_proto.signed import PAYLOADS_LIMIT, TRACE_ALL, Accusation, Receipt, Record, Rumor

Fields = tuple[Any, ...]

MAX_HOPS: Final = 255
MAX_AGE_MS: Final = (1 << 32) - 1
MAX_TEXT_BYTES: Final = 64  # of a zone, a name
MAX_ADDRESSES: Final = 4
MAX_RECORDS: Final = 16
RECORDS_REMEMBERED: Final = 1024  # decoded, by their bytes: a megabyte at the most
PEERS_REMEMBERED: Final = 4096  # their ids: likewise
MAX_OPINIONS: Final = 4
MAX_ACCUSATIONS: Final = 3  # of one member: as many as it takes
MAX_COPIES: Final = 64
MAX_ENTRIES: Final = 64
MAX_IDS: Final = 64
MAX_PAGES: Final = 256
MAX_RECEIPTS: Final = 16
MAX_PAYLOADS: Final = PAYLOADS_LIMIT  # in one message
MAX_PAYLOAD: Final = (1 << 32) - 1
MAX_MARKS: Final = 256  # of members, in one roll
MAX_COUNT: Final = (1 << 32) - 1
TOTAL_BYTES: Final = 16

PACK_ERRORS = (
    ValueError,  # msgpack's own errors and UnicodeDecodeError are ValueErrors
    TypeError,
    RecursionError,
    OverflowError,
    MemoryError,
)


def unpack(data: bytes) -> Fields:
    size = len(data)
    fields = msgpack.unpackb(
        data,
        raw=True,
        use_list=False,
        strict_map_key=True,
        max_array_len=size,
        max_bin_len=size,
        max_str_len=0,
        max_map_len=0,
        max_ext_len=0,
    )
    if type(fields) is not tuple:
        raise ValueError("not an array")
    return fields


def uint(value: Any, limit: int) -> int:
    """`value` where it is an integer from 0 to `limit`; bool, which Python takes for int, is not."""
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("not an integer in range")
    return value


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("not a boolean")
    return value


def binary(value: Any, size: int | None = None) -> bytes:
    if type(value) is not bytes or (size is not None and len(value) != size):
        raise ValueError("not bytes of the right length")
    return value


def _text(value: Any) -> str:
    data = binary(value)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError("text too long")
    return data.decode()


def items(value: Any, limit: int) -> Fields:
    if type(value) is not tuple or len(value) > limit:
        raise ValueError("not a list of the right length")
    return value


# --- the parts ------------------------------------------------------------------------------------


def encode_record(record: Record) -> bytes:
    return msgpack.packb(
        (
            bytes(record.peer_id),
            record.epoch,
            record.incarnation,
            tuple((host.encode(), port) for host, port in record.addresses),
            record.zone.encode(),
            record.name.encode(),
            record.rate_capacity,
            record.rate_refill,
            record.left,
            record.signature,
        )
    )


def _decode_record(value: Any) -> Record:
    return record_in(binary(value))


@lru_cache(RECORDS_REMEMBERED)
def record_in(data: bytes) -> Record:
    """The same bytes come again and again, from everybody who tells of that member."""
    (peer_id, epoch, incarnation, addresses, zone, name, capacity, refill, left, signature) = (
        unpack(data)
    )
    return Record(
        PeerId(binary(peer_id, PEER_ID_BYTES)),
        uint(epoch, EPOCH_LIMIT - 1),
        uint(incarnation, MAX_COUNT),
        tuple(_decode_address(address) for address in items(addresses, MAX_ADDRESSES)),
        _text(zone),
        _text(name),
        uint(capacity, MAX_COUNT),
        uint(refill, MAX_COUNT),
        flag(left),
        binary(signature, SIGNATURE_BYTES),
    )


def decode_records(value: Any) -> tuple[Record, ...]:
    return tuple(_decode_record(record) for record in items(value, MAX_RECORDS))


def _decode_address(fields: Any) -> Address:
    host, port = items(fields, 2)
    text = _text(host)
    if canonical_host(text) != text:  # one spelling each, or the signature would not hold
        raise ValueError("not a canonical address")
    return Address(text, uint(port, 65535))


def copy_fields(copy: RumorCopy) -> Fields:
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
    return (*fields, rumor.trace_share) if rumor.trace_share else fields


@lru_cache(PEERS_REMEMBERED)
def _peer_id(data: bytes) -> PeerId:
    """The same ids come again and again, and each is hashed once."""
    return PeerId(data)


def _decode_copy(fields: Any, payloads_limit: int) -> RumorCopy:
    trace_share = 0
    if type(fields) is tuple and len(fields) == 8:  # nearly always
        origin, epoch, first, lengths, body, signature, hops, age_ms = fields
    else:
        origin, epoch, first, lengths, body, signature, hops, age_ms, traced = items(fields, 9)
        trace_share = uint(traced, TRACE_ALL) or _untraced()
    for length in items(lengths, payloads_limit):
        if type(length) is not int or not 0 <= length <= MAX_PAYLOAD:
            raise ValueError("not an integer in range")
    if not lengths or sum(lengths) != len(binary(body)):
        raise ValueError("lengths that do not cut the body")
    rumor = Rumor(
        _peer_id(binary(origin, PEER_ID_BYTES)),
        uint(epoch, EPOCH_LIMIT - 1),
        uint(first, SEQUENCE_LIMIT - MAX_PAYLOADS) or nonzero(),
        lengths,
        body,
        binary(signature, SIGNATURE_BYTES),
        trace_share,
    )
    return RumorCopy(rumor, uint(hops, MAX_HOPS), uint(age_ms, MAX_AGE_MS))


def _untraced() -> int:
    raise ValueError("a traced rumor that asks nobody: it is written without the field")


def nonzero() -> int:
    raise ValueError("sequences begin at 1")


def decode_copies(value: Any) -> tuple[RumorCopy, ...]:
    left, copies = MAX_PAYLOADS, []
    for fields in items(value, MAX_COPIES):
        copies.append(_decode_copy(fields, left))
        left -= len(copies[-1].rumor.lengths)
    return tuple(copies)


def range_fields(entry: StreamRange) -> Fields:
    return (bytes(entry.stream.origin), entry.stream.epoch, entry.first, entry.last)


def decode_range(fields: Any) -> StreamRange:
    origin, epoch, first, last = items(fields, 4)
    stream = Stream(PeerId(binary(origin, PEER_ID_BYTES)), uint(epoch, EPOCH_LIMIT - 1))
    return StreamRange(stream, uint(first, SEQUENCE_LIMIT), uint(last, SEQUENCE_LIMIT))


def ids_fields(ranges: tuple[StreamRange, ...]) -> Fields:
    """Stream by stream: a stream is named once, however many of its rumors are told of."""
    return tuple(
        (bytes(stream.origin), stream.epoch, tuple(end for each in of for end in each.ends))
        for stream, of in groupby(ranges, key=lambda each: each.stream)
    )


def decode_ids(value: Any) -> tuple[StreamRange, ...]:
    ranges: list[StreamRange] = []
    for fields in items(value, MAX_IDS):
        origin, epoch, ends = items(fields, 3)
        stream = Stream(PeerId(binary(origin, PEER_ID_BYTES)), uint(epoch, EPOCH_LIMIT - 1))
        for end in items(ends, 2 * MAX_IDS):
            uint(end, SEQUENCE_LIMIT)
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            if not 1 <= first <= last:
                raise ValueError("an empty range")
            ranges.append(StreamRange(stream, first, last))
    if len(ranges) > MAX_IDS:
        raise ValueError("too many ids")
    return tuple(ranges)


def receipt_fields(receipt: Receipt) -> Fields:
    member, relays = bytes(receipt.member), min(receipt.relays, MAX_HOPS)
    return (member, receipt.hops, receipt.delay_ms, relays, receipt.signature)


def decode_receipt(fields: Any) -> Receipt:
    member, hops, delay_ms, relays, signature = items(fields, 5)
    if binary(signature) and len(signature) != SIGNATURE_BYTES:
        raise ValueError("neither signed nor unsigned")
    return Receipt(
        PeerId(binary(member, PEER_ID_BYTES)),
        uint(hops, MAX_HOPS),
        uint(delay_ms, MAX_AGE_MS),
        uint(relays, MAX_HOPS),
        signature,
    )


def decode_tree(value: Any) -> PeerId | None:
    return PeerId(binary(value, PEER_ID_BYTES)) if value != b"" else None


def decode_ranges(value: Any) -> tuple[StreamRange, ...]:
    return tuple(decode_range(entry) for entry in items(value, MAX_ENTRIES))


def opinion_fields(opinion: Opinion) -> Fields:
    told = tuple((bytes(each.accuser), each.signature) for each in opinion.accusations)
    return encode_record(opinion.record), told


def _decode_opinion(fields: Any) -> Opinion:
    record, accusations = items(fields, 2)
    told = tuple(map(_decode_accusation, items(accusations, MAX_ACCUSATIONS)))
    return Opinion(_decode_record(record), told)


def _decode_accusation(fields: Any) -> Accusation:
    accuser, signature = items(fields, 2)
    return Accusation(PeerId(binary(accuser, PEER_ID_BYTES)), binary(signature, SIGNATURE_BYTES))


def decode_opinions(value: Any) -> tuple[Opinion, ...]:
    return tuple(map(_decode_opinion, items(value, MAX_OPINIONS)))


# --- what the handshake seals ---------------------------------------------------------------------


def encode_credentials(record: Record, signature: bytes) -> bytes:
    """A node's record and its signature over the handshake so far."""
    return signature + encode_record(record)


def decode_credentials(plaintext: bytes) -> tuple[Record, bytes]:
    """(record, signature) from an opened handshake box. Raises Refused(MALFORMED)."""
    try:
        return _decode_record(plaintext[SIGNATURE_BYTES:]), binary(plaintext[:SIGNATURE_BYTES], 64)
    except PACK_ERRORS:
        raise Refused(DropReason.MALFORMED) from None
