"""Large payloads in a cluster: one copy a node, nothing missed, and nobody is kept waiting."""

from __future__ import annotations

import pytest

from grapevine_proto import AntiEntropyConfig, NodeConfig
from grapevine_proto.config.node import STRATEGIES
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Send
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.messages import Repair

NODES = 30
SIZE = 100_000


def cluster(strategy: str, *, degree: int = 8, loss: float = 0.0) -> Simulation:
    """Linked nodes that have spoken before, so their paths are measured."""
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
def test_a_large_payload_costs_one_copy_a_node_under_every_strategy(strategy: str) -> None:
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


def test_at_ten_percent_loss_nobody_misses_a_large_payload() -> None:
    sim = cluster("auto", loss=0.10)
    before = sim.bytes
    message = sim.broadcast(0, bytes(SIZE))
    sim.run(10.0)
    assert sim.report(message).missed == 0
    assert sim.bytes - before < 1.6 * (NODES - 1) * SIZE


def test_a_holder_that_does_not_deliver_costs_its_patience_alone() -> None:
    sim = cluster("plumtree")
    usual = sim.broadcast(0, bytes(SIZE))
    sim.run(3.0)
    mute = 0
    for node in sim.nodes[1:6]:  # a sixth of all announce as others do, and answer nothing
        engine = node.engine
        assert engine is not None
        assert isinstance(node.peer_id, PeerId)
        perform = engine._apply_effects

        def perform_no_repairs(
            effects: list[object], now: float, perform: object = perform
        ) -> None:
            nonlocal mute
            effects = list(effects)
            kept = [
                each
                for each in effects
                if not (isinstance(each, Send) and isinstance(each.message, Repair))
            ]
            mute += len(effects) - len(kept)
            perform(kept, now)  # type: ignore[operator]

        engine._apply_effects = perform_no_repairs  # type: ignore[method-assign, assignment]
    message = sim.broadcast(0, bytes(SIZE))
    sim.run(5.0)
    report, before = sim.report(message), sim.report(usual)
    assert mute > 0
    assert report.missed == 0
    assert report.last is not None
    assert before.last is not None
    assert report.last < before.last + 3 * 0.5


def test_many_large_payloads_at_once_all_come_through_without_rounds() -> None:
    sim = cluster("auto")
    said = [sim.broadcast(number % NODES, bytes([number]) * SIZE) for number in range(8)]
    sim.run(10.0)
    assert sum(sim.report(each).missed for each in said) == 0
