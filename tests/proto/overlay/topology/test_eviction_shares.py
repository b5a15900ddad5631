"""Eviction shares: what an attacker with free identities cannot gain."""

from __future__ import annotations

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.peers import Peer, PeerTrigger
from grapevine_proto.overlay.topology.active_view import (
    CROWD_MIN_REJECTIONS,
    CROWD_REJECTIONS_PER_LINK,
    LINK_GRACE_S,
    ActiveView,
)
from grapevine_proto.overlay.topology.eviction_shares import (
    evictable,
    fair_victims,
    network_group,
)
from grapevine_proto.sim import Simulation
from tests.proto.overlay.builders import Links, context, peer_id, record
from tests.scenarios.test_topology import linked, running


class FullNode:
    """A node with all slots taken: link `n` is at `hosts[n]` and `n` seconds old at time 0."""

    def __init__(
        self, hosts: list[str], *, self_chosen: tuple[int, ...] = (), in_use: tuple[int, ...] = ()
    ) -> None:
        self.now = 0.0
        node = context(max_peers=len(hosts))
        self.peers, self.members = node.peers, node.members
        self.active_view = ActiveView(node, Links(*in_use))
        for number, host in enumerate(hosts):
            peer_record = record(number)
            self.members.ensure(peer_record, 0.0)
            peer = self.peers.add(
                peer_record.peer_id, peer_record, Address(host, 8000 + number), 0.0
            )
            self.peers.transition(peer, PeerTrigger.LINKED)
            peer.linked_at = -float(number)
            peer.is_self_chosen = number in self_chosen

    def victim_for(
        self, host: str, now: float = 0.0, *, is_outbound: bool = False
    ) -> PeerId | None:
        """The link evicted for a newcomer at `host`."""
        for peer in self.peers:
            peer.last_heard_at = now
        return self.active_view.pick_victim(
            peer_id(99), now, wants_room=True, source=Address(host, 1), is_outbound=is_outbound
        )

    def victims_for(self, host: str) -> set[int]:
        """All links that may be evicted for newcomers at `host`."""
        self.now += 1000.0
        found = {self.victim_for(host, self.now + 2.0 * n) for n in range(200)}
        return {number for number in range(50) if peer_id(number) in found}


def separate_hosts(count: int, network: int = 0) -> list[str]:
    """`count` hosts, each in its own network."""
    return [f"10.{network}.{number}.1" for number in range(count)]


def test_self_chosen_links_up_to_half_of_all_are_never_evicted() -> None:
    node = FullNode(separate_hosts(12), self_chosen=(3, 5, 6, 7, 8, 9, 10, 11))
    assert node.victims_for("10.9.9.9").isdisjoint({6, 7, 8, 9, 10, 11})
    assert 3 in node.victims_for("10.9.9.9"), "beyond half, the youngest of them may go"


def test_the_oldest_other_links_and_those_in_use_are_never_evicted() -> None:
    node = FullNode(separate_hosts(16), in_use=(2, 3, 4))
    assert node.victims_for("10.9.9.9") == set(range(12)) - {4, 3}


def test_at_most_one_link_a_second_is_evicted_whatever_the_number_of_newcomers() -> None:
    node = FullNode(separate_hosts(16))
    evicted = [node.victim_for(f"10.{n % 200}.9.1", 100.0 + n / 100) for n in range(301)]
    assert sum(each is not None for each in evicted) in (3, 4)
    assert node.active_view.rejected >= 297


@pytest.mark.parametrize("attackers", [["203.0.113.9"] * 2, ["2001:db8::1", "2001:db8::2:3"]])
def test_a_host_at_its_share_gets_another_link_only_in_place_of_its_own(
    attackers: list[str],
) -> None:
    node = FullNode([*attackers, *separate_hosts(14)])
    assert node.victims_for(attackers[0]) <= {0, 1}


