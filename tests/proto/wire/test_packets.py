"""Packets: documented layouts, and lengths that leave no field short."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.wire.packets import (
    BASE_PLAINTEXT_BYTES,
    BOX_TAG_BYTES,
    CHALLENGE_BYTES,
    DATA_OVERHEAD_BYTES,
    EPHEMERAL_BYTES,
    HELLO_BYTES,
    MAX_PACKETS_PER_SESSION,
    MAX_VERSIONS,
    SESSION_ID_BYTES,
    VERSION,
    Challenge,
    Data,
    Hello,
    Packet,
    Proof,
    Welcome,
    decode_packet,
    encode_packet,
)

SESSION = bytes(range(1, SESSION_ID_BYTES + 1))
OTHER = bytes(range(11, SESSION_ID_BYTES + 11))
EPHEMERAL = bytes(range(101, EPHEMERAL_BYTES + 101))
COOKIE = bytes(range(201, 233))
HELLO = Hello(b"\1\2\0\0", SESSION, EPHEMERAL)
MAC = bytes(16)

LAYOUTS: list[tuple[Packet, bytes]] = [
    (HELLO, b"\1" + b"\1\2\0\0" + SESSION + EPHEMERAL),
    (Challenge(SESSION, 1, COOKIE), b"\2" + SESSION + b"\1" + COOKIE),
    (
        Proof(HELLO, 1, COOKIE, b"box"),
        b"\3" + b"\1\2\0\0" + SESSION + EPHEMERAL + b"\1" + COOKIE + b"box",
    ),
    (Welcome(SESSION, EPHEMERAL, OTHER, b"box"), b"\4" + SESSION + EPHEMERAL + OTHER + b"box"),
]
DATA = Data(SESSION, 0x0102030405, bytes(17))


@pytest.mark.parametrize(("packet", "layout"), LAYOUTS)
def test_a_handshake_packet_is_its_fields_and_a_mac(packet: Packet, layout: bytes) -> None:
    assert encode_packet(packet) == layout
    assert decode_packet(layout + MAC) == packet


@pytest.mark.parametrize(("packet", "layout"), LAYOUTS)
def test_a_handshake_packet_that_lacks_a_byte_is_too_short(packet: Packet, layout: bytes) -> None:
    fixed = layout.removesuffix(b"box")
    for size in (1, len(MAC), len(fixed) - 1, len(fixed) + len(MAC) - 1):
        with pytest.raises(Dropped) as dropped:
            decode_packet((fixed + MAC)[:size])
        assert dropped.value.reason is DropReason.TOO_SHORT


def test_a_data_packet_is_a_session_a_counter_and_a_box_with_content() -> None:
    encoded = b"\5" + SESSION + bytes((0, 0, 0, 1, 2, 3, 4, 5)) + bytes(17)
    assert encode_packet(DATA) == encoded
    assert decode_packet(encoded) == DATA
    for size in (0, 1, len(encoded) - 1):
        with pytest.raises(Dropped) as dropped:
            decode_packet(encoded[:size])
        assert dropped.value.reason is DropReason.TOO_SHORT


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_other_kinds_are_unknown(kind: int) -> None:
    with pytest.raises(Dropped) as dropped:
        decode_packet(bytes((kind,)) + bytes(1000))
    assert dropped.value.reason is DropReason.UNKNOWN_TYPE


def test_sizes_follow_from_the_layouts() -> None:
    assert len(encode_packet(LAYOUTS[0][0]) + MAC) == HELLO_BYTES
    assert len(encode_packet(LAYOUTS[1][0]) + MAC) == CHALLENGE_BYTES
    assert len(encode_packet(Data(SESSION, 1, MAC))) == DATA_OVERHEAD_BYTES
    assert DATA_OVERHEAD_BYTES + BASE_PLAINTEXT_BYTES == 1200
    assert (MAX_PACKETS_PER_SESSION + 1).bit_length() == 33
    assert MAX_PACKETS_PER_SESSION.to_bytes(4, "big") == b"\xff" * 4


def test_versions_and_fields_have_their_documented_numbers() -> None:
    assert (VERSION, MAX_VERSIONS) == (1, 4)
    assert (SESSION_ID_BYTES, EPHEMERAL_BYTES, BOX_TAG_BYTES) == (8, 32, 16)
    assert (HELLO_BYTES, CHALLENGE_BYTES, DATA_OVERHEAD_BYTES) == (61, 58, 33)
