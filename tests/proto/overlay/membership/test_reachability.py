"""Where peers see a node: what it tells them, and what it makes of what they tell it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.membership.reachability import (
    SIGN_DELAY_S,
    SIGN_INTERVAL_S,
    agreed_address,
)
from grapevine_proto.wire.attributes import (
    INTRODUCERS,
    MAX_INTRODUCERS,
    encode_attributes,
    parse_record_attributes,
    record_attributes,
)
from grapevine_proto.wire.messages import ObservedAddress, Records
from tests.proto.overlay.builders import identity, peer_id, record
from tests.proto.overlay.membership.member_node import OURS, MemberNode, of_type

OUTSIDE, ELSEWHERE = Address("203.0.113.9", 4000), Address("203.0.113.9", 5000)


def report(node: MemberNode, number: int, address: Address, now: float = 0.0) -> None:
    assert node.membership.handle(ObservedAddress(address), peer_id(number), now) == []


def sign(node: MemberNode, now: float = SIGN_DELAY_S) -> list[Records]:
    """Lets a node sign its record if it wants to; returns what it sends."""
    sent = of_type(node.membership.advance(now), Send)
    return [each.message for each in sent if isinstance(each.message, Records)]


def reported(effects: list[Effect]) -> list[Address]:
    return [
        each.message.address
        for each in of_type(effects, Send)
        if isinstance(each.message, ObservedAddress)
    ]


# --- what it tells --------------------------------------------------------------------------------


def test_a_peer_seen_at_an_address_of_its_record_gets_no_report() -> None:
    assert reported(MemberNode().link(1)) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1"])
def test_an_address_that_means_another_machine_everywhere_is_not_reported(host: str) -> None:
    assert reported(MemberNode().link(1, at=Address(host, 9))) == []


def test_a_peer_seen_elsewhere_gets_one_report_and_one_after_it_moved() -> None:
    node = MemberNode()
    assert reported(node.link(1, at=OUTSIDE)) == [OUTSIDE]
    assert reported(node.membership.on_packet(peer_id(1), OUTSIDE, 1.0)) == []
    assert reported(node.membership.on_packet(peer_id(1), ELSEWHERE, 2.0)) == [ELSEWHERE]
    home = record(1).addresses[0]
    assert reported(node.membership.on_packet(peer_id(1), home, 3.0)) == []
    assert reported(node.membership.on_packet(peer_id(1), ELSEWHERE, 4.0)) == [ELSEWHERE]


def test_a_record_that_lacks_the_address_in_use_is_answered_with_it() -> None:
    node = MemberNode()
    node.link(1)
    moved = replace(record(1, incarnation=1), addresses=(OUTSIDE,)).signed(identity(1), "default")
    effects = node.membership.handle(Records((moved,)), peer_id(1), 1.0)
    assert reported(effects) == [record(1).addresses[0]]


# --- what it is told ------------------------------------------------------------------------------


def test_without_reports_nothing_is_scheduled() -> None:
    node = MemberNode(linked=3)
    assert node.membership.reachability.deadline == float("inf")
    assert node.membership.record.attributes == b""


def test_a_record_is_signed_a_quarter_of_a_second_after_the_first_report() -> None:
    node = MemberNode(linked=3)
    report(node, 1, OUTSIDE, 100.0)
    report(node, 2, OUTSIDE, 100.2)
    assert node.membership.reachability.deadline == 100.25
    assert sign(node, 100.25)
    report(node, 1, ELSEWHERE, 100.5)
    assert node.membership.reachability.deadline == 100.25 + SIGN_INTERVAL_S


def test_one_peer_cannot_move_a_node() -> None:
    node = MemberNode(linked=3)
    report(node, 1, OUTSIDE)
    sign(node)
    assert node.membership.record.addresses == (OURS,)
    node.membership.on_link_down(peer_id(1), "gone", None, 1.0)
    sign(node, SIGN_DELAY_S + SIGN_INTERVAL_S)
    assert node.membership.record.introducers is None, "nor say for long that it is behind a NAT"


def test_two_peers_on_different_hosts_can() -> None:
    node = MemberNode(linked=3)
    report(node, 1, OUTSIDE)
    report(node, 2, OUTSIDE)
    (records,) = sign(node)
    assert records.records == (node.membership.record,)
    assert node.membership.record.is_authentic("default")
    assert node.membership.record.addresses == (OUTSIDE, OURS)
    assert OUTSIDE in node.membership.dialer.our_addresses
    assert node.membership.record.introducers == tuple(peer_id(n)[:8] for n in (1, 2, 3))


def test_two_peers_on_one_host_are_one() -> None:
    node = MemberNode()
    for number in (1, 2, 3):
        node.link(number, at=Address("10.0.0.1", number))
        report(node, number, OUTSIDE)
    sign(node)
    assert node.membership.record.addresses == (OURS,)


def test_the_only_peer_of_a_node_tells_it_that_it_is_behind_a_nat() -> None:
    node = MemberNode(linked=1)
    report(node, 1, OUTSIDE)
    sign(node)
    assert node.membership.record.addresses == (OURS,), "but not where"
    assert node.membership.record.introducers == (peer_id(1)[:8],)


@pytest.mark.parametrize("address", [Address("127.0.0.1", 5), Address("203.0.113.9", 0)])
def test_an_address_that_nobody_can_dial_counts_for_nothing(address: Address) -> None:
    node = MemberNode(linked=2)
    report(node, 1, address)
    report(node, 2, address)
    assert sign(node) == []


def test_reports_of_members_without_a_link_and_against_the_configuration_count_for_nothing() -> (
    None
):
    node = MemberNode(linked=2)
    report(node, 8, OUTSIDE)
    report(node, 9, OUTSIDE)
    assert sign(node) == []
    advertising = MemberNode(linked=2, advertise="198.51.100.1:7000")
    report(advertising, 1, OUTSIDE)
    report(advertising, 2, OUTSIDE)
    assert sign(advertising) == []


def test_a_move_is_followed_when_most_peers_report_it_and_at_most_so_often() -> None:
    node = MemberNode(linked=3)
    for number in (1, 2, 3):
        report(node, number, OUTSIDE)
    sign(node)
    for number in (1, 2):
        report(node, number, ELSEWHERE, 1.0)
    assert sign(node, 1.0 + SIGN_DELAY_S) == []
    assert len(sign(node, SIGN_DELAY_S + SIGN_INTERVAL_S)) == 1
    assert node.membership.record.addresses == (ELSEWHERE, OURS)


def test_another_network_ends_what_was_seen_in_the_earlier_one() -> None:
    node = MemberNode(linked=2)
    report(node, 1, OUTSIDE)
    report(node, 2, OUTSIDE)
    sign(node)
    node.membership.set_addresses((ELSEWHERE,))
    assert node.membership.record.addresses == (ELSEWHERE,)
    assert node.membership.record.introducers is None
    assert not node.membership.reachability.is_behind_nat
    assert node.membership.reachability.deadline == float("inf")


def test_a_lost_introducer_is_replaced_in_time() -> None:
    node = MemberNode(linked=4)
    report(node, 1, OUTSIDE)
    report(node, 2, OUTSIDE)
    sign(node)
    node.membership.on_link_down(peer_id(1), "gone", None, 1.0)
    sign(node, SIGN_DELAY_S + SIGN_INTERVAL_S)
    assert node.membership.record.introducers == tuple(peer_id(n)[:8] for n in (2, 3, 4))


def test_the_introducers_are_the_three_oldest_links() -> None:
    node = MemberNode()
    for number, linked_at in ((1, 0.75), (2, 0.25), (3, 0.5), (4, 0.0)):
        node.link(number, linked_at)
    report(node, 1, OUTSIDE, 1.0)
    sign(node, 2.0)
    assert node.membership.record.introducers == tuple(peer_id(n)[:8] for n in (4, 2, 3))


def test_introducers_behind_a_nat_come_last() -> None:
    node = MemberNode()
    hidden = replace(record(1), attributes=record_attributes(introducers=()))
    node.link(1, of=hidden.signed(identity(1), "default"))
    node.link(2, 1.0)
    report(node, 1, OUTSIDE, 1.0)
    report(node, 2, OUTSIDE, 1.0)
    sign(node, 2.0)
    assert node.membership.record.introducers == (peer_id(2)[:8], peer_id(1)[:8])


# --- the rules as such ----------------------------------------------------------------------------


def test_the_address_in_use_changes_only_for_one_with_more_reports() -> None:
    one, two, three = {"a", "b"}, {"c", "d"}, {"e", "f", "g"}
    assert agreed_address({OUTSIDE: one}, None) == OUTSIDE
    assert agreed_address({OUTSIDE: one, ELSEWHERE: two}, OUTSIDE) == OUTSIDE
    assert agreed_address({OUTSIDE: one, ELSEWHERE: three}, OUTSIDE) == ELSEWHERE
    assert agreed_address({}, OUTSIDE) == OUTSIDE


def test_reports_that_contradict_and_do_not_agree_end_an_address() -> None:
    hosts = {Address("203.0.113.9", port): {f"host {port}"} for port in (1, 2, 3)}
    assert agreed_address(hosts, OUTSIDE) is None
    del hosts[Address("203.0.113.9", 3)]
    assert agreed_address(hosts, OUTSIDE) == OUTSIDE


def test_the_attribute_of_introducers_is_read_as_written_and_nonsense_as_absent() -> None:
    prefixes = tuple(bytes([n]) * 8 for n in range(MAX_INTRODUCERS))
    for some in ((), prefixes[:1], prefixes):
        assert parse_record_attributes(record_attributes(introducers=some)).introducers == some
    assert parse_record_attributes(b"").introducers is None
    for value in (7, b"short", bytes(8 * (MAX_INTRODUCERS + 1))):
        assert parse_record_attributes(encode_attributes({INTRODUCERS: value})).introducers is None


# --- a port that a router maps --------------------------------------------------------------------


def advertised(node: MemberNode) -> tuple[Address, ...]:
    return node.membership.record.addresses


def test_a_mapped_address_is_advertised_first_and_sent_to_all_peers() -> None:
    node = MemberNode()
    node.link(1)
    effects = node.membership.set_mapped_address(OUTSIDE, 0.0)
    (sent,) = [each.message for each in of_type(effects, Send)]
    assert sent == Records((node.membership.record,))
    assert advertised(node) == (OUTSIDE, OURS)
    assert node.membership.set_mapped_address(OUTSIDE, 0.0) == []
    node.membership.set_mapped_address(None, 0.0)
    assert advertised(node) == (OURS,)


def test_a_node_that_is_seen_at_its_mapped_address_needs_no_introduction() -> None:
    node = MemberNode()
    for number in (1, 2):
        node.link(number)
        report(node, number, OUTSIDE)
    sign(node)
    assert node.membership.record.introducers is not None
    node.membership.set_mapped_address(OUTSIDE, 1.0)
    sign(node, SIGN_DELAY_S + SIGN_INTERVAL_S)
    assert not node.membership.reachability.is_behind_nat
    assert advertised(node) == (OUTSIDE, OURS)


def test_a_node_that_is_seen_elsewhere_than_at_its_mapped_address_is_still_introduced() -> None:
    node = MemberNode()
    for number in (1, 2):
        node.link(number)
        report(node, number, ELSEWHERE)
    node.membership.set_mapped_address(OUTSIDE, 0.0)
    sign(node)
    assert advertised(node) == (OUTSIDE, ELSEWHERE, OURS)
    assert node.membership.record.introducers


def test_a_configured_address_stands_for_the_mapped_one() -> None:
    node = MemberNode(advertise="198.51.100.7:8000")
    assert node.membership.set_mapped_address(OUTSIDE, 0.0) == []
    assert advertised(node) == (Address("198.51.100.7", 8000),)
