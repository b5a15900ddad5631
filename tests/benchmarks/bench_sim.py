"""Speed of the simulator: `python -m tests.benchmarks.bench_sim [--nodes N] [--seconds S] [--json]`

Prints steps (arrivals, wake-ups, saves) and virtual seconds per second of one core, for N linked nodes that
broadcast one message a second, on a mildly lossy network. The engines take nearly all of the time.
"""

from __future__ import annotations

import argparse
import json
import time

from grapevine_proto import NodeConfig
from grapevine_proto.sim import Network, Simulation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual")
    parser.add_argument("--max-peers", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    simulation = Simulation(
        nodes=arguments.nodes,
        seed=1,
        config=NodeConfig(max_peers=arguments.max_peers),
        network=Network(loss=0.01),
    )
    simulation.run(15)
    steps, datagrams, began_at = simulation.steps, simulation.datagrams, time.perf_counter()
    for second in range(int(arguments.seconds)):
        simulation.broadcast(second % arguments.nodes, b"x" * 200)
        simulation.run(1.0)
    took_s = time.perf_counter() - began_at
    result = {
        "nodes": arguments.nodes,
        "steps_per_second": (simulation.steps - steps) / took_s,
        "datagrams_per_second": (simulation.datagrams - datagrams) / took_s,
        "virtual_seconds_per_second": arguments.seconds / took_s,
        "trace": simulation.trace_hash,
    }
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:28}{value:>16,.1f}" if isinstance(value, float) else f"{name:28}{value:>16}")


if __name__ == "__main__":
    main()
