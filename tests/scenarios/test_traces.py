"""Traces through a whole cluster: the report matches what happened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto import NodeConfig, Trace, TraceUpdated
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.reverse_paths import ReversePaths, _Route
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.signed import PeerRecord, TraceReceipt


def cluster(nodes: int, max_peers: int, *, loss: float = 0.0, seed: int = 1) -> Simulation:
    """A cluster in which every node knows every other, linked or not."""
    simulation = Simulation(
        nodes=nodes,
        config=NodeConfig(max_peers=max_peers),
        network=Network(loss=loss, per_pair=True),
        seed=seed,
        start_window=nodes / 100,
    )
    simulation.run(15.0)  # links have settled: a receipt is lost with the link that carries it
    for node in simulation.nodes:
        for other in simulation.nodes:
            if other is not node:
                add_member(simulation, node.number, other.number)
    return simulation


def add_member(simulation: Simulation, number: int, other: int) -> None:
    """Add a member to a node's table, as gossip would in time."""
    engine, subject = simulation.nodes[number].engine, simulation.nodes[other].engine
    assert engine is not None
    assert subject is not None
    record: PeerRecord = subject.record
    members = engine._overlay.membership.members
    if members.get(record.peer_id) is None:
        members.add(record, record.peer_id, 0.0)


def latest(simulation: Simulation, number: int = 0) -> Trace:
    engine = simulation.nodes[number].engine
    assert engine is not None
    return engine.traces()[-1]


def check_against_simulator(simulation: Simulation, message_id: MessageId) -> None:
    """The figures of the trace match the simulator, except for what ages omit: they use half the
    RTT for each hop, and no queueing.
    """
    trace, expected = latest(simulation), simulation.report(message_id)
    assert expected.coverage == 1.0
    assert trace.hops == expected.hops
    assert trace.p50_ms == pytest.approx(expected.p50 * 1000, rel=0.25)
    assert trace.last_ms == pytest.approx(expected.last * 1000, rel=0.35)


@pytest.mark.parametrize(("nodes", "loss", "within_s"), [(30, 0.0, 1.0), (100, 0.1, 2.5)])
def test_fully_linked_nodes_confirm_soon(nodes: int, loss: float, within_s: float) -> None:
    simulation = cluster(nodes, 100, loss=loss)
    message_id = simulation.trace(0, b"who is there")
    assert simulation.run_until(lambda: latest(simulation).is_complete, within_s)
    trace = latest(simulation)
    assert (trace.known, trace.expected, trace.reached) == (nodes - 1,) * 3
    if not loss:
        check_against_simulator(simulation, message_id)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_hundred_nodes_with_eight_links_each_confirm_through_relays(loss: float) -> None:
    simulation = cluster(100, 8, loss=loss)
    message_id = simulation.trace(0, b"who is there")
    assert simulation.run_until(lambda: latest(simulation).is_complete, 3.0)
    assert latest(simulation).reached == 99
    engines = [node.engine for node in simulation.nodes if node.engine is not None]
    assert sum(engine.stats().receipts_relayed for engine in engines) > 99
    assert sum(engine.stats().receipts_lost for engine in engines) == 0
    if not loss:
        check_against_simulator(simulation, message_id)


def test_a_sample_of_more_than_a_hundred_members_confirms() -> None:
    simulation = cluster(160, 10)
    simulation.trace(0, b"who is there")
    assert simulation.run_until(lambda: latest(simulation).is_complete, 3.0)
    trace = latest(simulation)
    assert trace.known == 159
    assert trace.is_sample
    assert 75 <= trace.reached == trace.expected <= 130
    assert trace.others == 0


def test_isolated_members_are_listed_and_confirm_after_the_partition() -> None:
    simulation = cluster(12, 50)
    simulation.partition([10, 11])
    simulation.trace(0, b"who is there")
    simulation.run(5.0)
    names = {simulation.nodes[number].peer_id for number in (10, 11)}
    assert set(latest(simulation).unanswered) == names
    simulation.heal()
    assert simulation.run_until(lambda: latest(simulation).is_complete, 60.0)
    assert latest(simulation).reached == 11


def test_events_report_a_trace_from_its_start_to_the_last_receipt() -> None:
    simulation = cluster(10, 50)
    updates: list[tuple[float, Trace]] = []

    def note(at: float, number: int, event: object) -> None:
        if isinstance(event, TraceUpdated):
            assert number == 0
            updates.append((at, event.trace))

    simulation.listen(note)
    message_id = simulation.trace(0, b"who is there")
    simulation.run(2.0)
    assert {trace.id for _, trace in updates} == {message_id}
    reached = [trace.reached for _, trace in updates]
    assert reached[0] == 0
    assert reached == sorted(set(reached))
    assert updates[-1][1].is_complete


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_forged_receipts_are_not_counted(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A relay that forges receipts in the names of all members it knows."""
    simulation = cluster(20, 4, seed=seed)
    malicious = simulation.nodes[7].engine
    assert malicious is not None
    member_ids = [node.peer_id for node in simulation.nodes if node.peer_id is not None]
    flush = ReversePaths._flush

    def forge(
        self: ReversePaths[TraceReceipt], route: _Route[TraceReceipt], now: float
    ) -> list[Effect]:
        if self is malicious._overlay.tracing.reverse_paths:
            signed = route.pending[0].signed(self._identity, self._cluster, route.message_id)
            route.pending += [replace(signed, member=PeerId(each)) for each in member_ids]
        return flush(self, route, now)

    monkeypatch.setattr(ReversePaths, "_flush", forge)
    dead = 13
    simulation.crash(dead)
    simulation.trace(0, b"who is there")
    simulation.run(5.0)
    assert simulation.nodes[dead].peer_id in latest(simulation).unanswered
    assert latest(simulation).reached >= 16  # receipts it withholds take another path


def test_a_suspended_member_is_reported_with_its_real_delay() -> None:
    simulation = Simulation(nodes=4, seed=1, network=Network(latency=(0.001, 0.005)))
    simulation.run(10)
    simulation.suspend(2, 5)
    message_id = simulation.trace(0, b"who is there")
    simulation.run(20)
    engine = simulation.nodes[0].engine
    assert engine is not None
    (trace,) = [each for each in engine.traces() if each.id == message_id]
    assert not trace.unanswered
    late = [answer for answer in trace.answers if answer.is_late]
    assert [answer.peer_id for answer in late] == [simulation.nodes[2].peer_id]
    assert late[0].bound_ms >= 4_900
    assert trace.last_ms == late[0].bound_ms
    assert trace.p50_ms is not None
    assert trace.p50_ms < 100
