"""Maps of owners that are gone: kept for a while, adopted if durable, then remembered by version alone."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.config.sections import LimitsConfig, StateConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.overlay.effects import BumpEpoch, Effect, WriteEntry
from grapevine_proto.overlay.state.keyed_state import KeyedState
from tests.proto.overlay.builders import EPOCH, context, peer_id, record
from tests.proto.overlay.state.owners import Learner, Owner, changes_in, entry_of

KEEP = StateConfig(keep=1000.0)
LEAST = min(range(1, 9), key=lambda number: peer_id(number))
OTHERS = [number for number in range(1, 9) if number != LEAST]


def sweeps(node: Learner, until: float) -> list[Effect]:
    effects: list[Effect] = []
    while node.state.deadline <= until:
        effects += node.state.advance(node.state.deadline)
    return effects


def with_owner(number: int, owner: int) -> Learner:
    node = Learner(number, state=KEEP)
    node.context.members.ensure(record(owner), 0.0)
    return node


def leave(node: Learner, number: int, now: float = 0.0) -> None:
    member = node.context.members.get(peer_id(number))
    assert member is not None
    member.set_status(MemberStatus.DOWN, "", now)


def with_an_owner_that_is_back() -> Learner:
    """The owner of a map was gone until 900.0."""
    node = with_owner(LEAST, OTHERS[0])
    node.learn(Owner(OTHERS[0]).write("a", b"1"))
    leave(node, OTHERS[0])
    sweeps(node, 900.0)
    member = node.context.members.get(peer_id(OTHERS[0]))
    assert member is not None
    member.set_status(MemberStatus.UP, "", 900.0)
    return node


def test_a_map_is_kept_for_a_while_after_its_owner_is_gone() -> None:
    owner = Owner(OTHERS[0])
    node = with_owner(LEAST, OTHERS[0])
    node.learn(owner.write("a", b"1"))
    assert sweeps(node, 5000.0) == []
    leave(node, OTHERS[0])
    assert sweeps(node, 5900.0) == []
    assert node.state.shared.get("a", 5900.0) == b"1"
    (change,) = changes_in(sweeps(node, 6200.0))
    assert (change.value, change.previous, change.is_deleted) == (None, b"1", True)
    assert node.state.maps == {}


def test_nothing_that_was_given_up_returns_and_a_later_version_does() -> None:
    owner = Owner(OTHERS[0])
    node = with_owner(LEAST, OTHERS[0])
    rumor = owner.write("a", b"1")
    node.learn(rumor)
    leave(node, OTHERS[0])
    sweeps(node, 2000.0)
    assert node.learn(rumor) == []
    prefix = peer_id(OTHERS[0])[:8]
    assert node.state.is_gone(prefix, (EPOCH, 1))
    assert not node.state.is_gone(prefix, (EPOCH, 2))
    assert node.state.merge(peer_id(OTHERS[0]), [entry_of(owner.write("b", b"2"))], 2000.0) is None
    whole = [entry_of(each.rumor) for each in owner.map.entries.values()]
    assert node.state.merge(peer_id(OTHERS[0]), whole, 2000.0)
    assert node.state._gone == node.state._gone_by_prefix == {}


def test_a_map_that_was_given_up_is_taken_again_once_its_owner_is_back() -> None:
    owner = Owner(OTHERS[0])
    node = with_owner(LEAST, OTHERS[0])
    rumor = owner.write("a", b"1")
    node.learn(rumor)
    leave(node, OTHERS[0])
    sweeps(node, 2000.0)
    member = node.context.members.get(peer_id(OTHERS[0]))
    assert member is not None
    member.set_status(MemberStatus.UP, "", 2000.0)
    (change,) = node.learn(rumor, now=2000.0)
    assert change.value == b"1"


@pytest.mark.parametrize(("early_s", "is_gone"), [(1.0, True), (0.0, False)])
def test_what_was_given_up_is_forgotten_after_seven_days(early_s: float, is_gone: bool) -> None:
    owner = Owner(OTHERS[0])
    node = with_owner(LEAST, OTHERS[0])
    node.learn(owner.write("a", b"1"))
    node.write("ours", b"1")
    leave(node, OTHERS[0])
    given_up_at = 0.0
    while len(node.state.maps) > 1:
        given_up_at = node.state.deadline
        node.state.advance(given_up_at)
    node.state.advance(given_up_at + 7 * 86_400.0 - early_s)
    assert node.state.is_gone(peer_id(OTHERS[0])[:8], (EPOCH, 1)) is is_gone
    assert (node.state.deadline < math.inf) is is_gone


def test_versions_that_are_remembered_are_limited() -> None:
    node = Learner(0, state=KEEP, limits=LimitsConfig(state_owners=2))
    for number in (1, 2, 3):
        node.learn(Owner(number).write("a", b""), now=1100.0 * number)
        sweeps(node, 1100.0 * number + 1080.0)
    assert list(node.state._gone) == [peer_id(2), peer_id(3)]
    assert len(node.state._gone_by_prefix) == 2


def test_a_durable_entry_is_adopted_with_its_clock_by_the_least_member_that_is_up() -> None:
    owner = Owner(OTHERS[0])
    node = with_owner(LEAST, OTHERS[0])
    node.learn(owner.write("a", b"1", clock=7, is_durable=True), owner.write("b", b"2"))
    leave(node, OTHERS[0])
    assert sweeps(node, 490.0) == []
    (write,) = sweeps(node, 620.0)
    assert write == WriteEntry("a", b"1", 0, True, "", 7)
    assert node.state.adopted == 1
    node.perform(write)
    assert sweeps(node, 900.0) == []
    assert changes_in(sweeps(node, 1500.0))
    assert node.state.shared.get("a", 1500.0) == b"1"
    assert node.state.shared.get("b", 1500.0) is None


def test_entries_are_adopted_after_half_the_time_that_maps_are_kept() -> None:
    owner = Owner(OTHERS[0])
    node = Learner(LEAST, state=StateConfig(keep=960.0))
    node.learn(owner.write("a", b"1", is_durable=True))
    gone_at = node.state.deadline
    assert sweeps(node, gone_at) == []
    assert sweeps(node, gone_at + 479.9) == []
    assert sweeps(node, gone_at + 480.0) == [WriteEntry("a", b"1", 0, True, "", 1)]


@pytest.mark.parametrize(("keep_s", "interval_s"), [(100.0, 25.0), (240.0, 60.0), (999.0, 60.0)])
def test_owners_that_are_gone_are_looked_for_once_a_minute_or_four_times_while_maps_are_kept(
    keep_s: float, interval_s: float
) -> None:
    node = Learner(0, state=StateConfig(keep=keep_s))
    node.learn(Owner(1).write("a", b"1"), now=7.0)
    assert node.state.deadline == 7.0 + interval_s
    node.state.advance(node.state.deadline)
    assert node.state.deadline == 7.0 + 2 * interval_s


def test_another_member_adopts_nothing() -> None:
    owner = Owner(OTHERS[0])
    node = with_owner(OTHERS[1], OTHERS[0])
    node.context.members.ensure(record(LEAST), 0.0)
    node.learn(owner.write("a", b"1", is_durable=True))
    leave(node, OTHERS[0])
    assert sweeps(node, 900.0) == []


@pytest.mark.parametrize("status", [MemberStatus.SUSPECT, MemberStatus.DOWN, MemberStatus.LEFT])
def test_the_next_member_adopts_while_the_least_is_not_up(status: MemberStatus) -> None:
    by_id = sorted(range(1, 9), key=lambda number: peer_id(number))
    node = Learner(by_id[1], state=KEEP)
    for number in (by_id[0], by_id[2]):
        node.context.members.ensure(record(number), 0.0)
    member = node.context.members.get(peer_id(by_id[0]))
    assert member is not None
    member.set_status(status, "", 0.0)
    node.learn(Owner(by_id[3]).write("a", b"1", is_durable=True))
    assert len(sweeps(node, 620.0)) == 1


def test_an_entry_below_a_later_one_is_not_adopted() -> None:
    gone, here = Owner(OTHERS[0]), Owner(OTHERS[1])
    node = with_owner(LEAST, OTHERS[0])
    node.context.members.ensure(record(OTHERS[1]), 0.0)
    node.learn(gone.write("a", b"1", is_durable=True), here.write("a", b"2", clock=2))
    leave(node, OTHERS[0])
    assert sweeps(node, 900.0) == []


def test_an_owner_that_is_back_keeps_its_map() -> None:
    node = with_an_owner_that_is_back()
    sweeps(node, 3000.0)
    assert node.state.shared.get("a", 3000.0) == b"1"


def test_a_node_that_lost_its_state_writes_once_it_has_compared_with_a_peer() -> None:
    state = KeyedState(context(0), (), 0.0, is_lost=True)
    assert state.is_recovering
    assert state.deadline == math.inf
    state.on_link_up(10.0)
    state.hold(WriteEntry("a", b"1"))
    assert state.deadline == 15.0
    state.on_compared()
    assert state.deadline < 10.0, "at once"
    assert state.advance(10.0) == [WriteEntry("a", b"1")]
    assert not state.is_recovering


def test_writes_that_wait_are_not_made_when_something_else_is_due() -> None:
    lost = Learner(0)
    lost.state = KeyedState(lost.context, (), 0.0, is_lost=True)
    lost.state.on_link_up(0.0)
    lost.state.hold(WriteEntry("a", b"1"))
    lost.learn(Owner(1).write("b", b"1", ttl_s=3))
    assert lost.state.deadline == 3.0
    assert not any(isinstance(each, WriteEntry) for each in lost.state.advance(3.0))
    assert lost.state.advance(5.0) == [WriteEntry("a", b"1")]
    assert lost.state.advance(6.0) == []


def test_a_node_that_lost_its_state_waits_for_its_map_if_a_peer_has_it() -> None:
    lost = Learner(0)
    lost.state = KeyedState(lost.context, (), 0.0, is_lost=True)
    before = Learner(0)
    before.write("a", b"1")
    own = before.state.maps[before.id]
    lost.state.on_link_up(0.0)
    lost.state.on_wanted(before.id[:8])
    lost.state.on_compared()
    assert lost.state.deadline == 5.0
    assert lost.state.merge(before.id, list(own.entries.values()), 1.0)
    assert lost.state.deadline == 1.0
    lost.state.advance(1.0)
    lost.sequence = 1
    lost.write("b", b"2")
    assert lost.state.shared.values_of(lost.id, 1.0) == {"a": b"1", "b": b"2"}


def test_the_time_that_a_map_is_kept_starts_when_its_owner_is_gone_for_good() -> None:
    node = with_an_owner_that_is_back()
    sweeps(node, 1000.0)
    leave(node, OTHERS[0], 1000.0)
    sweeps(node, 1900.0)
    assert node.state.maps
    sweeps(node, 2100.0)
    assert not node.state.maps


def test_owners_that_are_gone_are_found_behind_ones_that_are_up_and_only_live_keys_are_reported() -> (
    None
):
    node = with_owner(LEAST, OTHERS[0])
    gone = Owner(OTHERS[1])
    node.write("a", b"ours")
    node.learn(Owner(OTHERS[0]).write("a", b"1"))
    node.learn(gone.write("b", b"1"), gone.delete("c"), gone.write("d", b"1", ttl_s=9))
    changes = changes_in(sweeps(node, 2000.0))
    assert [(each.key, each.previous) for each in changes] == [("d", b"1"), ("b", b"1")]
    assert set(node.state.maps) == {peer_id(LEAST), peer_id(OTHERS[0])}


def test_of_the_entries_of_an_owner_those_that_are_durable_and_have_a_value_are_adopted() -> None:
    gone, here = Owner(OTHERS[0]), Owner(OTHERS[1])
    node = with_owner(LEAST, OTHERS[1])
    node.learn(here.write("outdone", b"1"))
    node.write("outdone by us", b"1")
    node.learn(
        gone.write("outdone by us", b"1", is_durable=True),
        gone.write("brief", b"1"),
        gone.write("deleted", None, is_durable=True),
        gone.write("expired", b"1", is_durable=True, ttl_s=9),
        gone.write("outdone", b"1", is_durable=True),
        gone.write("first", b"1", is_durable=True, ttl_s=2000),
        gone.write("retain/x", b"2", is_durable=True, topic="deploy"),
    )
    first, second = (each for each in sweeps(node, 620.0) if isinstance(each, WriteEntry))
    assert (first.key, second) == (
        "first",
        WriteEntry("retain/x", b"2", 0, True, "deploy", 1),
    )
    assert first.ttl_s == 1400
    assert node.state.adopted == 2


def test_an_entry_for_which_the_adopter_has_no_room_is_left_and_the_next_is_adopted() -> None:
    owner = Owner(OTHERS[0])
    node = Learner(LEAST, state=KEEP)
    for number in range(256):
        node.write(f"k{number}", b"")
    node.learn(*(owner.write(key, b"1", is_durable=True, clock=9) for key in ("new", "k0")))
    (write,) = sweeps(node, 620.0)
    assert (write.key, node.state.adopted) == ("k0", 1)  # type: ignore[union-attr]


def test_an_entry_of_another_owner_that_is_gone_outdoes_none() -> None:
    node = Learner(LEAST, state=KEEP)
    for number, clock in ((OTHERS[0], 1), (OTHERS[1], 2)):
        node.learn(Owner(number).write("a", b"%d" % number, clock=clock, is_durable=True))
    writes = [each for each in sweeps(node, 620.0) if isinstance(each, WriteEntry)]
    assert [each.clock for each in writes] == [1, 2]


def test_what_a_run_before_wrote_is_written_again_unless_it_is_gone_or_this_run_wrote_it() -> None:
    node, before = Learner(0), Owner(0, epoch=EPOCH + 1)
    node.write("b", b"ours")
    old = Owner(0, epoch=EPOCH - 1).write("old", b"1")
    entries = [
        entry_of(each)
        for each in (
            old,
            before.write("b", b"1"),
            before.delete("deleted"),
            before.write("expired", b"1", ttl_s=5),
            before.write("a", b"1", ttl_s=60, is_durable=True),
            before.write("retain/x", b"2", topic="deploy"),
        )
    ]
    assert node.state.take_back(node.id, reversed(entries), 10.0) == [
        BumpEpoch(EPOCH + 1),
        WriteEntry("a", b"1", 50, True, ""),
        WriteEntry("retain/x", b"2", 0, False, "deploy"),
    ]
    own = node.state.own
    assert own is not None
    for known in (entries[:1], list(own.entries.values())):
        assert node.state.take_back(node.id, known, 10.0) == []
    assert node.state.take_back(peer_id(1), entries, 10.0) == []
    assert Learner(0).state.take_back(node.id, entries, 10.0) == []
