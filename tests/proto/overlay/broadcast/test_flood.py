"""Flooding: which peers a node subscribes to, and which get a rumor."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.flood import RESUBSCRIBE_INTERVALS, Flood
from grapevine_proto.wire.messages import Graft, Subscribe
from tests.proto.overlay.builders import NodeTables, new_rumor, peer_id, sent_by_peer


def flood(*linked: int, seed: int = 1, **changes: object) -> tuple[NodeTables, Flood]:
    tables = NodeTables(*linked, **changes)  # type: ignore[arg-type]
    tables.rng.seed(seed)
    return tables, Flood(tables.context, tables.near_peers)


def subscribe(strategy: Flood, *numbers: int) -> None:
    for number in numbers:
        assert strategy.handle(Subscribe(True), peer_id(number), 0.0) == []


def targets(strategy: Flood, origin: int, sender: int | None, hops: int = 1) -> set[PeerId]:
    return set(strategy.on_new_rumor(new_rumor(origin, sender=sender, hops=hops), 0.0).targets)


def test_a_node_subscribes_to_the_configured_number_of_links() -> None:
    _, strategy = flood(*range(1, 20), subscriptions=4)
    subscribed = sent_by_peer(strategy.start(0.0))
    assert len(subscribed) == 4
    assert set(subscribed) == set(strategy.subscriptions)
    assert all(each == [Subscribe(True)] for each in subscribed.values())


def test_a_node_with_few_links_subscribes_to_all() -> None:
    tables, strategy = flood(1)
    strategy.start(0.0)
    assert sent_by_peer(strategy.on_link_up(tables.link(2), 0.0)) == {peer_id(2): [Subscribe(True)]}
    assert set(strategy.subscriptions) == {peer_id(1), peer_id(2)}


def test_a_lost_subscription_is_replaced() -> None:
    tables, strategy = flood(*range(1, 8))
    strategy.start(0.0)
    lost = tables.unlink(1 + [peer_id(n) for n in range(1, 8)].index(strategy.subscriptions[0]))
    replaced = sent_by_peer(strategy.on_link_down(lost, 1.0))
    assert len(replaced) == 1
    assert lost not in strategy.subscriptions
    assert len(strategy.subscriptions) == 5
    other = next(each for each in tables.near_peers.linked if each not in strategy.subscriptions)
    assert strategy.on_link_down(other, 2.0) == []


def test_newcomers_replace_subscriptions_so_that_all_peers_are_equally_likely() -> None:
    counts = dict.fromkeys(range(1, 31), 0)
    for seed in range(300):
        tables, strategy = flood(1, 2, seed=seed, subscriptions=5)
        strategy.start(0.0)
        for number in range(3, 31):
            for recipient, messages in sent_by_peer(
                strategy.on_link_up(tables.link(number), 0.0)
            ).items():
                assert messages in ([Subscribe(True)], [Subscribe(False)])
                assert (recipient in strategy.subscriptions) == messages[0].is_subscribed  # type: ignore[attr-defined]
        for number in counts:
            counts[number] += peer_id(number) in strategy.subscriptions
    assert sum(counts.values()) == 300 * 5
    assert all(25 <= each <= 80 for each in counts.values()), counts  # 50 expected of each


@pytest.mark.parametrize(
    ("distribution", "minimum", "maximum"),
    [
        ("uniform", 0.60, 0.73),
        ("hub-and-spoke", 0.40, 0.40),  # two other zones, so two of five
        ("prefer-local", 0.45, 0.58),
        ("prefer-remote", 0.72, 0.85),
    ],
)
def test_subscriptions_cross_zones_as_the_distribution_prefers(
    distribution: str, minimum: float, maximum: float
) -> None:
    """Links arrive one by one, and ten of thirty are local."""
    remote = 0
    for seed in range(40):
        tables, strategy = flood(seed=seed, distribution=distribution, zone="a", subscriptions=5)
        strategy.start(0.0)
        order = list(range(1, 31))
        tables.rng.shuffle(order)
        for number in order:
            strategy.on_link_up(tables.link(number, "abc"[number % 3]), 0.0)
        zones = list(map(tables.peers.zone_of, strategy.subscriptions))
        assert len(zones) == 5
        assert distribution != "hub-and-spoke" or {"b", "c"} <= set(zones)
        remote += sum(zone != "a" for zone in zones)
    assert minimum <= remote / (40 * 5) <= maximum


def test_a_rumor_goes_to_all_subscribers_except_sender_and_origin() -> None:
    _, strategy = flood(*range(1, 10))
    subscribe(strategy, 1, 2, 3, 4)
    assert targets(strategy, 1, 2) == {peer_id(3), peer_id(4)}
    assert targets(strategy, 9, None, hops=0) == {peer_id(n) for n in (1, 2, 3, 4)}
    strategy.handle(Subscribe(False), peer_id(3), 0.0)
    assert targets(strategy, 1, 2) == {peer_id(4)}
    assert set(strategy.subscribers) == {peer_id(1), peer_id(2), peer_id(4)}


def test_an_origin_with_fewer_than_two_subscribers_pushes_to_three() -> None:
    for subscribers, expected in (((), 3), ((1,), 3), ((1, 2), 2)):
        _, strategy = flood(*range(1, 10))
        subscribe(strategy, *subscribers)
        chosen = targets(strategy, 0, None, hops=0)
        assert len(chosen) == expected
        assert {peer_id(n) for n in subscribers} <= chosen
    _, strategy = flood(*range(1, 10))
    assert targets(strategy, 8, 1) == set(), "this applies to the origin only"


def test_a_rumor_beyond_the_hop_limit_is_not_forwarded() -> None:
    _, strategy = flood(*range(1, 10))
    subscribe(strategy, 5)
    assert targets(strategy, 1, 2, hops=9)
    assert not targets(strategy, 1, 2, hops=10)


def test_subscriptions_are_repeated_and_sent_to_a_restarted_peer() -> None:
    tables, strategy = flood(1, 2, gossip_interval=5.0)
    strategy.start(0.0)
    assert strategy.deadline == 20.0
    assert strategy.advance(19.0) == []
    assert sent_by_peer(strategy.advance(20.0)) == {
        peer_id(1): [Subscribe(True)],
        peer_id(2): [Subscribe(True)],
    }
    subscribe(strategy, 1)
    assert sent_by_peer(strategy.on_link_up(peer_id(1), 21.0)) == {peer_id(1): [Subscribe(True)]}
    assert strategy.subscribers == (), "its subscription belonged to an earlier session"
    assert tables.near_peers.is_linked(peer_id(1))


def test_stopping_unsubscribes_from_every_peer() -> None:
    _, strategy = flood(1, 2)
    strategy.start(0.0)
    assert sent_by_peer(strategy.stop()) == {
        peer_id(1): [Subscribe(False)],
        peer_id(2): [Subscribe(False)],
    }


def test_a_changed_number_of_subscriptions_applies_while_running() -> None:
    tables, strategy = flood(*range(1, 10))
    strategy.start(0.0)
    tables.reconfigure(subscriptions=2)
    sent_by_peer(strategy.reconfigure(0.0))
    assert len(strategy.subscriptions) == 2
    tables.reconfigure(subscriptions=7)
    sent_by_peer(strategy.reconfigure(0.0))
    assert len(strategy.subscriptions) == 7


def test_only_linked_peers_can_subscribe() -> None:
    _, strategy = flood(1)
    subscribe(strategy, 9)
    assert strategy.handle(Graft(None), peer_id(1), 0.0) == []
    assert strategy.subscribers == ()


@pytest.mark.parametrize("gossip_interval", [1.0, 5.0])
def test_subscriptions_are_repeated_every_few_gossip_intervals(gossip_interval: float) -> None:
    _, strategy = flood(1, 2, gossip_interval=gossip_interval)
    assert strategy.deadline == math.inf
    strategy.start(0.0)
    first_at = strategy.deadline
    assert strategy.advance(first_at - 0.1) == []
    assert set(sent_by_peer(strategy.advance(first_at))) == {peer_id(1), peer_id(2)}
    assert strategy.deadline == first_at + RESUBSCRIBE_INTERVALS * gossip_interval
