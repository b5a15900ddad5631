"""Honest nodes in bad networks are neither slowed nor disconnected for misconduct."""

from __future__ import annotations

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.events import Event, StandingChanged
from grapevine_proto.sim import Network, Simulation


def record_standings(sim: Simulation) -> list[StandingChanged]:
    """All changes of standing from now on."""
    standings: list[StandingChanged] = []

    def note(_: float, __: int, event: Event) -> None:
        if isinstance(event, StandingChanged):
            standings.append(event)

    sim.listen(note)
    return standings


def highest_score(sim: Simulation) -> float:
    """The highest misconduct score that any node has for any peer."""
    scores = [0.0]
    for node in sim.nodes:
        if node.engine is not None:
            peer_limits = node.engine._transport.links.peer_limits._limits.values()
            scores += [limits.score_at(node.read_clock(sim.now)) for limits in peer_limits]
    return max(scores)


@pytest.mark.parametrize("strategy", ["auto", "plumtree", "flood", "epidemic", "direct-mail"])
def test_no_standing_changes_at_30_percent_loss(strategy: str) -> None:
    config = NodeConfig.local(strategy=strategy, max_peers=6)
    sim = Simulation(nodes=12, seed=3, config=config, network=Network(loss=0.3))
    standings = record_standings(sim)
    sim.run(5.0)
    for second in range(20):
        for number in range(3):
            sim.broadcast((second + 4 * number) % 12, bytes(200 if second % 5 else 20_000))
        sim.run(1.0)
    assert standings == []
    assert highest_score(sim) < 25


def test_no_standing_changes_over_crashes_and_restarts() -> None:
    sim = Simulation(nodes=8, seed=4, config=NodeConfig.local(), network=Network(loss=0.1))
    standings = record_standings(sim)
    sim.run(5.0)
    for second in range(40):
        victim = second // 4 % 8
        if second % 4 == 0:
            sim.crash(victim)
        elif second % 4 == 2:
            sim.restart(victim)
        for number in range(8):
            if sim.nodes[number].is_running:
                sim.broadcast(number, b"%d at %d" % (number, second))
        sim.run(1.0)
    assert standings == []


def test_no_standing_changes_when_queues_and_caches_overflow() -> None:
    config = NodeConfig.local(
        anti_entropy=AntiEntropyConfig(interval=5.0),
        limits=LimitsConfig(cache_bytes=2**16, queue_messages=8, queue_bytes=2**16),
        max_peers=4,
        strategy="plumtree",
    )
    sim = Simulation(nodes=8, seed=5, config=config, network=Network(loss=0.1))
    standings = record_standings(sim)
    sim.run(5.0)
    for _ in range(30):
        for number in range(8):
            for _ in range(4):
                sim.broadcast(number, bytes(900))
        sim.run(0.5)
    sim.run(30.0)
    assert standings == []
