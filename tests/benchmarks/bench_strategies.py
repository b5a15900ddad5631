"""How each strategy spreads a message, in clusters of 10 to 10,000 (docs/explanation/measurements.md).

    python -m tests.benchmarks.bench_strategies                      # up to 1,000 nodes
    python -m tests.benchmarks.bench_strategies --nodes 10000        # one size; see the page for how long
    python -m tests.benchmarks.bench_strategies --loss 0.1
    python -m tests.benchmarks.bench_strategies --nodes 100 --every 0.1 --messages 600    # sustained traffic
    python -m tests.benchmarks.bench_strategies --iroh               # beside iroh-gossip's own figures

Virtual time: ways of 10 to 50 ms, one latency for each pair, five links a node, at random; no
rounds of anti-entropy, one message a second from random nodes (one node with --senders one). Prints rows of
Markdown; the same arguments print the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Final, NamedTuple

from grapevine_proto.config.node import STRATEGIES
from grapevine_tui.cli.sim import SimOptions, run_simulation
from grapevine_tui.cli.sim_run import SimResult

SIZES: Final = (10, 50, 100, 1000)
MESSAGES: Final = {10: 40, 50: 40, 100: 30, 1000: 10, 10_000: 3}
WARMUP: Final = {10: 40, 50: 40, 100: 30, 1000: 10, 10_000: 3}
DEGREE: Final = 5
SETTLE_S: Final = 180.0  # for links to become nearer, beside iroh-gossip
HEAD: Final = (
    "| N | strategy | ids | coverage | p50, ms | p99 | last | hops | redundancy | datagrams a node |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


class Rival(NamedTuple):
    """One scenario of iroh-gossip's simulator, and what it showed there (the mean of 30 rounds and
    four seeds): copies beyond the first a node, and ms to the last."""

    senders: str
    nodes: int
    copies: float
    last_ms: float
    rounds: int
    seeds: int


IROH: Final = (
    Rival("one", 20, 0.14, 73, 30, 4),
    Rival("one", 100, 0.09, 163, 30, 4),
    Rival("one", 1000, 0.07, 361, 30, 1),
    Rival("random", 20, 0.20, 106, 30, 4),
    Rival("random", 100, 0.38, 284, 30, 4),
    Rival("random", 1000, 0.42, 606, 30, 1),
    Rival("all", 20, 1.27, 413, 30, 1),
    Rival("all", 100, 1.05, 721, 30, 1),
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


def row(nodes: int, strategy: str, lazy: bool, asked: argparse.Namespace) -> str:
    outcome = simulate(
        nodes,
        strategy,
        asked.senders or "random",
        asked.messages or MESSAGES[nodes],
        warmup=WARMUP[nodes],
        lazy_push=lazy,
        loss=asked.loss,
        interval=asked.every,
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
    """Mail needs everybody linked to everybody."""
    return [each for each in STRATEGIES if each not in ("direct-mail", "auto") or nodes <= 100]


def beside_iroh(most_nodes: int, senders: str | None) -> None:
    print("| scenario | copies | iroh-gossip | last, ms | iroh-gossip | missed |")
    print("|---|---|---|---|---|---|")
    for rival in IROH:
        if rival.nodes > most_nodes or senders not in (None, rival.senders):
            continue
        is_all = rival.senders == "all"
        runs = [
            simulate(
                rival.nodes,
                "plumtree",
                rival.senders,
                rival.rounds * (rival.nodes if is_all else 1),
                seed=seed,
                optimize_links=True,
                settle=SETTLE_S,
                interval=2.0 if is_all else 1.0,
            ).to_json()
            for seed in range(1, rival.seeds + 1)
        ]
        copies = statistics.mean(run["redundancy"] for run in runs)
        last_ms = statistics.mean(run["latency_ms"]["last_mean"] for run in runs)
        missed = sum(run["missed"] for run in runs)
        print(
            f"| {rival.senders}, N = {rival.nodes:,} | {copies:.2f} | {rival.copies} "
            f"| {last_ms:.0f} | {rival.last_ms:g} | {missed} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, choices=sorted(MESSAGES), help="one size alone")
    parser.add_argument("--strategy", choices=STRATEGIES, help="one strategy alone")
    parser.add_argument("--senders", choices=["one", "random", "all"])
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between messages")
    parser.add_argument("--messages", type=int, help="so many, in place of what the size has")
    parser.add_argument("--lazy-only", action="store_true", help="leave out the rows without ids")
    parser.add_argument("--iroh", action="store_true", help="iroh-gossip's scenarios instead")
    asked = parser.parse_args()
    if asked.iroh:
        beside_iroh(asked.nodes or 1000, asked.senders)
        return 0
    print(HEAD)
    for nodes in [asked.nodes] if asked.nodes else SIZES:
        for strategy in [asked.strategy] if asked.strategy else strategies_for(nodes):
            for lazy in [True] if asked.lazy_only or asked.loss else [True, False]:
                print(row(nodes, strategy, lazy, asked), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
