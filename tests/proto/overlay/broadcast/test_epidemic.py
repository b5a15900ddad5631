"""Epidemic push: probability, fanout, hop limit, feedback and the end of a rumor."""

from __future__ import annotations

from dataclasses import replace

from grapevine_proto.config.sections import EpidemicConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.epidemic import HOT_RUMORS_LIMIT, Epidemic
from grapevine_proto.overlay.broadcast.strategy import NewRumor, Push
from grapevine_proto.overlay.store.message_cache import RumorKey
from tests.proto.overlay.builders import EPOCH, NodeTables, peer_id, record

ORIGIN, SENDER = peer_id(100), peer_id(1)
KEY: RumorKey = (ORIGIN, EPOCH, 1)


def epidemic(seed: int = 1, fanout: int = 3, **changes: float) -> Epidemic:
    settings = EpidemicConfig(**changes)  # type: ignore[arg-type]
    tables = NodeTables(*range(1, 20), 100, epidemic=settings, fanout=fanout)
    tables.rng.seed(seed)
    return Epidemic(tables.context, tables.near_peers)


def push_targets(
    strategy: Epidemic, hops: int = 1, sender: PeerId | None = SENDER, key: RumorKey = KEY
) -> list[PeerId]:
    return list(strategy.on_new_rumor(NewRumor(key, 100, hops, sender), 0.0).targets)


def due(strategy: Epidemic, at: float) -> list[Push]:
    pushes = strategy.advance(at)
    assert all(isinstance(each, Push) for each in pushes)
    return pushes  # type: ignore[return-value]


def test_the_origin_always_pushes_to_fanout_peers() -> None:
    for seed in range(50):
        targets = push_targets(epidemic(seed, forward_probability=0.0), hops=0, sender=None)
        assert len(set(targets)) == 3


def test_a_relay_pushes_with_the_configured_probability() -> None:
    strategy = epidemic()
    pushed = sum(bool(push_targets(strategy, key=(ORIGIN, EPOCH, n))) for n in range(2000))
    assert 0.66 < pushed / 2000 < 0.74


def test_nothing_goes_back_to_the_sender_or_the_origin() -> None:
    for seed in range(100):
        targets = push_targets(epidemic(seed, forward_probability=1.0), key=KEY)
        assert ORIGIN not in targets
        assert SENDER not in targets


def test_a_rumor_is_not_pushed_beyond_ten_hops() -> None:
    strategy = epidemic(forward_probability=1.0)
    assert push_targets(strategy, hops=9)
    assert not push_targets(strategy, hops=10)


def test_a_hot_rumor_goes_to_one_more_peer_an_interval_up_to_five_copies() -> None:
    strategy = epidemic(forward_probability=1.0)
    targeted = set(push_targets(strategy))
    assert strategy.deadline == 5.0
    assert due(strategy, 4.9) == []
    for at in (5.0, 10.0):
        [(key, targets)] = due(strategy, at)
        assert key == KEY
        assert len(targets) == 1
        assert not targeted & {*targets, ORIGIN, SENDER}
        targeted.update(targets)
    assert due(strategy, 15.0) == []
    assert len(targeted) == 5


def test_a_copy_received_back_ends_a_hot_rumor() -> None:
    strategy = epidemic(forward_probability=1.0)
    push_targets(strategy)
    strategy.on_duplicate(KEY, peer_id(7), 1.0)
    assert due(strategy, 100.0) == []
    assert strategy.deadline == float("inf")


def test_a_fanout_above_max_forwards_sends_max_forwards_copies() -> None:
    assert len(push_targets(epidemic(fanout=9, forward_probability=1.0))) == 5


def test_beyond_the_limit_the_oldest_hot_rumor_is_evicted() -> None:
    strategy = epidemic(forward_probability=1.0)
    for sequence in range(HOT_RUMORS_LIMIT + 1):
        push_targets(strategy, key=(ORIGIN, EPOCH, sequence))
    assert strategy.evicted == 1
    assert len(due(strategy, 5.0)) == HOT_RUMORS_LIMIT


def test_without_links_a_rumor_waits_for_the_first_peer() -> None:
    tables = NodeTables()
    strategy = Epidemic(tables.context, tables.near_peers)
    assert push_targets(strategy, hops=0, sender=None) == []
    newcomer = tables.link(5)
    assert due(strategy, 5.0) == [Push(KEY, [newcomer])]


def test_a_late_delivery_is_not_pushed_again() -> None:
    tables = NodeTables()
    strategy = Epidemic(tables.context, tables.near_peers)
    push_targets(strategy, hops=0, sender=None)
    strategy.on_late_delivery(KEY, tables.link(5))
    assert due(strategy, 5.0) == []


def test_a_late_delivery_counts_as_a_copy() -> None:
    tables = NodeTables(epidemic=EpidemicConfig(max_forwards=1))
    strategy = Epidemic(tables.context, tables.near_peers)
    push_targets(strategy, hops=0, sender=None)
    strategy.on_late_delivery(KEY, tables.link(5))
    tables.link(6)
    assert due(strategy, 5.0) == []


def test_one_late_delivery_leaves_a_second_copy_to_be_sent() -> None:
    tables = NodeTables(epidemic=EpidemicConfig(max_forwards=2))
    strategy = Epidemic(tables.context, tables.near_peers)
    push_targets(strategy, hops=0, sender=None)
    strategy.on_late_delivery(KEY, tables.link(5))
    sixth = tables.link(6)
    assert [each.targets for each in due(strategy, 5.0)] == [[sixth]]


def test_a_relay_follows_the_distribution() -> None:
    """Of three targets, one is in the remote zone and two are in the local one."""
    for seed in range(50):
        tables = NodeTables(*range(1, 20), distribution="hub-and-spoke", zone="local")
        for number, peer in enumerate(tables.peers):
            peer.record = replace(record(1), zone="remote" if number % 4 else "local")
        tables.rng.seed(seed)
        strategy = Epidemic(tables.context, tables.near_peers)
        targets = push_targets(strategy, hops=0, sender=None, key=(peer_id(100), EPOCH, 1))
        assert sorted(map(tables.peers.zone_of, targets)) == ["local", "local", "remote"]
