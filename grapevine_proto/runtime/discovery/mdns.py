"""Discovery on the local network by multicast DNS (RFC 6762, RFC 6763), with the package zeroconf.

Invariants:

- The instance name is random and the text record has a mark that only holders of the cluster key can make
  and recognize, for a day. Strangers learn that there is a node, not whose, and nodes of other clusters
  are not named.
- Only the interfaces that hold an address at which this node can be dialed are used.
- At most `MAX_INSTANCES` instances are remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from grapevine_proto.ids import join_host_port
from grapevine_proto.runtime.discovery.source import OwnNode, missing_package

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

SERVICE_TYPE: Final = "_grapevine._udp.local."
MARK_DOMAIN: Final = b"grapevine mdns 1"
DAY_S: Final = 86_400
MAX_INSTANCES: Final = 256
MAX_MARKS: Final = 16  # of one instance
REQUEST_TIMEOUT_MS: Final = 1_000


class MdnsDiscovery:
    """The nodes of the cluster on the same network. Raises ConfigError without zeroconf."""

    name = "mdns"

    def __init__(self) -> None:
        try:
            import zeroconf  # noqa: F401
        except ImportError:
            raise missing_package("discovery", "mdns", "mdns") from None
        self._instance = f"{os.urandom(4).hex()}.{SERVICE_TYPE}"
        self._own: OwnNode | None = None
        self._announced_day = 0
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._instances: dict[str, list[str]] = {}  # the addresses of each
        self._requests: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.dropped = 0  # instances beyond `MAX_INSTANCES`

    async def announce(self, own: OwnNode) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        await self.withdraw()
        self._own = own
        hosts = [each.host for each in own.addresses]
        is_ipv6 = any(":" in each for each in hosts)
        self._zeroconf = AsyncZeroconf(
            interfaces=hosts, ip_version=IPVersion.All if is_ipv6 else IPVersion.V4Only
        )
        # The name is random: a conflict need not be looked for, which takes most of a second.
        await self._zeroconf.async_register_service(self._service(), cooperating_responders=True)
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change]
        )

    def _service(self) -> ServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        own = self._own
        assert own is not None
        self._announced_day = _today()
        families = {False: socket.AF_INET, True: socket.AF_INET6}
        return AsyncServiceInfo(
            SERVICE_TYPE,
            self._instance,
            port=own.addresses[0].port,
            addresses=[socket.inet_pton(families[":" in a.host], a.host) for a in own.addresses],
            properties={"v": "1", "c": ",".join(own.marks(MARK_DOMAIN, self._announced_day))},
            server=f"{self._instance.partition('.')[0]}.local.",
        )

    async def withdraw(self) -> None:
        for request in self._requests:
            request.cancel()
        self._instances.clear()
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if self._zeroconf is not None:
            closing, self._zeroconf = self._zeroconf, None
            await closing.async_close()

    async def addresses(self) -> list[str]:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DAY_S - time.time() % DAY_S + 1):
                    await self._changed.wait()
            if self._changed.is_set():
                self._changed.clear()
                return sorted({each for found in self._instances.values() for each in found})
            if self._zeroconf is not None and self._announced_day != _today():
                await self._zeroconf.async_update_service(self._service())

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if name == self._instance:
            return
        if state_change is ServiceStateChange.Removed:
            if self._instances.pop(name, None) is not None:
                self._changed.set()
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._note(name, info)
        elif len(self._requests) < MAX_INSTANCES:
            request = asyncio.ensure_future(self._request(zeroconf, name, info))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _request(self, zeroconf: Zeroconf, name: str, info: Any) -> None:
        if await info.async_request(zeroconf, REQUEST_TIMEOUT_MS):
            self._note(name, info)

    def _note(self, name: str, info: Any) -> None:
        """An instance answered. It counts if it knows a mark of this cluster."""
        if not self._is_ours(info.properties.get(b"c")):
            return
        if name not in self._instances and len(self._instances) >= MAX_INSTANCES:
            self.dropped += 1
            return
        self._instances[name] = [
            join_host_port(host, info.port) for host in info.parsed_scoped_addresses()
        ]
        self._changed.set()

    def _is_ours(self, text: bytes | None) -> bool:
        """Whether a mark is of this cluster: of today, or of the day before or after, since clocks differ."""
        if not text or self._own is None:
            return False
        today = _today()
        ours = {
            mark.encode()
            for day in (today - 1, today, today + 1)
            for mark in self._own.marks(MARK_DOMAIN, day)
        }
        return not ours.isdisjoint(text.split(b",")[:MAX_MARKS])


def _today() -> int:
    return int(time.time() // DAY_S)
