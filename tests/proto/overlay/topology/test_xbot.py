"""Nearer links: which may go, for whom, and how seldom anybody is looked at."""

from __future__ import annotations

import itertools
import random

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable, PeerTrigger
from grapevine_proto.overlay.topology.active_view import ActiveView
from grapevine_proto.overlay.topology.xbot import (
    FIRST_PAUSE_INTERVALS,
    MAX_PAUSE_INTERVALS,
    MEASURED_INTERVALS,
    RECHECK_REJECTED_S,
    RECHECK_S,
    ProximityOptimizer,
    rtt_to_beat_s,
)
from tests.proto.overlay.builders import config, peer_id, record

INTERVAL_S = 5.0


class Around:
    """A node of members 0 to `members` - 1, of whom the first are linked, `ways` away in ms."""

    def __init__(
        self,
        *ways: float,
        members: int = 30,
        max_peers: int = 5,
        zones: str = "",
        carrying: int | None = None,
        **changes: object,
    ) -> None:
        self.began_at = 0.0
        self.carrying = carrying
        self.peers = PeerTable(100)
        self.members = MemberTable(LimitsConfig(addresses_per_source=10_000))
        settings = config(
            **{"max_peers": max_peers, "gossip_interval": INTERVAL_S, "optimize_links": True}
            | changes
        )
        rng = random.Random(1)
        views = ActiveView(settings, self.peers, self.members, rng)
        self.near = ProximityOptimizer(
            settings, self.peers, self.members, views, rng, 0.0, self.carries
        )
        for number in range(members):
            told = record(number, zone=zones[number] if zones else "")
            self.members.ensure(told, 0.0)
            if number < len(ways):
                peer = self.peers.add(told.peer_id, told, told.addresses[0], 0.0)
                self.peers.transition(peer, PeerTrigger.LINKED)
                peer.linked_at, peer.min_rtt_s = 0.0, ways[number] / 1000

    def carries(self, which: PeerId, now: float) -> bool:
        return self.carrying is not None and which == peer_id(self.carrying)

    def goes_for(self, way_ms: float | None, now: float = 15.0, zone: str = "") -> PeerId | None:
        rtt_s = None if way_ms is None else way_ms / 1000
        for peer in self.peers:
            peer.last_heard_at = now
        return self.near.pick_victim(record(99, zone=zone), rtt_s, now)

    def looks(self, seconds: float) -> list[tuple[float, PeerId]]:
        """All looks of so much more time, each of which leads to nothing; nobody falls silent."""
        taken: list[tuple[float, PeerId]] = []
        for tick in range(int(seconds * 2)):
            now = self.began_at + tick / 2
            for peer in self.peers:
                peer.last_heard_at = now
            look = self.near.next_candidate(now)
            if look is not None:
                taken.append((now, look.member.record.peer_id))
        self.began_at += seconds
        return taken


@pytest.mark.parametrize(
    ("present_ms", "worth_ms"), [(100, 80), (50, 40), (40, 30), (20, 10), (10, 0), (1, -9)]
)
def test_what_gains_less_than_a_fifth_or_ten_milliseconds_is_left_as_it_is(
    present_ms: float, worth_ms: float
) -> None:
    assert rtt_to_beat_s(present_ms / 1000) == pytest.approx(worth_ms / 1000)
    assert rtt_to_beat_s(None) < 0


def test_the_farthest_link_is_kept_and_the_next_goes_for_one_that_is_nearer() -> None:
    around = Around(30, 100, 40, 90, 20)
    assert around.goes_for(71) == peer_id(3)
    assert around.goes_for(73) is None, "not clearly nearer"
    assert around.goes_for(None) is None, "not measured"


def test_a_link_that_messages_come_over_stays() -> None:
    around = Around(30, 100, 40, 90, 20, carrying=3)
    assert around.goes_for(1) == peer_id(2)
    around.carrying = None
    assert around.goes_for(1) == peer_id(3), "they come another way now"


def test_one_in_five_is_kept() -> None:
    ten = Around(*range(100, 0, -10), max_peers=10)
    assert ten.goes_for(1) == peer_id(2)


def test_with_fewer_than_five_links_and_where_all_fit_none_goes() -> None:
    assert Around(100, 90, 80, 70, max_peers=4).goes_for(1) is None
    assert Around(100, 90, 80, 70, 60, members=5).goes_for(1) is None


