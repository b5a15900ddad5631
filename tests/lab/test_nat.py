"""Nodes behind routers that translate addresses: each kind with each other kind, rebinding and moves."""

from __future__ import annotations

import itertools

import pytest

from tests.lab.lab import Lab, LabNode
from tests.lab.network import NODE_PORT, Host, Nat, Network, Router, pairs

INTERNET = "198.51.100.0/24"
OTHER_PORTS = "20000-20999"


def home(
    lab: Lab, name: str, internet: Network, nat: Nat, *peers: Host | str
) -> tuple[Router, LabNode]:
    """Starts a node behind a router of its own."""
    router = lab.router(f"{name}-router", internet, nat)
    host = lab.host(name, router.lan)
    if nat is Nat.FORWARDED:
        router.forward_port_to(host)
    return router, lab.node(host, *peers)


NO_LINK = ({Nat.SYMMETRIC}, {Nat.SYMMETRIC, Nat.CONE})
"""Pairs that no packet can punch. Direct messages between them are relayed."""

# The others run on request.
QUICK = {(Nat.CONE, Nat.CONE), (Nat.SYMMETRIC, Nat.SYMMETRIC)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK else [pytest.mark.long])
        for pair in pairs(tuple(Nat))
    ],
    ids=lambda nat: nat.value,
)
def test_members_behind_two_routers_are_connected_or_their_direct_messages_are_relayed(
    lab: Lab, first: Nat, second: Nat
) -> None:
    internet = lab.network(INTERNET)
    meeting = lab.host("meeting", internet)
    mutual = lab.node(meeting)
    _, ada = home(lab, "ada", internet, first, meeting)
    _, bob = home(lab, "bob", internet, second, meeting)
    lab.until_connected(mutual, ada)
    lab.until_connected(mutual, bob)
    lab.until_known(ada, bob, within_s=10.0)
    if {first, second} not in NO_LINK:
        lab.until(
            lambda: ada.is_connected_to(bob) and bob.is_connected_to(ada),
            "the link between the two",
            2.0,
        )
    lab.until_messages_flow(label="to all", within_s=1.0)
    for source, target in itertools.permutations(lab.nodes, 2):
        text = f"from {source.name} to {target.name}"
        assert lab.until_send_ends(source, target, text, within_s=1.0)
    assert ada.address_of(mutual) == bob.address_of(mutual) == meeting.endpoint
    paths = {ada.path_to(bob), bob.path_to(ada)}
    if {first, second} in NO_LINK:
        assert paths == {"relayed"}
    elif Nat.FORWARDED in (first, second):
        assert paths <= {"direct", "punched"}
    else:
        assert paths == {"punched"}


@pytest.mark.parametrize("nat", [Nat.CONE, Nat.SYMMETRIC], ids=lambda nat: nat.value)
def test_messages_flow_again_after_the_router_has_forgotten_its_mappings(
    lab: Lab, nat: Nat
) -> None:
    internet = lab.network(INTERNET)
    meeting = lab.host("meeting", internet)
    mutual = lab.node(meeting)
    router, ada = home(lab, "ada", internet, nat, meeting)
    lab.until_connected()
    router.forget_mappings(OTHER_PORTS)
    lab.until_messages_flow(label="after the restart", within_s=2.0)
    assert lab.until_send_ends(mutual, ada, "for ada", within_s=2.0)
    lab.until(
        lambda: mutual.address_of(ada).startswith(f"{router.outside.ip}:20"),
        "the new port is shown",
        5.0,
    )


def test_messages_flow_again_after_the_provider_has_changed_the_address_of_the_router(
    lab: Lab,
) -> None:
    internet = lab.network(INTERNET)
    meeting = lab.host("meeting", internet)
    mutual = lab.node(meeting)
    router, ada = home(lab, "ada", internet, Nat.CONE, meeting)
    lab.until_connected()
    router.move_to(internet.next_addresses()[0])
    lab.until_messages_flow(label="after the change", within_s=2.0)
    lab.until(
        lambda: mutual.address_of(ada).startswith(f"{router.outside.ip}:"),
        "the new address is shown",
        5.0,
    )


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp", "upnp"])
def test_a_node_behind_a_symmetric_nat_is_dialed_at_the_port_that_its_router_maps(
    lab: Lab, protocol: str
) -> None:
    internet = lab.network(INTERNET)
    router = lab.router("ada-router", internet, Nat.SYMMETRIC)
    router.map_ports(protocol)
    ada = lab.node(lab.host("ada", router.lan), arguments=("--port-mapping", "auto"))
    lab.until(lambda: ada.has("port_mapping", outcome="granted"), "the port is mapped", 5.0)
    mapped = f"{router.outside.ip}:{NODE_PORT}"
    assert ada.ctl("status")["mapped"] == mapped

    outside = lab.node(lab.host("outside", internet), mapped)  # which ada does not know
    lab.until_connected()
    assert (outside.address_of(ada), outside.path_to(ada)) == (mapped, "direct")
    _, bob = home(lab, "bob", internet, Nat.SYMMETRIC, outside.host)
    lab.until_connected(outside, bob)
    lab.until(
        lambda: ada.is_connected_to(bob) and bob.is_connected_to(ada),
        "a link between two symmetric NATs",
        2.0,
    )
    lab.until_messages_flow(label="to all", within_s=1.0)

    assert "dnat" in router.mapped_ports
    ada.stop()
    assert router.mapped_ports == "", "it is given back"
