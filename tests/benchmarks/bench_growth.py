"""Cost of one node as its cluster grows: memory, processor and traffic, idle and at many broadcasts.

    python -m tests.benchmarks.bench_growth                          # 10, 100, 1,000 nodes: some minutes
    python -m tests.benchmarks.bench_growth --nodes 10000 --members 256 --busy 0
    python -m tests.benchmarks.bench_growth --nodes 10,1000 --apart 10 --calls

Runs in the simulator; each node has at most five links, which exist from the start. All numbers are per
node: processor time and memory of the process divided by the number of nodes. Memory is what the nodes
added to the process. Broadcasts are of 100 bytes, from random nodes.

Two options separate the cost of the cluster from that of the process. `--apart 10` runs as many nodes in
separate clusters of ten, in turns. `--calls` counts function calls instead of time, which does not depend
on memory access.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from grapevine_proto import NodeConfig
from grapevine_proto.config.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.sim import Network, Simulation, memoized

LINKS = 5
SETTLE_S = 20.0
PAGE_BYTES = 4096
TURN_S = 0.05


@dataclass(frozen=True)
class Cost:
    """Cost of one node per virtual second."""

    work: float  # microseconds of processor time, or function calls
    datagrams: float  # sent
    bytes: float  # sent
    memory_kib: float
    known_members: float


def cost(
    *,
    nodes: int,
    broadcasts_per_s: int,
    seconds: float,
    members: int = 10_000,
    apart: int = 0,
    calls: bool = False,
    seed: int = 1,
) -> Cost:
    """Runs clusters of `apart` nodes each (0: one cluster of all nodes) for `seconds` after they settled."""
    config = NodeConfig.lan(
        max_peers=LINKS,
        limits=LimitsConfig(members=members),
        rate_limit=RateLimitConfig(enabled=False),
    )
    gc.collect()
    before = _resident_bytes()
    with memoized():
        size = apart or nodes
        clusters = [
            Simulation(
                nodes=size,
                seed=seed + number,
                config=config,
                network=Network(per_pair=True),
                initial_links=min(LINKS, size - 1),
                hash_trace=False,
            )
            for number in range(nodes // size)
        ]
        _run(clusters, SETTLE_S)
        rng = random.Random(seed)
        gc.collect()
        gc.disable()  # a collection traverses all nodes; a real process has one
        datagrams = sum(each.datagrams for each in clusters)
        size_bytes = sum(each.bytes for each in clusters)
        with _Work(calls) as work:
            for _ in range(int(seconds * broadcasts_per_s)):
                rng.choice(clusters).broadcast(rng.randrange(size), bytes(100))
                _run(clusters, 1 / broadcasts_per_s)
            if not broadcasts_per_s:
                _run(clusters, seconds)
        gc.enable()
        engines = [node.engine for each in clusters for node in each.nodes]
        known = sum(len(engine.members()) for engine in engines if engine is not None)
        per_node_s = nodes * seconds
        return Cost(
            work.done / per_node_s,
            (sum(each.datagrams for each in clusters) - datagrams) / per_node_s,
            (sum(each.bytes for each in clusters) - size_bytes) / per_node_s,
            (_resident_bytes() - before) / nodes / 1024,
            known / nodes,
        )


def _run(clusters: list[Simulation], seconds: float) -> None:
    """Runs the clusters in turns of a hundredth of a heartbeat interval."""
    if len(clusters) == 1:
        clusters[0].run(seconds)
        return
    for _ in range(round(seconds / TURN_S)):
        for each in clusters:
            each.run(TURN_S)


class _Work:
    """Measures microseconds of processor time within a `with` block, or function calls."""

    def __init__(self, calls: bool) -> None:
        self._profile = cProfile.Profile() if calls else None
        self._began = 0.0
        self.done = 0.0

    def __enter__(self) -> Self:
        if self._profile is not None:
            self._profile.enable()
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.done = (time.process_time() - self._began) * 1e6
        if self._profile is not None:
            self._profile.disable()
            self.done = sum(entry.callcount for entry in self._profile.getstats())


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", default="10,100,1000", help="separated by commas")
    parser.add_argument("--members", type=int, default=10_000, help="limit of each member table")
    parser.add_argument("--busy", type=int, default=100, help="broadcasts a second; 0: idle only")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--apart", type=int, default=0, help="size of separate clusters")
    parser.add_argument("--calls", action="store_true", help="count function calls instead of time")
    options = parser.parse_args()
    work = "calls" if options.calls else "processor, us"
    print(f"| nodes | broadcasts/s | {work}/s | datagrams/s | bytes/s | KiB | members known |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for nodes in map(int, options.nodes.split(",")):
        for rate in dict.fromkeys((0, options.busy)):
            found = cost(
                nodes=nodes,
                broadcasts_per_s=rate,
                seconds=options.seconds,
                members=options.members,
                apart=options.apart,
                calls=options.calls,
            )
            print(
                f"| {nodes:,} | {rate} | {found.work:,.0f} | {found.datagrams:.1f}"
                f" | {found.bytes:,.0f} | {found.memory_kib:,.0f} | {found.known_members:,.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
