"""What links say to each other: fixed layouts, for they go and come by the thousand.

What must stay true:

- `decode_frame` takes any bytes at all and either returns one frame of the right shape or raises
  `Refused`; nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from grapevine_proto.codec.fields import (
    MAX_COUNT,
)
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.messages import (
    Again,
    Feedback,
    Fragment,
    Kind,
    LinkFrame,
    PathAnswer,
    PathCheck,
    Probe,
)

_FRAGMENT = struct.Struct(">BQII")
_AGAIN = struct.Struct(">B8sI")
_FEEDBACK = struct.Struct(">B8sIIIIB")
_RANGE = struct.Struct(">II")
_PROBE_PADDING: Final = bytes(1 << 16)

FRAGMENT_OVERHEAD: Final = _FRAGMENT.size
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
    decoder = FRAME_DECODERS.get(plaintext[0]) if plaintext else None
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


FRAME_DECODERS: Final[dict[int, Callable[[bytes], LinkFrame]]] = {
    Kind.FRAGMENT: _fragment,
    Kind.REPAIR_FRAGMENT: _fragment,
    Kind.AGAIN: _again,
    Kind.FEEDBACK: _feedback,
    Kind.PROBE: _probe,
    Kind.PATH_CHECK: lambda plaintext: PathCheck(_token(plaintext)),
    Kind.PATH_ANSWER: lambda plaintext: PathAnswer(_token(plaintext)),
}
