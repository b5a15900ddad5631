"""Membership at single events: links, dials, packets, messages and checks of one node."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import DropReason, UnknownPeer
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import (
    Dial,
    Disconnect,
    PeerTransitioned,
    Send,
    UpdateRtt,
)
from grapevine_proto.overlay.peers import PeerTrigger
from grapevine_proto.overlay.topology.vivaldi import FILTERED_SAMPLES
from grapevine_proto.wire.attributes import record_attributes, record_coordinate
from grapevine_proto.wire.messages import (
    CloseReason,
    Heartbeat,
    MemberDigest,
    MemberUpdate,
    MemberUpdates,
    Ping,
    PingAck,
    Records,
)
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import EPOCH, identity, peer_id, record
from tests.proto.overlay.membership.member_node import (
    OURS,
    MemberNode,
    messages,
    of_type,
    transitions,
)

ELSEWHERE = Address("10.7.7.7", 7000)


def heartbeat(number: int = 1) -> Heartbeat:
    return Heartbeat(number, 0, 0, 0, 0, bytes(16), ())


# --- links --------------------------------------------------------------------------------------


def test_a_new_link_makes_a_peer_and_a_member_and_gets_records_and_a_heartbeat() -> None:
    node = MemberNode()
    for number in range(20, 40):
        node.members.add(record(number), peer_id(number), 0.0)
    effects = node.link(1, 5.0, at=ELSEWHERE, rtt_s=0.2)
    peer, member = node.peer(1), node.member(1)
    assert transitions(effects) == ["linked"]
    assert (peer.state, peer.address, peer.session_epoch) == (PeerState.CONNECTED, ELSEWHERE, EPOCH)
    assert (peer.linked_at, peer.last_heard_at, peer.heartbeat_expected_from) == (5.0, 5.0, 5.0)
    assert (peer.rtt_s, peer.min_rtt_s, peer.is_address_validated) == (0.2, 0.2, True)
    assert (member.status, member.validated_address, member.was_linked) == (
        MemberStatus.UP,
        ELSEWHERE,
        True,
    )
    sent = [each for message in messages(effects, Records) for each in message.records]
    assert 10 <= len(sent) <= 12
    assert record(1) not in sent
    assert [message.number for message in messages(effects, Heartbeat)] == [1]


def test_a_link_that_was_not_measured_keeps_no_round_trip_of_an_earlier_one() -> None:
    node = MemberNode()
    node.link(1, rtt_s=0.2)
    node.membership.on_link_down(peer_id(1), "closed", CloseReason.FULL, 1.0)
    node.link(1, 2.0)
    assert node.peer(1).rtt_s == 0.2, "until there is a better one"
    assert node.peer(1).min_rtt_s is None


def test_a_peer_that_restarted_on_its_link_starts_over_without_a_transition() -> None:
    node = MemberNode(linked=1)
    node.membership.handle(heartbeat(9), peer_id(1), 1.0)
    node.peer(1).is_unresponsive, node.peer(1).consecutive_failures = True, 3
    node.peer(1).success_ratio = 0.5
    effects = node.link(1, 9.0, of=record(1, epoch=EPOCH + 1))
    assert transitions(effects) == []
    peer = node.peer(1)
    assert (peer.their_heartbeat_number, peer.heartbeat_number) == (0, 1)
    assert (peer.is_unresponsive, peer.consecutive_failures) == (False, 0)
    assert (peer.linked_at, peer.success_ratio, peer.session_epoch) == (0.0, 0.5, EPOCH + 1)


@pytest.mark.parametrize(
    ("is_outbound", "is_referred"), [(True, False), (True, True), (False, False)]
)
def test_a_link_is_self_chosen_if_this_node_dialed_it_by_its_own_choice(
    is_outbound: bool, is_referred: bool
) -> None:
    node = MemberNode()
    if is_referred:
        node.membership.dialer._note_referred(peer_id(1))
    node.link(1, is_outbound=is_outbound)
    assert node.peer(1).is_self_chosen is (is_outbound and not is_referred)


def test_a_link_with_an_older_record_keeps_the_newer_one() -> None:
    node = MemberNode()
    node.members.add(record(1, incarnation=5), peer_id(1), 0.0)
    node.link(1, of=record(1, incarnation=4))
    assert node.member(1).record.incarnation == 5
    assert node.members.pending_updates == 0


def test_a_member_that_was_removed_is_asked_to_refute_when_it_links_again() -> None:
    node = MemberNode(linked=1)
    node.membership.on_link_down(peer_id(1), "gone", None, 0.0)
    node.member(1).set_status(MemberStatus.DOWN, "", 0.0)
    node.members.remove_expired(20.0, 10.0, 30.0)
    effects = node.link(1, 21.0)
    assert any(isinstance(message, MemberUpdates | Ping) for message in messages(effects, object))


@pytest.mark.parametrize(
    ("reason", "status"),
    [(CloseReason.LEAVING, MemberStatus.LEFT), (CloseReason.FULL, MemberStatus.UP)],
)
def test_a_closed_link_is_reported_and_one_that_left_is_not_dialed_again(
    reason: CloseReason, status: MemberStatus
) -> None:
    node = MemberNode(linked=1)
    effects = node.membership.on_link_down(peer_id(1), "why", reason, 1.0)
    assert transitions(effects) == ["why"]
    assert of_type(effects, PeerTransitioned)[0].previous is PeerState.CONNECTED
    assert node.member(1).status is status
    assert node.peer(1).linked_at is None
    assert (node.member(1).dial_at > 10.0) is (reason is CloseReason.FULL), "it has no room soon"
    assert node.membership.on_link_down(peer_id(1), "again", reason, 2.0) == []
    assert node.membership.on_link_down(peer_id(9), "unknown", reason, 2.0) == []


def test_a_silent_link_that_is_closed_for_lack_of_room_is_dialed_again_soon() -> None:
    node = MemberNode(linked=1)
    node.membership.on_link_down(peer_id(1), "full", CloseReason.FULL, 20.0)
    assert 20.5 <= node.member(1).dial_at <= 21.5


def test_a_link_lost_in_silence_counts_as_a_failure_and_makes_its_peer_suspect() -> None:
    node = MemberNode(linked=3)
    node.membership.on_link_down(peer_id(1), "silent", None, 1.0)
    assert node.peer(1).consecutive_failures == 1
    assert node.member(1).status is MemberStatus.SUSPECT
    node.membership.on_link_down(peer_id(2), "closed", CloseReason.REDUNDANT, 1.0)
    assert node.peer(2).consecutive_failures == 0
    assert node.member(2).status is MemberStatus.UP


def test_a_lost_link_is_replaced_unless_this_node_leaves() -> None:
    node = MemberNode(linked=2)
    node.members.add(record(50), peer_id(50), 0.0)
    assert of_type(node.membership.on_link_down(peer_id(1), "x", None, 1.0), Dial)
    node = MemberNode(linked=2)
    node.members.add(record(50), peer_id(50), 0.0)
    assert node.membership.leave().records[0].left
    assert not of_type(node.membership.on_link_down(peer_id(1), "x", None, 1.0), Dial)


# --- packets ------------------------------------------------------------------------------------


def test_a_packet_shows_that_a_stale_peer_is_back_and_where_it_is() -> None:
    node = MemberNode(linked=1)
    node.peers.transition(node.peer(1), PeerTrigger.MISSED_HEARTBEATS)
    effects = node.membership.on_packet(peer_id(1), ELSEWHERE, 9.0)
    assert transitions(effects) == ["heard again"]
    assert (node.peer(1).address, node.member(1).validated_address) == (ELSEWHERE, ELSEWHERE)
    assert node.peer(1).last_heard_at == node.peers.last_heard_at == 9.0
    assert node.membership.on_packet(peer_id(1), ELSEWHERE, 9.5) == []
    assert node.membership.on_packet(peer_id(9), ELSEWHERE, 9.5) == []


# --- dials --------------------------------------------------------------------------------------


def dialed(node: MemberNode, number: int, *, validated: bool = False) -> None:
    node.members.add(record(number), peer_id(number), 0.0)
    if validated:
        node.member(number).validated_address = record(number).addresses[0]
    node.membership.dialer.dial_due(0.0)


def fail(node: MemberNode, number: int, reason: DropReason | None = None) -> list[str]:
    address = record(number).addresses[0]
    return transitions(node.membership.on_dial_failed(address, peer_id(number), reason, 1.0))


def test_a_failed_dial_of_a_discovered_member_disconnects_its_peer() -> None:
    node = MemberNode()
    dialed(node, 7)
    assert node.peer(7).state is PeerState.CONNECTING
    assert fail(node, 7) == ["no answer: down, or another key or cluster"]
    assert (node.peer(7).state, node.peer(7).consecutive_failures) == (PeerState.DISCONNECTED, 1)
    assert node.member(7).failures == 1
    assert fail(node, 7) == []


@pytest.mark.parametrize(("validated", "failures"), [(True, 1), (False, 3)])
def test_a_member_is_suspected_after_one_failure_where_it_was_and_three_elsewhere(
    validated: bool, failures: int
) -> None:
    node = MemberNode(linked=2)
    node.members.add(record(7), peer_id(7), -100.0)
    if validated:
        node.member(7).validated_address = record(7).addresses[0]
    seen = []
    for _ in range(4):
        fail(node, 7)
        seen.append(node.member(7).status)
    assert seen.index(MemberStatus.SUSPECT) == failures - 1


def test_a_dial_refused_here_accuses_no_member() -> None:
    node = MemberNode(linked=2)
    node.members.add(record(7), peer_id(7), -100.0)
    node.member(7).validated_address = record(7).addresses[0]
    fail(node, 7, DropReason.MISCONDUCT)
    assert node.member(7).status is MemberStatus.UP
    node = MemberNode(linked=2)
    fail(node, 2)
    assert node.member(2).status is MemberStatus.UP, "its link works"


def test_a_node_without_room_is_up_and_refers_to_others() -> None:
    node = MemberNode()
    dialed(node, 7)
    node.member(7).set_status(MemberStatus.SUSPECT, "", 0.0)
    effects = node.membership.on_rejected(record(7), ELSEWHERE, (record(8), record(9)), 1.0)
    assert transitions(effects)[0] == "no room there"
    assert node.member(7).status is MemberStatus.UP
    assert node.member(7).validated_address == ELSEWHERE
    assert {each.expected for each in of_type(effects, Dial)} >= {peer_id(8)}
    assert node.membership.on_rejected(record(7), ELSEWHERE, (), 1.0) == []


def test_referrals_are_not_dialed_without_need_or_by_a_node_that_leaves() -> None:
    node = MemberNode(linked=4, max_peers=5)
    for number in range(20, 30):
        node.members.add(record(number), peer_id(number), 0.0)
    for number in range(1, 5):
        node.peer(number).last_heard_at = 1.0
    assert of_type(node.membership.on_rejected(record(7), ELSEWHERE, (record(8),), 1.0), Dial) == []
    evicted = node.membership.on_evicted((record(9),), peer_id(1), 1.0)
    assert [each.expected for each in of_type(evicted, Dial)] == [peer_id(9)]
    assert node.membership.on_evicted((), peer_id(1), 1.0) == []
    node.membership.leave()
    assert (
        of_type(node.membership.on_rejected(record(7), ELSEWHERE, (record(10),), 1.0), Dial) == []
    )


def test_a_disconnected_peer_can_be_removed_and_no_other() -> None:
    node = MemberNode(linked=1)
    with pytest.raises(UnknownPeer, match="is connected; only a peer that is down"):
        node.membership.remove_peer(peer_id(1))
    with pytest.raises(UnknownPeer, match=r"no member .* is known"):
        node.membership.remove_peer(peer_id(9))
    node.membership.on_link_down(peer_id(1), "x", CloseReason.FULL, 1.0)
    node.membership.remove_peer(peer_id(1))
    assert node.peers.get(peer_id(1)) is None
    assert node.members.get(peer_id(1)) is None
    node.members.add(record(7), peer_id(7), 0.0)
    node.membership.remove_peer(peer_id(7))
    assert len(node.members) == 0
    node.peers.add(peer_id(8), None, ELSEWHERE, 0.0)
    node.membership.remove_peer(peer_id(8))
    assert len(node.peers) == 0


# --- settings -----------------------------------------------------------------------------------


def test_denied_peers_are_disconnected_and_a_changed_record_is_sent() -> None:
    node = MemberNode(linked=2)
    node.reconfigure(denied=(peer_id(1), peer_id(9)))
    assert node.membership.reconfigure(1.0) == [
        Disconnect(peer_id(1), CloseReason.MISCONDUCT, "denied")
    ]
    rate_limit = replace(node.context.config.current.rate_limit, capacity=1000)
    node.reconfigure(denied=(), rate_limit=rate_limit)
    [send] = node.membership.reconfigure(1.0)
    assert send == Send((peer_id(1), peer_id(2)), Records((node.local_record.record,)))
    assert MemberNode().membership.reconfigure(1.0) == []


def test_new_addresses_are_sent_to_links_and_never_dialed() -> None:
    node = MemberNode(linked=1)
    [send] = node.membership.set_addresses((ELSEWHERE,))
    assert send == Send((peer_id(1),), Records((node.membership.record,)))
    assert node.membership.dialer.our_addresses == (ELSEWHERE,)
    assert node.membership.set_addresses((ELSEWHERE,)) == []
    assert MemberNode().membership.set_addresses((ELSEWHERE,)) == []


# --- messages -----------------------------------------------------------------------------------


def test_messages_reach_the_component_that_they_concern() -> None:
    node = MemberNode(linked=2)
    node.membership.handle(heartbeat(4)._replace(records=(record(7),)), peer_id(1), 1.0)
    assert node.peer(1).their_heartbeat_number == 4
    assert node.member(7).source == peer_id(1)
    node.membership.handle(Records((record(8),)), peer_id(1), 1.0)
    assert node.member(8)
    update = MemberUpdate(record(9))
    [answer, *_] = messages(node.membership.handle(Ping(5, (update,)), peer_id(1), 1.0), PingAck)
    assert answer == PingAck(5, True)
    assert node.member(9)
    node.membership.handle(MemberUpdates((MemberUpdate(record(10)),)), peer_id(1), 1.0)
    assert node.member(10)
    found = node.membership.handle(MemberDigest(0, 2**32 - 1, b""), peer_id(1), 1.0)
    assert messages(found, Records)
    assert node.membership.handle(MemberDigest(0, 2**32 - 1, b""), peer_id(99), 1.0) == []
    node.membership.handle(heartbeat()._replace(records=(record(11),)), peer_id(99), 1.0)
    assert node.member(11)


def test_a_suspicion_of_this_node_in_a_ping_is_refuted() -> None:
    node = MemberNode(linked=1)
    own = node.local_record.record
    update = MemberUpdate(own, (Accusation.signed(identity(3), "default", own),))
    node.membership.handle(Ping(5, (update,)), peer_id(1), 1.0)
    assert node.local_record.record.incarnation == 1


# --- time ---------------------------------------------------------------------------------------


def idle_node(linked: int = 1) -> MemberNode:
    """A node whose checks are at whole seconds."""
    node = MemberNode(linked=linked)
    node.membership.advance(0.0)
    return node


@pytest.mark.parametrize(
    ("silent_s", "state"), [(14.9, PeerState.CONNECTED), (15.0, PeerState.STALE)]
)
def test_a_peer_is_stale_after_three_intervals_without_a_packet(
    silent_s: float, state: PeerState
) -> None:
    node = idle_node()
    node.membership._tick_at = silent_s
    node.peer(1).heartbeat_expected_from = silent_s
    node.membership.advance(silent_s)
    assert node.peer(1).state is state


@pytest.mark.parametrize(("silent_s", "is_disconnected"), [(29.9, False), (30.0, True)])
def test_a_peer_is_disconnected_after_the_peer_timeout(
    silent_s: float, is_disconnected: bool
) -> None:
    node = idle_node()
    node.membership._tick_at = silent_s
    disconnects = of_type(node.membership._check_peer(node.peer(1), silent_s), Disconnect)
    assert disconnects == (
        [Disconnect(peer_id(1), None, "silent for 30 s")] if is_disconnected else []
    )


def test_a_check_comes_once_a_second_and_sends_due_heartbeats() -> None:
    node = idle_node()
    assert node.membership.deadline == 1.0
    assert node.membership.advance(0.5) == []
    sent = 0
    for second in range(1, 12):
        node.peer(1).last_heard_at = node.peer(1).heartbeat_expected_from = float(second)
        effects = node.membership.advance(float(second))
        sent += len(messages(effects, Heartbeat))
    assert sent == 2
    assert node.peer(1).success_ratio == 1.0


@pytest.mark.parametrize(("silent_s", "succeeded"), [(7.5, True), (7.6, False)])
def test_an_interval_fails_if_no_packet_came_for_one_and_a_half(
    silent_s: float, succeeded: bool
) -> None:
    node = idle_node()
    peer = node.peer(1)
    peer.heartbeat_due_at = 0.0
    peer.last_heard_at = 100.0 - silent_s
    peer.heartbeat_expected_from = 100.0
    node.membership._tick_at = 100.0
    node.membership.advance(100.0)
    assert (peer.success_ratio == 1.0) is succeeded


@pytest.mark.parametrize(("late_s", "is_credited"), [(0.5, False), (0.6, True)])
def test_after_a_stall_peers_are_credited_with_its_length(late_s: float, is_credited: bool) -> None:
    node = idle_node(linked=2)
    node.membership.advance(1.0 + late_s)
    heard_at = {peer.last_heard_at for peer in node.peers}
    expected = {peer.heartbeat_expected_from for peer in node.peers}
    assert heard_at == expected == {1.0 + late_s - 1.0 if is_credited else 0.0}


def test_lag_is_advertised_and_makes_this_node_doubt_itself() -> None:
    node = idle_node()
    node.membership.on_lag(0.5, 1.0)
    assert node.membership.detector.awareness.score == 2
    [beat] = messages(node.link(2, 1.0), Heartbeat)
    assert beat.load_permille == 500


def test_health_names_what_the_peer_and_the_prober_found() -> None:
    node = MemberNode(linked=1)
    assert node.membership.health_reason(node.peer(1), 1.0) == ""
    node.membership.detector.prober.start(peer_id(1), 0.0)
    probe = node.membership.detector.prober.probes.get(peer_id(1))
    assert probe is not None
    probe.pings_sent = 1
    assert node.membership.health_reason(node.peer(1), 10.0) == "silent for 10 s, being probed"


def cleaned_up(node: MemberNode, now: float) -> None:
    node.membership._tick_at = now
    node.membership.advance(now)


def test_expired_members_are_removed_once_a_minute_and_where_they_were_is_remembered() -> None:
    node = MemberNode(linked=0, reconnect_timeout=1000.0, tombstone_timeout=2000.0)
    for number, status in [(1, MemberStatus.DOWN), (2, MemberStatus.LEFT), (3, MemberStatus.DOWN)]:
        node.members.add(record(number), peer_id(number), 0.0).set_status(status, "", 0.0)
        node.member(number).dial_at = math.inf
        node.member(number).validated_address = Address("10.6.6.6", number) if number < 3 else None
    cleaned_up(node, 990.0)
    cleaned_up(node, 1040.0)
    assert len(node.members) == 3, "less than a minute later"
    cleaned_up(node, 1050.1)
    assert [each.record.peer_id for each in node.members] == [peer_id(2)]
    known = {address for _, address in node.membership.dialer.known_addresses()}
    assert known == {Address("10.6.6.6", 1)}
    cleaned_up(node, 2111.0)
    assert len(node.members) == 0
    known = {address for _, address in node.membership.dialer.known_addresses()}
    assert known == {Address("10.6.6.6", 1)}, "one that left is not dialed again"


def test_peers_that_left_are_listed_for_ten_minutes_and_others_as_long_as_their_member() -> None:
    node = MemberNode(linked=3)
    node.membership.on_link_down(peer_id(1), "left", CloseReason.LEAVING, 0.0)
    node.membership.on_link_down(peer_id(2), "full", CloseReason.FULL, 0.0)
    node.membership._remove_expired(600.0)
    assert len(node.peers) == 3
    node.membership._remove_expired(600.1)
    assert [peer.peer_id for peer in node.peers] == [peer_id(2), peer_id(3)]
    node.members.remove(peer_id(2))
    node.membership._remove_expired(600.2)
    assert [peer.peer_id for peer in node.peers] == [peer_id(3)]


def test_this_node_is_reached_where_it_says() -> None:
    node = MemberNode()
    assert node.membership.record.addresses == (OURS,)
    assert node.membership.dialer.our_addresses == (OURS,)


def test_a_member_that_was_not_reached_by_a_dial_is_suspected_and_one_not_dialed_is_not() -> None:
    for reason, status in [(None, MemberStatus.SUSPECT), (DropReason.MISCONDUCT, MemberStatus.UP)]:
        node = MemberNode(linked=2)
        node.members.add(record(7), peer_id(7), -100.0)
        node.member(7).validated_address = record(7).addresses[0]
        fail(node, 7, reason)
        assert node.member(7).status is status


def test_a_record_that_is_signed_again_goes_with_the_next_heartbeat() -> None:
    node = MemberNode(linked=1)
    node.membership.start_epoch(EPOCH + 1, 0.0)

    def records_sent(now: float) -> list[PeerRecord]:
        """Our own ones, on heartbeats."""
        node.peer(1).last_heard_at = now
        beats = messages(node.membership.advance(now), Heartbeat)
        ours = node.local_record.peer_id
        return [each for beat in beats for each in beat.records if each.peer_id == ours]

    records_sent(1.0)  # what a new link is owed
    assert [records_sent(each) for each in (100.0, 200.0, 299.0)] == [[], [], []]
    [signed] = [each for at in (300.5, 306.0, 312.0) for each in records_sent(at)]
    assert (signed, signed.earlier_epoch) == (node.local_record.record, 0)


def test_this_node_says_where_it_is_once_enough_samples_counted() -> None:
    node = MemberNode(linked=1)
    assert node.membership.coordinate_of(node.local_record.peer_id) is None
    node.membership.coordinates.samples = FILTERED_SAMPLES
    ours = node.membership.coordinate_of(node.local_record.peer_id)
    assert ours == node.membership.coordinates.coordinate


def test_a_new_link_starts_with_the_coordinate_of_the_record() -> None:
    node = MemberNode()
    attributes = record_attributes(coordinate=Coordinate(height_s=0.02, error=0.5))
    node.link(1, of=record(1, attributes=attributes))
    claimed = node.membership.coordinates.of_peer(peer_id(1))
    assert claimed is not None
    assert claimed == record_coordinate(attributes)


def test_a_heartbeat_that_echoes_ours_tells_the_link_its_round_trip() -> None:
    node = MemberNode()
    assert [each.number for each in messages(node.link(1, 1.0), Heartbeat)] == [1]
    assert of_type(node.membership.handle(heartbeat(1), peer_id(1), 1.5), UpdateRtt) == []
    echo = heartbeat(2)._replace(echo=1, echo_delay_us=250_000)
    effects = node.membership.handle(echo, peer_id(1), 1.5)
    assert of_type(effects, UpdateRtt) == [UpdateRtt(peer_id(1), 0.25)]
