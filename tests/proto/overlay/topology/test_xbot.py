"""Proximity optimization: which links are replaced, by which members, and how rarely members are
measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.coordinate import MIN_HEIGHT_S, Coordinate
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import PeerTrigger
from grapevine_proto.overlay.topology.active_view import ActiveView
from grapevine_proto.overlay.topology.vivaldi import Coordinates
from grapevine_proto.overlay.topology.xbot import (
    FIRST_PAUSE_INTERVALS,
    MAX_PAUSE_INTERVALS,
    MEASURED_INTERVALS,
    RECHECK_REJECTED_S,
    RECHECK_S,
    ProximityOptimizer,
    rtt_to_beat_s,
)
from tests.proto.overlay.builders import Links, config, context, peer_id, record

INTERVAL_S = 5.0


class ProximityFixture:
    """A node with members 0 to `members` - 1, the first of which are linked at `rtts_ms`."""

    def __init__(
        self,
        *rtts_ms: float,
        members: int = 30,
        max_peers: int = 5,
        zones: str = "",
        in_use: int | None = None,
        **changes: object,
    ) -> None:
        self.started_at = 0.0
        settings: dict[str, object] = {
            "max_peers": max_peers,
            "gossip_interval": INTERVAL_S,
            "optimize_links": True,
            "limits": LimitsConfig(addresses_per_source=10_000),
        }
        node = context(**settings | changes)
        self.peers, self.members, self.rng, self.config = (
            node.peers,
            node.members,
            node.rng,
            node.config,
        )
        self.links = Links() if in_use is None else Links(in_use)
        self.coordinates = Coordinates(node.our_id)
        self.optimizer = ProximityOptimizer(
            node, ActiveView(node, self.links), self.links, 0.0, self.coordinates
        )
        for number in range(members):
            peer_record = record(number, zone=zones[number] if zones else "")
            self.members.ensure(peer_record, 0.0)
            if number < len(rtts_ms):
                peer = self.peers.add(
                    peer_record.peer_id, peer_record, peer_record.addresses[0], 0.0
                )
                self.peers.transition(peer, PeerTrigger.LINKED)
                peer.linked_at, peer.min_rtt_s = 0.0, rtts_ms[number] / 1000

    def victim_for(self, rtt_ms: float | None, now: float = 15.0, zone: str = "") -> PeerId | None:
        rtt_s = None if rtt_ms is None else rtt_ms / 1000
        for peer in self.peers:
            peer.last_heard_at = now
        return self.optimizer.pick_victim(record(99, zone=zone), rtt_s, now)

    def candidates(self, seconds: float) -> list[tuple[float, PeerId]]:
        """All candidates within `seconds` more, each of which is fruitless; no peer falls silent."""
        found: list[tuple[float, PeerId]] = []
        for tick in range(int(seconds * 2)):
            now = self.started_at + tick / 2
            for peer in self.peers:
                peer.last_heard_at = now
            candidate = self.optimizer.next_candidate(now)
            if candidate is not None:
                found.append((now, candidate.member.record.peer_id))
        self.started_at += seconds
        return found


@pytest.mark.parametrize(
    ("present_ms", "to_beat_ms"), [(100, 80), (50, 40), (40, 30), (20, 10), (10, 0), (1, -9)]
)
def test_a_replacement_must_gain_a_fifth_and_ten_milliseconds(
    present_ms: float, to_beat_ms: float
) -> None:
    assert rtt_to_beat_s(present_ms / 1000) == pytest.approx(to_beat_ms / 1000)
    assert rtt_to_beat_s(None) < 0


def test_the_farthest_link_is_kept_and_the_next_is_replaced_by_a_nearer_one() -> None:
    fixture = ProximityFixture(30, 100, 40, 90, 20)
    assert fixture.victim_for(71) == peer_id(3)
    assert fixture.victim_for(73) is None, "not clearly nearer"
    assert fixture.victim_for(None) is None, "not measured"


def test_a_link_in_use_is_not_replaced() -> None:
    fixture = ProximityFixture(30, 100, 40, 90, 20, in_use=3)
    assert fixture.victim_for(1) == peer_id(2)
    fixture.links.in_use.clear()
    assert fixture.victim_for(1) == peer_id(3), "no longer in use"


def test_one_link_in_five_is_never_replaced() -> None:
    ten = ProximityFixture(*range(100, 0, -10), max_peers=10)
    assert ten.victim_for(1) == peer_id(2)


def test_no_link_is_replaced_with_fewer_than_five_links_or_in_a_full_mesh() -> None:
    assert ProximityFixture(100, 90, 80, 70, max_peers=4).victim_for(1) is None
    assert ProximityFixture(100, 90, 80, 70, 60, members=5).victim_for(1) is None


def test_new_unhealthy_and_unmeasured_links_are_not_replaced() -> None:
    fixture = ProximityFixture(30, 100, 40, 90, 20)
    assert fixture.victim_for(1, now=MEASURED_INTERVALS * INTERVAL_S - 1) is None
    suspect = fixture.members.get(peer_id(3))
    assert suspect is not None
    suspect.status = MemberStatus.SUSPECT
    assert fixture.victim_for(1) == peer_id(2)
    third = fixture.peers.get(peer_id(2))
    assert third is not None
    third.min_rtt_s = None
    assert fixture.victim_for(1) == peer_id(0)


@pytest.mark.parametrize("distribution", ["uniform", "prefer-remote"])
def test_a_link_is_replaced_only_by_one_into_the_same_zone(distribution: str) -> None:
    zones = "aabbb" + "b" * 25
    fixture = ProximityFixture(
        30, 100, 40, 90, 20, zones=zones, distribution=distribution, zone="a"
    )
    assert fixture.victim_for(1, zone="b") == peer_id(3)
    assert fixture.victim_for(1, zone="a") == peer_id(0)
    assert fixture.victim_for(1, zone="c") is None


def test_no_member_is_measured_if_all_links_are_near() -> None:
    assert ProximityFixture(1, 2, 3, 4, 9).candidates(600) == []


def test_no_member_is_measured_if_only_the_farthest_link_which_is_kept_is_distant() -> None:
    assert ProximityFixture(1, 2, 3, 4, 100).candidates(600) == []


def test_no_member_is_measured_while_links_are_missing() -> None:
    assert ProximityFixture(100, 90, 80).candidates(600) == []


def test_links_of_a_tree_without_lazy_push_are_not_replaced() -> None:
    rtts_ms = (30, 100, 40, 90, 20)
    assert ProximityFixture(*rtts_ms, strategy="plumtree").victim_for(1)
    assert ProximityFixture(*rtts_ms, strategy="plumtree", lazy_push=False).victim_for(1) is None
    assert ProximityFixture(*rtts_ms, strategy="epidemic", lazy_push=False).victim_for(1)


def test_a_candidate_names_the_rtt_to_beat_and_the_link_to_replace() -> None:
    fixture = ProximityFixture(30, 100, 40, 90, 20)
    assert fixture.victim_for(1) == peer_id(3)
    candidate = fixture.optimizer.next_candidate(15.0)
    assert candidate is not None
    assert candidate.max_rtt_s == pytest.approx(0.072)
    assert candidate.swap_for.peer_id == peer_id(3)
    assert not fixture.peers.is_linked(candidate.member.record.peer_id)
    assert fixture.optimizer.candidates_dialed == 1


def test_fruitless_measurements_lengthen_the_pause_until_links_change() -> None:
    fixture = ProximityFixture(*[100] * 5, members=90)
    at = [now for now, _ in fixture.candidates(RECHECK_S)]
    pauses = [after - before for before, after in itertools.pairwise(at)]
    assert max(pauses[:3]) <= 3 * FIRST_PAUSE_INTERVALS * INTERVAL_S
    assert min(pauses[-3:]) >= 0.75 * 5 * INTERVAL_S
    assert max(pauses) <= 1.25 * MAX_PAUSE_INTERVALS * INTERVAL_S + 0.5
    fixture.optimizer.on_links_changed(RECHECK_S)
    assert (
        fixture.optimizer.next_candidate(RECHECK_S + 2 * FIRST_PAUSE_INTERVALS * INTERVAL_S)
        is not None
    )


def test_no_member_is_measured_twice_within_five_minutes() -> None:
    fixture = ProximityFixture(*[100] * 5, members=10)
    measured = [peer for now, peer in fixture.candidates(RECHECK_S / 2)]
    assert sorted(measured) == sorted(peer_id(number) for number in range(5, 10))


def test_a_member_that_was_too_far_is_measured_again_once_worthwhile() -> None:
    fixture = ProximityFixture(30, 100, 40, 90, 20, members=6)
    (_, candidate_id), *rest = fixture.candidates(100)
    assert rest == []
    member, fourth = fixture.members.get(candidate_id), fixture.peers.get(peer_id(3))
    assert member is not None
    assert fourth is not None
    fixture.optimizer.on_too_far(member, 0.072)
    assert fixture.candidates(200) == []
    fourth.min_rtt_s = 0.095
    assert [peer for _, peer in fixture.candidates(300)] == [candidate_id]


def test_a_member_that_rejected_us_is_measured_again_a_minute_later() -> None:
    fixture = ProximityFixture(*[100] * 5, members=6)
    member = fixture.members.get(peer_id(5))
    assert member is not None
    fixture.optimizer.on_rejected(member, 0.0)
    first = fixture.candidates(3 * RECHECK_REJECTED_S)[0][0]
    assert first >= 0.5 * RECHECK_REJECTED_S


def test_down_and_denied_members_are_not_measured() -> None:
    fixture = ProximityFixture(*[100] * 5, members=7, denied=(peer_id(5),))
    member = fixture.members.get(peer_id(6))
    assert member is not None
    member.status = MemberStatus.DOWN
    assert fixture.candidates(600) == []


# --- at the limits ------------------------------------------------------------------------------

RTTS_MS = (30, 100, 40, 90, 20)


def draw(fixture: ProximityFixture, value: float) -> None:
    """Makes every random fraction `value`."""
    fixture.rng.random = lambda: value  # type: ignore[method-assign]


@pytest.mark.parametrize(("max_peers", "kept"), [(5, 1), (9, 1), (10, 2), (14, 2), (15, 3)])
def test_the_farthest_fifth_rounded_down_is_kept(max_peers: int, kept: int) -> None:
    fixture = ProximityFixture(*range(900, 900 - 10 * max_peers, -10), max_peers=max_peers)
    assert fixture.victim_for(1) == peer_id(kept)


def test_a_replacement_as_near_as_the_rtt_to_beat_is_not_near_enough() -> None:
    fixture = ProximityFixture(*RTTS_MS)
    limit_ms = 1000 * rtt_to_beat_s(0.090)
    assert fixture.victim_for(limit_ms) is None
    assert fixture.victim_for(limit_ms - 0.001) == peer_id(3)


@pytest.mark.parametrize(("gossip_interval", "measured_after_s"), [(5.0, 10.0), (0.5, 2.0)])
def test_a_link_is_replaced_after_two_intervals_or_its_grace_period(
    gossip_interval: float, measured_after_s: float
) -> None:
    fixture = ProximityFixture(*RTTS_MS, gossip_interval=gossip_interval)
    assert fixture.victim_for(1, now=measured_after_s - 0.01) is None
    assert fixture.victim_for(1, now=measured_after_s) == peer_id(3)


def test_a_link_that_is_not_established_is_not_replaced() -> None:
    fixture = ProximityFixture(*RTTS_MS)
    peer = fixture.peers.get(peer_id(3))
    assert peer is not None
    peer.linked_at = None
    assert fixture.victim_for(1) == peer_id(2)


@pytest.mark.parametrize("changes", [{"optimize_links": False}, {"distribution": "hub-and-spoke"}])
def test_nothing_is_replaced_or_measured_if_the_settings_exclude_it(
    changes: dict[str, Any],
) -> None:
    fixture = ProximityFixture(*RTTS_MS, **changes)
    assert fixture.victim_for(1) is None
    assert fixture.candidates(600) == []
    before = fixture.optimizer._next_candidate_at
    fixture.optimizer.on_links_changed(-100.0)
    assert fixture.optimizer._next_candidate_at == before
    member = fixture.members.get(peer_id(9))
    assert member is not None
    fixture.optimizer.on_rejected(member, 50.0)
    assert member.proximity_check_at == 0.0


@pytest.mark.parametrize("strategy", ["plumtree", "auto"])
def test_trees_tolerate_swaps_with_lazy_push_only(strategy: str) -> None:
    assert ProximityFixture(*RTTS_MS, strategy=strategy).victim_for(1)
    assert not ProximityFixture(*RTTS_MS, strategy=strategy, lazy_push=False).victim_for(1)


def test_settings_that_change_at_run_time_apply() -> None:
    fixture = ProximityFixture(*RTTS_MS)
    fixture.config.replace(config(max_peers=5, optimize_links=False))
    assert fixture.victim_for(1) is None


def test_self_chosen_links_are_not_given_up_for_a_member_that_asks() -> None:
    fixture = ProximityFixture(*RTTS_MS)
    chosen = fixture.peers.get(peer_id(3))
    assert chosen is not None
    for peer in fixture.peers:
        peer.last_heard_at = 15.0
    chosen.is_self_chosen = True
    newcomer = record(99)
    asked = fixture.optimizer.pick_victim(newcomer, 0.001, 15.0, newcomer.addresses[0])
    assert asked != peer_id(3)
    assert fixture.optimizer.pick_victim(newcomer, 0.001, 15.0) == peer_id(3)


@pytest.mark.parametrize(("drawn", "factor"), [(0.0, 0.75), (1.0, 1.25)])
def test_the_first_pause_is_half_an_interval_and_grows_by_a_tenth(
    drawn: float, factor: float
) -> None:
    fixture = ProximityFixture(*[1] * 5)  # nothing to gain
    draw(fixture, drawn)
    pauses, now = [], 0.0
    for _ in range(40):
        assert fixture.optimizer.next_candidate(now) is None
        following = fixture.optimizer._next_candidate_at
        pauses.append(following - now)
        assert fixture.optimizer.next_candidate(following - 0.001) is None
        assert fixture.optimizer._next_candidate_at == following, "not due before"
        now = following
    expected = [min(0.5 * 1.1**number, 12.0) * INTERVAL_S * factor for number in range(1, 41)]
    assert pauses == pytest.approx(expected)


def test_changed_links_bring_the_next_measurement_forward_and_never_back() -> None:
    fixture = ProximityFixture(*RTTS_MS)
    draw(fixture, 0.5)
    for _ in range(30):
        fixture.optimizer.next_candidate(fixture.optimizer._next_candidate_at)
    last = fixture.optimizer._next_candidate_at
    fixture.optimizer.on_links_changed(last - 1.0)
    assert fixture.optimizer._next_candidate_at == last
    fixture.optimizer.on_links_changed(last - 10.0)
    assert fixture.optimizer._next_candidate_at == last - 7.5


class Turns:
    """Draws each in turn."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, population: Sequence[Any]) -> Any:
        self.drawn += 1
        return population[self.drawn % len(population)]


