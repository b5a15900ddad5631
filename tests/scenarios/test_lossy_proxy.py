"""Real sockets through a bad network: eight nodes, a thousand messages, none lost, none twice.

Every datagram between two nodes passes a proxy in this process that loses 30 %, duplicates 10 %, holds
back 10 % so that others overtake them, and corrupts 2 %. Nodes only know each other's faces at the
proxy, so nothing goes round it, handshakes included.
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
LOST, TWICE, LATE, CORRUPT = 0.30, 0.10, 0.10, 0.02
LATE_S = (0.002, 0.040)  # held back for so long, while the next ones go on
PAUSE_S = 0.02  # between two messages of one node, so that they do not all share one signature
GIVE_UP_S = 60.0
SEED = 20


@dataclass
class Weather:
    """What became of the datagrams."""

    rng: random.Random
    seen: Counter[str]

    def treat(self, datagram: bytes) -> list[tuple[float, bytes]]:
        """What arrives of `datagram`: seconds from now, and bytes."""
        self.seen["sent"] += 1
        if self.rng.random() < LOST:
            self.seen["lost"] += 1
            return []
        copies = 1
        if self.rng.random() < TWICE:
            self.seen["twice"] += 1
            copies = 2
        return [self._copy(datagram) for _ in range(copies)]

    def _copy(self, datagram: bytes) -> tuple[float, bytes]:
        delay_s = 0.0
        if self.rng.random() < LATE:
            self.seen["late"] += 1
            delay_s = self.rng.uniform(*LATE_S)
        if self.rng.random() < CORRUPT:
            self.seen["corrupt"] += 1
            spoilt = bytearray(datagram)
            spoilt[self.rng.randrange(len(spoilt))] ^= 1 << self.rng.randrange(8)
            datagram = bytes(spoilt)
        return delay_s, datagram


Address = tuple[str, int]


class Face(asyncio.DatagramProtocol):
    """One node as the others see it: what is sent here goes to the node, as from its sender's face."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.node: Address | None = None
        self.transport: asyncio.DatagramTransport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._proxy.carry(data, addr, self)

    def say(self, datagram: bytes, to: Address) -> None:
        if not self.transport.is_closing():  # what was held back when all was over
            self.transport.sendto(datagram, to)

    def error_received(self, exc: Exception) -> None:
        """A node that has left; what was on its way to it is lost."""


class Proxy:
    """The network between the faces."""

    def __init__(self, seed: int) -> None:
        self.weather = Weather(random.Random(seed), Counter())
        self._faces: dict[Address, Face] = {}  # by the node's own address

    async def face(self) -> Face:
        loop = asyncio.get_running_loop()
        face = Face(self)
        face.transport, _ = await loop.create_datagram_endpoint(
            lambda: face, local_addr=("127.0.0.1", 0)
        )
        return face

    def stand_for(self, face: Face, node: Node) -> None:
        face.node = (node.address.host, node.address.port)
        self._faces[face.node] = face

    def carry(self, datagram: bytes, source: Address, to: Face) -> None:
        sender = self._faces.get(source)
        if sender is None or to.node is None:
            return
        for delay_s, copy in self.weather.treat(datagram):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, sender.say, copy, to.node)
            else:
                sender.say(copy, to.node)


class Ledger:
    """Who was given what, how often."""

    def __init__(self) -> None:
        self.given: list[Counter[MessageId]] = []

    def keep_for(self, node: Node) -> None:
        given: Counter[MessageId] = Counter()
        self.given.append(given)

        @node.on_message
        def note(message: Message) -> None:
            given[message.id] += 1

    async def wait_for(self, total: int) -> None:
        while sum(map(len, self.given)) < total:  # noqa: ASYNC110  nobody tells of the last one
            await asyncio.sleep(0.05)


async def speak(node: Node, name: int) -> None:
    for number in range(MESSAGES // NODES):
        await node.broadcast(b"%d says %d" % (name, number))
        await asyncio.sleep(PAUSE_S)


async def leave_all(nodes: list[Node]) -> None:
    """At once, and without waiting for words that this network takes long to carry."""
    await asyncio.gather(*(node.leave(timeout=1.0) for node in nodes))


async def scenario() -> tuple[Ledger, Weather, Counter[DropReason]]:
    proxy, ledger, key = Proxy(SEED), Ledger(), ClusterKey.generate()
    nodes: list[Node] = []
    async with AsyncExitStack() as faces, AsyncExitStack() as running:
        running.push_async_callback(leave_all, nodes)
        first = ""
        for _ in range(NODES):
            face = await proxy.face()
            faces.callback(face.transport.close)
            host, port = face.transport.get_extra_info("sockname")
            shown = f"{host}:{port}"
            config = NodeConfig.local(
                keys=[key], advertise=shown, bootstrap_peers=[first] if first else []
            )
            first = first or shown
            node = Node(config)
            await node.start()
            proxy.stand_for(face, node)
            ledger.keep_for(node)
            nodes.append(node)
        async with asyncio.timeout(GIVE_UP_S):
            await asyncio.gather(*(node.ready(min_peers=2) for node in nodes))
            await asyncio.gather(*(speak(node, name) for name, node in enumerate(nodes)))
            await ledger.wait_for(MESSAGES * (NODES - 1))
            await asyncio.sleep(1.0)  # for what would come a second time
        drops: Counter[DropReason] = Counter()
        for node in nodes:
            drops.update(dict(node.stats().dropped))
        return ledger, proxy.weather, drops


def _loop() -> asyncio.AbstractEventLoop:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def test_nothing_is_lost_and_nothing_comes_twice_through_a_bad_network() -> None:
    # uvloop where there is one: asyncio's own loop reads one datagram of a socket in a turn, so that
    # on a busy machine sixteen sockets in one process would measure the loop instead of the protocol.
    with asyncio.Runner(loop_factory=_loop) as runner:
        ledger, weather, drops = runner.run(scenario())
    assert [len(given) for given in ledger.given] == [MESSAGES - MESSAGES // NODES] * NODES
    assert {count for given in ledger.given for count in given.values()} == {1}
    # and the weather was as bad as it was meant to be
    sent = weather.seen["sent"]
    assert sent > MESSAGES
    for what, part in (("lost", LOST), ("twice", TWICE * 0.7), ("late", LATE * 0.77)):
        assert weather.seen[what] / sent == pytest.approx(part, rel=0.2), weather.seen
    assert weather.seen["corrupt"] > 0
    assert drops[DropReason.DECRYPT_FAILED] + drops[DropReason.UNKNOWN_SESSION] > 0
