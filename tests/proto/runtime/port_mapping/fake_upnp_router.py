"""A router that maps ports by UPnP IGD, for tests: on loopback, and in the lab."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SSDP_GROUP, SSDP_PORT = "239.255.255.250", 1900
SEARCH_TARGET = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"

OUTSIDE = "203.0.113.7"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DEVICE = """<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">
<specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<friendlyName>router</friendlyName><manufacturer>m</manufacturer><modelName>r</modelName><UDN>uuid:1</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>
<friendlyName>wan</friendlyName><manufacturer>m</manufacturer><modelName>r</modelName><UDN>uuid:2</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
<friendlyName>con</friendlyName><manufacturer>m</manufacturer><modelName>r</modelName><UDN>uuid:3</UDN>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/scpd.xml</SCPDURL>
<controlURL>/control</controlURL><eventSubURL>/events</eventSubURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"""
ARGUMENTS = {
    "GetExternalIPAddress": (),
    "AddPortMapping": (
        ("NewRemoteHost", "string"), ("NewExternalPort", "ui2"), ("NewProtocol", "string"),
        ("NewInternalPort", "ui2"), ("NewInternalClient", "string"), ("NewEnabled", "boolean"),
        ("NewPortMappingDescription", "string"), ("NewLeaseDuration", "ui4"),
    ),
    "DeletePortMapping": (
        ("NewRemoteHost", "string"), ("NewExternalPort", "ui2"), ("NewProtocol", "string"),
    ),
}  # fmt: skip


def service_description() -> str:
    """What the router says of its actions."""
    variables = {name: kind for arguments in ARGUMENTS.values() for name, kind in arguments}
    variables["NewExternalIPAddress"] = "string"
    actions = []
    for action, arguments in ARGUMENTS.items():
        directions = [(name, "in") for name, _ in arguments]
        if not arguments:
            directions = [("NewExternalIPAddress", "out")]
        listed = "".join(
            f"<argument><name>{name}</name><direction>{direction}</direction>"
            f"<relatedStateVariable>{name}</relatedStateVariable></argument>"
            for name, direction in directions
        )
        actions.append(
            f"<action><name>{action}</name><argumentList>{listed}</argumentList></action>"
        )
    table = "".join(
        f'<stateVariable sendEvents="no"><name>{name}</name><dataType>{kind}</dataType></stateVariable>'
        for name, kind in variables.items()
    )
    return (
        '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0">'
        "<specVersion><major>1</major><minor>0</minor></specVersion>"
        f"<actionList>{''.join(actions)}</actionList><serviceStateTable>{table}</serviceStateTable></scpd>"
    )


@dataclass(frozen=True)
class Page:
    """A response of HTTP."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        headers = {"Content-Type": "text/xml", **self.headers}
        return web.Response(body=self.body, status=self.status, headers=headers)


@dataclass
class FakeUpnpRouter:
    """`taken`: external ports of others; `error`: answers every mapping with it; `pages`: what it answers
    instead, by path; `asked`: the paths of all requests."""

    external: str = OUTSIDE
    taken: set[int] = field(default_factory=set)
    error: int = 0
    mapped: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    location: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    on_map: Callable[[], None] = lambda: None
    _searches: asyncio.DatagramTransport | None = None

    async def open(self, host: str = "127.0.0.1") -> None:
        """Serves its description at `location`."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.serve)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, 0).start()
        self.location = f"http://{host}:{self._runner.addresses[0][1]}/device.xml"

    async def close(self) -> None:
        if self._searches is not None:
            self._searches.close()
        await self._runner.cleanup()

    async def answer_searches(self, host: str) -> None:
        """Answers those who look for a router in the network of `host`."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((SSDP_GROUP, SSDP_PORT))
        membership = socket.inet_aton(SSDP_GROUP) + socket.inet_aton(host)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        loop = asyncio.get_running_loop()
        self._searches, _ = await loop.create_datagram_endpoint(
            lambda: _Searches(self.location), sock=sock
        )

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path in self.pages:
            return self.pages[request.path].response()
        if request.path == "/device.xml":
            return web.Response(text=DEVICE, content_type="text/xml")
        if request.path == "/scpd.xml":
            return web.Response(text=service_description(), content_type="text/xml")
        action = request.headers["SOAPACTION"].strip('"').partition("#")[2]
        body = await request.text()
        values = dict(re.findall(r"<(New\w+)[^>]*>([^<]*)<", body))
        result = ""
        if action == "GetExternalIPAddress":
            result = f"<NewExternalIPAddress>{self.external}</NewExternalIPAddress>"
        elif action == "AddPortMapping":
            port = int(values["NewExternalPort"])
            if self.error or port in self.taken:
                return self._fault(self.error or 718)
            assert "<NewRemoteHost></NewRemoteHost>" in body, "for everyone"
            lease = int(values["NewLeaseDuration"])
            self.mapped[port] = values["NewInternalClient"], int(values["NewInternalPort"]), lease
        else:
            del self.mapped[int(values["NewExternalPort"])]
        if action != "GetExternalIPAddress":
            self.on_map()
        return self._answer(
            f'<u:{action}Response xmlns:u="{SERVICE}">{result}</u:{action}Response>', 200
        )

    def _fault(self, code: int) -> web.Response:
        detail = (
            f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
            f"<errorDescription>Error {code}</errorDescription></UPnPError>"
        )
        return self._answer(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring>"
            f"<detail>{detail}</detail></s:Fault>",
            500,
        )

    def _answer(self, body: str, status: int) -> web.Response:
        text = (
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
            ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
            f"<s:Body>{body}</s:Body></s:Envelope>"
        )
        return web.Response(text=text, status=status, content_type="text/xml")


class _Searches(asyncio.DatagramProtocol):
    """Answers searches for a router by SSDP."""

    def __init__(self, location: str) -> None:
        self._answer = (
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\n"
            f"LOCATION: {location}\r\nST: {SEARCH_TARGET}\r\nUSN: uuid:1::{SEARCH_TARGET}\r\n\r\n"
        ).encode()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        is_wanted = any(each in data for each in (SEARCH_TARGET.encode(), b"ssdp:all"))
        if data.startswith(b"M-SEARCH") and is_wanted:
            self._transport.sendto(self._answer, addr)