def candidate_of(fixture: ProximityFixture, now: float = 15.0) -> PeerId | None:
    for peer in fixture.peers:
        peer.last_heard_at = now
    fixture.rng.choice = Turns()  # type: ignore[method-assign, assignment]
    candidate = fixture.optimizer.next_candidate(now)
    return None if candidate is None else candidate.member.record.peer_id


@pytest.mark.parametrize(("drawn", "wait_s"), [(0.0, 300.0), (1.0, 900.0)])
def test_a_measured_member_waits_five_to_fifteen_minutes(drawn: float, wait_s: float) -> None:
    fixture = ProximityFixture(*RTTS_MS, members=6)
    member = fixture.members.get(peer_id(5))
    assert member is not None
    member.rejected_rtt_s = 9.0
    draw(fixture, drawn)
    assert candidate_of(fixture) == peer_id(5)
    assert member.proximity_check_at == 15.0 + wait_s
    assert fixture.members.get(peer_id(5)).rejected_rtt_s is None  # type: ignore[union-attr]
    assert candidate_of(fixture, 15.0 + wait_s - 0.1) is None
    assert candidate_of(fixture, 15.0 + wait_s + 60.0) == peer_id(5)
    assert fixture.optimizer.candidates_dialed == 2


@pytest.mark.parametrize(("drawn", "wait_s"), [(0.0, 30.0), (1.0, 90.0)])
def test_a_member_that_rejected_us_waits_half_a_minute_to_a_minute_and_a_half(
    drawn: float, wait_s: float
) -> None:
    fixture = ProximityFixture(*RTTS_MS, members=6)
    member = fixture.members.get(peer_id(5))
    assert member is not None
    draw(fixture, drawn)
    fixture.optimizer.on_rejected(member, 50.0)
    assert member.proximity_check_at == 50.0 + wait_s


