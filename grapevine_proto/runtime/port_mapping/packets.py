"""The packets of NAT-PMP (RFC 6886) and PCP (RFC 6887, the opcode MAP), for UDP over IPv4.

Invariants:

- Pure: bytes in, values out. What is no answer of the protocol raises ValueError, whatever it is.
- A PCP answer counts only with the nonce of its request, which nobody off the path has seen.
"""

from __future__ import annotations

import ipaddress
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from grapevine_proto.ids import Address

SERVER_PORT: Final = 5351
NAT_PMP_VERSION: Final = 0
PCP_VERSION: Final = 2
PCP_NONCE_BYTES: Final = 12
MAX_PACKET_BYTES: Final = 1100  # of PCP

_IS_RESPONSE: Final = 0x80
_UDP: Final = 17  # IP protocol number
_UNSUPPORTED_VERSION: Final = 1  # of both protocols

_ADDRESS_REQUEST: Final = struct.Struct(">BB")
_ADDRESS_RESPONSE: Final = struct.Struct(">BBHI4s")
_MAP_REQUEST: Final = struct.Struct(">BBHHHI")
_MAP_RESPONSE: Final = struct.Struct(">BBHIHHI")
_RESPONSE_HEAD: Final = struct.Struct(">BBHI")
_PCP_REQUEST: Final = struct.Struct(">BB2xI16s12sB3xHH16s")
_PCP_RESPONSE: Final = struct.Struct(">4xII12x12sB3xHH16s")

_NAT_PMP_ERRORS: Final = {
    2: "not authorized: port mapping is off in the gateway",
    3: "the gateway has no address itself",
    4: "the gateway has no room for another mapping",
    5: "the gateway does not map UDP",
}
_PCP_ERRORS: Final = {
    2: "not authorized: port mapping is off in the gateway",
    3: "the gateway rejected the request as malformed",
    4: "the gateway maps no ports",
    7: "the gateway has no address itself",
    8: "the gateway has no room for another mapping",
    9: "the gateway does not map UDP",
    10: "this machine has too many mappings",
    11: "the gateway cannot give the external port",
    12: "another NAT stands between this machine and the gateway",
}


class Opcode(IntEnum):
    """Operations. PCP numbers MAP as NAT-PMP numbers a UDP mapping."""

    ADDRESS = 0
    MAP = 1


class UnsupportedVersion(Exception):
    """The gateway does not speak the protocol of the request."""


class Refused(Exception):
    """The gateway refused a request; the text says why, for people."""


class ExternalHost(NamedTuple):
    """Answer to `encode_address_request`. `epoch_s`: seconds since the gateway lost or reset its mappings."""

    epoch_s: int
    host: str


class MappedPort(NamedTuple):
    """Answer to a request to map a port. NAT-PMP does not say which `external_host` it is mapped at: it is
    empty. `lifetime_s` of 0: there is no mapping any more."""

    epoch_s: int
    external_host: str
    external_port: int
    lifetime_s: int


# --- NAT-PMP --------------------------------------------------------------------------------------


def encode_address_request() -> bytes:
    """Asks for the external address of the gateway."""
    return _ADDRESS_REQUEST.pack(NAT_PMP_VERSION, Opcode.ADDRESS)


def encode_map_request(port: int, external_port: int, lifetime_s: int) -> bytes:
    """Asks to map UDP `port`, preferably to `external_port` (0: any). A lifetime of 0 ends the mapping."""
    return _MAP_REQUEST.pack(NAT_PMP_VERSION, Opcode.MAP, 0, port, external_port, lifetime_s)


def decode_address(datagram: bytes) -> ExternalHost:
    """Raises ValueError, Refused or UnsupportedVersion."""
    _check_response(datagram, Opcode.ADDRESS, _ADDRESS_RESPONSE.size)
    _, _, _, epoch_s, host = _ADDRESS_RESPONSE.unpack_from(datagram)
    return ExternalHost(epoch_s, str(ipaddress.IPv4Address(host)))


def decode_mapped(datagram: bytes, port: int) -> MappedPort:
    """Decodes an answer for UDP `port`. Raises ValueError, Refused or UnsupportedVersion."""
    _check_response(datagram, Opcode.MAP, _MAP_RESPONSE.size)
    _, _, _, epoch_s, internal, external, lifetime_s = _MAP_RESPONSE.unpack_from(datagram)
    if internal != port or (lifetime_s and not external):
        raise ValueError("an answer about another port")
    return MappedPort(epoch_s, "", external, lifetime_s)


