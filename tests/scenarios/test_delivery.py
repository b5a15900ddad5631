"""Every node receives every message, and soon, with lazy push enabled as by default."""

from __future__ import annotations

import random

import pytest

from grapevine_proto import AntiEntropyConfig, NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Via
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.sim.report import percentile
from grapevine_proto.wire.messages import IHave, IWant, OverlayMessage

NO_ROUNDS = AntiEntropyConfig(enabled=False)


def broadcast_from_random_nodes(
    sim: Simulation, messages: int, *, every_s: float, settle_s: float
) -> tuple[list[float], int]:
    """Broadcast from random nodes; all latencies in order, and the number of missing deliveries."""
    sim.run(15.0)
    sent: list[tuple[float, MessageId]] = []
    for number in range(messages):
        sent.append((sim.now, sim.broadcast(number * 7 % len(sim.nodes), b"%d" % number)))
        sim.run(every_s)
    sim.run(settle_s)
    latencies_s = sorted(
        node.deliveries[each].at - at
        for at, each in sent
        for node in sim.nodes
        if each in node.deliveries
    )
    return latencies_s, messages * (len(sim.nodes) - 1) - len(latencies_s)


@pytest.mark.parametrize(("nodes", "max_peers"), [(10, 50), (30, 50), (60, 8)])
def test_without_loss_every_node_is_reached_at_once_without_anti_entropy(
    nodes: int, max_peers: int
) -> None:
    config = NodeConfig(max_peers=max_peers, anti_entropy=NO_ROUNDS)
    sim = Simulation(nodes=nodes, seed=1, config=config)
    latencies_s, missing = broadcast_from_random_nodes(sim, 10, every_s=0.5, settle_s=2.0)
    assert missing == 0
    assert latencies_s[-1] < 1.0


def test_along_a_tree_one_link_may_carry_all_origins() -> None:
    limits = LimitsConfig(new_origins_per_link=2)
    config = NodeConfig(max_peers=5, strategy="plumtree", anti_entropy=NO_ROUNDS, limits=limits)
    sim = Simulation(nodes=24, seed=4, config=config, initial_links=5)
    sent = []
    for number in range(24):
        sent.append(sim.broadcast(number, b"%d" % number))
        sim.run(0.5)
    assert all(len(sim.deliveries(each)) == 23 for each in sent)
    engines = [node.engine for node in sim.nodes if node.engine is not None]
    assert all(DropReason.TABLE_FULL not in dict(each.stats().dropped) for each in engines)


def test_many_concurrent_origins_do_not_cut_the_shared_tree() -> None:
    """If each origin pruned for its own duplicates, 99 % would wait up to half a second for lazy
    push.
    """
    config = NodeConfig(max_peers=5, strategy="plumtree", anti_entropy=NO_ROUNDS)
    sim = Simulation(
        nodes=48, seed=4, config=config, network=Network(per_pair=True), initial_links=5
    )
    rng = random.Random(1)
    sim.run(2.0)
    sent = []
    for number in range(100):
        sent.append(sim.broadcast(rng.randrange(48), b"%d" % number))
        sim.run(0.1)
    sim.run(1.0)
    latencies_s = sorted(latency_s for each in sent[20:] for latency_s in sim.latencies(each))
    assert len(latencies_s) == 80 * 47
    assert percentile(latencies_s, 0.99) < 0.35


def test_at_ten_percent_loss_99_percent_are_reached_within_two_seconds() -> None:
    config = NodeConfig(max_peers=8)
    sim = Simulation(nodes=40, seed=2, config=config, network=Network(loss=0.10))
    latencies_s, missing = broadcast_from_random_nodes(sim, 25, every_s=0.4, settle_s=30.0)
    assert missing == 0
    assert percentile(latencies_s, 0.99) < 2.0


def test_at_thirty_percent_loss_99_percent_are_reached_within_thirty_seconds() -> None:
    config = NodeConfig(max_peers=8)
    sim = Simulation(nodes=40, seed=3, config=config, network=Network(loss=0.30))
    latencies_s, missing = broadcast_from_random_nodes(sim, 25, every_s=0.4, settle_s=60.0)
    assert missing == 0
    assert percentile(latencies_s, 0.99) < 30.0


def test_without_lazy_push_epidemic_push_misses_nodes() -> None:
    config = NodeConfig(strategy="epidemic", anti_entropy=NO_ROUNDS, lazy_push=False)
    sim = Simulation(nodes=30, seed=1, config=config)
    _, missing = broadcast_from_random_nodes(sim, 10, every_s=0.5, settle_s=2.0)
    assert missing > 0


def test_messages_requested_by_id_are_marked_lazy() -> None:
    config = NodeConfig(strategy="epidemic", anti_entropy=NO_ROUNDS)
    sim = Simulation(nodes=30, seed=1, config=config)
    broadcast_from_random_nodes(sim, 10, every_s=0.5, settle_s=2.0)
    via_values = {each.via for node in sim.nodes for each in node.deliveries.values()}
    assert via_values == {Via.EAGER, Via.LAZY}


