"""Coordinates in whole clusters: they find the latencies of the network, reach members without a link, and
cost hardly any traffic."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.coordinate import Coordinate, Estimate, RttSource
from grapevine_proto.engine import Engine
from grapevine_proto.errors import InvalidArgument, NoMatchingMember, UnknownPeer
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.query.filters import MemberFilter
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.overlay.topology.vivaldi import Coordinates
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import record_coordinate
from grapevine_proto.wire.messages import Heartbeat

NODES = 12
PAIRS = Network(latency=(0.010, 0.040), per_pair=True)
ZONES = Network(latency=(0.001, 0.002), latency_between_zones=(0.040, 0.045), per_pair=True)


def coordinates_of(sim: Simulation, number: int) -> Coordinates:
    engine = sim.nodes[number].engine
    assert engine is not None
    return engine._overlay.membership.coordinates


def median_error(sim: Simulation) -> float:
    def error(one: int, other: int) -> float:
        truth_s = sim._network_model.mean_rtt_s(one, other)
        estimate_s = coordinates_of(sim, one).coordinate.distance_s(
            coordinates_of(sim, other).coordinate
        )
        return abs(estimate_s - truth_s) / truth_s

    return statistics.median(error(a, b) for a in range(len(sim.nodes)) for b in range(a))


@pytest.mark.parametrize(("network", "limit"), [(PAIRS, 0.25), (ZONES, 0.25)])
def test_after_a_minute_estimates_are_near_and_then_improve(network: Network, limit: float) -> None:
    zones = ("eu", "us") if network is ZONES else ()
    sim = Simulation(nodes=NODES, seed=1, config=NodeConfig.local(), network=network, zones=zones)
    sim.run(60.0)
    after_a_minute = median_error(sim)
    assert after_a_minute <= limit
    sim.run(60.0)
    assert median_error(sim) <= 0.11


def test_a_settled_cluster_sends_few_coordinates(patch_sources: pytest.MonkeyPatch) -> None:
    beats: list[bytes] = []  # the coordinate of each

    def count(message: object) -> bytes:
        if isinstance(message, Heartbeat):
            beats.append(message.coordinate)
        return encode(message)  # type: ignore[arg-type]

    encode = codec.encode_message
    sim = Simulation(nodes=NODES, seed=1)
    sim.run(200.0)
    patch_sources.setattr(codec, "encode_message", count)
    sim.run(100.0)
    links = sum(sim.connected(number) for number in range(NODES))
    assert len(beats) >= 19 * links
    assert sum(map(bool, beats)) <= len(beats) / 20


def test_members_without_a_link_are_known_by_their_records() -> None:
    config = NodeConfig.local(max_peers=4)
    sim = Simulation(nodes=NODES, seed=1, config=config, network=PAIRS)
    sim.run(120.0)
    engine = sim.nodes[0].engine
    assert engine is not None
    members = list(engine._overlay.membership.members)
    known = [each for each in members if record_coordinate(each.record.attributes) is not None]
    assert len(members) == NODES - 1
    assert len(known) >= NODES - 3


def test_a_restarted_node_begins_where_it_was() -> None:
    sim = Simulation(nodes=4, seed=1, config=NodeConfig.local(), network=ZONES, zones=("eu", "us"))
    sim.run(60.0)
    before = coordinates_of(sim, 1).coordinate
    sim.crash(1)
    sim.restart(1)
    again = coordinates_of(sim, 1).coordinate
    assert again != Coordinate()
    assert again.moved_s(before) < 0.5 * before.moved_s(Coordinate())


def engine_of(sim: Simulation, number: int) -> Engine:
    engine = sim.nodes[number].engine
    assert engine is not None
    return engine


def test_round_trips_are_measured_to_peers_and_estimated_between_others() -> None:
    config = NodeConfig.local(max_peers=4)
    sim = Simulation(nodes=10, seed=1, config=config, network=PAIRS)
    sim.run(90.0)
    engine, now = engine_of(sim, 0), sim.nodes[0].read_clock(sim.now)
    infos = engine.members(now)
    measured = [each for each in infos if each.rtt and each.rtt.source is RttSource.MEASURED]
    estimated = [each for each in infos if each.rtt and each.rtt.source is RttSource.ESTIMATED]
    assert len(measured) == sim.connected(0)
    assert len(estimated) >= 3
    one, other = infos[0].peer_id, infos[1].peer_id
    between = engine.rtt(one, other, now)
    assert between is not None
    assert between == engine.rtt(other, one, now)
    assert between.source is RttSource.ESTIMATED
    assert engine.rtt(engine.peer_id, one, now) == engine.rtt(one, None, now)
    assert engine.rtt(one, one, now) == Estimate(0.0, 0.0, RttSource.MEASURED)
    with pytest.raises(UnknownPeer):
        engine.rtt(PeerId(bytes(32)), None, now)


def test_the_nearest_are_up_and_in_order() -> None:
    sim = Simulation(nodes=10, seed=1, config=NodeConfig.local(), network=ZONES, zones=("eu", "us"))
    sim.run(30.0)
    engine, now = engine_of(sim, 0), sim.nodes[0].read_clock(sim.now)
    nearest = engine.nearest(4, None, now)
    zones = {each.peer_id: each.zone for each in engine.members(now)}
    assert [zones[each] for each in nearest] == ["eu"] * 4
    assert engine.nearest(99, nearest[:2], now) == nearest[:2]
    assert engine.nearest(3, [PeerId(bytes(32))], now) == []


def test_a_query_asks_the_nearest_of_those_that_match() -> None:
    sim = Simulation(nodes=10, seed=1, config=NodeConfig.local(), network=ZONES, zones=("eu", "us"))
    sim.run(30.0)
    engine, now = engine_of(sim, 0), sim.nodes[0].read_clock(sim.now)
    far = [each.peer_id for each in engine.members(now) if each.zone == "us"]
    request = QueryRequest("q", filter=MemberFilter(zone="us", nearest=2))
    message_id = engine.query(request, now)
    report = next(each for each in engine.queries() if each.id == message_id)
    assert report.asked == 2
    assert set(report.unanswered) <= set(far)
    with pytest.raises(NoMatchingMember):
        engine.query(QueryRequest("q", filter=MemberFilter(zone="none", nearest=2)), now)


@pytest.mark.parametrize("nearest", [0, 65, True, "2"])
def test_a_number_of_nearest_members_is_1_to_64(nearest: Any) -> None:
    with pytest.raises(InvalidArgument, match="nearest"):
        MemberFilter(nearest=nearest)
