"""Shortcuts for large simulations change nothing but their duration."""

from __future__ import annotations

import gc
import random

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.sim import Network, Simulation, memoized
from grapevine_proto.sim.fast_start import regular_overlay
from grapevine_proto.wire import signed


def run_with_links(linked: int) -> tuple[str, int]:
    """A short run with repairs in it; its trace and how often its message was delivered."""
    sim = Simulation(
        nodes=12,
        seed=3,
        config=NodeConfig(max_peers=4),
        network=Network(loss=0.1),
        initial_links=linked,
    )
    sim.run(8)
    message_id = sim.broadcast(2, b"hello")
    sim.run(10)
    return sim.trace_hash, sum(sim.deliveries(message_id).values())


@pytest.mark.parametrize("linked", [0, 4])
def test_memoization_changes_no_run(linked: int) -> None:
    with memoized():
        memoized_run = run_with_links(linked)
    assert memoized_run == run_with_links(linked)


def test_memoized_restores_the_collector_and_the_functions_also_after_an_error() -> None:
    def fail() -> None:
        with memoized():
            assert vars(signed)["verify"] is not before
            assert not gc.isenabled()
            raise KeyError

    before = vars(signed)["verify"]
    with pytest.raises(KeyError):
        fail()
    assert vars(signed)["verify"] is before
    assert gc.isenabled()


def test_initially_linked_nodes_are_connected_and_receive_everything() -> None:
    sim = Simulation(nodes=40, seed=1, config=NodeConfig(max_peers=5), initial_links=5)
    sim.run(1.0)
    assert min(sim.connected(number) for number in range(40)) >= 4
    message_id = sim.broadcast(7, b"hello")
    assert sim.run_until(lambda: sim.report(message_id).missed == 0, timeout=3.0)
    sim.run(200.0)  # past the age at which every session is renewed, by a real handshake
    assert min(sim.connected(number) for number in range(40)) >= 4


def test_more_links_than_a_node_may_have_are_refused() -> None:
    with pytest.raises(ValueError, match="initial_links"):
        Simulation(nodes=3, config=NodeConfig(max_peers=2), initial_links=3)


@pytest.mark.parametrize(("nodes", "degree"), [(2, 1), (5, 8), (50, 2), (51, 3), (300, 5), (64, 8)])
def test_the_initial_overlay_is_regular_and_connected(nodes: int, degree: int) -> None:
    links = regular_overlay(nodes, degree, random.Random(1))
    assert all(each in links[other] for each in range(nodes) for other in links[each])
    assert all(each not in links[each] for each in range(nodes))
    expected = min(degree, nodes - 1)
    assert max(map(len, links)) == expected
    assert sum(map(len, links)) >= nodes * expected - 2 * expected
    reached, edge = {0}, [0]
    while edge:
        edge = [other for each in edge for other in links[each] if other not in reached]
        reached.update(edge)
    assert len(reached) == nodes
