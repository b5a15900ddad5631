"""The only file that knows bytes: packets, frames and messages, to and from the wire.

What must stay true:

- `decode_*` take any bytes at all and either return exactly one value of the right shape or raise
  `Refused`; nothing else, and never at a cost beyond the bytes in hand.
- What decodes encodes to the same bytes again, but for msgpack's choice of integer widths, so that
  a relayed record or rumor keeps its signature.
- Every number is checked against its limit here, so that nobody further in needs to clamp it.

Packets are fixed layouts (big-endian); what is sealed inside a Data packet is one `Kind` byte and
a msgpack array. The library's own defaults would let one datagram of 1,200 bytes cost 4.6 ms and
9.8 MB; the limits below make that 25 us.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.identity import MAC_BYTES, SIGNATURE_BYTES
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
    SEQUENCE_LIMIT,
    Address,
    MessageId,
    PeerId,
    Stream,
)
from grapevine_proto.messages import (
    TRACE_ALL,
    Accusation,
    Ack,
    Again,
    Announce,
    Ask,
    Close,
    CloseReason,
    Digest,
    Empty,
    Feedback,
    Fragment,
    Frame,
    Graft,
    Heartbeat,
    Ids,
    InSync,
    Kind,
    LinkFrame,
    Offer,
    Opinion,
    Opinions,
    OverlayMessage,
    PathAnswer,
    PathCheck,
    Ping,
    PingFor,
    Private,
    Probe,
    Prune,
    Receipt,
    Receipts,
    ReceiptsTaken,
    Record,
    Records,
    Repair,
    Rumor,
    RumorCopy,
    Rumors,
    Short,
    StreamRange,
    Subscribe,
    Vector,
    Want,
    bytes_in_rumor,
)

# --- packets ------------------------------------------------------------------------------------

HELLO: Final = 1
CHALLENGE: Final = 2
PROOF: Final = 3
WELCOME: Final = 4
DATA: Final = 5

VERSION: Final = 1
MAX_VERSIONS: Final = 4

SESSION_ID_BYTES: Final = 8
EPHEMERAL_BYTES: Final = 32
COOKIE_BYTES: Final = 32
BOX_TAG_BYTES: Final = 16

MAX_DATAGRAM: Final = 1200  # bytes; what crosses every path that carries IPv6 (RFC 8200, section 5)

_HELLO = struct.Struct(">B4s8s32s")
_CHALLENGE = struct.Struct(">B8sB32s")
_PROOF = struct.Struct(">B4s8s32sB32s")
_WELCOME = struct.Struct(">B8s32s8s")
_DATA = struct.Struct(">B8sQ")

HELLO_BYTES: Final = _HELLO.size + MAC_BYTES
CHALLENGE_BYTES: Final = _CHALLENGE.size + MAC_BYTES
DATA_OVERHEAD: Final = _DATA.size + BOX_TAG_BYTES
MAX_PLAINTEXT: Final = MAX_DATAGRAM - DATA_OVERHEAD
COUNTER_LIMIT: Final = 1 << 32  # packets under one key, far below what the cipher bears


class Hello(NamedTuple):
    """May I come in? Names the versions spoken and a fresh X25519 key."""

    versions: bytes  # one byte each, zeros behind
    session_id: bytes
    ephemeral: bytes


class Challenge(NamedTuple):
    """Show that you are where you say: send this cookie back."""

    session_id: bytes
    version: int
    cookie: bytes


class Proof(NamedTuple):
    """All that Hello said, the cookie, and who is asking, sealed and signed."""

    hello: Hello
    version: int
    cookie: bytes
    box: bytes


class Welcome(NamedTuple):
    """Come in: our ephemeral key, our session id, and who answers, sealed and signed."""

    session_id: bytes
    ephemeral: bytes
    our_session_id: bytes
    box: bytes


class Data(NamedTuple):
    """Anything after the handshake; `session_id` is the receiver's."""

    session_id: bytes
    counter: int
    box: bytes


Packet: TypeAlias = Hello | Challenge | Proof | Welcome | Data


