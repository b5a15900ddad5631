"""Nearer links in whole clusters: they settle, they stay connected, and nothing moves without a reason."""

from __future__ import annotations

import statistics

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.topology.xbot import ProximityOptimizer, SwapCandidate
from grapevine_proto.sim import Network, Simulation
from tests.scenarios.test_topology import is_connected, is_filled, linked, running

NODES = 24
FAR_APART = Network(latency=(0.001, 0.001), latency_between_zones=(0.080, 0.080), per_pair=True)


def nearness(sim: Simulation) -> list[ProximityOptimizer]:
    engines = [node.engine for node in sim.nodes if node.engine is not None]
    return [engine._overlay.membership.proximity for engine in engines]


def moved(sim: Simulation) -> int:
    return sum(each.links_optimized for each in nearness(sim))


def mean_rtt_s(sim: Simulation) -> float:
    return statistics.fmean(
        sim._network_model.mean_rtt_s(one, other)
        for one in running(sim)
        for other in linked(sim, one)
    )


def cluster(network: Network, *, zones: tuple[str, ...] = (), **changes: object) -> Simulation:
    config = NodeConfig(max_peers=5, optimize_links=True).replace(**changes)
    return Simulation(
        nodes=NODES, seed=3, config=config, network=network, initial_links=5, zones=zones
    )


def places(network: Network, *names: str) -> Simulation:
    """Nodes that stand in these places in turn, and name no zone. They begin as strangers."""
    sim = Simulation(
        nodes=NODES, seed=3, config=NodeConfig(max_peers=5, optimize_links=True), network=network
    )
    for number in range(NODES):
        sim._network_model.set_zone(number, names[number % len(names)])
    return sim


def test_links_become_nearer_settle_and_are_quiet() -> None:
    sim = cluster(Network(per_pair=True))
    before_s = mean_rtt_s(sim)
    sim.run(150.0)
    assert mean_rtt_s(sim) < 0.85 * before_s
    assert is_connected(sim)
    assert is_filled(sim, running(sim), 5)
    sim.run(150.0)
    changes, datagrams = moved(sim), sim.datagrams
    sim.run(100.0)
    assert moved(sim) - changes <= 2
    links = sum(sim.connected(number) for number in running(sim))
    assert (sim.datagrams - datagrams) / links / 20 <= 2.0


@pytest.mark.parametrize("latency", [(0.030, 0.030), (0.0005, 0.004)])
def test_where_all_are_as_near_as_each_other_nothing_moves(latency: tuple[float, float]) -> None:
    sim = cluster(Network(latency=latency, per_pair=True))
    before = [linked(sim, number) for number in running(sim)]
    sim.run(100.0)
    assert [linked(sim, number) for number in running(sim)] == before
    assert moved(sim) == 0


def test_chance_makes_nobody_near() -> None:
    """Each datagram takes 10 to 50 ms, whoever it goes to."""
    sim = cluster(Network())
    sim.run(60.0)
    early = moved(sim)
    sim.run(60.0)
    assert moved(sim) - early <= NODES / 3


def test_on_one_network_nobody_is_even_looked_at() -> None:
    sim = cluster(Network(latency=(0.0001, 0.004), per_pair=True))
    sim.run(60.0)
    assert sum(each.candidates_dialed for each in nearness(sim)) == 0


def test_while_links_change_hardly_a_message_waits_for_repair() -> None:
    """A tree that only loses links: 12 of 36 waited, and 99 % of nodes were reached within 430 ms."""
    sim = cluster(Network(per_pair=True), strategy="plumtree")
    sim.run(4.0)
    said = []
    for number in range(40):
        said.append(sim.broadcast(7 * number % NODES, b"%d" % number))
        sim.run(0.7)
    assert moved(sim) > NODES / 2
    lasts_s = [max(sim.latencies(each)) for each in said[4:]]
    assert sum(last_s > 0.3 for last_s in lasts_s) <= 2


def test_places_far_apart_stay_connected() -> None:
    sim = places(FAR_APART, "a", "b", "c")
    sim.run(150.0)
    assert moved(sim) > 0
    assert is_connected(sim)
    message_id = sim.broadcast(0, b"to all places")
    sim.run(2.0)
    assert len(sim.deliveries(message_id)) == NODES - 1


@pytest.mark.parametrize("distribution", ["uniform", "prefer-remote"])
def test_how_many_links_lead_into_which_zone_is_not_changed_by_nearness(distribution: str) -> None:
    sim = cluster(FAR_APART, zones=("a", "b", "c"), distribution=distribution)
    sim.run(60.0)
    assert moved(sim) == 0


def test_whoever_lies_about_being_near_is_measured_and_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Node 0 is far from all others and offers itself to everybody nonetheless."""
    network = Network(latency=(0.010, 0.010), latency_between_zones=(0.080, 0.080), per_pair=True)
    sim = places(network, "far", *["here"] * (NODES - 1))
    sim.run(20.0)
    liar, honest = nearness(sim)[0], ProximityOptimizer.next_candidate

    def boast(self: ProximityOptimizer, now: float) -> SwapCandidate | None:
        look = honest(self, now)
        return look._replace(max_rtt_s=10.0) if look and self is liar else look

    monkeypatch.setattr(ProximityOptimizer, "next_candidate", boast)
    sim.run(80.0)
    assert liar.candidates_dialed > 5
    assert moved(sim) == liar.links_optimized, (
        "who has room takes it in, but nobody lets another go for it"
    )
