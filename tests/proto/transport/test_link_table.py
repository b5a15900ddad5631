"""The table of links: what is forgotten with a link, and when a peer that does not answer is reported."""

from __future__ import annotations

from typing import Any

import pytest

from grapevine_proto.config.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.events import SessionReady
from grapevine_proto.transport.link_table import AnsweringChange, LinkTable
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, DirectMessage, Heartbeat, Rumors
from grapevine_proto.wire.rumors import encode_rumor_copy, encode_rumors
from tests.proto.overlay.builders import copy, peer_id
from tests.proto.transport.nodes import Network, address_of, linked, transiently_linked

HEARTBEAT = Heartbeat(1, 0, 0, 0, 0, bytes(16), ())
RUMOR = encode_rumors([encode_rumor_copy(copy(1, 5))])
DIRECT = codec.encode_message(DirectMessage(7, bytes(100)))
LEAVE = [codec.encode_message(Close(CloseReason.LEAVING))]


def table_of_one(**changes: Any) -> LinkTable:
    """The table of node 1, which is linked to node 2."""
    _, one, _ = linked(**changes)
    return one.transport.links


def leaving(**changes: Any) -> LinkTable:
    """The table of a node that leaves while a rumor that its peer did not receive is in flight."""
    table = table_of_one(**changes)
    table.enqueue(table[peer_id(2)], RUMOR, 0.0)
    table.collect_datagrams(0.0, hold_open=False, is_settled=False)
    table.close_all(LEAVE)
    return table


def left_after_s(table: LinkTable, *, is_settled: bool) -> float:
    """When the leave message of the only link goes out, although nothing is heard of its peer."""
    now = 0.0
    while not table.is_drained:
        table.collect_datagrams(now, hold_open=False, is_settled=is_settled)
        now += 0.01
    return now


def ready(*numbers: int) -> list[EstablishedSession]:
    """Sessions of another node than 1 with these, for any table."""
    network = Network(0)
    for number in (9, *numbers):
        network.add(number)
    for number in numbers:
        network.dial(9, number)
    return [each.established for each in network[9].reported(SessionReady)]


# --- what is forgotten --------------------------------------------------------------------------


def test_a_discarded_link_is_found_by_nothing() -> None:
    table = table_of_one()
    link = table[peer_id(2)]
    table.linger(link, None, 0.0)
    [session_id] = link.session_ids()
    assert table.find_by_session(session_id) is table.find_closed(session_id) is link
    assert table.find_by_address(address_of(2)) is link
    table.discard(link)
    assert peer_id(2) not in table
    assert table.find_by_session(session_id) is table.find_closed(session_id) is None
    assert table.find_by_address(address_of(2)) is None


def test_a_retired_session_is_not_found_after_its_timeout() -> None:
    network, one, two = linked()
    network.dial(1, 2)
    table, link = one.transport.links, one.link_to(two)
    earlier = set(link.session_ids())
    assert len(earlier) == 2
    table.maintain(link, network.now + 60.0)
    [live] = link.session_ids()
    assert {each for each in earlier if table.find_by_session(each) is link} == {live}


def test_what_a_link_dropped_or_had_not_sent_stays_counted_when_it_ends() -> None:
    table = table_of_one(limits=LimitsConfig(queue_messages=2))
    queued = [table.enqueue(table[peer_id(2)], DIRECT, 0.0) for _ in range(5)]
    assert queued == [True] * 2 + [False] * 3
    assert table.send_drops == 3
    table.disconnect(peer_id(2), None, notify=False, now=0.0)
    assert table.send_drops == 5


def test_rumors_that_waited_for_a_link_are_counted_when_it_ends_or_is_discarded() -> None:
    rumors = Rumors((copy(1, 5), copy(1, 6)))
    table = table_of_one()
    assert table.enqueue_rumors(rumors, [table[peer_id(2)]], 0.0) == 1
    table.disconnect(peer_id(2), None, notify=False, now=0.0)
    assert table.send_drops == 2
    table = table_of_one()
    table.enqueue_rumors(rumors, [table[peer_id(2)]], 0.0)
    table.discard(table[peer_id(2)])
    assert table.send_drops == 2


# --- closed links -------------------------------------------------------------------------------


def test_a_closed_link_repeats_its_close_unless_the_peer_sends_one() -> None:
    network, one, two = linked()
    sealed = [network.seal(2, 1, each) for each in (HEARTBEAT, Close(CloseReason.FULL))]
    table = one.transport.links
    table.disconnect(two.peer_id, CloseReason.FULL, notify=True, now=0.0)
    answers = []
    table.collect_datagrams(0.0, hold_open=False, is_settled=False)
    for datagram in sealed:
        packet = codec.decode_packet(datagram)
        assert isinstance(packet, codec.Data)
        assert table.on_closed_packet(packet, 0.0) is not None
        answers.append(len(table.collect_datagrams(0.0, hold_open=False, is_settled=False)))
    assert answers == [1, 0]


def closed_after(dials: int) -> tuple[LinkTable, list[bytes]]:
    """The table of node 1 after as many links with node 2 were closed, and their sessions."""
    network = Network(2)
    one, sessions = network[1], []
    for number in range(dials):
        network.dial(*((1, 2) if number % 2 else (2, 1)))
        sessions += one.link_to(network[2]).session_ids()
        one.transport.links.disconnect(peer_id(2), CloseReason.FULL, notify=True, now=0.0)
        network.exchange()
    return one.transport.links, sessions


def remembered(table: LinkTable, sessions: list[bytes]) -> list[bool]:
    return [table.find_closed(each) is not None for each in sessions]


