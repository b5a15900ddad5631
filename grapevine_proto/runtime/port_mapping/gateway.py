"""Asks the default gateway to map a port, by PCP or NAT-PMP.

Invariants:

- One socket per exchange, connected to the gateway: the system drops datagrams of anyone else.
- An exchange ends within the sum of `waits_s` whatever the gateway answers. What is no answer is counted,
  and the wait goes on; at most `MAX_ANSWERS` are looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping import packets
from grapevine_proto.runtime.port_mapping.packets import EpochClock, MappedPort, UnsupportedVersion

# After each request of the same, as RFC 6886, section 3.1, but only four: the next attempt follows anyway.
RETRANSMISSIONS_S: Final = (0.25, 0.5, 1.0, 2.0)
MAX_ANSWERS: Final = 64
ROUTES: Final = Path("/proc/net/route")
ROUTE_COMMAND: Final = ("/sbin/route", "-n", "get", "default")  # of macOS and the BSDs
ROUTE_COMMAND_S: Final = 2.0
_IS_LINUX: Final = sys.platform == "linux"
_IS_GATEWAY: Final = 0x2  # RTF_GATEWAY

_T = TypeVar("_T")


class NoAnswer(Exception):
    """Nobody answers there; the text is for people."""


class Mapping(NamedTuple):
    """A port of the gateway that leads here. `was_reset`: the gateway lost its mappings since it was asked
    last, and has just made this one again."""

    address: Address
    lifetime_s: float
    protocol: str
    was_reset: bool = False


class GatewayPort:
    """One port of this machine that a gateway maps, by PCP or else by NAT-PMP.

    Args:
        now: monotonic seconds.
        gateway: where the gateway listens.
        own: the address of this machine to map. Requests come from its host, which is the one that a gateway
            maps.
        waits_s: how long to wait for an answer after each request of the same.
    """

    def __init__(
        self,
        now: Callable[[], float],
        gateway: Address,
        own: Address,
        waits_s: tuple[float, ...] = RETRANSMISSIONS_S,
    ) -> None:
        self.gateway = gateway
        self.own = own
        self._waits_s = waits_s
        self.ignored = 0  # datagrams that were no answer
        self._now = now
        self._nonce = os.urandom(packets.PCP_NONCE_BYTES)
        self._epoch = EpochClock()
        self._speaks_pcp = True

    async def map(self, wanted: Address | None, lifetime_s: int) -> Mapping:
        """Maps the port, or renews the mapping. `wanted`: the external address that it had, or should have.
        The lifetime of the result is at most `lifetime_s`.

        Raises NoAnswer or packets.Refused.
        """
        if self._speaks_pcp:
            # Old gateways say nothing to a version that they do not know.
            with contextlib.suppress(UnsupportedVersion, NoAnswer):
                mapped = await self._map_by_pcp(wanted, lifetime_s)
                return self._to_mapping(mapped, lifetime_s, "PCP")
        try:
            mapping = await self._map_by_nat_pmp(wanted, lifetime_s)
        except (UnsupportedVersion, NoAnswer) as error:
            self._speaks_pcp = True
            if isinstance(error, NoAnswer):
                raise
            raise NoAnswer("the gateway speaks neither PCP nor NAT-PMP") from None
        self._speaks_pcp = False
        return mapping

    async def remove(self, timeout_s: float) -> None:
        """Ends the mapping, with one request. Raises NoAnswer, packets.Refused or UnsupportedVersion."""
        if self._speaks_pcp:
            await self._map_by_pcp(None, 0, (timeout_s,))
        else:
            request = packets.encode_map_request(self.own.port, 0, 0)
            await self._exchange(request, self._decode_mapped, (timeout_s,))

    async def _map_by_pcp(
        self,
        wanted: Address | None,
        lifetime_s: int,
        waits_s: tuple[float, ...] = (),
    ) -> MappedPort:
        host, port = ("", 0) if wanted is None else wanted
        request = packets.encode_pcp_request(self._nonce, self.own, host, port, lifetime_s)

        def decode(datagram: bytes) -> MappedPort:
            return packets.decode_pcp(datagram, self._nonce, self.own.port)

        return await self._exchange(request, decode, waits_s)

    async def _map_by_nat_pmp(self, wanted: Address | None, lifetime_s: int) -> Mapping:
        external = await self._exchange(packets.encode_address_request(), packets.decode_address)
        port = self.own.port if wanted is None else wanted.port
        request = packets.encode_map_request(self.own.port, port, lifetime_s)
        mapped = await self._exchange(request, self._decode_mapped)
        mapped = mapped._replace(external_host=external.host)
        return self._to_mapping(mapped, lifetime_s, "NAT-PMP")

    def _decode_mapped(self, datagram: bytes) -> MappedPort:
        return packets.decode_mapped(datagram, self.own.port)

    def _to_mapping(self, mapped: MappedPort, longest_s: int, protocol: str) -> Mapping:
        was_reset = self._epoch.is_reset(mapped.epoch_s, self._now())
        if not mapped.lifetime_s:
            raise packets.Refused("the gateway granted no time")
        address = Address(mapped.external_host, mapped.external_port)
        return Mapping(address, min(mapped.lifetime_s, longest_s), protocol, was_reset)

    async def _exchange(
        self,
        request: bytes,
        decode: Callable[[bytes], _T],
        waits_s: tuple[float, ...] = (),
    ) -> _T:
        """Sends `request` until `decode` accepts an answer. Raises NoAnswer, or what `decode` raises besides
        ValueError."""
        loop = asyncio.get_running_loop()
        answers = 0
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.bind((self.own.host, 0))
                sock.connect(self.gateway)
                for wait_s in waits_s or self._waits_s:
                    await loop.sock_sendall(sock, request)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            while answers < MAX_ANSWERS:
                                answers += 1
                                datagram = await loop.sock_recv(sock, packets.MAX_PACKET_BYTES + 1)
                                try:
                                    return decode(datagram)
                                except ValueError:
                                    self.ignored += 1
        except OSError as error:  # also an ICMP message: nobody listens there
            raise NoAnswer(f"the gateway {self.gateway.host}: {error.strerror or error}") from None
        raise NoAnswer(f"the gateway {self.gateway.host} does not answer")


async def default_gateway() -> Address | None:
    """Where the gateway of the IPv4 default route listens; None: there is no such route, or this system does
    not say."""
    if _IS_LINUX:
        with contextlib.suppress(OSError):
            return parse_routes(ROUTES.read_text(encoding="ascii", errors="replace"))
        return None
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        process = await asyncio.create_subprocess_exec(
            *ROUTE_COMMAND, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(ROUTE_COMMAND_S):
                output, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for line in output.decode(errors="replace").splitlines():
            name, _, value = line.strip().partition(":")
            if name == "gateway":
                return Address.parse(f"{value.strip()}:{packets.SERVER_PORT}")
    return None


def parse_routes(text: str) -> Address | None:
    """The gateway of the default route with the lowest metric in a ``/proc/net/route``."""
    found: list[tuple[int, Address]] = []
    for line in text.splitlines()[1:]:
        columns = line.split()
        try:
            destination, gateway, flags = (int(each, 16) for each in columns[1:4])
            metric, mask = int(columns[6]), int(columns[7], 16)
            host = socket.inet_ntoa(gateway.to_bytes(4, sys.byteorder))
        except (ValueError, IndexError, OverflowError):
            continue
        if not destination and not mask and flags & _IS_GATEWAY:
            found.append((metric, Address(host, packets.SERVER_PORT)))
    return min(found)[1] if found else None
