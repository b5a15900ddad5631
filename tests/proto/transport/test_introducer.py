"""Introducer at the common peer, and dials of one member at several addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.dial_purpose import LINK, TRANSIENT, punch
from grapevine_proto.errors import DropReason
from grapevine_proto.events import PathKind, UndeliveredReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.events import DialAnswered, DialFailed, LinkUp, MessageIn
from grapevine_proto.transport.transient_sessions import PendingSend
from grapevine_proto.transport.transport import SendOutcome
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.messages import InSync, Introduce, Introduction
from tests.proto.overlay.builders import identity, peer_id, record
from tests.proto.transport.ends import name_of
from tests.proto.transport.nodes import (
    Network,
    TransportNode,
    address_of,
    linked_to_two,
)

GONE, WRONG = Address("10.9.9.9", 1), Address("10.0.0.3", 8000)


def introductions(node: TransportNode) -> list[Introduction]:
    messages = [each.message for each in node.reported(MessageIn)]
    return [each for each in messages if isinstance(each, Introduction)]


# --- the common peer ------------------------------------------------------------------------------


def test_both_ends_learn_the_record_and_the_address_of_the_other() -> None:
    network, common = linked_to_two()
    network.inject(2, 1, Introduce(peer_id(3), False))
    network.exchange()
    for number, other in ((2, 3), (3, 2)):
        (introduction,) = introductions(network[number])
        assert introduction.record.peer_id == peer_id(other)
        assert introduction.address == address_of(other)
        assert not introduction.is_transient
    assert (common.transport.introducer.made, common.transport.introducer.refused) == (1, 0)


@pytest.mark.parametrize("subject", [peer_id(2), peer_id(9), peer_id(1)])
def test_nobody_is_introduced_to_a_member_without_a_link_or_to_itself(subject: PeerId) -> None:
    network, common = linked_to_two()
    network.inject(2, 1, Introduce(subject, True))
    network.exchange()
    assert introductions(network[2]) == introductions(network[3]) == []
    assert common.transport.introducer.refused == 1


def test_a_requester_beyond_its_rate_is_refused_and_the_others_are_not() -> None:
    network, common = linked_to_two()
    for _ in range(19):
        network.inject(2, 1, Introduce(peer_id(3), True))
    network.inject(3, 1, Introduce(peer_id(2), True))
    network.exchange()
    introducer = common.transport.introducer
    assert (introducer.made, introducer.refused) == (17, 3)
    assert len(introductions(network[3])) == 17
    network.now = 1.0
    for _ in range(3):
        network.inject(2, 1, Introduce(peer_id(3), True))
    assert (introducer.made, introducer.refused) == (19, 4), "two per second"


def test_64_requesters_are_remembered_and_the_one_that_asked_longest_ago_is_forgotten() -> None:
    network, common = linked_to_two()
    introducer, link = common.transport.introducer, common.link_to(network[2])

    def refused(number: int) -> bool:
        link.peer_id = peer_id(number)
        before = introducer.refused
        introducer.introduce(link, Introduce(peer_id(3), False), 0.0)
        return introducer.refused > before

    for number in range(100, 164):
        assert [refused(number) for _ in range(17)] == [False] * 16 + [True]
    assert refused(100), "it is the latest one again"
    assert not refused(164)
    assert refused(100)
    assert not refused(101), "it was forgotten"


def test_a_transient_session_may_ask_and_opens_to_ask() -> None:
    network = Network(3)
    network.dial(2, 3)
    one = network[1]
    one.transport.send((peer_id(2),), Introduce(peer_id(3), True), 0.0)
    network.exchange()
    (introduction,) = introductions(one)
    assert introduction.address == address_of(3)
    assert introductions(network[3])[0].address == address_of(1)


# --- several addresses ----------------------------------------------------------------------------


def dial_all(network: Network, *addresses: Address, purpose: Any = LINK) -> TransportNode:
    """Node 1 dials node 2 at all of these addresses at once."""
    one = network[1]
    for address in addresses:
        one.take(one.transport.dial(address, peer_id(2), purpose, network.now))
    return one


def test_the_address_that_answers_ends_the_dials_of_the_others() -> None:
    network = Network(2)
    one = dial_all(network, GONE, address_of(2))
    network.exchange()
    assert [each.source for each in one.reported(LinkUp)] == [address_of(2)]
    assert [each.address for each in one.reported(DialAnswered)] == [address_of(2)]
    assert len(one.transport.handshakes) == 0
    assert one.reported(DialFailed) == []


def test_another_node_at_one_of_the_addresses_does_not_keep_the_right_one_from_answering() -> None:
    network = Network(3)
    one, wrong = network[1], address_of(2)  # answers first
    for address in (wrong, address_of(3)):
        one.dial(address, peer_id(3))
    network.run(1.0)
    assert [each.source for each in one.reported(LinkUp)] == [address_of(3)]
    failed = one.reported(DialFailed)
    assert [(each.address, each.reason) for each in failed] == [(wrong, DropReason.WRONG_PEER)]


def test_two_ways_to_one_node_make_one_session() -> None:
    network = Network(2)
    second_way = Address("10.7.7.7", 8000)
    network.nodes[second_way] = network[2]
    one = dial_all(network, second_way, address_of(2))
    network.run(1.0)
    assert len(one.reported(LinkUp)) == 1
    assert network[2].transport.links.session_count == 1


def test_the_address_that_answered_first_has_a_second_to_complete_the_handshake() -> None:
    network = Network(2)
    first = Address("10.7.7.7", 8000)
    network.nodes[first] = network[2]
    network.is_lost = lambda datagram, _, to: to == first and name_of(datagram) == "proof"
    one = dial_all(network, first, address_of(2))
    network.run(0.9)
    assert one.reported(LinkUp) == []
    network.run(5.0)
    assert [each.source for each in one.reported(LinkUp)] == [address_of(2)]


def test_a_message_fails_when_the_last_address_has_failed() -> None:
    network = Network(2)
    one = network[1]
    one.view.addresses[peer_id(2)] = GONE
    one.view.more_addresses[peer_id(2)] = (WRONG,)
    network.add(3)
    assert network.send_direct(1, 2, b"hello") is SendOutcome.QUEUED
    network.run(one.config.current.connection_timeout - 0.1)
    assert not one.transport.direct.undelivered.get(UndeliveredReason.NO_ANSWER)
    network.run(0.2)
    assert one.transport.direct.undelivered[UndeliveredReason.NO_ANSWER] == 1


# --- the ends -------------------------------------------------------------------------------------


def behind_nat(number: int) -> Any:
    attributes = record_attributes(introducers=(peer_id(1)[:8],))
    return replace(record(number), attributes=attributes).signed(identity(number), "default")


def test_a_direct_message_to_a_member_behind_a_nat_asks_for_an_introduction() -> None:
    network, _ = linked_to_two()
    two, three = network[2], network[3]
    two.view.records[peer_id(3)] = behind_nat(3)
    two.view.addresses[peer_id(3)] = GONE
    two.view.introducers[peer_id(3)] = (peer_id(1),)
    assert network.send_direct(2, 3, b"hello") is SendOutcome.QUEUED
    network.exchange()
    (introduction,) = introductions(two)
    assert introduction.is_transient
    three.take(three.transport.dial(two.address, two.peer_id, punch(TRANSIENT), 0.0, max_hellos=3))
    network.exchange()
    link = two.transport.transients.get(peer_id(3))
    assert link is not None
    assert not two.transport.transients.is_opening(peer_id(3))


def test_a_member_that_can_only_be_introduced_gets_a_second_for_it() -> None:
    network, _ = linked_to_two()
    two = network[2]
    two.view.records[peer_id(9)] = behind_nat(9)
    pending = PendingSend(codec.encode_message(InSync(1)), None)
    assert two.transport.send_transient(peer_id(9), pending, 0.0) is SendOutcome.QUEUED
    network.run(0.99)
    assert two.transport.transients.is_opening(peer_id(9))
    network.run(0.01)
    assert not two.transport.transients.is_opening(peer_id(9))
    assert two.transport.transients.send_drops == 1


@pytest.mark.parametrize(
    ("is_behind_nat", "failed_at", "is_waiting"),
    [(True, 0.99, True), (True, 1.0, False), (False, 0.0, False)],
)
def test_a_failed_dial_leaves_a_member_behind_a_nat_a_second_for_its_introduction(
    is_behind_nat: bool, failed_at: float, is_waiting: bool
) -> None:
    network = Network(2)
    one = network[1]
    if is_behind_nat:
        one.view.records[peer_id(2)] = behind_nat(2)
    assert network.send_direct(1, 2, b"hello") is SendOutcome.QUEUED
    one.take(one.transport.on_unsendable(address_of(2), "no route", failed_at))
    assert one.transport.transients.is_opening(peer_id(2)) is is_waiting


def test_a_message_that_waits_for_an_introduction_in_vain_fails_beside_one_that_is_dialed() -> None:
    network, _ = linked_to_two()
    two = network[2]
    two.view.addresses[peer_id(8)] = GONE
    two.view.records[peer_id(9)] = behind_nat(9)
    pending = PendingSend(codec.encode_message(InSync(1)), None)
    for number in (8, 9):
        two.transport.send_transient(peer_id(number), pending, 0.0)
    network.run(2.0)
    assert [peer for peer, _ in two.transport.transients.opening()] == [peer_id(8)]


def test_the_path_of_a_dial_that_was_introduced_is_punched_at_both_ends() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    for node, other in ((one, two), (two, one)):
        node.take(node.transport.dial(other.address, other.peer_id, punch(LINK), 0.0))
    network.exchange()
    assert one.link_to(two).path_kind is two.link_to(one).path_kind is PathKind.PUNCHED


def test_a_dial_in_progress_becomes_punched_by_an_introduction() -> None:
    network = Network(2)
    one, two = network[1], network[2]
    one.dial(two.address, two.peer_id)
    one.take(one.transport.dial(two.address, two.peer_id, punch(LINK), 0.0))
    assert len(one.transport.handshakes) == 1
    network.exchange()
    assert one.link_to(two).path_kind is PathKind.PUNCHED


def test_an_ordinary_link_is_direct() -> None:
    network = Network(2)
    network.dial(1, 2)
    assert network[1].link_to(network[2]).path_kind is PathKind.DIRECT