def test_a_network_at_its_share_gets_another_link_only_in_place_of_its_own() -> None:
    node = FullNode([*(f"203.0.113.{n}" for n in range(4)), *separate_hosts(12)])
    assert node.victims_for("203.0.113.99") <= {0, 1, 2, 3}


def test_a_host_above_its_share_loses_links_first() -> None:
    node = FullNode([*["203.0.113.9"] * 6, *separate_hosts(10)])
    assert node.victims_for("10.9.9.9") <= set(range(6))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3"])
def test_a_cluster_on_one_host_admits_newcomers_like_any_other(host: str) -> None:
    assert len(FullNode([host] * 16).victims_for(host)) == 12


def test_a_cluster_in_one_network_admits_newcomers_like_any_other() -> None:
    node = FullNode([f"192.168.7.{n}" for n in range(16)])
    assert len(node.victims_for("192.168.7.200")) == 12


def test_a_link_in_its_grace_period_is_not_evicted() -> None:
    node = FullNode(separate_hosts(8))
    for peer in node.peers:
        peer.linked_at = 0.0
    assert node.victim_for("10.9.9.9", LINK_GRACE_S - 0.1) is None
    assert node.victim_for("10.9.9.9", LINK_GRACE_S) is not None


def test_in_a_crowd_a_node_keeps_half_of_its_links_self_chosen() -> None:
    node = FullNode(separate_hosts(8), self_chosen=(7,))
    assert not node.active_view.needs_self_chosen(100.0)
    for _ in range(CROWD_MIN_REJECTIONS + CROWD_REJECTIONS_PER_LINK * 8 + 1):
        node.victim_for("203.0.113.9", 100.0)
    assert node.active_view.needs_self_chosen(100.0)
    assert node.victim_for("10.9.9.9", 100.0, is_outbound=True) is not None, (
        "the rate limit is used up"
    )
    assert not node.active_view.needs_self_chosen(200.0)


def test_a_node_filled_by_a_crowd_still_links_members_it_dials() -> None:
    node = FullNode(["203.0.113.9"] * 8)
    for peer in node.peers:
        peer.linked_at = 0.0
    assert node.victim_for("10.9.9.9", 0.5, is_outbound=True) is not None


def test_mapped_addresses_and_scope_ids_belong_to_the_same_host() -> None:
    assert network_group("::ffff:10.1.2.3") == network_group("10.1.2.3")
    assert network_group("fe80::1%eth0") == network_group("fe80::1%eth1")
    assert network_group("10.1.2.3").network == network_group("10.1.2.4").network
    assert network_group("10.1.2.3").host != network_group("10.1.2.4").host


def test_a_crowd_of_newcomers_does_not_evict_self_chosen_links() -> None:
    config_ = NodeConfig.lan(max_peers=6)
    sim = Simulation(nodes=20, seed=1, config=config_, initial_links=6)
    sim.run(10.0)
    old = set(running(sim))
    for _ in range(40):  # each wants one link and knows only node 3
        sim.add(bootstrap=[3], max_peers=1)
    for _ in range(30):
        sim.run(2.0)
        assert len(linked(sim, 3) & old) >= 3


# --- groups and shares --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same_host", "same_network"),
    [
        ("10.1.2.3", "10.1.2.3", True, True),
        ("10.1.2.3", "10.1.2.4", False, True),
        ("10.1.2.3", "10.1.3.3", False, False),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", True, True),
        ("2001:db8:1:1::1", "2001:db8:1:2::1", False, True),
        ("2001:db8:1:1::1", "2001:db8:1:8001::1", False, True),
        ("2001:db8:1:1::1", "2001:db8:2:1::1", False, False),
        ("2001:db8:2:1::1", "2001:db8:3:1::1", False, False),
        ("::ffff:10.1.2.3", "10.1.2.3", True, True),
        ("127.0.0.1", "127.9.9.9", True, True),
        ("127.0.0.1", "::1", True, True),
        ("fe80::1%eth0", "fe80::2%eth1", True, True),
        ("0.0.1.0", "::", False, False),
        ("0.0.2.0", "::", False, False),
        ("0.0.3.0", "127.0.0.1", False, False),
    ],
)
def test_hosts_are_grouped_by_address_and_network(
    one: str, other: str, same_host: bool, same_network: bool
) -> None:
    first, second = network_group(one), network_group(other)
    assert (first.host == second.host) is same_host
    assert (first.network == second.network) is same_network


