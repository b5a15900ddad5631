"""Queries: how soon the answers of all members arrive, and what the network carries for them.

    python -m tests.benchmarks.bench_query                  # all cases, some two minutes
    python -m tests.benchmarks.bench_query --seeds 20       # more runs of each
    python -m tests.benchmarks.bench_query --case "100 nodes, 5 links"

Runs in the simulator, with one-way latencies of 10 to 50 ms, in clusters where every node knows every other.
The figures are times after the query until the answers have arrived. Exit code 1: a goal is missed, or an
answer is missing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Final

from grapevine_proto import MessageId, NodeConfig, QueryReport
from grapevine_proto.sim import Network, Simulation
from tests.scenarios.test_traces import add_member

LATENCY_S: Final = (0.010, 0.050)
SETTLE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """A cluster, a network, and by when which share of the answers is to have arrived."""

    name: str
    nodes: int
    max_peers: int
    goal_ms: int
    percent: float = 100.0
    loss: float = 0.0
    answer_bytes: int = 100


CASES: Final = (
    Case("50 nodes, all linked", 50, 50, 150),
    Case("100 nodes, 5 links", 100, 5, 400, 99.0),
    Case("50 nodes, all linked, 10 % loss", 50, 50, 1000, 99.9, loss=0.1),
    Case("100 nodes, 5 links, 10 % loss", 100, 5, 1000, 99.9, loss=0.1),
    Case("20 nodes, 5 links, 64 KiB", 20, 5, 3000, answer_bytes=65_536),
)


@dataclass(slots=True)
class Result:
    """The arrivals of all answers of all seeds, in milliseconds, and what was sent for them."""

    arrivals_ms: list[int]
    missing: int
    datagrams: float
    kib: float

    def percentile_ms(self, percent: float) -> int:
        ordered = sorted(self.arrivals_ms)
        return ordered[max(int(-(-len(ordered) * percent // 100)), 1) - 1]


def measure(case: Case, seeds: int) -> Result:
    """Asks once in a new cluster of each seed."""
    result = Result([], 0, 0.0, 0.0)
    for seed in range(1, seeds + 1):
        sim = Simulation(
            nodes=case.nodes,
            config=NodeConfig(max_peers=case.max_peers),
            network=Network(latency=LATENCY_S, loss=case.loss),
            seed=seed,
            initial_links=min(case.max_peers, case.nodes - 1),
            hash_trace=False,
        )
        sim.on_query("bench", lambda number, _: bytes((number,)) * case.answer_bytes)
        sim.run(SETTLE_S)
        for node in sim.nodes:
            for other in sim.nodes:
                if other is not node:
                    add_member(sim, node.number, other.number)
        datagrams, sent_bytes = sim.datagrams, sim.bytes
        query_id = sim.query(0, "bench", timeout_s=30.0, stall_s=30.0)
        report = _final_report(sim, query_id)
        result.arrivals_ms += report.arrivals_ms
        result.missing += len(report.unanswered) + report.failed + report.refused
        result.datagrams += (sim.datagrams - datagrams) / seeds
        result.kib += (sim.bytes - sent_bytes) / 1024 / seeds
    return result


def _final_report(sim: Simulation, query_id: MessageId) -> QueryReport:
    sim.run_until(lambda: sim.query_report(query_id).end is not None, 31.0)
    return sim.query_report(query_id)


def main() -> int:
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this case")
    arguments = parser.parse_args()
    is_missed = False
    print(
        f"{'case':34} {'p50':>6} {'p99':>6} {'last':>6} {'goal':>15} {'datagrams':>10} {'KiB':>7}"
    )
    for case in CASES:
        if arguments.case not in (None, case.name):
            continue
        result = measure(case, arguments.seeds)
        reached_ms = result.percentile_ms(case.percent)
        is_met = reached_ms <= case.goal_ms and not result.missing
        is_missed |= not is_met
        goal = f"{case.percent:g} % {case.goal_ms} ms"
        print(
            f"{case.name:34} {result.percentile_ms(50):6} {result.percentile_ms(99):6}"
            f" {result.percentile_ms(100):6} {goal:>15} {result.datagrams:10.0f} {result.kib:7.0f}"
            + ("" if is_met else f"  MISSED: {reached_ms} ms, {result.missing} missing")
        )
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