def test_only_members_that_could_be_dialed_now_are_measured() -> None:
    def measured(**changes: object) -> bool:
        fixture = ProximityFixture(*RTTS_MS, members=6)
        member = fixture.members.get(peer_id(5))
        assert member is not None
        for name, value in changes.items():
            setattr(member, name, value)
        return candidate_of(fixture) is not None

    assert measured()
    assert measured(dial_at=15.0)
    assert not measured(dial_at=15.1)
    assert measured(proximity_check_at=15.0)
    assert not measured(proximity_check_at=15.1)
    assert measured(proximity_check_at=15.1, rejected_rtt_s=0.071)
    assert not measured(proximity_check_at=15.1, rejected_rtt_s=rtt_to_beat_s(0.090))
    assert not measured(status=MemberStatus.SUSPECT)
    assert not measured(record=replace(record(5), addresses=()))


def test_linked_members_are_not_measured() -> None:
    fixture = ProximityFixture(*RTTS_MS, members=6)
    peer = fixture.peers.add(peer_id(5), record(5), record(5).addresses[0], 0.0)
    fixture.peers.transition(peer, PeerTrigger.LINKED)
    assert candidate_of(fixture) is None


def test_a_gain_of_exactly_ten_milliseconds_is_none() -> None:
    assert candidate_of(ProximityFixture(9, 10, 9, 10, 9, members=6)) is None
    assert candidate_of(ProximityFixture(9, 11, 9, 11, 9, members=6)) == peer_id(5)


