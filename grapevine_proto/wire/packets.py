"""Packets: fixed layouts, big-endian, of which the content alone is sealed.

What must stay true:

- `decode_packet` takes any bytes at all and either returns one packet or raises `Dropped`, at no cost
  beyond the bytes in hand: it is the first thing that looks at what a stranger sent.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

from grapevine_proto.crypto.identity import MAC_BYTES
from grapevine_proto.errors import Dropped, DropReason

HELLO: Final = 1
CHALLENGE: Final = 2
PROOF: Final = 3
WELCOME: Final = 4
DATA: Final = 5

VERSION: Final = 1
MAX_VERSIONS: Final = 4

SESSION_ID_BYTES: Final = 8
EPHEMERAL_BYTES: Final = 32
BOX_TAG_BYTES: Final = 16

BASE_DATAGRAM_BYTES: Final = (
    1200  # bytes; what crosses every path that carries IPv6 (RFC 8200, section 5)
)

_HELLO = struct.Struct(">B4s8s32s")
_CHALLENGE = struct.Struct(">B8sB32s")
_PROOF = struct.Struct(">B4s8s32sB32s")
_WELCOME = struct.Struct(">B8s32s8s")
_DATA = struct.Struct(">B8sQ")

HELLO_BYTES: Final = _HELLO.size + MAC_BYTES
CHALLENGE_BYTES: Final = _CHALLENGE.size + MAC_BYTES
DATA_OVERHEAD_BYTES: Final = _DATA.size + BOX_TAG_BYTES
BASE_PLAINTEXT_BYTES: Final = BASE_DATAGRAM_BYTES - DATA_OVERHEAD_BYTES
# Packets under one key, far below what the cipher bears; one less than four bytes count, because an
# acknowledgment names the number after the highest.
MAX_PACKETS_PER_SESSION: Final = (1 << 32) - 1


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
            return encode_data(session_id, counter, box)
        case Hello(versions, session_id, ephemeral):
            return _HELLO.pack(HELLO, versions, session_id, ephemeral)
        case Challenge(session_id, version, cookie):
            return _CHALLENGE.pack(CHALLENGE, session_id, version, cookie)
        case Proof(hello, version, cookie, box):
            return _PROOF.pack(PROOF, *hello, version, cookie) + box
        case Welcome(session_id, ephemeral, our_session_id, box):
            return _WELCOME.pack(WELCOME, session_id, ephemeral, our_session_id) + box


def encode_data(session_id: bytes, counter: int, box: bytes) -> bytes:
    """The same for the parts of `Data`, which most packets are."""
    return _DATA.pack(DATA, session_id, counter) + box


def decode_packet(datagram: bytes) -> Packet:
    """The packet in `datagram`, whose MAC (of a handshake packet) the caller checks. Raises Refused."""
    if not datagram:
        raise Dropped(DropReason.TOO_SHORT)
    kind, size = datagram[0], len(datagram)
    if kind == DATA:
        if size < DATA_OVERHEAD_BYTES + 1:
            raise Dropped(DropReason.TOO_SHORT)
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
        raise Dropped(DropReason.TOO_SHORT) from None
    raise Dropped(DropReason.UNKNOWN_TYPE)
