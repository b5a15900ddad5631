"""The broadcast challenge of Gossip Glomers (fly.io/dist-sys, 3d and 3e), in the simulator.

    python -m tests.benchmarks.bench_glomers

25 nodes, 100 ms per hop, 100 broadcasts a second from random nodes: with one payload per rumor, and with
batches over at most 250 ms and 500 ms. Sends are all messages that broadcasts cause: payloads, IDs, requests
and replies, without acknowledgments, heartbeats and coordinates of links, as the challenge does not count
those of TCP. Datagrams are everything, as Maelstrom counts. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from grapevine_proto import NodeConfig
from grapevine_proto.ids import MessageId
from grapevine_proto.overlay.effects import Send
from grapevine_proto.sim import Network, Simulation, memoized
from grapevine_proto.wire.messages import Heartbeat, Records

NODES = 25
HOP_S = 0.100
A_SECOND = 100
UNCOUNTED = (Heartbeat, Records)


@dataclass(frozen=True, slots=True)
class Result:
    """Latencies, and sends and datagrams per broadcast."""

    sends: float
    datagrams: float
    median_s: float
    max_s: float
    missed: int


def play(batch_delay_s: float, seconds: float, seed: int = 1) -> Result:
    """Runs the challenge for `seconds` of virtual time."""
    config = NodeConfig(
        strategy="auto",
        batch_delay=batch_delay_s,
        batch_bytes=2**16 if batch_delay_s else 1,
        gossip_interval=5.0,
    )
    with memoized():
        sim = Simulation(
            nodes=NODES,
            seed=seed,
            config=config,
            network=Network(latency=(HOP_S, HOP_S), per_pair=True),
            initial_links=NODES - 1,
            hash_trace=False,
        )
        sim.run(2.0)
        sends, datagrams = count_sends(sim), sim.datagrams
        rng = random.Random(seed)
        published: list[MessageId] = []
        for _ in range(int(seconds * A_SECOND)):
            published.append(sim.broadcast(rng.randrange(NODES), b"%d" % len(published)))
            sim.run(1.0 / A_SECOND)
        sim.run(2.0)
    latencies_s = sorted(at for each in published for at in sim.latencies(each))
    return Result(
        sends=sum(sends.values()) / len(published),
        datagrams=(sim.datagrams - datagrams) / len(published),
        median_s=latencies_s[len(latencies_s) // 2],
        max_s=latencies_s[-1],
        missed=sum(sim.report(each).missed for each in published),
    )


def count_sends(sim: Simulation) -> Counter[str]:
    """Returns a counter of the messages that nodes send from now on, by kind; each copy counts."""
    sends: Counter[str] = Counter()
    for node in sim.nodes:
        assert node.engine is not None
        engine: Any = node.engine

        def send_all(send: Send, now: float, send_all: Any = engine._send) -> Any:
            if not isinstance(send.message, UNCOUNTED):
                sends[type(send.message).__name__] += len(send.peers)
            return send_all(send, now)

        engine._send = send_all
    return sends


TARGETS = (
    (0.0, Result(25.2, 50.0, 0.4, 0.6, 0)),
    (0.25, Result(20.0, 23.0, 0.4, 0.6, 0)),
    (0.5, Result(20.0, 17.0, 1.0, 2.0, 0)),
)


def main() -> int:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=10.0, help="of virtual time [10]")
    seconds = parser.parse_args().seconds
    is_met = True
    for batch_delay_s, target in TARGETS:
        got = play(batch_delay_s, seconds)
        is_met = is_met and meets(got, target)
        print(
            f"batched over {1000 * batch_delay_s:.0f} ms, of each at most as much as in brackets:"
            f" {got.sends:.2f} sends a broadcast ({target.sends:g}), {got.datagrams:.2f} datagrams"
            f" ({target.datagrams:g}), median {1000 * got.median_s:.0f} ms"
            f" ({1000 * target.median_s:.0f}), max {1000 * got.max_s:.0f} ms"
            f" ({1000 * target.max_s:.0f}), missed {got.missed}"
        )
    return 0 if is_met else 1


def meets(got: Result, target: Result) -> bool:
    return (
        got.sends <= target.sends
        and got.datagrams <= target.datagrams
        and got.median_s < target.median_s
        and got.max_s < target.max_s
        and got.missed == target.missed
    )


if __name__ == "__main__":
    sys.exit(main())
