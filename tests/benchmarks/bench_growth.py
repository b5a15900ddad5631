"""What one node costs as its cluster grows: memory, processor, traffic; idle, and at many broadcasts.

    python -m tests.benchmarks.bench_growth                          # 10, 100, 1,000 nodes: some minutes
    python -m tests.benchmarks.bench_growth --nodes 10000 --members 256 --busy 0

In the simulator, every node with five links at most, so linked from the start; all figures are of one node:
processor time and memory of the process divided by the nodes. Small clusters pay the most for what a process
has anyway, so memory is what the nodes added. Broadcasts are of 100 bytes, from random nodes.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from grapevine_proto import NodeConfig
from grapevine_proto.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.sim import Network, Simulation, computed_once

LINKS = 5
SETTLE_S = 20.0
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Cost:
    """Of one node. Processor in microseconds, traffic in datagrams and bytes sent, a virtual second."""

    cpu_us: float
    datagrams: float
    bytes: float
    memory_kib: float
    known_members: float


def cost(
    *, nodes: int, broadcasts_per_s: int, seconds: float, members: int = 10_000, seed: int = 1
) -> Cost:
    """Let a cluster be for `seconds`, after it has settled."""
    config = NodeConfig.lan(
        max_peers=LINKS,
        limits=LimitsConfig(members=members),
        rate_limit=RateLimitConfig(enabled=False),
    )
    gc.collect()
    before = _resident_bytes()
    with computed_once():
        sim = Simulation(
            nodes=nodes,
            seed=seed,
            config=config,
            network=Network(per_pair=True),
            linked=min(LINKS, nodes - 1),
            traced=False,
        )
        sim.run(SETTLE_S)
        rng = random.Random(seed)
        gc.collect()
        gc.disable()  # it looks through all nodes at once, where a process of its own has one
        datagrams, size_bytes, began = sim.datagrams, sim.bytes, time.process_time()
        for _ in range(int(seconds * broadcasts_per_s)):
            sim.broadcast(rng.randrange(nodes), bytes(100))
            sim.run(1 / broadcasts_per_s)
        if not broadcasts_per_s:
            sim.run(seconds)
        cpu_s = time.process_time() - began
        gc.enable()
        engines = [node.engine for node in sim.nodes if node.engine is not None]
        known = sum(len(engine.members()) for engine in engines)
        per_node_s = nodes * seconds
        return Cost(
            cpu_s * 1e6 / per_node_s,
            (sim.datagrams - datagrams) / per_node_s,
            (sim.bytes - size_bytes) / per_node_s,
            (_resident_bytes() - before) / nodes / 1024,
            known / nodes,
        )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", default="10,100,1000", help="by commas")
    parser.add_argument("--members", type=int, default=10_000, help="cap of each member table")
    parser.add_argument("--busy", type=int, default=100, help="broadcasts a second; 0: idle alone")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    print(
        "| nodes | broadcasts/s | processor, us/s | datagrams/s | bytes/s | KiB | members known |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for nodes in map(int, options.nodes.split(",")):
        for rate in dict.fromkeys((0, options.busy)):
            found = cost(
                nodes=nodes,
                broadcasts_per_s=rate,
                seconds=options.seconds,
                members=options.members,
            )
            print(
                f"| {nodes:,} | {rate} | {found.cpu_us:,.0f} | {found.datagrams:.1f}"
                f" | {found.bytes:,.0f} | {found.memory_kib:,.0f} | {found.known_members:,.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