def encode_packet(packet: Packet) -> bytes:
    """The packet's bytes; those of a handshake packet still lack their MAC at the end."""
    match packet:
        case Data(session_id, counter, box):
            return _DATA.pack(DATA, session_id, counter) + box
        case Hello(versions, session_id, ephemeral):
            return _HELLO.pack(HELLO, versions, session_id, ephemeral)
        case Challenge(session_id, version, cookie):
            return _CHALLENGE.pack(CHALLENGE, session_id, version, cookie)
        case Proof(hello, version, cookie, box):
            return _PROOF.pack(PROOF, *hello, version, cookie) + box
        case Welcome(session_id, ephemeral, our_session_id, box):
            return _WELCOME.pack(WELCOME, session_id, ephemeral, our_session_id) + box


def decode_packet(datagram: bytes) -> Packet:
    """The packet in `datagram`, whose MAC (of a handshake packet) the caller checks. Raises Refused."""
    if not datagram:
        raise Refused(DropReason.TOO_SHORT)
    kind, size = datagram[0], len(datagram)
    if kind == DATA:
        if size < DATA_OVERHEAD + 1:
            raise Refused(DropReason.TOO_SHORT)
        _, session_id, counter = _DATA.unpack_from(datagram)
        return Data(session_id, counter, datagram[_DATA.size :])
    body = datagram[:-MAC_BYTES]
    try:
        if kind == HELLO:
            return Hello(*_HELLO.unpack(body)[1:])
        if kind == CHALLENGE:
            return Challenge(*_CHALLENGE.unpack(body)[1:])
        if kind == PROOF:
            _, versions, session_id, ephemeral, version, cookie = _PROOF.unpack_from(body)
            hello = Hello(versions, session_id, ephemeral)
            return Proof(hello, version, cookie, body[_PROOF.size :])
        if kind == WELCOME:
            _, session_id, ephemeral, our_session_id = _WELCOME.unpack_from(body)
            return Welcome(session_id, ephemeral, our_session_id, body[_WELCOME.size :])
    except struct.error:
        raise Refused(DropReason.TOO_SHORT) from None
    raise Refused(DropReason.UNKNOWN_TYPE)


# --- msgpack under limits -----------------------------------------------------------------------

Fields = tuple[Any, ...]

MAX_HOPS: Final = 255
MAX_AGE_MS: Final = (1 << 32) - 1
MAX_TEXT_BYTES: Final = 64  # of a zone, a name
MAX_ADDRESSES: Final = 4
MAX_RECORDS: Final = 16
RECORDS_REMEMBERED: Final = 1024  # decoded, by their bytes: a megabyte at the most
MAX_OPINIONS: Final = 4
MAX_ACCUSATIONS: Final = 3  # of one member: as many as it takes
MAX_COPIES: Final = 64
MAX_ENTRIES: Final = 64
MAX_IDS: Final = 64
MAX_PAGES: Final = 256
MAX_RECEIPTS: Final = 16
MAX_PAYLOADS: Final = 8192  # in one rumor: 64 KiB of 8-byte payloads
MAX_PAYLOAD: Final = (1 << 32) - 1
MAX_COUNT: Final = (1 << 32) - 1
TOTAL_BYTES: Final = 16

_PACK_ERRORS = (
    ValueError,  # msgpack's own errors and UnicodeDecodeError are ValueErrors
    TypeError,
    RecursionError,
    OverflowError,
    MemoryError,
)


def _unpack(data: bytes) -> Fields:
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


def _uint(value: Any, limit: int) -> int:
    """`value` where it is an integer from 0 to `limit`; bool, which Python takes for int, is not."""
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("not an integer in range")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("not a boolean")
    return value


def _bin(value: Any, size: int | None = None) -> bytes:
    if type(value) is not bytes or (size is not None and len(value) != size):
        raise ValueError("not bytes of the right length")
    return value


def _text(value: Any) -> str:
    data = _bin(value)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError("text too long")
    return data.decode()


def _items(value: Any, limit: int) -> Fields:
    if type(value) is not tuple or len(value) > limit:
        raise ValueError("not a list of the right length")
    return value


# --- the parts of messages ----------------------------------------------------------------------


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
    return _record_in(_bin(value))


