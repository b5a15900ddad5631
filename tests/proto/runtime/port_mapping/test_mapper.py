"""When a node asks its router for a port, what it advertises, and what it reports."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from grapevine_proto import ClusterKey, Node, NodeConfig, PortMappingChanged, PortMappingOutcome
from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping.gateway import (
    RETRANSMISSIONS_S,
    GatewayPort,
    Mapping,
    NoAnswer,
)
from grapevine_proto.runtime.port_mapping.mapper import (
    BACKOFF_BOUNDS_S,
    CHECK_INTERVAL_S,
    MIN_INTERVAL_S,
    REMOVE_TIMEOUT_S,
    RETRY_S,
    HomeRouter,
    PortMapper,
    RouterPort,
)
from tests.proto.runtime.port_mapping.fake_gateway import EXTERNAL_HOST, FakeGateway

pytestmark = pytest.mark.asyncio

OWN = Address("192.168.1.2", 8000)
OUTSIDE = Address(EXTERNAL_HOST, 8000)
GRANTED, REFUSED, LOST = PortMappingOutcome


@dataclass
class Bench:
    """A mapper whose clock stands still, with a gateway on loopback."""

    server: FakeGateway = field(default_factory=FakeGateway)
    gateway: Address | None = None
    own: tuple[Address, ...] = (OWN,)
    is_wanted: bool = True
    now: float = 1000.0
    applied: list[Address | None] = field(default_factory=list)
    events: list[PortMappingChanged] = field(default_factory=list)
    upnp: Mapping | None = None
    waits_s: tuple[float, ...] = (0.05,)

    def __post_init__(self) -> None:
        self.mapper = PortMapper(
            lambda: self.now,
            self,
            lambda: self.is_wanted,
            lambda: self.own,
            self.applied.append,
            self.events.append,
        )

    async def find_gateway(self) -> Address | None:
        return self.gateway

    def ports(self, gateway: Address, own: Address) -> list[RouterPort]:
        """By packets, from loopback, and by UPnP."""
        source = Address("127.0.0.1", own.port)
        return [GatewayPort(lambda: self.now, gateway, source, self.waits_s), self]

    async def map(self, wanted: Address | None, lifetime_s: int) -> Mapping:
        """Of the router's UPnP."""
        if self.upnp is None:
            raise NoAnswer("no UPnP")
        return self.upnp

    async def remove(self, timeout_s: float) -> None:
        self.upnp = None

    @property
    def outcomes(self) -> list[PortMappingOutcome]:
        return [each.outcome for each in self.events]


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    made.gateway = await made.server.open()
    yield made
    made.server.close()


async def test_a_mapping_is_applied_reported_once_and_renewed_early(bench: Bench) -> None:
    assert await bench.mapper._refresh() == CHECK_INTERVAL_S
    assert await bench.mapper._refresh() == CHECK_INTERVAL_S
    assert bench.applied == [OUTSIDE]
    assert bench.events == [PortMappingChanged(GRANTED, OUTSIDE, "PCP", "")]
    assert bench.mapper.mapped == OUTSIDE


@pytest.mark.parametrize(("lease_s", "wait_s"), [(1, MIN_INTERVAL_S), (20, 10.0), (7200, 60.0)])
async def test_it_is_renewed_before_its_lease_is_half_over(
    bench: Bench, lease_s: int, wait_s: float
) -> None:
    bench.server.lifetime_s = lease_s
    assert await bench.mapper._refresh() == wait_s


async def test_a_refusal_is_reported_once_and_asked_for_again_ever_more_rarely(
    bench: Bench,
) -> None:
    bench.server.result = 2
    waits_s = [await bench.mapper._refresh() for _ in range(6)]
    assert waits_s == [30.0, 60.0, 120.0, 240.0, 480.0, BACKOFF_BOUNDS_S[1]]
    assert bench.outcomes == [REFUSED]
    bench.server.result = 8
    await bench.mapper._refresh()
    assert bench.outcomes == [REFUSED, REFUSED]
    bench.server.result = 0
    await bench.mapper._refresh()
    assert bench.outcomes == [REFUSED, REFUSED, GRANTED]


