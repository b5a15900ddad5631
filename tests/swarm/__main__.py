"""Runs seeds one after another from the command line."""

from __future__ import annotations

import argparse
import time

from tests.swarm import first_seed, swarm
from tests.swarm.mix import add_entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, help="first of consecutive seeds [default: random]")
    parser.add_argument(
        "--entries", action="store_true", help="write and delete entries in every mix"
    )
    arguments = parser.parse_args()
    first = first_seed() if arguments.first is None else arguments.first
    failed = 0
    for seed in range(first, first + arguments.seeds):
        started_at = time.perf_counter()
        try:
            world = swarm(seed, add_entries) if arguments.entries else swarm(seed)
            result = f"{len(world.watch.sent)} messages, {world.sim.steps} steps"
        except Exception as error:  # noqa: BLE001  each seed is a run of its own
            failed += 1
            result = f"FAILED: {type(error).__name__}: {error}"
        print(f"{seed:>10}  {time.perf_counter() - started_at:6.1f} s  {result}", flush=True)  # noqa: T201
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
