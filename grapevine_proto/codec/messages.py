"""Messages of the overlay and frames without a layout of their own: a `Kind` byte and a msgpack array.

What must stay true:

- `decode_message` takes any bytes at all and either returns one message of the right shape or raises
  `Refused`; nothing else.
- A kind has one encoder and one decoder, here, and nobody else knows its order of fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgpack

from grapevine_proto.codec.fields import (
    MAX_COUNT,
    MAX_MARKS,
    MAX_PAGES,
    MAX_RECEIPTS,
    PACK_ERRORS,
    TOTAL_BYTES,
    Fields,
    binary,
    copy_fields,
    decode_copies,
    decode_ids,
    decode_opinions,
    decode_range,
    decode_ranges,
    decode_receipt,
    decode_records,
    decode_tree,
    encode_record,
    flag,
    ids_fields,
    items,
    nonzero,
    opinion_fields,
    range_fields,
    receipt_fields,
    uint,
    unpack,
)
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
    SEQUENCE_LIMIT,
    MessageId,
    PeerId,
)
from grapevine_proto.messages import (
    MARK_BYTES,
    Ack,
    Announce,
    Ask,
    Close,
    CloseReason,
    Digest,
    Empty,
    Frame,
    Graft,
    Heartbeat,
    Ids,
    InSync,
    Kind,
    Near,
    Offer,
    Opinions,
    OverlayMessage,
    Pause,
    Ping,
    PingFor,
    Private,
    Prune,
    Receipts,
    ReceiptsTaken,
    Records,
    Repair,
    Roll,
    Rumors,
    Short,
    Subscribe,
    Vector,
    Want,
)


def encode_message(message: OverlayMessage | Frame) -> bytes:
    """What is sealed into a packet: the kind byte and the fields."""
    kind, fields = _fields(message)
    return bytes((kind,)) + msgpack.packb(fields)


def _fields(message: OverlayMessage | Frame) -> tuple[Kind, Fields]:  # noqa: C901, PLR0912  one case each
    match message:
        case Rumors(copies):
            return Kind.RUMORS, (tuple(map(copy_fields, copies)),)
        case Heartbeat(number, echo, echo_delay_us, load, streams, total, records):
            told = tuple(map(encode_record, records))
            return Kind.HEARTBEAT, (number, echo, echo_delay_us, load, streams, total, told)
        case Repair(number, is_last, more, copies):
            return Kind.REPAIR, (number, is_last, more, tuple(map(copy_fields, copies)))
        case Records(records):
            return Kind.RECORDS, (tuple(map(encode_record, records)),)
        case Private(sequence, payload):
            return Kind.PRIVATE, (sequence, payload)
        case Digest(number, streams, total):
            return Kind.DIGEST, (number, streams, total)
        case InSync(number):
            return Kind.IN_SYNC, (number,)
        case Vector(number, answering, page, pages, entries):
            ranges = tuple(map(range_fields, entries))
            return Kind.VECTOR, (number, answering, page, pages, ranges)
        case Want(number, wanted):
            return Kind.WANT, (number, tuple(map(range_fields, wanted)))
        case Ids(ranges):
            return Kind.IDS, (ids_fields(ranges),)
        case Roll(first, last, marks, answering):
            return Kind.ROLL, (first, last, marks, answering)
        case Ping() | PingFor() | Ack() | Opinions():
            return _detection_fields(message)
        case Pause(duration_ms):
            return Kind.PAUSE, (duration_ms,)
        case Receipts(number, (origin, epoch, sequence, _), receipts):
            taken = tuple(map(receipt_fields, receipts))
            return Kind.RECEIPTS, (number, bytes(origin), epoch, sequence, taken)
        case ReceiptsTaken(number):
            return Kind.RECEIPTS_TAKEN, (number,)
        case Offer() | Announce() | Subscribe() | Graft() | Prune():
            return _fields_of_spreading(message)
        case Empty():
            return Kind.EMPTY, ()
        case Ask():
            return Kind.ASK, ()
        case Near(instead):
            return Kind.NEAR, (encode_record(instead),)
        case Short():
            return Kind.SHORT, ()
        case Close(reason, records):
            return Kind.CLOSE, (int(reason), tuple(map(encode_record, records)))


def _detection_fields(message: Ping | PingFor | Ack | Opinions) -> tuple[Kind, Fields]:
    match message:
        case Ping(number, opinions):
            return Kind.PING, (number, tuple(map(opinion_fields, opinions)))
        case PingFor(number, subject):
            return Kind.PING_FOR, (number, bytes(subject))
        case Ack(number, is_alive):
            return Kind.ACK, (number, is_alive)
        case Opinions(opinions):
            return Kind.OPINIONS, (tuple(map(opinion_fields, opinions)),)


def _fields_of_spreading(
    message: Offer | Announce | Subscribe | Graft | Prune,
) -> tuple[Kind, Fields]:
    match message:
        case Offer(ranges):
            return Kind.OFFER, (ids_fields(ranges),)
        case Announce(ids, size_bytes):
            return Kind.ANNOUNCE, (range_fields(ids), size_bytes)
        case Subscribe(is_wanted):
            return Kind.SUBSCRIBE, (is_wanted,)
        case Graft(origin):
            return Kind.GRAFT, (bytes(origin or b""),)
        case Prune(origin):
            return Kind.PRUNE, (bytes(origin or b""),)


def _heartbeat(f: Fields) -> Heartbeat:
    number, echo, delay_us, load, streams, total, records = f
    return Heartbeat(
        uint(number, MAX_COUNT),
        uint(echo, MAX_COUNT),
        uint(delay_us, MAX_COUNT),
        uint(load, 1000),
        uint(streams, MAX_COUNT),
        binary(total, TOTAL_BYTES),
        decode_records(records),
    )


def _records(f: Fields) -> Records:
    (records,) = f
    return Records(decode_records(records))


def _rumors(f: Fields) -> Rumors:
    (copies,) = f
    return Rumors(decode_copies(copies))


def _private(f: Fields) -> Private:
    sequence, payload = f
    return Private(uint(sequence, SEQUENCE_LIMIT) or nonzero(), binary(payload))


def _digest(f: Fields) -> Digest:
    number, streams, total = f
    return Digest(uint(number, MAX_COUNT), uint(streams, MAX_COUNT), binary(total, TOTAL_BYTES))


def _in_sync(f: Fields) -> InSync:
    (number,) = f
    return InSync(uint(number, MAX_COUNT))


def _vector(f: Fields) -> Vector:
    number, answering, page, pages, entries = f
    if uint(page, MAX_PAGES - 1) >= uint(pages, MAX_PAGES):
        raise ValueError("a page beyond the last")
    return Vector(uint(number, MAX_COUNT), flag(answering), page, pages, decode_ranges(entries))


def _want(f: Fields) -> Want:
    number, ranges = f
    decoded = decode_ranges(ranges)
    if any(not 1 <= entry.first <= entry.last for entry in decoded):
        raise ValueError("an empty range")
    return Want(uint(number, MAX_COUNT), decoded)


def _repair(f: Fields) -> Repair:
    number, is_last, more, copies = f
    return Repair(uint(number, MAX_COUNT), flag(is_last), flag(more), decode_copies(copies))


def _ids(f: Fields) -> Ids:
    (streams,) = f
    return Ids(decode_ids(streams))


def _ping(f: Fields) -> Ping:
    number, opinions = f
    return Ping(uint(number, MAX_COUNT), decode_opinions(opinions))


def _ping_for(f: Fields) -> PingFor:
    number, subject = f
    return PingFor(uint(number, MAX_COUNT), PeerId(binary(subject, PEER_ID_BYTES)))


def _ack(f: Fields) -> Ack:
    number, is_alive = f
    return Ack(uint(number, MAX_COUNT), flag(is_alive))


def _opinions(f: Fields) -> Opinions:
    (opinions,) = f
    return Opinions(decode_opinions(opinions))


def _roll(f: Fields) -> Roll:
    first, last, marks, answering = f
    if len(binary(marks)) > MAX_MARKS * MARK_BYTES or len(marks) % MARK_BYTES:
        raise ValueError("too many marks, or no whole ones")
    return Roll(uint(first, MAX_COUNT), uint(last, MAX_COUNT), marks, flag(answering))


def _receipts(f: Fields) -> Receipts:
    number, origin, epoch, sequence, receipts = f
    message_id = MessageId(
        PeerId(binary(origin, PEER_ID_BYTES)),
        uint(epoch, EPOCH_LIMIT - 1),
        uint(sequence, SEQUENCE_LIMIT) or nonzero(),
    )
    told = tuple(decode_receipt(receipt) for receipt in items(receipts, MAX_RECEIPTS))
    return Receipts(uint(number, MAX_COUNT), message_id, told)


def _receipts_taken(f: Fields) -> ReceiptsTaken:
    (number,) = f
    return ReceiptsTaken(uint(number, MAX_COUNT))


def _offer(f: Fields) -> Offer:
    (streams,) = f
    return Offer(decode_ids(streams))


def _announce(f: Fields) -> Announce:
    entry, size_bytes = f
    ids = decode_range(entry)
    if not 1 <= ids.first <= ids.last:
        raise ValueError("an empty range")
    return Announce(ids, uint(size_bytes, MAX_COUNT) or nonzero())


def _subscribe(f: Fields) -> Subscribe:
    (is_wanted,) = f
    return Subscribe(flag(is_wanted))


def _graft(f: Fields) -> Graft:
    (origin,) = f
    return Graft(decode_tree(origin))


def _prune(f: Fields) -> Prune:
    (origin,) = f
    return Prune(decode_tree(origin))


def _pause(f: Fields) -> Pause:
    (duration_ms,) = f
    return Pause(uint(duration_ms, MAX_COUNT))


def _empty(f: Fields) -> Empty:
    () = f
    return Empty()


def _ask(f: Fields) -> Ask:
    () = f
    return Ask()


def _near(f: Fields) -> Near:
    (instead,) = decode_records(f)
    return Near(instead)


def _short(f: Fields) -> Short:
    () = f
    return Short()


def _close(f: Fields) -> Close:
    reason, records = f
    return Close(CloseReason(uint(reason, 255)), decode_records(records))


DECODERS: Final[dict[int, Callable[[Fields], OverlayMessage | Frame]]] = {
    Kind.EMPTY: _empty,
    Kind.ASK: _ask,
    Kind.NEAR: _near,
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
    Kind.ROLL: _roll,
    Kind.RECEIPTS: _receipts,
    Kind.RECEIPTS_TAKEN: _receipts_taken,
    Kind.OFFER: _offer,
    Kind.ANNOUNCE: _announce,
    Kind.SUBSCRIBE: _subscribe,
    Kind.GRAFT: _graft,
    Kind.PRUNE: _prune,
    Kind.PAUSE: _pause,
}


WITH_RECORDS: Final = frozenset(
    {Kind.CLOSE, Kind.HEARTBEAT, Kind.RECORDS, Kind.PING, Kind.OPINIONS, Kind.NEAR}
)
# Decoding and checking a record costs so much that a token must not pay for more of them; what a correct
# node says of records fits a datagram.
WITH_RECORDS_BYTES: Final = 2048


def decode_message(plaintext: bytes) -> OverlayMessage | Frame:
    """The message or frame in an opened packet. Raises Refused: UNKNOWN_KIND or MALFORMED."""
    decoder = DECODERS.get(plaintext[0]) if plaintext else None
    if decoder is None:
        raise Refused(DropReason.UNKNOWN_KIND)
    if len(plaintext) > WITH_RECORDS_BYTES and plaintext[0] in WITH_RECORDS:
        raise Refused(DropReason.MALFORMED)
    try:
        return decoder(unpack(plaintext[1:]))
    except PACK_ERRORS:
        raise Refused(DropReason.MALFORMED) from None
