"""The active view: how many links are wanted, and which are evicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import Peer, PeerTrigger
from grapevine_proto.overlay.topology.active_view import LINK_GRACE_S, ActiveView, target_links
from tests.proto.overlay.builders import Links, config, context, peer_id, record


class ViewFixture:
    """A node's tables: members 0 to `members` - 1, the first `linked` of which are linked."""

    def __init__(
        self, *, members: int, linked: int, max_peers: int, zones: str = "", **changes: object
    ) -> None:
        limits = LimitsConfig(addresses_per_source=10_000)
        node = context(max_peers=max_peers, limits=limits, **changes)
        self.peers, self.members, self.rng = node.peers, node.members, node.rng
        self.links, self.config = Links(), node.config
        self.active_view = ActiveView(node, self.links)
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
    assert set(chosen[5:]) == down
    assert len(chosen) == 15


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


# --- at the limits ------------------------------------------------------------------------------


def peer_of(fixture: ViewFixture, number: int) -> Peer:
    peer = fixture.peers.get(peer_id(number))
    assert peer is not None
    return peer


def test_links_up_to_two_below_the_smaller_of_members_and_slots_are_too_few() -> None:
    def needs(members: int, linked: int, max_peers: int) -> bool:
        fixture = ViewFixture(members=members, linked=linked, max_peers=max_peers)
        return fixture.active_view.needs_links(1.0)

    assert needs(4, 2, 9)
    assert not needs(4, 3, 9)
    assert needs(9, 2, 4)
    assert not needs(9, 3, 4)
    assert needs(9, 0, 1), "one without any link always asks"
    assert not needs(9, 1, 1)


def test_a_view_is_partial_with_more_members_than_slots_and_has_room_below_them() -> None:
    full = ViewFixture(members=5, linked=5, max_peers=5).active_view
    assert (full.is_partial, full.has_room) == (False, False)
    larger = ViewFixture(members=6, linked=4, max_peers=5).active_view
    assert (larger.is_partial, larger.has_room) == (True, True)


def test_an_unknown_or_disconnected_peer_is_not_healthy_and_one_without_a_member_entry_may_be() -> (
    None
):
    fixture = ViewFixture(members=3, linked=1, max_peers=5)
    assert not fixture.active_view.is_healthy(peer_id(99), 0.0)
    outsider = fixture.peers.add(peer_id(50), None, record(50).addresses[0], 0.0)
    assert not fixture.active_view.is_healthy(peer_id(50), 0.0)
    fixture.peers.transition(outsider, PeerTrigger.LINKED)
    assert fixture.active_view.is_healthy(peer_id(50), 0.0)


def test_silence_counts_from_an_interval_and_a_quarter_and_three_probes() -> None:
    fixture = ViewFixture(members=3, linked=1, max_peers=5, gossip_interval=2.0, peer_timeout=30.0)
    assert fixture.active_view.is_healthy(peer_id(0), 3.99)
    assert not fixture.active_view.is_healthy(peer_id(0), 4.0)
    fixture.config.replace(config(gossip_interval=4.0))
    assert fixture.active_view.is_healthy(peer_id(0), 6.49)
    assert not fixture.active_view.is_healthy(peer_id(0), 6.5)


def test_a_rejection_is_counted_unless_a_link_was_evicted() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    assert fixture.victim() is not None
    assert fixture.active_view.rejected == 0
    assert fixture.victim(now=1.9) is None
    assert fixture.victim(now=1.9) is None
    assert fixture.active_view.rejected == 2
    assert fixture.victim(wants_room=False) is None
    assert fixture.active_view.rejected == 2, "it did not ask for room"


def test_one_link_a_second_is_evicted_for_newcomers() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    evicted = [
        fixture.active_view.pick_victim(peer_id(99), now, wants_room=True) is not None
        for now in (5.0, 5.0, 5.99, 6.0, 6.5)
    ]
    assert evicted == [True, False, False, True, False]
    assert fixture.active_view.rejected == 3


def test_a_newcomer_that_is_linked_is_never_its_own_victim() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    fixture.miss_heartbeats(2, since=1.0)
    assert fixture.active_view.pick_victim(peer_id(2), 5.0, wants_room=False) is None
    victims = set()
    for _ in range(100):
        fixture.active_view._eviction_budget = None
        victims.add(fixture.active_view.pick_victim(peer_id(4), 5.0, wants_room=True))
    assert peer_id(4) not in victims


