"""Who carries the bytes of a topic: one subscriber to large bodies among many nodes, and small messages.

    python -m tests.benchmarks.bench_topics                 # 1,000 nodes of 5 links: a minute or two
    python -m tests.benchmarks.bench_topics --nodes 100 --size 100000

Runs in the simulator, with random links and 10 to 50 ms of latency. `pulled` is the share of nodes that
took a body of the topic, `reached` the share of subscribers that delivered it, `first_ms` how soon a
message reaches a subscriber that subscribed the moment before. Exit code 1: a subscriber missed one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial

from grapevine_proto import MessageId, NodeConfig
from grapevine_proto.sim import Simulation, memoized


@dataclass(frozen=True)
class TopicTraffic:
    """Shares of 1, and milliseconds of virtual time."""

    pulled: float
    reached: float
    last_ms: float
    first_ms: float


def is_delivered(sim: Simulation, message_id: MessageId, number: int) -> bool:
    return number in sim.deliveries(message_id)


def measure(*, nodes: int, size_bytes: int, messages: int = 3, seed: int = 1) -> TopicTraffic:
    """Publishes large bodies to one subscriber, then a small message to one that has just begun."""
    config = NodeConfig.lan(max_peers=5, topics=())
    with memoized():
        sim = Simulation(nodes=nodes, seed=seed, config=config, initial_links=5, hash_trace=False)
        sim.run(30.0)  # until members know each other
        subscriber = nodes // 2
        sim.subscribe(subscriber, "bodies.>")
        took: set[int] = set()
        reached, latencies = 0, [0.0]
        for number in range(messages):
            message_id = sim.publish(0, "bodies.of-a-topic", bytes([number]) * size_bytes)
            sent_at = sim.now
            sim.run_until(partial(is_delivered, sim, message_id, subscriber), 60.0, every=0.05)
            reached += subscriber in sim.deliveries(message_id)
            latencies.append(sim.now - sent_at)
            sim.run(5.0)
            took |= {node.number for node in sim.nodes if node.stats().cached_bytes >= size_bytes}
        late = nodes // 3
        sim.subscribe(late, "small.*")
        small = sim.publish(0, "small.message", b"x")
        sent_at = sim.now
        sim.run_until(partial(is_delivered, sim, small, late), 60.0, every=0.01)
        return TopicTraffic(
            len(took - {0}) / nodes,
            reached / messages,
            1000 * max(latencies),
            1000 * (sim.now - sent_at),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=10 * 2**20, help="bytes of a body")
    chosen = parser.parse_args()
    found = measure(nodes=chosen.nodes, size_bytes=chosen.size)
    print(f"{chosen.nodes} nodes, one subscriber to bodies of {chosen.size:,} bytes")
    print(f"pulled   {found.pulled:.2%} of the nodes")
    print(
        f"reached  {found.reached:.0%} of the subscribers, the last body after {found.last_ms:,.0f} ms"
    )
    print(f"first_ms {found.first_ms:,.0f} after subscribing")
    return 0 if found.reached == 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
