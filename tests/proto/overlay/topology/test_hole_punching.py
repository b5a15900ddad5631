"""Dials of members behind NATs, and of members with several addresses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.dial_purpose import LINK, NEIGHBOR, TRANSIENT, punch
from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import Dial, Effect, Send
from grapevine_proto.overlay.topology.dialer import PENDING_DIALS_LIMIT
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.messages import Introduce
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import identity, peer_id, record
from tests.proto.overlay.membership.member_node import MemberNode
from tests.proto.overlay.topology.test_dialer import OURS, DialingNode

OUTSIDE, INSIDE = Address("203.0.113.9", 4000), Address("192.168.1.2", 8000)


def hidden(number: int, *introducers: int) -> PeerRecord:
    """The record of a member behind a NAT."""
    prefixes = tuple(peer_id(each)[:8] for each in introducers)
    bare = replace(
        record(number),
        addresses=(OUTSIDE, INSIDE),
        attributes=record_attributes(introducers=prefixes),
    )
    return bare.signed(identity(number), "default")


def know(node: DialingNode, one: PeerRecord) -> None:
    node.members.add(one, one.peer_id, 0.0)


def dials(effects: list[Effect]) -> list[Dial]:
    return [each for each in effects if isinstance(each, Dial)]


def asked(effects: list[Effect]) -> list[Send]:
    return [each for each in effects if isinstance(each, Send)]


# --- several addresses ----------------------------------------------------------------------------


def test_all_addresses_of_a_member_are_dialed_at_once_and_count_as_one() -> None:
    node = DialingNode()
    know(node, replace(record(1), addresses=(OUTSIDE, INSIDE)))
    effects = node.dialer.dial_due(0.0)
    assert [each.address for each in dials(effects)] == [OUTSIDE, INSIDE]
    assert node.dialer._pending_count(0.0) == 1
    assert asked(effects) == []


def test_many_members_with_many_addresses_stay_within_the_limit_of_dials() -> None:
    node = DialingNode(max_peers=64)
    for number in range(64):
        addresses = tuple(Address(f"10.1.{number}.{n + 1}", 8000) for n in range(4))
        know(node, replace(record(number), addresses=addresses))
    found: list[Dial] = []
    for second in range(3):
        found += dials(node.dialer.dial_due(second * 0.1))
    assert len({each.expected for each in found}) <= PENDING_DIALS_LIMIT
    assert len(found) <= 64


def test_a_member_has_failed_when_its_last_address_has() -> None:
    node = MemberNode()
    member = node.members.add(
        replace(record(1), addresses=(OUTSIDE, INSIDE)).signed(identity(1), "default"),
        peer_id(1),
        0.0,
    )
    node.membership.dialer.dial_due(0.0)
    node.membership.on_dial_failed(OUTSIDE, peer_id(1), None, 4.0)
    assert member.failures == 0
    node.membership.on_dial_failed(INSIDE, peer_id(1), None, 4.0)
    assert member.failures == 1


def test_an_answer_at_one_address_ends_the_dials_of_the_others() -> None:
    node = DialingNode()
    know(node, replace(record(1), addresses=(OUTSIDE, INSIDE)))
    node.dialer.dial_due(0.0)
    node.dialer.on_answered(INSIDE, peer_id(1), peer_id(1), 0.1)
    assert not node.dialer.is_dialing(peer_id(1))


def test_an_address_of_another_lan_that_is_ours_too_is_not_dialed() -> None:
    node = DialingNode()
    know(node, replace(record(1), addresses=(OURS, INSIDE)))
    assert node.dialer.addresses_of(node.member(1)) == (INSIDE,)


# --- asking for introductions ---------------------------------------------------------------------


def test_a_member_behind_a_nat_is_dialed_and_two_of_its_linked_introducers_are_asked() -> None:
    node = DialingNode(linked=4)
    know(node, hidden(9, 0, 1, 2))
    effects = node.dialer._dial_member(node.member(9), 0.0, wants_room=True)
    assert len(dials(effects)) == 2
    assert asked(effects) == [Send((peer_id(0), peer_id(1)), Introduce(peer_id(9), False))]


def test_two_introducers_without_a_link_are_asked_if_everyone_reaches_them() -> None:
    node = DialingNode(linked=2)
    know(node, hidden(5))
    for number in (6, 7, 8):
        know(node, record(number))
    know(node, hidden(9, 5, 6))
    assert node.dialer.introducers_of(node.member(9)) == (peer_id(6),)
    know(node, hidden(10, 6, 7, 8))
    assert node.dialer.introducers_of(node.member(10)) == (peer_id(6), peer_id(7))


def test_three_peers_are_asked_if_no_introducer_is_known() -> None:
    node = DialingNode(linked=5)
    know(node, hidden(9, 77))
    found = node.dialer.introducers_of(node.member(9))
    assert len(set(found)) == 3
    assert set(found) <= {peer_id(number) for number in range(5)}


def test_three_peers_are_asked_for_a_member_of_another_lan_with_our_private_address() -> None:
    node = DialingNode(linked=5)
    node.dialer.set_our_addresses((INSIDE, OUTSIDE))
    for number, addresses in ((7, (INSIDE,)), (8, (OUTSIDE,)), (9, (INSIDE, OURS))):
        know(node, replace(record(number), addresses=addresses))
    asked_peers = {n: len(node.dialer.introducers_of(node.member(n))) for n in (7, 8, 9)}
    assert asked_peers == {7: 3, 8: 0, 9: 0}


def test_a_member_without_an_address_for_us_can_still_be_introduced() -> None:
    node = DialingNode(linked=1)
    one = replace(hidden(9, 0), addresses=(OURS,)).signed(identity(9), "default")
    know(node, one)
    effects = node.dialer._dial_member(node.member(9), 0.0, wants_room=True)
    assert dials(effects) == []
    assert len(asked(effects)) == 1
    assert node.member(9).dial_at > 0.0, "and is not asked for every time"


# --- being introduced -----------------------------------------------------------------------------


def test_an_introduction_that_was_asked_for_is_dialed_for_the_purpose_of_the_dial() -> None:
    node = DialingNode(linked=1)
    know(node, hidden(9, 0))
    node.dialer._dial_member(node.member(9), 0.0, wants_room=True)
    observed = Address("203.0.113.9", 4001)
    assert node.dialer.on_introduction(node.member(9), observed, 0.1, is_transient=False) == [
        Dial(observed, peer_id(9), punch(NEIGHBOR), 3)
    ]
    assert node.dialer.is_dialing(peer_id(9))


def test_the_other_end_dials_for_what_the_introduction_says() -> None:
    node = DialingNode()
    know(node, hidden(9))
    for is_transient, purpose in ((False, LINK), (True, TRANSIENT)):
        found = node.dialer.on_introduction(node.member(9), OUTSIDE, 0.0, is_transient=is_transient)
        assert found == [Dial(OUTSIDE, peer_id(9), punch(purpose), 3)]


def test_introductions_that_nobody_asked_for_have_a_small_budget() -> None:
    node = DialingNode()
    know(node, hidden(9))
    found = [
        node.dialer.on_introduction(node.member(9), OUTSIDE, 0.0, is_transient=True)
        for _ in range(21)
    ]
    assert sum(map(len, found)) == 16


@pytest.mark.parametrize(
    "address", [Address("203.0.113.9", 53), Address("127.0.0.1", 9), Address("224.0.0.1", 9), OURS]
)
def test_an_introduction_at_an_address_that_is_no_member_is_ignored(address: Address) -> None:
    node = DialingNode()
    know(node, hidden(9))
    assert node.dialer.on_introduction(node.member(9), address, 0.0, is_transient=True) == []


def test_members_linked_at_that_address_and_denied_ones_are_not_introduced() -> None:
    node = DialingNode(linked=1, denied=(peer_id(9),))
    know(node, hidden(9))
    linked = node.peers.get(peer_id(0))
    assert linked is not None
    for number, address in ((0, linked.address), (9, OUTSIDE)):
        member = node.member(number)
        assert node.dialer.on_introduction(member, address, 0.0, is_transient=False) == []


def test_a_member_linked_elsewhere_is_dialed_for_its_link_because_that_may_not_get_through() -> (
    None
):
    for is_transient in (True, False):
        node = DialingNode(linked=1)
        effects = node.dialer.on_introduction(
            node.member(0), OUTSIDE, 0.0, is_transient=is_transient
        )
        assert effects == [Dial(OUTSIDE, peer_id(0), punch(LINK), 3)]


def test_a_linked_member_that_acknowledges_nothing_is_dialed_where_else_it_may_be() -> None:
    node = DialingNode(linked=3)
    assert node.dialer.renew_path(node.member(0), 0.0) == [], "it has one address and no NAT"
    node.member(1).update_record(hidden(1), 0.0)
    assert asked(node.dialer.renew_path(node.member(1), 0.0)), "its NAT may have changed"
    elsewhere = replace(record(2), addresses=(*record(2).addresses, INSIDE))
    node.member(2).update_record(elsewhere, 0.0)
    found = dials(node.dialer.renew_path(node.member(2), 0.0))
    assert INSIDE in [each.address for each in found]
    for number in (1, 2):
        node.unlink(number)
        assert node.dialer.renew_path(node.member(number), 2.0) == []


def test_the_member_asked_for_longest_ago_is_forgotten() -> None:
    node = DialingNode()
    for number in range(65):
        node.dialer._hole_punching._note_asked(peer_id(number), wants_room=True)
    assert len(node.dialer._hole_punching._asked) == 64
    assert peer_id(0) not in node.dialer._hole_punching._asked


def test_no_answer_from_behind_a_nat_is_no_reason_to_suspect_a_member() -> None:
    node = MemberNode(linked=3)
    node.members.add(hidden(9, 1), peer_id(1), 0.0)
    node.members.add(record(8), peer_id(1), 0.0)
    tracked = []
    for number in (8, 9):
        for _ in range(3):
            for address in node.member(number).addresses:
                node.membership.on_dial_failed(address, peer_id(number), None, 1.0)
        tracked.append(node.membership.detector.tracks(peer_id(number)))
    assert tracked == [True, False]
