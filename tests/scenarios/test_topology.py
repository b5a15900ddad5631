"""Links in clusters larger than `max_peers`: how they form, and how they recover."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import Event, PeerState, PeerStateChanged
from grapevine_proto.sim import Network, Simulation

NODES = 40


def running(sim: Simulation) -> list[int]:
    return [node.number for node in sim.nodes if node.is_running]


def linked(sim: Simulation, number: int) -> set[int]:
    """Live nodes to which a node is linked by its own account."""
    numbers = {node.peer_id: node.number for node in sim.nodes if node.is_running}
    peers = (each for each in sim.peers(number) if each.state is PeerState.CONNECTED)
    return {numbers[each.peer_id] for each in peers if each.peer_id in numbers}


def is_connected(sim: Simulation) -> bool:
    """Whether every live node is reachable from every other over mutual links."""
    links = {number: linked(sim, number) for number in running(sim)}
    reached, frontier = set[int](), {next(iter(links))}
    while frontier:
        reached |= frontier
        frontier = {b for a in frontier for b in links[a] if a in links[b]} - reached
    return reached == set(links)


def is_filled(sim: Simulation, numbers: Iterable[int], max_peers: int) -> bool:
    """Whether each has all links it may have, or one fewer."""
    return all(len(linked(sim, number)) in (max_peers - 1, max_peers) for number in numbers)


@pytest.mark.parametrize(("max_peers", "loss"), [(5, 0.0), (8, 0.1)])
def test_every_node_fills_all_link_slots_but_one(max_peers: int, loss: float) -> None:
    config = NodeConfig.lan(max_peers=max_peers)
    sim = Simulation(nodes=NODES, seed=2, config=config, network=Network(loss=loss))
    sim.run(30.0)
    assert is_filled(sim, running(sim), max_peers)
    assert is_connected(sim)


def test_a_newcomer_finds_room_where_every_node_is_full() -> None:
    sim = Simulation(nodes=NODES, seed=3, config=NodeConfig.lan(max_peers=6), initial_links=6)
    sim.run(5.0)
    newcomer = sim.add(bootstrap=[0])
    sim.run(10.0)
    assert is_filled(sim, running(sim), 6)
    assert len(linked(sim, newcomer)) >= 5


def test_after_half_of_the_nodes_die_at_once_the_rest_is_connected_again() -> None:
    sim = Simulation(nodes=NODES, seed=4, config=NodeConfig.lan(max_peers=5), initial_links=5)
    sim.run(20.0)
    for number in range(0, NODES, 2):
        sim.crash(number)
    sim.run(15.0)
    message_id = sim.broadcast(1, b"who is there?")
    sim.run(3.0)
    assert is_connected(sim)
    assert sorted(sim.deliveries(message_id)) == [n for n in running(sim) if n != 1]


def test_a_member_table_smaller_than_the_cluster_does_not_affect_links() -> None:
    """No node knows more than three tenths of the cluster, which affects only the member list."""
    limits = LimitsConfig(members=12)
    config = NodeConfig.lan(max_peers=5, limits=limits)
    sim = Simulation(nodes=NODES, seed=5, config=config, network=Network(loss=0.05))
    sim.run(50.0)
    engines = [node.engine for node in sim.nodes if node.engine is not None]
    assert max(len(engine.members()) for engine in engines) == 12
    assert is_filled(sim, running(sim), 5)
    for number in range(0, NODES, 3):
        sim.crash(number)
    sim.run(20.0)
    message_id = sim.broadcast(1, b"still here")
    sim.run(3.0)
    assert is_connected(sim)
    assert sorted(sim.deliveries(message_id)) == [n for n in running(sim) if n != 1]


@pytest.mark.parametrize("seed", [2, 3])
def test_a_full_node_does_not_keep_dialing_members_its_small_table_evicted(
    seed: int,
) -> None:
    config = NodeConfig.local(max_peers=4, limits=LimitsConfig(members=8))
    sim = Simulation(nodes=12, seed=seed, config=config)
    sim.run(10.0)
    for number in range(12):  # so that addresses of an earlier run are remembered
        sim.crash(number)
        sim.restart(number)
    sim.run(40.0)
    closed: list[str] = []
    sim.listen(lambda _, __, event: closed.append(_reason_of(event)))
    sim.run(20.0)
    assert sum("full" in reason for reason in closed) <= 10


def _reason_of(event: Event) -> str:
    return event.reason if isinstance(event, PeerStateChanged) else ""


def test_hub_and_spoke_links_become_local_and_then_stay() -> None:
    config = NodeConfig.lan(max_peers=8, distribution="hub-and-spoke")
    sim = Simulation(nodes=24, seed=6, config=config, zones=("a", "b", "c"))
    # At one eviction per second and node; with six of seven seeds links have settled then.
    sim.run(160.0)
    before = {number: linked(sim, number) for number in running(sim)}
    remote_links = [
        sum(other % 3 != number % 3 for other in links) for number, links in before.items()
    ]
    assert sum(remote_links) <= 0.35 * sum(map(len, before.values()))
    assert is_connected(sim)
    sim.run(20.0)
    changed = sum(len(linked(sim, number) ^ links) for number, links in before.items())
    assert changed <= 12
