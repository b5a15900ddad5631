"""A few neighbours in this process that talk, so that every panel of the app is alive at once.

What must stay true:

- They are real nodes on real sockets of the loopback interface, under a key made for this run, and
  keep nothing: when the demonstration ends, no trace of it is left.
- They talk at a human rate. One of them is now and then too loud for the node that is shown, the
  way it happens in earnest: it restarts, and starts again with a burst.

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

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_proto.ids import PeerId
from grapevine_proto.node import Node
from grapevine_tui.host import Host


class Neighbour(NamedTuple):
    name: str
    zone: str


NEIGHBOURS: Final = (
    Neighbour("ams-2", "eu-west"),
    Neighbour("fra-1", "eu-central"),
    Neighbour("lon-1", "eu-west"),
    Neighbour("nyc-3", "us-east"),
    Neighbour("sin-1", "ap-south"),
)
LOUD: Final = "nyc-3"
PAUSE_S: Final = 5.0  # between one's lines, on average: with five of them, a line a second
LOUD_FIRST_S: Final = 4.0  # soon, so that whoever has a look sees it; then now and then
LOUD_EVERY_S: Final = 40.0
BURST: Final = 8  # more than half of what the demonstrated node allows: two of them are too many
LEAVE_S: Final = 0.3
PRIVATE_CHANCE: Final = 0.1

LINES: Final = (
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
    "größer als gedacht: 3 GB log an einem Tag",
    "夜間バッチ完了",
)


class Demo:
    """The neighbours of `host`, which is told of nothing: they dial it once it runs."""

    def __init__(self, host: Host, *, rng: random.Random | None = None) -> None:
        self._host = host
        self._rng = random.Random() if rng is None else rng  # small talk, no secrets
        self._nodes: dict[str, Node] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the neighbours listen."""
        return tuple(str(node.address) for node in self._nodes.values())

    async def start(self) -> None:
        """Start the neighbours; they find each other, then the host. Raises GrapevineError."""
        self._folder = tempfile.TemporaryDirectory(prefix="grapevine-demo-")
        try:
            for neighbour in NEIGHBOURS:
                await self._start_one(neighbour)
        except BaseException:
            await self.stop()
            raise
        self._tasks = [self._begin(self._talk(each)) for each in NEIGHBOURS]
        self._tasks += [self._begin(self._meet_host()), self._begin(self._be_loud())]

    async def stop(self) -> None:
        """Stop them all and remove what they kept."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        nodes, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(*(node.leave(LEAVE_S) for node in nodes), return_exceptions=True)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    async def _start_one(self, neighbour: Neighbour) -> None:
        config = NodeConfig.local(
            keys=self._host.config.keys,
            cluster=self._host.config.cluster,
            bootstrap_peers=self.addresses[:2],
            name=neighbour.name,
            zone=neighbour.zone,
        )
        # The loud one keeps its identity over its restarts, or it would be somebody new each time.
        kept = Path(self._folder.name) if self._folder and neighbour.name == LOUD else None
        node = Node(config, state_dir=kept)
        await node.start()
        self._nodes[neighbour.name] = node

    async def _meet_host(self) -> None:
        await self._host.is_started.wait()
        for node in self._nodes.values():
            node.dial(self._host.node.address)

    async def _talk(self, neighbour: Neighbour) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / PAUSE_S))
            line = self._rng.choice(LINES).encode()
            node = self._nodes[neighbour.name]
            with contextlib.suppress(GrapevineError):  # just restarting, or not linked
                if self._rng.random() < PRIVATE_CHANCE:
                    await node.send(self._host.node.peer_id, line)
                else:
                    await node.broadcast(line)

    async def _be_loud(self) -> None:
        await self._host.is_started.wait()
        loud = next(each for each in NEIGHBOURS if each.name == LOUD)
        pause_s = LOUD_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = LOUD_EVERY_S * self._rng.uniform(0.7, 1.3)
            host_id = self._host.node.peer_id
            await _burst(self._nodes[LOUD], host_id, "worker crashed, retrying job")
            await self._nodes[LOUD].leave(LEAVE_S)
            await self._start_one(loud)
            with contextlib.suppress(GrapevineError, TimeoutError):
                self._nodes[LOUD].dial(self._host.node.address)
                await self._nodes[LOUD].ready(min_peers=len(NEIGHBOURS) - 1, timeout=5.0)
                await _burst(self._nodes[LOUD], host_id, "worker is back, replaying job")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)


async def _burst(node: Node, to: PeerId, words: str) -> None:
    with contextlib.suppress(GrapevineError):
        for number in range(1, BURST + 1):
            await node.send(to, f"{words} {number}".encode())