@lru_cache(RECORDS_REMEMBERED)
def _record_in(data: bytes) -> Record:
    """The same bytes come again and again, from everybody who tells of that member."""
    (peer_id, epoch, incarnation, addresses, zone, name, capacity, refill, left, signature) = (
        _unpack(data)
    )
    return Record(
        PeerId(_bin(peer_id, PEER_ID_BYTES)),
        _uint(epoch, EPOCH_LIMIT - 1),
        _uint(incarnation, MAX_COUNT),
        tuple(_decode_address(address) for address in _items(addresses, MAX_ADDRESSES)),
        _text(zone),
        _text(name),
        _uint(capacity, MAX_COUNT),
        _uint(refill, MAX_COUNT),
        _flag(left),
        _bin(signature, SIGNATURE_BYTES),
    )


def _decode_records(value: Any) -> tuple[Record, ...]:
    return tuple(_decode_record(record) for record in _items(value, MAX_RECORDS))


def _decode_address(fields: Any) -> Address:
    host, port = _items(fields, 2)
    text = _text(host)
    if (
        str(ipaddress.ip_address(text)) != text
    ):  # one spelling each, or the signature would not hold
        raise ValueError("not a canonical address")
    return Address(text, _uint(port, 65535))


_RUMORS_HEADER: Final = bytes((Kind.RUMORS, 0x91))  # an array of one, which is the array of copies
ENVELOPE_OVERHEAD: Final = len(_RUMORS_HEADER) + 3


_BODY_AT: Final = 4  # among the fields of a copy


def _encode_copy(copy: RumorCopy) -> Fields:
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


def _decode_copy(fields: Any) -> RumorCopy:
    origin, epoch, first, lengths, body, signature, hops, age_ms, *traced = _items(fields, 9)
    trace_share = (_uint(traced[0], TRACE_ALL) or _untraced()) if traced else 0
    for length in _items(lengths, MAX_PAYLOADS):
        _uint(length, MAX_PAYLOAD)
    if not lengths or sum(lengths) != len(_bin(body)):
        raise ValueError("lengths that do not cut the body")
    rumor = Rumor(
        PeerId(_bin(origin, PEER_ID_BYTES)),
        _uint(epoch, EPOCH_LIMIT - 1),
        _uint(first, SEQUENCE_LIMIT - MAX_PAYLOADS) or _nonzero(),
        lengths,
        body,
        _bin(signature, SIGNATURE_BYTES),
        trace_share,
    )
    return RumorCopy(rumor, _uint(hops, MAX_HOPS), _uint(age_ms, MAX_AGE_MS))


def encode_copy(copy: RumorCopy) -> bytes:
    """One copy as it stands in an envelope of rumors: made once, whoever it goes to."""
    return msgpack.packb(_encode_copy(copy))