def test_links_replaced_are_counted() -> None:
    optimizer = ProximityFixture(*RTTS_MS).optimizer
    assert (optimizer.links_optimized, optimizer.candidates_dialed) == (0, 0)
    optimizer.count_swap()
    optimizer.count_swap()
    assert optimizer.links_optimized == 2


def test_eight_members_are_drawn_for_a_candidate() -> None:
    fixture = ProximityFixture(*RTTS_MS)
    fixture.rng.choice = turns = Turns()  # type: ignore[method-assign, assignment]
    assert fixture.optimizer.next_candidate(0.0) is None
    assert turns.drawn == 8


def test_no_member_is_drawn_if_all_links_are_near() -> None:
    fixture = ProximityFixture(1, 2, 3, 4, 9)
    fixture.rng.choice = turns = Turns()  # type: ignore[method-assign, assignment]
    assert fixture.optimizer.next_candidate(0.0) is None
    assert turns.drawn == 0


def test_a_node_with_just_enough_links_measures_members() -> None:
    assert candidate_of(ProximityFixture(100, 90, 80, 70, members=6)) is not None
    assert candidate_of(ProximityFixture(100, 90, 80, members=6)) is None


# --- candidates by coordinate ---------------------------------------------------------------------


def settled_fixture(places_s: dict[int, float]) -> ProximityFixture:
    """A fixture whose node knows that it is in the center, and where these members are."""
    fixture = ProximityFixture(*[100.0] * 5)
    fixture.coordinates.on_link_up(peer_id(0), Coordinate())
    for _ in range(5):
        fixture.coordinates.on_rtt(peer_id(0), 2 * MIN_HEIGHT_S)
    for number in range(5, 30):
        member = fixture.members.get(peer_id(number))
        assert member is not None
        place_s = places_s.get(number)
        if place_s is not None:
            member.coordinate = Coordinate((place_s, *[0.0] * 7))
    return fixture


def test_sixty_four_members_are_compared_by_their_coordinates() -> None:
    fixture = settled_fixture({})
    fixture.rng.choice = turns = Turns()  # type: ignore[method-assign, assignment]
    fixture.optimizer.next_candidate(0.0)
    assert turns.drawn == 64


def test_the_member_that_is_nearest_by_its_coordinate_is_measured_first() -> None:
    fixture = settled_fixture({number: 0.05 - number / 1000 for number in range(5, 30)})
    first, second, *_ = [peer for _, peer in fixture.candidates(60.0)]
    assert {first, second} <= {peer_id(number) for number in range(25, 30)}


def test_a_member_that_is_far_by_its_coordinate_is_not_measured_and_an_unknown_one_is() -> None:
    fixture = settled_fixture(dict.fromkeys(range(5, 29), 0.5))
    assert [peer for _, peer in fixture.candidates(60.0)] == [peer_id(29)]


def test_a_false_coordinate_costs_one_measurement() -> None:
    fixture = settled_fixture({29: 0.0, **dict.fromkeys(range(5, 29), 0.03)})
    found = [peer for _, peer in fixture.candidates(120.0)]
    assert found[0] == peer_id(29)
    assert found.count(peer_id(29)) == 1
