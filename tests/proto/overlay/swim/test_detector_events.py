"""The failure detector at single events: accusations, evidence, timeouts and corrections."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberChanged, MemberStatus, PeerState
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import CountDrop, Effect, Emit, PeerTransitioned, Send
from grapevine_proto.overlay.swim.detector import Detector
from grapevine_proto.overlay.swim.suspicion_table import SUSPICIONS_LIMIT
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates, Ping, PingAck, PingReq
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import NodeTables, identity, peer_id, record

SUBJECT, SENDER = 9, 1


class DetectingNode:
    """Node 0, linked to 1 to 4, which also knows member 9 and others, all for 100 s."""

    def __init__(self, *linked: int) -> None:
        self.tables = NodeTables(*(linked or (1, 2, 3, 4)))
        self.detector = Detector(self.tables.context, 0.0)
        for number in range(5, 13):
            self.tables.members.add(record(number), peer_id(number), -100.0)

    def status(self, number: int = SUBJECT) -> MemberStatus:
        member = self.tables.members.get(peer_id(number))
        assert member is not None
        return member.status

    def reason(self) -> str:
        """Why the subject has its status."""
        member = self.tables.members.get(peer_id(SUBJECT))
        assert member is not None
        return member.to_info().reason

    def update(
        self, *updates: MemberUpdate, sender: int = SENDER, now: float = 1.0
    ) -> list[Effect]:
        return self.detector.handle(MemberUpdates(updates), peer_id(sender), now)

    def accuse(self, *accusers: int, subject: int = SUBJECT, now: float = 1.0) -> list[Effect]:
        return self.update(suspicion(subject, *accusers), now=now)


def suspicion(subject: int, *accusers: int, of: PeerRecord | None = None) -> MemberUpdate:
    accused = of or record(subject)
    return MemberUpdate(
        accused, tuple(Accusation.signed(identity(n), "default", accused) for n in accusers)
    )


def statuses(effects: list[Effect]) -> list[MemberStatus]:
    return [
        each.event.member.status
        for each in effects
        if isinstance(each, Emit) and isinstance(each.event, MemberChanged)
    ]


def pings(effects: list[Effect]) -> list[int]:
    """The members that are pinged."""
    ids = [
        each.peers[0]
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Ping)
    ]
    return [number for number in range(20) if peer_id(number) in ids]


# --- reports ------------------------------------------------------------------------------------


def test_an_accused_member_without_a_link_is_suspected_and_gossiped() -> None:
    node = DetectingNode()
    assert statuses(node.accuse(2)) == [MemberStatus.SUSPECT]
    assert peer_id(SUBJECT) in node.detector.gossiper.queue
    assert node.detector.tracks(peer_id(SUBJECT))
    assert node.accuse(2) == []


def test_a_ping_is_answered_whatever_it_carries() -> None:
    node = DetectingNode()
    [answer, *effects] = node.detector.handle(Ping(7, (suspicion(SUBJECT, 2),)), peer_id(1), 1.0)
    assert answer == Send((peer_id(1),), PingAck(7, True))
    assert statuses(effects) == [MemberStatus.SUSPECT]
    assert node.detector.handle(PingAck(7, True), peer_id(1), 1.0) == []
    [denial] = node.detector.handle(PingReq(3, peer_id(77)), peer_id(1), 1.0)
    assert denial == Send((peer_id(1),), PingAck(3, False))


def test_forged_accusations_and_those_beyond_a_budget_are_dropped() -> None:
    node = DetectingNode()
    forged = MemberUpdate(record(SUBJECT), (Accusation(peer_id(2), bytes(64)),))
    assert node.update(forged) == [CountDrop(peer_id(SENDER), DropReason.BAD_SIGNATURE)]
    assert node.status() is MemberStatus.UP
    for _ in range(255):
        assert node.update(forged) == [CountDrop(peer_id(SENDER), DropReason.BAD_SIGNATURE)]
    assert node.update(forged) == [CountDrop(peer_id(SENDER), DropReason.SIGNATURE_BUDGET)]
    assert node.update(forged, now=1.0 + 0.99 / 32) == [
        CountDrop(peer_id(SENDER), DropReason.SIGNATURE_BUDGET)
    ]
    assert node.update(forged, now=1.0 + 1 / 32) == [
        CountDrop(peer_id(SENDER), DropReason.BAD_SIGNATURE)
    ]
    assert statuses(node.update(suspicion(SUBJECT, 2), sender=2)) == [MemberStatus.SUSPECT]


def test_an_accuser_is_believed_64_times_at_once_and_every_ten_seconds_after_that() -> None:
    node = DetectingNode()
    for _ in range(63):
        assert node.detector._accuser_limiter.try_take((peer_id(2),), 1.0)
    assert statuses(node.accuse(2, subject=9)) == [MemberStatus.SUSPECT]
    assert node.accuse(2, subject=10) == []
    assert node.status(10) is MemberStatus.UP
    assert node.accuse(2, subject=10, now=10.9) == []
    assert statuses(node.accuse(2, subject=10, now=11.0)) == [MemberStatus.SUSPECT]


@pytest.mark.parametrize(
    ("known_at", "was_linked", "is_credible"),
    [(-9.0, False, True), (-8.9, False, False), (0.9, True, True)],
)
def test_an_accuser_was_linked_or_has_been_known_for_ten_seconds(
    known_at: float, was_linked: bool, is_credible: bool
) -> None:
    node = DetectingNode()
    accuser = node.tables.members.get(peer_id(5))
    assert accuser is not None
    accuser.known_at, accuser.was_linked = known_at, was_linked
    node.accuse(5)
    assert (node.status() is MemberStatus.SUSPECT) is is_credible
    node = DetectingNode()
    node.accuse(77)
    assert node.status() is MemberStatus.UP, "an unknown accuser"


def test_nobody_accuses_itself_and_our_own_accusations_are_known() -> None:
    node = DetectingNode()
    assert node.accuse(SUBJECT, 0) == []
    assert node.status() is MemberStatus.UP


def test_three_accusers_count_and_a_fourth_is_not_checked() -> None:
    node = DetectingNode()
    node.accuse(1, 2, 3)
    found = node.detector.suspicions.get(peer_id(SUBJECT))
    assert found is not None
    assert set(found.accusations) == {peer_id(1), peer_id(2), peer_id(3)}
    forged = MemberUpdate(record(SUBJECT), (Accusation(peer_id(4), bytes(64)),))
    node.update(forged)
    assert len(found.accusations) == 3
    assert (found.min_timeout_s, found.expected_confirmations) == (
        node.tables.context.config.current.detection.suspicion_timeout * math.log10(13),
        2,
    )


def test_an_outdated_suspicion_is_answered_with_the_newer_record() -> None:
    node = DetectingNode()
    member = node.tables.members.get(peer_id(SUBJECT))
    assert member is not None
    member.update_record(record(SUBJECT, incarnation=1), 0.0)
    [answer] = node.accuse(2)
    assert answer == Send((peer_id(SENDER),), MemberUpdates((MemberUpdate(member.record),)))
    assert node.update(MemberUpdate(record(SUBJECT))) == [], "no accusation: nothing to correct"
    newer = record(SUBJECT, incarnation=2)
    assert node.update(suspicion(SUBJECT, 2, of=newer)) == [], "its record is applied elsewhere"


def test_a_sender_that_knows_fewer_accusers_is_corrected_unless_gossip_does_it() -> None:
    node = DetectingNode()
    node.accuse(1, 2)
    assert node.accuse(1) == [], "it is in the gossip queue"
    node.detector.gossiper.remove(peer_id(SUBJECT))
    [answer] = node.accuse(1)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, MemberUpdates)
    assert len(answer.message.updates[0].accusations) == 2
    assert node.accuse(1, 2) == []


def test_a_sender_that_knows_as_much_counts_as_a_transmission() -> None:
    node = DetectingNode()
    node.accuse(2)
    queue = node.detector.gossiper.queue
    for _ in range(50):
        node.accuse(2)
    assert peer_id(SUBJECT) not in queue
    node = DetectingNode()
    node.detector._gossip_update(peer_id(SUBJECT), 0.0)
    for _ in range(50):
        node.update(MemberUpdate(record(SUBJECT)))
    assert peer_id(SUBJECT) not in node.detector.gossiper.queue


def test_members_that_left_and_unknown_ones_are_not_suspected() -> None:
    node = DetectingNode()
    member = node.tables.members.get(peer_id(SUBJECT))
    assert member is not None
    member.set_status(MemberStatus.LEFT, "", 0.0)
    assert node.accuse(2) == []
    assert node.accuse(2, subject=88) == []
    assert len(node.detector.suspicions) == 0


# --- linked members -----------------------------------------------------------------------------


def test_an_accused_peer_with_a_link_is_probed_and_not_suspected() -> None:
    node = DetectingNode()
    assert node.accuse(2, subject=3) == []
    assert node.status(3) is MemberStatus.UP
    assert peer_id(3) in node.detector.prober.probes
    assert node.detector.deadline == 1.0
    assert pings(node.detector.advance(1.0)) == [3]


def test_a_packet_clears_a_suspicion_and_tells_its_subject() -> None:
    node = DetectingNode()
    member = node.tables.members.get(peer_id(3))
    assert member is not None
    node.detector._accuse(member, "no answer, directly or through others", 1.0, 1.0)
    assert node.status(3) is MemberStatus.SUSPECT
    effects = node.detector.on_packet(peer_id(3), 2.0)
    assert statuses(effects) == [MemberStatus.UP]
    assert pings(effects) == [3]
    assert node.detector.on_packet(peer_id(3), 2.5) == []
    assert node.detector.on_packet(peer_id(2), 2.5) == []


def test_our_own_accusation_makes_a_peer_stale_once() -> None:
    node = DetectingNode()
    member = node.tables.members.get(peer_id(3))
    assert member is not None
    effects = node.detector._accuse(member, "no answer, directly or through others", 1.0, 2.0)
    assert statuses(effects) == [MemberStatus.SUSPECT]
    assert member.to_info().reason == "no answer, directly or through others"
    [moved] = [each for each in effects if isinstance(each, PeerTransitioned)]
    assert (moved.previous, moved.reason) == (
        PeerState.CONNECTED,
        "no answer, directly or through others",
    )
    found = node.detector.suspicions.get(peer_id(3))
    assert found is not None
    assert found.accused_by_us
    assert list(found.accusations) == [peer_id(0)]
    assert found.member_update.accusations[0].is_authentic("default", record(3))
    node.detector.gossiper.remove(peer_id(3))
    assert node.detector._accuse(member, "no answer, directly or through others", 1.0, 2.0) == []
    assert peer_id(3) not in node.detector.gossiper.queue, "and is gossiped once"


def test_a_full_table_of_suspicions_has_room_for_our_own_but_not_for_those_of_others() -> None:
    node = DetectingNode()
    table, template = node.detector.suspicions, record(100)
    for number in range(SUSPICIONS_LIMIT):
        subject = replace(template, peer_id=PeerId(number.to_bytes(32, "big")))
        table.open(subject, 0.0, members=13, per_decade_s=1.0, max_factor=4.0, accused_by_us=False)
    assert node.accuse(1, 2, 3) == []
    member = node.tables.members.get(peer_id(SUBJECT))
    assert member is not None
    effects = node.detector.on_unreachable(member, "no answer", 1.0)
    assert statuses(effects) == [MemberStatus.SUSPECT]
    assert len(table) == SUSPICIONS_LIMIT


def test_what_is_overdue_is_due_at_once_and_not_in_the_past() -> None:
    node = DetectingNode()
    node.accuse(1, 2, 3)
    node.detector.on_packet(peer_id(3), 100.0)
    assert node.detector.deadline == 100.0


def test_a_held_suspicion_counts_once_the_link_is_lost_during_a_probe() -> None:
    node = DetectingNode()
    node.accuse(2, subject=3)
    node.detector.advance(1.0)
    node.tables.unlink(3)
    effects = node.detector.on_link_down(peer_id(3), 2.0)
    assert statuses(effects) == [MemberStatus.SUSPECT]
    assert node.detector.on_link_down(peer_id(4), 2.0) == []
    node = DetectingNode()
    node.accuse(2, subject=3)
    node.tables.unlink(3)
    assert node.detector.on_link_down(peer_id(3), 2.0) == [], "it was not pinged yet"


def test_a_member_that_does_not_answer_is_accused_unless_others_hear_it() -> None:
    node = DetectingNode()
    member = node.tables.members.get(peer_id(SUBJECT))
    assert member is not None
    assert statuses(node.detector.on_unreachable(member, "no answer", 1.0)) == [
        MemberStatus.SUSPECT
    ]
    assert node.detector.on_unreachable(member, "no answer", 1.0) == []
    other = node.tables.members.get(peer_id(10))
    assert other is not None
    node.detector.prober._heard_by_others_at[peer_id(10)] = 0.5
    assert node.detector.on_unreachable(other, "no answer", 1.0) == []


# --- the end of a suspicion ---------------------------------------------------------------------


def dead_node() -> tuple[DetectingNode, float]:
    """A node that has declared the subject dead, and when."""
    node = DetectingNode()
    node.accuse(1, 2, 3)
    now = 1.0
    while node.status() is MemberStatus.SUSPECT:
        now = node.detector.deadline
        node.detector.advance(now)
    return node, now


def test_three_accusers_end_a_suspicion_after_its_minimum_and_two_queries() -> None:
    node, now = dead_node()
    minimum_s = node.tables.context.config.current.detection.suspicion_timeout * math.log10(13)
    assert now == pytest.approx(1.0 + minimum_s)
    assert node.status() is MemberStatus.DOWN
    found = node.detector.suspicions.get(peer_id(SUBJECT))
    assert found is not None
    assert (found.queries_sent, found.is_declared_dead) == (2, True)


def test_a_status_says_why_and_names_the_accusers() -> None:
    node = DetectingNode()
    node.accuse(2)
    assert node.reason() == "accused by node 2"
    node.accuse(1, 3)
    while node.status() is MemberStatus.SUSPECT:
        now = node.detector.deadline
        node.detector.advance(now)
    assert node.reason() == (
        f"suspect for {now - 1.0:.1f} s without refuting it; accused by node 2, node 1, node 3"
    )
    node.detector.on_packet(peer_id(SUBJECT), now)
    assert (node.status(), node.reason()) == (MemberStatus.UP, "heard from it again")


def test_a_sender_of_a_dead_member_is_corrected_by_the_accusations() -> None:
    node, _ = dead_node()
    [correction] = node.detector.correct_sender(record(SUBJECT), peer_id(2))
    assert isinstance(correction, Send)
    assert correction.peers == (peer_id(2),)
    assert isinstance(correction.message, MemberUpdates)
    assert len(correction.message.updates[0].accusations) == 3
    assert node.detector.correct_sender(record(SUBJECT, incarnation=1), peer_id(2)) == []
    assert node.detector.correct_sender(record(10), peer_id(2)) == []
    fresh = DetectingNode()
    fresh.accuse(2)
    assert fresh.detector.correct_sender(record(SUBJECT), peer_id(2)) == [], "not dead yet"


def test_a_newer_record_voids_a_suspicion_and_is_gossiped() -> None:
    node, now = dead_node()
    member = node.tables.members.get(peer_id(SUBJECT))
    assert member is not None
    assert node.detector.on_new_incarnation(member, now) == [], "the same version"
    member.update_record(record(SUBJECT, incarnation=1), now)
    assert statuses(node.detector.on_new_incarnation(member, now)) == [MemberStatus.UP]
    assert peer_id(SUBJECT) not in node.detector.suspicions
    assert peer_id(SUBJECT) in node.detector.gossiper.queue


def test_a_new_link_clears_a_suspicion_and_one_that_left_closes_it() -> None:
    node = DetectingNode()
    member = node.tables.members.get(peer_id(SUBJECT))
    assert member is not None
    node.accuse(2)
    effects = node.detector.on_link_up(member, 2.0)
    assert statuses(effects) == [MemberStatus.UP]
    assert pings(effects) == [SUBJECT]
    assert node.detector.on_link_up(member, 2.0)[-1:] != [], "it is told of the accusation again"
    node.detector.on_leave(peer_id(SUBJECT))
    assert node.detector.on_link_up(member, 2.0) == []
    assert not node.detector.tracks(peer_id(SUBJECT))


def test_a_removed_member_that_is_back_gets_an_accusation_to_refute() -> None:
    effect = DetectingNode().detector.request_refutation(record(SUBJECT))
    assert isinstance(effect, Send)
    assert effect.peers == (peer_id(SUBJECT),)
    assert isinstance(effect.message, MemberUpdates)
    [update] = effect.message.updates
    assert update.accusations[0].is_authentic("default", record(SUBJECT))


def test_a_stall_costs_confidence_and_asks_again() -> None:
    node = DetectingNode()
    node.accuse(2)
    found = node.detector.suspicions.get(peer_id(SUBJECT))
    assert found is not None
    expires_at = found.expires_at
    node.detector.shift_deadlines(0.5, 2.0)
    assert node.detector.awareness.score == 2
    assert found.expires_at == expires_at + 0.5
    node.detector.on_lag(0.25, 2.0)
    assert node.detector.awareness.score == 3


def test_without_anything_due_nothing_happens_but_the_return_of_confidence() -> None:
    node = DetectingNode()
    assert node.detector.deadline == math.inf
    node.detector.on_lag(0.25, 0.0)
    assert node.detector.advance(5.0) == []
    assert node.detector.awareness.score == 0
