"""Members behind NATs link through a common peer, and direct messages reach them; `nats` plays many more."""

from __future__ import annotations

import itertools
import random

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.events import Event, MessageReceived, MessageUndelivered, PathKind
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.sim import Nat, NatKind, Network, Simulation
from grapevine_proto.wire.attributes import parse_record_attributes
from tests.scenarios.nats import (
    FIRST,
    PAIRS,
    SECOND,
    delays,
    faults,
    go_mute,
    introduce_one_end,
    is_linked,
    link_between,
    start,
)

SEEDS = (1,)


@pytest.mark.usefixtures("patch_sources")
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_pair_of_nats_that_can_be_punched_is_and_a_lying_common_peer_changes_nothing(
    pair: tuple[NatKind, NatKind],
) -> None:
    assert [fault for seed in SEEDS for fault in faults(pair, seed)] == []


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_broadcasts_reach_all_within_a_second_and_within_two_after_a_nat_changed(
    pair: tuple[NatKind, NatKind],
) -> None:
    assert [fault for seed in SEEDS for fault in delays(pair, seed)] == []


@pytest.mark.parametrize("seed", [82, 262])
def test_a_newcomer_that_speaks_before_it_knows_the_members_mails_to_nobody(seed: int) -> None:
    """It links three members within less than the round trip that brings their records (82), or a heartbeat
    overtakes these (262). Mail to the three would reach the fourth, with which no NAT lets it link, seconds
    later."""
    assert delays((NatKind.SYMMETRIC, NatKind.SYMMETRIC), seed) == []


def test_two_members_behind_port_restricted_nats_link_within_two_seconds_of_their_start() -> None:
    sim = start((NatKind.CONE, NatKind.CONE), 1, loss=0.0, bootstrap_peers=())
    sim.run(1.0)
    assert sim.run_until(lambda: is_linked(sim), 2.0)
    link = link_between(sim, FIRST, SECOND)
    assert link is not None
    assert link.path is PathKind.PUNCHED
    assert link.address.host == sim._nats.external_host(SECOND)  # type: ignore[union-attr]
    assert link.advertised != (link.address,)


@pytest.mark.usefixtures("patch_sources")
@pytest.mark.parametrize("unaware", [FIRST, SECOND])
def test_both_ends_show_a_punched_path_even_if_one_was_not_introduced(unaware: int) -> None:
    sim = start((NatKind.CONE, NatKind.CONE), 1, loss=0.0)
    sim.run_until(lambda: all(node.engine is not None for node in sim.nodes), 2.0)
    for number in range(FIRST):
        introduce_one_end(sim, number, but=unaware)
    assert sim.run_until(lambda: is_linked(sim), 6.0)
    for ends in ((FIRST, SECOND), (SECOND, FIRST)):
        link = link_between(sim, *ends)
        assert link is not None
        assert link.path is PathKind.PUNCHED


@pytest.mark.parametrize("second", [NatKind.CONE, NatKind.SYMMETRIC])
def test_what_no_nat_lets_through_is_relayed_within_a_second(second: NatKind) -> None:
    sim = start((NatKind.SYMMETRIC, second), 1, loss=0.0)
    sim.run(4.0)
    assert not is_linked(sim)
    message_id = sim.send(FIRST, SECOND, b"through a common peer")
    assert sim.run_until(lambda: message_id in sim.nodes[SECOND].deliveries, 1.0)
    assert sum(node.stats().relayed_datagrams for node in sim.nodes[:FIRST]) > 0
    for number, other in ((FIRST, SECOND), (SECOND, FIRST)):
        assert sim.nodes[number].stats().relay_refused == 0
        engine = sim.nodes[number].engine
        assert engine is not None
        members = engine.members(sim.nodes[number].read_clock(sim.now))
        paths: dict[PeerId | None, PathKind | None] = {each.peer_id: each.path for each in members}
        assert paths[sim.nodes[other].peer_id] is PathKind.RELAYED
        assert paths[sim.nodes[0].peer_id] is PathKind.DIRECT


@pytest.mark.usefixtures("patch_sources")
@pytest.mark.parametrize("broken", range(FIRST))
def test_one_common_peer_that_neither_introduces_nor_relays_stops_nothing(broken: int) -> None:
    sim = start((NatKind.CONE, NatKind.CONE), 1, loss=0.0)
    sim.run_until(lambda: sim.nodes[broken].engine is not None, 1.0)
    go_mute(sim, broken)
    assert sim.run_until(lambda: is_linked(sim), 4.0)

    sim = start((NatKind.SYMMETRIC, NatKind.SYMMETRIC), 1, loss=0.0)
    sim.run(4.0)
    go_mute(sim, broken)
    message_id = sim.send(FIRST, SECOND, b"past the broken one")
    assert sim.run_until(lambda: message_id in sim.nodes[SECOND].deliveries, 2.0)


