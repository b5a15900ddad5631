"""Who is held for dead, and who is not: detection in simulated clusters, under the lan profile."""

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
from tests.benchmarks.bench_detection import time_to_know, watch

KNOWN_WITHIN_S = 15.0
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


def watch_opinions(sim: Simulation) -> list[tuple[str, MemberStatus, int]]:
    """Every change from now on: of whom, to what, by whom."""
    seen: list[tuple[str, MemberStatus, int]] = []

    def listen(_: float, number: int, event: Event) -> None:
        if isinstance(event, MemberChanged):
            seen.append((event.member.name, event.member.status, number))

    sim.listen(listen)
    return seen


def spy_on_kinds(monkeypatch: pytest.MonkeyPatch) -> Counter[Kind]:
    """What links are given to send, from now on."""
    kinds: Counter[Kind] = Counter()
    send = Link.send

    def note(link: Link, plaintext: bytes, now: float) -> bool:
        kinds[Kind(plaintext[0])] += 1
        return send(link, plaintext, now)

    monkeypatch.setattr(Link, "send", note)
    return kinds


# --- the dead -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "max_peers", "loss"), [(5, 50, 0.0), (20, 50, 0.1), (40, 8, 0.1)]
)
def test_a_death_is_known_to_all_in_time(nodes: int, max_peers: int, loss: float) -> None:
    known = time_to_know(nodes=nodes, max_peers=max_peers, loss=loss)
    assert len(known) == nodes - 1
    assert known[-1] < KNOWN_WITHIN_S


@pytest.mark.parametrize(("max_peers", "within_s"), [(8, 1.2), (50, 2.0)])
def test_who_is_linked_with_the_dead_and_looks_for_himself_is_no_later_than_who_is_told(
    max_peers: int, within_s: float
) -> None:
    """Probing takes 1.5 s, in which the dead have been asked to answer what others say. Where all are linked
    with it, they tell nobody before they have looked."""
    known = time_to_know(nodes=30, max_peers=max_peers)
    assert len(known) == 29
    assert known[-1] - known[0] < within_s


def test_links_that_all_began_in_one_instant_do_not_all_find_out_late() -> None:
    """Whenever it dies, somebody was about to hear of it."""
    sim = Simulation(nodes=40, seed=3, config=NodeConfig(max_peers=8), initial_links=8)
    sim.run(60.0)
    for number in (3, 17, 31):
        seen, dead_at = watch_opinions(sim), sim.now
        sim.crash(number)
        assert sim.run_until(lambda seen=seen: bool(seen), 10.0)  # type: ignore[misc]
        assert seen[0][:2] == (f"node {number}", MemberStatus.SUSPECT)
        assert sim.now - dead_at < 4.0
        sim.run(30.3)


def test_of_several_that_die_at_once_each_is_known_and_nobody_else() -> None:
    sim = cluster(40, config=NodeConfig(max_peers=8))
    sim.run(90.0)
    seen = watch_opinions(sim)
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


def test_a_link_with_the_dead_is_passed_over_at_once_and_closed_by_its_timeout() -> None:
    sim = cluster(10, config=NodeConfig(peer_timeout=60.0))
    sim.run(20.0)
    sim.crash(7)
    sim.run(KNOWN_WITHIN_S)
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.STALE
    assert "does not answer" in peer.health_reason
    assert status_of(sim, 7, by=0) is MemberStatus.DOWN
    sim.run(60.0)
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.DISCONNECTED


def test_a_link_outlives_an_outage_shorter_than_its_timeout() -> None:
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


def test_a_late_joiner_is_told_who_is_dead() -> None:
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
    )  # it was told by somebody slow
    assert status_of(sim, 7, by=newcomer) is MemberStatus.UP
    sim.run(KNOWN_WITHIN_S + BACK_WITHIN_S)
    assert status_of(sim, 7, by=newcomer) is MemberStatus.DOWN