def test_a_member_that_we_dial_takes_a_link_that_others_chose_until_a_quarter_is_self_chosen() -> (
    None
):
    fixture = ViewFixture(members=40, linked=16, max_peers=16)  # eight may be self-chosen

    def outbound_victim() -> PeerId | None:
        return fixture.active_view.pick_victim(peer_id(99), 5.0, wants_room=False, is_outbound=True)

    for number in (0, 1):
        victim = outbound_victim()
        assert victim is not None
        assert victim != peer_id(0) or number == 0
        peer_of(fixture, number).is_self_chosen = True
    assert outbound_victim() is None
    assert fixture.active_view.rejected == 0


def test_outbound_links_are_not_held_back_by_the_rate_limit() -> None:
    fixture = ViewFixture(members=40, linked=16, max_peers=16)
    assert fixture.active_view.try_take_eviction(5.0)
    assert not fixture.active_view.try_take_eviction(5.0)
    for _ in range(3):
        assert fixture.active_view.pick_victim(peer_id(99), 5.0, wants_room=False, is_outbound=True)


def crowd(fixture: ViewFixture, rejections: int, now: float) -> None:
    for _ in range(rejections):
        fixture.active_view._eviction_budget = None
        assert fixture.active_view.pick_victim(peer_id(99), now, wants_room=True) is None


def crowd_fixture() -> ViewFixture:
    """A full node with five links, all in their grace period at 1.0. A crowd is 16 + 4 x 5 rejections."""
    return ViewFixture(members=20, linked=5, max_peers=5)


def test_a_crowd_is_sixteen_rejections_and_four_per_slot_within_a_minute() -> None:
    fixture = crowd_fixture()
    crowd(fixture, 35, 1.0)
    assert not fixture.active_view.needs_self_chosen(1.0)
    crowd(fixture, 1, 1.0)
    assert fixture.active_view.needs_self_chosen(1.0)
    assert fixture.active_view.needs_self_chosen(61.0)
    assert not fixture.active_view.needs_self_chosen(61.1)


def test_rejections_of_the_minute_before_do_not_count() -> None:
    for later_s, is_crowd in [(60.0, True), (60.1, False)]:
        fixture = crowd_fixture()
        crowd(fixture, 35, 1.0)
        for peer in fixture.peers:
            peer.linked_at = peer.last_heard_at = 1.0 + later_s
        crowd(fixture, 1, 1.0 + later_s)
        assert fixture.active_view.needs_self_chosen(1.0 + later_s) is is_crowd


def test_in_a_crowd_half_of_the_links_of_a_full_node_are_to_be_self_chosen() -> None:
    fixture = crowd_fixture()
    crowd(fixture, 36, 1.0)
    peer_of(fixture, 0).is_self_chosen = True
    assert fixture.active_view.needs_self_chosen(1.0)
    peer_of(fixture, 1).is_self_chosen = True
    assert not fixture.active_view.needs_self_chosen(1.0)
    peer_of(fixture, 1).is_self_chosen = False
    fixture.peers.transition(peer_of(fixture, 4), PeerTrigger.LOST)
    assert not fixture.active_view.needs_self_chosen(1.0), "there is room"


def test_the_oldest_of_the_links_that_carry_broadcasts_is_kept_among_eight() -> None:
    fixture = ViewFixture(members=20, linked=8, max_peers=8)
    fixture.links.in_use |= {peer_id(5), peer_id(6)}
    found = [each.peer_id for each in fixture.active_view.replaceable(5.0)]
    assert found == [peer_id(number) for number in (2, 3, 4, 6, 7)], "a quarter is kept for its age"
    found = [each.peer_id for each in fixture.active_view.replaceable(5.0, exclude=peer_id(3))]
    assert found == [peer_id(number) for number in (1, 2, 4, 5, 6, 7)]
    assert fixture.active_view.replaceable(1.9) == []


def test_eight_members_are_drawn_for_each_candidate_wanted() -> None:
    fixture = ViewFixture(members=40, linked=0, max_peers=8)
    drawn: list[object] = []

    def choose_first(population: Sequence[Any]) -> Any:
        drawn.append(population)
        return population[0]

    fixture.rng.choice = choose_first  # type: ignore[method-assign, assignment]
    fixture.active_view.candidates(3, 0.0)
    assert len(drawn) == 24


