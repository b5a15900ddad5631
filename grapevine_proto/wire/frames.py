"""Link frames: fixed binary layouts, because links exchange thousands of them.

Invariants:

- `decode_frame` accepts arbitrary bytes and returns one valid frame or raises `Dropped`, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.wire.fields import MAX_COUNT
from grapevine_proto.wire.messages import (
    Ack,
    Fragment,
    Kind,
    LinkFrame,
    MtuProbe,
    PathChallenge,
    PathResponse,
    PiggybackedAck,
    Retransmit,
)

_FRAGMENT = struct.Struct(">BQII")
_RETRANSMIT = struct.Struct(">B8sI")
_ACK = struct.Struct(">B8sIIIIB")
_RANGE = struct.Struct(">II")
_PROBE_PADDING: Final = bytes(1 << 16)

FRAGMENT_OVERHEAD_BYTES: Final = _FRAGMENT.size
MAX_ACK_RANGES: Final = 64
ACK_BYTES: Final = _ACK.size  # without missing ranges
ACK_RANGE_BYTES: Final = _RANGE.size
PATH_TOKEN_BYTES: Final = 8


def fragment_header(number: int, total_bytes: int, offset: int, *, is_repair: bool) -> bytes:
    """Returns the header of a fragment, which precedes the bytes at `offset`."""
    kind = Kind.REPAIR_FRAGMENT if is_repair else Kind.FRAGMENT
    return _FRAGMENT.pack(kind, number, total_bytes, offset)


def encode_frame(frame: LinkFrame) -> bytes:
    """Returns the plaintext of a packet with `frame`."""
    match frame:
        case Fragment(number, total_bytes, offset, body, is_repair):
            return fragment_header(number, total_bytes, offset, is_repair=is_repair) + body
        case Retransmit(session_id, counter, plaintext):
            return _RETRANSMIT.pack(Kind.RETRANSMIT, session_id, counter) + plaintext
        case Ack():
            return _encode_ack(Kind.ACK, frame)
        case PiggybackedAck(ack, plaintext):
            return _encode_ack(Kind.PIGGYBACKED_ACK, ack) + plaintext
        case MtuProbe(padding):
            return bytes((Kind.MTU_PROBE,)) + _PROBE_PADDING[:padding]
        case PathChallenge(token):
            return bytes((Kind.PATH_CHALLENGE,)) + token
        case PathResponse(token):
            return bytes((Kind.PATH_RESPONSE,)) + token


def _encode_ack(kind: int, ack: Ack) -> bytes:
    delay_us, missing = min(ack.delay_us, MAX_COUNT), ack.missing
    header = _ACK.pack(kind, ack.session_id, ack.first, ack.end, ack.latest, delay_us, len(missing))
    return header + b"".join(_RANGE.pack(*each) for each in missing)


def decode_frame(plaintext: bytes) -> LinkFrame:
    """Returns the link frame in `plaintext`. Raises Dropped: UNKNOWN_KIND or MALFORMED."""
    decoder = FRAME_DECODERS.get(plaintext[0]) if plaintext else None
    if decoder is None:
        raise Dropped(DropReason.UNKNOWN_KIND)
    try:
        return decoder(plaintext)
    except (struct.error, ValueError):
        raise Dropped(DropReason.MALFORMED) from None


def _decode_fragment(plaintext: bytes) -> Fragment:
    kind, number, total_bytes, offset = _FRAGMENT.unpack_from(plaintext)
    body = plaintext[_FRAGMENT.size :]
    if not body or offset + len(body) > total_bytes:
        raise ValueError("empty fragment, or beyond the end of the message")
    return Fragment(number, total_bytes, offset, body, kind == Kind.REPAIR_FRAGMENT)


def _decode_retransmit(plaintext: bytes) -> Retransmit:
    _, session_id, counter = _RETRANSMIT.unpack_from(plaintext)
    body = plaintext[_RETRANSMIT.size :]
    if not body:
        raise ValueError("empty retransmission")
    return Retransmit(session_id, counter, body)


def _decode_ack(plaintext: bytes) -> Ack:
    ack, message = _split_ack(plaintext)
    if message:
        raise ValueError("bytes after the ranges")
    return ack


def _decode_piggybacked_ack(plaintext: bytes) -> PiggybackedAck:
    ack, message = _split_ack(plaintext)
    if not message or message[0] == Kind.PIGGYBACKED_ACK:
        raise ValueError("an ACK without a message, or two of them")
    return PiggybackedAck(ack, message)


def _split_ack(plaintext: bytes) -> tuple[Ack, bytes]:
    """Returns the ACK at the beginning of `plaintext`, and what follows."""
    _, session_id, first, end, latest, delay_us, count = _ACK.unpack_from(plaintext)
    stop = _ACK.size + count * _RANGE.size
    if count > MAX_ACK_RANGES or len(plaintext) < stop:
        raise ValueError("wrong number of ranges")
    missing = tuple(_RANGE.iter_unpack(plaintext[_ACK.size : stop]))
    previous = first - 1
    for low, high in missing:
        if not previous < low <= high < end:
            raise ValueError("ranges out of order")
        previous = high
    return Ack(session_id, first, end, latest, delay_us, missing), plaintext[stop:]


def _decode_mtu_probe(plaintext: bytes) -> MtuProbe:
    return MtuProbe(len(plaintext) - 1)


def _decode_token(plaintext: bytes) -> bytes:
    if len(plaintext) != 1 + PATH_TOKEN_BYTES:
        raise ValueError("token of the wrong length")
    return plaintext[1:]


FRAME_DECODERS: Final[dict[int, Callable[[bytes], LinkFrame]]] = {
    Kind.FRAGMENT: _decode_fragment,
    Kind.REPAIR_FRAGMENT: _decode_fragment,
    Kind.RETRANSMIT: _decode_retransmit,
    Kind.ACK: _decode_ack,
    Kind.PIGGYBACKED_ACK: _decode_piggybacked_ack,
    Kind.MTU_PROBE: _decode_mtu_probe,
    Kind.PATH_CHALLENGE: lambda plaintext: PathChallenge(_decode_token(plaintext)),
    Kind.PATH_RESPONSE: lambda plaintext: PathResponse(_decode_token(plaintext)),
}