def test_where_many_die_at_once_whoever_misses_one_soon_knows_of_all_of_his() -> None:
    """Of links with the dead hardly any is counted on 5 s later; each alone is missed after 1.3 to 6.3 s, and
    looked at for 1.5."""
    dead_links = counted = 0
    for seed in (1, 2, 3):
        sim = Simulation(nodes=40, seed=seed, config=NodeConfig(max_peers=5), initial_links=5)
        sim.run(20.0)
        for number in range(0, 40, 2):
            sim.crash(number)
        dead_links += counted_on(sim, range(1, 40, 2), range(0, 40, 2))
        sim.run(5.0)
        counted += counted_on(sim, range(1, 40, 2), range(0, 40, 2))
    assert dead_links > 100
    assert counted < 0.2 * dead_links, "0.3 where each link is looked at for itself alone"


def counted_on(sim: Simulation, alive: range, dead: range) -> int:
    """Links of the living with the dead that are still thought to work."""
    ids = {sim.nodes[number].peer_id for number in dead}
    found = 0
    for number in alive:
        here, now = (
            engine_of(sim, number)._overlay.membership,
            sim.nodes[number].read_clock(sim.now),
        )
        linked = [each for each in here._peers.linked if each in ids]
        found += sum(here.active_view.is_healthy(each, now) for each in linked)
    return found


# --- the living ---------------------------------------------------------------------------------


def test_nobody_alive_is_held_for_dead_at_ten_percent_loss_with_slow_nodes() -> None:
    found = watch(nodes=30, node_hours=2.0, loss=0.1)
    assert found.stalls > 15
    assert found.dead == []
    assert found.suspected["well"] == 0


def test_who_stalls_is_suspected_says_that_it_lives_and_is_up_again() -> None:
    sim = cluster(20, config=NodeConfig(max_peers=6))
    sim.run(60.0)
    seen = watch_opinions(sim)
    sim.suspend(7, 6.0)  # less than what a missed heartbeat and three accusers leave: 0.8 + 5.2 s
    assert sim.run_until(lambda: status_of(sim, 7, by=0) is MemberStatus.SUSPECT, 6.0)
    sim.run(18.0)
    assert {name for name, status, _ in seen if status is not MemberStatus.UP} == {"node 7"}
    assert MemberStatus.DOWN not in {status for _, status, _ in seen}
    assert all(status_of(sim, 7, by=by) is MemberStatus.UP for by in range(20) if by != 7)
    assert engine_of(sim, 7).record.incarnation == 1


def test_before_anybody_is_held_for_dead_others_are_asked_whether_they_know_better() -> None:
    """One node alone has heard an accusation, and what it might have told of it was lost."""
    sim = cluster(12, config=NodeConfig(max_peers=4))
    sim.run(30.0)
    one = sim.nodes[0]
    here = engine_of(sim, 0)._overlay.membership
    far = [node for node in sim.nodes[1:] if not here._peers.is_linked(node.peer_id)]  # type: ignore[arg-type]
    other, accused = far[:2]
    assert accused.peer_id is not None
    member = here.members.get(accused.peer_id)
    assert member is not None
    identity = engine_of(sim, other.number)._identity
    seen = watch_opinions(sim)
    said = Accusation.signed(identity, "default", member.record)
    here.detector._on_accusations(member, [said], one.read_clock(sim.now))
    here.detector.gossiper.queue.remove(accused.peer_id)
    sim.run(60.0)
    assert MemberStatus.DOWN not in {status for _, status, _ in seen}
    assert status_of(sim, accused.number, 0) is MemberStatus.UP


def test_who_sleeps_through_a_refutation_hears_of_it_when_it_wakes() -> None:
    """News of it has died out by then, and its own of the accusation before."""
    sim = cluster(40, config=NodeConfig(max_peers=6))
    sim.run(60.0)
    one, accused = 0, next(n for n in range(1, 40) if not is_linked(sim, 0, n))
    seen = watch_opinions(sim)
    sim.suspend(accused, 6.0)
    assert sim.run_until(lambda: status_of(sim, accused, by=one) is MemberStatus.SUSPECT, 6.0)
    here, peer_id = engine_of(sim, one)._overlay.membership, sim.nodes[accused].peer_id
    assert peer_id is not None
    here.detector.gossiper.queue.remove(peer_id)
    sim.suspend(one, 12.0)
    sim.run(12.0 + 0.3)
    assert status_of(sim, accused, by=one) is MemberStatus.UP
    assert (f"node {accused}", MemberStatus.DOWN, one) not in seen


