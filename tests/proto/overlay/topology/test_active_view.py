"""Which links there should be, and which go for others."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable, PeerTrigger
from grapevine_proto.overlay.topology.active_view import LINK_GRACE_S, ActiveView
from tests.proto.overlay.builders import config, peer_id, record


class Around:
    """A node's tables: members 0 to `members` - 1, of whom the first `linked` are linked."""

    def __init__(
        self, *, members: int, linked: int, max_peers: int, zones: str = "", **changes: object
    ) -> None:
        self.peers = PeerTable(100)
        self.members = MemberTable(LimitsConfig(addresses_per_source=10_000))
        settings = config(max_peers=max_peers, **changes)
        self.views = ActiveView(settings, self.peers, self.members, random.Random(1))
        for number in range(members):
            zone = zones[number] if zones else ""
            told = record(number, zone=zone)
            if number >= linked:
                self.members.add(told, peer_id(0), 0.0)
                continue
            self.members.ensure(told, 0.0)
            peer = self.peers.add(told.peer_id, told, told.addresses[0], 0.0)
            self.peers.transition(peer, PeerTrigger.LINKED)
            peer.linked_at = 0.0

    def fall_silent(self, number: int, since: float = 0.0) -> None:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        peer.last_heard_at = since
        self.peers.transition(peer, PeerTrigger.MISSED_HEARTBEATS)

    def to_let_go(self, now: float = 5.0, *, is_asked: bool = True) -> PeerId | None:
        self.views._eviction_budget = None  # a second or more later
        return self.views.pick_victim(peer_id(99), now, wants_room=is_asked)


@pytest.mark.parametrize(("max_peers", "wanted"), [(1, 1), (2, 2), (5, 4), (8, 7), (50, 40)])
def test_in_a_large_cluster_some_links_are_left_to_those_who_dial_us(
    max_peers: int, wanted: int
) -> None:
    around = Around(members=60, linked=0, max_peers=max_peers)
    assert around.views.target_count == wanted
    assert around.views.is_partial


def test_while_all_fit_everybody_is_wanted() -> None:
    around = Around(members=5, linked=0, max_peers=5)
    assert around.views.target_count == 5
    assert not around.views.is_partial


def test_a_silent_link_a_suspected_one_and_one_that_does_not_answer_do_not_count() -> None:
    around = Around(members=20, linked=5, max_peers=5)
    assert around.views.healthy_count(1.0) == 5
    around.fall_silent(1)
    suspect = around.members.get(peer_id(2))
    assert suspect is not None
    suspect.status = MemberStatus.SUSPECT
    assert around.views.healthy_count(1.0) == 3
    assert not around.views.has_room
    unanswered = around.peers.get(peer_id(3))
    assert unanswered is not None
    unanswered.is_unresponsive = True
    assert around.views.healthy_count(1.0) == 2


@pytest.mark.parametrize(("linked", "is_in_need"), [(0, True), (2, True), (3, True), (4, False)])
def test_who_has_room_for_two_links_is_in_need(linked: int, is_in_need: bool) -> None:
    assert Around(members=20, linked=linked, max_peers=5).views.needs_links(1.0) is is_in_need


def test_who_knows_one_other_alone_and_has_lost_it_is_in_need() -> None:
    assert Around(members=1, linked=0, max_peers=5).views.needs_links(1.0)


def test_a_link_goes_when_somebody_asks_and_each_is_as_likely_but_for_the_oldest() -> None:
    around = Around(members=20, linked=5, max_peers=5)
    gone = Counter(around.to_let_go() for _ in range(1000))
    assert set(gone) == {peer_id(number) for number in range(1, 5)}
    assert min(gone.values()) > 180


def test_nobody_goes_for_one_who_did_not_ask() -> None:
    assert Around(members=20, linked=5, max_peers=5).to_let_go(is_asked=False) is None


def test_a_new_link_does_not_go() -> None:
    around = Around(members=20, linked=5, max_peers=5)
    assert around.to_let_go(now=LINK_GRACE_S - 0.01) is None
    assert around.to_let_go(now=LINK_GRACE_S) is not None


def test_a_link_without_a_word_does_not_count_whatever_is_thought_of_the_peer() -> None:
    """5 s between heartbeats, and three probes' time."""
    around = Around(members=20, linked=5, max_peers=5)
    assert around.views.healthy_count(7.7) == 5
    assert around.views.healthy_count(7.8) == 0
    assert around.views.needs_links(7.8)


def test_the_longest_silent_goes_first_even_unasked() -> None:
    around = Around(members=20, linked=5, max_peers=5)
    around.fall_silent(3, since=2.0)
    around.fall_silent(1, since=1.0)
    assert around.to_let_go(is_asked=False) == peer_id(1)


def test_who_is_linked_or_left_is_not_dialled_and_who_is_down_comes_last() -> None:
    around = Around(members=30, linked=5, max_peers=8)
    for number in range(5, 30):
        member = around.members.get(peer_id(number))
        assert member is not None
        if number < 15:
            member.status = MemberStatus.LEFT
        elif number < 25:
            member.status = MemberStatus.DOWN
    ups = {peer_id(number) for number in range(25, 30)}
    downs = {peer_id(number) for number in range(15, 25)}
    chosen = [member.record.peer_id for member in around.views.candidates(15, 0.0)]
    assert set(chosen[:5]) == ups
    assert set(chosen[5:]) <= downs
    assert len(set(chosen)) == len(chosen)


def test_who_is_to_be_left_alone_for_a_while_is_not_dialled() -> None:
    around = Around(members=10, linked=0, max_peers=5)
    for member in around.members:
        member.dial_at = 5.0
    assert around.views.candidates(4, 4.9) == []
    assert len(around.views.candidates(4, 5.0)) == 4


def test_with_hubs_and_spokes_a_zone_that_has_a_link_needs_no_other() -> None:
    around = Around(
        members=40,
        linked=1,
        max_peers=5,
        zones="b" + "abc" * 13,
        distribution="hub-and-spoke",
        zone="a",
    )
    zones = Counter(
        member.record.zone for _ in range(50) for member in around.views.candidates(3, 0.0)
    )
    assert zones["b"] == 0
    assert zones["a"] == 2 * zones["c"] == 100


def test_with_hubs_and_spokes_a_second_link_into_a_zone_goes_first() -> None:
    around = Around(
        members=20,
        linked=5,
        max_peers=5,
        zones="aaabb" + "a" * 15,
        distribution="hub-and-spoke",
        zone="a",
    )
    assert {around.to_let_go() for _ in range(50)} == {peer_id(3), peer_id(4)}


@pytest.mark.parametrize(
    ("linked", "surplus"),
    [
        ("hhhhhab", False),
        ("hhhhaab", False),
        ("hhhaabb", True),
        ("hhhaaab", True),
        ("hhhhhhh", False),
    ],
)
def test_with_hubs_and_spokes_one_link_more_away_from_home_is_left_alone_and_no_second(
    linked: str, surplus: bool
) -> None:
    around = Around(
        members=30,
        linked=len(linked),
        max_peers=8,
        zones=linked + "hab" * 10,
        zone="h",
        distribution="hub-and-spoke",
    )
    assert around.views.has_excess_remote(1.0) is surplus


def test_no_other_distribution_has_a_link_too_many() -> None:
    around = Around(members=30, linked=7, max_peers=8, zones="a" * 30, zone="h")
    assert not around.views.has_excess_remote(1.0)
