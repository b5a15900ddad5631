"""Discovery by SRV records, from a DNS server in this process."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from grapevine_proto import ClusterKey, ConfigError, Node, NodeConfig, SrvDiscovery
from grapevine_proto.runtime.discovery.srv import MAX_TARGETS, Target, order_targets

dns_message = pytest.importorskip("dns.message")
SERVICE = "_grapevine._udp.example.org"


class DnsServer(asyncio.DatagramProtocol):
    """Answers each query for SRV with `targets`."""

    def __init__(self, *targets: Target, ttl_s: int = 60) -> None:
        self.targets = targets
        self.ttl_s = ttl_s
        self.queries = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        import dns.flags
        import dns.rcode
        import dns.rrset

        self.queries += 1
        query = dns_message.from_wire(data)
        reply = dns_message.make_response(query)
        name = query.question[0].name
        texts = [f"{t.priority} {t.weight} {t.port} {t.host}." for t in self.targets]
        if texts:
            reply.answer.append(dns.rrset.from_text(name, self.ttl_s, "IN", "SRV", *texts))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(reply.to_wire(max_size=65535), source)


@asynccontextmanager
async def asked(
    server: DnsServer, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[SrvDiscovery]:
    import dns.asyncresolver

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        yield SrvDiscovery(SERVICE, resolver=resolver, sleep=sleep)
    finally:
        transport.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, MAX_TARGETS, MAX_TARGETS + 1])
def test_at_most_64_targets_are_named(count: int) -> None:
    async def look() -> None:
        targets = [Target(1, 1, f"h{number}.example.org", 8000) for number in range(count)]
        async with asked(DnsServer(*targets)) as source:
            found = await source.addresses()
        assert len(found) == len(set(found)) == min(count, MAX_TARGETS)
        assert set(found) <= {f"{each.host}:8000" for each in targets}

    asyncio.run(look())


def test_the_lowest_priority_comes_first_and_weights_decide_by_chance() -> None:
    targets = [Target(2, 9, "backup", 1), Target(1, 90, "heavy", 1), Target(1, 10, "light", 1)]
    rng = random.Random(7)
    firsts = Counter(order_targets(targets, rng)[0].host for _ in range(1000))
    assert firsts["backup"] == 0
    assert 850 < firsts["heavy"] < 950
    assert order_targets(targets, rng)[2].host == "backup"


def test_targets_that_mean_no_service_are_left_out() -> None:
    targets = [Target(0, 0, "", 8000), Target(0, 0, "a", 0), Target(0, 0, "b", 1)]
    assert [each.host for each in order_targets(targets, random.Random(1))] == ["b"]


@pytest.mark.parametrize(("ttl_s", "expected_s"), [(0, 5.0), (60, 60.0), (86_400, 300.0)])
def test_a_name_is_looked_up_again_when_its_records_expire_within_bounds(
    ttl_s: int, expected_s: float
) -> None:
    waits: list[float] = []

    async def look() -> None:
        server = DnsServer(Target(1, 1, "h.example.org", 8000), ttl_s=ttl_s)

        async def wait(seconds: float) -> None:
            waits.append(seconds)

        async with asked(server, wait) as source:
            await source.addresses()
            await source.addresses()
        assert server.queries == 2

    asyncio.run(look())
    assert waits[1] == pytest.approx(expected_s, abs=2.0)


def test_a_node_joins_by_the_records_of_a_name() -> None:
    async def join() -> None:
        config = NodeConfig(keys=ClusterKey(bytes(32)), bind="127.0.0.1:0")
        async with Node(config) as first:
            server = DnsServer(Target(1, 1, "localhost", first.address.port))
            async with asked(server) as source, Node(config, discovery=[source]) as second:
                await second.ready(timeout=10)

    asyncio.run(join())


def test_without_its_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name == "dns" or name.startswith("dns."):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as raised:
        Node(NodeConfig(keys=ClusterKey(bytes(32)), bootstrap_peers=f"srv+{SERVICE}"))
    expected = f"bootstrap_peers: srv+{SERVICE} needs: pip install 'grapevine-tui[dns]'"
    assert str(raised.value) == expected
