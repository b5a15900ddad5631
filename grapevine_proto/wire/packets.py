"""Packet layouts: fixed, big-endian headers in front of encrypted content.

Invariants:

- `decode_packet` accepts arbitrary bytes and returns one packet or raises `Dropped`, at a cost bounded by
  their length: it is the first code that reads data from unauthenticated peers.
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

BASE_DATAGRAM_BYTES: Final = 1200  # every IPv6 path carries it (RFC 8200, section 5)

_HELLO = struct.Struct(">B4s8s32s")
_CHALLENGE = struct.Struct(">B8sB32s")
_PROOF = struct.Struct(">B4s8s32sB32s")
_WELCOME = struct.Struct(">B8s32s8s")
_DATA = struct.Struct(">B8sQ")

HELLO_BYTES: Final = _HELLO.size + MAC_BYTES
CHALLENGE_BYTES: Final = _CHALLENGE.size + MAC_BYTES
DATA_OVERHEAD_BYTES: Final = _DATA.size + BOX_TAG_BYTES
BASE_PLAINTEXT_BYTES: Final = BASE_DATAGRAM_BYTES - DATA_OVERHEAD_BYTES
# Far below the limit of the cipher. One less than four bytes can count, because an Ack names the number
# after the highest.
MAX_PACKETS_PER_SESSION: Final = (1 << 32) - 1


class Hello(NamedTuple):
    """Starts a handshake: supported versions and an ephemeral X25519 key."""

    versions: bytes  # one byte each, padded with zeros
    session_id: bytes
    ephemeral: bytes


class Challenge(NamedTuple):
    """Address validation: the initiator must return the cookie."""

    session_id: bytes
    version: int
    cookie: bytes


class Proof(NamedTuple):
    """The Hello again, the cookie, and the initiator's sealed credentials."""

    hello: Hello
    version: int
    cookie: bytes
    box: bytes


class Welcome(NamedTuple):
    """The responder's ephemeral key, session ID and sealed credentials."""

    session_id: bytes
    ephemeral: bytes
    our_session_id: bytes
    box: bytes


class Data(NamedTuple):
    """A packet of a session; `session_id` is the receiver's."""

    session_id: bytes
    counter: int
    box: bytes


Packet: TypeAlias = Hello | Challenge | Proof | Welcome | Data


def encode_packet(packet: Packet) -> bytes:
    """Returns the bytes of `packet`; a handshake packet still lacks its MAC at the end."""
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
    """Returns the bytes of a Data packet from its fields: the fast path of `encode_packet`."""
    return _DATA.pack(DATA, session_id, counter) + box


def decode_packet(datagram: bytes) -> Packet:
    """Returns the packet in `datagram`. The caller checks the MAC of a handshake packet. Raises Dropped."""
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
