"""How each strategy spreads a message, in clusters of 10 to 10,000 (docs/explanation/measurements.md).

    python -m tests.benchmarks.bench_strategies                      # up to 1,000 nodes
    python -m tests.benchmarks.bench_strategies --nodes 10000        # one size; a long run
    python -m tests.benchmarks.bench_strategies --loss 0.1
    python -m tests.benchmarks.bench_strategies --nodes 100 --every 0.1 --messages 600    # sustained traffic
    python -m tests.benchmarks.bench_strategies --iroh               # compared with iroh-gossip

Virtual time: one-way latencies of 10 to 50 ms, fixed per pair; five random links a node; no anti-entropy;
one message a second from random nodes (from one node with --senders one). Prints rows of Markdown; the same
arguments print the same rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Final, NamedTuple

from grapevine_proto.config.node import STRATEGIES
from grapevine_tui.cli.sim_run import SimOptions, SimResult, run_simulation

SIZES: Final = (10, 50, 100, 1000)
MESSAGES: Final = {10: 40, 50: 40, 100: 30, 1000: 10, 10_000: 3}
WARMUP: Final = {10: 40, 50: 40, 100: 30, 1000: 10, 10_000: 3}
DEGREE: Final = 5
SETTLE_S: Final = 180.0  # until links are optimized, as in iroh-gossip's scenarios
HEAD: Final = (
    "| N | strategy | ids | coverage | p50, ms | p99 | last | hops | redundancy | datagrams a node |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


class IrohScenario(NamedTuple):
    """A scenario of iroh-gossip's simulator and its results there (the mean of 30 rounds and four seeds):
    redundant copies per node, and milliseconds to the last delivery."""

    senders: str
    nodes: int
    copies: float
    last_ms: float
    rounds: int
    seeds: int


IROH: Final = (
    IrohScenario("one", 20, 0.14, 73, 30, 4),
    IrohScenario("one", 100, 0.09, 163, 30, 4),
    IrohScenario("one", 1000, 0.07, 361, 30, 1),
    IrohScenario("random", 20, 0.20, 106, 30, 4),
    IrohScenario("random", 100, 0.38, 284, 30, 4),
    IrohScenario("random", 1000, 0.42, 606, 30, 1),
    IrohScenario("all", 20, 1.27, 413, 30, 1),
    IrohScenario("all", 100, 1.05, 721, 30, 1),
)


def simulate(
    nodes: int, strategy: str, senders: str, messages: int, *, seed: int = 1, **changes: object
) -> SimResult:
    full_mesh = strategy in ("direct-mail", "auto") and nodes <= 100
    settings: dict[str, object] = {
        "degree": nodes - 1 if full_mesh else DEGREE,
        "anti_entropy": False,
        "wait": 10.0,
        **changes,
    }
    return run_simulation(
        SimOptions(
            nodes=nodes,
            strategy=strategy,
            senders=senders,
            messages=messages,
            seed=seed,
            **settings,  # type: ignore[arg-type]
        )
    )


def row(nodes: int, strategy: str, lazy: bool, options: argparse.Namespace) -> str:
    outcome = simulate(
        nodes,
        strategy,
        options.senders or "random",
        options.messages or MESSAGES[nodes],
        warmup=WARMUP[nodes],
        lazy_push=lazy,
        loss=options.loss,
        interval=options.every,
    )
    seen = outcome.to_json()
    late = seen["latency_ms"]
    cells = [
        f"{nodes:,}",
        strategy,
        "on" if lazy else "off",
        f"{100 * seen['coverage']:.2f} %",
        *(f"{late[name]:.0f}" for name in ("p50", "p99", "last_mean")),
        f"{seen['hops_last']:.1f}",
        f"{seen['redundancy']:.2f}",
        f"{seen['datagrams_per_broadcast'] / nodes:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def strategies_for(nodes: int) -> list[str]:
    """Direct mail requires a full mesh."""
    return [each for each in STRATEGIES if each not in ("direct-mail", "auto") or nodes <= 100]


def compare_with_iroh(most_nodes: int, senders: str | None) -> None:
    print("| scenario | copies | iroh-gossip | last, ms | iroh-gossip | missed |")
    print("|---|---|---|---|---|---|")
    for scenario in IROH:
        if scenario.nodes > most_nodes or senders not in (None, scenario.senders):
            continue
        is_all = scenario.senders == "all"
        runs = [
            simulate(
                scenario.nodes,
                "plumtree",
                scenario.senders,
                scenario.rounds * (scenario.nodes if is_all else 1),
                seed=seed,
                optimize_links=True,
                settle=SETTLE_S,
                interval=2.0 if is_all else 1.0,
            ).to_json()
            for seed in range(1, scenario.seeds + 1)
        ]
        copies = statistics.mean(run["redundancy"] for run in runs)
        last_ms = statistics.mean(run["latency_ms"]["last_mean"] for run in runs)
        missed = sum(run["missed"] for run in runs)
        print(
            f"| {scenario.senders}, N = {scenario.nodes:,} | {copies:.2f} | {scenario.copies} "
            f"| {last_ms:.0f} | {scenario.last_ms:g} | {missed} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, choices=sorted(MESSAGES), help="only this size")
    parser.add_argument("--strategy", choices=STRATEGIES, help="only this strategy")
    parser.add_argument("--senders", choices=["one", "random", "all"])
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between messages")
    parser.add_argument("--messages", type=int, help="number of messages [depends on the size]")
    parser.add_argument("--lazy-only", action="store_true", help="omit the rows without lazy push")
    parser.add_argument("--iroh", action="store_true", help="iroh-gossip's scenarios instead")
    options = parser.parse_args()
    if options.iroh:
        compare_with_iroh(options.nodes or 1000, options.senders)
        return 0
    print(HEAD)
    for nodes in [options.nodes] if options.nodes else SIZES:
        for strategy in [options.strategy] if options.strategy else strategies_for(nodes):
            for lazy in [True] if options.lazy_only or options.loss else [True, False]:
                print(row(nodes, strategy, lazy, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
