"""The member table: who may be added by whom, and how news travels."""

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

TELLER, OTHER = peer_id(900), peer_id(901)


def table(**limits: int) -> MemberTable:
    return MemberTable(LimitsConfig(**limits))


def test_one_teller_adds_so_many_unmet_members_and_not_one_more() -> None:
    members = table(addresses_per_source=2)
    for number in (1, 2):
        assert members.has_room_from(TELLER)
        members.add(record(number), TELLER, 0.0)
    assert not members.has_room_from(TELLER)
    assert members.has_room_from(OTHER)
    members.ensure(record(1), 0.0)
    assert members.has_room_from(TELLER), "whom we met was no lie"


def test_all_tellers_together_add_so_many_addresses_and_not_one_more() -> None:
    members = table(addresses=2)
    members.add(record(1), TELLER, 0.0)
    members.add(record(2), OTHER, 0.0)
    assert not members.has_room_from(peer_id(902))
    members.remove(peer_id(2))
    assert members.has_room_from(peer_id(902))


def told_of(members: MemberTable) -> set[int]:
    known = {each.record.peer_id for each in members}
    return {number for number in range(100) if peer_id(number) in known}


def hear(members: MemberTable, number: int, teller: PeerId) -> None:
    assert members.make_room_from(teller)
    members.add(record(number), teller, 0.0)


def test_in_a_full_table_of_addresses_a_newcomer_takes_the_place_of_one_that_did_not_answer() -> (
    None
):
    members = table(addresses=4)
    for number in range(4):
        hear(members, number, TELLER)
    silent = members.get(peer_id(2))
    assert silent is not None
    members.on_dial_failed(silent)
    hear(members, 9, OTHER)
    assert told_of(members) == {0, 1, 3, 9}
    assert members.overflows == 1


def test_whoever_told_of_most_makes_room_and_before_that_one_who_is_linked_no_more() -> None:
    linked = {TELLER, OTHER}
    members = MemberTable(LimitsConfig(addresses=6), linked.__contains__)
    for number in range(4):
        hear(members, number, TELLER)
    for number in (4, 5):
        hear(members, number, OTHER)
    hear(members, 9, OTHER)
    assert told_of(members) == {1, 2, 3, 4, 5, 9}
    linked.discard(OTHER)
    hear(members, 10, TELLER)
    assert told_of(members) == {1, 2, 3, 5, 9, 10}


def test_one_that_has_used_up_its_share_replaces_what_it_told_itself() -> None:
    members = table(addresses_per_source=2)
    for number in (1, 2):
        hear(members, number, TELLER)
    hear(members, 3, OTHER)
    hear(members, 4, TELLER)
    assert told_of(members) == {2, 3, 4}


def test_however_many_identities_tell_of_members_that_are_not_there_newcomers_are_learned_of() -> (
    None
):
    members = table(addresses=20, addresses_per_source=4)
    for number in range(60):
        hear(members, number, peer_id(500 + number // 4))
    hear(members, 99, OTHER)
    assert 99 in told_of(members)
    assert len(members) == 20


def test_beyond_the_cap_only_those_we_are_linked_to_get_a_place() -> None:
    members = table(members=2)
    members.ensure(record(1), 0.0)
    members.add(record(2), TELLER, 0.0)
    assert not members.has_room_from(OTHER)
    members.ensure(record(3), 0.0)
    assert {each.record.peer_id for each in members} == {peer_id(1), peer_id(3)}
    assert members.overflows == 1


def test_news_is_told_a_bounded_number_of_times_and_everyone_s_in_turn() -> None:
    members = table()
    for number in (1, 2, 3):
        members.add(record(number), TELLER, 0.0)
        members.queue_update(peer_id(number))
    told: list[PeerRecord] = []
    while batch := members.next_updates(2):
        told += batch
    assert sorted(each.name for each in told) == sorted(4 * ["node 1", "node 2", "node 3"])
    assert [each.name for each in told[:6]] == ["node 1", "node 2", "node 3"] * 2


def test_members_that_are_gone_are_forgotten_after_a_day() -> None:
    members = table()
    members.add(record(1, left=True), TELLER, 0.0)
    members.add(record(2), TELLER, 0.0)
    members.remove_expired(FORGET_MEMBER_S)
    assert len(members) == 2
    members.remove_expired(FORGET_MEMBER_S + 1)
    assert [each.record.peer_id for each in members] == [peer_id(2)]


def test_only_members_thought_to_be_up_are_passed_on() -> None:
    members = table()
    members.add(record(1), TELLER, 0.0)
    members.add(record(2), TELLER, 0.0).status = MemberStatus.DOWN
    members.add(record(3, left=True), TELLER, 0.0)
    members.add(record(4), TELLER, 0.0)
    rng = random.Random(1)
    told = {
        each.peer_id
        for _ in range(20)
        for each in members.sample_records(4, rng, exclude=peer_id(4))
    }
    assert told == {peer_id(1)}


BARE = [replace(record(number), signature=bytes(64)) for number in range(12)]


class MemberMachine(RuleBasedStateMachine):
    """Whatever is added, met and removed, the counts stay true."""

    def __init__(self) -> None:
        super().__init__()
        self.members = table(members=6, addresses=5, addresses_per_source=3)

    @rule(number=st.integers(0, 11), teller=st.sampled_from([TELLER, OTHER]))
    def hear(self, number: int, teller: bytes) -> None:
        who = TELLER if teller == TELLER else OTHER
        if self.members.get(BARE[number].peer_id) is None and self.members.make_room_from(who):
            self.members.add(BARE[number], who, 0.0)
            self.members.queue_update(BARE[number].peer_id)

    @rule(number=st.integers(0, 11))
    def meet(self, number: int) -> None:
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
    def tell(self) -> None:
        assert all(
            self.members.get(each.peer_id) is not None for each in self.members.next_updates(3)
        )

    @invariant()
    def counts_are_true(self) -> None:
        unmet = [each for each in self.members if not each.was_linked]
        assert self.members._never_linked_total == len(unmet)
        assert sum(map(len, self.members._never_linked.values())) == len(unmet)
        assert {
            self.members._linked_before[each.linked_before_index]
            for each in self.members
            if each.was_linked
        } == {each.record.peer_id for each in self.members if each.was_linked}
        assert set(self.members._dial_failed) <= {each.record.peer_id for each in unmet}
        assert [self.members._sample_order[each.order_index] for each in self.members] == [
            each.record.peer_id for each in self.members
        ]
        assert len(unmet) <= 5


TestMembers = MemberMachine.TestCase
TestMembers.settings = settings(max_examples=50)
