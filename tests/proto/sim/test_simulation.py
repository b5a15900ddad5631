"""Clusters under virtual time: reproducible to the byte, with every message delivered once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest

from grapevine_proto import (
    MessageId,
    MessageTooLarge,
    NodeConfig,
    NotRunning,
    PeerState,
    compiled,
)
from grapevine_proto.events import (
    Event,
    MemberChanged,
    MemberStatus,
    MessageReceived,
    PeerStateChanged,
)
from grapevine_proto.ids import Address
from grapevine_proto.overlay.peers import TRANSITIONS
from grapevine_proto.sim import Network, Simulation

LARGE = 200 if compiled == "yes" else 100
ROUGH = Network(loss=0.10, duplication=0.01, reorder=0.05)
BACK_WITHIN_S = 30.0
ALL_WITHIN_S = 60.0  # after a partition heals
CRASH_MAY_REPEAT_S = 1.0
HANDED_OVER_S = 5.0  # a broadcast published less than this before a crash of its origin may be lost
LEGAL = {(before, after) for (before, _), after in TRANSITIONS.items()}


def rough_run(seed: int) -> str:
    """A short life of ten nodes with everything in it; its trace."""
    simulation = Simulation(nodes=10, seed=seed, network=ROUGH)
    simulation.run(10)
    simulation.broadcast(3, b"hello")
    simulation.crash(5)
    simulation.partition(range(4))
    simulation.run(10)
    simulation.heal()
    simulation.restart(5)
    simulation.leave(7)
    simulation.suspend(2, 5)
    simulation.move(1)
    simulation.run(20)
    return simulation.trace_hash


def test_the_same_seed_gives_the_same_run_to_the_byte() -> None:
    assert rough_run(1) == rough_run(1)
    assert rough_run(1) != rough_run(2)


def test_a_run_does_not_depend_on_the_process_it_runs_in() -> None:
    program = "from tests.proto.sim.test_simulation import rough_run; print(rough_run(1))"
    for hash_seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert answer.stdout.strip() == rough_run(1)


# --- exactly once -------------------------------------------------------------------------------


@dataclass
class Workload:
    """Random broadcasts and crashes in a run, and which nodes knew which message when."""

    simulation: Simulation
    rng: random.Random
    messages: list[tuple[int, MessageId]] = field(default_factory=list)
    crashes: list[tuple[int, float]] = field(default_factory=list)

    known_at: defaultdict[tuple[int, MessageId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def __post_init__(self) -> None:
        self.simulation.listen(self._note)

    def _note(self, at: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived):
            self.known_at[number, event.message.id].append(at)

    def broadcast_randomly(self, count: int, every_s: float = 0.5) -> None:
        """Broadcasts `count` messages from random running nodes."""
        for _ in range(count):
            up = [node.number for node in self.simulation.nodes if node.is_running]
            number = self.rng.choice(up)
            payload = b"message %d" % len(self.messages)
            message_id = self.simulation.broadcast(number, payload)
            self.messages.append((number, message_id))
            self.known_at[number, message_id].append(self.simulation.now)
            self.simulation.run(every_s)

    def crash(self, number: int) -> None:
        self.crashes.append((number, self.simulation.now))
        self.simulation.crash(number)

    def is_expected(self, origin: int, message_id: MessageId) -> bool:
        """Returns whether the origin ran long enough that every other node must receive the message."""
        published_at = self.known_at[origin, message_id][0]
        return not any(
            crashed == origin and 0 <= at - published_at < HANDED_OVER_S
            for crashed, at in self.crashes
        )

    def is_everywhere(self) -> bool:
        everyone = {node.number for node in self.simulation.nodes}
        return all(
            everyone - {origin} <= self.simulation.deliveries(message_id).keys()
            for origin, message_id in self.messages
            if self.is_expected(origin, message_id)
        )

    def assert_once(self) -> None:
        """Asserts that each node received each broadcast of others once; a crash may repeat deliveries of
        the second before it."""
        assert self.is_everywhere()
        for origin, message_id in self.messages:
            for number, count in self.simulation.deliveries(message_id).items():
                allowed = 1 + self.repeats(number, message_id) if number != origin else 0
                assert count <= allowed, (message_id.short, number, count, allowed)

    def repeats(self, number: int, message_id: MessageId) -> int:
        """Returns how often crashes may have made a node forget a message."""
        known_at = self.known_at[number, message_id]
        return sum(
            crashed == number and any(0 <= at - each <= CRASH_MAY_REPEAT_S for each in known_at)
            for crashed, at in self.crashes
        )


@pytest.mark.timeout(1200)  # a minute on an idle core, many on a busy machine
@pytest.mark.parametrize("seed", [1])  # the swarm draws others
def test_a_large_cluster_on_a_bad_network_receives_every_message_once(seed: int) -> None:
    """10 % loss, 1 % duplication, reordering, a partition of 30 s, ten restarts."""
    config = NodeConfig(max_peers=8)
    simulation = Simulation(nodes=LARGE, seed=seed, config=config, network=ROUGH, bootstrap=3)
    workload = Workload(simulation, random.Random(seed))
    simulation.run(20)
    assert all(simulation.connected(number) >= 3 for number in range(LARGE))
    workload.broadcast_randomly(10)

    simulation.partition(workload.rng.sample(range(LARGE), LARGE * 35 // 100))
    began_at = simulation.now
    down = workload.rng.sample(range(LARGE), 10)
    for number, earlier in zip([*down, *[None] * 3], [*[None] * 3, *down], strict=True):
        if number is not None:
            workload.crash(number)
        workload.broadcast_randomly(4)
        if earlier is not None:
            simulation.restart(earlier)
    simulation.run(30 - (simulation.now - began_at))
    simulation.heal()

    workload.broadcast_randomly(5)
    assert simulation.run_until(workload.is_everywhere, ALL_WITHIN_S, every=1.0)
    simulation.run(20)  # nothing is given again later either
    workload.assert_once()


@pytest.mark.parametrize("seed", range(8))
def test_small_clusters_with_crashes_and_corruption_receive_every_message_once(seed: int) -> None:
    weather = Network(loss=0.2, duplication=0.1, reorder=0.2, corruption=0.05)
    simulation = Simulation(nodes=6, seed=seed, config=NodeConfig.local(), network=weather)
    workload = Workload(simulation, random.Random(seed))
    simulation.run(5)
    for _ in range(5):
        number = workload.rng.randrange(6)
        workload.broadcast_randomly(3, every_s=0.3)
        workload.crash(number)
        workload.broadcast_randomly(3, every_s=0.3)
        simulation.restart(number)
        simulation.run(workload.rng.uniform(0, 10))
    assert simulation.run_until(workload.is_everywhere, ALL_WITHIN_S, every=1.0)
    workload.assert_once()


# --- recovery -----------------------------------------------------------------------------------


def steady(nodes: int = 20, seed: int = 1, **network: float) -> tuple[Simulation, list[str]]:
    """Returns a connected cluster, and a list to which each disconnect and declared death is added."""
    simulation = Simulation(nodes=nodes, seed=seed, network=Network(**network))  # type: ignore[arg-type]
    simulation.run(30)
    dead: list[str] = []

    def note(_: float, number: int, event: Event) -> None:
        if isinstance(event, PeerStateChanged) and event.peer.state is PeerState.DISCONNECTED:
            dead.append(f"node {number} lost {event.peer.name}: {event.reason}")
        if isinstance(event, MemberChanged) and event.member.status is MemberStatus.DOWN:
            dead.append(f"node {number} declared {event.member.name} down")

    simulation.listen(note)
    return simulation, dead


def others_than(number: int, dead: list[str]) -> list[str]:
    """Returns the entries that `number` has no part in."""
    return [
        each for each in dead if f"node {number} " not in each and f"node {number}:" not in each
    ]


def assert_back(simulation: Simulation, number: int, dead: list[str]) -> None:
    """Asserts that the node reconnects in time, receives and is received, and no other node is affected."""
    assert simulation.run_until(lambda: simulation.connected(number) >= 3, BACK_WITHIN_S)
    ours, theirs = simulation.broadcast(number, b"I am back"), simulation.broadcast(0, b"welcome")
    assert simulation.run_until(
        lambda: (
            len(simulation.deliveries(ours)) == len(simulation.nodes) - 1
            and number in simulation.deliveries(theirs)
        ),
        ALL_WITHIN_S,
    )
    assert others_than(number, dead) == []


def test_a_restarted_node_recovers_in_time() -> None:
    simulation, dead = steady()
    simulation.crash(7)
    simulation.run(3)
    simulation.restart(7)
    assert_back(simulation, 7, dead)


def test_a_node_that_was_down_for_long_recovers_in_time() -> None:
    simulation, dead = steady()
    simulation.crash(7)
    simulation.run(900)
    simulation.restart(7)
    assert_back(simulation, 7, dead)


def test_a_node_that_lost_its_disk_has_a_new_identity_and_recovers_in_time() -> None:
    simulation, dead = steady()
    before = simulation.nodes[7].peer_id
    simulation.crash(7)
    simulation.restart(7, lose_state=True)
    assert simulation.nodes[7].peer_id != before
    assert_back(simulation, 7, dead)


@pytest.mark.parametrize("seconds", [10.0, 60.0, 600.0])
def test_a_suspended_machine_recovers_in_time(seconds: float) -> None:
    simulation, dead = steady()
    simulation.suspend(7, seconds)
    simulation.run(seconds)
    assert_back(simulation, 7, dead)


def test_a_node_that_moved_recovers_in_time() -> None:
    simulation, dead = steady()
    simulation.move(7)
    simulation.run(60)
    assert_back(simulation, 7, dead)


@pytest.mark.parametrize("seconds", [30.0, 600.0])
def test_a_node_that_was_isolated_for_long_recovers_in_time(seconds: float) -> None:
    simulation, dead = steady()
    simulation.partition([7])
    simulation.run(seconds)
    simulation.heal()
    assert_back(simulation, 7, dead)


def test_two_halves_merge_after_a_long_partition_and_have_all_messages() -> None:
    simulation, _ = steady()
    simulation.partition(range(10))
    simulation.run(200)
    ours, theirs = simulation.broadcast(0, b"from one half"), simulation.broadcast(15, b"other")
    simulation.run(60)
    assert set(simulation.deliveries(ours)) <= set(range(10))
    assert set(simulation.deliveries(theirs)) <= set(range(10, 20))
    simulation.heal()
    assert simulation.run_until(
        lambda: len(simulation.deliveries(ours)) == 19 and len(simulation.deliveries(theirs)) == 19,
        ALL_WITHIN_S,
    )


def test_a_one_way_path_affects_no_other_node() -> None:
    simulation, dead = steady()
    simulation.partition([7], range(7), one_way=True)
    simulation.run(120)
    simulation.heal()
    assert_back(simulation, 7, dead)


def test_a_stable_cluster_loses_no_member_at_ten_percent_loss() -> None:
    simulation, dead = steady(loss=0.10)
    simulation.run(600)  # past the age at which every session is renewed
    assert dead == []


# --- what must always hold ----------------------------------------------------------------------


def test_an_idle_cluster_is_quiet() -> None:
    simulation, _ = steady()
    simulation.run(60)
    links = sum(simulation.connected(number) for number in range(20))
    before, intervals = simulation.datagrams, 10
    simulation.run(intervals * 5.0)
    assert (simulation.datagrams - before) / intervals / links <= 2


def test_one_message_causes_a_limited_number_of_copies() -> None:
    simulation, _ = steady(nodes=50)
    message_id = simulation.broadcast(0, b"hello")
    simulation.run(60)
    copies = sum(node.duplicates for node in simulation.nodes)
    reached = len(simulation.deliveries(message_id))
    assert reached == 49
    assert reached + copies <= 5 * (reached + 1)  # max_forwards


def test_no_nonce_is_used_twice_under_a_key() -> None:
    simulation = Simulation(nodes=8, seed=3, config=NodeConfig.local(), network=ROUGH)
    seen: dict[bytes, bytes] = {}

    def check(_: float, __: int, datagram: bytes, ___: object) -> None:
        if datagram[0] == 5:  # sealed: type, session id, counter
            head = datagram[:17]
            assert seen.setdefault(head, datagram) == datagram

    simulation.watch(check)
    workload = Workload(simulation, random.Random(3))
    simulation.run(10)
    for number in range(8):
        workload.broadcast_randomly(2)
        simulation.crash(number)
        workload.broadcast_randomly(1)
        simulation.restart(number)
        simulation.run(30)
    assert len(seen) > 1000


def test_peers_change_state_only_by_the_transition_table() -> None:
    simulation = Simulation(nodes=12, seed=5, config=NodeConfig.local(max_peers=5), network=ROUGH)
    transitions: Counter[tuple[PeerState | None, PeerState]] = Counter()

    def note(_: float, __: int, event: Event) -> None:
        if isinstance(event, PeerStateChanged):
            transitions[event.previous, event.peer.state] += 1

    simulation.listen(note)
    simulation.run(20)
    simulation.partition(range(6))
    simulation.crash(8)
    simulation.run(60)
    simulation.heal()
    simulation.restart(8)
    simulation.leave(9)
    simulation.run(60)
    for (previous, state), count in transitions.items():
        assert previous is None or previous == state or (previous, state) in LEGAL, count
    assert len(transitions) >= 3


def test_corrupted_datagrams_are_dropped_with_a_reason_and_do_no_harm() -> None:
    simulation = Simulation(nodes=10, seed=2, network=Network(corruption=0.2))
    simulation.run(60)
    message_id = simulation.broadcast(0, b"hello")
    simulation.run(60)
    assert set(simulation.deliveries(message_id).values()) == {1}
    assert len(simulation.deliveries(message_id)) == 9
    reasons: Counter[str] = Counter()
    for node in simulation.nodes:
        reasons.update({str(reason): count for reason, count in node.stats().dropped})
    assert reasons["decrypt_failed"] > 10


# --- the simulation itself ----------------------------------------------------------------------


def test_no_two_nodes_share_a_clock() -> None:
    simulation = Simulation(nodes=5)
    simulation.run(2)
    clocks = {node.read_clock(simulation.now) for node in simulation.nodes}
    assert len(clocks) == 5


def test_a_message_of_the_maximum_size_reaches_every_simulated_node() -> None:
    simulation = Simulation(nodes=3, seed=4)
    simulation.run(10.0)
    message = simulation.broadcast(0, bytes(10 * 2**20))
    simulation.run(30.0)
    assert simulation.deliveries(message) == {1: 1, 2: 1}


def test_a_node_that_is_down_cannot_act() -> None:
    simulation = Simulation(nodes=2)
    simulation.run(2)
    simulation.crash(1)
    with pytest.raises(NotRunning):
        simulation.broadcast(1, b"x")
    with pytest.raises(MessageTooLarge):
        simulation.broadcast(0, bytes(10 * 2**20 + 1))
    assert simulation.peers(1) == []


def test_a_direct_message_reaches_one_node() -> None:
    simulation = Simulation(nodes=3)
    simulation.run(10)
    message_id = simulation.send(0, 2, b"for two")
    simulation.run(1)
    assert simulation.deliveries(message_id) == {2: 1}


def test_run_until_ends_after_its_timeout() -> None:
    simulation = Simulation(nodes=1)
    assert not simulation.run_until(lambda: False, timeout=7)
    assert simulation.now == 7


def test_nodes_get_zones_in_turn_and_traffic_between_zones_is_counted() -> None:
    network = Network(latency=(0.001, 0.001), latency_between_zones=(0.080, 0.080))
    sim = Simulation(nodes=6, seed=1, network=network, zones=("a", "b", "c"))
    sim.run(10.0)
    assert [node.config.zone for node in sim.nodes] == ["a", "b", "c"] * 2
    rtts_s = {peer.zone: peer.rtt_s for peer in sim.peers(0) if peer.rtt_s is not None}
    assert rtts_s["a"] < 0.01 < 0.15 < rtts_s["b"] < 0.2
    assert 0 < sim.bytes_between_zones < sim.bytes


def test_linked_nodes_are_peers_at_once() -> None:
    simulation = Simulation(nodes=0, seed=1)
    for number in range(3):
        simulation.add(bootstrap=0, address=Address(f"10.2.0.{number + 1}", 8000))
    simulation.link([(0, 1), (1, 2)])
    assert [simulation.connected(number) for number in range(3)] == [1, 2, 1]
    assert str(simulation.nodes[2].address) == "10.2.0.3:8000"
    message = simulation.broadcast(0, b"hello")
    simulation.run(3)
    assert set(simulation.deliveries(message)) == {1, 2}
