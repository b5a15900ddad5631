"""Mapping a port by UPnP, with a router that speaks it on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping.gateway import Mapping, NoAnswer
from grapevine_proto.runtime.port_mapping.packets import Refused
from grapevine_proto.runtime.port_mapping.upnp import UpnpPort, is_installed
from tests.proto.runtime.port_mapping.fake_upnp_router import OUTSIDE, FakeUpnpRouter

igd = pytest.importorskip("async_upnp_client.profiles.igd", reason="needs the extra nat")

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def router(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeUpnpRouter]:
    made = FakeUpnpRouter()
    await made.open()

    async def search(source: object, timeout: int) -> list[dict[str, str]]:  # noqa: ASYNC109
        return [{"location": "http://127.0.0.9:1/evil.xml"}, {"location": made.location}]

    monkeypatch.setattr(igd.IgdDevice, "async_search", search)
    yield made
    await made.close()


async def test_a_port_is_mapped_renewed_and_given_back(router: FakeUpnpRouter) -> None:
    assert is_installed()
    port = UpnpPort("127.0.0.1", "127.0.0.1", 8000)
    mapping = await port.map(None, 3600)
    assert mapping == Mapping(Address(OUTSIDE, 8000), 3600, "UPnP")
    assert router.mapped == {8000: ("127.0.0.1", 8000, 3600)}
    assert await port.map(mapping.address, 3600) == mapping
    await port.remove(2.0)
    assert router.mapped == {}


async def test_another_port_is_asked_for_if_it_is_taken(router: FakeUpnpRouter) -> None:
    router.taken = {8000}
    mapping = await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)
    assert mapping.address.port != 8000
    assert router.mapped == {mapping.address.port: ("127.0.0.1", 8000, 3600)}


@pytest.mark.parametrize("error", [606, 725])
async def test_a_refusal_is_raised(router: FakeUpnpRouter, error: int) -> None:
    router.error = error
    with pytest.raises(Refused, match=f"Error {error}"):
        await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)


@pytest.mark.parametrize("external", ["", "nonsense"])
async def test_a_router_without_an_external_address_refuses(
    router: FakeUpnpRouter, external: str
) -> None:
    router.external = external
    with pytest.raises(Refused, match="external address"):
        await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)


async def test_only_a_device_at_the_gateway_is_asked(router: FakeUpnpRouter) -> None:
    with pytest.raises(NoAnswer, match="no router"):
        await UpnpPort("127.0.0.2", "127.0.0.1", 8000).map(None, 3600)


async def test_garbage_of_a_router_is_no_answer(router: FakeUpnpRouter) -> None:
    router.location = router.location.replace("device", "control")
    with pytest.raises(NoAnswer):
        await UpnpPort("127.0.0.1", "127.0.0.1", 8000).map(None, 3600)
