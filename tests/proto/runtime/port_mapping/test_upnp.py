"""Mapping a port by UPnP, with a router that speaks it on loopback."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

pytest.importorskip("async_upnp_client", reason="needs the extra nat")

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping import upnp
from grapevine_proto.runtime.port_mapping.gateway import Mapping, NoAnswer
from grapevine_proto.runtime.port_mapping.packets import Refused
from grapevine_proto.runtime.port_mapping.upnp import (
    MAX_DOCUMENT_BYTES,
    MAX_LOCATIONS,
    MAX_RESPONSES,
    MAX_TAGS,
    UpnpPort,
)
from tests.proto.runtime.port_mapping.fake_upnp_router import (
    DEVICE,
    OUTSIDE,
    FakeUpnpRouter,
    Page,
)

pytestmark = pytest.mark.asyncio
OWN = Address("127.0.0.1", 8000)
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><b>&i;</b>"
)
SERVICE = re.compile("<service>.*</service>", re.DOTALL)


@pytest_asyncio.fixture
async def router(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeUpnpRouter]:
    made = FakeUpnpRouter()
    await made.open()

    async def search(gateway_host: str, own_host: str) -> list[str]:
        return [made.location]

    monkeypatch.setattr(upnp, "search", search)
    yield made
    await made.close()


def xml(text: str) -> Page:
    return Page(text.encode())


def port_at(gateway_host: str = "127.0.0.1") -> UpnpPort:
    return UpnpPort(gateway_host, OWN)


async def test_a_port_is_mapped_renewed_and_given_back(router: FakeUpnpRouter) -> None:
    port = port_at()
    mapping = await port.map(None, 3600)
    assert mapping == Mapping(Address(OUTSIDE, 8000), 3600, "UPnP")
    assert router.mapped == {8000: ("127.0.0.1", 8000, 3600)}
    for _ in range(MAX_RESPONSES):
        assert await port.map(mapping.address, 3600) == mapping
    await port.remove(2.0)
    assert router.mapped == {}


async def test_another_port_is_asked_for_if_it_is_taken(router: FakeUpnpRouter) -> None:
    router.taken = {8000}
    mapping = await port_at().map(None, 3600)
    assert mapping.address.port != 8000
    assert router.mapped == {mapping.address.port: ("127.0.0.1", 8000, 3600)}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(606, "UPnP: not authorized"), (725, "only forever"), (713, "error 713"), (10**50, "unknown")],
)
async def test_a_refusal_is_raised_with_a_reason_that_is_no_text_of_the_router(
    router: FakeUpnpRouter, error: int, reason: str
) -> None:
    router.error = error
    with pytest.raises(Refused, match=reason) as raised:
        await port_at().map(None, 3600)
    assert "Error" not in str(raised.value)


@pytest.mark.parametrize("external", ["", "nonsense"])
async def test_a_router_without_an_external_address_refuses(
    router: FakeUpnpRouter, external: str
) -> None:
    router.external = external
    with pytest.raises(Refused, match="external address"):
        await port_at().map(None, 3600)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.9:{port}/device.xml",
        "http://127.0.0.1:{port}@127.0.0.9:{port}/device.xml",
        "https://127.0.0.1:{port}/device.xml",
        "file:///etc/hostname",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "",
    ],
)
async def test_only_the_gateway_is_asked(router: FakeUpnpRouter, location: str) -> None:
    router.location = location.format(port=router.location.split(":")[2].split("/")[0])
    with pytest.raises(NoAnswer, match="names an address"):
        await port_at().map(None, 3600)
    assert router.asked == []


async def test_a_redirect_is_not_followed(router: FakeUpnpRouter) -> None:
    router.pages["/device.xml"] = Page(status=302, headers={"Location": "/elsewhere.xml"})
    with pytest.raises(NoAnswer):
        await port_at().map(None, 3600)
    assert router.asked == ["/device.xml"]


@pytest.mark.parametrize("name", ["SCPDURL", "controlURL"])
async def test_a_description_that_names_another_host_is_not_followed(
    router: FakeUpnpRouter, name: str
) -> None:
    elsewhere = router.location.replace("127.0.0.1", "127.0.0.9")
    router.pages["/device.xml"] = xml(re.sub(f"(?<=<{name}>)[^<]*", elsewhere, DEVICE))
    with pytest.raises(NoAnswer):
        await port_at().map(None, 3600)
    assert router.mapped == {}


@pytest.mark.parametrize(
    "page",
    [
        Page(b"nonsense"),
        Page(b"\xff\xfe\x00"),
        Page(b"broken", 500),
        xml(BOMB),
        xml("<a>" * 1_000 + "</a>" * 1_000),
        xml(DEVICE.replace("<root", "<!--" + "<" * MAX_TAGS + "--><root")),
        xml(DEVICE + " " * MAX_DOCUMENT_BYTES),
        Page(gzip.compress(DEVICE.encode()), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["text", "bytes", "error", "entities", "depth", "tags", "size", "encoding"],
)
@pytest.mark.parametrize("path", ["/device.xml", "/scpd.xml", "/control"])
async def test_garbage_of_a_router_is_no_answer(
    router: FakeUpnpRouter, path: str, page: Page
) -> None:
    router.pages[path] = page
    async with asyncio.timeout(5.0):
        with pytest.raises((NoAnswer, Refused)):
            await port_at().map(None, 3600)
    assert router.mapped == {}


async def test_a_router_with_endless_services_is_given_up(router: FakeUpnpRouter) -> None:
    service = SERVICE.search(DEVICE)
    assert service is not None
    many = "".join(
        service[0].replace("WANIPConnection:1", f"Other{number}:1") for number in range(100)
    )
    router.pages["/device.xml"] = xml(DEVICE.replace(service[0], many))
    with pytest.raises(NoAnswer, match="too many services"):
        await port_at().map(None, 3600)
    assert len(router.asked) == MAX_RESPONSES


async def test_a_router_that_moved_is_searched_again(router: FakeUpnpRouter) -> None:
    port = port_at()
    await port.map(None, 3600)
    router.pages["/control"] = Page(status=404)
    with pytest.raises(NoAnswer):
        await port.map(None, 3600)
    router.pages.clear()
    router.asked.clear()
    await port.map(None, 3600)
    assert router.asked[0] == "/device.xml"


async def test_a_search_finds_the_router_and_ignores_what_others_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upnp, "SEARCH_S", 1)
    router = FakeUpnpRouter()
    await router.open("127.0.0.1")
    await router.answer_searches("127.0.0.1")
    assert router.location in await upnp.search("127.0.0.1", "127.0.0.1")
    assert await upnp.search("127.0.0.9", "127.0.0.1") == []
    await router.close()


async def test_the_answers_to_a_search_that_count_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Listener:
        def __init__(self, callback: Callable[[dict[str, str]], None], **_: object) -> None:
            self.answer = callback

        async def async_start(self) -> None:
            for number in range(3 * MAX_LOCATIONS):
                for host in ("192.168.1.66", "192.168.1.1"):
                    self.answer({"_host": host, "location": f"http://{host}/{number // 2}"})

        def async_stop(self) -> None:
            pass

    monkeypatch.setattr(upnp, "SsdpSearchListener", Listener)
    monkeypatch.setattr(upnp, "SEARCH_S", 0)
    found = await upnp.search("192.168.1.1", "192.168.1.2")
    assert found == [f"http://192.168.1.1/{number}" for number in range(MAX_LOCATIONS)]
