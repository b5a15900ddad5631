"""Asks the router to map a port by UPnP IGD, with the package async-upnp-client.

Invariants:

- Only a device at the default gateway is asked, whatever address an answer to the search names.
- A search and the requests together end within `TIMEOUT_S`.
- A router that maps ports only forever is not used: the mapping would outlive a node that crashes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping.gateway import Mapping, NoAnswer
from grapevine_proto.runtime.port_mapping.packets import Refused

if TYPE_CHECKING:
    from async_upnp_client.client import UpnpService

TIMEOUT_S: Final = 8.0
SEARCH_S: Final = 2
REQUEST_S: Final = 3
PORTS_TRIED: Final = 4
FIRST_RANDOM_PORT: Final = 20_000
MAPPING_NAME: Final = "grapevine"


def is_installed() -> bool:
    """Whether the package is there: the extra ``nat``."""
    try:
        import async_upnp_client  # noqa: F401
    except ImportError:
        return False
    return True


class UpnpPort:
    """One port of this machine, at `host`, that the router at `gateway_host` maps."""

    def __init__(self, gateway_host: str, host: str, port: int) -> None:
        self.gateway_host = gateway_host
        self.host = host
        self.port = port
        self._service: UpnpService | None = None
        self._external_port = 0

    async def map(self, wanted: Address | None, lifetime_s: int) -> Mapping:
        """Maps the port, or renews the mapping. Raises NoAnswer or Refused."""
        from async_upnp_client.exceptions import UpnpActionError, UpnpError

        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._service is None:
                    self._service = await self._find_service()
                return await self._map(self._service, wanted, lifetime_s)
        except TimeoutError:
            self._service = None
            raise NoAnswer("the router did not answer UPnP in time") from None
        except UpnpActionError as error:
            raise Refused(f"UPnP: {error.error_desc or error.error_code}") from None
        except UpnpError as error:
            self._service = None
            raise NoAnswer(f"UPnP: {type(error).__name__}") from None

    async def remove(self, timeout_s: float) -> None:
        """Ends the mapping. Raises what the package raises, or TimeoutError."""
        if self._service is not None and self._external_port:
            async with asyncio.timeout(timeout_s):
                await self._service.action("DeletePortMapping").async_call(
                    NewRemoteHost="", NewExternalPort=self._external_port, NewProtocol="UDP"
                )

    async def _find_service(self) -> UpnpService:
        """The service of the router that maps ports: of an IP connection or of a PPP connection."""
        from async_upnp_client.aiohttp import AiohttpRequester
        from async_upnp_client.client_factory import UpnpFactory
        from async_upnp_client.profiles.igd import IgdDevice

        factory = UpnpFactory(AiohttpRequester(timeout=REQUEST_S))
        for found in await IgdDevice.async_search(source=(self.host, 0), timeout=SEARCH_S):
            location = str(found.get("location", ""))
            if urlsplit(location).hostname == self.gateway_host:
                device = await factory.async_create_device(location)
                for service in device.all_services:
                    if service.has_action("AddPortMapping"):
                        return service
        raise NoAnswer("no router with UPnP was found")

    async def _map(self, service: UpnpService, wanted: Address | None, lifetime_s: int) -> Mapping:
        from async_upnp_client.exceptions import UpnpActionError

        answer = await service.action("GetExternalIPAddress").async_call()
        try:
            host = str(ipaddress.IPv4Address(answer.get("NewExternalIPAddress") or ""))
        except ValueError:
            raise Refused("the router tells no external address by UPnP") from None
        port = self._external_port or (self.port if wanted is None else wanted.port)
        for attempt in range(PORTS_TRIED):
            try:
                await service.action("AddPortMapping").async_call(
                    NewRemoteHost="",
                    NewExternalPort=port,
                    NewProtocol="UDP",
                    NewInternalPort=self.port,
                    NewInternalClient=self.host,
                    NewEnabled=True,
                    NewPortMappingDescription=MAPPING_NAME,
                    NewLeaseDuration=lifetime_s,
                )
            except UpnpActionError:
                if attempt + 1 == PORTS_TRIED:
                    raise
                port = random.randrange(FIRST_RANDOM_PORT, 2**16)
            else:
                break
        self._external_port = port
        return Mapping(Address(host, port), lifetime_s, "UPnP")
