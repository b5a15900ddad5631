"""Three zones, 1 ms inside and 80 ms between: what crosses, and how long the last one waits, by distribution.

    python -m tests.benchmarks.bench_zones                    # 90 nodes, 8 links at most: some minutes
    python -m tests.benchmarks.bench_zones --strategy flood --nodes 45

In the simulator: nodes find each other, links settle for 60 s, ten messages warm the trees up, thirty are
counted. `links` is the part of all links whose ends stand in different zones, `bytes` that of all that was
sent meanwhile, heartbeats and repair too. Ends with 1 where somebody was not reached.
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
class Crossing:
    """Shares are of 1; the last delivery's mean over the messages, in seconds."""

    links: float
    bytes: float
    last_s: float
    missed: int
    redundancy: float


def crossing(
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
) -> Crossing:
    """How much of what nodes send crosses zones."""
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
        said = []
        for _ in range(messages):
            said.append(sim.broadcast(rng.randrange(nodes), bytes(size_bytes)))
            sim.run(1.0)
        part = (sim.bytes_between_zones - between) / (sim.bytes - total)
        sim.run(5.0)
        reports = [sim.report(each) for each in said]
        return Crossing(
            links,
            part,
            sum(report.last for report in reports) / messages,
            sum(report.missed for report in reports),
            sum(report.redundancy for report in reports) / messages,
        )


def share_of_links(sim: Simulation) -> float:
    """The part of links whose ends stand in different zones."""
    crossing = total = 0
    for node in sim.nodes:
        for peer in sim.peers(node.number):
            if peer.state is PeerState.CONNECTED:
                total += 1
                crossing += peer.zone != node.config.zone
    return crossing / total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=90)
    parser.add_argument("--max-peers", type=int, default=8)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(
        "| distribution | links that cross | bytes that cross | mean time to last | copies beyond the first |"
    )
    print("|---|---|---|---|---|", flush=True)
    missed = 0
    for distribution in DISTRIBUTIONS:
        found = crossing(
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
