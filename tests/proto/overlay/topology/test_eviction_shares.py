"""Which links give way to newcomers, and how often: what identities that cost nothing cannot buy."""

from __future__ import annotations

import random

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable, PeerTrigger
from grapevine_proto.overlay.topology.active_view import (
    CROWD_MIN_REJECTIONS,
    CROWD_REJECTIONS_PER_LINK,
    LINK_GRACE_S,
    ActiveView,
)
from grapevine_proto.overlay.topology.eviction_shares import network_group
from grapevine_proto.sim import Simulation
from tests.proto.overlay.builders import config, peer_id, record
from tests.scenarios.test_topology import linked, running


class FullNode:
    """A node with all the links it may have: link `n` is `hosts[n]`'s and `n` seconds old at time 0."""

    def __init__(
        self, hosts: list[str], *, chosen: tuple[int, ...] = (), useful: tuple[int, ...] = ()
    ) -> None:
        self.now = 0.0
        carrying = {peer_id(each) for each in useful}
        self.peers, self.members = PeerTable(200), MemberTable(LimitsConfig())
        self.views = ActiveView(
            config(max_peers=len(hosts)),
            self.peers,
            self.members,
            random.Random(1),
            lambda each, now: each in carrying,
        )
        for number, host in enumerate(hosts):
            told = record(number)
            self.members.ensure(told, 0.0)
            peer = self.peers.add(told.peer_id, told, Address(host, 8000 + number), 0.0)
            self.peers.transition(peer, PeerTrigger.LINKED)
            peer.linked_at = -float(number)
            peer.is_self_chosen = number in chosen

    def yield_to(self, host: str, now: float = 0.0, *, is_ours: bool = False) -> PeerId | None:
        """Which link goes for a newcomer there."""
        for peer in self.peers:
            peer.last_heard_at = now
        return self.views.pick_victim(
            peer_id(99), now, wants_room=True, source=Address(host, 1), is_outbound=is_ours
        )

    def may_yield_to(self, host: str) -> set[int]:
        """All links that may go for newcomers there."""
        self.now += 1000.0
        found = {self.yield_to(host, self.now + 2.0 * n) for n in range(200)}
        return {number for number in range(50) if peer_id(number) in found}


def apart(count: int, network: int = 0) -> list[str]:
    """So many hosts, each in a network of its own."""
    return [f"10.{network}.{number}.1" for number in range(count)]


def test_links_of_our_own_choice_up_to_half_of_all_go_for_nobody() -> None:
    node = FullNode(apart(12), chosen=(3, 5, 6, 7, 8, 9, 10, 11))
    assert node.may_yield_to("10.9.9.9").isdisjoint({6, 7, 8, 9, 10, 11})
    assert 3 in node.may_yield_to("10.9.9.9"), "beyond half, the youngest of them may go"


def test_the_oldest_of_the_other_links_and_the_most_useful_go_for_nobody() -> None:
    node = FullNode(apart(16), useful=(2, 3, 4))
    assert node.may_yield_to("10.9.9.9") == set(range(12)) - {4, 3}


def test_one_link_a_second_goes_for_others_however_many_identities_ask() -> None:
    node = FullNode(apart(16))
    gone = [node.yield_to(f"10.{n % 200}.9.1", 100.0 + n / 100) for n in range(301)]
    assert sum(each is not None for each in gone) in (3, 4)
    assert node.views.rejected >= 297


@pytest.mark.parametrize("attackers", [["203.0.113.9"] * 2, ["2001:db8::1", "2001:db8::2:3"]])
def test_a_host_that_has_its_share_gets_another_link_only_for_one_of_its_own(
    attackers: list[str],
) -> None:
    node = FullNode([*attackers, *apart(14)])
    assert node.may_yield_to(attackers[0]) <= {0, 1}


def test_a_network_that_has_its_share_gets_another_link_only_for_one_of_its_own() -> None:
    node = FullNode([*(f"203.0.113.{n}" for n in range(4)), *apart(12)])
    assert node.may_yield_to("203.0.113.99") <= {0, 1, 2, 3}


def test_a_host_with_more_than_its_share_makes_room_for_others_first() -> None:
    node = FullNode([*["203.0.113.9"] * 6, *apart(10)])
    assert node.may_yield_to("10.9.9.9") <= set(range(6))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3"])
def test_a_cluster_on_one_host_lets_newcomers_in_as_any_other_does(host: str) -> None:
    assert len(FullNode([host] * 16).may_yield_to(host)) == 12


def test_a_cluster_in_one_network_lets_newcomers_in_as_any_other_does() -> None:
    node = FullNode([f"192.168.7.{n}" for n in range(16)])
    assert len(node.may_yield_to("192.168.7.200")) == 12


def test_a_new_link_is_sure_of_its_time() -> None:
    node = FullNode(apart(8))
    for peer in node.peers:
        peer.linked_at = 0.0
    assert node.yield_to("10.9.9.9", LINK_GRACE_S - 0.1) is None
    assert node.yield_to("10.9.9.9", LINK_GRACE_S) is not None


def test_in_a_crowd_a_node_sees_to_it_that_half_of_its_links_are_of_its_own_choice() -> None:
    node = FullNode(apart(8), chosen=(7,))
    assert not node.views.needs_self_chosen(100.0)
    for _ in range(CROWD_MIN_REJECTIONS + CROWD_REJECTIONS_PER_LINK * 8 + 1):
        node.yield_to("203.0.113.9", 100.0)
    assert node.views.needs_self_chosen(100.0)
    assert node.yield_to("10.9.9.9", 100.0, is_ours=True) is not None, "the second is used up"
    assert not node.views.needs_self_chosen(200.0)


def test_a_node_that_a_crowd_filled_first_takes_in_whom_it_dials_all_the_same() -> None:
    node = FullNode(["203.0.113.9"] * 8)
    for peer in node.peers:
        peer.linked_at = 0.0
    assert node.yield_to("10.9.9.9", 0.5, is_ours=True) is not None


def test_mapped_addresses_and_zones_are_the_host_that_they_stand_for() -> None:
    assert network_group("::ffff:10.1.2.3") == network_group("10.1.2.3")
    assert network_group("fe80::1%eth0") == network_group("fe80::1%eth1")
    assert network_group("10.1.2.3").network == network_group("10.1.2.4").network
    assert network_group("10.1.2.3").host != network_group("10.1.2.4").host


def test_a_crowd_of_newcomers_leaves_a_node_linked_with_those_it_chose() -> None:
    config_ = NodeConfig.lan(max_peers=6)
    sim = Simulation(nodes=20, seed=3, config=config_, initial_links=6)
    sim.run(10.0)
    old = set(running(sim))
    for _ in range(40):  # each wants one link, and knows node 3 alone
        sim.add(bootstrap=[3], max_peers=1)
    for _ in range(30):
        sim.run(2.0)
        assert len(linked(sim, 3) & old) >= 3
