"""False deaths in so many node-hours of bad weather with slow nodes in it, and how soon true ones are known.

    python -m tests.benchmarks.bench_detection --node-hours 1000      # an hour or so
    python -m tests.benchmarks.bench_detection --node-hours 20 --deaths 5

In the simulator, under the lan profile. Every tenth node is slow: on average every 30 s it stalls for
0.5 to 4 s, and what arrives meanwhile is lost. Ends with 1 where somebody alive was held for dead.
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
    """What was thought of whom: of nodes that were alive all the time."""

    suspected: Counter[str] = field(default_factory=Counter)
    dead: list[str] = field(default_factory=list)
    stalls: int = 0
    datagrams: int = 0


def watch(
    *, nodes: int, node_hours: float, loss: float, max_peers: int = 8, seed: int = 1
) -> Findings:
    """Let a cluster be for so long, with stalls, and note every opinion that somebody is not well."""
    config = NodeConfig.lan(max_peers=max_peers)
    sim = Simulation(nodes=nodes, seed=seed, config=config, network=Network(loss=loss))
    found = Findings()
    slow = {f"node {number}" for number in range(0, nodes, SLOW_ONE_IN)}

    def note(at: float, number: int, event: Event) -> None:
        if not isinstance(event, MemberChanged) or at < SETTLE_S:
            return
        name = event.member.name
        if event.member.status is MemberStatus.SUSPECT:
            found.suspected["slow" if name in slow else "well"] += 1
        if event.member.status is MemberStatus.DOWN:
            found.dead.append(f"{at:.1f} s: node {number} holds {name} for dead")

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


def time_to_know(
    *, nodes: int, loss: float = 0.0, max_peers: int = 50, seed: int = 1, patience_s: float = 60.0
) -> list[float]:
    """One node dies: after how many seconds each of the others holds it for dead, in order."""
    config = NodeConfig.lan(max_peers=max_peers)
    sim = Simulation(nodes=nodes, seed=seed, config=config, network=Network(loss=loss))
    known: dict[int, float] = {}
    sim.run(SETTLE_S)
    sim.run_until(lambda: all(_knows_all(sim, n) for n in range(nodes)), 300.0, every=5.0)
    victim = random.Random(seed).randrange(nodes)
    dead_at, peer_id = sim.now, sim.nodes[victim].peer_id

    def note(at: float, number: int, event: Event) -> None:
        if isinstance(event, MemberChanged) and event.member.peer_id == peer_id:
            if event.member.status is MemberStatus.DOWN:
                known[number] = at - dead_at
            elif event.member.status is MemberStatus.UP:
                known.pop(number, None)

    sim.listen(note)
    sim.crash(victim)
    sim.run_until(lambda: len(known) == nodes - 1, patience_s)
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
    parser.add_argument("--deaths", type=int, default=0, help="true deaths to time, each a run")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.deaths):
        for max_peers in (options.max_peers, 50):
            known = time_to_know(
                nodes=options.nodes, loss=options.loss, max_peers=max_peers, seed=seed
            )
            print(
                f"a death among {options.nodes}, at most {max_peers} links, loss {options.loss:g}:"
                f" known to {len(known)}, first {known[0]:.1f} s, last {known[-1]:.1f} s",
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
        f" {found.stalls:,} stalls: {len(found.dead)} false deaths; times that one node suspected"
        f" another: {found.suspected['slow']:,} slow, {found.suspected['well']:,} well"
        f" ({found.datagrams:,} datagrams, {time.perf_counter() - began:.0f} s)"
    )
    for line in found.dead[:20]:
        print(line)
    return 1 if found.dead else 0


if __name__ == "__main__":
    sys.exit(main())
