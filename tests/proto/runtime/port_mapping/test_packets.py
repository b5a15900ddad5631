"""Packets of NAT-PMP and PCP: the bytes of the RFCs, and what is no answer."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping import packets
from grapevine_proto.runtime.port_mapping.packets import (
    EpochClock,
    ExternalHost,
    MappedPort,
    Refused,
    UnsupportedVersion,
)

NONCE = bytes(range(12))
PORT = 8000
ADDRESS_ANSWER = bytes.fromhex("00 80 0000 00000e10 cb007107")
MAP_ANSWER = bytes.fromhex("00 81 0000 00000e10 1f40 2328 00000e10")
PCP_ANSWER = (
    bytes.fromhex("02 81 00 00 00000e10 00000064") + bytes(12) + NONCE
    + bytes.fromhex("11 000000 1f40 2328 00000000000000000000ffff cb007107")
)  # fmt: skip


def test_requests_have_the_bytes_of_the_rfcs() -> None:
    assert packets.encode_address_request() == b"\0\0"
    request = packets.encode_map_request(PORT, 9000, 3600)
    assert request == bytes.fromhex("00 01 0000 1f40 2328 00000e10")
    pcp = packets.encode_pcp_request(NONCE, Address("192.168.1.2", PORT), "", 9000, 3600)
    assert pcp == (
        bytes.fromhex("02 01 0000 00000e10 00000000000000000000ffff c0a80102") + NONCE
        + bytes.fromhex("11 000000 1f40 2328 00000000000000000000ffff 00000000")
    )  # fmt: skip
    assert len(pcp) == 60


def test_answers_are_decoded() -> None:
    assert packets.decode_address(ADDRESS_ANSWER) == ExternalHost(3600, "203.0.113.7")
    assert packets.decode_mapped(MAP_ANSWER, PORT) == MappedPort(3600, "", 9000, 3600)
    decoded = packets.decode_pcp(PCP_ANSWER, NONCE, PORT)
    assert decoded == MappedPort(100, "203.0.113.7", 9000, 3600)


def test_a_gateway_that_speaks_another_version_is_not_one_that_refuses() -> None:
    nat_pmp_only = bytes.fromhex("00 81 0001 00000e10")
    with pytest.raises(UnsupportedVersion):
        packets.decode_pcp(nat_pmp_only, NONCE, PORT)
    with pytest.raises(UnsupportedVersion):
        packets.decode_mapped(nat_pmp_only, PORT)
    with pytest.raises(Refused, match="not authorized"):
        packets.decode_mapped(bytes.fromhex("00 81 0002 00000e10"), PORT)
    with pytest.raises(UnsupportedVersion):  # it speaks version 1 of PCP
        packets.decode_pcp(bytes.fromhex("01 81 00 01 00000000 00000e10"), NONCE, PORT)
    refusal = PCP_ANSWER[:3] + b"\x0c" + PCP_ANSWER[4:]
    with pytest.raises(Refused, match="another NAT"):
        packets.decode_pcp(refusal, NONCE, PORT)
    with pytest.raises(Refused, match="error 77"):
        packets.decode_address(bytes.fromhex("00 80 004d 00000e10"))


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0" * 8,
        ADDRESS_ANSWER[:-1],
        MAP_ANSWER,
        b"\x05" + ADDRESS_ANSWER[1:],
        ADDRESS_ANSWER + bytes(packets.MAX_PACKET_BYTES),
    ],
)
def test_what_is_no_answer_about_the_address_is_an_error(datagram: bytes) -> None:
    with pytest.raises(ValueError, match=r"answer"):
        packets.decode_address(datagram)


@pytest.mark.parametrize("position", [8, 9, 10])
def test_an_answer_about_another_port_or_without_one_is_an_error(position: int) -> None:
    answer = bytearray(MAP_ANSWER)
    if position == 10:
        answer[10:12] = b"\0\0"
    else:
        answer[position] ^= 1
    with pytest.raises(ValueError, match="another port"):
        packets.decode_mapped(bytes(answer), PORT)


@pytest.mark.parametrize("position", [24, 35, 36, 40, 41, 53])
def test_a_pcp_answer_with_another_nonce_port_or_family_is_an_error(position: int) -> None:
    answer = bytearray(PCP_ANSWER)
    answer[position] ^= 1
    with pytest.raises(ValueError, match=r"another mapping|no IPv4"):
        packets.decode_pcp(bytes(answer), NONCE, PORT)


@given(st.binary(max_size=80))
def test_no_datagram_raises_anything_else(datagram: bytes) -> None:
    decoders = (
        packets.decode_address,
        lambda each: packets.decode_mapped(each, PORT),
        lambda each: packets.decode_pcp(each, NONCE, PORT),
    )
    for decode in decoders:
        for each in (datagram, b"\0\x80" + datagram, b"\0\x81" + datagram, b"\x02\x81" + datagram):
            with contextlib.suppress(ValueError, Refused, UnsupportedVersion):
                decode(each)


@pytest.mark.parametrize(
    ("epoch_s", "now", "is_reset"),
    [
        (1060, 60.0, False),
        (1058, 60.0, False),
        (1120, 120.0, False),
        (999, 0.5, False),  # the clocks are not read at once
        (3, 60.0, True),
        (998, 0.5, True),
        (1000, 60.0, True),
        (1200, 60.0, True),
    ],
)
def test_a_clock_that_does_not_keep_pace_was_reset(
    epoch_s: int, now: float, is_reset: bool
) -> None:
    clock = EpochClock()
    assert not clock.is_reset(1000, 0.0), "the first answer compares with nothing"
    assert clock.is_reset(epoch_s, now) is is_reset
