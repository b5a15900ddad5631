"""Failure detection in simulated clusters under the lan profile: which members are declared dead."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.engine import Engine
from grapevine_proto.events import Event, MemberChanged, MemberStatus, PeerState
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire.messages import Kind
from grapevine_proto.wire.signed import Accusation
from tests.benchmarks.bench_detection import detection_times, watch

DETECTED_WITHIN_S = 15.0
BACK_WITHIN_S = 30.0


def cluster(nodes: int, **more: object) -> Simulation:
    return Simulation(nodes=nodes, seed=1, **more)  # type: ignore[arg-type]


def engine_of(sim: Simulation, number: int) -> Engine:
    engine = sim.nodes[number].engine
    assert engine is not None
    return engine


def status_of(sim: Simulation, of: int, by: int) -> MemberStatus | None:
    peer_id = sim.nodes[of].peer_id
    found = [each.status for each in engine_of(sim, by).members() if each.peer_id == peer_id]
    return found[0] if found else None


def is_linked(sim: Simulation, number: int, with_number: int) -> bool:
    peer_id = sim.nodes[with_number].peer_id
    return peer_id is not None and engine_of(sim, number)._overlay.membership._peers.is_linked(
        peer_id
    )


def record_statuses(sim: Simulation) -> list[tuple[str, MemberStatus, int]]:
    """Every status change from now on: member name, status, observing node."""
    seen: list[tuple[str, MemberStatus, int]] = []

    def listen(_: float, number: int, event: Event) -> None:
        if isinstance(event, MemberChanged):
            seen.append((event.member.name, event.member.status, number))

    sim.listen(listen)
    return seen


def count_sent_kinds(monkeypatch: pytest.MonkeyPatch) -> Counter[Kind]:
    """Count the messages that links are given to send, by kind."""
    kinds: Counter[Kind] = Counter()
    send = Link.send

    def note(link: Link, plaintext: bytes, now: float) -> bool:
        kinds[Kind(plaintext[0])] += 1
        return send(link, plaintext, now)

    monkeypatch.setattr(Link, "send", note)
    return kinds


# --- dead nodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "max_peers", "loss"), [(5, 50, 0.0), (20, 50, 0.1), (40, 8, 0.1)]
)
def test_every_node_detects_a_death_in_time(nodes: int, max_peers: int, loss: float) -> None:
    times_s = detection_times(nodes=nodes, max_peers=max_peers, loss=loss)
    assert len(times_s) == nodes - 1
    assert times_s[-1] < DETECTED_WITHIN_S


@pytest.mark.parametrize(("max_peers", "within_s"), [(8, 1.2), (50, 2.2)])
def test_nodes_linked_with_the_dead_one_detect_it_no_later_than_others(
    max_peers: int, within_s: float
) -> None:
    """A probe takes 1.5 s, in which gossiped suspicions are verified too. Where all nodes are
    linked with the dead one, none gossips before its own probe ends.
    """
    times_s = detection_times(nodes=30, max_peers=max_peers)
    assert len(times_s) == 29
    assert times_s[-1] - times_s[0] < within_s


def test_links_that_started_together_do_not_all_detect_a_death_late() -> None:
    """Whenever a node dies, a heartbeat of some peer was about to be due."""
    sim = Simulation(nodes=40, seed=3, config=NodeConfig(max_peers=8), initial_links=8)
    sim.run(60.0)
    for number in (3, 17, 31):
        seen, dead_at = record_statuses(sim), sim.now
        sim.crash(number)
        assert sim.run_until(lambda seen=seen: bool(seen), 10.0)  # type: ignore[misc]
        assert seen[0][:2] == (f"node {number}", MemberStatus.SUSPECT)
        assert sim.now - dead_at < 4.0
        sim.run(30.3)


def test_of_several_deaths_each_is_detected_and_no_live_node_is_declared_dead() -> None:
    sim = cluster(40, config=NodeConfig(max_peers=8))
    sim.run(90.0)
    seen = record_statuses(sim)
    dead = range(0, 40, 4)
    for number in dead:
        sim.crash(number)
    sim.run(60.0)
    names = {name for name, status, _ in seen if status is MemberStatus.DOWN}
    assert names == {f"node {number}" for number in dead}
    alive = [number for number in range(40) if number not in dead]
    assert all(
        status_of(sim, of, by) is MemberStatus.DOWN
        for of in dead
        for by in alive
        if status_of(sim, of, by) is not None
    )


def test_a_link_with_a_dead_peer_is_stale_at_once_and_closed_after_peer_timeout() -> None:
    sim = cluster(10, config=NodeConfig(peer_timeout=60.0))
    sim.run(20.0)
    sim.crash(7)
    sim.run(DETECTED_WITHIN_S)
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.STALE
    assert "does not answer" in peer.health_reason
    assert status_of(sim, 7, by=0) is MemberStatus.DOWN
    sim.run(60.0)
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.DISCONNECTED


def test_a_link_survives_an_outage_shorter_than_peer_timeout() -> None:
    sim = cluster(10, config=NodeConfig(peer_timeout=60.0))
    sim.run(20.0)
    sim.suspend(7, 40.0)
    sim.run(39.0)
    assert status_of(sim, 7, by=0) is MemberStatus.DOWN
    sim.run(8.0)
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.CONNECTED
    assert peer.connected_at is not None
    assert peer.connected_at < sim.nodes[0].read_clock(sim.now) - 45.0, "the same link as before"
    assert all(status_of(sim, 7, by=by) is MemberStatus.UP for by in range(10) if by != 7)


def test_a_late_joiner_learns_which_members_are_down() -> None:
    sim = cluster(12)
    sim.run(20.0)
    remembered = engine_of(sim, 7).record
    sim.crash(7)
    sim.run(30.0)
    newcomer = sim.add(bootstrap=[0])
    sim.run(5.0)
    membership = engine_of(sim, newcomer)._overlay.membership
    now = sim.nodes[newcomer].read_clock(sim.now)
    some_peer = sim.nodes[3].peer_id
    assert some_peer is not None
    membership.update_handler.apply_record(
        remembered, some_peer, now
    )  # reported by a peer that lags behind
    assert status_of(sim, 7, by=newcomer) is MemberStatus.UP
    sim.run(DETECTED_WITHIN_S + BACK_WITHIN_S)
    assert status_of(sim, 7, by=newcomer) is MemberStatus.DOWN


def test_if_many_die_at_once_a_node_that_misses_one_soon_detects_all_of_them() -> None:
    """After 5 s hardly any link with a dead peer counts as healthy. Each alone is missed after 1.3
    to 6.3 s and probed for 1.5 s.
    """
    dead_links = healthy = 0
    for seed in (1, 2, 3):
        sim = Simulation(nodes=40, seed=seed, config=NodeConfig(max_peers=5), initial_links=5)
        sim.run(20.0)
        for number in range(0, 40, 2):
            sim.crash(number)
        dead_links += healthy_links(sim, range(1, 40, 2), range(0, 40, 2))
        sim.run(5.0)
        healthy += healthy_links(sim, range(1, 40, 2), range(0, 40, 2))
    assert dead_links > 100
    assert healthy < 0.2 * dead_links, "0.3 if each link is probed independently"


def healthy_links(sim: Simulation, alive: range, dead: range) -> int:
    """Links of live nodes with dead ones that still count as healthy."""
    ids = {sim.nodes[number].peer_id for number in dead}
    found = 0
    for number in alive:
        membership, now = (
            engine_of(sim, number)._overlay.membership,
            sim.nodes[number].read_clock(sim.now),
        )
        linked = [each for each in membership._peers.linked if each in ids]
        found += sum(membership.active_view.is_healthy(each, now) for each in linked)
    return found


# --- live nodes ---------------------------------------------------------------------------------


def test_no_live_node_is_declared_dead_at_ten_percent_loss_with_slow_nodes() -> None:
    found = watch(nodes=30, node_hours=2.0, loss=0.1)
    assert found.stalls > 15
    assert found.declared_down == []
    assert found.suspected["other"] == 0


def test_a_stalled_node_is_suspected_refutes_and_is_up_again() -> None:
    sim = cluster(20, config=NodeConfig(max_peers=6))
    sim.run(60.0)
    seen, before = record_statuses(sim), engine_of(sim, 7).record.incarnation
    # shorter than a missed heartbeat plus the timeout with three accusers: 0.8 + 5.2 s
    sim.suspend(7, 6.0)
    assert sim.run_until(lambda: status_of(sim, 7, by=0) is MemberStatus.SUSPECT, 6.0)
    sim.run(18.0)
    assert {name for name, status, _ in seen if status is not MemberStatus.UP} == {"node 7"}
    assert MemberStatus.DOWN not in {status for _, status, _ in seen}
    assert all(status_of(sim, 7, by=by) is MemberStatus.UP for by in range(20) if by != 7)
    assert engine_of(sim, 7).record.incarnation == before + 1


def test_a_suspect_is_not_declared_dead_before_final_queries() -> None:
    """A single node received an accusation, and its gossip about it was lost."""
    sim = cluster(12, config=NodeConfig(max_peers=4))
    sim.run(30.0)
    observer = sim.nodes[0]
    membership = engine_of(sim, 0)._overlay.membership
    far = [node for node in sim.nodes[1:] if not membership._peers.is_linked(node.peer_id)]  # type: ignore[arg-type]
    other, accused = far[:2]
    assert accused.peer_id is not None
    member = membership.members.get(accused.peer_id)
    assert member is not None
    identity = engine_of(sim, other.number)._identity
    seen = record_statuses(sim)
    accusation = Accusation.signed(identity, "default", member.record)
    membership.detector._on_accusations(member, [accusation], observer.read_clock(sim.now))
    membership.detector.gossiper.queue.remove(accused.peer_id)
    sim.run(60.0)
    assert MemberStatus.DOWN not in {status for _, status, _ in seen}
    assert status_of(sim, accused.number, 0) is MemberStatus.UP


def test_a_node_that_missed_a_refutation_while_suspended_learns_of_it_when_it_resumes() -> None:
    """By then gossip about the refutation has died out, and so has its own about the accusation."""
    sim = cluster(40, config=NodeConfig(max_peers=6))
    sim.run(60.0)
    observer, accused = 0, next(n for n in range(1, 40) if not is_linked(sim, 0, n))
    seen = record_statuses(sim)
    sim.suspend(accused, 6.0)
    assert sim.run_until(lambda: status_of(sim, accused, by=observer) is MemberStatus.SUSPECT, 6.0)
    membership, peer_id = engine_of(sim, observer)._overlay.membership, sim.nodes[accused].peer_id
    assert peer_id is not None
    membership.detector.gossiper.queue.remove(peer_id)
    sim.suspend(observer, 12.0)
    sim.run(12.0 + 0.3)
    assert status_of(sim, accused, by=observer) is MemberStatus.UP
    assert (f"node {accused}", MemberStatus.DOWN, observer) not in seen


def test_a_node_declared_dead_that_returns_in_the_same_epoch_is_up_everywhere() -> None:
    sim = cluster(20, config=NodeConfig(max_peers=6))
    sim.run(60.0)
    sim.suspend(7, 60.0)
    sim.run(60.0)
    assert all(status_of(sim, 7, by=by) is MemberStatus.DOWN for by in range(20) if by != 7)
    assert sim.run_until(
        lambda: all(status_of(sim, 7, by=by) is MemberStatus.UP for by in range(20) if by != 7),
        BACK_WITHIN_S,
    )


def test_a_peer_that_others_reach_is_not_declared_dead_when_our_path_is_broken() -> None:
    sim = cluster(10)
    sim.run(20.0)
    seen = record_statuses(sim)
    sim.partition([7], [0], one_way=True)
    sim.partition([0], [7], one_way=True)
    sim.run(120.0)
    assert [each for each in seen if each[1] is MemberStatus.DOWN] == []
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.DISCONNECTED, "after peer_timeout"


def test_an_isolated_node_suspects_its_own_connectivity_first() -> None:
    sim = cluster(10)
    sim.run(20.0)
    seen = record_statuses(sim)
    sim.partition([7])
    sim.run(20.0)
    assert [each for each in seen if each[2] == 7] == []
    assert engine_of(sim, 7)._overlay.membership.detector.awareness.score > 0


def test_a_suspended_node_suspects_no_member_when_it_resumes() -> None:
    sim = cluster(10)
    sim.run(20.0)
    seen = record_statuses(sim)
    for _ in range(5):
        sim.suspend(7, 3.0)
        sim.run(8.0)
    assert [each for each in seen if each[2] == 7] == []


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [NodeConfig.local(), NodeConfig.lan(), NodeConfig.wan()])
def test_an_idle_cluster_sends_no_probes(
    profile: NodeConfig, patch_sources: pytest.MonkeyPatch
) -> None:
    sim = cluster(10, config=profile)
    sim.run(10 * profile.gossip_interval)
    kinds = count_sent_kinds(patch_sources)
    sim.run(20 * profile.gossip_interval)
    assert kinds[Kind.HEARTBEAT] > 10 * 9 * 18
    assert kinds[Kind.PING] == kinds[Kind.PING_REQ] == kinds[Kind.MEMBER_UPDATES] == 0


def test_a_death_is_gossiped_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = cluster(30, config=NodeConfig(max_peers=8))
    sim.run(90.0)
    kinds = count_sent_kinds(monkeypatch)
    sim.crash(7)
    sim.run(60.0)
    # Three accusers; each update sent eight times by each node to three peers, plus corrections of
    # peers that lag behind.
    assert kinds[Kind.MEMBER_UPDATES] < 30 * 3 * 9 * 1.5
    assert kinds[Kind.PING] < 30 * 12
    before = kinds[Kind.MEMBER_UPDATES]
    sim.run(120.0)
    assert kinds[Kind.MEMBER_UPDATES] - before < 30, "gossip ends"


def test_a_member_table_smaller_than_the_cluster_affects_only_the_member_list() -> None:
    limits = LimitsConfig(members=12)
    sim = cluster(40, config=NodeConfig(max_peers=8, limits=limits), network=Network(loss=0.05))
    sim.run(90.0)
    assert all(len(engine_of(sim, n).members()) <= 12 for n in range(40))
    assert all(3 <= sim.connected(n) <= 8 for n in range(40))
    seen = record_statuses(sim)
    sim.crash(7)
    sim.run(20.0)
    assert {name for name, status, _ in seen if status is MemberStatus.DOWN} == {"node 7"}
    message = sim.broadcast(3, b"to all of you")
    sim.run(5.0)
    assert len(sim.deliveries(message)) == 38
    sim.restart(7)
    assert sim.run_until(lambda: sim.connected(7) >= 3, BACK_WITHIN_S)


def test_unreachable_members_behind_nat_are_suspected_rarely() -> None:
    """Seven nodes that can reach only the eighth, with tables too small to remember members for
    long.
    """
    limits = LimitsConfig(members=4)
    sim = Simulation(nodes=8, config=NodeConfig.local(limits=limits), bootstrap=0)
    for number in range(1, 8):
        sim.reconfigure(number, bootstrap_peers=(str(sim.nodes[0].address),))
        sim._network_model.block({number}, set(range(1, 8)) - {number})
    sim.run(60.0)
    suspected: Counter[str] = Counter()

    def listen(now: float, number: int, event: Event) -> None:
        if isinstance(event, MemberChanged) and event.member.status is MemberStatus.SUSPECT:
            suspected[event.member.name] += 1

    sim.listen(listen)
    sim.run(120.0)
    assert suspected.total() <= 30, "once each after a minute; 269 if every dial counted"