async def test_silence_takes_nothing_back_until_the_lease_is_over(bench: Bench) -> None:
    bench.server.lifetime_s = 100
    await bench.mapper._refresh()
    bench.server.answers = lambda answer: []
    bench.now += 95.0
    assert await bench.mapper._refresh() == 5.0
    bench.now -= 45.0
    assert await bench.mapper._refresh() == RETRY_S
    assert bench.outcomes == [GRANTED]
    bench.now += 50.0
    await bench.mapper._refresh()
    assert bench.outcomes == [GRANTED, LOST]
    assert bench.applied == [OUTSIDE, None]


async def test_a_refusal_takes_the_mapping_back_at_once(bench: Bench) -> None:
    await bench.mapper._refresh()
    bench.server.result = 2
    await bench.mapper._refresh()
    assert bench.applied == [OUTSIDE, None]
    assert "not authorized" in bench.events[-1].reason


async def test_another_external_address_is_advertised_instead(bench: Bench) -> None:
    await bench.mapper._refresh()
    bench.server.external_host = "203.0.113.8"
    await bench.mapper._refresh()
    assert bench.applied == [OUTSIDE, Address("203.0.113.8", 8000)]
    assert bench.outcomes == [GRANTED, GRANTED]


async def test_a_router_that_restarted_is_reported_and_maps_again(bench: Bench) -> None:
    bench.server.started_at -= 500.0
    await bench.mapper._refresh()
    bench.server.restart()
    await bench.mapper._refresh()
    assert bench.outcomes == [GRANTED, LOST, GRANTED]
    assert bench.applied == [OUTSIDE, None, OUTSIDE]
    assert bench.mapper.outcomes == {GRANTED: 2, LOST: 1}


@pytest.mark.parametrize(
    "host", ["192.168.0.7", "100.64.3.4", "0.0.0.0", "224.0.0.1", "169.254.1.1"]
)
async def test_an_address_that_nobody_outside_can_dial_is_not_advertised(
    bench: Bench, host: str
) -> None:
    bench.server.external_host = host
    await bench.mapper._refresh()
    assert bench.applied == []
    assert bench.outcomes == [REFUSED]
    assert bench.server.mapped == {}, "it is given back"


async def test_upnp_is_asked_if_the_gateway_does_not_answer_and_first_from_then_on(
    bench: Bench,
) -> None:
    bench.server.answers = lambda answer: []
    bench.upnp = Mapping(OUTSIDE, 3600.0, "UPnP")
    await bench.mapper._refresh()
    assert bench.events == [PortMappingChanged(GRANTED, OUTSIDE, "UPnP", "")]
    asked = len(bench.server.requests)
    await bench.mapper._refresh()
    assert len(bench.server.requests) == asked


async def test_a_port_of_the_ipv4_address_is_mapped_also_of_one_shared_by_a_provider(
    bench: Bench,
) -> None:
    bench.own = (Address("2001:db8::1", 8000), Address("100.64.3.4", 8000))
    await bench.mapper._refresh()
    assert bench.applied == [OUTSIDE]


@pytest.mark.parametrize("own", [(), (Address("127.0.0.1", 8000),), (Address("203.0.113.9", 1),)])
async def test_without_a_private_address_no_router_is_asked(
    bench: Bench, own: tuple[Address, ...]
) -> None:
    bench.own = own
    await bench.mapper._refresh()
    assert bench.server.requests == []
    assert bench.outcomes == [REFUSED]


