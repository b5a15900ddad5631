"""All strategies in whole clusters: every node is reached, and at what cost."""

from __future__ import annotations

import pytest

from grapevine_proto import AntiEntropyConfig, NodeConfig
from grapevine_proto.config.node import STRATEGIES
from grapevine_proto.ids import MessageId
from grapevine_proto.sim import BroadcastReport, Network, Simulation
from grapevine_proto.sim.report import percentile

NO_ROUNDS = AntiEntropyConfig(enabled=False)


def cluster(
    nodes: int, strategy: str, *, max_peers: int = 5, loss: float = 0.0, per_pair: bool = False
) -> Simulation:
    """`nodes` nodes that have discovered each other; without loss, also without anti-entropy."""
    rounds = AntiEntropyConfig() if loss else NO_ROUNDS
    config = NodeConfig(strategy=strategy, max_peers=max_peers, anti_entropy=rounds)
    network = Network(loss=loss, per_pair=per_pair)
    sim = Simulation(nodes=nodes, seed=1, config=config, network=network)
    sim.run(15.0)
    return sim


def publish(
    sim: Simulation, messages: int, *, random_senders: bool = False, settle_s: float = 3.0
) -> list[BroadcastReport]:
    """Publish one message a second, from node 0 or from various nodes; the report of each."""
    sent: list[MessageId] = []
    for number in range(messages):
        sender = number * 7 % len(sim.nodes) if random_senders else 0
        sent.append(sim.broadcast(sender, b"%d" % number))
        sim.run(1.0)
    sim.run(settle_s)
    return [sim.report(each) for each in sent]


def switch_strategy(sim: Simulation, strategy: str) -> None:
    """Switch all nodes to another strategy and wait until its messages have arrived."""
    for node in sim.nodes:
        assert node.engine is not None
        config = node.engine.config.replace(strategy=strategy)
        assert node.engine.reconfigure(config, node.read_clock(sim.now)) == ()
        sim._drive(node)
    sim.run(0.2)


def redundancy(reports: list[BroadcastReport]) -> float:
    return sum(report.redundancy for report in reports) / len(reports)


@pytest.mark.parametrize(("nodes", "max_peers"), [(10, 50), (30, 50), (50, 5), (100, 5)])
def test_every_node_is_reached_without_loss_and_without_anti_entropy(
    nodes: int, max_peers: int
) -> None:
    sim = cluster(nodes, "epidemic", max_peers=max_peers)
    for strategy in STRATEGIES:
        switch_strategy(sim, strategy)
        reports = publish(sim, 4, random_senders=True)
        assert [report.missed for report in reports] == [0] * 4, strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_at_ten_percent_loss_no_node_is_missed_and_99_percent_receive_within_a_second(
    strategy: str,
) -> None:
    max_peers = 50 if strategy == "direct-mail" else 8
    sim = cluster(20, strategy, max_peers=max_peers, loss=0.10)
    sent = [(sim.now, sim.broadcast(number, b"x")) for number in range(0, 20, 2)]
    for number in range(10):
        sent.append((sim.now, sim.broadcast(number, b"y")))
        sim.run(0.5)
    sim.run(20.0)
    latencies_s = sorted(
        node.deliveries[each].at - at
        for at, each in sent
        for node in sim.nodes
        if each in node.deliveries
    )
    assert len(latencies_s) == len(sent) * 19
    assert percentile(latencies_s, 0.99) < 1.0


def test_direct_mail_takes_one_hop_without_redundancy() -> None:
    for strategy in ("direct-mail", "auto"):
        reports = publish(cluster(12, strategy, max_peers=50), 5)
        assert {(report.hops, report.redundancy) for report in reports} == {(1, 0.0)}


@pytest.mark.parametrize("strategy", ["plumtree", "auto"])
def test_a_warm_tree_costs_one_copy_per_node_and_is_nearly_as_fast_as_a_flood(
    strategy: str,
) -> None:
    flooded = publish(cluster(60, "flood", per_pair=True), 10)
    fastest_s = min(report.last for report in flooded)  # every path was tried
    reports = publish(cluster(60, strategy, per_pair=True), 20)[5:]
    assert redundancy(reports) <= 0.05
    assert max(report.last for report in reports) <= 1.5 * fastest_s


def test_with_random_senders_the_shared_tree_has_at_most_half_a_redundant_copy() -> None:
    """With a constant latency per path; otherwise a different path is fastest each time."""
    reports = publish(cluster(60, "plumtree", per_pair=True), 30, random_senders=True)[5:]
    assert redundancy(reports) <= 0.5


def test_the_first_message_of_a_cluster_grows_the_tree_without_a_flood() -> None:
    [first] = publish(cluster(60, "plumtree"), 1)
    assert first.missed == 0
    assert first.redundancy <= 0.1


def test_a_strategy_change_under_load_loses_no_message() -> None:
    sim = cluster(30, "epidemic", max_peers=6)
    sent: list[MessageId] = []
    for strategy in (*STRATEGIES, "epidemic"):
        for node in sim.nodes:
            assert node.engine is not None
            config = node.engine.config.replace(strategy=strategy)
            assert node.engine.reconfigure(config, node.read_clock(sim.now)) == ()
            sent.append(sim.broadcast(node.number, strategy.encode()))
            sim.run(0.02)
    sim.run(5.0)
    assert [sim.report(each).missed for each in sent] == [0] * len(sent)


def test_nodes_of_different_strategies_reach_each_other() -> None:
    sim = Simulation(nodes=0, seed=3, config=NodeConfig(max_peers=6, anti_entropy=NO_ROUNDS))
    for number in range(30):
        sim.add(strategy=STRATEGIES[number % len(STRATEGIES)], after=number / 30)
    sim.run(15.0)
    reports = publish(sim, 15, random_senders=True)
    assert [report.missed for report in reports] == [0] * 15


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_message_published_without_links_goes_to_the_first_peer_at_once(
    strategy: str,
) -> None:
    sim = Simulation(nodes=1, seed=1, config=NodeConfig(strategy=strategy, anti_entropy=NO_ROUNDS))
    sim.run(1.0)
    message = sim.broadcast(0, b"is a node there")
    sim.run(60.0)
    sim.add(bootstrap=[0])
    assert sim.run_until(lambda: 1 in sim.deliveries(message), timeout=0.5)