@pytest.mark.usefixtures("patch_sources")
def test_a_message_costs_at_most_one_announcement_per_link() -> None:
    config = NodeConfig(strategy="epidemic", anti_entropy=NO_ROUNDS)
    sim = Simulation(nodes=12, seed=5, config=config)
    sim.run(10.0)
    announcements = 0

    for node in sim.nodes:
        assert node.engine is not None
        send_all = node.engine._send

        def count(send: Send, now: float, send_all: object = send_all) -> int:
            nonlocal announcements
            if isinstance(send.message, IHave):
                announcements += len(send.peers)
            return send_all(send, now)  # type: ignore[operator, no-any-return]

        node.engine._send = count  # type: ignore[method-assign]
    sim.broadcast(0, b"one")
    sim.run(2.0)
    assert 0 < announcements <= 12 * 11


def send_from(sim: Simulation, malicious: int, message: OverlayMessage) -> None:
    """Have a node send any message to all its peers."""
    node = sim.nodes[malicious]
    assert node.engine is not None
    links = tuple(node.engine._transport.links)
    node.engine._apply_effects([Send(links, message)], node.read_clock(sim.now))
    sim._drive(node)


@pytest.mark.usefixtures("patch_sources")
def test_false_announcements_delay_delivery_by_less_than_a_second() -> None:
    """It is the first to announce everything its victim will publish, and answers no request."""
    config = NodeConfig(anti_entropy=NO_ROUNDS)
    sim = Simulation(nodes=20, seed=4, config=config)
    sim.run(10.0)
    malicious, victim = sim.nodes[19], sim.nodes[0]
    assert malicious.engine is not None
    assert isinstance(victim.peer_id, PeerId)
    apply_effects = malicious.engine._apply_effects

    def apply_all_but_sends(effects: list[object], now: float) -> None:
        apply_effects([each for each in effects if not isinstance(each, Send)], now)  # type: ignore[misc]

    sent: list[tuple[float, MessageId]] = []
    for sequence in range(1, 16):
        assert victim.engine is not None
        stream = Stream(victim.peer_id, victim.engine.epoch)
        malicious.engine._apply_effects = apply_effects  # type: ignore[method-assign]
        false_ranges = tuple(
            StreamRange(stream, first, first) for first in range(sequence, sequence + 3)
        )
        send_from(sim, 19, IHave((*false_ranges, StreamRange(stream, 1, 2**53))))
        malicious.engine._apply_effects = apply_all_but_sends  # type: ignore[method-assign, assignment]
        sim.run(0.05)
        sent.append((sim.now, sim.broadcast(0, b"%d" % sequence)))
        sim.run(1.5)
    delays_s = [
        delivery.at - at
        for at, each in sent
        for node in sim.nodes[1:19]
        for delivery in [node.deliveries[each]]
    ]
    assert len(delays_s) == 15 * 18
    assert max(delays_s) < 1.2  # the usual time plus less than a second
    for node in sim.nodes[:19]:
        assert node.engine is not None
        assert not node.engine._overlay.store.has_gaps


def test_a_request_for_unannounced_ids_is_answered_like_any_other() -> None:
    sim = Simulation(nodes=3, seed=6)
    sim.run(5.0)
    message = sim.broadcast(0, b"held")
    sim.run(1.0)
    before = sim.nodes[1].duplicates
    send_from(sim, 1, IWant(2**32 - 1, (StreamRange(message.stream, 1, 2**53),)))
    sim.run(1.0)
    assert sim.nodes[1].duplicates == before + 2


def test_a_node_that_leaves_does_not_wait_for_acks_that_peers_delay() -> None:
    sim = Simulation(nodes=3, seed=1, config=NodeConfig(batch_delay=0.5))
    sim.run(5.0)
    sent = sim.broadcast(0, b"good-bye")
    sim.run(0.55)  # it went, and nobody acknowledged it yet
    assert sim.nodes[0].engine is not None
    assert sim.nodes[0].engine.unacknowledged == 1
    sim.leave(0)
    assert sim.run_until(lambda: sim.nodes[0].engine is None, 0.4)
    assert len(sim.deliveries(sent)) == 2


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_delayed_acks_lose_nothing(loss: float) -> None:
    config = NodeConfig(batch_delay=0.5, anti_entropy=NO_ROUNDS)
    sim = Simulation(nodes=8, seed=2, config=config, network=Network(loss=loss))
    latencies_s, missing = broadcast_from_random_nodes(sim, 40, every_s=0.4, settle_s=10.0)
    assert missing == 0
    assert latencies_s[-1] < (0.7 if loss == 0 else 5.0)


def test_an_idle_link_forgets_the_load_of_its_start() -> None:
    """Otherwise a lost message would be retransmitted seconds later, for as long as no other is sent."""
    sim = Simulation(nodes=2, seed=1, config=NodeConfig(anti_entropy=NO_ROUNDS))
    sim.run(3.0)
    sim.slow(1, 0.6)
    for number in range(20):
        sim.broadcast(0, b"%d" % number)
        sim.run(1.0)
    sim.slow(1, 0.0)
    sim.run(50.0)
    sim.change_network(Network(loss=1.0))
    lost = sim.broadcast(0, b"lost once")
    sim.run(0.01)
    sim.change_network(Network())
    assert sim.run_until(lambda: bool(sim.deliveries(lost)), 0.5)
