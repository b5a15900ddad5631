"""Months in minutes: ``python -m tests.benchmarks.soak [MINUTES]``.

A small cluster of real nodes on loopback under steady traffic, with short lives for everything that is
meant to expire (5 s instead of 300, rekeys of sessions through restarts every few seconds), so that what
leaks shows soon. One node is killed and comes back all the time. Prints what the process weighs, and
ends with exit code 1 where memory, descriptors or a table still grow in the second half of the run, or
where the nodes that stayed missed anything.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from grapevine_proto import AntiEntropyConfig, ClusterKey, Message, Node, NodeConfig, PeerId

STAYING = 4
RATE = 200  # messages a second, in all
REPORT_S = 10.0
LIFE_S = 4.0  # of the node that comes and goes
SETTLE_S = 5.0  # at the end, for what is on its way
WATCHED = ("memory_mb", "descriptors", "objects", "streams")  # what is held follows the traffic
GROWTH = 1.10  # of memory, from the middle of the run to its end

CONFIG = NodeConfig(
    keys=(ClusterKey(bytes(range(32))),),
    gossip_interval=0.5,
    peer_timeout=3.0,
    message_dedup_ttl=5.0,
    reconnect_timeout=20.0,
    tombstone_timeout=20.0,
    anti_entropy=AntiEntropyConfig(interval=3.0),
)


class Weight(NamedTuple):
    """What the process holds."""

    memory_mb: float
    descriptors: int
    objects: int
    held: int
    streams: int


def weigh(nodes: list[Node]) -> Weight:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    stats = [node.stats() for node in nodes]
    return Weight(
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(gc.get_objects()),
        sum(each.cached for each in stats),
        sum(each.streams for each in stats),
    )


class Watch:
    """Who was told what: every message once at every node that stays. Weighs a byte a message."""

    def __init__(self) -> None:
        self.sent = 0
        self.twice = 0
        self.got = 0
        self._seen: list[dict[PeerId, bytearray]] = [{} for _ in range(STAYING)]

    def heard(self, number: int, message: Message) -> None:
        seen = self._seen[number].setdefault(message.origin, bytearray())
        sequence = message.id.sequence
        seen.extend(bytes(max(0, sequence + 1 - len(seen))))
        self.twice += seen[sequence]
        seen[sequence] = 1
        self.got += 1

    @property
    def missed(self) -> int:
        return self.sent * (STAYING - 1) + self.twice - self.got


async def talk(nodes: list[Node], watch: Watch) -> None:
    number = 0
    while True:
        number += 1
        by = number % STAYING
        await nodes[by].broadcast(b"%012d" % number + bytes(188))
        watch.sent += 1
        await asyncio.sleep(1 / RATE)


async def come_and_go(state: Path, first: Node) -> None:
    config = CONFIG.replace(bootstrap_peers=[str(first.address)])
    for life in range(sys.maxsize):
        async with Node(config, state_dir=state if life % 2 else None) as node:
            await node.ready(timeout=10.0)
            await asyncio.sleep(LIFE_S)


async def soak(minutes: float) -> int:
    watch = Watch()
    with tempfile.TemporaryDirectory() as directory:
        nodes = [Node(CONFIG, state_dir=Path(directory) / str(n)) for n in range(STAYING)]
        for number, node in enumerate(nodes):
            node.on_message(lambda message, number=number: _note(watch, nodes, number, message))
            await node.start()
            if number:
                await node.dial(nodes[0].address)
        await asyncio.gather(*(node.ready(STAYING - 1, timeout=20.0) for node in nodes))
        work = [
            asyncio.create_task(talk(nodes, watch)),
            asyncio.create_task(come_and_go(Path(directory) / "guest", nodes[0])),
        ]
        began, weights = time.monotonic(), []
        while time.monotonic() - began < minutes * 60:
            await asyncio.sleep(REPORT_S)
            for task in work:
                if task.done():
                    task.result()
            weights.append(weigh(nodes))
            print(f"{time.monotonic() - began:6.0f} s  {watch.sent:8d} sent  {weights[-1]}")
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await asyncio.sleep(SETTLE_S)
        await asyncio.gather(*(node.leave() for node in nodes))
    middle, end = weights[len(weights) // 2], weights[-1]
    grew = [name for name in WATCHED if getattr(end, name) > GROWTH * getattr(middle, name)]
    print(
        f"missed {watch.missed}, twice {watch.twice}, still growing: {', '.join(grew) or 'nothing'}"
    )
    return int(bool(watch.missed or watch.twice or grew))


def _note(watch: Watch, nodes: list[Node], number: int, message: Message) -> None:
    if message.origin != nodes[number].peer_id:
        watch.heard(number, message)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("minutes", type=float, nargs="?", default=5.0, help="how long [5]")
    return uvloop.run(soak(parser.parse_args().minutes))


if __name__ == "__main__":
    sys.exit(main())