class Spliced:
    """A message around one large body that stays where it is: `head`, `body` and `tail` are what
    `encode_message` gives, but are never put together. However many peers are sent the body, whoever
    holds it holds it once."""

    __slots__ = ("_body", "head", "tail")

    def __init__(self, head: bytes, body: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail
        self._body = memoryview(body)

    @property
    def kind(self) -> int:
        return self.head[0]

    def __len__(self) -> int:
        return len(self.head) + len(self._body) + len(self.tail)

    def cut(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of the message."""
        body_at = len(self.head)
        tail_at = body_at + len(self._body)
        if body_at <= start and end <= tail_at:  # nearly always
            return bytes(self._body[start - body_at : end - body_at])
        return b"".join(
            (
                self.head[start:end],
                self._body[max(start - body_at, 0) : max(end - body_at, 0)],
                self.tail[max(start - tail_at, 0) : max(end - tail_at, 0)],
            )
        )


SPLICE_BYTES: Final = 1 << 16  # of a body, which no packet holds and msgpack measures in four bytes


def encode_repair(repair: Repair) -> bytes | Spliced:
    """A repair as `encode_message` gives it, or spliced, where it is about one large body."""
    if len(repair.copies) != 1 or len(repair.copies[0].rumor.body) < SPLICE_BYTES:
        return encode_message(repair)
    fields = _encode_copy(repair.copies[0])
    before, body, after = fields[:_BODY_AT], repair.copies[0].rumor.body, fields[_BODY_AT + 1 :]
    head = (
        bytes((Kind.REPAIR, 0x94)),  # an array of four, of which the last
        *map(msgpack.packb, (repair.round, repair.is_last, repair.more)),
        bytes((0x91, 0x90 | len(fields))),  # is one of one copy
        *map(msgpack.packb, before),
        b"\xc6" + len(body).to_bytes(4, "big"),
    )
    return Spliced(b"".join(head), body, b"".join(map(msgpack.packb, after)))


def join_copies(copies: Sequence[bytes]) -> bytes:
    """The message, as `encode_message` of Rumors gives it, with these encoded copies."""
    count = len(copies)
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return _RUMORS_HEADER + header + b"".join(copies)


def _untraced() -> int:
    raise ValueError("a traced rumor that asks nobody: it is written without the field")


def _nonzero() -> int:
    raise ValueError("sequences begin at 1")


def _decode_copies(value: Any) -> tuple[RumorCopy, ...]:
    return tuple(_decode_copy(copy) for copy in _items(value, MAX_COPIES))


def _encode_range(entry: StreamRange) -> Fields:
    return (bytes(entry.stream.origin), entry.stream.epoch, entry.first, entry.last)


def _decode_range(fields: Any) -> StreamRange:
    origin, epoch, first, last = _items(fields, 4)
    stream = Stream(PeerId(_bin(origin, PEER_ID_BYTES)), _uint(epoch, EPOCH_LIMIT - 1))
    return StreamRange(stream, _uint(first, SEQUENCE_LIMIT), _uint(last, SEQUENCE_LIMIT))


def _encode_ids(ranges: tuple[StreamRange, ...]) -> Fields:
    """Stream by stream: a stream is named once, however many of its rumors are told of."""
    return tuple(
        (bytes(stream.origin), stream.epoch, tuple(end for each in of for end in each.ends))
        for stream, of in groupby(ranges, key=lambda each: each.stream)
    )


def _decode_ids(value: Any) -> tuple[StreamRange, ...]:
    ranges: list[StreamRange] = []
    for fields in _items(value, MAX_IDS):
        origin, epoch, ends = _items(fields, 3)
        stream = Stream(PeerId(_bin(origin, PEER_ID_BYTES)), _uint(epoch, EPOCH_LIMIT - 1))
        for end in _items(ends, 2 * MAX_IDS):
            _uint(end, SEQUENCE_LIMIT)
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            if not 1 <= first <= last:
                raise ValueError("an empty range")
            ranges.append(StreamRange(stream, first, last))
    if len(ranges) > MAX_IDS:
        raise ValueError("too many ids")
    return tuple(ranges)


def _encode_receipt(receipt: Receipt) -> Fields:
    member, relays = bytes(receipt.member), min(receipt.relays, MAX_HOPS)
    return (member, receipt.hops, receipt.delay_ms, relays, receipt.signature)


def _decode_receipt(fields: Any) -> Receipt:
    member, hops, delay_ms, relays, signature = _items(fields, 5)
    if _bin(signature) and len(signature) != SIGNATURE_BYTES:
        raise ValueError("neither signed nor unsigned")
    return Receipt(
        PeerId(_bin(member, PEER_ID_BYTES)),
        _uint(hops, MAX_HOPS),
        _uint(delay_ms, MAX_AGE_MS),
        _uint(relays, MAX_HOPS),
        signature,
    )


def _decode_tree(value: Any) -> PeerId | None:
    return PeerId(_bin(value, PEER_ID_BYTES)) if value != b"" else None


def _decode_ranges(value: Any) -> tuple[StreamRange, ...]:
    return tuple(_decode_range(entry) for entry in _items(value, MAX_ENTRIES))


def _encode_opinion(opinion: Opinion) -> Fields:
    told = tuple((bytes(each.accuser), each.signature) for each in opinion.accusations)
    return encode_record(opinion.record), told


def _decode_opinion(fields: Any) -> Opinion:
    record, accusations = _items(fields, 2)
    told = tuple(map(_decode_accusation, _items(accusations, MAX_ACCUSATIONS)))
    return Opinion(_decode_record(record), told)


def _decode_accusation(fields: Any) -> Accusation:
    accuser, signature = _items(fields, 2)
    return Accusation(PeerId(_bin(accuser, PEER_ID_BYTES)), _bin(signature, SIGNATURE_BYTES))


def _decode_opinions(value: Any) -> tuple[Opinion, ...]:
    return tuple(map(_decode_opinion, _items(value, MAX_OPINIONS)))


# --- messages and frames ------------------------------------------------------------------------


def encode_message(message: OverlayMessage | Frame) -> bytes:
    """What is sealed into a packet: the kind byte and the fields."""
    kind, fields = _fields(message)
    return bytes((kind,)) + msgpack.packb(fields)


def _fields(message: OverlayMessage | Frame) -> tuple[Kind, Fields]:  # noqa: C901, PLR0912  one case each
    match message:
        case Rumors(copies):
            return Kind.RUMORS, (tuple(map(_encode_copy, copies)),)
        case Heartbeat(number, echo, echo_delay_us, load, streams, total, records):
            told = tuple(map(encode_record, records))
            return Kind.HEARTBEAT, (number, echo, echo_delay_us, load, streams, total, told)
        case Repair(number, is_last, more, copies):
            return Kind.REPAIR, (number, is_last, more, tuple(map(_encode_copy, copies)))
        case Records(records):
            return Kind.RECORDS, (tuple(map(encode_record, records)),)
        case Private(sequence, payload):
            return Kind.PRIVATE, (sequence, payload)
        case Digest(number, streams, total):
            return Kind.DIGEST, (number, streams, total)
        case InSync(number):
            return Kind.IN_SYNC, (number,)
        case Vector(number, answering, page, pages, entries):
            ranges = tuple(map(_encode_range, entries))
            return Kind.VECTOR, (number, answering, page, pages, ranges)
        case Want(number, wanted):
            return Kind.WANT, (number, tuple(map(_encode_range, wanted)))
        case Ids(ranges):
            return Kind.IDS, (_encode_ids(ranges),)
        case Ping() | PingFor() | Ack() | Opinions():
            return _detection_fields(message)
        case Receipts(number, (origin, epoch, sequence, _), receipts):
            taken = tuple(map(_encode_receipt, receipts))
            return Kind.RECEIPTS, (number, bytes(origin), epoch, sequence, taken)
        case ReceiptsTaken(number):
            return Kind.RECEIPTS_TAKEN, (number,)
        case Offer() | Announce() | Subscribe() | Graft() | Prune():
            return _fields_of_spreading(message)
        case Empty():
            return Kind.EMPTY, ()
        case Ask():
            return Kind.ASK, ()
        case Short():
            return Kind.SHORT, ()
        case Close(reason, records):
            return Kind.CLOSE, (int(reason), tuple(map(encode_record, records)))


def _detection_fields(message: Ping | PingFor | Ack | Opinions) -> tuple[Kind, Fields]:
    match message:
        case Ping(number, opinions):
            return Kind.PING, (number, tuple(map(_encode_opinion, opinions)))
        case PingFor(number, subject):
            return Kind.PING_FOR, (number, bytes(subject))
        case Ack(number, is_alive):
            return Kind.ACK, (number, is_alive)
        case Opinions(opinions):
            return Kind.OPINIONS, (tuple(map(_encode_opinion, opinions)),)


def _fields_of_spreading(
    message: Offer | Announce | Subscribe | Graft | Prune,
) -> tuple[Kind, Fields]:
    match message:
        case Offer(ranges):
            return Kind.OFFER, (_encode_ids(ranges),)
        case Announce(ids, size_bytes):
            return Kind.ANNOUNCE, (_encode_range(ids), size_bytes)
        case Subscribe(is_wanted):
            return Kind.SUBSCRIBE, (is_wanted,)
        case Graft(origin):
            return Kind.GRAFT, (bytes(origin or b""),)
        case Prune(origin):
            return Kind.PRUNE, (bytes(origin or b""),)


def _heartbeat(f: Fields) -> Heartbeat:
    number, echo, delay_us, load, streams, total, records = f
    return Heartbeat(
        _uint(number, MAX_COUNT),
        _uint(echo, MAX_COUNT),
        _uint(delay_us, MAX_COUNT),
        _uint(load, 1000),
        _uint(streams, MAX_COUNT),
        _bin(total, TOTAL_BYTES),
        _decode_records(records),
    )


def _records(f: Fields) -> Records:
    (records,) = f
    return Records(_decode_records(records))


def _rumors(f: Fields) -> Rumors:
    (copies,) = f
    return Rumors(_decode_copies(copies))


def _private(f: Fields) -> Private:
    sequence, payload = f
    return Private(_uint(sequence, SEQUENCE_LIMIT) or _nonzero(), _bin(payload))


def _digest(f: Fields) -> Digest:
    number, streams, total = f
    return Digest(_uint(number, MAX_COUNT), _uint(streams, MAX_COUNT), _bin(total, TOTAL_BYTES))


def _in_sync(f: Fields) -> InSync:
    (number,) = f
    return InSync(_uint(number, MAX_COUNT))


def _vector(f: Fields) -> Vector:
    number, answering, page, pages, entries = f
    if _uint(page, MAX_PAGES - 1) >= _uint(pages, MAX_PAGES):
        raise ValueError("a page beyond the last")
    return Vector(_uint(number, MAX_COUNT), _flag(answering), page, pages, _decode_ranges(entries))


def _want(f: Fields) -> Want:
    number, ranges = f
    decoded = _decode_ranges(ranges)
    if any(not 1 <= entry.first <= entry.last for entry in decoded):
        raise ValueError("an empty range")
    return Want(_uint(number, MAX_COUNT), decoded)


def _repair(f: Fields) -> Repair:
    number, is_last, more, copies = f
    return Repair(_uint(number, MAX_COUNT), _flag(is_last), _flag(more), _decode_copies(copies))


def _ids(f: Fields) -> Ids:
    (streams,) = f
    return Ids(_decode_ids(streams))


def _ping(f: Fields) -> Ping:
    number, opinions = f
    return Ping(_uint(number, MAX_COUNT), _decode_opinions(opinions))


def _ping_for(f: Fields) -> PingFor:
    number, subject = f
    return PingFor(_uint(number, MAX_COUNT), PeerId(_bin(subject, PEER_ID_BYTES)))


def _ack(f: Fields) -> Ack:
    number, is_alive = f
    return Ack(_uint(number, MAX_COUNT), _flag(is_alive))


def _opinions(f: Fields) -> Opinions:
    (opinions,) = f
    return Opinions(_decode_opinions(opinions))


def _receipts(f: Fields) -> Receipts:
    number, origin, epoch, sequence, receipts = f
    message_id = MessageId(
        PeerId(_bin(origin, PEER_ID_BYTES)),
        _uint(epoch, EPOCH_LIMIT - 1),
        _uint(sequence, SEQUENCE_LIMIT) or _nonzero(),
    )
    told = tuple(_decode_receipt(receipt) for receipt in _items(receipts, MAX_RECEIPTS))
    return Receipts(_uint(number, MAX_COUNT), message_id, told)


def _receipts_taken(f: Fields) -> ReceiptsTaken:
    (number,) = f
    return ReceiptsTaken(_uint(number, MAX_COUNT))


def _offer(f: Fields) -> Offer:
    (streams,) = f
    return Offer(_decode_ids(streams))


def _announce(f: Fields) -> Announce:
    entry, size_bytes = f
    ids = _decode_range(entry)
    if not 1 <= ids.first <= ids.last:
        raise ValueError("an empty range")
    return Announce(ids, _uint(size_bytes, MAX_COUNT) or _nonzero())


def _subscribe(f: Fields) -> Subscribe:
    (is_wanted,) = f
    return Subscribe(_flag(is_wanted))


def _graft(f: Fields) -> Graft:
    (origin,) = f
    return Graft(_decode_tree(origin))


def _prune(f: Fields) -> Prune:
    (origin,) = f
    return Prune(_decode_tree(origin))


def _empty(f: Fields) -> Empty:
    () = f
    return Empty()


def _ask(f: Fields) -> Ask:
    () = f
    return Ask()


def _short(f: Fields) -> Short:
    () = f
    return Short()


def _close(f: Fields) -> Close:
    reason, records = f
    return Close(CloseReason(_uint(reason, 255)), _decode_records(records))


_DECODERS: Final[dict[int, Callable[[Fields], OverlayMessage | Frame]]] = {
    Kind.EMPTY: _empty,
    Kind.ASK: _ask,
    Kind.SHORT: _short,
    Kind.CLOSE: _close,
    Kind.HEARTBEAT: _heartbeat,
    Kind.RECORDS: _records,
    Kind.RUMORS: _rumors,
    Kind.PRIVATE: _private,
    Kind.DIGEST: _digest,
    Kind.IN_SYNC: _in_sync,
    Kind.VECTOR: _vector,
    Kind.WANT: _want,
    Kind.REPAIR: _repair,
    Kind.IDS: _ids,
    Kind.PING: _ping,
    Kind.PING_FOR: _ping_for,
    Kind.ACK: _ack,
    Kind.OPINIONS: _opinions,
    Kind.RECEIPTS: _receipts,
    Kind.RECEIPTS_TAKEN: _receipts_taken,
    Kind.OFFER: _offer,
    Kind.ANNOUNCE: _announce,
    Kind.SUBSCRIBE: _subscribe,
    Kind.GRAFT: _graft,
    Kind.PRUNE: _prune,
}


def decode_message(plaintext: bytes) -> OverlayMessage | Frame:
    """The message or frame in an opened packet. Raises Refused: UNKNOWN_KIND or MALFORMED."""
    decoder = _DECODERS.get(plaintext[0]) if plaintext else None
    if decoder is None:
        raise Refused(DropReason.UNKNOWN_KIND)
    try:
        return decoder(_unpack(plaintext[1:]))
    except _PACK_ERRORS:
        raise Refused(DropReason.MALFORMED) from None


# --- what links say to each other: fixed layouts, for they go and come by the thousand -------------

_FRAGMENT = struct.Struct(">BQII")
_AGAIN = struct.Struct(">B8sI")
_FEEDBACK = struct.Struct(">B8sIIIIB")
_RANGE = struct.Struct(">II")
_PROBE_PADDING: Final = bytes(1 << 16)

FRAGMENT_OVERHEAD: Final = _FRAGMENT.size
AGAIN_OVERHEAD: Final = _AGAIN.size
MAX_RANGES: Final = 64
PATH_TOKEN_BYTES: Final = 8


def fragment_header(number: int, total_bytes: int, offset: int, *, of_repair: bool) -> bytes:
    """What stands before a piece of a large message."""
    kind = Kind.REPAIR_FRAGMENT if of_repair else Kind.FRAGMENT
    return _FRAGMENT.pack(kind, number, total_bytes, offset)


def encode_frame(frame: LinkFrame) -> bytes:
    """What is sealed into a packet for the link at the other end."""
    match frame:
        case Fragment(number, total_bytes, offset, body, of_repair):
            return fragment_header(number, total_bytes, offset, of_repair=of_repair) + body
        case Again(session_id, counter, plaintext):
            return _AGAIN.pack(Kind.AGAIN, session_id, counter) + plaintext
        case Feedback(session_id, first, end, latest, delay_us, missing):
            told = min(delay_us, MAX_COUNT)
            head = _FEEDBACK.pack(Kind.FEEDBACK, session_id, first, end, latest, told, len(missing))
            return head + b"".join(_RANGE.pack(*each) for each in missing)
        case Probe(padding):
            return bytes((Kind.PROBE,)) + _PROBE_PADDING[:padding]
        case PathCheck(token):
            return bytes((Kind.PATH_CHECK,)) + token
        case PathAnswer(token):
            return bytes((Kind.PATH_ANSWER,)) + token


def decode_frame(plaintext: bytes) -> LinkFrame:
    """The frame in an opened packet that one link says to the other. Raises Refused: UNKNOWN_KIND or
    MALFORMED."""
    decoder = _FRAME_DECODERS.get(plaintext[0]) if plaintext else None
    if decoder is None:
        raise Refused(DropReason.UNKNOWN_KIND)
    try:
        return decoder(plaintext)
    except (struct.error, ValueError):
        raise Refused(DropReason.MALFORMED) from None


def _fragment(plaintext: bytes) -> Fragment:
    kind, number, total_bytes, offset = _FRAGMENT.unpack_from(plaintext)
    body = plaintext[_FRAGMENT.size :]
    if not body or offset + len(body) > total_bytes:
        raise ValueError("a fragment of nothing or beyond the end")
    return Fragment(number, total_bytes, offset, body, kind == Kind.REPAIR_FRAGMENT)


def _again(plaintext: bytes) -> Again:
    _, session_id, counter = _AGAIN.unpack_from(plaintext)
    body = plaintext[_AGAIN.size :]
    if not body:
        raise ValueError("nothing again")
    return Again(session_id, counter, body)


def _feedback(plaintext: bytes) -> Feedback:
    _, session_id, first, end, latest, delay_us, count = _FEEDBACK.unpack_from(plaintext)
    if count > MAX_RANGES or len(plaintext) != _FEEDBACK.size + count * _RANGE.size:
        raise ValueError("not so many ranges")
    missing = tuple(_RANGE.iter_unpack(plaintext[_FEEDBACK.size :]))
    before = first - 1
    for low, high in missing:
        if not before < low <= high < end:
            raise ValueError("ranges out of order")
        before = high
    return Feedback(session_id, first, end, latest, delay_us, missing)


def _probe(plaintext: bytes) -> Probe:
    return Probe(len(plaintext) - 1)


def _token(plaintext: bytes) -> bytes:
    if len(plaintext) != 1 + PATH_TOKEN_BYTES:
        raise ValueError("a token of another length")
    return plaintext[1:]


_FRAME_DECODERS: Final[dict[int, Callable[[bytes], LinkFrame]]] = {
    Kind.FRAGMENT: _fragment,
    Kind.REPAIR_FRAGMENT: _fragment,
    Kind.AGAIN: _again,
    Kind.FEEDBACK: _feedback,
    Kind.PROBE: _probe,
    Kind.PATH_CHECK: lambda plaintext: PathCheck(_token(plaintext)),
    Kind.PATH_ANSWER: lambda plaintext: PathAnswer(_token(plaintext)),
}


# --- what the handshake seals -------------------------------------------------------------------


def encode_credentials(record: Record, signature: bytes) -> bytes:
    """A node's record and its signature over the handshake so far."""
    return signature + encode_record(record)


def decode_credentials(plaintext: bytes) -> tuple[Record, bytes]:
    """(record, signature) from an opened handshake box. Raises Refused(MALFORMED)."""
    try:
        return _decode_record(plaintext[SIGNATURE_BYTES:]), _bin(plaintext[:SIGNATURE_BYTES], 64)
    except _PACK_ERRORS:
        raise Refused(DropReason.MALFORMED) from None


# --- sizes --------------------------------------------------------------------------------------

_WIDEST = Rumor(
    PeerId(bytes(PEER_ID_BYTES)),
    EPOCH_LIMIT - 1,
    SEQUENCE_LIMIT - MAX_PAYLOADS,
    (MAX_DATAGRAM,),
    bytes(MAX_DATAGRAM),
    bytes(SIGNATURE_BYTES),
    TRACE_ALL,
)
_BESIDE_PAYLOADS: Final = len(
    encode_message(Repair(MAX_COUNT, True, True, (RumorCopy(_WIDEST, MAX_HOPS, MAX_AGE_MS),)))
) - bytes_in_rumor(MAX_DATAGRAM)


def room_in_rumor(message_bytes: int) -> int:
    """How many bytes of payloads, as `bytes_in_rumor` counts them, one rumor may hold so that it
    fits a message of `message_bytes` however it travels, pushed or repaired."""
    return message_bytes - _BESIDE_PAYLOADS - 2  # more than 15 lengths need two bytes more
