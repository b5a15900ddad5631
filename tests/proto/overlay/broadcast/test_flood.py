"""Flood: who subscribes where, and who gets what."""

from __future__ import annotations

import pytest

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.flood import Flood
from grapevine_proto.wire.messages import Graft, Subscribe
from tests.proto.overlay.builders import Surroundings, news, peer_id, said


def flood(*linked: int, seed: int = 1, **changes: object) -> tuple[Surroundings, Flood]:
    place = Surroundings(*linked, **changes)  # type: ignore[arg-type]
    place.rng.seed(seed)
    return place, Flood(place.config, place.around, place.rng)


def subscribe(strategy: Flood, *numbers: int) -> None:
    for number in numbers:
        assert strategy.handle(Subscribe(True), peer_id(number), 0.0) == []


def targets(strategy: Flood, origin: int, sender: int | None, hops: int = 1) -> set[PeerId]:
    return set(strategy.on_new_rumor(news(origin, sender=sender, hops=hops), 0.0).targets)


def test_a_node_subscribes_to_as_many_links_as_it_is_set_to() -> None:
    _, strategy = flood(*range(1, 20), subscriptions=4)
    asked = said(strategy.start(0.0))
    assert len(asked) == 4
    assert set(asked) == set(strategy.subscriptions)
    assert all(each == [Subscribe(True)] for each in asked.values())


def test_with_few_links_it_subscribes_to_all() -> None:
    place, strategy = flood(1)
    strategy.start(0.0)
    assert said(strategy.on_link_up(place.link(2), 0.0)) == {peer_id(2): [Subscribe(True)]}
    assert set(strategy.subscriptions) == {peer_id(1), peer_id(2)}


def test_whom_it_loses_it_replaces() -> None:
    place, strategy = flood(*range(1, 8))
    strategy.start(0.0)
    lost = place.unlink(1 + [peer_id(n) for n in range(1, 8)].index(strategy.subscriptions[0]))
    replaced = said(strategy.on_link_down(lost, 1.0))
    assert len(replaced) == 1
    assert lost not in strategy.subscriptions
    assert len(strategy.subscriptions) == 5
    other = next(each for each in place.around.linked if each not in strategy.subscriptions)
    assert strategy.on_link_down(other, 2.0) == []


def test_newcomers_take_places_so_that_all_are_as_likely_to_have_subscribers() -> None:
    had = dict.fromkeys(range(1, 31), 0)
    for seed in range(300):
        place, strategy = flood(1, 2, seed=seed, subscriptions=5)
        strategy.start(0.0)
        for number in range(3, 31):
            for who, words in said(strategy.on_link_up(place.link(number), 0.0)).items():
                assert words in ([Subscribe(True)], [Subscribe(False)])
                assert (who in strategy.subscriptions) == words[0].is_subscribed  # type: ignore[attr-defined]
        for number in had:
            had[number] += peer_id(number) in strategy.subscriptions
    assert sum(had.values()) == 300 * 5
    assert all(25 <= each <= 80 for each in had.values()), had  # 50 expected of each


@pytest.mark.parametrize(
    ("distribution", "least", "most"),
    [
        ("uniform", 0.60, 0.73),
        ("hub-and-spoke", 0.40, 0.40),  # two other zones, so two of five
        ("prefer-local", 0.45, 0.58),
        ("prefer-remote", 0.72, 0.85),
    ],
)
def test_subscriptions_cross_zones_as_the_distribution_has_it(
    distribution: str, least: float, most: float
) -> None:
    """Links come one by one, and ten of thirty are at home."""
    remote = 0
    for seed in range(40):
        place, strategy = flood(seed=seed, distribution=distribution, zone="a", subscriptions=5)
        strategy.start(0.0)
        order = list(range(1, 31))
        place.rng.shuffle(order)
        for number in order:
            strategy.on_link_up(place.link(number, "abc"[number % 3]), 0.0)
        zones = list(map(place.peers.zone_of, strategy.subscriptions))
        assert len(zones) == 5
        assert distribution != "hub-and-spoke" or {"b", "c"} <= set(zones)
        remote += sum(zone != "a" for zone in zones)
    assert least <= remote / (40 * 5) <= most


def test_what_is_heard_goes_to_all_subscribers_but_sender_and_origin() -> None:
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
        got = targets(strategy, 0, None, hops=0)
        assert len(got) == expected
        assert {peer_id(n) for n in subscribers} <= got
    _, strategy = flood(*range(1, 10))
    assert targets(strategy, 8, 1) == set(), "a relay has no such duty"


def test_what_came_too_far_or_was_mailed_to_all_goes_no_further() -> None:
    _, strategy = flood(*range(1, 10))
    subscribe(strategy, 5)
    assert targets(strategy, 1, 2, hops=9)
    assert not targets(strategy, 1, 2, hops=10)
    assert not strategy.on_new_rumor(news(1, sender=1)._replace(is_mailed=True), 0.0).targets


def test_subscriptions_are_said_again_and_a_restarted_peer_is_told_anew() -> None:
    place, strategy = flood(1, 2, gossip_interval=5.0)
    strategy.start(0.0)
    assert strategy.deadline == 20.0
    assert strategy.advance(19.0) == []
    assert said(strategy.advance(20.0)) == {
        peer_id(1): [Subscribe(True)],
        peer_id(2): [Subscribe(True)],
    }
    subscribe(strategy, 1)
    assert said(strategy.on_link_up(peer_id(1), 21.0)) == {peer_id(1): [Subscribe(True)]}
    assert strategy.subscribers == (), "its subscription was of an earlier run"
    assert place.around.is_linked(peer_id(1))


def test_another_strategy_takes_over_with_a_word_to_each() -> None:
    _, strategy = flood(1, 2)
    strategy.start(0.0)
    assert said(strategy.stop()) == {
        peer_id(1): [Subscribe(False)],
        peer_id(2): [Subscribe(False)],
    }


def test_fewer_or_more_subscriptions_are_taken_over_while_running() -> None:
    place, strategy = flood(*range(1, 10))
    strategy.start(0.0)
    said(strategy.reconfigure(place.config.replace(subscriptions=2), 0.0))
    assert len(strategy.subscriptions) == 2
    said(strategy.reconfigure(place.config.replace(subscriptions=7), 0.0))
    assert len(strategy.subscriptions) == 7


def test_only_who_is_linked_can_subscribe() -> None:
    _, strategy = flood(1)
    subscribe(strategy, 9)
    assert strategy.handle(Graft(None), peer_id(1), 0.0) == []
    assert strategy.subscribers == ()
