"""Reports: coverage, latency and cost of a broadcast."""

from __future__ import annotations

import math

from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.sim.report import (
    BroadcastLog,
    BroadcastReport,
    Totals,
    make_report,
    percentile,
)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.01) == 7
    assert math.isnan(percentile([], 0.5))


def test_a_report_counts_missed_nodes_and_the_cost_per_message() -> None:
    report = make_report([0.3, 0.1, 0.2], 4, 5, 1, Totals(60, 6000, 12), 2)
    assert (report.coverage, report.missed, report.duplicates) == (0.6, 2, 1)
    assert (report.p50, report.last, report.hops) == (0.2, 0.3, 4)
    assert (report.datagrams, report.bytes, report.redundancy) == (30, 3000, 2.0)


def test_an_undelivered_message_has_no_latency() -> None:
    report = make_report([], 0, 5, 0, Totals(0, 0, 0), 1)
    assert report.coverage == 0
    assert math.isnan(report.last)
    assert make_report([], 0, 0, 0, Totals(0, 0, 0), 1).coverage == 1


def test_between_two_nodes_a_message_takes_one_hop_and_one_latency() -> None:
    simulation = Simulation(nodes=2, network=Network(latency=(0.02, 0.02)))
    simulation.run(10)
    report_of = simulation.broadcast(0, b"hello")
    simulation.run(1)
    report = simulation.report(report_of)
    assert (report.coverage, report.hops, report.expected) == (1.0, 1, 1)
    assert math.isclose(report.last, 0.02)


def test_a_node_that_went_down_is_not_expected() -> None:
    simulation = Simulation(nodes=3)
    simulation.run(10)
    message_id = simulation.broadcast(0, b"hello")
    simulation.crash(2)
    simulation.run(10)
    assert simulation.report(message_id).expected == 1


def broadcasts(simulation: Simulation, *sent: tuple[int, float, int]) -> list[BroadcastReport]:
    """Returns the reports of messages given as (origin, time, datagrams carried by then). The run ends
    with 100 datagrams of ten bytes each."""
    record = BroadcastLog(simulation.nodes)
    ids = [MessageId(PeerId(bytes(32)), 1, number) for number in range(len(sent))]
    for message_id, (origin, at, datagrams) in zip(ids, sent, strict=True):
        record.record(message_id, origin, at, datagrams, 10 * datagrams)
    return [record.report(each, 100, 1000) for each in ids]


def test_traffic_until_the_next_broadcast_is_the_cost_of_the_previous_one() -> None:
    first, second = broadcasts(Simulation(nodes=1), (0, 1.0, 20), (0, 2.0, 50))
    assert (first.datagrams, first.bytes) == (30, 300)
    assert (second.datagrams, second.bytes) == (50, 500)


def test_simultaneous_broadcasts_share_their_cost() -> None:
    *shared, alone = broadcasts(Simulation(nodes=1), (0, 1.0, 20), (0, 1.0, 20), (0, 2.0, 50))
    assert [each.datagrams for each in shared] == [15, 15]
    assert alone.datagrams == 50


def test_later_nodes_and_the_origin_are_not_expected() -> None:
    simulation = Simulation(nodes=3)
    simulation.run(2)
    simulation.add(after=1.0)
    message_id = simulation.broadcast(0, b"hello")
    simulation.run(5)
    assert simulation.nodes[3].is_running
    assert simulation.report(message_id).expected == 2


def test_reading_a_report_changes_no_run() -> None:
    def run(*, is_read: bool) -> str:
        simulation = Simulation(nodes=4, seed=5)
        simulation.run(3)
        message_id = simulation.broadcast(1, b"hello")
        for _ in range(20):
            simulation.run(0.1)
            if is_read:
                simulation.report(message_id)
                simulation.latencies(message_id)
                simulation.deliveries(message_id)
        return simulation.trace_hash

    assert run(is_read=True) == run(is_read=False)