def _check_response(datagram: bytes, opcode: Opcode, size: int) -> None:
    if len(datagram) < _RESPONSE_HEAD.size or len(datagram) > MAX_PACKET_BYTES:
        raise ValueError("no NAT-PMP answer")
    version, answered, result, _ = _RESPONSE_HEAD.unpack_from(datagram)
    if not answered & _IS_RESPONSE:
        raise ValueError("no NAT-PMP answer")
    if result == _UNSUPPORTED_VERSION:
        raise UnsupportedVersion
    if version != NAT_PMP_VERSION or answered != _IS_RESPONSE | opcode:
        raise ValueError("another NAT-PMP answer")
    if result:
        raise Refused(_NAT_PMP_ERRORS.get(result, f"the gateway answers with error {result}"))
    if len(datagram) < size:
        raise ValueError("a NAT-PMP answer that is too short")


# --- PCP ------------------------------------------------------------------------------------------


def encode_pcp_request(
    nonce: bytes, own: Address, external_host: str, external_port: int, lifetime_s: int
) -> bytes:
    """Asks to map the UDP address `own` of the sender, preferably to the external address (empty and 0: any).
    Renewals have the `nonce` of the first request. A lifetime of 0 ends the mapping."""
    return _PCP_REQUEST.pack(
        PCP_VERSION,
        Opcode.MAP,
        lifetime_s,
        _mapped_bytes(own.host),
        nonce,
        _UDP,
        own.port,
        external_port,
        _mapped_bytes(external_host or "0.0.0.0"),
    )


def decode_pcp(datagram: bytes, nonce: bytes, port: int) -> MappedPort:
    """Decodes an answer to the request with `nonce` for UDP `port`. Raises ValueError, Refused, or
    UnsupportedVersion, also for the answer of a gateway that only speaks NAT-PMP."""
    if len(datagram) < _RESPONSE_HEAD.size or len(datagram) > MAX_PACKET_BYTES:
        raise ValueError("no PCP answer")
    version, answered, _, result = datagram[:4]
    if version == NAT_PMP_VERSION and answered & _IS_RESPONSE:
        raise UnsupportedVersion
    if answered != _IS_RESPONSE | Opcode.MAP:
        raise ValueError("another PCP answer")
    if result == _UNSUPPORTED_VERSION:  # it names the version that the gateway speaks
        raise UnsupportedVersion
    if version != PCP_VERSION or len(datagram) < _PCP_RESPONSE.size:
        raise ValueError("no PCP answer")
    lifetime_s, epoch_s, echoed, protocol, internal, external, host = _PCP_RESPONSE.unpack_from(
        datagram
    )
    if (echoed, protocol, internal) != (nonce, _UDP, port):
        raise ValueError("an answer about another mapping")
    if result:
        raise Refused(_PCP_ERRORS.get(result, f"the gateway answers with error {result}"))
    external_host = ipaddress.IPv6Address(host).ipv4_mapped
    if external_host is None or (lifetime_s and not external):
        raise ValueError("no IPv4 address or no port")
    return MappedPort(epoch_s, str(external_host), external, lifetime_s)


def _mapped_bytes(host: str) -> bytes:
    """An IPv4 address as PCP has it: IPv4-mapped (RFC 6887, section 5)."""
    return b"\0" * 10 + b"\xff\xff" + ipaddress.IPv4Address(host).packed


class EpochClock:
    """Compares the clock of a gateway with ours: does it still have the mappings that it made (RFC 6886,
    section 3.6; RFC 6887, section 8.5)?"""

    def __init__(self) -> None:
        self._heard_at = self._epoch_s = 0.0
        self._is_set = False

    def is_reset(self, epoch_s: int, now: float) -> bool:
        """Takes the epoch of an answer; whether the gateway has lost its state since the one before."""
        elapsed_s, counted_s = now - self._heard_at, epoch_s - self._epoch_s
        was_set, self._is_set = self._is_set, True
        self._heard_at, self._epoch_s = now, epoch_s
        return was_set and (
            counted_s < -1
            or elapsed_s + 2 < counted_s - counted_s / 16
            or counted_s + 2 < elapsed_s - elapsed_s / 16
        )