def test_who_was_held_for_dead_and_comes_back_in_the_same_run_is_up_everywhere() -> None:
    sim = cluster(20, config=NodeConfig(max_peers=6))
    sim.run(60.0)
    sim.suspend(7, 60.0)
    sim.run(60.0)
    assert all(status_of(sim, 7, by=by) is MemberStatus.DOWN for by in range(20) if by != 7)
    assert sim.run_until(
        lambda: all(status_of(sim, 7, by=by) is MemberStatus.UP for by in range(20) if by != 7),
        BACK_WITHIN_S,
    )


def test_while_others_hear_a_peer_it_is_not_held_for_dead_though_our_road_to_it_is_broken() -> None:
    sim = cluster(10)
    sim.run(20.0)
    seen = watch_opinions(sim)
    sim.partition([7], [0], one_way=True)
    sim.partition([0], [7], one_way=True)
    sim.run(120.0)
    assert [each for each in seen if each[1] is MemberStatus.DOWN] == []
    [peer] = [each for each in sim.peers(0) if each.name == "node 7"]
    assert peer.state is PeerState.DISCONNECTED, "after peer_timeout"


def test_who_is_cut_off_from_all_suspects_himself_first() -> None:
    sim = cluster(10)
    sim.run(20.0)
    seen = watch_opinions(sim)
    sim.partition([7])
    sim.run(20.0)
    assert [each for each in seen if each[2] == 7] == []
    assert engine_of(sim, 7)._overlay.membership.detector.awareness.score > 0


def test_who_sleeps_wakes_and_suspects_nobody() -> None:
    sim = cluster(10)
    sim.run(20.0)
    seen = watch_opinions(sim)
    for _ in range(5):
        sim.suspend(7, 3.0)
        sim.run(8.0)
    assert [each for each in seen if each[2] == 7] == []


# --- what it costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [NodeConfig.local(), NodeConfig.lan(), NodeConfig.wan()])
def test_an_idle_cluster_probes_nobody(
    profile: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = cluster(10, config=profile)
    sim.run(10 * profile.gossip_interval)
    kinds = spy_on_kinds(monkeypatch)
    sim.run(20 * profile.gossip_interval)
    assert kinds[Kind.HEARTBEAT] > 10 * 9 * 18
    assert kinds[Kind.PING] == kinds[Kind.PING_REQ] == kinds[Kind.MEMBER_UPDATES] == 0


def test_a_death_is_told_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = cluster(30, config=NodeConfig(max_peers=8))
    sim.run(90.0)
    kinds = spy_on_kinds(monkeypatch)
    sim.crash(7)
    sim.run(60.0)
    # Three voices, each news told eight times by each node to three peers at once, and the answers
    # to who knew less.
    assert kinds[Kind.MEMBER_UPDATES] < 30 * 3 * 9 * 1.5
    assert kinds[Kind.PING] < 30 * 12
    before = kinds[Kind.MEMBER_UPDATES]
    sim.run(120.0)
    assert kinds[Kind.MEMBER_UPDATES] - before < 30, "and then no more"


def test_a_member_table_smaller_than_the_cluster_hurts_only_the_list() -> None:
    limits = LimitsConfig(members=12)
    sim = cluster(40, config=NodeConfig(max_peers=8, limits=limits), network=Network(loss=0.05))
    sim.run(90.0)
    assert all(len(engine_of(sim, n).members()) <= 12 for n in range(40))
    assert all(3 <= sim.connected(n) <= 8 for n in range(40))
    seen = watch_opinions(sim)
    sim.crash(7)
    sim.run(20.0)
    assert {name for name, status, _ in seen if status is MemberStatus.DOWN} == {"node 7"}
    message = sim.broadcast(3, b"to all of you")
    sim.run(5.0)
    assert len(sim.deliveries(message)) == 38
    sim.restart(7)
    assert sim.run_until(lambda: sim.connected(7) >= 3, BACK_WITHIN_S)


def test_who_lives_behind_doors_that_do_not_open_to_us_is_left_in_peace() -> None:
    """Seven nodes that reach the eighth alone, and whose tables are too small to remember for long."""
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
    assert suspected.total() <= 30, (
        "forgotten after a minute, once each; with every dial it was 269"
    )
