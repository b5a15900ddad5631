"""Addresses of this machine that other nodes can dial.

Invariants:

- A result is valid at the time of the call, and a call is cheap: a route lookup and, only without a
  default route, a query of each interface. Nothing is sent.
- A loopback address is returned only if there is no other.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple

ROUTE_PROBE_ADDRESS: Final = {
    socket.AF_INET: ("192.0.2.1", 9),  # documentation addresses (RFC 5737, RFC 3849);
    socket.AF_INET6: ("2001:db8::1", 9),  # a route lookup sends nothing to them
}
LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
MAX_ADDRESSES: Final = 4  # in a PeerRecord

_IS_LINUX: Final = sys.platform == "linux"
_GET_FLAGS: Final = 0x8913 if _IS_LINUX else 0xC0206911  # SIOCGIFFLAGS (netdevice(7); Darwin, BSD)
_GET_ADDRESS: Final = 0x8915 if _IS_LINUX else 0xC0206921  # SIOCGIFADDR
_IS_UP: Final = 0x1
_IS_LOOPBACK: Final = 0x8
_UNUSABLE_FLAGS: Final = 0x68  # IPv6: tentative, deprecated, or a duplicate (linux/if_addr.h)


class _InterfaceAddress(NamedTuple):
    """An address of an interface. Addresses that are more likely to be reachable sort first."""

    is_link_local: bool
    is_ipv6: bool
    is_virtual: bool  # of a bridge, a container or a tunnel
    interface_index: int
    host: str


def dialable_hosts(host: str, family: socket.AddressFamily | int) -> tuple[str, ...]:
    """Returns the addresses to dial for a socket of `family` bound to `host`, the most likely one first.

    For a wildcard: the source address of the default route, of IPv6 and of IPv4 if the socket has both;
    without one, the addresses of all interfaces that are up; without any, loopback.
    """
    if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        return (host.partition("%")[0],)  # a scope is local to this machine
    address_family = socket.AddressFamily(family)
    families = tuple(
        dict.fromkeys((address_family, socket.AF_INET))
    )  # an IPv6 socket accepts IPv4 too
    routed: list[str] = []
    for each in families:
        with contextlib.suppress(OSError), socket.socket(each, socket.SOCK_DGRAM) as probe:
            probe.connect(ROUTE_PROBE_ADDRESS[each])
            routed.append(str(probe.getsockname()[0]))
    if routed:
        return tuple(routed)
    addresses = sorted(
        _ipv4_addresses() + (_ipv6_addresses() if address_family == socket.AF_INET6 else [])
    )
    return tuple(each.host for each in addresses[:MAX_ADDRESSES]) or (LOOPBACK[address_family],)


def _ipv4_addresses() -> list[_InterfaceAddress]:
    """Returns the first IPv4 address of each interface that is up."""
    addresses: list[_InterfaceAddress] = []
    try:
        from fcntl import ioctl
    except ImportError:  # Windows
        return addresses
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index, name in socket.if_nameindex():
            request = struct.pack("16s24x", name.encode()[:15])
            with contextlib.suppress(OSError):  # the interface has no address or no longer exists
                (flags,) = struct.unpack_from("=H", ioctl(sock, _GET_FLAGS, request), 16)
                if flags & _IS_LOOPBACK or not flags & _IS_UP:
                    continue
                raw = ioctl(sock, _GET_ADDRESS, request)[20:24]
                address = ipaddress.IPv4Address(raw)
                if not address.is_unspecified:
                    is_local = address.is_link_local
                    addresses.append(
                        _InterfaceAddress(is_local, False, _is_virtual(name), index, str(address))
                    )
    return addresses


def _ipv6_addresses() -> list[_InterfaceAddress]:
    """Returns the usable IPv6 addresses on Linux; empty elsewhere."""
    addresses: list[_InterfaceAddress] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            digits, index, _, _, flags, name = line.split()
            address = ipaddress.IPv6Address(bytes.fromhex(digits))
            if address.is_loopback or int(flags, 16) & _UNUSABLE_FLAGS:
                continue
            addresses.append(
                _InterfaceAddress(
                    address.is_link_local, True, _is_virtual(name), int(index, 16), str(address)
                )
            )
    return addresses


def _is_virtual(name: str) -> bool:
    return _IS_LINUX and not Path(f"/sys/class/net/{name}/device").exists()
