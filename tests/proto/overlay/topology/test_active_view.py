"""The active view: how many links are wanted, and which are evicted."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import PeerTrigger
from grapevine_proto.overlay.topology.active_view import LINK_GRACE_S, ActiveView
from tests.proto.overlay.builders import Links, context, peer_id, record


class ViewFixture:
    """A node's tables: members 0 to `members` - 1, the first `linked` of which are linked."""

    def __init__(
        self, *, members: int, linked: int, max_peers: int, zones: str = "", **changes: object
    ) -> None:
        limits = LimitsConfig(addresses_per_source=10_000)
        node = context(max_peers=max_peers, limits=limits, **changes)
        self.peers, self.members = node.peers, node.members
        self.active_view = ActiveView(node, Links())
        for number in range(members):
            zone = zones[number] if zones else ""
            peer_record = record(number, zone=zone)
            if number >= linked:
                self.members.add(peer_record, peer_id(0), 0.0)
                continue
            self.members.ensure(peer_record, 0.0)
            peer = self.peers.add(peer_record.peer_id, peer_record, peer_record.addresses[0], 0.0)
            self.peers.transition(peer, PeerTrigger.LINKED)
            peer.linked_at = 0.0

    def miss_heartbeats(self, number: int, since: float = 0.0) -> None:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        peer.last_heard_at = since
        self.peers.transition(peer, PeerTrigger.MISSED_HEARTBEATS)

    def victim(self, now: float = 5.0, *, wants_room: bool = True) -> PeerId | None:
        self.active_view._eviction_budget = None  # the rate limit has recovered
        return self.active_view.pick_victim(peer_id(99), now, wants_room=wants_room)


@pytest.mark.parametrize(("max_peers", "target"), [(1, 1), (2, 2), (5, 4), (8, 7), (50, 40)])
def test_a_large_cluster_leaves_some_slots_for_inbound_links(max_peers: int, target: int) -> None:
    fixture = ViewFixture(members=60, linked=0, max_peers=max_peers)
    assert fixture.active_view.target_count == target
    assert fixture.active_view.is_partial


def test_a_small_cluster_targets_a_full_mesh() -> None:
    fixture = ViewFixture(members=5, linked=0, max_peers=5)
    assert fixture.active_view.target_count == 5
    assert not fixture.active_view.is_partial


def test_stale_suspected_and_unresponsive_links_do_not_count() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    assert fixture.active_view.healthy_count(1.0) == 5
    fixture.miss_heartbeats(1)
    suspect = fixture.members.get(peer_id(2))
    assert suspect is not None
    suspect.status = MemberStatus.SUSPECT
    assert fixture.active_view.healthy_count(1.0) == 3
    assert not fixture.active_view.has_room
    unresponsive = fixture.peers.get(peer_id(3))
    assert unresponsive is not None
    unresponsive.is_unresponsive = True
    assert fixture.active_view.healthy_count(1.0) == 2


@pytest.mark.parametrize(("linked", "needs_links"), [(0, True), (2, True), (3, True), (4, False)])
def test_a_node_with_room_for_two_links_needs_links(linked: int, needs_links: bool) -> None:
    assert (
        ViewFixture(members=20, linked=linked, max_peers=5).active_view.needs_links(1.0)
        is needs_links
    )


def test_a_node_that_lost_its_only_peer_needs_links() -> None:
    assert ViewFixture(members=1, linked=0, max_peers=5).active_view.needs_links(1.0)


def test_every_link_but_the_oldest_is_equally_likely_to_be_evicted_on_request() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    evicted = Counter(fixture.victim() for _ in range(1000))
    assert set(evicted) == {peer_id(number) for number in range(1, 5)}
    assert min(evicted.values()) > 180


def test_no_link_is_evicted_without_a_request_for_room() -> None:
    assert ViewFixture(members=20, linked=5, max_peers=5).victim(wants_room=False) is None


def test_a_link_in_its_grace_period_is_not_evicted() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    assert fixture.victim(now=LINK_GRACE_S - 0.01) is None
    assert fixture.victim(now=LINK_GRACE_S) is not None


def test_a_silent_link_does_not_count_whatever_the_status_of_its_peer() -> None:
    """5 s between heartbeats, plus three probe timeouts."""
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    assert fixture.active_view.healthy_count(7.7) == 5
    assert fixture.active_view.healthy_count(7.8) == 0
    assert fixture.active_view.needs_links(7.8)


def test_the_longest_silent_link_is_evicted_first_even_without_a_request() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    fixture.miss_heartbeats(3, since=2.0)
    fixture.miss_heartbeats(1, since=1.0)
    assert fixture.victim(wants_room=False) == peer_id(1)


def test_candidates_are_unlinked_and_not_left_with_down_members_last() -> None:
    fixture = ViewFixture(members=30, linked=5, max_peers=8)
    for number in range(5, 30):
        member = fixture.members.get(peer_id(number))
        assert member is not None
        if number < 15:
            member.status = MemberStatus.LEFT
        elif number < 25:
            member.status = MemberStatus.DOWN
    up = {peer_id(number) for number in range(25, 30)}
    down = {peer_id(number) for number in range(15, 25)}
    chosen = [member.record.peer_id for member in fixture.active_view.candidates(15, 0.0)]
    assert set(chosen[:5]) == up
    assert set(chosen[5:]) <= down
    assert len(set(chosen)) == len(chosen)


def test_a_member_is_not_a_candidate_before_its_dial_time() -> None:
    fixture = ViewFixture(members=10, linked=0, max_peers=5)
    for member in fixture.members:
        member.dial_at = 5.0
    assert fixture.active_view.candidates(4, 4.9) == []
    assert len(fixture.active_view.candidates(4, 5.0)) == 4


def test_hub_and_spoke_dials_no_second_link_into_a_zone() -> None:
    fixture = ViewFixture(
        members=40,
        linked=1,
        max_peers=5,
        zones="b" + "abc" * 13,
        distribution="hub-and-spoke",
        zone="a",
    )
    zones = Counter(
        member.record.zone for _ in range(50) for member in fixture.active_view.candidates(3, 0.0)
    )
    assert zones["b"] == 0
    assert zones["a"] == 2 * zones["c"] == 100


def test_hub_and_spoke_evicts_a_second_link_into_a_zone_first() -> None:
    fixture = ViewFixture(
        members=20,
        linked=5,
        max_peers=5,
        zones="aaabb" + "a" * 15,
        distribution="hub-and-spoke",
        zone="a",
    )
    assert {fixture.victim() for _ in range(50)} == {peer_id(3), peer_id(4)}


@pytest.mark.parametrize(
    ("linked", "has_excess"),
    [
        ("hhhhhab", False),
        ("hhhhaab", False),
        ("hhhaabb", True),
        ("hhhaaab", True),
        ("hhhhhhh", False),
    ],
)
def test_hub_and_spoke_tolerates_one_excess_remote_link(linked: str, has_excess: bool) -> None:
    fixture = ViewFixture(
        members=30,
        linked=len(linked),
        max_peers=8,
        zones=linked + "hab" * 10,
        zone="h",
        distribution="hub-and-spoke",
    )
    assert fixture.active_view.has_excess_remote(1.0) is has_excess


def test_other_distributions_have_no_excess_remote_links() -> None:
    fixture = ViewFixture(members=30, linked=7, max_peers=8, zones="a" * 30, zone="h")
    assert not fixture.active_view.has_excess_remote(1.0)
