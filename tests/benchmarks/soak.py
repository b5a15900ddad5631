"""Months of operation in minutes: ``python -m tests.benchmarks.soak [MINUTES]``.

A small cluster of real nodes on loopback under steady traffic, with short lifetimes for everything that
expires (5 s instead of 300; sessions end at restarts every few seconds), so that leaks show soon. One node
restarts all the time. Prints what the process uses. Exit code 1: memory, descriptors or a table still grew
in the second half of the run, or a permanent node missed a message.
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
RATE = 200  # messages a second in the cluster
REPORT_S = 10.0
LIFE_S = 4.0  # of the node that restarts
SETTLE_S = 5.0  # at the end, for messages in flight
WATCHED = (
    "memory_mb",
    "descriptors",
    "objects",
    "streams",
)  # the message cache follows the traffic
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


class Usage(NamedTuple):
    """Resources of the process."""

    memory_mb: float
    descriptors: int
    objects: int
    cached: int
    streams: int


def usage_of(nodes: list[Node]) -> Usage:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    stats = [node.stats() for node in nodes]
    return Usage(
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(gc.get_objects()),
        sum(each.cached for each in stats),
        sum(each.streams for each in stats),
    )


class DeliveryLog:
    """Counts deliveries to the permanent nodes, each message once. Uses one byte per message and node."""

    def __init__(self) -> None:
        self.sent = 0
        self.twice = 0
        self.got = 0
        self._seen: list[dict[PeerId, bytearray]] = [{} for _ in range(STAYING)]

    def on_message(self, number: int, message: Message) -> None:
        seen = self._seen[number].setdefault(message.origin, bytearray())
        sequence = message.id.sequence
        seen.extend(bytes(max(0, sequence + 1 - len(seen))))
        self.twice += seen[sequence]
        seen[sequence] = 1
        self.got += 1

    @property
    def missed(self) -> int:
        return self.sent * (STAYING - 1) + self.twice - self.got


async def broadcast_steadily(nodes: list[Node], log: DeliveryLog) -> None:
    number = 0
    while True:
        number += 1
        by = number % STAYING
        await nodes[by].broadcast(b"%012d" % number + bytes(188))
        log.sent += 1
        await asyncio.sleep(1 / RATE)


async def restart_repeatedly(state: Path, first: Node) -> None:
    config = CONFIG.replace(bootstrap_peers=[str(first.address)])
    for life in range(sys.maxsize):
        async with Node(config, state_dir=state if life % 2 else None) as node:
            await node.ready(timeout=10.0)
            await asyncio.sleep(LIFE_S)


async def soak(minutes: float) -> int:
    log = DeliveryLog()
    with tempfile.TemporaryDirectory() as directory:
        nodes = [Node(CONFIG, state_dir=Path(directory) / str(n)) for n in range(STAYING)]
        for number, node in enumerate(nodes):
            node.on_message(lambda message, number=number: _note(log, nodes, number, message))
            await node.start()
            if number:
                await node.dial(nodes[0].address)
        await asyncio.gather(*(node.ready(STAYING - 1, timeout=20.0) for node in nodes))
        work = [
            asyncio.create_task(broadcast_steadily(nodes, log)),
            asyncio.create_task(restart_repeatedly(Path(directory) / "restarting", nodes[0])),
        ]
        began, samples = time.monotonic(), []
        while time.monotonic() - began < minutes * 60:
            await asyncio.sleep(REPORT_S)
            for task in work:
                if task.done():
                    task.result()
            samples.append(usage_of(nodes))
            print(f"{time.monotonic() - began:6.0f} s  {log.sent:8d} sent  {samples[-1]}")
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await asyncio.sleep(SETTLE_S)
        await asyncio.gather(*(node.leave() for node in nodes))
    middle, end = samples[len(samples) // 2], samples[-1]
    grew = [name for name in WATCHED if getattr(end, name) > GROWTH * getattr(middle, name)]
    print(f"missed {log.missed}, twice {log.twice}, still growing: {', '.join(grew) or 'nothing'}")
    return int(bool(log.missed or log.twice or grew))


def _note(log: DeliveryLog, nodes: list[Node], number: int, message: Message) -> None:
    if message.origin != nodes[number].peer_id:
        log.on_message(number, message)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("minutes", type=float, nargs="?", default=5.0, help="how long [5]")
    return uvloop.run(soak(parser.parse_args().minutes))


if __name__ == "__main__":
    sys.exit(main())
