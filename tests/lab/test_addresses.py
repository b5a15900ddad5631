"""Which addresses nodes use and show: moves, no default route, IPv6, both families."""

from __future__ import annotations

import re

import pytest

from tests.lab.lab import Lab

OFFICE = "192.0.2.0/24"
OFFICE_IPV6 = "2001:db8:7::/64"


def test_messages_flow_again_after_a_host_got_another_address(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    source, target = lab.node(ada), lab.node(bob, ada)
    lab.until_connected()
    bob.set_addresses(office.next_addresses(), office)
    lab.until_messages_flow(label="after the move", within_s=2.0)
    lab.until(
        lambda: source.address_of(target) == bob.endpoint, "the new address is shown to ada", 5.0
    )
    lab.until(
        lambda: target.ctl("status")["advertised"] == bob.endpoint,
        "the new address is advertised",
        5.0,
    )


def test_messages_flow_again_after_a_host_moved_to_another_network(lab: Lab) -> None:
    internet = lab.network("198.51.100.0/24")
    meeting = lab.host("meeting", internet)
    first = lab.router("first", internet, nat=None, lan="192.0.2.0/24")
    second = lab.router("second", internet, nat=None, lan="203.0.113.0/24")
    meeting.run(f"ip route add 192.0.2.0/24 via {first.outside.ip}")
    meeting.run(f"ip route add 203.0.113.0/24 via {second.outside.ip}")
    walker = lab.host("walker", first.lan)
    mutual, node = lab.node(meeting), lab.node(walker, meeting)
    lab.until_connected()
    assert mutual.address_of(node) == walker.endpoint
    lab.replug(walker, second.lan)
    lab.until_messages_flow(label="after the move", within_s=2.0)
    lab.until(lambda: mutual.address_of(node) == walker.endpoint, "the new address is shown", 5.0)


def test_three_hosts_without_a_default_route_are_all_connected_by_the_lines_of_the_guide(
    lab: Lab,
) -> None:
    office = lab.network(OFFICE)
    hosts = [lab.host(name, office) for name in ("ada", "bob", "eve")]
    for each in hosts:
        assert each.run("ip route show default") == ""
    nodes = [lab.node(hosts[0]), lab.node(hosts[1], hosts[0]), lab.node(hosts[2], hosts[0])]
    lab.until_connected(within_s=10.0)
    for node, host in zip(nodes, hosts, strict=True):
        assert node.ctl("status")["advertised"] == host.endpoint
        assert all(other.address_of(node) == host.endpoint for other in nodes if other is not node)
    lab.until_messages_flow(label="to all", within_s=1.0)


@pytest.mark.long
def test_hosts_with_a_network_of_containers_each_are_connected_by_the_one_that_they_share(
    lab: Lab,
) -> None:
    office = lab.network(OFFICE)
    hosts = [lab.host(name, office) for name in ("ada", "bob", "eve")]
    for each in hosts:
        lab.connect(each, lab.network("172.17.0.0/16"), "docker0")
        each.run("ip address add 172.17.0.1/16 dev docker0")  # the same on each
    nodes = [lab.node(each, *hosts[:1]) for each in hosts]
    lab.until_connected(within_s=10.0)
    for node, host in zip(nodes, hosts, strict=True):
        assert node.ctl("status")["advertised"] == host.endpoint
        assert all(other.address_of(node) == host.endpoint for other in nodes if other is not node)


def test_an_invitation_names_the_address_of_a_host_without_a_default_route(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    first = lab.node(ada)
    lab.until_started()
    line, notes = first.cli("invite", "--state-dir", str(first.state_dir))
    assert f"at {ada.endpoint};" in notes
    second = lab.joined_node(bob, line)
    lab.until_connected(first, second)


def test_an_invitation_of_a_host_without_a_network_says_what_to_pass(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada = lab.host("ada", office)
    ada.cable.unplug()
    ada.run("ip address flush dev eth0")
    node = lab.node(ada)
    lab.until_started()
    _, notes = node.cli("invite", "--state-dir", str(node.state_dir))
    assert re.search("only this machine can reach that address.*--advertise HOST:PORT", notes)


def test_hosts_with_only_ipv6_work(lab: Lab) -> None:
    office = lab.network(OFFICE_IPV6)
    hosts = [lab.host(name, office) for name in ("ada", "bob", "eve")]
    nodes = [lab.node(each, *hosts[:1], bind="::") for each in hosts]
    lab.until_connected(within_s=10.0)
    for node, host in zip(nodes, hosts, strict=True):
        assert host.endpoint.startswith("[2001:db8:7::")
        assert node.ctl("status")["advertised"] == host.endpoint
        assert all(other.address_of(node) == host.endpoint for other in nodes if other is not node)
    lab.until_messages_flow(label="over IPv6", within_s=1.0)


def test_a_host_with_both_families_connects_those_that_have_one(lab: Lab) -> None:
    office = lab.network(OFFICE, OFFICE_IPV6)
    ada, bob, eve = (lab.host(name, office) for name in ("ada", "bob", "eve"))
    bob.keep_only_ip_version(4)
    eve.keep_only_ip_version(6)
    both = lab.node(ada, bind="::")
    old = lab.node(bob, ada.addresses[0].endpoint)
    new = lab.node(eve, ada.addresses[1].endpoint, bind="::")
    lab.until_connected(both, old)
    lab.until_connected(both, new)
    lab.until_known(old, new, within_s=10.0)
    lab.until_messages_flow(label="across families", within_s=1.0)
    assert both.address_of(old) == bob.endpoint
    assert both.address_of(new) == eve.endpoint
    assert old.address_of(both) == ada.addresses[0].endpoint


def test_messages_flow_again_after_a_host_lost_the_address_family_that_its_links_use(
    lab: Lab,
) -> None:
    office = lab.network("10.7.0.0/24", OFFICE_IPV6)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    source = lab.node(ada, bind="[::]")
    target = lab.node(bob, ada, bind="[::]")
    lab.until_connected()
    used = 6 if source.address_of(target).startswith("[") else 4
    ada.keep_only_ip_version(10 - used)
    lab.until_messages_flow(label="over the other family", within_s=2.0)
    lab.until(
        lambda: source.address_of(target).startswith("[") is (used == 4),
        "the other address is shown",
        5.0,
    )
