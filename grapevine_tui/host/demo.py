"""Demo peers in this process that send messages, so that every panel of the app has something to
show.

Invariants:

- They are real nodes on loopback sockets, under a key created for this run, and leave nothing
  behind.
- They send at a human rate. One of them periodically exceeds its rate limit in a realistic way: it
  restarts and begins with a burst.

Driven by the app (`start`, `stop`) beside a `Host`, in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_proto.ids import PeerId
from grapevine_proto.node import Node
from grapevine_tui.host.local import Host


class DemoNode(NamedTuple):
    name: str
    zone: str


DEMO_NODES: Final = (
    DemoNode("ams-2", "eu-west"),
    DemoNode("fra-1", "eu-central"),
    DemoNode("lon-1", "eu-west"),
    DemoNode("nyc-3", "us-east"),
    DemoNode("sin-1", "ap-south"),
)
NOISY_NODE: Final = "nyc-3"
MESSAGE_INTERVAL_S: Final = (
    5.0  # mean time between messages of one node; with five of them, one message a second
)
FIRST_BURST_DELAY_S: Final = 4.0  # soon, so that a short look shows it
BURST_INTERVAL_S: Final = 40.0
BURST_MESSAGES: Final = 8  # more than half of what the node shown allows, so two exceed its limit
LEAVE_TIMEOUT_S: Final = 0.3
DIRECT_MESSAGE_PROBABILITY: Final = 0.1

MESSAGE_TEXTS: Final = (
    "deploy of api finished",
    "disk 91 % on db-3, cleaning up",
    "cache warm again, hit rate 0.97",
    "certificate renewed, 89 days left",
    "rolling restart of workers: 3 of 8",
    "rolling restart of workers: 8 of 8",
    "backup of orders done, 41 GB in 6 min",
    "latency to payments back to 40 ms",
    "new leader for shard 12",
    "queue depth 0, nothing waiting",
    "clock offset 0.3 ms",
    "thanks, looking",
    "looks good from here",
    '{"job":"reindex","done":0.62}',
    "log volume up 12 % since yesterday",
    "夜間バッチ完了",
)


class Demo:
    """The peers of `host`. They dial it once it runs; the host does not know of them."""

    def __init__(self, host: Host, *, rng: random.Random | None = None) -> None:
        self._host = host
        self._rng = random.Random() if rng is None else rng  # not used for secrets
        self._nodes: dict[str, Node] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._state_directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the peers."""
        return tuple(str(node.address) for node in self._nodes.values())

    async def start(self) -> None:
        """Start the peers; they discover each other, then the host. Raises GrapevineError."""
        self._state_directory = tempfile.TemporaryDirectory(prefix="grapevine-demo-")
        try:
            for demo_node in DEMO_NODES:
                await self._start_node(demo_node)
        except BaseException:
            await self.stop()
            raise
        self._tasks = [self._start_task(self._send_messages(each)) for each in DEMO_NODES]
        self._tasks += [self._start_task(self._dial_host()), self._start_task(self._send_bursts())]

    async def stop(self) -> None:
        """Stop all peers and remove their state."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        nodes, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(
            *(node.leave(LEAVE_TIMEOUT_S) for node in nodes), return_exceptions=True
        )
        if self._state_directory is not None:
            self._state_directory.cleanup()
            self._state_directory = None

    async def _start_node(self, demo_node: DemoNode) -> None:
        config = NodeConfig.local(
            keys=self._host.config.keys,
            cluster=self._host.config.cluster,
            bootstrap_peers=self.addresses[:2],
            name=demo_node.name,
            zone=demo_node.zone,
        )
        # The noisy peer keeps its identity over restarts; otherwise it would be a new member each
        # time.
        state_dir = (
            Path(self._state_directory.name)
            if self._state_directory and demo_node.name == NOISY_NODE
            else None
        )
        node = Node(config, state_dir=state_dir)
        await node.start()
        self._nodes[demo_node.name] = node

    async def _dial_host(self) -> None:
        await self._host.started.wait()
        for node in self._nodes.values():
            node.dial(self._host.node.address)

    async def _send_messages(self, demo_node: DemoNode) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / MESSAGE_INTERVAL_S))
            payload = self._rng.choice(MESSAGE_TEXTS).encode()
            node = self._nodes[demo_node.name]
            with contextlib.suppress(GrapevineError):  # restarting, or not connected
                if self._rng.random() < DIRECT_MESSAGE_PROBABILITY:
                    await node.send(self._host.node.peer_id, payload)
                else:
                    await node.broadcast(payload)

    async def _send_bursts(self) -> None:
        await self._host.started.wait()
        noisy = next(each for each in DEMO_NODES if each.name == NOISY_NODE)
        delay_s = FIRST_BURST_DELAY_S
        while True:
            await asyncio.sleep(delay_s)
            delay_s = BURST_INTERVAL_S * self._rng.uniform(0.7, 1.3)
            host_id = self._host.node.peer_id
            await _send_burst(self._nodes[NOISY_NODE], host_id, "worker crashed, retrying job")
            await self._nodes[NOISY_NODE].leave(LEAVE_TIMEOUT_S)
            await self._start_node(noisy)
            with contextlib.suppress(GrapevineError, TimeoutError):
                self._nodes[NOISY_NODE].dial(self._host.node.address)
                await self._nodes[NOISY_NODE].ready(min_peers=len(DEMO_NODES) - 1, timeout=5.0)
                await _send_burst(self._nodes[NOISY_NODE], host_id, "worker is back, replaying job")

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(coroutine)


async def _send_burst(node: Node, to: PeerId, text: str) -> None:
    with contextlib.suppress(GrapevineError):
        for number in range(1, BURST_MESSAGES + 1):
            await node.send(to, f"{text} {number}".encode())
