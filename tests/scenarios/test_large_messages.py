"""Large messages in a cluster: one copy per node, none missed, and no unresponsive holder delays
them much.
"""

from __future__ import annotations

import pytest

from grapevine_proto import AntiEntropyConfig, NodeConfig, RateLimitConfig
from grapevine_proto.config.node import STRATEGIES
from grapevine_proto.events import Event, MessageReceived
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.sync import repair_server
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.messages import Repair

NODES = 30
SIZE = 100_000


def cluster(strategy: str, *, degree: int = 8, loss: float = 0.0) -> Simulation:
    """Linked nodes that have exchanged a message, so that RTTs are measured."""
    config = NodeConfig(
        strategy=strategy, max_peers=degree, anti_entropy=AntiEntropyConfig(enabled=False)
    )
    network = Network(per_pair=True, loss=loss)
    sim = Simulation(nodes=NODES, seed=3, config=config, network=network, initial_links=degree)
    sim.run(2.0)
    sim.broadcast(0, bytes(SIZE))
    sim.run(5.0)
    return sim


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_large_message_costs_one_copy_per_node_under_every_strategy(strategy: str) -> None:
    sim = cluster(strategy)
    before = sim.bytes
    message = sim.broadcast(0, bytes(range(100)) * (SIZE // 100))
    sim.run(3.0)
    report = sim.report(message)
    assert (report.missed, report.duplicates) == (0, 0)
    assert report.last is not None
    assert report.last < 2.0
    assert sim.bytes - before < 1.15 * (NODES - 1) * SIZE
    assert sum(node.duplicates for node in sim.nodes) == 0


def test_at_ten_percent_loss_no_node_misses_a_large_message() -> None:
    sim = cluster("auto", loss=0.10)
    before = sim.bytes
    message = sim.broadcast(0, bytes(SIZE))
    sim.run(10.0)
    assert sim.report(message).missed == 0
    assert sim.bytes - before < 1.6 * (NODES - 1) * SIZE


def test_large_messages_that_follow_each_other_quickly_are_no_repair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a node announces, its peers may pull, however much that is: the quota is for repairs."""
    monkeypatch.setattr(repair_server, "REPAIR_BYTES_BURST", 4 * SIZE)
    monkeypatch.setattr(repair_server, "REPAIR_BYTES_PER_S", 1)
    sim = Simulation(nodes=3, seed=1, config=NodeConfig(rate_limit=RateLimitConfig(enabled=False)))
    sim.run(10.0)
    messages = []
    for _ in range(20):
        messages.append(sim.broadcast(0, bytes(SIZE)))
        sim.run(0.1)
    sim.run(2.0)
    assert sum(sim.report(each).missed for each in messages) == 0
    assert not any(node.stats().offenses for node in sim.nodes)


def test_a_large_message_counts_its_slow_transfer_as_age() -> None:
    """Each of the two hops takes seconds, and most of that is the transfer."""
    network = Network(latency=(0.2, 0.3), loss=0.25)
    sim = Simulation(nodes=3, seed=1, network=network, initial_links=0)
    ages: list[tuple[float, float]] = []

    def on_event(at: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived):
            ages.append((at - sent_at, event.message.age_s))

    sim.run(10.0)
    sim.listen(on_event)
    sent_at = sim.now
    sim.broadcast(0, bytes(60_000))
    sim.run(30.0)
    assert len(ages) == 2
    for true_s, age_s in ages:
        assert true_s > 3.0
        assert true_s - 1.0 < age_s < true_s + 0.5


@pytest.mark.usefixtures("patch_sources")
def test_a_holder_that_does_not_deliver_costs_one_timeout() -> None:
    sim = cluster("plumtree")
    baseline = sim.broadcast(0, bytes(SIZE))
    sim.run(3.0)
    suppressed = 0
    for node in sim.nodes[1:6]:  # a sixth of the nodes announce as usual and send no repairs
        engine = node.engine
        assert engine is not None
        assert isinstance(node.peer_id, PeerId)
        apply_effects = engine._apply_effects

        def apply_all_but_repairs(
            effects: list[object], now: float, apply_effects: object = apply_effects
        ) -> None:
            nonlocal suppressed
            effects = list(effects)
            kept = [
                each
                for each in effects
                if not (isinstance(each, Send) and isinstance(each.message, Repair))
            ]
            suppressed += len(effects) - len(kept)
            apply_effects(kept, now)  # type: ignore[operator]

        engine._apply_effects = apply_all_but_repairs  # type: ignore[method-assign, assignment]
    message = sim.broadcast(0, bytes(SIZE))
    sim.run(5.0)
    report, before = sim.report(message), sim.report(baseline)
    assert suppressed > 0
    assert report.missed == 0
    assert report.last is not None
    assert before.last is not None
    assert report.last < before.last + 3 * 0.5


def test_many_concurrent_large_messages_are_delivered_without_anti_entropy() -> None:
    sim = cluster("auto")
    sent = [sim.broadcast(number % NODES, bytes([number]) * SIZE) for number in range(8)]
    sim.run(10.0)
    assert sum(sim.report(each).missed for each in sent) == 0
