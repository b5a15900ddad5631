"""Failure detection on a bad network with slow nodes: false positives, and detection times of real failures.

    python -m tests.benchmarks.bench_detection --node-hours 1000      # about an hour
    python -m tests.benchmarks.bench_detection --node-hours 20 --deaths 5

Runs in the simulator, under the lan profile. Every tenth node is slow: every 30 s on average it stalls for
0.5 to 4 s, and datagrams that arrive meanwhile are lost. Exit code 1: a running member was declared down.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from grapevine_proto import NodeConfig
from grapevine_proto.events import Event, MemberChanged, MemberStatus
from grapevine_proto.sim import Network, Simulation

SETTLE_S = 60.0
SLOW_ONE_IN = 10
STALL_S = (0.5, 4.0)
BETWEEN_STALLS_S = 30.0


@dataclass
class Findings:
    """False positives: suspicions and declared deaths of nodes that ran all the time."""

    suspected: Counter[str] = field(default_factory=Counter)
    declared_down: list[str] = field(default_factory=list)
    stalls: int = 0
    datagrams: int = 0


def watch(
    *, nodes: int, node_hours: float, loss: float, max_peers: int = 8, seed: int = 1
) -> Findings:
    """Runs a cluster with stalls for `node_hours`, and records every suspicion and declared death."""
    config = NodeConfig.lan(max_peers=max_peers)
    sim = Simulation(nodes=nodes, seed=seed, config=config, network=Network(loss=loss))
    found = Findings()
    slow = {f"node {number}" for number in range(0, nodes, SLOW_ONE_IN)}

    def note(at: float, number: int, event: Event) -> None:
        if not isinstance(event, MemberChanged) or at < SETTLE_S:
            return
        name = event.member.name
        if event.member.status is MemberStatus.SUSPECT:
            found.suspected["slow" if name in slow else "other"] += 1
        if event.member.status is MemberStatus.DOWN:
            found.declared_down.append(f"{at:.1f} s: node {number} declared {name} down")

    sim.listen(note)
    sim.run(SETTLE_S)
    rng = random.Random(seed)
    until = sim.now + node_hours * 3600 / nodes
    stalls = {
        n: sim.now + rng.expovariate(1 / BETWEEN_STALLS_S) for n in range(0, nodes, SLOW_ONE_IN)
    }
    while (next_at := min(stalls.values())) < until:
        number = min(stalls, key=lambda each: stalls[each])
        sim.run(next_at - sim.now)
        stall_s = rng.uniform(*STALL_S)
        sim.suspend(number, stall_s)
        found.stalls += 1
        stalls[number] = sim.now + stall_s + rng.expovariate(1 / BETWEEN_STALLS_S)
    sim.run(until - sim.now)
    found.datagrams = sim.datagrams
    return found


def detection_times(
    *, nodes: int, loss: float = 0.0, max_peers: int = 50, seed: int = 1, timeout_s: float = 60.0
) -> list[float]:
    """Returns after how many seconds each other node has declared a crashed node down, sorted."""
    config = NodeConfig.lan(max_peers=max_peers)
    sim = Simulation(nodes=nodes, seed=seed, config=config, network=Network(loss=loss))
    known: dict[int, float] = {}
    sim.run(SETTLE_S)
    sim.run_until(lambda: all(_knows_all(sim, n) for n in range(nodes)), 300.0, every=5.0)
    victim = random.Random(seed).randrange(nodes)
    crashed_at, peer_id = sim.now, sim.nodes[victim].peer_id

    def note(at: float, number: int, event: Event) -> None:
        if isinstance(event, MemberChanged) and event.member.peer_id == peer_id:
            if event.member.status is MemberStatus.DOWN:
                known[number] = at - crashed_at
            elif event.member.status is MemberStatus.UP:
                known.pop(number, None)

    sim.listen(note)
    sim.crash(victim)
    sim.run_until(lambda: len(known) == nodes - 1, timeout_s)
    return sorted(known.values())


def _knows_all(sim: Simulation, number: int) -> bool:
    engine = sim.nodes[number].engine
    return engine is not None and len(engine.members()) == len(sim.nodes) - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--node-hours", type=float, default=20.0)
    parser.add_argument("--max-peers", type=int, default=8)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--deaths", type=int, default=0, help="real failures to time, one per run")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.deaths):
        for max_peers in (options.max_peers, 50):
            known = detection_times(
                nodes=options.nodes, loss=options.loss, max_peers=max_peers, seed=seed
            )
            print(
                f"one of {options.nodes} nodes fails, at most {max_peers} links, loss {options.loss:g}:"
                f" detected by {len(known)}, first {known[0]:.1f} s, last {known[-1]:.1f} s",
                flush=True,
            )
    began = time.perf_counter()
    found = watch(
        nodes=options.nodes,
        node_hours=options.node_hours,
        loss=options.loss,
        max_peers=options.max_peers,
        seed=options.seed,
    )
    print(
        f"{options.node_hours:g} node-hours of {options.nodes} nodes at {options.loss:.0%} loss,"
        f" {found.stalls:,} stalls: {len(found.declared_down)} false positives; suspicions"
        f" of slow nodes: {found.suspected['slow']:,}, of others: {found.suspected['other']:,}"
        f" ({found.datagrams:,} datagrams, {time.perf_counter() - began:.0f} s)"
    )
    for line in found.declared_down[:20]:
        print(line)
    return 1 if found.declared_down else 0


if __name__ == "__main__":
    sys.exit(main())