def test_64_closed_sessions_are_remembered_for_ten_seconds() -> None:
    table, sessions = closed_after(64)
    assert remembered(table, sessions) == [True] * 64
    assert table.closed_links_evicted == 0
    table.expire_closed(9.99)
    assert remembered(table, sessions) == [True] * 64
    table.expire_closed(10.0)
    assert remembered(table, sessions) == [False] * 64


def test_beyond_64_the_session_closed_longest_ago_is_forgotten_and_counted() -> None:
    table, sessions = closed_after(66)
    assert remembered(table, sessions) == [False, False] + [True] * 64
    assert table.closed_links_evicted == 2


def test_rejected_sessions_are_forgotten_before_those_of_links() -> None:
    table, sessions = closed_after(63)
    established = ready(3, 4)
    for each in established:
        table.reject(each, Close(CloseReason.FULL), 0.0)
    rejected = [each.session.our_id for each in established]
    assert remembered(table, sessions) == [True] * 63
    assert remembered(table, rejected) == [False, True]
    assert table.closed_links_evicted == 1


@pytest.mark.parametrize(("messages", "replays", "throttled"), [(14, 0, 4), (5, 14, 0)])
def test_of_the_packets_on_a_closed_link_only_those_above_its_rate_limit_are_throttled(
    messages: int, replays: int, throttled: int
) -> None:
    network, one, two = linked(rate_limit=RateLimitConfig(capacity=10, refill_rate=1.0))
    network.now = 60.0
    late = [network.seal(1, 2, DIRECT) for _ in range(messages)]
    network.inject(1, 2, Close(CloseReason.LEAVING))
    for datagram in late + late[:1] * replays:
        network.deliver(datagram, 1, 2)
    event = two.transport.links.peer_limits.take_rate_limited_event(one.peer_id, 60.0)
    assert (0 if event is None else event.dropped) == throttled


# --- settings -----------------------------------------------------------------------------------


def test_a_changed_rate_limit_applies_to_links() -> None:
    network, _, two = linked(rate_limit=RateLimitConfig(enabled=False))
    two.reconfigure(rate_limit=RateLimitConfig(capacity=10, refill_rate=1.0))
    for _ in range(14):
        network.inject(1, 2, DIRECT)
    assert two.dropped(DropReason.RATE_LIMITED) == 4


# --- addresses ----------------------------------------------------------------------------------


def test_a_transient_session_that_moves_leaves_the_address_to_the_link() -> None:
    network, one, two = transiently_linked()
    transient = one.transport.transients.get(two.peer_id)
    network.dial(1, 2)
    assert transient is not None
    link, moved = two.link_to(one), Address("10.0.0.9", 9)
    network.nodes = {moved: one, two.address: two}
    two.take(two.transport.receive(transient.session.seal(DIRECT, 0.0), moved, 0.0))
    network.run(3.0)
    session = two.transport.transients.get(one.peer_id)
    assert session is not None
    assert (session.address, link.address) == (moved, address_of(1))
    assert two.transport.links.find_by_address(address_of(1)) is link


def test_a_link_that_moves_is_found_by_its_new_address_alone() -> None:
    network, one, two = linked()
    moved, table = Address("10.0.0.9", 9), two.transport.links
    datagram = network.seal(1, 2, DIRECT)
    network.nodes = {moved: one, two.address: two}
    two.take(two.transport.receive(datagram, moved, 0.0))
    network.run(3.0)
    assert two.link_to(one).address == moved
    assert table.find_by_address(moved) is two.link_to(one)
    assert table.find_by_address(address_of(1)) is None


# --- peers that do not answer -------------------------------------------------------------------


def test_a_peer_that_cannot_be_sent_to_is_reported_once_a_second() -> None:
    table = table_of_one()
    report = AnsweringChange(peer_id(2), is_answering=False, is_silent=True)
    for now, expected in ((5.0, [report]), (5.99, []), (6.0, [report])):
        table.on_unsendable(address_of(2), now)
        assert table.take_answering_changes() == expected


def test_a_peer_that_answers_again_is_reported_once_and_not_as_silent() -> None:
    network, one, two = linked()
    table = one.transport.links
    table.on_unsendable(address_of(2), 0.0)
    table.take_answering_changes()
    one.transport.send([two.peer_id], HEARTBEAT, 0.0)
    table.collect_datagrams(0.0, hold_open=False, is_settled=False)
    assert table.take_answering_changes() == [], "nothing is heard of it yet"
    network.now = 0.1
    network.inject(2, 1, HEARTBEAT)
    table.collect_datagrams(0.1, hold_open=False, is_settled=False)
    assert table.take_answering_changes() == [AnsweringChange(two.peer_id, True, False)]
    assert table.deadline > 0.1


# --- leaving ------------------------------------------------------------------------------------


def test_a_node_that_leaves_waits_for_acknowledgments() -> None:
    table = leaving()
    table.collect_datagrams(0.0, hold_open=False, is_settled=True)
    assert not table.is_drained


def test_a_peer_that_does_not_answer_is_waited_for_only_with_messages_of_this_node() -> None:
    table = leaving()
    settled_s = left_after_s(table, is_settled=True)
    table = leaving()
    assert settled_s < left_after_s(table, is_settled=False) / 2


def test_a_node_that_leaves_asks_at_once_for_acks_that_a_peer_may_delay() -> None:
    assert leaving().collect_datagrams(0.0, hold_open=False, is_settled=False) == []
    assert (
        len(leaving(batch_delay=0.1).collect_datagrams(0.0, hold_open=False, is_settled=False)) == 1
    )
