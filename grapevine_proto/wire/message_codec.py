"""Codec of overlay messages and of frames without a fixed layout: a `Kind` byte and a msgpack array.

Invariants:

- `decode_message` accepts arbitrary bytes and returns one valid message or raises `Dropped`, nothing else.
- Each kind has one encoder and one decoder, here; no other module knows its field order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgpack

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import PEER_ID_BYTES, SEQUENCE_LIMIT, PeerId
from grapevine_proto.wire.bounded_msgpack import UNPACK_ERRORS, Fields, unpack
from grapevine_proto.wire.fields import (
    CHECKSUM_BYTES,
    MAX_COUNT,
    MAX_ID_PREFIXES,
    MAX_PAGES,
    MAX_RECEIPTS,
    address_fields,
    answer_fields,
    binary,
    decode_address,
    decode_answers,
    decode_header,
    decode_member_updates,
    decode_message_id,
    decode_range,
    decode_ranges,
    decode_receipt,
    decode_record,
    decode_records,
    decode_rumor_copies,
    decode_state_heads,
    decode_state_wants,
    decode_stream_ids,
    decode_tree_origin,
    encode_record,
    flag,
    header_fields,
    items,
    member_update_fields,
    message_id_fields,
    range_fields,
    receipt_fields,
    reject_zero,
    rumor_copy_fields,
    stream_ids_fields,
    uint,
)
from grapevine_proto.wire.messages import (
    BUCKET_SUM_BYTES,
    ID_PREFIX_BYTES,
    RELAY_MARK_BYTES,
    STATE_BUCKETS,
    STATE_SUM_BYTES,
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
    Frame,
    Graft,
    Heartbeat,
    IHave,
    InSync,
    Introduce,
    Introduction,
    IWant,
    Kind,
    MemberDigest,
    MemberUpdates,
    NeighborRequest,
    ObservedAddress,
    Offer,
    OpenTransient,
    OverlayMessage,
    Pause,
    Ping,
    PingAck,
    PingReq,
    Prune,
    ReceiptAck,
    Receipts,
    Records,
    Relayed,
    Repair,
    Rumors,
    StateDelta,
    StateDigest,
    StateHeads,
    StateRequest,
    Subscribe,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.signed import MAX_ANSWERS_PER_MEMBER


def encode_message(message: OverlayMessage | Frame) -> bytes:
    """Returns the plaintext of a packet with `message`: the kind byte and the fields."""
    kind, fields = _encode_fields(message)
    return bytes((kind,)) + msgpack.packb(fields)


def _encode_fields(message: OverlayMessage | Frame) -> tuple[Kind, Fields]:  # noqa: C901, PLR0912  one case each
    match message:
        case Rumors(copies):
            return Kind.RUMORS, (tuple(map(rumor_copy_fields, copies)),)
        case Heartbeat(number, echo, echo_delay_us, load, streams, checksum, records, coordinate):
            encoded = tuple(map(encode_record, records))
            fields = (number, echo, echo_delay_us, load, streams, checksum, encoded)
            return Kind.HEARTBEAT, (*fields, coordinate) if coordinate else fields
        case Repair(number, is_last, has_more, copies):
            return Kind.REPAIR, (number, is_last, has_more, tuple(map(rumor_copy_fields, copies)))
        case Records(records):
            return Kind.RECORDS, (tuple(map(encode_record, records)),)
        case DirectMessage(sequence, payload):
            return Kind.DIRECT_MESSAGE, (sequence, payload)
        case DirectReceipt(sequence):
            return Kind.DIRECT_RECEIPT, (sequence,)
        case Digest(number, streams, checksum):
            return Kind.DIGEST, (number, streams, checksum)
        case InSync(number):
            return Kind.IN_SYNC, (number,)
        case Vector(number, is_reply, page, pages, entries):
            ranges = tuple(map(range_fields, entries))
            return Kind.VECTOR, (number, is_reply, page, pages, ranges)
        case IWant(number, requested):
            return Kind.IWANT, (number, tuple(map(range_fields, requested)))
        case IHave(ranges):
            return Kind.IHAVE, (stream_ids_fields(ranges),)
        case MemberDigest(first, last, id_prefixes, is_reply):
            return Kind.MEMBER_DIGEST, (first, last, id_prefixes, is_reply)
        case Ping() | PingReq() | PingAck() | MemberUpdates():
            return _encode_detection_fields(message)
        case Pause(duration_ms):
            return Kind.PAUSE, (duration_ms,)
        case Receipts() | ReceiptAck() | Answers() | AnswerAck() | AnswerFetch():
            return _encode_returned_fields(message)
        case StateDigest() | StateHeads() | StateRequest() | StateDelta():
            return _encode_state_fields(message)
        case Offer() | Announce() | AnnounceTopic() | Subscribe() | Graft() | Prune():
            return _encode_broadcast_fields(message)
        case Confirm():
            return Kind.CONFIRM, ()
        case NeighborRequest():
            return Kind.NEIGHBOR_REQUEST, ()
        case SwapRequest(swap_for):
            return Kind.SWAP_REQUEST, (encode_record(swap_for),)
        case OpenTransient():
            return Kind.OPEN_TRANSIENT, ()
        case Close(reason, records):
            return Kind.CLOSE, (int(reason), tuple(map(encode_record, records)))
        case ObservedAddress() | Introduce() | Introduction() | Relayed():
            return _encode_address_fields(message)


def _encode_detection_fields(
    message: Ping | PingReq | PingAck | MemberUpdates,
) -> tuple[Kind, Fields]:
    match message:
        case Ping(number, updates):
            return Kind.PING, (number, tuple(map(member_update_fields, updates)))
        case PingReq(number, subject):
            return Kind.PING_REQ, (number, bytes(subject))
        case PingAck(number, is_alive):
            return Kind.PING_ACK, (number, is_alive)
        case MemberUpdates(updates):
            return Kind.MEMBER_UPDATES, (tuple(map(member_update_fields, updates)),)


def _encode_address_fields(
    message: ObservedAddress | Introduce | Introduction | Relayed,
) -> tuple[Kind, Fields]:
    match message:
        case Relayed(is_forwarded, mark, datagram):
            return Kind.RELAYED, (is_forwarded, mark, datagram)
        case ObservedAddress(address):
            return Kind.OBSERVED_ADDRESS, address_fields(address)
        case Introduce(subject, is_transient):
            return Kind.INTRODUCE, (bytes(subject), is_transient)
        case Introduction(record, address, is_transient):
            fields = (encode_record(record), address_fields(address), is_transient)
            return Kind.INTRODUCTION, fields


def _encode_returned_fields(
    message: Receipts | ReceiptAck | Answers | AnswerAck | AnswerFetch,
) -> tuple[Kind, Fields]:
    match message:
        case Receipts(number, message_id, receipts):
            returned = tuple(map(receipt_fields, receipts))
            return Kind.RECEIPTS, (number, *message_id_fields(message_id), returned)
        case ReceiptAck(number):
            return Kind.RECEIPT_ACK, (number,)
        case Answers(number, message_id, answers):
            returned = tuple(map(answer_fields, answers))
            return Kind.ANSWERS, (number, *message_id_fields(message_id), returned)
        case AnswerAck(number):
            return Kind.ANSWER_ACK, (number,)
        case AnswerFetch(message_id, index):
            return Kind.ANSWER_FETCH, (*message_id_fields(message_id), index)


def _encode_state_fields(
    message: StateDigest | StateHeads | StateRequest | StateDelta,
) -> tuple[Kind, Fields]:
    match message:
        case StateDigest(total, buckets):
            return Kind.STATE_DIGEST, (total, buckets)
        case StateHeads(is_reply, covered, heads):
            fields = tuple((prefix, *version, digest) for prefix, version, digest in heads)
            return Kind.STATE_HEADS, (is_reply, covered, fields)
        case StateRequest(number, wants):
            return Kind.STATE_REQUEST, (number, tuple((each, *above) for each, above in wants))
        case StateDelta(number, is_last, copies):
            return Kind.STATE_DELTA, (number, is_last, tuple(map(rumor_copy_fields, copies)))


def _encode_broadcast_fields(
    message: Offer | Announce | AnnounceTopic | Subscribe | Graft | Prune,
) -> tuple[Kind, Fields]:
    match message:
        case Offer(ranges):
            return Kind.OFFER, (stream_ids_fields(ranges),)
        case Announce(ids, size_bytes):
            return Kind.ANNOUNCE, (range_fields(ids), size_bytes)
        case AnnounceTopic(copy, has_body):
            return Kind.ANNOUNCE_TOPIC, (*header_fields(copy), has_body)
        case Subscribe(is_subscribed):
            return Kind.SUBSCRIBE, (is_subscribed,)
        case Graft(origin):
            return Kind.GRAFT, (bytes(origin or b""),)
        case Prune(origin):
            return Kind.PRUNE, (bytes(origin or b""),)


def _decode_heartbeat(f: Fields) -> Heartbeat:
    number, echo, delay_us, load, streams, checksum, records, *moved = f
    coordinate = b""
    if moved:
        (coordinate,) = moved
        Coordinate.parse(binary(coordinate))
    return Heartbeat(
        uint(number, MAX_COUNT),
        uint(echo, MAX_COUNT),
        uint(delay_us, MAX_COUNT),
        uint(load, 1000),
        uint(streams, MAX_COUNT),
        binary(checksum, CHECKSUM_BYTES),
        decode_records(records),
        coordinate,
    )


def _decode_records(f: Fields) -> Records:
    (records,) = f
    return Records(decode_records(records))


def _decode_rumors(f: Fields) -> Rumors:
    (copies,) = f
    return Rumors(decode_rumor_copies(copies))


def _decode_direct_message(f: Fields) -> DirectMessage:
    sequence, payload = f
    return DirectMessage(uint(sequence, SEQUENCE_LIMIT) or reject_zero(), binary(payload))


def _decode_direct_receipt(f: Fields) -> DirectReceipt:
    (sequence,) = f
    return DirectReceipt(uint(sequence, SEQUENCE_LIMIT) or reject_zero())


def _decode_digest(f: Fields) -> Digest:
    number, streams, checksum = f
    return Digest(
        uint(number, MAX_COUNT), uint(streams, MAX_COUNT), binary(checksum, CHECKSUM_BYTES)
    )


def _decode_in_sync(f: Fields) -> InSync:
    (number,) = f
    return InSync(uint(number, MAX_COUNT))


def _decode_vector(f: Fields) -> Vector:
    number, is_reply, page, pages, entries = f
    if uint(page, MAX_PAGES) >= uint(pages, MAX_PAGES):
        raise ValueError("page number beyond the last page")
    return Vector(uint(number, MAX_COUNT), flag(is_reply), page, pages, decode_ranges(entries))


def _decode_iwant(f: Fields) -> IWant:
    number, ranges = f
    decoded = decode_ranges(ranges)
    if any(not 1 <= entry.first <= entry.last for entry in decoded):
        raise ValueError("empty range")
    return IWant(uint(number, MAX_COUNT), decoded)


def _decode_repair(f: Fields) -> Repair:
    number, is_last, has_more, copies = f
    return Repair(
        uint(number, MAX_COUNT), flag(is_last), flag(has_more), decode_rumor_copies(copies)
    )


def _decode_ihave(f: Fields) -> IHave:
    (streams,) = f
    return IHave(decode_stream_ids(streams))


def _decode_ping(f: Fields) -> Ping:
    number, updates = f
    return Ping(uint(number, MAX_COUNT), decode_member_updates(updates))


def _decode_ping_req(f: Fields) -> PingReq:
    number, subject = f
    return PingReq(uint(number, MAX_COUNT), PeerId(binary(subject, PEER_ID_BYTES)))


def _decode_ping_ack(f: Fields) -> PingAck:
    number, is_alive = f
    return PingAck(uint(number, MAX_COUNT), flag(is_alive))


def _decode_member_updates(f: Fields) -> MemberUpdates:
    (updates,) = f
    return MemberUpdates(decode_member_updates(updates))


def _decode_member_digest(f: Fields) -> MemberDigest:
    first, last, id_prefixes, is_reply = f
    if (
        len(binary(id_prefixes)) > MAX_ID_PREFIXES * ID_PREFIX_BYTES
        or len(id_prefixes) % ID_PREFIX_BYTES
    ):
        raise ValueError("too many ID prefixes, or an incomplete one")
    return MemberDigest(uint(first, MAX_COUNT), uint(last, MAX_COUNT), id_prefixes, flag(is_reply))


def _decode_receipts(f: Fields) -> Receipts:
    number, origin, epoch, sequence, receipts = f
    message_id = decode_message_id(origin, epoch, sequence)
    decoded = tuple(decode_receipt(receipt) for receipt in items(receipts, MAX_RECEIPTS))
    return Receipts(uint(number, MAX_COUNT), message_id, decoded)


def _decode_receipt_ack(f: Fields) -> ReceiptAck:
    (number,) = f
    return ReceiptAck(uint(number, MAX_COUNT))


def _decode_answers(f: Fields) -> Answers:
    number, origin, epoch, sequence, answers = f
    message_id = decode_message_id(origin, epoch, sequence)
    return Answers(uint(number, MAX_COUNT), message_id, decode_answers(answers))


def _decode_answer_ack(f: Fields) -> AnswerAck:
    (number,) = f
    return AnswerAck(uint(number, MAX_COUNT))


def _decode_answer_fetch(f: Fields) -> AnswerFetch:
    *message_id, index = f
    return AnswerFetch(decode_message_id(*message_id), uint(index, MAX_ANSWERS_PER_MEMBER - 1))


def _decode_state_digest(f: Fields) -> StateDigest:
    total, buckets = f
    if binary(buckets) and len(buckets) != STATE_BUCKETS * BUCKET_SUM_BYTES:
        raise ValueError("not a sum for each bucket")
    return StateDigest(binary(total, STATE_SUM_BYTES), buckets)


def _decode_state_heads(f: Fields) -> StateHeads:
    is_reply, covered, heads = f
    covered = binary(covered, STATE_BUCKETS // 8)
    return StateHeads(flag(is_reply), covered, decode_state_heads(heads))


def _decode_state_request(f: Fields) -> StateRequest:
    number, wants = f
    return StateRequest(uint(number, MAX_COUNT), decode_state_wants(wants))


def _decode_state_delta(f: Fields) -> StateDelta:
    number, is_last, copies = f
    return StateDelta(uint(number, MAX_COUNT), flag(is_last), decode_rumor_copies(copies))


def _decode_offer(f: Fields) -> Offer:
    (streams,) = f
    return Offer(decode_stream_ids(streams))


def _decode_announce(f: Fields) -> Announce:
    entry, size_bytes = f
    ids = decode_range(entry)
    if not 1 <= ids.first <= ids.last:
        raise ValueError("empty range")
    return Announce(ids, uint(size_bytes, MAX_COUNT) or reject_zero())


def _decode_announce_topic(f: Fields) -> AnnounceTopic:
    *header, has_body = f
    return AnnounceTopic(decode_header(tuple(header)), flag(has_body))


def _decode_subscribe(f: Fields) -> Subscribe:
    (is_subscribed,) = f
    return Subscribe(flag(is_subscribed))


def _decode_graft(f: Fields) -> Graft:
    (origin,) = f
    return Graft(decode_tree_origin(origin))


def _decode_prune(f: Fields) -> Prune:
    (origin,) = f
    return Prune(decode_tree_origin(origin))


def _decode_pause(f: Fields) -> Pause:
    (duration_ms,) = f
    return Pause(uint(duration_ms, MAX_COUNT))


def _decode_observed_address(f: Fields) -> ObservedAddress:
    return ObservedAddress(decode_address(f))


def _decode_introduce(f: Fields) -> Introduce:
    subject, is_transient = f
    return Introduce(PeerId(binary(subject, PEER_ID_BYTES)), flag(is_transient))


def _decode_introduction(f: Fields) -> Introduction:
    record, address, is_transient = f
    return Introduction(decode_record(record), decode_address(address), flag(is_transient))


def _decode_relayed(f: Fields) -> Relayed:
    is_forwarded, mark, datagram = f
    return Relayed(flag(is_forwarded), binary(mark, RELAY_MARK_BYTES), binary(datagram))


def _decode_confirm(f: Fields) -> Confirm:
    () = f
    return Confirm()


def _decode_neighbor_request(f: Fields) -> NeighborRequest:
    () = f
    return NeighborRequest()


def _decode_swap_request(f: Fields) -> SwapRequest:
    (swap_for,) = decode_records(f)
    return SwapRequest(swap_for)


def _decode_open_transient(f: Fields) -> OpenTransient:
    () = f
    return OpenTransient()


def _decode_close(f: Fields) -> Close:
    reason, records = f
    return Close(CloseReason(uint(reason, max(CloseReason))), decode_records(records))


MESSAGE_DECODERS: Final[dict[int, Callable[[Fields], OverlayMessage | Frame]]] = {
    Kind.CONFIRM: _decode_confirm,
    Kind.NEIGHBOR_REQUEST: _decode_neighbor_request,
    Kind.SWAP_REQUEST: _decode_swap_request,
    Kind.OPEN_TRANSIENT: _decode_open_transient,
    Kind.CLOSE: _decode_close,
    Kind.HEARTBEAT: _decode_heartbeat,
    Kind.RECORDS: _decode_records,
    Kind.RUMORS: _decode_rumors,
    Kind.DIRECT_MESSAGE: _decode_direct_message,
    Kind.DIRECT_RECEIPT: _decode_direct_receipt,
    Kind.DIGEST: _decode_digest,
    Kind.IN_SYNC: _decode_in_sync,
    Kind.VECTOR: _decode_vector,
    Kind.IWANT: _decode_iwant,
    Kind.REPAIR: _decode_repair,
    Kind.IHAVE: _decode_ihave,
    Kind.PING: _decode_ping,
    Kind.PING_REQ: _decode_ping_req,
    Kind.PING_ACK: _decode_ping_ack,
    Kind.MEMBER_UPDATES: _decode_member_updates,
    Kind.MEMBER_DIGEST: _decode_member_digest,
    Kind.RECEIPTS: _decode_receipts,
    Kind.RECEIPT_ACK: _decode_receipt_ack,
    Kind.ANSWERS: _decode_answers,
    Kind.ANSWER_ACK: _decode_answer_ack,
    Kind.ANSWER_FETCH: _decode_answer_fetch,
    Kind.STATE_DIGEST: _decode_state_digest,
    Kind.STATE_HEADS: _decode_state_heads,
    Kind.STATE_REQUEST: _decode_state_request,
    Kind.STATE_DELTA: _decode_state_delta,
    Kind.OFFER: _decode_offer,
    Kind.ANNOUNCE: _decode_announce,
    Kind.ANNOUNCE_TOPIC: _decode_announce_topic,
    Kind.SUBSCRIBE: _decode_subscribe,
    Kind.GRAFT: _decode_graft,
    Kind.PRUNE: _decode_prune,
    Kind.PAUSE: _decode_pause,
    Kind.OBSERVED_ADDRESS: _decode_observed_address,
    Kind.INTRODUCE: _decode_introduce,
    Kind.INTRODUCTION: _decode_introduction,
    Kind.RELAYED: _decode_relayed,
}


RECORD_KINDS: Final = frozenset(
    {
        Kind.CLOSE,
        Kind.HEARTBEAT,
        Kind.RECORDS,
        Kind.PING,
        Kind.MEMBER_UPDATES,
        Kind.SWAP_REQUEST,
        Kind.INTRODUCTION,
    }
)
# Decoding and verifying a record is expensive, so one token must not pay for many. Messages with records of
# an honest node fit one datagram.
MAX_RECORD_MESSAGE_BYTES: Final = 2048


def decode_message(plaintext: bytes) -> OverlayMessage | Frame:
    """Returns the message or frame in `plaintext`. Raises Dropped: UNKNOWN_KIND or MALFORMED."""
    decoder = MESSAGE_DECODERS.get(plaintext[0]) if plaintext else None
    if decoder is None:
        raise Dropped(DropReason.UNKNOWN_KIND)
    if len(plaintext) > MAX_RECORD_MESSAGE_BYTES and plaintext[0] in RECORD_KINDS:
        raise Dropped(DropReason.MALFORMED)
    try:
        return decoder(unpack(plaintext[1:]))
    except UNPACK_ERRORS:
        raise Dropped(DropReason.MALFORMED) from None
