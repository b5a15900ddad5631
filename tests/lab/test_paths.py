"""Faults of the path: black holes, cuts in one direction, loose and flapping cables, slow lines."""

from __future__ import annotations

from functools import partial

import pytest

from tests.lab.lab import Lab

OFFICE = "192.0.2.0/24"


def test_large_messages_arrive_where_large_packets_vanish(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    bob.cable.swallow_frames_above(1280)
    source, target = lab.node(ada), lab.node(bob, ada)
    lab.until_connected()
    text = "large " * 8000
    lab.until_broadcast_reaches(source, target, text=text, within_s=5.0)
    lab.until_broadcast_reaches(target, source, text=text + "back", within_s=5.0)
    assert source.address_of(target) == bob.endpoint


def test_messages_flow_again_after_the_path_stopped_carrying_large_packets(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    source, target = lab.node(ada), lab.node(bob, ada)
    lab.until_connected()
    lab.until_broadcast_reaches(source, target, text="wide " * 8000, within_s=2.0)
    lab.until(  # the path MTU was found
        lambda: source.peers()["bob"]["datagram_bytes"] > 1400, "datagrams of full size", 5.0
    )
    bob.cable.swallow_frames_above(1280)
    lab.until_broadcast_reaches(source, target, text="narrow " * 8000, within_s=10.0)
    lab.until_messages_flow(label="small ones", within_s=2.0)


def test_a_node_that_one_other_cannot_hear_still_reaches_all(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob, eve = (lab.host(name, office) for name in ("ada", "bob", "eve"))
    lab.node(ada), lab.node(bob, ada), lab.node(eve, ada)
    lab.until_connected(within_s=10.0)
    bob.hear_nothing_from(eve)  # eve still hears bob
    lab.until_messages_flow(label="around the cut", within_s=2.0)
    bob.hear_nothing_from()
    lab.until_messages_flow(label="after the cut", within_s=5.0)


@pytest.mark.long
def test_no_node_is_declared_down_because_one_direction_is_cut(lab: Lab) -> None:
    office = lab.network(OFFICE)
    hosts = [lab.host(name, office) for name in ("ada", "bob", "eve", "ida")]
    nodes = [lab.node(hosts[0]), *(lab.node(each, hosts[0]) for each in hosts[1:])]
    lab.until_connected(within_s=10.0)
    hosts[1].hear_nothing_from(hosts[2])
    lab.let_pass(60.0)  # several suspicion timeouts
    lab.until_messages_flow(*nodes, label="around the cut", within_s=2.0)


def test_messages_flow_again_after_a_cable_was_unplugged(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob, eve = (lab.host(name, office) for name in ("ada", "bob", "eve"))
    source, target, third = lab.node(ada), lab.node(bob, ada), lab.node(eve, ada)
    lab.until_connected(within_s=10.0)
    bob.cable.unplug()
    lab.until_broadcast_reaches(source, third, text="meanwhile", within_s=1.0)
    lab.let_pass(1.0)
    bob.cable.plug()
    lab.until(lambda: target.received("meanwhile"), "what was missed arrived", 5.0)
    lab.until_messages_flow(label="plugged again", within_s=5.0)
    assert source.address_of(target) == bob.endpoint


def test_messages_arrive_over_a_flapping_link(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    source, target = lab.node(ada), lab.node(bob, ada)
    lab.until_connected()
    for number in range(3):
        text = f"sent while down {number}"
        bob.cable.unplug()
        source.broadcast(text)
        lab.let_pass(0.5)
        bob.cable.plug()
        lab.until(partial(target.received, text), f"flap {number}: the message arrived", 10.0)
    lab.until_messages_flow(label="after the last flap", within_s=2.0)
    assert source.address_of(target) == bob.endpoint


def test_messages_arrive_over_a_slow_and_lossy_line(lab: Lab) -> None:
    office = lab.network(OFFICE)
    ada, bob = lab.host("ada", office), lab.host("bob", office)
    bob.cable.limit_rate(1_000_000)
    ada.lose(0.25)
    bob.lose(0.25)
    source, target = lab.node(ada), lab.node(bob, ada)
    lab.until_connected(within_s=10.0)
    lab.until_broadcast_reaches(source, target, text="slow " * 5000, within_s=10.0)
    lab.until_messages_flow(label="small ones", within_s=5.0)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_nodes_work_at_ten_percent_loss(lab: Lab) -> None:
    hosts = lab.offices(5, 10)
    for each in hosts:
        each.lose(0.10)
    first = lab.node(hosts[0])
    lab.until_started(first)
    for each in hosts[1:]:
        node = lab.node(each, hosts[0])
        lab.until_started(node)
    lab.until(
        lambda: all(len(each.ctl("members")["members"]) == 49 for each in lab.nodes),
        "every node knows all others",
        60.0,
    )
    for number in range(10):
        source = lab.nodes[5 * number]
        lab.until_broadcast_reaches(source, text=f"to all {number}", within_s=2.0)
    lab.let_pass(120.0)  # time for a wrong verdict
    lab.until_broadcast_reaches(first, text="the last one", within_s=2.0)
