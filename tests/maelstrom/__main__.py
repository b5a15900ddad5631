"""Runs a workload of the stand-in for Maelstrom and prints what it found.

python -m tests.maelstrom -w broadcast --node-count 25 --rate 50 --latency 100 --nemesis partition
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from tests.maelstrom.network import Nodes
from tests.maelstrom.workloads import spread, unique_ids

PARTITION_S: Final = 4.0
ADAPTER: Final = Path(__file__).parents[2] / "examples" / "maelstrom_node.py"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.maelstrom", description=__doc__)
    parser.add_argument("-w", choices=("broadcast", "g-set", "unique-ids"), default="broadcast")
    parser.add_argument("--bin", default=str(ADAPTER), help="program of a node")
    parser.add_argument("--node-count", type=int, default=25)
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds")
    parser.add_argument("--rate", type=float, default=50.0, help="operations per second")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds per hop")
    parser.add_argument("--nemesis", choices=("none", "partition"), default="none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--measure-latency",
        action="store_true",
        help="of broadcasts, by reading all nodes all the time",
    )
    options = parser.parse_args()
    nodes = Nodes(
        [sys.executable, options.bin], options.node_count, latency_s=options.latency / 1000
    )
    try:
        nodes.start()
        if options.w == "unique-ids":
            requests = round(options.rate * options.time_limit)
            repeated = unique_ids(nodes, requests=requests, seed=options.seed)
            print(f"{requests} IDs, given twice: {repeated or 'none'}")  # noqa: T201
            return 1 if repeated else 0
        result = spread(
            nodes,
            options.w,
            rate=options.rate,
            seconds=options.time_limit,
            partition_s=PARTITION_S if options.nemesis == "partition" else 0.0,
            seed=options.seed,
            measures_latency=options.measure_latency and options.w == "broadcast",
        )
    finally:
        nodes.close()
    print(result)  # noqa: T201
    print("valid" if result.is_valid else "NOT VALID")  # noqa: T201
    return 0 if result.is_valid else 1


if __name__ == "__main__":
    sys.exit(main())
