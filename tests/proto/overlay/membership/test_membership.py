"""Membership in simulated clusters: joining, peer states, leaving and returning."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.engine import Engine
from grapevine_proto.events import (
    DialFailed,
    Event,
    IdentityInUse,
    MemberChanged,
    MemberStatus,
    PeerState,
    PeerStateChanged,
)
from grapevine_proto.ids import Address
from grapevine_proto.sim import Network, Simulation


def cluster(
    nodes: int, *, seed: int = 1, config: NodeConfig | None = None, **more: object
) -> Simulation:
    return Simulation(nodes=nodes, seed=seed, config=config, **more)  # type: ignore[arg-type]


def record_states(sim: Simulation, of: int, by: int) -> list[tuple[float, PeerState]]:
    """The states of peer `of` in the table of node `by`, as they change."""
    seen: list[tuple[float, PeerState]] = []

    def listen(now: float, number: int, event: Event) -> None:
        if not isinstance(event, PeerStateChanged) or number != by:
            return
        if event.peer.peer_id == sim.nodes[of].peer_id:
            seen.append((now, event.peer.state))

    sim.listen(listen)
    return seen


def statuses(sim: Simulation, number: int) -> Counter[MemberStatus]:
    engine = sim.nodes[number].engine
    assert engine is not None
    return Counter(member.status for member in engine.members())


def test_nodes_that_learn_of_each_other_through_gossip_link_up() -> None:
    sim = cluster(10, bootstrap=1)
    assert sim.run_until(lambda: all(sim.connected(n) == 9 for n in range(10)), 20.0)
    assert all(statuses(sim, n) == {MemberStatus.UP: 9} for n in range(10))


def test_a_killed_node_turns_stale_then_disconnected_and_comes_back() -> None:
    sim = cluster(3)
    sim.run(10.0)
    seen = record_states(sim, of=2, by=0)
    sim.crash(2)
    killed_at = sim.now
    sim.run(60.0)
    assert [state for _, state in seen] == [PeerState.STALE, PeerState.DISCONNECTED]
    stale_at, gone_at = (at - killed_at for at, _ in seen)
    assert 1.0 <= stale_at <= 9.0, "after five unanswered pings"
    assert 24.0 <= gone_at <= 32.0, "peer_timeout"
    assert statuses(sim, 0) == {MemberStatus.UP: 1, MemberStatus.DOWN: 1}
    sim.restart(2)
    sim.run(5.0)
    assert seen[-1][1] is PeerState.CONNECTED
    assert statuses(sim, 0) == {MemberStatus.UP: 2}


def test_a_node_restarted_at_once_is_linked_again_within_seconds() -> None:
    sim = cluster(3)
    sim.run(10.0)
    sim.restart(2)
    assert sim.run_until(lambda: sim.connected(2) == 2, 5.0)
    message = sim.broadcast(2, b"I am back")
    sim.run(1.0)
    assert sim.deliveries(message) == {0: 1, 1: 1}


def test_a_graceful_leave_is_seen_at_once_and_the_node_is_not_dialed_again() -> None:
    sim = cluster(3)
    sim.run(10.0)
    sim.leave(2)
    sim.run(0.2)
    assert sim.nodes[2].engine is None
    for number in (0, 1):
        assert statuses(sim, number) == {MemberStatus.UP: 1, MemberStatus.LEFT: 1}
    seen = record_states(sim, of=2, by=0)
    sim.run(120.0)
    assert seen == []


def test_the_last_broadcasts_of_a_leaving_node_are_delivered() -> None:
    sim = cluster(4, config=NodeConfig().replace(gossip_interval=5.0))
    sim.run(10.0)
    messages = [sim.broadcast(3, b"last message %d" % n) for n in range(20)]
    sim.leave(3)
    sim.run(20.0)
    assert all(sim.deliveries(each) == {0: 1, 1: 1, 2: 1} for each in messages)


def test_a_partition_of_any_length_heals_by_itself() -> None:
    sim = cluster(6)
    sim.run(15.0)
    sim.partition({0, 1, 2})
    sim.run(400.0)
    assert sim.connected(0) == 2
    inside = sim.broadcast(0, b"sent on one side")
    sim.heal()
    assert sim.run_until(lambda: all(sim.connected(n) == 5 for n in range(6)), 30.0)
    sim.run(30.0)
    assert set(sim.deliveries(inside)) == {1, 2, 3, 4, 5}


def test_a_suspended_node_suspects_no_peer_when_it_resumes() -> None:
    sim = cluster(4)
    sim.run(10.0)
    seen = [record_states(sim, of=other, by=0) for other in (1, 2, 3)]
    sim.suspend(0, 20.0)
    sim.run(24.0)
    assert seen == [[], [], []]
    sim.run(30.0)
    assert [sim.connected(n) for n in range(4)] == [3, 3, 3, 3]


def test_a_full_node_refers_a_newcomer_to_others() -> None:
    config = NodeConfig().replace(max_peers=3)
    sim = cluster(12, config=config, bootstrap=0)
    for number in range(1, 12):  # all nodes know only node 0
        engine = sim.nodes[number]
        engine.config = engine.config.replace(bootstrap_peers=(str(sim.nodes[0].address),))
    sim.run(90.0)
    assert all(1 <= sim.connected(number) <= 3 for number in range(12))
    message = sim.broadcast(11, b"to all nodes?")
    sim.run(60.0)
    assert len(sim.deliveries(message)) == 11


def test_no_node_exceeds_max_peers_in_a_large_cluster() -> None:
    sim = cluster(40, config=NodeConfig().replace(max_peers=6))
    most = 0
    for _ in range(60):
        sim.run(1.0)
        most = max(most, *(sim.connected(number) for number in range(40)))
    assert most == 6
    assert min(sim.connected(number) for number in range(40)) >= 3


def test_an_unanswered_dial_is_reported_once_and_repeated_forever() -> None:
    sim = cluster(1)
    failures: list[DialFailed] = []
    sim.listen(
        lambda now, number, event: failures.append(event) if isinstance(event, DialFailed) else None
    )
    sim.run(1.0)
    unused_address = Address("10.9.9.9", 1)
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.dial(unused_address, node.read_clock(sim.now))
    sim._drive(node)
    before = sim.datagrams
    sim.run(60.0)
    assert [failure.address for failure in failures] == [unused_address]
    assert "no answer" in failures[0].reason
    first_minute = sim.datagrams - before
    sim.run(600.0)
    assert sim.datagrams > before + first_minute


def test_a_node_that_bootstraps_from_itself_detects_it_and_stops_dialing() -> None:
    sim = cluster(0)
    sim.add(bootstrap=[])
    sim.nodes[0].config = sim.nodes[0].config.replace(bootstrap_peers=(str(sim.nodes[0].address),))
    sim.run(120.0)
    assert sim.datagrams == 0
    assert sim.peers(0) == []


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_of_two_nodes_with_one_identity_the_later_one_stops(loss: float) -> None:
    sim = cluster(3, network=Network(loss=loss))
    sim.run(10.0)
    twin = sim.add(bootstrap=[0], after=1.0)
    sim.nodes[twin]._saved = sim.nodes[1]._saved  # a copy of the state directory
    conflicts: list[IdentityInUse] = []
    sim.listen(
        lambda now, number, event: (
            conflicts.append(event) if isinstance(event, IdentityInUse) and number == 1 else None
        )
    )
    assert sim.run_until(
        lambda: bool(sim.nodes[1].stop_reason or sim.nodes[twin].stop_reason), 60.0
    )
    assert "in use by another node" in sim.nodes[twin].stop_reason
    assert "which was here first" in sim.nodes[twin].stop_reason
    assert not sim.nodes[1].stop_reason, "the earlier node continues and reports it"
    sim.run(40.0)
    assert not sim.nodes[1].stop_reason
    assert sim.connected(1) == 2
    assert conflicts


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_links_survive_rekeying(loss: float) -> None:
    """Sessions are rekeyed after 120 s; at 30 % loss a rekey may take long without an effect."""
    sim = cluster(3, network=Network(loss=loss))
    sim.run(40.0)
    seen = record_states(sim, of=1, by=0)
    sim.run(500.0)
    assert [state for _, state in seen if state is PeerState.DISCONNECTED] == []
    assert sim.connected(0) == 2


def test_an_idle_cluster_is_quiet() -> None:
    sim = cluster(10)
    sim.run(20.0)
    before, seconds = sim.datagrams, 100.0
    sim.run(seconds)
    per_peer_and_interval = (sim.datagrams - before) / (10 * 9) / (seconds / 5.0)
    assert per_peer_and_interval <= 2.0


def test_members_learn_of_each_other_across_a_sparse_overlay() -> None:
    sim = cluster(30, config=NodeConfig().replace(max_peers=4))
    sim.run(5.0)
    assert sim.run_until(
        lambda: all(sum(statuses(sim, n).values()) == 29 for n in range(30)), 240.0, every=5.0
    )


def test_a_new_member_is_reported_to_the_application_once() -> None:
    sim = cluster(3)
    reports: Counter[tuple[int, str]] = Counter()
    sim.listen(
        lambda now, number, event: (
            reports.update([(number, event.member.name)])
            if isinstance(event, MemberChanged)
            else None
        )
    )
    sim.run(30.0)
    assert set(reports.values()) == {1}
    assert len(reports) == 6


def add_false_claimant(sim: Simulation, victim: int, claims: Address) -> int:
    """A node that links with `victim` and whose record claims the address `claims`."""
    return sim.add(bootstrap=[victim], advertise=str(claims))


def engine_of(sim: Simulation, number: int) -> Engine:
    engine = sim.nodes[number].engine
    assert engine is not None
    return engine


def test_a_peer_has_the_validated_address_whatever_its_record_claims() -> None:
    sim = cluster(1)
    claimed = Address("10.9.9.9", 7)
    claimant = add_false_claimant(sim, 0, claimed)
    sim.run(5.0)
    (peer,) = sim.peers(0)
    assert peer.address == sim.nodes[claimant].address
    assert engine_of(sim, 0).peer_at(claimed) is None
    assert engine_of(sim, 0).peer_at(sim.nodes[claimant].address) == sim.nodes[claimant].peer_id


def test_an_address_resolves_to_the_member_that_validated_it_not_one_that_claims_it() -> None:
    sim = cluster(2)
    sim.run(5.0)
    honest = sim.nodes[1]
    add_false_claimant(sim, 0, honest.address)
    sim.run(5.0)
    assert engine_of(sim, 0).peer_at(honest.address) == honest.peer_id
    sim.crash(1)
    sim.run(60.0)
    assert engine_of(sim, 0).peer_at(honest.address) == honest.peer_id


def test_a_bootstrap_peer_is_dialed_although_other_members_claim_its_address() -> None:
    sim = cluster(2)
    sim.run(2.0)
    bootstrap = sim.nodes[0]
    sim.crash(0)
    for number in (2, 3, 4):  # each claim would prevent a dial, and delay others
        assert add_false_claimant(sim, 1, bootstrap.address) == number
    sim.run(60.0)
    bootstrap.config = bootstrap.config.replace(bootstrap_peers=())
    sim.restart(0, lose_state=True)
    assert sim.run_until(lambda: sim.connected(0) >= 1, 25.0)
