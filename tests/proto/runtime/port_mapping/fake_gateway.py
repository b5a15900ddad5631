"""A gateway that maps ports by NAT-PMP and PCP, for tests: on loopback, and in the lab as a router's.

It is written from the RFCs alone, with none of the packet code of the node.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grapevine_proto.ids import Address

EXTERNAL_HOST = "203.0.113.7"
MAPPED_PREFIX = bytes(10) + b"\xff\xff"


@dataclass
class FakeGateway(asyncio.DatagramProtocol):
    """`answers` changes or replaces each answer: what it returns is sent. `mapped`: external port to (host,
    internal port, lifetime); `on_map` is called for each change with (external port, host, internal port,
    lifetime)."""

    speaks_pcp: bool = True
    speaks_nat_pmp: bool = True
    external_host: str = EXTERNAL_HOST
    result: int = 0
    lifetime_s: int | None = None
    answers: Callable[[bytes], list[bytes]] = lambda answer: [answer]
    on_map: Callable[[int, str, int, int], None] = lambda *_: None
    requests: list[bytes] = field(default_factory=list)
    mapped: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    started_at: float = field(default_factory=time.monotonic)

    async def open(self, host: str = "127.0.0.1", port: int = 0) -> Address:
        """Listens; returns where."""
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(host, port)
        )
        return Address(*self.transport.get_extra_info("sockname"))

    def close(self) -> None:
        self.transport.close()

    def restart(self) -> None:
        """Loses all mappings, as after a reboot."""
        self.mapped.clear()
        self.started_at = time.monotonic()

    @property
    def epoch_s(self) -> int:
        return int(time.monotonic() - self.started_at)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.requests.append(data)
        version, opcode = data[0], data[1]
        if version == 2 and self.speaks_pcp:
            answer = self._pcp(data, addr[0])
        elif version == 0 and self.speaks_nat_pmp:
            answer = self._nat_pmp(data, addr[0])
        else:  # the version that it speaks, and the error 1
            answer = struct.pack(
                ">BBHI", 2 if self.speaks_pcp else 0, opcode | 0x80, 1, self.epoch_s
            )
        for each in self.answers(answer):
            self.transport.sendto(each, addr)

    def _nat_pmp(self, data: bytes, client: str) -> bytes:
        head = struct.pack(">BBHI", 0, data[1] | 0x80, self.result, self.epoch_s)
        if data[1] == 0:
            return head + ipaddress.IPv4Address(self.external_host).packed
        _, _, _, internal, external, lifetime = struct.unpack(">BBHHHI", data)
        external, lifetime = self._map(client, internal, external, lifetime)
        return head + struct.pack(">HHI", internal, external, lifetime)

    def _pcp(self, data: bytes, client: str) -> bytes:
        lifetime, address = struct.unpack_from(">I16s", data, 4)
        assert address == MAPPED_PREFIX + ipaddress.IPv4Address(client).packed
        nonce, protocol, internal, external, _ = struct.unpack_from(">12sB3xHH16s", data, 24)
        assert protocol == 17
        external, lifetime = self._map(client, internal, external, lifetime)
        head = struct.pack(">BBxBII12x", 2, data[1] | 0x80, self.result, lifetime, self.epoch_s)
        host = MAPPED_PREFIX + ipaddress.IPv4Address(self.external_host).packed
        return head + struct.pack(">12sB3xHH16s", nonce, protocol, internal, external, host)

    def _map(self, client: str, internal: int, external: int, lifetime: int) -> tuple[int, int]:
        """Returns the external port and the lifetime that are granted."""
        if self.result:
            return external, lifetime
        if not lifetime:
            for each in [e for e, to in self.mapped.items() if to[:2] == (client, internal)]:
                del self.mapped[each]
                self.on_map(each, client, internal, 0)
            return 0, 0
        external = external or internal
        while self.mapped.get(external, (client, internal))[:2] != (client, internal):
            external += 1
        granted = lifetime if self.lifetime_s is None else self.lifetime_s
        self.mapped[external] = client, internal, granted
        self.on_map(external, client, internal, granted)
        return external, granted