def test_a_new_link_one_that_is_not_sound_and_one_not_measured_do_not_go() -> None:
    around = Around(30, 100, 40, 90, 20)
    assert around.goes_for(1, now=MEASURED_INTERVALS * INTERVAL_S - 1) is None
    suspect = around.members.get(peer_id(3))
    assert suspect is not None
    suspect.status = MemberStatus.SUSPECT
    assert around.goes_for(1) == peer_id(2)
    third = around.peers.get(peer_id(2))
    assert third is not None
    third.min_rtt_s = None
    assert around.goes_for(1) == peer_id(0)


@pytest.mark.parametrize("distribution", ["uniform", "prefer-remote"])
def test_a_link_goes_only_for_one_into_the_same_zone(distribution: str) -> None:
    zones = "aabbb" + "b" * 25
    around = Around(30, 100, 40, 90, 20, zones=zones, distribution=distribution, zone="a")
    assert around.goes_for(1, zone="b") == peer_id(3)
    assert around.goes_for(1, zone="a") == peer_id(0)
    assert around.goes_for(1, zone="c") is None


def test_nobody_is_looked_at_where_all_links_are_near() -> None:
    assert Around(1, 2, 3, 4, 9).looks(600) == []


def test_who_is_short_of_links_has_other_things_to_do() -> None:
    assert Around(100, 90, 80).looks(600) == []


def test_under_a_tree_that_cannot_mend_links_stay_as_they_are() -> None:
    ways = (30, 100, 40, 90, 20)
    assert Around(*ways, strategy="plumtree").goes_for(1)
    assert Around(*ways, strategy="plumtree", lazy_push=False).goes_for(1) is None
    assert Around(*ways, strategy="epidemic", lazy_push=False).goes_for(1)


def test_a_look_says_how_near_it_must_be_and_who_goes_then() -> None:
    around = Around(30, 100, 40, 90, 20)
    assert around.goes_for(1) == peer_id(3)
    look = around.near.next_candidate(15.0)
    assert look is not None
    assert look.max_rtt_s == pytest.approx(0.072)
    assert look.swap_for.peer_id == peer_id(3)
    assert not around.peers.is_linked(look.member.record.peer_id)
    assert around.near.candidates_dialed == 1


def test_each_look_that_leads_to_nothing_makes_the_pause_longer_and_a_change_short_again() -> None:
    around = Around(*[100] * 5, members=90)
    at = [now for now, _ in around.looks(RECHECK_S)]
    pauses = [after - before for before, after in itertools.pairwise(at)]
    assert max(pauses[:3]) <= 3 * FIRST_PAUSE_INTERVALS * INTERVAL_S
    assert min(pauses[-3:]) >= 0.75 * 5 * INTERVAL_S
    assert max(pauses) <= 1.25 * MAX_PAUSE_INTERVALS * INTERVAL_S + 0.5
    around.near.on_links_changed(RECHECK_S)
    assert (
        around.near.next_candidate(RECHECK_S + 2 * FIRST_PAUSE_INTERVALS * INTERVAL_S) is not None
    )


def test_nobody_is_looked_at_twice_in_five_minutes() -> None:
    around = Around(*[100] * 5, members=10)
    looked = [peer for now, peer in around.looks(RECHECK_S / 2)]
    assert sorted(looked) == sorted(peer_id(number) for number in range(5, 10))


def test_who_was_too_far_is_looked_at_again_once_its_way_is_worth_it() -> None:
    around = Around(30, 100, 40, 90, 20, members=6)
    (_, who), *rest = around.looks(100)
    assert rest == []
    member, fourth = around.members.get(who), around.peers.get(peer_id(3))
    assert member is not None
    assert fourth is not None
    around.near.on_too_far(member, 0.072)
    assert around.looks(200) == []
    fourth.min_rtt_s = 0.095
    assert [peer for _, peer in around.looks(300)] == [who]


def test_who_refused_is_asked_again_a_minute_later() -> None:
    around = Around(*[100] * 5, members=6)
    member = around.members.get(peer_id(5))
    assert member is not None
    around.near.on_rejected(member, 0.0)
    first = around.looks(3 * RECHECK_REJECTED_S)[0][0]
    assert first >= 0.5 * RECHECK_REJECTED_S


def test_who_is_down_is_denied_or_has_no_address_is_not_looked_at() -> None:
    around = Around(*[100] * 5, members=7, denied=(peer_id(5),))
    member = around.members.get(peer_id(6))
    assert member is not None
    member.status = MemberStatus.DOWN
    assert around.looks(600) == []
