"""Mapping a port by UPnP, with a router that speaks it on loopback."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from aiohttp import web

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping.gateway import Mapping, NoAnswer
from grapevine_proto.runtime.port_mapping.packets import Refused
from grapevine_proto.runtime.port_mapping.upnp import UpnpPort, is_installed

igd = pytest.importorskip("async_upnp_client.profiles.igd", reason="needs the extra nat")

pytestmark = pytest.mark.asyncio

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


@dataclass
class Router:
    """`taken`: external ports of others; `error`: answers every mapping with it."""

    external: str = OUTSIDE
    taken: set[int] = field(default_factory=set)
    error: int = 0
    mapped: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    location: str = ""

    async def serve(self, request: web.Request) -> web.Response:
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


@pytest_asyncio.fixture
async def router(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Router]:
    made = Router()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.location = f"http://127.0.0.1:{port}/device.xml"

    async def search(source: object, timeout: int) -> list[dict[str, str]]:  # noqa: ASYNC109
        return [{"location": "http://127.0.0.9:1/evil.xml"}, {"location": made.location}]

    monkeypatch.setattr(igd.IgdDevice, "async_search", search)
    yield made
    await runner.cleanup()


async def test_a_port_is_mapped_renewed_and_given_back(router: Router) -> None:
    assert is_installed()
    port = UpnpPort("127.0.0.1", "127.0.0.1", 8000)
    mapping = await port.map(None, 3600)
    assert mapping == Mapping(Address(OUTSIDE, 8000), 3600, "UPnP")
    assert router.mapped == {8000: ("127.0.0.1", 8000, 3600)}
    assert await port.map(mapping.address, 3600) == mapping
    await port.remove(2.0)
    assert router.mapped == {}


async def test_another_port_is_asked_for_if_it_is_taken(router: Router) -> None:
    router.taken = {8000}
    mapping = await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)
    assert mapping.address.port != 8000
    assert router.mapped == {mapping.address.port: ("127.0.0.1", 8000, 3600)}


@pytest.mark.parametrize("error", [606, 725])
async def test_a_refusal_is_raised(router: Router, error: int) -> None:
    router.error = error
    with pytest.raises(Refused, match=f"Error {error}"):
        await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)


@pytest.mark.parametrize("external", ["", "nonsense"])
async def test_a_router_without_an_external_address_refuses(router: Router, external: str) -> None:
    router.external = external
    with pytest.raises(Refused, match="external address"):
        await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)


async def test_only_a_device_at_the_gateway_is_asked(router: Router) -> None:
    with pytest.raises(NoAnswer, match="no router"):
        await UpnpPort("127.0.0.2", "127.0.0.1", 8000).map(None, 3600)


async def test_garbage_of_a_router_is_no_answer(router: Router) -> None:
    router.location = router.location.replace("device", "control")
    with pytest.raises(NoAnswer):
        await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)
