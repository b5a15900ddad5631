"""Proximity optimization: which links are replaced, by which members, and how rarely members are
measured.
"""

from __future__ import annotations

import itertools

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import PeerTrigger
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
from tests.proto.overlay.builders import Links, context, peer_id, record

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
        self.peers, self.members = node.peers, node.members
        self.links = Links() if in_use is None else Links(in_use)
        self.optimizer = ProximityOptimizer(node, ActiveView(node, self.links), self.links, 0.0)
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