async def test_another_network_ends_the_mapping_and_asks_its_router(bench: Bench) -> None:
    await bench.mapper._refresh()
    bench.own = (Address("10.1.2.3", 8000),)
    await bench.mapper._refresh()
    assert bench.outcomes == [GRANTED, LOST, GRANTED]
    assert bench.events[1].reason == "another network"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_setting_that_changes_maps_and_gives_back_at_once(bench: Bench) -> None:
    bench.is_wanted = False
    task = asyncio.create_task(bench.mapper.run())
    await asyncio.sleep(0.05)
    assert bench.server.requests == []
    bench.is_wanted = True
    bench.mapper.check()
    await until(lambda: bench.applied == [OUTSIDE])
    bench.is_wanted = False
    bench.mapper.check()
    await until(lambda: bench.applied == [OUTSIDE, None])
    assert bench.server.mapped == {}
    task.cancel()


async def test_an_error_of_a_package_ends_nothing(bench: Bench) -> None:
    bench.server.answers = lambda answer: []

    async def fail(wanted: Address | None, lifetime_s: int) -> Mapping:
        raise RuntimeError("a bug of it")

    bench.map = fail  # type: ignore[method-assign]
    await bench.mapper._refresh()
    assert bench.events[-1].reason.endswith("; RuntimeError"), "without a text of the router"


# --- with a node ----------------------------------------------------------------------------------


async def test_a_node_advertises_its_mapped_address_first_and_gives_it_back_when_it_leaves(
    bench: Bench,
) -> None:
    server = bench.server
    config = NodeConfig.local(keys=ClusterKey.generate(), port_mapping="auto")
    node, other = Node(config), Node(config.replace(port_mapping="off"))
    events: list[PortMappingChanged] = []
    node.on_event(lambda e: events.append(e) if isinstance(e, PortMappingChanged) else None)
    node._port_mapper._router = bench
    node._port_mapper._own_addresses = lambda: (OWN._replace(port=node.address.port),)
    async with node:
        mapped = Address(EXTERNAL_HOST, node.address.port)
        await until(lambda: node.mapped == mapped)
        async with other:
            await other.dial(node.address)
            await other.ready()
            assert other.peers()[0].advertised == (mapped, node.address)
            assert [each.outcome for each in events] == [GRANTED]
            assert node.stats().port_mappings_granted == 1
            node.reconfigure(node.config.replace(advertise="198.51.100.1:8000"))
            await until(lambda: node.mapped is None)
            node.reconfigure(node.config.replace(advertise=""))
            await until(lambda: other.peers()[0].advertised == (mapped, node.address))
        assert list(server.mapped) == [node.address.port]
    assert server.mapped == {}


async def test_a_silent_router_delays_neither_start_nor_leave(bench: Bench) -> None:
    bench.server.answers = lambda answer: []
    node = Node(NodeConfig.local(keys=ClusterKey.generate(), port_mapping="auto"))
    bench.waits_s = RETRANSMISSIONS_S
    node._port_mapper._router = bench
    node._port_mapper._own_addresses = lambda: (OWN,)
    begun_at = time.monotonic()
    async with node:
        await until(lambda: bool(bench.server.requests))
    assert time.monotonic() - begun_at < 2.0  # the first exchange alone takes nearly four
    assert node.mapped is None


async def test_a_router_that_falls_silent_delays_the_end_by_a_quarter_of_a_second(
    bench: Bench,
) -> None:
    await bench.mapper._refresh()
    bench.server.answers = lambda answer: []
    begun_at = time.monotonic()
    await bench.mapper.remove()
    assert REMOVE_TIMEOUT_S <= 0.25
    assert time.monotonic() - begun_at < 1.0


async def test_the_router_is_asked_by_upnp_only_if_the_package_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = Address("192.168.1.1", 5351)
    name = "grapevine_proto.runtime.port_mapping.upnp"
    monkeypatch.setitem(sys.modules, name, None)  # as if its imports failed
    assert [type(each) for each in HomeRouter(time.monotonic).ports(gateway, OWN)] == [GatewayPort]
    monkeypatch.delitem(sys.modules, name)
    pytest.importorskip("async_upnp_client", reason="needs the extra nat")
    assert len(HomeRouter(time.monotonic).ports(gateway, OWN)) == 2
