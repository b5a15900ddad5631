"""Asks the router to map a port by UPnP IGD, with the package async-upnp-client (the extra ``nat``).

Invariants:

- Only the host of the default gateway is asked, whatever address an answer to the search, a description or a
  redirect names.
- A search and the requests together end within `TIMEOUT_S`; they read at most `MAX_RESPONSES` documents of
  `MAX_DOCUMENT_BYTES` and `MAX_TAGS`.
- No text of the router is passed on: errors are named by their number.
- A router that maps ports only forever is not used: the mapping would outlive a node that crashes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from async_upnp_client.client import UpnpRequester
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError, UpnpError
from async_upnp_client.search import SsdpSearchListener

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping.gateway import Mapping, NoAnswer
from grapevine_proto.runtime.port_mapping.packets import Refused

if TYPE_CHECKING:
    from async_upnp_client.client import UpnpService
    from async_upnp_client.utils import CaseInsensitiveDict

TIMEOUT_S: Final = 8.0
SEARCH_S: Final = 2
REQUEST_S: Final = 3.0
SEARCH_TARGET: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1"  # answered by later versions too
)
MAX_DOCUMENT_BYTES: Final = 64 * 1024  # descriptions of routers have up to 20 KiB
MAX_TAGS: Final = (
    2_000  # of a document: the package works up to a millisecond on each of its variables
)
MAX_RESPONSES: Final = 32  # of one request to map: a router describes about ten services
MAX_LOCATIONS: Final = 4
MAX_ERROR: Final = 1000
PORTS_TRIED: Final = 4  # routers have several errors for a port that is taken
FIRST_RANDOM_PORT: Final = 20_000
MAPPING_NAME: Final = "grapevine"

_ERRORS: Final = {
    402: "the router rejected the request as malformed",
    501: "the router failed to map the port",
    606: "not authorized: port mapping is off in the router",
    718: "the external port is taken",
    725: "the router maps ports only forever",
    728: "the router has no room for another mapping",
}


class RouterRequester(UpnpRequester):
    """HTTP with the router at `host` and nobody else: no redirects, no compression, and a bounded number
    (`budget`) of bounded responses."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.budget = MAX_RESPONSES

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Raises NoAnswer, after `REQUEST_S` at the latest."""
        url = self._checked(http_request.url)
        if not self.budget:
            raise NoAnswer("the router describes too many services")
        self.budget -= 1
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(REQUEST_S), auto_decompress=False
                ) as session,
                session.request(
                    http_request.method,
                    url,
                    headers={**http_request.headers, "Accept-Encoding": "identity"},
                    data=http_request.body,
                    allow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_DOCUMENT_BYTES:
                        break
                if len(body) > MAX_DOCUMENT_BYTES or body.count(b"<") > MAX_TAGS:
                    raise NoAnswer("the router answers with too much")
                return HttpResponse(response.status, response.headers, body.decode())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(f"UPnP: {type(error).__name__}") from None

    def _checked(self, url: str) -> str:
        """Returns `url` built anew from its parts, so that no other parser finds another host in it."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError:
            raise NoAnswer("the router names an address that is none") from None
        if parts.scheme != "http" or parts.hostname != self._host:
            raise NoAnswer("the router names an address of another host")
        query = f"?{parts.query}" if parts.query else ""
        return f"http://{self._host}:{port}{parts.path}{query}"


class UpnpPort:
    """The port of `own`, an address of this machine, that the router at `gateway_host` maps."""

    def __init__(self, gateway_host: str, own: Address) -> None:
        self.gateway_host = gateway_host
        self.own = own
        self._requester = RouterRequester(gateway_host)
        self._service: UpnpService | None = None
        self._external_port = 0

    async def map(self, wanted: Address | None, lifetime_s: int) -> Mapping:
        """Maps the port, or renews the mapping. Raises NoAnswer or Refused."""
        self._requester.budget = MAX_RESPONSES
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._service is None:
                    self._service = await self._find_service()
                return await self._map(self._service, wanted, lifetime_s)
        except Refused:
            raise
        except UpnpActionError as error:
            raise Refused(f"UPnP: {_to_reason(error)}") from None
        except NoAnswer:
            self._service = None
            raise
        except TimeoutError:
            self._service = None
            raise NoAnswer("the router did not answer UPnP in time") from None
        except Exception as error:  # noqa: BLE001  of the package, about what the router sent
            self._service = None
            raise NoAnswer(f"UPnP: {type(error).__name__}") from None

    async def remove(self, timeout_s: float) -> None:
        """Ends the mapping. Raises NoAnswer, TimeoutError, or what the package raises."""
        if self._service is not None and self._external_port:
            self._requester.budget = MAX_RESPONSES
            async with asyncio.timeout(timeout_s):
                await self._service.action("DeletePortMapping").async_call(
                    NewRemoteHost="", NewExternalPort=self._external_port, NewProtocol="UDP"
                )

    async def _find_service(self) -> UpnpService:
        """The service of the router that maps ports: of an IP connection or of a PPP connection."""
        factory = UpnpFactory(self._requester)
        problem = "no router with UPnP was found"
        for location in await search(self.gateway_host, self.own.host):
            try:
                device = await factory.async_create_device(location)
            except NoAnswer as error:
                problem = str(error)
                continue
            except UpnpError as error:
                problem = f"UPnP: {type(error).__name__}"
                continue
            for service in device.all_services:
                if service.has_action("AddPortMapping"):
                    return service
        raise NoAnswer(problem)

    async def _map(self, service: UpnpService, wanted: Address | None, lifetime_s: int) -> Mapping:
        answer = await service.action("GetExternalIPAddress").async_call()
        try:
            host = str(ipaddress.IPv4Address(answer.get("NewExternalIPAddress") or ""))
        except ValueError:
            raise Refused("the router tells no external address by UPnP") from None
        port = self._external_port or (self.own.port if wanted is None else wanted.port)
        for attempt in range(PORTS_TRIED):
            try:
                await service.action("AddPortMapping").async_call(
                    NewRemoteHost="",
                    NewExternalPort=port,
                    NewProtocol="UDP",
                    NewInternalPort=self.own.port,
                    NewInternalClient=self.own.host,
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


async def search(gateway_host: str, own_host: str) -> list[str]:
    """Searches the network of `own_host` for `SEARCH_S` seconds. Returns where the router at `gateway_host`
    describes itself, at most `MAX_LOCATIONS` of them; answers of others are ignored."""
    locations: list[str] = []

    def on_answer(headers: CaseInsensitiveDict) -> None:
        location = str(headers.get("location", ""))
        is_of_gateway = headers.get("_host") == gateway_host
        if is_of_gateway and location not in locations and len(locations) < MAX_LOCATIONS:
            locations.append(location)

    listener = SsdpSearchListener(
        callback=on_answer,
        source=(own_host, 0),
        timeout=SEARCH_S,
        search_target=SEARCH_TARGET,
        connect_callback=lambda: listener.async_search(),
    )
    try:
        await listener.async_start()
        await asyncio.sleep(SEARCH_S)
    finally:
        listener.async_stop()
    return locations


def _to_reason(error: UpnpActionError) -> str:
    code = error.error_code or 0
    return _ERRORS.get(code, f"error {code}" if 0 < code < MAX_ERROR else "an unknown error")
