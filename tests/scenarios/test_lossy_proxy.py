"""Real sockets over a bad network: eight nodes, a thousand messages, none lost, none duplicated.

Every datagram between two nodes passes a proxy in this process that drops 30 %, duplicates 10 %,
delays 10 % so that others overtake them, and corrupts 2 %. Nodes know each other only by their
proxy addresses, so every datagram passes it, handshakes included.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import pytest

from grapevine_proto import ClusterKey, DropReason, Message, MessageId, Node, NodeConfig

NODES = 8
MESSAGES = 1000
LOST, DUPLICATED, DELAYED, CORRUPT = 0.30, 0.10, 0.10, 0.02
DELAY_S = (0.002, 0.040)  # delay, during which later datagrams overtake
PAUSE_S = 0.02  # between two messages of one node, so that they do not all share one signature
TIMEOUT_S = 60.0
SEED = 20


@dataclass
class Impairments:
    """What happened to the datagrams."""

    rng: random.Random
    counts: Counter[str]

    def apply(self, datagram: bytes) -> list[tuple[float, bytes]]:
        """What arrives of `datagram`: delays in seconds, and bytes."""
        self.counts["sent"] += 1
        if self.rng.random() < LOST:
            self.counts["lost"] += 1
            return []
        copies = 1
        if self.rng.random() < DUPLICATED:
            self.counts["duplicated"] += 1
            copies = 2
        return [self._copy(datagram) for _ in range(copies)]

    def _copy(self, datagram: bytes) -> tuple[float, bytes]:
        delay_s = 0.0
        if self.rng.random() < DELAYED:
            self.counts["delayed"] += 1
            delay_s = self.rng.uniform(*DELAY_S)
        if self.rng.random() < CORRUPT:
            self.counts["corrupt"] += 1
            corrupted = bytearray(datagram)
            corrupted[self.rng.randrange(len(corrupted))] ^= 1 << self.rng.randrange(8)
            datagram = bytes(corrupted)
        return delay_s, datagram


Address = tuple[str, int]


class ProxyEndpoint(asyncio.DatagramProtocol):
    """The proxy address of one node. A datagram sent here reaches the node from its sender's proxy
    address.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.node: Address | None = None
        self.transport: asyncio.DatagramTransport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._proxy.forward(data, addr, self)

    def send(self, datagram: bytes, to: Address) -> None:
        if not self.transport.is_closing():  # delayed beyond the end of the test
            self.transport.sendto(datagram, to)

    def error_received(self, exc: Exception) -> None:
        """The node has left; datagrams to it are lost."""


class Proxy:
    """The network between the proxy addresses."""

    def __init__(self, seed: int) -> None:
        self.impairments = Impairments(random.Random(seed), Counter())
        self._endpoints: dict[Address, ProxyEndpoint] = {}  # by the node's own address

    async def endpoint(self) -> ProxyEndpoint:
        loop = asyncio.get_running_loop()
        endpoint = ProxyEndpoint(self)
        endpoint.transport, _ = await loop.create_datagram_endpoint(
            lambda: endpoint, local_addr=("127.0.0.1", 0)
        )
        return endpoint

    def attach(self, endpoint: ProxyEndpoint, node: Node) -> None:
        endpoint.node = (node.address.host, node.address.port)
        self._endpoints[endpoint.node] = endpoint

    def forward(self, datagram: bytes, source: Address, to: ProxyEndpoint) -> None:
        sender = self._endpoints.get(source)
        if sender is None or to.node is None:
            return
        for delay_s, copy in self.impairments.apply(datagram):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, sender.send, copy, to.node)
            else:
                sender.send(copy, to.node)


class DeliveryLog:
    """Deliveries per node and message."""

    def __init__(self) -> None:
        self.deliveries: list[Counter[MessageId]] = []

    def record(self, node: Node) -> None:
        deliveries: Counter[MessageId] = Counter()
        self.deliveries.append(deliveries)

        @node.on_message
        def note(message: Message) -> None:
            deliveries[message.id] += 1

    async def wait_for(self, total: int) -> None:
        while sum(map(len, self.deliveries)) < total:  # noqa: ASYNC110  no event marks the last one
            await asyncio.sleep(0.05)


async def broadcast_all(node: Node, name: int) -> None:
    for number in range(MESSAGES // NODES):
        await node.broadcast(b"%d sends %d" % (name, number))
        await asyncio.sleep(PAUSE_S)


async def leave_all(nodes: list[Node]) -> None:
    """Leave concurrently, with a short timeout, because leaving takes long on this network."""
    await asyncio.gather(*(node.leave(timeout=1.0) for node in nodes))


async def scenario() -> tuple[DeliveryLog, Impairments, Counter[DropReason]]:
    proxy, delivery_log, key = Proxy(SEED), DeliveryLog(), ClusterKey.generate()
    nodes: list[Node] = []
    async with AsyncExitStack() as endpoints, AsyncExitStack() as running:
        running.push_async_callback(leave_all, nodes)
        first = ""
        for _ in range(NODES):
            endpoint = await proxy.endpoint()
            endpoints.callback(endpoint.transport.close)
            host, port = endpoint.transport.get_extra_info("sockname")
            proxy_address = f"{host}:{port}"
            config = NodeConfig.local(
                keys=[key], advertise=proxy_address, bootstrap_peers=[first] if first else []
            )
            first = first or proxy_address
            node = Node(config)
            await node.start()
            proxy.attach(endpoint, node)
            delivery_log.record(node)
            nodes.append(node)
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*(node.ready(min_peers=2) for node in nodes))
            await asyncio.gather(*(broadcast_all(node, name) for name, node in enumerate(nodes)))
            await delivery_log.wait_for(MESSAGES * (NODES - 1))
            await asyncio.sleep(1.0)  # for duplicates that would arrive later
        drops: Counter[DropReason] = Counter()
        for node in nodes:
            drops.update(dict(node.stats().dropped))
        return delivery_log, proxy.impairments, drops


def _loop() -> asyncio.AbstractEventLoop:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def test_a_bad_network_loses_and_duplicates_no_message() -> None:
    # uvloop if available: asyncio's loop reads one datagram per socket and turn, so on a busy
    # machine sixteen sockets in one process would measure the loop instead of the protocol.
    with asyncio.Runner(loop_factory=_loop) as runner:
        delivery_log, impairments, drops = runner.run(scenario())
    assert [len(each) for each in delivery_log.deliveries] == [MESSAGES - MESSAGES // NODES] * NODES
    assert {count for each in delivery_log.deliveries for count in each.values()} == {1}
    # and the impairments were as configured
    sent = impairments.counts["sent"]
    assert sent > MESSAGES
    for kind, share in (
        ("lost", LOST),
        ("duplicated", DUPLICATED * 0.7),
        ("delayed", DELAYED * 0.77),
    ):
        assert impairments.counts[kind] / sent == pytest.approx(share, rel=0.2), impairments.counts
    assert impairments.counts["corrupt"] > 0
    assert drops[DropReason.DECRYPT_FAILED] + drops[DropReason.UNKNOWN_SESSION] > 0
