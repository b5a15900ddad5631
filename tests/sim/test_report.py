"""What a run showed: the arithmetic of a report."""

from __future__ import annotations

import math

from grapevine_proto.sim import Network, Simulation
from grapevine_proto.sim.report import Totals, dissemination, percentile


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.01) == 7
    assert math.isnan(percentile([], 0.5))


def test_a_report_counts_who_was_missed_and_what_each_message_cost() -> None:
    report = dissemination([0.3, 0.1, 0.2], 4, 5, 1, Totals(60, 6000, 12), 2)
    assert (report.coverage, report.missed, report.duplicates) == (0.6, 2, 1)
    assert (report.p50, report.last, report.hops) == (0.2, 0.3, 4)
    assert (report.datagrams, report.bytes, report.redundancy) == (30, 3000, 2.0)


def test_a_message_that_nobody_got_has_no_latency() -> None:
    report = dissemination([], 0, 5, 0, Totals(0, 0, 0), 1)
    assert report.coverage == 0
    assert math.isnan(report.last)
    assert dissemination([], 0, 0, 0, Totals(0, 0, 0), 1).coverage == 1


def test_two_nodes_take_one_hop_and_one_way() -> None:
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
