"""Messages in the order of their origins, in whole clusters that lose, duplicate and reorder datagrams."""

from __future__ import annotations

from collections import defaultdict

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.events import Event, Message, MessageReceived, MessagesSkipped
from grapevine_proto.ids import MessageId, Stream
from grapevine_proto.message_order import Ordered
from grapevine_proto.sim import Network, Simulation

ROUGH = Network(latency=(0.005, 0.080), loss=0.1, duplication=0.05, reorder=0.2)


class Cluster:
    """A cluster whose nodes all keep order, and what each of them was given."""

    def __init__(self, nodes: int, seed: int, network: Network, config: NodeConfig) -> None:
        self.sim = Simulation(nodes=nodes, seed=seed, network=network, config=config)
        self.received: defaultdict[int, set[MessageId]] = defaultdict(set)
        self.in_order: defaultdict[int, list[Ordered]] = defaultdict(list)
        self.reports: defaultdict[int, list[MessagesSkipped]] = defaultdict(list)
        self.sim.listen(self._on_event)
        self.sim.run(5.0)  # all nodes start
        for node in self.sim.nodes:
            assert node.engine is not None
            node.engine.keep_order()

    def _on_event(self, now: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived):
            self.received[number].add(event.message.id)
        elif isinstance(event, MessagesSkipped):
            self.reports[number].append(event)

    def run(self, seconds: float) -> None:
        self.sim.run(seconds)
        for node in self.sim.nodes:
            assert node.engine is not None
            self.in_order[node.number] += node.engine.messages_in_order(
                node.read_clock(self.sim.now)
            )

    def check(self) -> int:
        """Checks what each node was given in order; returns how many messages were skipped."""
        skipped = 0
        for number, received in self.received.items():
            stats = self.sim.nodes[number].engine.stats()  # type: ignore[union-attr]
            positions: defaultdict[Stream, int] = defaultdict(int)
            messages: set[MessageId] = set()
            for each in self.in_order[number]:
                stream = each.id.stream if isinstance(each, Message) else each.stream
                first = each.id.sequence if isinstance(each, Message) else each.first
                assert first == positions[stream] + 1, "in sequence, or reported"
                positions[stream] = each.last if isinstance(each, MessagesSkipped) else first
                if isinstance(each, Message):
                    messages.add(each.id)
            reports = [each for each in self.in_order[number] if isinstance(each, MessagesSkipped)]
            assert reports == self.reports[number]
            assert messages <= received
            assert len(received - messages) == stats.late
            assert sum(each.last - each.first + 1 for each in reports) == stats.skipped
            skipped += stats.skipped
        return skipped


@pytest.mark.parametrize("strategy", ["auto", "plumtree", "epidemic", "flood"])
def test_in_a_rough_network_nothing_is_skipped(strategy: str) -> None:
    config = NodeConfig.lan(strategy=strategy, order_wait=30.0)
    cluster = Cluster(6, 1, ROUGH, config)

    for number in range(400):
        cluster.sim.broadcast(number % 6, b"%d" % number)
        if number % 7 == 0:
            cluster.run(0.05)
    cluster.run(60)
    assert cluster.check() == 0
    assert {len(received) for received in cluster.received.values()} == {400 - 66, 400 - 67}


def test_what_is_missing_for_longer_than_the_wait_is_skipped_and_then_dropped() -> None:
    """Messages of a node pass a partition by no way but repair, which takes longer than the wait."""
    cluster = Cluster(6, 2, ROUGH, NodeConfig.lan(order_wait=0.05))

    for number in range(400):
        cluster.sim.broadcast(number % 6, b"%d" % number)
        if number == 150:
            cluster.sim.partition([0, 1, 2], [3, 4, 5])
        if number == 250:
            cluster.sim.heal()
        cluster.run(0.05)
    cluster.run(60)
    assert cluster.check() > 0
