"""Epidemic push: probability, fanout, hops, feedback and its end."""

from __future__ import annotations

import random

from grapevine_proto.config import EpidemicConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.dissemination.epidemic import HOT_LIMIT, Epidemic
from grapevine_proto.overlay.held import Key
from tests.overlay.made import EPOCH, config, peer_id

ORIGIN, SENDER = peer_id(0), peer_id(1)
LINKED = [peer_id(number) for number in range(20)]
KEY: Key = (ORIGIN, EPOCH, 1)


def epidemic(seed: int = 1, fanout: int = 3, **changes: float) -> Epidemic:
    settings = EpidemicConfig(**changes)  # type: ignore[arg-type]
    return Epidemic(config(epidemic=settings, fanout=fanout), random.Random(seed), lambda _: "")


def spread_of(
    strategy: Epidemic, hops: int = 1, sender: PeerId | None = SENDER, key: Key = KEY
) -> list[PeerId]:
    return strategy.spread(key, hops, sender, LINKED, 0.0)


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
    assert strategy.advance(LINKED, 4.9) == []
    for at in (5.0, 10.0):
        [(key, targets)] = strategy.advance(LINKED, at)
        assert key == KEY
        assert len(targets) == 1
        assert not told & {*targets, ORIGIN, SENDER}
        told.update(targets)
    assert strategy.advance(LINKED, 15.0) == []
    assert len(told) == 5


def test_a_copy_heard_back_cools_a_rumor() -> None:
    strategy = epidemic(forward_probability=1.0)
    spread_of(strategy)
    strategy.heard_again(KEY, peer_id(7))
    assert strategy.advance(LINKED, 100.0) == []
    assert strategy.deadline == float("inf")


def test_a_fanout_above_the_copies_allowed_sends_no_more_than_those() -> None:
    assert len(spread_of(epidemic(fanout=9, forward_probability=1.0))) == 5


def test_one_rumor_beyond_those_watched_cools_the_oldest() -> None:
    strategy = epidemic(forward_probability=1.0)
    for sequence in range(HOT_LIMIT + 1):
        spread_of(strategy, key=(ORIGIN, EPOCH, sequence))
    assert strategy.cooled_early == 1
    assert len(strategy.advance(LINKED, 5.0)) == HOT_LIMIT


def test_with_nobody_linked_a_rumor_waits_for_whoever_comes() -> None:
    strategy = epidemic()
    assert strategy.spread(KEY, 0, None, [], 0.0) == []
    [(key, targets)] = strategy.advance([peer_id(5)], 5.0)
    assert (key, targets) == (KEY, [peer_id(5)])


def test_a_relay_keeps_to_the_distribution() -> None:
    """Of three, one abroad and two at home."""
    home = set(LINKED[::4])
    settings = config(distribution="hub-and-spoke", zone="home")
    for seed in range(50):
        strategy = Epidemic(
            settings, random.Random(seed), lambda each: "home" if each in home else "abroad"
        )
        targets = strategy.spread((peer_id(30), EPOCH, 1), 0, None, LINKED, 0.0)
        assert len(targets) == 3
        assert len(home.intersection(targets)) == 2
