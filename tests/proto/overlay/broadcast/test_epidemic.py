"""Epidemic push: probability, fanout, hops, feedback and its end."""

from __future__ import annotations

from dataclasses import replace

from grapevine_proto.config.sections import EpidemicConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.epidemic import HOT_RUMORS_LIMIT, Epidemic
from grapevine_proto.overlay.broadcast.strategy import NewRumor, Push
from grapevine_proto.overlay.store.message_cache import RumorKey
from tests.proto.overlay.builders import EPOCH, Surroundings, peer_id, record

ORIGIN, SENDER = peer_id(100), peer_id(1)
KEY: RumorKey = (ORIGIN, EPOCH, 1)


def epidemic(seed: int = 1, fanout: int = 3, **changes: float) -> Epidemic:
    settings = EpidemicConfig(**changes)  # type: ignore[arg-type]
    place = Surroundings(*range(1, 20), 100, epidemic=settings, fanout=fanout)
    place.rng.seed(seed)
    return Epidemic(place.config, place.around, place.rng)


def spread_of(
    strategy: Epidemic, hops: int = 1, sender: PeerId | None = SENDER, key: RumorKey = KEY
) -> list[PeerId]:
    return list(strategy.on_new_rumor(NewRumor(key, 100, hops, sender), 0.0).targets)


def due(strategy: Epidemic, at: float) -> list[Push]:
    pushes = strategy.advance(at)
    assert all(isinstance(each, Push) for each in pushes)
    return pushes  # type: ignore[return-value]


def test_the_origin_always_pushes_to_fanout_peers() -> None:
    for seed in range(50):
        targets = spread_of(epidemic(seed, forward_probability=0.0), hops=0, sender=None)
        assert len(set(targets)) == 3


def test_a_relay_pushes_with_the_probability_that_is_set() -> None:
    strategy = epidemic()
    pushed = sum(bool(spread_of(strategy, key=(ORIGIN, EPOCH, n))) for n in range(2000))
    assert 0.66 < pushed / 2000 < 0.74


def test_nothing_goes_back_to_the_sender_or_the_origin() -> None:
    for seed in range(100):
        targets = spread_of(epidemic(seed, forward_probability=1.0), key=KEY)
        assert ORIGIN not in targets
        assert SENDER not in targets


def test_after_ten_hops_a_push_ends() -> None:
    strategy = epidemic(forward_probability=1.0)
    assert spread_of(strategy, hops=9)
    assert not spread_of(strategy, hops=10)


def test_a_hot_rumor_goes_to_one_more_peer_an_interval_up_to_five_copies() -> None:
    strategy = epidemic(forward_probability=1.0)
    told = set(spread_of(strategy))
    assert strategy.deadline == 5.0
    assert due(strategy, 4.9) == []
    for at in (5.0, 10.0):
        [(key, targets)] = due(strategy, at)
        assert key == KEY
        assert len(targets) == 1
        assert not told & {*targets, ORIGIN, SENDER}
        told.update(targets)
    assert due(strategy, 15.0) == []
    assert len(told) == 5


def test_a_copy_heard_back_cools_a_rumor() -> None:
    strategy = epidemic(forward_probability=1.0)
    spread_of(strategy)
    strategy.on_duplicate(KEY, peer_id(7), 1.0)
    assert due(strategy, 100.0) == []
    assert strategy.deadline == float("inf")


def test_a_fanout_above_the_copies_allowed_sends_no_more_than_those() -> None:
    assert len(spread_of(epidemic(fanout=9, forward_probability=1.0))) == 5


def test_one_rumor_beyond_those_watched_cools_the_oldest() -> None:
    strategy = epidemic(forward_probability=1.0)
    for sequence in range(HOT_RUMORS_LIMIT + 1):
        spread_of(strategy, key=(ORIGIN, EPOCH, sequence))
    assert strategy.evicted == 1
    assert len(due(strategy, 5.0)) == HOT_RUMORS_LIMIT


def test_with_nobody_linked_a_rumor_waits_for_whoever_comes() -> None:
    place = Surroundings()
    strategy = Epidemic(place.config, place.around, place.rng)
    assert spread_of(strategy, hops=0, sender=None) == []
    came = place.link(5)
    assert due(strategy, 5.0) == [Push(KEY, [came])]


def test_whoever_came_first_and_was_given_it_is_not_pushed_it_again() -> None:
    place = Surroundings()
    strategy = Epidemic(place.config, place.around, place.rng)
    spread_of(strategy, hops=0, sender=None)
    strategy.on_late_delivery(KEY, place.link(5))
    assert due(strategy, 5.0) == []


def test_what_was_given_counts_as_a_copy() -> None:
    place = Surroundings(epidemic=EpidemicConfig(max_forwards=1))
    strategy = Epidemic(place.config, place.around, place.rng)
    spread_of(strategy, hops=0, sender=None)
    strategy.on_late_delivery(KEY, place.link(5))
    place.link(6)
    assert due(strategy, 5.0) == []


def test_what_was_mailed_to_all_is_not_relayed() -> None:
    mailed = NewRumor(KEY, 100, 1, SENDER, is_mailed=True)
    assert epidemic(forward_probability=1.0).on_new_rumor(mailed, 0.0).targets == ()


def test_a_relay_keeps_to_the_distribution() -> None:
    """Of three, one abroad and two at home."""
    for seed in range(50):
        place = Surroundings(*range(1, 20), distribution="hub-and-spoke", zone="home")
        for number, peer in enumerate(place.peers):
            peer.record = replace(record(1), zone="abroad" if number % 4 else "home")
        place.rng.seed(seed)
        strategy = Epidemic(place.config, place.around, place.rng)
        targets = spread_of(strategy, hops=0, sender=None, key=(peer_id(100), EPOCH, 1))
        assert sorted(map(place.peers.zone_of, targets)) == ["abroad", "home", "home"]
