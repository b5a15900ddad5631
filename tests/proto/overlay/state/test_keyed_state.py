"""Keyed state of one node: whose entry decides a key, what is refused, tags, retained messages and ends."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from grapevine_proto.config.sections import LimitsConfig, StateConfig
from grapevine_proto.errors import InvalidArgument, MessageTooLarge, StateFull
from grapevine_proto.events import MemberChanged, MemberStatus
from grapevine_proto.overlay.effects import Emit, WriteEntry
from grapevine_proto.overlay.state.keyed_state import (
    MAX_RETAINED,
    RECOVERY_LIMIT_S,
    KeyedState,
)
from grapevine_proto.overlay.state.owner_map import ENTRY_OVERHEAD_BYTES, MAX_ENTRIES, MAX_KEYS
from grapevine_proto.overlay.state.shared_map import MAX_CLOCK_LEAD
from grapevine_proto.tags import MAX_TAGS
from grapevine_proto.wire.entry_terms import MAX_TTL_S
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, context, identity, peer_id, record
from tests.proto.overlay.state.owners import Learner, Owner, changes_in, entries_of, entry_of


def test_an_entry_of_another_member_is_seen_and_reported() -> None:
    node, owner = Learner(), Owner(1)
    (change,) = node.learn(owner.write("a", b"1"))
    assert (change.owner, change.key, change.value, change.previous) == (
        peer_id(1),
        "a",
        b"1",
        None,
    )
    assert (change.is_deleted, change.is_winner) == (False, True)
    (change,) = node.learn(owner.delete("a"))
    assert (change.value, change.previous, change.is_deleted) == (None, b"1", True)
    assert node.state.shared.get("a", 0.0) is None


def test_an_unused_state_has_no_deadline_and_an_empty_sum() -> None:
    node = Learner()
    assert (node.state.deadline, node.state.sum, node.state.version) == (math.inf, 0, 0)


def test_the_later_writer_wins_and_the_other_entry_stays() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("a", b"theirs"))
    (change,) = node.write("a", b"ours")
    assert change.is_winner
    assert node.state.shared.get("a", 0.0) == b"ours"
    assert node.state.shared.get_all("a", 0.0) == {node.id: b"ours", peer_id(1): b"theirs"}
    (key,) = node.state.shared.keys("", 0.0)
    assert key.winner is not None
    assert (key.winner.owner, key.winner.clock, key.value) == (node.id, 2, b"ours")
    assert [(each.owner, each.clock) for each in key.others] == [(peer_id(1), 1)]


def test_of_equal_clocks_the_greater_owner_wins_at_every_node() -> None:
    one, two = Owner(1).write("a", b"1"), Owner(2).write("a", b"2")
    first, second = Learner(), Learner()
    first.learn(one, two)
    second.learn(two, one)
    assert first.state.shared.get("a", 0.0) == second.state.shared.get("a", 0.0)
    winner = max(peer_id(1), peer_id(2))
    assert next(iter(first.state.shared.get_all("a", 0.0))) == winner
    assert first.state.sum == second.state.sum


def test_the_clock_of_a_sole_writer_does_not_rise() -> None:
    node = Learner()
    for number in range(5):
        node.write("a", b"%d" % number)
    assert node.state.shared.keys("", 0.0)[0].winner.clock == 1  # type: ignore[union-attr]


def test_a_deleted_key_has_no_value_although_another_member_has_an_older_entry() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("a", b"theirs"))
    (change,) = node.write("a", None)
    assert (change.owner, change.is_deleted, change.is_winner) == (node.id, True, True)
    assert node.state.shared.get("a", 0.0) is None
    assert node.state.shared.get_all("a", 0.0) == {peer_id(1): b"theirs"}


def test_a_deleted_key_is_not_collected_while_it_hides_the_entry_of_another_member() -> None:
    node, owner = Learner(state=StateConfig(tombstone=10)), Owner(1)
    node.learn(owner.write("a", b"theirs"))
    node.write("a", None)
    node.write("b", b"1", now=100.0)
    assert node.state.shared.get("a", 100.0) is None
    node.learn(owner.delete("a", clock=3))
    node.write("b", b"2", now=200.0)
    assert list(node.state.maps[node.id].entries) == ["b"]


def test_a_deleted_tag_is_collected_although_other_members_have_it() -> None:
    node, owner = Learner(state=StateConfig(tombstone=10)), Owner(1)
    node.learn(owner.write("tag/role", b"web"))
    node.write("tag/role", b"db")
    node.write("tag/role", None)
    node.write("b", b"1", now=100.0)
    assert list(node.state.maps[node.id].entries) == ["b"]


def test_a_clock_that_is_far_ahead_never_wins_and_is_shown() -> None:
    node, malicious, honest = Learner(), Owner(1), Owner(2)
    node.learn(malicious.write("a", b"mine", clock=1 << 40), honest.write("a", b"right"))
    assert node.state.shared.get("a", 0.0) == b"right"
    (key,) = node.state.shared.keys("", 0.0)
    assert [(each.owner, each.clock_ahead) for each in key.others] == [(peer_id(1), True)]
    assert node.state.clock_ahead == 0, "it came first"
    node.learn(malicious.write("a", b"again", clock=1 << 41))
    assert node.state.clock_ahead == 1
    node.write("a", b"ours")
    assert node.state.shared.get("a", 0.0) == b"ours"
    assert node.state.shared.keys("", 0.0)[0].winner.clock == 2  # type: ignore[union-attr]


def test_the_winner_that_is_remembered_is_the_one_that_ranks_first() -> None:
    """Whatever comes, goes, ends or is denied."""
    rng = random.Random(7)
    clocks = [
        1,
        2,
        3,
        MAX_CLOCK_LEAD,
        MAX_CLOCK_LEAD + 2,
        MAX_CLOCK_LEAD + 3,
        1 << 40,
        (1 << 40) + 1,
    ]
    for _ in range(30):
        node, owners = Learner(), [Owner(number) for number in range(1, 5)]
        for step in range(40):
            now, owner = float(step), rng.choice(owners)
            match rng.randrange(8):
                case 0:
                    if owner.map.owner in node.state.maps:
                        node.state.remove(owner.map.owner)
                        owners[owners.index(owner)] = Owner(owner.number, epoch=owner.epoch + 1)
                case 1:
                    denied = (peer_id(rng.randrange(1, 5)),) if rng.random() < 0.5 else ()
                    current = node.context.config.current
                    node.context.config.replace(current.replace(denied=denied))
                case 2:
                    node.write("a", rng.choice([None, b"ours"]), now)
                case _:
                    value = rng.choice([None, b"1", b"2"])
                    ttl_s = 0 if value is None else rng.choice([0, 0, 3])
                    rumor = owner.write("a", value, clock=rng.choice(clocks), ttl_s=ttl_s)
                    node.learn(rumor, now=now)
            counted = node.state.shared.ranked("a", now).counted
            assert node.state.shared.winner("a", now) is (counted[0] if counted else None)


def test_tags_and_retained_messages_need_no_clock() -> None:
    node = Learner()
    node.learn(Owner(1).write("tag/role", b"web", clock=9), Owner(2).write("a", b"1", clock=9))
    for key, clock in (("tag/role", 1), ("a", 10)):
        node.write(key, b"ours")
        entry = node.state.maps[node.id].entries[key]
        assert entry.terms.clock == clock


def test_a_clock_at_the_limit_of_the_lead_wins() -> None:
    for clock, winner in ((MAX_CLOCK_LEAD + 1, b"1"), (MAX_CLOCK_LEAD + 2, b"2")):
        node = Learner()
        node.learn(Owner(1).write("a", b"1", clock=clock), Owner(2).write("a", b"2"))
        assert node.state.shared.get("a", 0.0) == winner


def test_a_clock_is_measured_against_the_next_lower_one() -> None:
    node = Learner()
    for number, clock in ((1, 1), (2, MAX_CLOCK_LEAD), (3, 2 * MAX_CLOCK_LEAD)):
        node.learn(Owner(number).write("a", b"%d" % number, clock=clock))
    assert node.state.shared.get("a", 0.0) == b"3"
    node.learn(Owner(4).write("a", b"4", clock=3 * MAX_CLOCK_LEAD + 1))
    assert node.state.shared.get("a", 0.0) == b"3"


def test_a_writer_is_not_dragged_along_by_a_lone_entry_that_is_far_ahead() -> None:
    node = Learner()
    node.learn(Owner(1).write("a", b"theirs", clock=1 << 50))
    assert node.state.shared.get("a", 0.0) == b"theirs"
    node.write("a", b"ours")
    assert node.state.shared.get("a", 0.0) == b"ours"
    node.write("a", b"ours again")
    assert node.state.shared.get("a", 0.0) == b"ours again"


@pytest.mark.parametrize("clock", [1, MAX_CLOCK_LEAD, MAX_CLOCK_LEAD + 1, MAX_CLOCK_LEAD + 2])
def test_a_write_wins_with_the_lowest_clock_that_does(clock: int) -> None:
    node = Learner()
    node.learn(Owner(1).write("a", b"theirs", clock=clock))
    for value in (b"ours", b"ours again"):
        (change,) = node.write("a", value)
        assert change.is_winner
        lowest = 1 if clock == MAX_CLOCK_LEAD + 2 else clock + 1
        assert node.state.maps[node.id].entries["a"].terms.clock == lowest


def test_a_write_wins_over_all_clocks_that_are_high_together() -> None:
    node = Learner()
    clocks = {number: MAX_CLOCK_LEAD + 10 - number for number in (1, 2, 3)}
    for number, clock in clocks.items():
        node.learn(Owner(number).write("a", b"theirs", clock=clock))
    for value in (b"ours", b"ours again"):
        (change,) = node.write("a", value)
        assert change.is_winner
        assert node.state.maps[node.id].entries["a"].terms.clock == MAX_CLOCK_LEAD + 10


def test_a_clock_does_not_rise_above_the_largest() -> None:
    node, largest = Learner(), (1 << 62) - 1
    for number in (1, 2):
        node.learn(Owner(number).write("a", b"theirs", clock=largest))
    node.write("a", b"ours")
    assert node.state.maps[node.id].entries["a"].terms.clock == largest


def test_the_entry_below_returns_when_its_owner_is_denied() -> None:
    node = Learner(denied=(peer_id(2),))
    node.learn(Owner(1).write("a", b"1"), Owner(2).write("a", b"2", clock=2))
    assert node.state.shared.get("a", 0.0) == b"1"


def test_entries_that_arrive_out_of_order_are_taken_in_order() -> None:
    node, owner = Learner(), Owner(1)
    rumors = [owner.write(key, b"1") for key in "abcd"]
    assert not node.learn(*reversed(rumors[1:]))
    changes = node.learn(rumors[0])
    assert [each.key for each in changes] == ["a", "b", "c", "d"]


def test_an_early_entry_waits_until_all_before_it_have_come() -> None:
    node, owner = Learner(), Owner(1)
    first, second, third, fourth = (owner.write(key, b"1") for key in "abcd")
    node.learn(fourth, third)
    assert [each.key for each in node.learn(first)] == ["a"]
    assert [each.key for each in node.learn(second)] == ["b", "c", "d"]
    assert len(node.state.early) == 0


def test_an_early_entry_that_came_with_the_whole_map_is_forgotten() -> None:
    node, owner = Learner(), Owner(1)
    rumors = [owner.write("a", b"1"), owner.write("b", b"1")]
    node.learn(rumors[1])
    assert node.state.version_of(peer_id(1)) == (0, 0)
    assert node.state.merge(peer_id(1), entries_of(*rumors), 0.0)
    assert node.state.version_of(peer_id(1)) == (EPOCH, 2)
    assert len(node.state.early) == 0


def test_the_entries_of_a_key_are_listed_with_the_time_that_they_have_left() -> None:
    node = Learner()
    node.learn(Owner(1).write("a", b"1", ttl_s=30), Owner(2).write("b", b"1", is_durable=True))
    first, second = (each.winner for each in node.state.shared.keys("", 10.0))
    assert first is not None
    assert second is not None
    assert (first.ttl_s, first.remaining_s, first.is_durable) == (30, 20.0, False)
    assert (second.ttl_s, second.remaining_s, second.is_durable) == (0, None, True)
    assert first.is_winner
    last = node.state.shared.keys("a", 29.5)[0].winner
    assert last is not None
    assert last.remaining_s == 0.5
    assert node.state.shared.keys("", 30.0)[0].winner is None
    node.learn(Owner(3).write("c", None, ttl_s=5))
    deleted = node.state.shared.keys("c", 9.0)[0].winner
    assert deleted is not None
    assert (deleted.value, deleted.remaining_s) == (None, 0.0)
    assert [each.key for each in node.state.shared.keys("b", 0.0)] == ["b"]


def test_retained_messages_are_listed_until_they_end() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(
        owner.write("a", b"no topic"),
        owner.write("retain/a", b"1", topic="deploy", ttl_s=30),
        owner.write("retain/b", None, topic="deploy"),
        owner.write("retain/c", b"3", topic="deploy"),
        owner.write("retain/d", b"no topic"),
    )
    assert [each.key for each in node.state.shared.retained(29.9)] == ["retain/a", "retain/c"]
    assert [each.key for each in node.state.shared.retained(30.0)] == ["retain/c"]
    assert node.state.shared.entries == 4


def test_early_entries_are_limited_and_the_oldest_goes() -> None:
    node, owner = Learner(), Owner(1)
    owner.write("first", b"")
    node.learn(*(owner.write(f"k{number}", b"") for number in range(9)))
    early = node.state.early.of(peer_id(1))
    assert [each.version for each in early] == [(EPOCH, number + 3) for number in range(8)]
    for number in range(2, 256 + 2):
        other = Owner(number)
        other.write("first", b"")
        node.learn(other.write("second", b""))
    assert len(node.state.early) == 256
    assert peer_id(1) not in node.state.early


def test_an_unsigned_entry_of_a_linked_owner_is_not_taken() -> None:
    node, owner = Learner(), Owner(1)
    rumor = owner.write("a", b"1")
    forged = type(rumor)(
        rumor.origin,
        rumor.epoch,
        rumor.first,
        rumor.lengths,
        rumor.body,
        bytes(64),
        rumor.attributes,
    )
    assert node.state.on_rumor(RumorCopy(forged, 1, 0), (peer_id(1),), 0.0) == []
    assert not node.state.maps
    assert node.state.on_rumor(RumorCopy(rumor, 1, 0), (peer_id(1),), 0.0)


# --- limits -----------------------------------------------------------------------------------------


def test_a_node_may_write_a_limited_number_of_keys() -> None:
    node = Learner()
    for number in range(MAX_KEYS):
        node.write(f"k{number}", b"")
    with pytest.raises(StateFull, match="256 keys"):
        node.write("one more", b"")
    node.write("k0", b"again")
    node.write("k1", None)
    node.write("one more", b"")


def test_a_node_may_write_a_limited_number_of_bytes() -> None:
    node = Learner()
    for number in range(16):
        node.write(f"k{number:02}", bytes(4093))
    with pytest.raises(StateFull, match="65,536 bytes"):
        node.write("x", b"")
    with pytest.raises(MessageTooLarge):
        node.write("k00", bytes(4097))
    node.write("k00", bytes(4000))
    with pytest.raises(StateFull):
        node.write("x", bytes(93))
    node.write("x", bytes(92))


def test_a_node_may_retain_a_limited_number_of_messages() -> None:
    node = Learner()
    for number in range(MAX_RETAINED):
        node.write(f"retain/{number}", b"", topic="deploy.web")
    with pytest.raises(StateFull, match="64 messages"):
        node.write("retain/one more", b"", topic="deploy.web")
    node.write("retain/0", b"again", topic="deploy.web")
    node.write("other", b"")
    node.write("retain/1", None)
    node.write("retain/one more", b"", topic="deploy.web")


def test_a_deleted_key_is_not_set() -> None:
    node = Learner()
    assert not node.state.is_set("a")
    node.write("a", b"1")
    assert node.state.is_set("a")
    node.write("a", None)
    assert not node.state.is_set("a")
    assert "a" in node.state.maps[node.id].entries


def test_a_rumor_without_an_entry_changes_nothing() -> None:
    node = Learner()
    assert node.learn(Rumor.signed(identity(1), "default", EPOCH, 1, (b"a broadcast",))) == []
    assert node.state.maps == {}


def test_an_entry_counts_in_the_bucket_of_the_first_byte_of_its_owner() -> None:
    node = Learner()
    number = next(each for each in range(1, 9) if peer_id(each)[0] not in peer_id(each)[1:])
    node.learn(Owner(number).write("a", b"1"))
    filled = [bucket for bucket, each in enumerate(node.state.bucket_sums) if each]
    assert filled == [peer_id(number)[0]]
    node.learn(Owner(number, epoch=EPOCH + 1).write("a", b"2"))
    head = node.state.maps[peer_id(number)].head
    assert (node.state.sum, node.state.bucket_sums[filled[0]]) == (head, head)
    node.state.remove(peer_id(number))
    assert not any(node.state.bucket_sums)


def test_an_owner_that_signed_two_contents_is_frozen_until_its_next_run() -> None:
    node, owner, later = Learner(), Owner(1), Owner(1, epoch=EPOCH + 1)
    node.learn(owner.write("a", b"1"))
    node.state.on_conflict(Owner(1).write("a", b"another"))
    assert node.learn(owner.write("a", b"2")) == []
    assert node.state.shared.get("a", 0.0) == b"1"
    assert node.learn(later.write("a", b"3"))
    assert node.state.shared.get("a", 0.0) == b"3"


def test_a_tag_of_each_member_decides_whatever_others_wrote() -> None:
    node, first, second = Learner(), Owner(1), Owner(2)
    (of_first,) = node.learn(first.write("tag/role", b"web", clock=5))
    (of_second,) = node.learn(second.write("tag/role", b"db"))
    assert of_first.is_winner
    assert of_second.is_winner


def test_entries_that_do_not_fit_leave_no_map_of_their_owner() -> None:
    node, owner = Learner(), Owner(1)
    owner.write("first", b"")
    node.learn(owner.write("second", b""))
    assert node.state.maps == {}
    assert node.state.sum == 0


@pytest.mark.parametrize("key", ["", "x" * 129, "\ud800"])
def test_a_key_is_text_of_at_most_128_bytes(key: str) -> None:
    with pytest.raises(InvalidArgument, match="key"):
        Learner().write(key, b"")


def test_a_time_to_live_is_at_most_the_largest_that_an_entry_can_carry() -> None:
    node = Learner()
    node.write("a", b"1", ttl_s=MAX_TTL_S)
    for ttl_s in (-1, MAX_TTL_S + 1):
        with pytest.raises(InvalidArgument, match="ttl"):
            node.write("b", b"1", ttl_s=ttl_s)


def test_deleted_keys_never_fill_the_map_of_a_node() -> None:
    node = Learner()
    for number in range(MAX_ENTRIES + 10):
        node.write(f"k{number}", b"")
        node.write(f"k{number}", None)
    own = node.state.own
    assert own is not None
    assert own.keys == 0
    assert len(own.entries) <= MAX_ENTRIES


def test_owners_that_are_not_up_make_room_and_then_entries_are_refused() -> None:
    node = Learner(limits=LimitsConfig(state_owners=2))
    for number in (1, 2, 3):
        node.context.members.ensure(record(number), 0.0)
    node.learn(Owner(8).write("a", b"unknown"), Owner(1).write("a", b"1"))
    node.learn(Owner(2).write("a", b"2"))
    assert sorted(node.state.maps) == sorted([peer_id(1), peer_id(2)])
    assert node.state.refused == 0
    node.learn(Owner(3).write("a", b"3"))
    assert peer_id(3) not in node.state.maps
    assert node.state.refused == 1


@pytest.mark.parametrize(("owners_up", "is_found_at_once"), [(31, True), (32, False)])
def test_a_look_for_a_map_to_evict_ends_after_32_and_goes_on_there_the_next_time(
    owners_up: int, is_found_at_once: bool
) -> None:
    node = Learner(limits=LimitsConfig(state_owners=owners_up + 1))
    for number in range(1, owners_up + 1):
        node.context.members.ensure(record(number), 0.0)
        node.learn(Owner(number).write("a", b"1"))
    node.learn(Owner(40).write("a", b"unknown"))
    assert bool(node.learn(Owner(41).write("a", b"2"))) is is_found_at_once
    assert (peer_id(40) in node.state.maps) is not is_found_at_once
    assert node.learn(Owner(42).write("a", b"3"))


def test_the_entries_of_all_owners_have_a_limited_size() -> None:
    node = Learner(limits=LimitsConfig(state_bytes=3 * 1100))
    for number in (1, 2, 3, 4):
        node.context.members.ensure(record(number), 0.0)
        node.learn(Owner(number).write("a", b"1"))
    assert len(node.state.maps) == 3
    assert node.state.refused == 1
    assert node.state.bytes <= 3 * 1100


def test_the_bytes_of_a_key_count_until_its_owner_collects_it() -> None:
    node, owner = Learner(), Owner(1)
    rumors = [
        owner.write("a", b"1"),
        owner.write("a", bytes(100)),
        owner.delete("a"),
        owner.write("b", b"1", collected=(EPOCH, 3)),
    ]
    for rumor, size_bytes in zip(rumors, (2, 101, 0, 2), strict=True):
        node.learn(rumor)
        assert node.state.bytes == ENTRY_OVERHEAD_BYTES + size_bytes
    assert list(node.state.maps[peer_id(1)].entries) == ["b"]
    assert [each.key for each in node.state.shared.keys("", 0.0)] == ["b"]


def test_a_removed_owner_leaves_nothing_behind() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(
        owner.write("a", b"1"), owner.write("tag/role", b"web"), owner.write("b", b"", ttl_s=5)
    )
    node.state.remove(peer_id(1))
    assert (node.state.sum, node.state.bytes) == (0, 0)
    assert node.state.advance(node.state.deadline) == []
    assert node.state.deadline == math.inf
    assert (node.state.maps, node.state.owner_by_prefix, node.state.shared._owners_by_key) == (
        {},
        {},
        {},
    )
    assert node.context.members.tags_of(peer_id(1)) == {}


# --- ends -------------------------------------------------------------------------------------------


def test_an_entry_ends_by_its_age() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("a", b"1", ttl_s=30), now=100.0, age_ms=10_000)
    assert node.state.deadline == 120.0
    assert (node.state.shared.get("a", 119.0), node.state.shared.get("a", 120.0)) == (b"1", None)
    (effect,) = node.state.advance(120.0)
    assert isinstance(effect, Emit)
    assert (effect.event.value, effect.event.previous) == (None, b"1")  # type: ignore[union-attr]
    assert node.state.deadline == 160.0, "it looks for owners that are gone every minute"


def test_a_node_deletes_its_own_entry_when_it_ends() -> None:
    node = Learner()
    node.write("a", b"1", now=10.0, ttl_s=5)
    assert node.state.advance(15.0) == [WriteEntry("a", None)]


def test_setting_an_entry_again_moves_its_end() -> None:
    node = Learner()
    node.write("a", b"1", now=10.0, ttl_s=5)
    assert node.write("a", b"1", now=14.0, ttl_s=5) == []
    assert node.state.deadline == 19.0
    node.write("a", b"1", now=15.0)
    assert node.state.deadline == math.inf


# --- tags -------------------------------------------------------------------------------------------


def test_tags_of_a_member_are_its_entries_under_tag() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("tag/role", b"web"))
    member = node.context.members.ensure(record(1), 0.0)
    assert member.to_info().tags == {"role": "web"}
    effects = node.state.take(entry_of(owner.write("tag/role", b"db")), 0.0)
    (changed,) = [
        e.event for e in effects if isinstance(e, Emit) and isinstance(e.event, MemberChanged)
    ]
    assert changed.member.tags == {"role": "db"}
    assert changed.member.has_tags({"role": "db"})
    assert not changed.member.has_tags({"role": "web"})
    node.learn(owner.delete("tag/role"))
    assert member.to_info().tags == {}


def test_tags_beyond_the_limits_are_ignored() -> None:
    node, owner = Learner(), Owner(1)
    for number in range(MAX_TAGS + 1):
        node.learn(owner.write(f"tag/t{number:02}", b"x"))
    node.learn(owner.write("tag/" + "n" * 33, b"x"))
    tags = node.context.members.tags_of(peer_id(1))
    assert sorted(tags) == [f"t{number:02}" for number in range(MAX_TAGS)]


def test_tag_writes_are_the_difference() -> None:
    node = Learner()
    for write in node.state.tag_writes({"role": "web", "rack": "7"}):
        node.perform(write)
    assert node.context.members.tags_of(node.id) == {"role": "web", "rack": "7"}
    assert node.state.tag_writes({"role": "db", "rack": "7"}) == [WriteEntry("tag/role", b"db")]
    assert node.state.tag_writes({"rack": "7"}) == [WriteEntry("tag/role", None)]
    with pytest.raises(InvalidArgument, match="tags"):
        node.state.tag_writes({str(number): "" for number in range(MAX_TAGS + 1)})


# --- restarts ---------------------------------------------------------------------------------------


def test_a_node_keeps_its_own_map_over_a_restart() -> None:
    node = Learner()
    node.write("a", b"1", ttl_s=60)
    node.write("retain/b", b"2", topic="deploy.web")
    node.write("c", None)
    saved = node.state.snapshot(20.0)
    restarted = KeyedState(context(0), saved, 1000.0)
    assert restarted.sum == node.state.sum
    assert restarted.shared.values_of(node.id, 1000.0) == {"a": b"1", "retain/b": b"2"}
    assert restarted.deadline == 1040.0
    assert [each.topic for each in restarted.shared.retained(1000.0)] == ["deploy.web"]


def damaged() -> KeyedState:
    """After a restart, without the first of two entries."""
    node = Learner()
    node.write("a", b"1")
    node.write("b", b"2")
    return KeyedState(context(0), node.state.snapshot(0.0)[1:], 0.0)


def test_a_damaged_map_is_not_restored_in_part_but_read_back() -> None:
    node = Learner()
    node.write("a", b"1")
    restarted = damaged()
    assert restarted.shared.values_of(node.id, 0.0) == {}
    assert restarted.is_recovering
    assert not KeyedState(context(0), node.state.snapshot(0.0), 0.0).is_recovering


def test_writes_wait_for_the_lost_map_for_a_limited_time_if_no_comparison_ends() -> None:
    state, write = damaged(), WriteEntry("b", b"2", 0, False, "")
    state.hold(write)
    state.on_link_up(5.0)
    state.on_link_up(50.0)
    assert state.deadline == 5.0 + RECOVERY_LIMIT_S
    assert state.advance(5.0 + RECOVERY_LIMIT_S) == [write]
    assert not state.is_recovering


def test_entries_of_another_cluster_are_not_restored() -> None:
    node = Learner()
    node.write("a", b"1")
    other = KeyedState(context(0, cluster="other"), node.state.snapshot(0.0), 0.0)
    assert other.maps == {}
    assert not other.is_recovering


# --- room and counters ------------------------------------------------------------------------------


def with_members(*numbers: int, state_bytes: int) -> Learner:
    """A node with room for as many bytes, where these members are up."""
    node = Learner(limits=LimitsConfig(state_bytes=state_bytes))
    for number in numbers:
        node.context.members.ensure(record(number), 0.0)
    return node


def test_writes_and_entries_that_are_refused_are_counted_one_by_one() -> None:
    node = Learner()
    for number in range(256):
        node.write(f"k{number}", b"")
    for count in (1, 2):
        with pytest.raises(StateFull):
            node.write("one more", b"")
        assert node.state.refused == count


def test_a_value_has_up_to_4096_bytes() -> None:
    node = Learner()
    node.write("a", bytes(4096))
    with pytest.raises(MessageTooLarge):
        node.write("a", bytes(4097))


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize(("room_bytes", "maps"), [(3 * 1026, 3), (3 * 1026 - 1, 2)])
def test_maps_are_taken_until_their_bytes_fill_the_room(
    room_bytes: int, maps: int, is_whole: bool
) -> None:
    node = with_members(1, 2, 3, state_bytes=room_bytes)
    for number in (1, 2, 3):
        entry = entry_of(Owner(number).write("a", b"1"))
        if is_whole:
            node.state.merge(peer_id(number), [entry], 0.0)
        else:
            node.state.take(entry, 0.0)
    assert (len(node.state.maps), node.state.refused) == (maps, 3 - maps)


def test_a_map_that_arrives_whole_needs_room_for_what_it_adds_alone() -> None:
    node = with_members(1, 2, state_bytes=2 * 1026)
    owner = Owner(1)
    node.learn(owner.write("a", b"1"), Owner(2).write("a", b"1"))
    assert node.state.merge(peer_id(1), entries_of(owner.write("a", b"2")), 0.0)
    assert (node.state.bytes, node.state.refused) == (2 * 1026, 0)
    larger = entries_of(owner.write("b", b"1"), owner.write("a", b"3"))
    assert node.state.merge(peer_id(1), larger, 0.0) is None
    assert node.state.merge(peer_id(3), entries_of(Owner(3).write("a", b"1")), 0.0) is None
    assert (node.state.bytes, node.state.refused) == (2 * 1026, 3)
    assert node.state.shared.values_of(peer_id(1), 0.0) == {"a": b"2"}


def test_neither_our_map_nor_the_one_that_grows_makes_room() -> None:
    node = with_members(2, state_bytes=3 * 1026)
    growing = Owner(1)
    node.write("a", b"1")
    node.learn(growing.write("a", b"1"), Owner(2).write("a", b"1"))
    assert node.learn(growing.write("b", b"1")) == []
    assert set(node.state.maps) == {node.id, peer_id(1), peer_id(2)}
    assert node.learn(Owner(3).write("a", b"1"))
    assert set(node.state.maps) == {node.id, peer_id(2), peer_id(3)}


def test_an_owner_that_is_suspected_keeps_its_map_and_one_that_left_does_not() -> None:
    for status, is_kept in ((MemberStatus.SUSPECT, True), (MemberStatus.LEFT, False)):
        node = with_members(1, state_bytes=1026)
        member = node.context.members.get(peer_id(1))
        assert member is not None
        member.set_status(status, "", 0.0)
        node.learn(Owner(1).write("a", b"1"), Owner(2).write("a", b"1"))
        assert (peer_id(1) in node.state.maps) is is_kept


def test_an_owner_whose_prefix_is_that_of_another_gets_no_map() -> None:
    node = Learner()
    node.state.owner_by_prefix[peer_id(1)[:8]] = peer_id(2)
    assert node.learn(Owner(1).write("a", b"1")) == []
    assert node.state.refused == 1


def test_a_full_map_collects_half_of_its_deleted_keys_for_a_new_one() -> None:
    node = Learner()
    for number in range(1024):
        node.write(f"k{number}", None)
    own = node.state.own
    assert own is not None
    assert len(own.entries) == 1024
    node.write("k1023", b"again")
    assert len(own.entries) == 1024
    node.write("new", b"")
    assert len(own.entries) == 1024 - 512 + 1
    assert {"k511", "k512"} & set(own.entries) == {"k512"}


def test_deleted_keys_are_collected_in_order_after_their_time() -> None:
    node, owner = Learner(state=StateConfig(tombstone=10)), Owner(1)
    node.learn(owner.write("hidden", b"theirs"))
    for at, key in enumerate(("first", "hidden", "last")):
        node.write(key, None, now=float(at))
    own = node.state.own
    assert own is not None
    node.write("b", b"1", now=9.9)
    assert list(own.entries) == ["first", "hidden", "last", "b"]
    node.write("b", b"2", now=10.0)
    assert list(own.entries) == ["hidden", "last", "b"]
    node.write("b", b"3", now=100.0)
    assert list(own.entries) == ["hidden", "last", "b"], "the first of them still hides an entry"


# --- what is taken ----------------------------------------------------------------------------------


def test_an_entry_of_ours_that_comes_from_a_peer_changes_nothing() -> None:
    node = Learner()
    assert node.learn(Owner(0).write("a", b"1")) == []
    assert node.state.maps == {}


def test_an_entry_that_came_from_another_than_its_owner_is_not_verified_again() -> None:
    node, owner = Learner(), Owner(1)
    forged = replace(owner.write("a", b"1"), signature=bytes(64))
    assert node.state.on_rumor(RumorCopy(forged, 1, 0), (), 0.0)


def test_an_early_entry_that_a_later_one_replaced_is_forgotten() -> None:
    """An entry whose map is never complete here does not keep the ones after it waiting."""
    node, owner = Learner(), Owner(1)
    first, _, third = owner.write("c", b"1"), owner.delete("b"), owner.write("a", b"1")
    fourth = owner.write("a", b"2", collected=(EPOCH, 2))
    node.learn(third, fourth)
    assert len(node.state.early) == 1
    node.learn(first)
    assert node.state.shared.values_of(peer_id(1), 0.0) == {"a": b"2", "c": b"1"}
    node.learn(owner.write("a", b"3"))
    assert len(node.state.early) == 0


def test_a_gap_is_noted_with_its_source_alone() -> None:
    node, owner = Learner(), Owner(1)
    owner.write("a", b"1")
    second = RumorCopy(owner.write("b", b"1"), 1, 0)
    node.state.on_rumor(second, (), 0.0)
    assert node.state.early.gap_since == math.inf
    node.state.on_rumor(second, (peer_id(9),), 1.0)
    assert node.state.early.gap_since == 1.0
    assert node.state.early.take_gaps(1.0) == [(peer_id(1), (EPOCH, 2), peer_id(9), 1.0)]


def test_gaps_are_taken_that_were_noted_at_a_time_or_before() -> None:
    node = Learner()
    for number, now in ((1, 0.0), (2, 1.0), (3, 2.0)):
        owner = Owner(number)
        owner.write("a", b"1")
        for at in (now, now + 9.0):
            node.state.on_rumor(RumorCopy(owner.write("b", b"1"), 1, 0), (peer_id(9),), at)
    assert [each.owner for each in node.state.early.take_gaps(1.0)] == [peer_id(1), peer_id(2)]
    assert node.state.early.gap_since == 2.0
    assert [each.owner for each in node.state.early.take_gaps(2.0)] == [peer_id(3)]


def test_a_frozen_map_is_counted_once_and_takes_no_delta_of_its_epoch() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("a", b"1"))
    for _ in range(2):
        node.state.on_conflict(Owner(1).write("a", b"another"))
    assert node.state.conflicts == 1
    assert node.state.merge(peer_id(1), entries_of(owner.write("a", b"2")), 0.0) is None
    later = Owner(1, epoch=EPOCH + 1)
    assert node.state.merge(peer_id(1), entries_of(later.write("a", b"3")), 0.0)
    assert not node.state.maps[peer_id(1)].is_conflicted


def test_entries_of_a_peer_that_contradict_ours_freeze_the_map_and_change_nothing() -> None:
    node, other = Learner(), Owner(1)
    owner = Owner(1)
    node.learn(owner.write("a", b"1"), owner.write("b", b"1"))
    other.write("a", b"1")
    other.write("b", b"another")
    entries = entries_of(*(each.rumor for each in other.map.entries.values()))
    assert node.state.merge(peer_id(1), entries[:1], 0.0) is None
    assert node.state.conflicts == 0
    assert node.state.merge(peer_id(1), entries, 0.0) == []
    assert node.state.maps[peer_id(1)].is_conflicted
    assert node.state.shared.get("b", 0.0) == b"1"


def test_two_broadcasts_under_one_id_freeze_no_map() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("a", b"1"))
    node.state.on_conflict(Rumor.signed(identity(1), "default", EPOCH, 5, (b"a broadcast",)))
    node.state.on_conflict(Owner(2).write("a", b"of an owner without a map"))
    assert node.state.conflicts == 0


# --- events -----------------------------------------------------------------------------------------


def test_a_value_that_is_set_again_is_reported_if_it_is_a_retained_message() -> None:
    node, owner = Learner(), Owner(1)
    node.learn(owner.write("a", b"1"), owner.write("retain/a", b"1", topic="deploy"))
    assert node.learn(owner.write("a", b"1", ttl_s=9)) == []
    assert len(node.learn(owner.write("retain/a", b"1", topic="deploy"))) == 1


def test_a_key_that_has_no_value_is_reported_as_deleted_only_if_that_hides_another() -> None:
    node, owner = Learner(), Owner(1)
    assert node.learn(owner.delete("a")) == []
    node.learn(Owner(2).write("a", b"theirs"))
    (change,) = node.learn(owner.delete("a", clock=2))
    assert (change.value, change.is_deleted) == (None, True)
    assert node.learn(owner.delete("retain/a")) == []


def test_each_change_of_our_map_is_a_version_to_save() -> None:
    node = Learner()
    for number in range(3):
        node.write("a", b"%d" % number)
        assert node.state.version == number + 1
    node.learn(Owner(1).write("a", b"theirs"))
    assert node.state.version == 3


def test_our_map_alone_needs_no_search_for_owners_that_are_gone() -> None:
    node = Learner()
    node.write("a", b"1")
    assert node.state.deadline == math.inf


def test_all_entries_of_a_moment_end_together() -> None:
    node, owner = Learner(), Owner(1)
    for key in "ab":
        node.write(key, b"1", ttl_s=5)
    node.learn(*(owner.write(key, None, ttl_s=5) for key in ("x", "tag/role")))
    node.learn(owner.write("c", b"1", ttl_s=5), owner.write("tag/role", b"web", ttl_s=5))
    effects = node.state.advance(5.0)
    assert effects[:2] == [WriteEntry("a", None), WriteEntry("b", None)]
    assert {each.key for each in changes_in(effects)} == {"c", "tag/role"}
    assert node.context.members.tags_of(peer_id(1)) == {}