def test_only_members_linked_before_are_candidates_if_asked_for() -> None:
    fixture = ViewFixture(members=20, linked=3, max_peers=5)
    fixture.peers.transition(peer_of(fixture, 1), PeerTrigger.LOST)
    found = fixture.active_view.candidates(3, 0.0, was_linked=True)
    assert [each.record.peer_id for each in found] == [peer_id(1)]


def test_without_members_beyond_its_slots_a_hub_has_no_excess() -> None:
    fixture = ViewFixture(
        members=7, linked=7, max_peers=7, zones="aaabbbh", zone="h", distribution="hub-and-spoke"
    )
    assert not fixture.active_view.has_excess_remote(1.0)


def test_hub_and_spoke_protects_self_chosen_links_of_its_own_zone_only() -> None:
    fixture = ViewFixture(
        members=20, linked=8, max_peers=8, zones="aaaabbbb" + "a" * 12,
        distribution="hub-and-spoke", zone="a",
    )  # fmt: skip
    for number in (1, 2, 5, 6):
        peer_of(fixture, number).is_self_chosen = True
    replaceable = {each.peer_id for each in fixture.active_view.replaceable(5.0)}
    assert peer_id(1) not in replaceable
    assert peer_id(2) not in replaceable
    assert {peer_id(5), peer_id(6)} <= replaceable


def test_a_hub_that_dials_may_replace_any_link_and_one_that_is_dialed_may_not() -> None:
    def victims(*, is_outbound: bool, distribution: str = "hub-and-spoke") -> set[PeerId | None]:
        fixture = ViewFixture(
            members=20, linked=4, max_peers=4, zones="aaaa" + "b" * 16,
            distribution=distribution, zone="b",
        )  # fmt: skip
        peer_of(fixture, 0).linked_at = -1.0
        for number in range(4):
            peer_of(fixture, number).is_self_chosen = number > 1 or distribution != "hub-and-spoke"
        found = set()
        for _ in range(60):
            fixture.active_view._eviction_budget = None
            found.add(fixture.active_view.pick_victim(
                peer_id(99), 5.0, wants_room=True, is_outbound=is_outbound
            ))  # fmt: skip
        return found

    everyone = {peer_id(number) for number in range(4)}
    assert victims(is_outbound=True) == everyone
    assert victims(is_outbound=False) != everyone or victims(is_outbound=False) == {None}
    assert victims(is_outbound=True, distribution="uniform") != everyone


@pytest.mark.parametrize(("remote", "has_excess"), [("abcde", False), ("abcdef", True)])
def test_half_of_the_links_of_a_hub_may_lead_to_distinct_zones_and_one_more(
    remote: str, has_excess: bool
) -> None:
    linked = remote + "h"
    fixture = ViewFixture(
        members=30, linked=len(linked), max_peers=8, zones=linked + "h" * (30 - len(linked)),
        zone="h", distribution="hub-and-spoke",
    )  # fmt: skip
    assert fixture.active_view.has_excess_remote(1.0) is has_excess


@pytest.mark.parametrize(("max_peers", "self_chosen"), [(4, 1), (24, 3)])
def test_an_eighth_of_the_links_and_at_least_one_is_kept_self_chosen_without_a_crowd(
    max_peers: int, self_chosen: int
) -> None:
    fixture = ViewFixture(members=60, linked=max_peers, max_peers=max_peers)
    made = 0
    while fixture.active_view.pick_victim(peer_id(99), 5.0, wants_room=False, is_outbound=True):
        peer_of(fixture, made).is_self_chosen = True
        made += 1
    assert made == self_chosen


def test_a_crowd_lasts_to_the_end_of_its_minute() -> None:
    fixture = crowd_fixture()
    crowd(fixture, 36, 1.0)
    peer_of(fixture, 0).is_self_chosen = True
    assert fixture.active_view.needs_self_chosen(61.0)


def test_the_grace_period_of_a_link_is_two_seconds() -> None:
    fixture = ViewFixture(members=20, linked=5, max_peers=5)
    assert fixture.victim(now=1.99) is None
    assert fixture.victim(now=2.0) is not None


def test_a_small_cluster_is_a_full_mesh_and_a_large_one_leaves_room() -> None:
    assert target_links(10, 50) == 10
    assert target_links(50, 50) == 50
    assert target_links(51, 50) == 40
    assert target_links(5, 1) == 1
