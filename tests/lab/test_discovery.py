"""Nodes on one network that find each other by multicast DNS."""

from __future__ import annotations

import pytest

from grapevine_proto import ClusterKey
from tests.lab.lab import Lab

pytest.importorskip("zeroconf", reason="the extra mdns is not installed")
OFFICE = "192.0.2.0/24"
MDNS = ("--discover", "mdns")


def test_two_nodes_that_know_no_address_are_connected_within_a_second_of_their_start(
    lab: Lab,
) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    nodes = lab.node(ada, arguments=MDNS), lab.node(bob, arguments=MDNS)
    lab.until_started()
    lab.until_connected(within_s=1.0)
    assert nodes[0].address_of(nodes[1]) == bob.endpoint

    def found() -> list[tuple[str, str, str]]:
        discovered = nodes[1].ctl("discover")["discovered"]
        return [(each["address"], each["source"], each["name"]) for each in discovered]

    lab.until(  # the other one may have dialed first
        lambda: found() == [(ada.endpoint, "mdns", "ada")], "what was found is listed", 1.0
    )


def test_two_nodes_with_only_ipv6_find_each_other(lab: Lab) -> None:
    office = lab.network("2001:db8:7::/64")
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    lab.node(ada, bind="::", arguments=MDNS)
    lab.node(bob, bind="::", arguments=MDNS)
    lab.until_started()
    lab.until_connected(within_s=1.0)


def test_two_clusters_on_one_network_never_dial_each_other(lab: Lab) -> None:
    office = lab.network(OFFICE)
    key_files = [lab.key_file, lab.key_file.with_name("other.key")]
    ClusterKey.generate().save(key_files[1])
    nodes = []
    for number, name in enumerate(("ada", "bob", "eve", "ida")):
        lab.key_file = key_files[number % 2]
        nodes.append(lab.node(lab.host(name, office), arguments=MDNS))
    ours, others = nodes[::2], nodes[1::2]
    lab.until_connected(*ours, within_s=2.0)
    lab.until_connected(*others, within_s=2.0)
    lab.let_pass(6.0)  # longer than the first interval between two dials of an address
    for node in nodes:
        assert len(node.ctl("discover")["discovered"]) == 1
        assert node.ctl("stats")["stats"]["dropped"] == {}  # a Hello of another key would count
        assert len(node.peers()) == 1


@pytest.mark.long
def test_a_node_that_starts_later_and_one_that_moves_are_found(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob, eve = (lab.host(name, office) for name in ("ada", "bob", "eve"))
    first = lab.node(ada, arguments=MDNS)
    lab.until_started()
    second = lab.node(bob, arguments=MDNS)
    lab.until_started()
    lab.until_connected(first, second, within_s=1.0)
    bob.set_addresses(office.next_addresses(), office)
    third = lab.node(eve, arguments=MDNS)
    lab.until_connected(first, second, third, within_s=10.0)
    lab.until(
        lambda: bob.endpoint in {each["address"] for each in third.ctl("discover")["discovered"]},
        "the new address was found",
        10.0,
    )
