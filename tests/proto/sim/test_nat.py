"""NATs of the simulator: who gets in by which kind, how long, and what a LAN has to itself."""

from __future__ import annotations

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.ids import Address
from grapevine_proto.sim import Nat, NatKind, Network, Simulation
from grapevine_proto.sim.nat import NatModel

TTL_S = 30.0
SERVER, OTHER_PORT = Address("10.0.0.1", 1), Address("10.0.0.1", 2)
UNKNOWN_HOST = Address("10.0.0.2", 1)


def one_nat(kind: str) -> tuple[NatModel, Address, int]:
    """A node 0 behind a NAT that has sent to node 1 at SERVER; its own address and the mapped port."""
    nats = NatModel({0: kind}, TTL_S)
    private = nats.add(0, Address("10.9.9.9", 8000))
    for number, address in enumerate((SERVER, OTHER_PORT, UNKNOWN_HOST), 1):
        nats.add(number, address)
    route = nats.route(0, private, SERVER, 0.0)
    assert route is not None
    assert route.number == 1
    return nats, private, route.source.port


@pytest.mark.parametrize(
    ("kind", "same_host", "unknown_host"),
    [
        (NatKind.FULL_CONE, True, True),
        (NatKind.RESTRICTED, True, False),
        (NatKind.CONE, False, False),
        (NatKind.SYMMETRIC, False, False),
    ],
)
def test_each_kind_admits_the_sources_that_it_is_named_after(
    kind: str, same_host: bool, unknown_host: bool
) -> None:
    nats, _, port = one_nat(kind)
    assert nats.admits(0, port, SERVER, 1.0)
    assert nats.admits(0, port, OTHER_PORT, 1.0) is same_host
    assert nats.admits(0, port, UNKNOWN_HOST, 1.0) is unknown_host


@pytest.mark.parametrize("kind", list(NatKind))
def test_only_a_symmetric_nat_maps_each_destination_to_a_port_of_its_own(kind: NatKind) -> None:
    nats, private, port = one_nat(kind)
    route = nats.route(0, private, UNKNOWN_HOST, 1.0)
    assert route is not None
    assert (route.source.port == port) is (kind is not NatKind.SYMMETRIC)
    assert route.source.host == nats.external_host(0)


@pytest.mark.parametrize("kind", list(NatKind))
def test_a_mapping_ends_when_nothing_was_sent_for_its_time_to_live(kind: NatKind) -> None:
    nats, private, port = one_nat(kind)
    assert nats.admits(0, port, SERVER, TTL_S)
    assert not nats.admits(0, port, SERVER, TTL_S + 0.1)
    nats.route(0, private, SERVER, TTL_S)
    assert nats.admits(0, port, SERVER, 2 * TTL_S)
    later = nats.route(0, private, SERVER, 3 * TTL_S + 1)
    assert later is not None
    assert later.source.port != port, "a mapping that has ended is not used again"
    assert nats.route(1, SERVER, Address(nats.external_host(0), port), 3 * TTL_S + 1) is None


def test_a_permission_ends_while_the_mapping_lives_on() -> None:
    nats, private, port = one_nat(NatKind.CONE)
    nats.route(0, private, UNKNOWN_HOST, TTL_S)
    assert nats.admits(0, port, UNKNOWN_HOST, TTL_S + 1)
    assert not nats.admits(0, port, SERVER, TTL_S + 1)


def test_a_rebinding_forgets_mappings_and_a_move_changes_the_host_too() -> None:
    nats, private, port = one_nat(NatKind.FULL_CONE)
    host = nats.external_host(0)
    nats.rebind(0)
    assert not nats.admits(0, port, SERVER, 1.0)
    again = nats.route(0, private, SERVER, 1.0)
    assert again is not None
    assert again.source.host == host
    nats.move(0)
    moved = nats.route(0, private, SERVER, 2.0)
    assert moved is not None
    assert moved.source.host == nats.external_host(0) != host
    assert nats.route(1, SERVER, again.source, 2.0) is None


def test_a_lan_is_reached_directly_inside_and_never_from_outside_or_by_hairpin() -> None:
    office = Nat(NatKind.FULL_CONE, "office")
    nats = NatModel({0: office, 1: office, 2: "cone"}, TTL_S)
    first, second, elsewhere = (nats.add(number, Address("10.0.0.9", 8000)) for number in range(3))
    nats.add(3, SERVER)
    assert first == elsewhere != second, "all LANs use the same range"
    inside = nats.route(0, first, second, 0.0)
    assert inside is not None
    assert (inside.number, inside.source, inside.mapped_port) == (1, first, 0)
    assert nats.route(2, elsewhere, second, 0.0) is None
    assert nats.route(3, SERVER, second, 0.0) is None
    mapped = nats.route(1, second, SERVER, 0.0)
    assert mapped is not None
    assert nats.route(0, first, mapped.source, 0.0) is None


def test_nodes_of_one_lan_have_one_nat() -> None:
    nats = NatModel({0: Nat(NatKind.CONE, "lan"), 1: Nat(NatKind.SYMMETRIC, "lan")}, TTL_S)
    nats.add(0, SERVER)
    with pytest.raises(ValueError, match="node 1"):
        nats.add(1, UNKNOWN_HOST)


def test_a_node_behind_a_nat_joins_by_a_public_one_and_survives_rebinding_and_moves() -> None:
    def run() -> str:
        sim = Simulation(
            nodes=3,
            seed=5,
            config=NodeConfig.local(),
            network=Network(nat={1: "cone", 2: "symmetric"}, loss=0.05),
        )
        sim.run(5.0)
        assert [sim.connected(number) for number in (1, 2)] >= [1, 1]
        for change in (sim.rebind, sim.move):
            change(1)
            change(2)
            sim.run(15.0)
            message = sim.broadcast(1, b"still here")
            assert sim.run_until(lambda each=message: len(sim.deliveries(each)) == 2, 10.0)  # type: ignore[misc]
        return sim.trace_hash

    assert run() == run()


def test_links_cannot_be_given_to_nodes_behind_nats() -> None:
    with pytest.raises(ValueError, match="NATs"):
        Simulation(nodes=3, network=Network(nat={1: "cone"}), initial_links=2)
    with pytest.raises(ValueError, match="no NATs"):
        Simulation(nodes=1).rebind(0)
