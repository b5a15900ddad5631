"""Mass failure: which survivors receive the first broadcast after it, and one ten seconds later.

    python -m tests.benchmarks.bench_failures                       # 1,000 nodes: a quarter of an hour
    python -m tests.benchmarks.bench_failures --nodes 200 --shares 50

Runs in the simulator, under the lan profile: nodes with at most five random links run for 20 s; then a
share of them crashes at once. A survivor broadcasts immediately, and another one 10 s later; each broadcast
has 30 s to arrive. Exit code 1: a survivor was not reached.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass

from grapevine_proto import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.sim import BroadcastReport, Network, Simulation, memoized

SETTLE_S = 20.0
LATER_S = 10.0
WAIT_S = 30.0
PROMPTLY_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """Results of one run: of the broadcast at the time of the failures, and of the one 10 s later."""

    survivors: int
    first: BroadcastReport
    promptly: int  # survivors that received the first within `PROMPTLY_S`
    later: BroadcastReport
    links: float  # of a survivor after 10 s, on average


def mass_failure(
    *,
    nodes: int,
    share: float,
    max_peers: int = 5,
    members: int = 10_000,
    loss: float = 0.0,
    seed: int = 1,
) -> Outcome:
    """Crashes `share` of `nodes` at once, and broadcasts from a survivor."""
    config = NodeConfig.lan(max_peers=max_peers, limits=LimitsConfig(members=members))
    network = Network(per_pair=True, loss=loss)
    rng = random.Random(seed)
    with memoized():
        sim = Simulation(
            nodes=nodes,
            seed=seed,
            config=config,
            network=network,
            initial_links=max_peers,
            hash_trace=False,
        )
        sim.run(SETTLE_S)
        dead = set(rng.sample(range(nodes), round(share * nodes)))
        for number in sorted(dead):
            sim.crash(number)
        alive = [number for number in range(nodes) if number not in dead]
        first = sim.broadcast(rng.choice(alive), b"who is left?")
        sim.run(LATER_S)
        links = sum(map(sim.connected, alive)) / len(alive)
        later = sim.broadcast(rng.choice(alive), b"and now?")
        sim.run_until(lambda: _is_delivered(sim, alive, first, later), WAIT_S, every=0.25)
        promptly = sum(latency <= PROMPTLY_S for latency in sim.latencies(first))
        return Outcome(len(alive), sim.report(first), promptly, sim.report(later), links)


def _is_delivered(sim: Simulation, alive: list[int], *messages: object) -> bool:
    """Returns whether each survivor except the origin has received each message."""
    nodes = [sim.nodes[number] for number in alive]
    return all(
        sum(message in node.deliveries for node in nodes) >= len(alive) - 1 for message in messages
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument(
        "--shares", default="10,30,50,80", help="percentages that fail, separated by commas"
    )
    parser.add_argument("--max-peers", type=int, default=5)
    parser.add_argument("--members", type=int, default=10_000, help="limit of each member table")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    missed = 0
    print(
        "| fail | survivors | first: within 1 s | in the end | last | 10 s later | last | links |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for percent in map(float, options.shares.split(",")):
        began = time.process_time()
        found = mass_failure(
            nodes=options.nodes,
            share=percent / 100,
            max_peers=options.max_peers,
            members=options.members,
            loss=options.loss,
            seed=options.seed,
        )
        first, later, others = found.first, found.later, found.survivors - 1
        missed += first.missed + later.missed
        print(
            f"| {percent:g} % | {found.survivors} | {found.promptly / others:.1%}"
            f" | {first.coverage:.1%} | {_seconds(first.last)} | {later.coverage:.1%}"
            f" | {_seconds(later.last)} | {found.links:.2f} |",
            flush=True,
        )
        print(f"{percent:g} %: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
    return 1 if missed else 0


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
