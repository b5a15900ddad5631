"""The member table: quotas per source, eviction, and how often updates are gossiped."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.members import FORGET_MEMBER_S, MemberTable
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import peer_id, record

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
