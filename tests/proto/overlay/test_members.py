"""The member table: quotas per source, eviction, and how often updates are gossiped."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberChanged, MemberStatus
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import Emit
from grapevine_proto.overlay.members import (
    FORGET_MEMBER_S,
    ID_PREFIX_MAX,
    Member,
    MemberTable,
    id_prefix,
)
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import EPOCH, peer_id, record

SOURCE, OTHER = peer_id(900), peer_id(901)


def table(**limits: int) -> MemberTable:
    return MemberTable(LimitsConfig(**limits))


def test_one_source_adds_never_linked_members_up_to_its_quota() -> None:
    members = table(addresses_per_source=2)
    for number in (1, 2):
        assert members.has_room_from(SOURCE)
        members.add(record(number), SOURCE, 0.0)
    assert not members.has_room_from(SOURCE)
    assert members.has_room_from(OTHER)
    members.ensure(record(1), 0.0)
    assert members.has_room_from(SOURCE), "a linked member does not count against its source"


def test_all_sources_together_add_never_linked_members_up_to_the_limit() -> None:
    members = table(addresses=2)
    members.add(record(1), SOURCE, 0.0)
    members.add(record(2), OTHER, 0.0)
    assert not members.has_room_from(peer_id(902))
    members.remove(peer_id(2))
    assert members.has_room_from(peer_id(902))


def known_numbers(members: MemberTable) -> set[int]:
    known = {each.record.peer_id for each in members}
    return {number for number in range(100) if peer_id(number) in known}


def report(members: MemberTable, number: int, source: PeerId) -> None:
    assert members.make_room_from(source)
    members.add(record(number), source, 0.0)


def test_a_newcomer_evicts_a_member_that_did_not_answer_a_dial() -> None:
    members = table(addresses=4)
    for number in range(4):
        report(members, number, SOURCE)
    silent = members.get(peer_id(2))
    assert silent is not None
    members.on_dial_failed(silent)
    report(members, 9, OTHER)
    assert known_numbers(members) == {0, 1, 3, 9}
    assert members.overflows == 1


def test_the_source_with_most_reports_loses_one_after_disconnected_sources() -> None:
    linked = {SOURCE, OTHER}
    members = MemberTable(LimitsConfig(addresses=6), linked.__contains__)
    for number in range(4):
        report(members, number, SOURCE)
    for number in (4, 5):
        report(members, number, OTHER)
    report(members, 9, OTHER)
    assert known_numbers(members) == {1, 2, 3, 4, 5, 9}
    linked.discard(OTHER)
    report(members, 10, SOURCE)
    assert known_numbers(members) == {1, 2, 3, 5, 9, 10}


def test_a_source_at_its_quota_evicts_its_own_reports() -> None:
    members = table(addresses_per_source=2)
    for number in (1, 2):
        report(members, number, SOURCE)
    report(members, 3, OTHER)
    report(members, 4, SOURCE)
    assert known_numbers(members) == {2, 3, 4}


def test_reports_from_many_identities_do_not_keep_newcomers_out() -> None:
    members = table(addresses=20, addresses_per_source=4)
    for number in range(60):
        report(members, number, peer_id(500 + number // 4))
    report(members, 99, OTHER)
    assert 99 in known_numbers(members)
    assert len(members) == 20


def test_a_full_table_admits_only_linked_members() -> None:
    members = table(members=2)
    members.ensure(record(1), 0.0)
    members.add(record(2), SOURCE, 0.0)
    assert not members.has_room_from(OTHER)
    members.ensure(record(3), 0.0)
    assert {each.record.peer_id for each in members} == {peer_id(1), peer_id(3)}
    assert members.overflows == 1


def test_updates_are_sent_a_bounded_number_of_times_in_turn() -> None:
    members = table()
    for number in (1, 2, 3):
        members.add(record(number), SOURCE, 0.0)
        members.queue_update(peer_id(number))
    sent: list[PeerRecord] = []
    while batch := members.next_updates(2):
        sent += batch
    assert sorted(each.name for each in sent) == sorted(4 * ["node 1", "node 2", "node 3"])
    assert [each.name for each in sent[:6]] == ["node 1", "node 2", "node 3"] * 2


def test_members_that_left_are_removed_after_a_day() -> None:
    members = table()
    members.add(record(1, left=True), SOURCE, 0.0)
    members.add(record(2), SOURCE, 0.0)
    members.remove_expired(FORGET_MEMBER_S)
    assert len(members) == 2
    members.remove_expired(FORGET_MEMBER_S + 1)
    assert [each.record.peer_id for each in members] == [peer_id(2)]


def test_only_records_of_members_that_are_up_are_sampled() -> None:
    members = table()
    members.add(record(1), SOURCE, 0.0)
    members.add(record(2), SOURCE, 0.0).status = MemberStatus.DOWN
    members.add(record(3, left=True), SOURCE, 0.0)
    members.add(record(4), SOURCE, 0.0)
    rng = random.Random(1)
    sampled = {
        each.peer_id
        for _ in range(20)
        for each in members.sample_records(4, rng, exclude=peer_id(4))
    }
    assert sampled == {peer_id(1)}


BARE = [replace(record(number), signature=bytes(64)) for number in range(12)]


class MemberTableMachine(RuleBasedStateMachine):
    """Whatever is added, linked and removed, the counts stay correct."""

    def __init__(self) -> None:
        super().__init__()
        self.members = table(members=6, addresses=5, addresses_per_source=3)

    @rule(number=st.integers(0, 11), source=st.sampled_from([SOURCE, OTHER]))
    def report(self, number: int, source: bytes) -> None:
        source_id = SOURCE if source == SOURCE else OTHER
        if self.members.get(BARE[number].peer_id) is None and self.members.make_room_from(
            source_id
        ):
            self.members.add(BARE[number], source_id, 0.0)
            self.members.queue_update(BARE[number].peer_id)

    @rule(number=st.integers(0, 11))
    def link(self, number: int) -> None:
        self.members.ensure(BARE[number], 0.0)

    @rule(number=st.integers(0, 11))
    def fail(self, number: int) -> None:
        member = self.members.get(BARE[number].peer_id)
        if member is not None:
            self.members.on_dial_failed(member)

    @rule(number=st.integers(0, 11))
    def remove(self, number: int) -> None:
        if self.members.get(BARE[number].peer_id) is not None:
            self.members.remove(BARE[number].peer_id)

    @rule()
    def gossip(self) -> None:
        assert all(
            self.members.get(each.peer_id) is not None for each in self.members.next_updates(3)
        )

    @invariant()
    def counts_are_correct(self) -> None:
        never_linked = [each for each in self.members if not each.was_linked]
        assert self.members._never_linked_total == len(never_linked)
        assert sum(map(len, self.members._never_linked.values())) == len(never_linked)
        assert {
            self.members._linked_before[each.linked_before_index]
            for each in self.members
            if each.was_linked
        } == {each.record.peer_id for each in self.members if each.was_linked}
        assert set(self.members._dial_failed) <= {each.record.peer_id for each in never_linked}
        assert [self.members._sample_order[each.order_index] for each in self.members] == [
            each.record.peer_id for each in self.members
        ]
        assert len(never_linked) <= 5


TestMemberTable = MemberTableMachine.TestCase
TestMemberTable.settings = settings(max_examples=50)


# --- at the limits ------------------------------------------------------------------------------


def add(members: MemberTable, number: int, source: PeerId = SOURCE, now: float = 0.0) -> Member:
    return members.add(record(number), source, now)


def test_a_new_member_was_never_linked_and_may_be_dialed_at_once() -> None:
    member = add(table(), 1, now=7.0)
    assert (member.status, member.failures, member.was_linked) == (MemberStatus.UP, 0, False)
    assert {member.changed_at, member.known_at, member.epoch_known_at} == {7.0}
    assert {member.dial_at, member.proximity_check_at} == {7.0}
    assert (member.validated_address, member.rejected_rtt_s) == (None, None)
    assert member.earlier_epoch == 0
    assert table().add(record(2, left=True), SOURCE, 0.0).status is MemberStatus.LEFT


def test_a_record_says_which_epoch_was_before_it() -> None:
    names_it = record_attributes(earlier_epoch=EPOCH - 3)
    member = table().add(record(1, attributes=names_it), SOURCE, 0.0)
    assert member.earlier_epoch == EPOCH - 3
    member.update_record(record(1, incarnation=1), 1.0)
    assert member.earlier_epoch == EPOCH - 3, "it is no longer named, and no other run has begun"
    names_it = record_attributes(earlier_epoch=EPOCH + 5)
    member.update_record(record(1, epoch=EPOCH + 6, attributes=names_it), 2.0)
    assert member.earlier_epoch == EPOCH + 5, "a run that was never heard of here"


def test_a_validated_address_is_dialed_first_and_named_once() -> None:
    member = add(table(), 1)
    claimed = member.record.addresses
    assert (member.address, member.addresses) == (claimed[0], claimed)
    elsewhere = Address("10.5.5.5", 1)
    member.validated_address = elsewhere
    assert (member.address, member.addresses) == (elsewhere, (elsewhere, *claimed))
    member.validated_address = claimed[0]
    assert member.addresses == claimed
    member.record = replace(member.record, addresses=())
    member.validated_address = None
    assert member.address is None


def test_a_new_epoch_is_remembered_and_drops_an_address_that_it_does_not_claim() -> None:
    member = add(table(), 1)
    claimed = member.record.addresses[0]
    member.validated_address = claimed
    member.update_record(record(1, incarnation=5), 3.0)
    assert (member.earlier_epoch, member.epoch_known_at) == (0, 0.0)
    member.update_record(record(1, epoch=EPOCH + 1), 4.0)
    assert (member.earlier_epoch, member.epoch_known_at) == (EPOCH, 4.0)
    assert member.validated_address == claimed
    member.validated_address = Address("10.5.5.5", 1)
    member.update_record(record(1, epoch=EPOCH + 1, incarnation=1), 5.0)
    kept: list[Address | None] = [member.validated_address]
    member.update_record(record(1, epoch=EPOCH + 2), 6.0)
    assert [*kept, member.validated_address] == [Address("10.5.5.5", 1), None]
    assert member.record == record(1, epoch=EPOCH + 2)


def test_a_change_of_status_is_reported_with_the_member() -> None:
    member = add(table(), 1)
    effect = member.set_status(MemberStatus.DOWN, "", 9.0)
    assert isinstance(effect, Emit)
    assert isinstance(effect.event, MemberChanged)
    info = effect.event.member
    assert (info.peer_id, info.status, info.name) == (peer_id(1), MemberStatus.DOWN, "node 1")
    assert (member.status, member.changed_at) == (MemberStatus.DOWN, 9.0)


def test_quotas_are_reached_at_their_numbers() -> None:
    members = table(members=4, addresses=3, addresses_per_source=2)
    before = members.is_full
    report(members, 1, SOURCE)
    assert members.has_room_from(SOURCE)
    report(members, 2, SOURCE)
    assert not members.has_room_from(SOURCE)
    report(members, 3, OTHER)
    assert not members.has_room_from(OTHER)
    members.ensure(record(3), 0.0)
    assert members.has_room_from(OTHER)
    report(members, 4, OTHER)
    assert (before, members.is_full) == (False, True)
    assert members.overflows == 0


def test_a_source_at_its_quota_evicts_its_report_that_did_not_answer() -> None:
    members = table(addresses_per_source=3)
    for number in (1, 2, 3):
        report(members, number, SOURCE)
    silent = members.get(peer_id(2))
    assert silent is not None
    members.on_dial_failed(silent)
    assert silent.failures == 1
    report(members, 4, SOURCE)
    assert known_numbers(members) == {1, 3, 4}
    assert members.overflows == 1


def full_of_linked(count: int, down: int | None = None) -> MemberTable:
    """A full table of members that were linked, of which one is down."""
    members = table(members=count)
    for number in range(count):
        members.ensure(record(number), 0.0)
    if down is not None:
        member = members.get(peer_id(down))
        assert member is not None
        member.status = MemberStatus.DOWN
    return members


def test_a_full_table_evicts_a_member_that_is_down_or_left_among_the_next_sixteen() -> None:
    assert not full_of_linked(20).make_room_from(OTHER)
    for number, is_found in [(1, True), (16, True), (17, False)]:
        members = full_of_linked(20, down=number)
        assert members.make_room_from(OTHER) is is_found
        assert (members.get(peer_id(number)) is None) is is_found
        assert members.overflows == 1
    members = full_of_linked(20, down=17)
    members.make_room_from(OTHER)
    assert members.make_room_from(OTHER), "the scan goes on where it ended"
    left = full_of_linked(3)
    member = left.get(peer_id(2))
    assert member is not None
    member.status = MemberStatus.LEFT
    assert left.make_room_from(OTHER)


def test_a_failed_dial_of_a_member_linked_before_does_not_make_it_the_first_to_go() -> None:
    members = table(addresses=2)
    members.on_dial_failed(members.ensure(record(1), 0.0))
    report(members, 2, SOURCE)
    report(members, 3, OTHER)
    report(members, 4, OTHER)
    assert 1 in known_numbers(members)


def test_a_linked_member_takes_the_place_of_one_without_a_link() -> None:
    linked = {peer_id(0)}
    members = MemberTable(LimitsConfig(members=3), linked.__contains__)
    for number in range(3):
        members.ensure(record(number), 0.0)
    down = members.get(peer_id(2))
    assert down is not None
    down.status = MemberStatus.DOWN
    linked.add(peer_id(9))
    members.ensure(record(9), 0.0)
    assert known_numbers(members) == {0, 1, 9}, "one that is not up goes first"
    members.ensure(record(10), 0.0)
    assert known_numbers(members) == {0, 9, 10}
    linked |= {peer_id(10)}
    members.ensure(record(11), 0.0)
    assert known_numbers(members) == {0, 9, 10, 11}, "all have links, which are limited elsewhere"
    assert members.overflows == 2


def test_a_link_evicts_some_unlinked_member_after_sixteen_were_examined() -> None:
    for better, evicted in [(15, 15), (17, 16)]:
        members = full_of_linked(30, down=better)
        members.ensure(record(99), 0.0)
        assert members.get(peer_id(evicted)) is None


def test_a_live_session_validates_an_address_and_forgives_failures() -> None:
    members = table()
    member = add(members, 1)
    member.failures = 3
    there = Address("10.5.5.5", 1)
    assert members.ensure(record(1), 5.0, there) is member
    assert (member.failures, member.was_linked, member.validated_address) == (0, True, there)
    members.ensure(record(1), 6.0)
    assert member.validated_address == there
    assert len(members) == 1


def test_members_that_are_down_or_left_are_removed_after_their_own_times() -> None:
    members = table()
    for number, status in [(1, MemberStatus.DOWN), (2, MemberStatus.LEFT), (3, MemberStatus.UP)]:
        add(members, number).set_status(status, "", 10.0)
    assert members.remove_expired(20.0, 10.0, 30.0) == []
    assert [each.record.peer_id for each in members.remove_expired(20.1, 10.0, 30.0)] == [
        peer_id(1)
    ]
    assert members.remove_expired(40.0, 10.0, 30.0) == []
    assert [each.record.peer_id for each in members.remove_expired(40.1, 10.0, 30.0)] == [
        peer_id(2)
    ]
    assert known_numbers(members) == {3}


def test_a_removed_member_returns_with_a_newer_record_only_until_its_tombstone_expires() -> None:
    members = table()
    add(members, 1).set_status(MemberStatus.DOWN, "", 0.0)
    members.remove_expired(11.0, 10.0, 30.0)
    assert members.is_tombstoned(record(1))
    assert not members.is_tombstoned(record(1, incarnation=1))
    assert not members.is_tombstoned(record(2))
    members.remove_expired(40.9, 10.0, 30.0)
    assert members.is_tombstoned(record(1))
    members.remove_expired(41.0, 10.0, 30.0)
    assert not members.is_tombstoned(record(1))


def test_a_member_that_is_added_again_has_no_tombstone() -> None:
    members = table()
    add(members, 1).set_status(MemberStatus.DOWN, "", 0.0)
    members.remove_expired(11.0, 10.0, 30.0)
    add(members, 1)
    assert not members.is_tombstoned(record(1))


def test_4096_tombstones_are_kept_the_latest() -> None:
    members = table(members=10_000, addresses=10_000, addresses_per_source=10_000)
    bare = replace(record(1), signature=bytes(64))
    for number in range(4097):
        one = replace(bare, peer_id=PeerId(number.to_bytes(32, "big")))
        members.add(one, SOURCE, 0.0).set_status(MemberStatus.LEFT, "", 0.0)
    members.remove_expired(11.0, 10.0, 10.0)
    assert len(members._tombstones) == 4096
    assert not members.is_tombstoned(replace(bare, peer_id=PeerId(bytes(32))))


def test_an_update_received_counts_as_a_transmission() -> None:
    members = table()
    add(members, 1)
    members.queue_update(peer_id(1))
    assert members.pending_updates == 1
    for _ in range(3):
        members.note_duplicate(peer_id(1))
    assert members.pending_updates == 1
    assert members.next_updates(9) == [record(1)]
    assert members.pending_updates == 0
    members.note_duplicate(peer_id(1))
    assert members.next_updates(9) == []


def test_updates_are_sent_four_times_per_decade_of_the_cluster_with_this_node() -> None:
    for count, times in [(8, 4), (9, 8)]:
        members = table()
        for number in range(count):
            add(members, number)
        members.queue_update(peer_id(0))
        assert sum(len(members.next_updates(3)) for _ in range(20)) == times


def test_members_are_listed_by_their_ids_and_prefixes() -> None:
    members = table(addresses_per_source=100)
    for number in range(20):
        add(members, number)
    ordered = sorted(peer_id(number) for number in range(20))
    assert members.sorted_slice(3, 4) == ordered[3:7]
    assert members.sorted_slice(18, 4) == ordered[18:]
    prefixes = [id_prefix(each) for each in ordered]
    assert prefixes == [int.from_bytes(each[:4], "big") for each in ordered]
    assert members.in_prefix_range(prefixes[2], prefixes[5], 9) == ordered[2:6]
    assert members.in_prefix_range(prefixes[2], prefixes[5], 3) == ordered[2:5]
    assert members.in_prefix_range(prefixes[2] + 1, prefixes[5] - 1, 9) == ordered[3:5]
    assert members.in_prefix_range(0, ID_PREFIX_MAX, 99) == ordered
    assert ID_PREFIX_MAX == 2**32 - 1


def test_samples_are_distinct_and_of_members_linked_before_if_asked_for() -> None:
    members, rng = table(), random.Random(1)
    assert members.sample(5, rng) == members.sample_linked_before(5, rng) == []
    for number in range(6):
        add(members, number)
    for number in (1, 4):
        members.ensure(record(number), 0.0)
    for _ in range(20):
        drawn = members.sample(4, rng)
        assert 1 <= len(drawn) <= 4
        assert len({id(each) for each in drawn}) == len(drawn)
    before = {
        each.record.peer_id for _ in range(20) for each in members.sample_linked_before(2, rng)
    }
    assert before == {peer_id(1), peer_id(4)}
    assert max(len(members.sample_records(2, rng, peer_id(0))) for _ in range(50)) == 2
    members.remove(peer_id(1))
    assert members.sample_linked_before(3, rng) == [members.get(peer_id(4))]


def test_a_linked_source_at_its_quota_costs_no_other_source_a_report() -> None:
    members = MemberTable(LimitsConfig(addresses_per_source=2), {SOURCE}.__contains__)
    for number, source in [(1, SOURCE), (2, SOURCE), (3, OTHER)]:
        report(members, number, source)
    report(members, 4, SOURCE)
    assert known_numbers(members) == {2, 3, 4}
