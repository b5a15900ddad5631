"""Member updates: records of peers are applied by version, and suspicions of this node are refuted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberChanged, MemberStatus
from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import CountDrop, Disconnect, Effect, Emit, Send, UpdateRecord
from grapevine_proto.wire.messages import (
    CloseReason,
    MemberUpdate,
    MemberUpdates,
    ObservedAddress,
)
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import EPOCH, identity, peer_id, record
from tests.proto.overlay.membership.member_node import MemberNode, messages, of_type

SENDER = peer_id(1)


def apply(node: MemberNode, one: PeerRecord, now: float = 5.0) -> list[Effect]:
    return node.membership.update_handler.apply_record(one, SENDER, now)


def statuses(effects: list[Effect]) -> list[MemberStatus]:
    return [
        each.event.member.status
        for each in of_type(effects, Emit)
        if isinstance(each.event, MemberChanged)
    ]


def test_a_new_member_is_added_reported_and_gossiped() -> None:
    node = MemberNode()
    assert statuses(apply(node, record(7))) == [MemberStatus.UP]
    assert node.member(7).source == SENDER
    assert node.members.pending_updates == 1
    assert apply(node, record(7)) == []


def test_a_known_version_counts_as_a_transmission_and_an_older_one_as_nothing() -> None:
    node = MemberNode()
    apply(node, record(7, incarnation=5))
    for _ in range(3):
        apply(node, record(7, incarnation=5))
        apply(node, record(7, incarnation=4))
    assert node.members.pending_updates == 1
    apply(node, record(7, incarnation=5))
    assert node.members.pending_updates == 0
    assert node.member(7).record == record(7, incarnation=5)


def test_a_newer_record_is_applied_and_reported_if_it_changes_what_is_shown() -> None:
    node = MemberNode()
    apply(node, record(7))
    assert statuses(apply(node, record(7, incarnation=1))) == []
    assert node.member(7).record.incarnation == 1
    moved = record(7, incarnation=2, zone="north")
    assert statuses(apply(node, moved)) == [MemberStatus.UP]


def test_a_forged_record_is_charged_to_its_sender() -> None:
    node = MemberNode()
    forged = replace(record(7), name="evil")
    assert apply(node, forged) == [CountDrop(SENDER, DropReason.BAD_SIGNATURE)]
    assert node.members.get(peer_id(7)) is None


def test_a_sender_beyond_its_budget_is_not_believed() -> None:
    node = MemberNode()
    for _ in range(192):
        node.context.verifier.try_charge_record_check(SENDER, 5.0)
    assert apply(node, record(7)) == [CountDrop(SENDER, DropReason.SIGNATURE_BUDGET)]


def test_a_record_of_a_linked_peer_is_passed_on_to_its_link() -> None:
    node = MemberNode(linked=2)
    newer = record(2, incarnation=1)
    assert of_type(apply(node, newer), UpdateRecord) == [UpdateRecord(newer)]
    assert node.peer(2).record == newer
    apply(node, record(9))
    assert of_type(apply(node, record(9, incarnation=1)), UpdateRecord) == []


def test_a_member_that_left_is_disconnected_and_not_dialed_again() -> None:
    node = MemberNode(linked=2)
    effects = apply(node, record(2, incarnation=1, left=True))
    assert statuses(effects) == [MemberStatus.LEFT]
    assert of_type(effects, Disconnect) == [Disconnect(peer_id(2), CloseReason.LEAVING, "left")]
    apply(node, record(9))
    effects = apply(node, record(9, incarnation=1, left=True))
    assert of_type(effects, Disconnect) == []
    assert node.member(9).status is MemberStatus.LEFT


@pytest.mark.parametrize(("epoch", "is_forgiven"), [(EPOCH + 1, True), (EPOCH, False)])
def test_a_member_that_restarted_while_it_was_down_is_dialed_at_once(
    epoch: int, is_forgiven: bool
) -> None:
    node = MemberNode()
    apply(node, record(7))
    member = node.member(7)
    member.set_status(MemberStatus.DOWN, "", 1.0)
    member.failures, member.dial_at = 4, 99.0
    effects = apply(node, record(7, epoch=epoch, incarnation=3))
    assert statuses(effects) == [MemberStatus.UP]
    assert (member.failures, member.dial_at) == ((0, 5.0) if is_forgiven else (4, 99.0))


def test_a_member_that_is_up_keeps_its_back_off_when_it_restarts() -> None:
    node = MemberNode()
    apply(node, record(7))
    node.member(7).failures = 2
    apply(node, record(7, epoch=EPOCH + 1))
    assert node.member(7).failures == 2


def test_a_removed_member_returns_with_a_newer_record_only() -> None:
    node = MemberNode()
    apply(node, record(7))
    node.member(7).set_status(MemberStatus.DOWN, "", 0.0)
    node.members.remove_expired(20.0, 10.0, 30.0)
    assert apply(node, record(7), 21.0) == []
    assert statuses(apply(node, record(7, incarnation=1), 21.0)) == [MemberStatus.UP]


def test_a_record_that_evicts_another_is_not_gossiped() -> None:
    limits = MemberNode().context.config.current.limits
    node = MemberNode(limits=replace(limits, addresses_per_source=1))
    apply(node, record(7))
    apply(node, record(8))
    assert node.members.get(peer_id(7)) is None
    assert node.members.next_updates(9) == []


def test_many_new_members_start_a_comparison_of_member_lists() -> None:
    node = MemberNode(linked=1)
    for number in range(10, 25):  # and the peer itself is an update
        apply(node, record(number))
    assert node.membership.member_sync.next_request(5.0) == []
    apply(node, record(25))
    assert len(node.membership.member_sync.next_request(5.0)) == 1


def suspicion(accused: PeerRecord, accuser: int = 3) -> MemberUpdate:
    return MemberUpdate(accused, (Accusation.signed(identity(accuser), "default", accused),))


def test_a_suspicion_of_this_node_is_refuted_to_all_links() -> None:
    node = MemberNode(linked=2)
    update = suspicion(node.local_record.record)
    effects = node.membership.update_handler.on_updates((update,), SENDER, 5.0)
    refutation = MemberUpdates((MemberUpdate(node.local_record.record),))
    assert effects == [Send((peer_id(1), peer_id(2)), refutation)]
    assert node.local_record.record.incarnation == 1
    assert node.membership.detector.awareness.score == 1
    assert node.membership.update_handler.on_updates((update,), SENDER, 9.0) == []


def test_without_links_a_refutation_is_signed_and_not_sent() -> None:
    node = MemberNode()
    update = suspicion(node.local_record.record)
    assert node.membership.update_handler.on_updates((update,), SENDER, 5.0) == []
    assert node.local_record.record.incarnation == 1


def test_a_forged_suspicion_of_this_node_is_charged_to_its_sender() -> None:
    node = MemberNode(linked=1)
    forged = MemberUpdate(node.local_record.record, (Accusation(peer_id(3), bytes(64)),))
    effects = node.membership.update_handler.on_updates((forged,), SENDER, 5.0)
    assert effects == [CountDrop(SENDER, DropReason.BAD_SIGNATURE)]


def test_records_in_updates_of_others_are_applied() -> None:
    node = MemberNode()
    node.membership.update_handler.on_updates((MemberUpdate(record(7)),), SENDER, 5.0)
    assert node.member(7).status is MemberStatus.UP


def test_a_record_of_this_node_is_a_conflict_and_no_member() -> None:
    node = MemberNode()
    higher = replace(node.local_record.record, epoch=EPOCH + 5).signed(identity(0), "default")
    effects = node.membership.update_handler.on_records((higher, record(7)), SENDER, 5.0)
    assert [type(each).__name__ for each in effects] == ["BumpEpoch", "Emit"]
    assert node.members.get(peer_id(0)) is None


def test_a_linked_peer_whose_newer_record_lacks_its_address_learns_where_it_is_seen() -> None:
    node, seen_at = MemberNode(), Address("203.0.113.7", 9000)
    node.link(1, at=seen_at, of=replace(record(1), addresses=(seen_at,)))
    effects = apply(node, record(1, incarnation=1))
    assert messages(effects, ObservedAddress) == [ObservedAddress(seen_at)]
    assert messages(apply(node, record(7)), ObservedAddress) == []
    assert messages(apply(node, record(7, incarnation=1)), ObservedAddress) == []
