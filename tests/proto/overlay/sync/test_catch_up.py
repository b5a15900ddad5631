"""Catching up with connected peers, for a caller who waits."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig
from grapevine_proto.events import CaughtUp, Event
from grapevine_proto.overlay.sync.catch_up import CHECK_INTERVAL_S, CatchUp
from grapevine_proto.sim import Network, Simulation
from tests.proto.overlay.builders import peer_id

ADA, BOB = peer_id(1), peer_id(2)


def test_a_request_is_fulfilled_when_every_connected_peer_counts() -> None:
    catch_up = CatchUp()
    assert not catch_up.complete([ADA])
    catch_up.request(10.0, math.inf)
    assert catch_up.due_peers([ADA, BOB], 10.0) == [ADA, BOB]
    catch_up.on_synced(ADA, 10.0)
    assert not catch_up.complete([ADA, BOB])
    catch_up.on_synced(BOB, 9.9)  # began before the request
    assert not catch_up.complete([ADA, BOB])
    catch_up.on_synced(BOB, 10.1)
    assert catch_up.complete([ADA, BOB])
    assert not catch_up.complete([ADA, BOB])  # once per request
    assert catch_up.deadline == math.inf


def test_without_a_connected_peer_no_request_is_fulfilled() -> None:
    catch_up = CatchUp()
    catch_up.request(10.0, math.inf)
    assert not catch_up.complete([])


def test_a_peer_that_connects_later_is_compared_too() -> None:
    catch_up = CatchUp()
    catch_up.request(0.0, math.inf)
    catch_up.due_peers([ADA], 0.0)
    catch_up.on_synced(ADA, 0.0)
    assert catch_up.deadline == CHECK_INTERVAL_S
    assert catch_up.due_peers([ADA, BOB], CHECK_INTERVAL_S) == [BOB]
    catch_up.on_link_down(BOB)
    assert catch_up.complete([ADA])


def test_rounds_are_repeated_ever_more_slowly() -> None:
    catch_up = CatchUp()
    started: list[float] = []
    for tick in range(100):
        now = tick * CHECK_INTERVAL_S
        if tick % 20 == 0:  # asking again does not speed it up
            catch_up.request(now, math.inf)
        started += [now] * len(catch_up.due_peers([ADA], now))
    pauses = [later - earlier for earlier, later in pairwise(started)]
    assert pauses[0] > 0.24
    assert all(pause > 0.99 for pause in pauses[3:])
    assert len(started) <= 12  # peers answer eight vectors at once, then one per second


def test_an_impatient_caller_costs_no_more_packets() -> None:
    catch_up = CatchUp()
    catch_up.request(0.0, 1.0)
    assert catch_up.due_peers([ADA], 0.9) == [ADA]
    assert catch_up.due_peers([ADA], 2.0) == []
    assert catch_up.deadline == math.inf
    catch_up.on_synced(ADA, 0.9)
    assert not catch_up.complete([ADA])


def test_each_request_may_wait_for_its_own_time() -> None:
    catch_up = CatchUp()
    catch_up.request(0.0, math.inf)
    catch_up.on_synced(ADA, 0.0)
    assert catch_up.complete([ADA])
    catch_up.request(1.0, 2.0)
    catch_up.request(1.5, 0.1)  # does not shorten the first
    assert catch_up.due_peers([ADA], 2.9) == [ADA]
    assert catch_up.due_peers([ADA], 3.0) == []
    assert catch_up.deadline == math.inf


def starts(catch_up: CatchUp, until: float, since: float = 0.0) -> list[float]:
    """When rounds with a peer start that never succeed."""
    ticks = range(int(since * 16), int(until * 16) + 1)
    return [tick / 16 for tick in ticks if catch_up.due_peers([ADA], tick / 16)]


def test_pauses_between_rounds_double_up_to_a_second() -> None:
    catch_up = CatchUp()
    catch_up.request(0.0, math.inf)
    assert starts(catch_up, 5.0) == [0.0, 0.25, 0.75, 1.75, 2.75, 3.75, 4.75]


def test_after_ten_seconds_without_a_round_the_pauses_begin_again() -> None:
    for later, pause_s in ((9.875, 0.5), (10.0, 0.25)):
        catch_up = CatchUp()
        catch_up.request(0.0, math.inf)
        assert catch_up.due_peers([ADA], 0.0) == [ADA]
        catch_up.request(later, math.inf)
        assert starts(catch_up, later + 0.5, later) == [later, later + pause_s]


def test_a_round_that_brought_messages_is_repeated_at_once_three_times() -> None:
    catch_up = CatchUp()
    catch_up.repeat(ADA, 0.0)
    assert catch_up.deadline == math.inf, "nobody waits for it"
    catch_up.request(0.0, math.inf)
    started: list[float] = []
    while len(started) < 5:
        now = catch_up.deadline
        if catch_up.due_peers([ADA], now):
            started.append(now)
            catch_up.repeat(ADA, now)
    pauses = [later - earlier for earlier, later in pairwise(started)]
    assert pauses[:3] == pytest.approx([0.02, 0.02, 0.02])
    assert pauses[3] >= 1.0


def caught_up(sim: Simulation) -> list[tuple[float, int, int]]:
    """When which node has caught up with how many peers."""
    found: list[tuple[float, int, int]] = []

    def listen(now: float, number: int, event: Event) -> None:
        if isinstance(event, CaughtUp):
            found.append((now, number, event.peers))

    sim.listen(listen)
    return found


def test_a_node_that_was_away_catches_up_with_the_latest_messages_too() -> None:
    config = NodeConfig.lan(
        gossip_interval=60.0,  # so that only the request finds what is missing
        peer_timeout=600.0,
        anti_entropy=AntiEntropyConfig(interval=3600.0),
    )
    network = Network(latency=(0.010, 0.050), loss=0.05)
    sim = Simulation(nodes=4, seed=3, network=network, config=config)
    sim.run(5)
    away = sim.nodes[3].engine
    assert away is not None
    sim.partition([3])
    for number in range(300):
        sim.broadcast(number % 3, b"%d" % number)
        sim.run(0.01)
    assert away.stats().delivered == 0
    found = caught_up(sim)
    sim.heal()
    healed_at = sim.now
    away.catch_up(sim.now, math.inf)
    sim.run(20)
    [(at, number, peers)] = found
    assert (number, peers) == (3, 3)
    assert at - healed_at < 5.0
    assert away.stats().delivered == 300
