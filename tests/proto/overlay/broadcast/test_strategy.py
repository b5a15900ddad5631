"""All strategies in whole clusters: everybody is reached, at what each costs."""

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
    """So many nodes that have found each other; without anti-entropy, where nothing is lost."""
    rounds = AntiEntropyConfig() if loss else NO_ROUNDS
    config = NodeConfig(strategy=strategy, max_peers=max_peers, anti_entropy=rounds)
    network = Network(loss=loss, per_pair=per_pair)
    sim = Simulation(nodes=nodes, seed=1, config=config, network=network)
    sim.run(15.0)
    return sim


def say(
    sim: Simulation, messages: int, *, random_senders: bool = False, settle_s: float = 3.0
) -> list[BroadcastReport]:
    """One message a second, by node 0 or by nodes here and there; the report of each."""
    said: list[MessageId] = []
    for number in range(messages):
        who = number * 7 % len(sim.nodes) if random_senders else 0
        said.append(sim.broadcast(who, b"%d" % number))
        sim.run(1.0)
    sim.run(settle_s)
    return [sim.report(each) for each in said]


def change(sim: Simulation, strategy: str) -> None:
    """Let all nodes go over to another strategy, and no word of that be on its way any more."""
    for node in sim.nodes:
        assert node.engine is not None
        config = node.engine.config.replace(strategy=strategy)
        assert node.engine.reconfigure(config, node.read_clock(sim.now)) == ()
        sim._drive(node)
    sim.run(0.2)


def redundancy(reports: list[BroadcastReport]) -> float:
    return sum(report.redundancy for report in reports) / len(reports)


@pytest.mark.parametrize(("nodes", "max_peers"), [(10, 50), (30, 50), (50, 5), (100, 5)])
def test_everybody_is_reached_without_loss_and_without_anti_entropy(
    nodes: int, max_peers: int
) -> None:
    sim = cluster(nodes, "epidemic", max_peers=max_peers)
    for strategy in STRATEGIES:
        change(sim, strategy)
        reports = say(sim, 4, random_senders=True)
        assert [report.missed for report in reports] == [0] * 4, strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_at_ten_percent_loss_nobody_is_missed_and_99_of_100_hear_within_a_second(
    strategy: str,
) -> None:
    max_peers = 50 if strategy == "direct-mail" else 8
    sim = cluster(20, strategy, max_peers=max_peers, loss=0.10)
    said = [(sim.now, sim.broadcast(number, b"x")) for number in range(0, 20, 2)]
    for number in range(10):
        said.append((sim.now, sim.broadcast(number, b"y")))
        sim.run(0.5)
    sim.run(20.0)
    latencies_s = sorted(
        node.deliveries[each].at - at
        for at, each in said
        for node in sim.nodes
        if each in node.deliveries
    )
    assert len(latencies_s) == len(said) * 19
    assert percentile(latencies_s, 0.99) < 1.0


def test_direct_mail_takes_one_hop_and_no_copy_too_many() -> None:
    for strategy in ("direct-mail", "auto"):
        reports = say(cluster(12, strategy, max_peers=50), 5)
        assert {(report.hops, report.redundancy) for report in reports} == {(1, 0.0)}


@pytest.mark.parametrize("strategy", ["plumtree", "auto"])
def test_a_warm_tree_costs_one_copy_a_node_and_is_nearly_as_quick_as_can_be(strategy: str) -> None:
    flooded = say(cluster(60, "flood", per_pair=True), 10)
    quickest_s = min(report.last for report in flooded)  # every path was tried
    reports = say(cluster(60, strategy, per_pair=True), 20)[5:]
    assert redundancy(reports) <= 0.05
    assert max(report.last for report in reports) <= 1.5 * quickest_s


def test_with_random_senders_one_tree_serves_all_at_half_a_copy_too_many_at_most() -> None:
    """Where paths keep their latency; else there is always another that was quicker this once."""
    reports = say(cluster(60, "plumtree", per_pair=True), 30, random_senders=True)[5:]
    assert redundancy(reports) <= 0.5


def test_the_first_message_of_a_cluster_grows_the_tree_without_a_flood() -> None:
    [first] = say(cluster(60, "plumtree"), 1)
    assert first.missed == 0
    assert first.redundancy <= 0.1


def test_a_strategy_is_changed_while_messages_flow_and_nobody_misses_any() -> None:
    sim = cluster(30, "epidemic", max_peers=6)
    said: list[MessageId] = []
    for strategy in (*STRATEGIES, "epidemic"):
        for node in sim.nodes:
            assert node.engine is not None
            config = node.engine.config.replace(strategy=strategy)
            assert node.engine.reconfigure(config, node.read_clock(sim.now)) == ()
            said.append(sim.broadcast(node.number, strategy.encode()))
            sim.run(0.02)
    sim.run(5.0)
    assert [sim.report(each).missed for each in said] == [0] * len(said)


def test_nodes_of_different_strategies_reach_each_other() -> None:
    sim = Simulation(nodes=0, seed=3, config=NodeConfig(max_peers=6, anti_entropy=NO_ROUNDS))
    for number in range(30):
        sim.add(strategy=STRATEGIES[number % len(STRATEGIES)], after=number / 30)
    sim.run(15.0)
    reports = say(sim, 15, random_senders=True)
    assert [report.missed for report in reports] == [0] * 15


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_was_said_to_nobody_goes_to_the_first_who_comes_at_once_and_on_from_there(
    strategy: str,
) -> None:
    sim = Simulation(nodes=1, seed=1, config=NodeConfig(strategy=strategy, anti_entropy=NO_ROUNDS))
    sim.run(1.0)
    message = sim.broadcast(0, b"is anybody there")
    sim.run(60.0)
    sim.add(bootstrap=[0])
    assert sim.run_until(lambda: 1 in sim.deliveries(message), timeout=0.5)