def linked_peers(*hosts: str) -> list[Peer]:
    """Peers at these hosts, the first linked first."""
    peers = []
    for number, host in enumerate(hosts):
        peer = Peer(peer_id(number), None, Address(host, 8000), 0.0)
        peer.linked_at = float(number)
        peers.append(peer)
    return peers


def numbers_of(peers: list[Peer]) -> list[int]:
    ids = [peer.peer_id for peer in peers]
    return [number for number in range(50) if peer_id(number) in ids]


@pytest.mark.parametrize(
    ("host", "victims"),
    [
        ("10.0.0.1", [0, 1]),  # its host has two of sixteen
        ("10.0.0.9", [0, 1, 2, 3]),  # its network has four of sixteen
        ("10.9.9.9", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_a_newcomer_replaces_links_of_its_host_or_network_if_that_has_its_share(
    host: str, victims: list[int]
) -> None:
    peers = linked_peers("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3",
                         "10.1.0.1", "10.2.0.1", "10.3.0.1", "10.4.0.1")  # fmt: skip
    assert numbers_of(fair_victims(peers, peers, network_group(host), 16)) == victims


def test_the_group_furthest_above_its_share_goes_first_and_hosts_before_networks() -> None:
    hosts = ["10.0.0.1"] * 3 + ["10.1.0.1"] * 4 + ["10.2.0.1", "10.2.0.2", "10.2.0.3"]
    peers = linked_peers(*hosts)
    assert numbers_of(fair_victims(peers, peers, None, 16)) == [3, 4, 5, 6]
    networks = linked_peers(*(f"10.0.0.{n}" for n in range(5)), "10.1.0.1", "10.2.0.1")
    assert numbers_of(fair_victims(networks, networks, None, 16)) == [0, 1, 2, 3, 4]
    within = linked_peers(*(f"10.0.0.{n}" for n in range(4)), "10.1.0.1", "10.2.0.1")
    assert numbers_of(fair_victims(within, within, None, 16)) == [0, 1, 2, 3, 4, 5]
    assert fair_victims([], peers, None, 16) == []


@pytest.mark.parametrize(("max_peers", "victims"), [(8, [0, 1]), (24, [0, 1, 2])])
def test_a_host_has_two_links_or_an_eighth(max_peers: int, victims: list[int]) -> None:
    newcomer = network_group("10.0.0.1")
    peers = linked_peers(*["10.0.0.1"] * len(victims), "10.1.0.1", "10.2.0.1")
    assert numbers_of(fair_victims(peers, peers, newcomer, max_peers)) == victims
    fewer = peers[1:]
    assert len(fair_victims(fewer, fewer, newcomer, max_peers)) == len(fewer)


def test_the_oldest_quarter_and_an_eighth_in_use_are_kept_besides_self_chosen_links() -> None:
    peers = linked_peers(*(f"10.{n}.0.1" for n in range(16)))
    chosen = {peer_id(number) for number in (3, 4, 5)}
    assert numbers_of(evictable(peers, 4, chosen, set())) == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert numbers_of(evictable(peers, 16, set(), set())) == list(range(4, 16))
    in_use = {peer_id(number) for number in (1, 6, 9, 12)}
    assert numbers_of(evictable(peers, 16, set(), in_use)) == [4, 5, 7, 8, 10, 11, 12, 13, 14, 15]
    assert evictable([], 16, set(), set()) == []