def test_members_of_one_lan_link_by_their_private_addresses() -> None:
    office, home = Nat(NatKind.CONE, "office"), Nat(NatKind.CONE, "home")
    sim = Simulation(
        nodes=5,
        seed=1,
        config=NodeConfig.local(),
        bootstrap=1,
        network=Network(nat={1: office, 2: office, 3: home, 4: home}, loss=0.05),
    )
    pairs = list(itertools.combinations(range(5), 2))
    assert sim.run_until(lambda: all(is_linked(sim, *pair) for pair in pairs), 15.0)
    for pair in ((1, 2), (3, 4)):
        link = link_between(sim, *pair)
        assert link is not None
        assert link.address == sim.nodes[pair[1]].address
    link = link_between(sim, 1, 3)
    assert link is not None
    assert link.address.host == sim._nats.external_host(3)  # type: ignore[union-attr]


def test_direct_messages_reach_members_behind_nats_that_have_no_link() -> None:
    kinds = (NatKind.FULL_CONE, NatKind.RESTRICTED, NatKind.CONE)
    sim = Simulation(
        nodes=20,
        seed=3,
        config=NodeConfig.local(max_peers=6),
        bootstrap=2,
        network=Network(nat={n: kinds[n % 3] for n in range(5, 20)}, loss=0.05),
    )
    received: dict[bytes, float] = {}
    undelivered: list[MessageUndelivered] = []

    def note(at: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived) and event.message.is_direct:
            received[event.message.payload] = at
        elif isinstance(event, MessageUndelivered):
            undelivered.append(event)

    sim.listen(note)
    sim.run(15.0)
    rng, sent = random.Random(1), {}
    for number in range(20):
        of, to = rng.sample(range(20), 2)
        payload = b"%d" % number
        sent[payload] = sim.now
        sim.send(of, to, payload)
        sim.run(0.3)
    sim.run(10.0)
    assert undelivered == []
    assert received.keys() == sent.keys()
    assert max(received[each] - sent[each] for each in sent) < 3.0


def test_a_cluster_without_nats_says_nothing_about_addresses() -> None:
    sim = Simulation(nodes=6, seed=1, config=NodeConfig.local(max_peers=3))
    sim.run(10.0)
    sim.crash(2)
    sim.run(10.0)
    for node in sim.nodes:
        if node.engine is not None:
            assert parse_record_attributes(node.engine.record.attributes).introducers is None
            assert not node.engine.is_behind_nat
            assert node.engine.stats().introduced == node.engine.stats().introductions_refused == 0


def test_a_node_that_moved_is_advertised_where_its_peers_see_it() -> None:
    sim = Simulation(nodes=5, seed=1, config=NodeConfig.local())
    sim.run(5.0)
    sim.move(4)
    moved = sim.nodes[4]
    assert moved.engine is not None
    engine = moved.engine
    assert sim.run_until(lambda: engine.record.addresses[0] == moved.address, 10.0)
    assert engine.observed == moved.address
    sim.run(1.0)  # for the record to arrive
    for number in range(4):
        shown = link_between(sim, number, 4)
        assert shown is not None
        assert shown.address == moved.address
        assert moved.address in shown.advertised


def test_a_node_that_gets_another_name_zone_and_address_at_run_time_tells_its_peers() -> None:
    sim = Simulation(nodes=3, seed=1, config=NodeConfig.local())
    sim.run(3.0)
    first = sim.nodes[0].engine
    assert first is not None
    machine = first.record.addresses
    elsewhere = Address("198.51.100.7", 8000)

    def seen() -> list[tuple[str, str, tuple[Address, ...]]]:
        return [
            (peer.name, peer.zone, peer.advertised)
            for number in (1, 2)
            for peer in sim.peers(number)
            if peer.peer_id == first.peer_id
        ]

    sim.reconfigure(0, name="renamed", zone="eu-west", advertise=str(elsewhere))
    assert sim.run_until(lambda: seen() == [("renamed", "eu-west", (elsewhere,))] * 2, 1.0)
    assert first.record.addresses == (elsewhere,)
    sim.reconfigure(0, advertise="")
    assert sim.run_until(lambda: seen() == [("renamed", "eu-west", machine)] * 2, 1.0)
    sim.run(5.0)
    assert sim.connected(0) == 2


@pytest.mark.parametrize("kind", [NatKind.CONE, NatKind.SYMMETRIC])
def test_a_member_with_the_private_address_of_its_sender_is_reached_at_once(kind: NatKind) -> None:
    """Two homes use the same private addresses. The first record of a newcomer has nothing else."""
    sim = Simulation(
        nodes=FIRST + 1,
        seed=1,
        config=NodeConfig.local(),
        network=Network(nat={FIRST: NatKind.CONE, SECOND: kind}),
    )
    sim.run(5.0)
    assert sim.add() == SECOND
    sender, newcomer = sim.nodes[FIRST], sim.nodes[SECOND]
    assert sender.engine is not None
    assert sender.address == newcomer.address
    members = sender.engine.members
    known = sim.run_until(
        lambda: newcomer.peer_id in {each.peer_id for each in members()}, 2.0, every=0.001
    )
    assert known
    message_id = sim.send(FIRST, SECOND, b"for one")
    assert sim.run_until(lambda: message_id in newcomer.deliveries, 2.0)
