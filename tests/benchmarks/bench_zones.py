"""Three zones, 1 ms within and 80 ms between: cross-zone traffic and delivery time, by distribution.

    python -m tests.benchmarks.bench_zones                    # 90 nodes, at most 8 links: some minutes
    python -m tests.benchmarks.bench_zones --strategy flood --nodes 45

Runs in the simulator: nodes find each other, links settle for 60 s, ten broadcasts build the trees, and
thirty are measured. `links` is the share of links between zones, `bytes` the share of all bytes sent
between zones meanwhile, heartbeats and repair included. Exit code 1: a node missed a broadcast.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from typing import Final

from grapevine_proto import NodeConfig
from grapevine_proto.events import PeerState
from grapevine_proto.sim import Network, Simulation, memoized

DISTRIBUTIONS: Final = ("uniform", "hub-and-spoke", "prefer-local", "prefer-remote")
ZONES: Final = ("a", "b", "c")
SETTLE_S = 60.0
NETWORK: Final = Network(
    latency=(0.001, 0.001), latency_between_zones=(0.080, 0.080), per_pair=True
)


@dataclass(frozen=True)
class CrossZoneTraffic:
    """Shares of 1 that cross zones, and the mean time to the last delivery."""

    links: float
    bytes: float
    last_s: float
    missed: int
    redundancy: float


def measure(
    distribution: str,
    *,
    nodes: int = 90,
    max_peers: int = 8,
    strategy: str = "auto",
    messages: int = 30,
    warmup: int = 10,
    settle_s: float = SETTLE_S,
    size_bytes: int = 1000,
    seed: int = 1,
) -> CrossZoneTraffic:
    """Measures the share of traffic between zones."""
    config = NodeConfig.lan(max_peers=max_peers, distribution=distribution, strategy=strategy)
    with memoized():
        sim = Simulation(
            nodes=nodes, seed=seed, config=config, network=NETWORK, zones=ZONES, hash_trace=False
        )
        sim.run(settle_s)
        rng = random.Random(seed)
        for _ in range(warmup):
            sim.broadcast(rng.randrange(nodes), bytes(size_bytes))
            sim.run(1.0)
        links = share_of_links(sim)
        total, between = sim.bytes, sim.bytes_between_zones
        published = []
        for _ in range(messages):
            published.append(sim.broadcast(rng.randrange(nodes), bytes(size_bytes)))
            sim.run(1.0)
        part = (sim.bytes_between_zones - between) / (sim.bytes - total)
        sim.run(5.0)
        reports = [sim.report(each) for each in published]
        return CrossZoneTraffic(
            links,
            part,
            sum(report.last for report in reports) / messages,
            sum(report.missed for report in reports),
            sum(report.redundancy for report in reports) / messages,
        )


def share_of_links(sim: Simulation) -> float:
    """Returns the share of links whose ends are in different zones."""
    measure = total = 0
    for node in sim.nodes:
        for peer in sim.peers(node.number):
            if peer.state is PeerState.CONNECTED:
                total += 1
                measure += peer.zone != node.config.zone
    return measure / total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=90)
    parser.add_argument("--max-peers", type=int, default=8)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(
        "| distribution | cross-zone links | cross-zone bytes | mean time to last | redundant copies |"
    )
    print("|---|---|---|---|---|", flush=True)
    missed = 0
    for distribution in DISTRIBUTIONS:
        found = measure(
            distribution,
            nodes=options.nodes,
            max_peers=options.max_peers,
            strategy=options.strategy,
            seed=options.seed,
        )
        missed += found.missed
        print(
            f"| `{distribution}` | {found.links:.0%} | {found.bytes:.0%} | {found.last_s * 1000:.0f} ms"
            f" | {found.redundancy:.2f} |",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
