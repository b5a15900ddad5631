"""The table of links: what is forgotten with a link, and when a peer that does not answer is reported."""

from __future__ import annotations

from typing import Any

from grapevine_proto.ids import Address
from grapevine_proto.transport.link_table import (
    AnsweringChange,
    LinkTable,
)
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, DirectMessage, Heartbeat
from grapevine_proto.wire.rumors import encode_rumor_copy, encode_rumors
from tests.proto.overlay.builders import copy, peer_id
from tests.proto.transport.nodes import address_of, linked, transiently_linked

HEARTBEAT = Heartbeat(1, 0, 0, 0, 0, bytes(16), ())
RUMOR = encode_rumors([encode_rumor_copy(copy(1, 5))])
LEAVE = [codec.encode_message(Close(CloseReason.LEAVING))]


def table_of_one(**changes: Any) -> LinkTable:
    """The table of node 1, which is linked to node 2."""
    _, one, _ = linked(**changes)
    return one.transport.links


def leaving(**changes: Any) -> LinkTable:
    """The table of a node that leaves while a rumor that its peer did not receive is in flight."""
    table = table_of_one(**changes)
    table.enqueue(table[peer_id(2)], RUMOR, 0.0)
    table.collect_datagrams(0.0, hold_open=False)
    table.close_all(LEAVE)
    return table


def left_after_s(table: LinkTable, *, is_settled: bool) -> float:
    """When the leave message of the only link goes out, although nothing is heard of its peer."""
    now = 0.0
    while not table.is_drained:
        table.collect_datagrams(now, hold_open=False, is_settled=is_settled)
        now += 0.01
    return now


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


# --- closed links -------------------------------------------------------------------------------


def test_a_closed_link_repeats_its_close_unless_the_peer_sends_one() -> None:
    network, one, two = linked()
    sealed = [network.seal(2, 1, each) for each in (HEARTBEAT, Close(CloseReason.FULL))]
    table = one.transport.links
    table.disconnect(two.peer_id, CloseReason.FULL, notify=True, now=0.0)
    answers = []
    table.collect_datagrams(0.0, hold_open=False)
    for datagram in sealed:
        packet = codec.decode_packet(datagram)
        assert isinstance(packet, codec.Data)
        assert table.on_closed_packet(packet, 0.0) is not None
        answers.append(len(table.collect_datagrams(0.0, hold_open=False)))
    assert answers == [1, 0]


# --- addresses ----------------------------------------------------------------------------------


def test_a_transient_session_that_moves_leaves_the_address_to_the_link() -> None:
    network, one, two = transiently_linked()
    transient = one.transport.transients.get(two.peer_id)
    network.dial(1, 2)
    assert transient is not None
    link, moved = two.link_to(one), Address("10.0.0.9", 9)
    network.nodes = {moved: one, two.address: two}
    payload = codec.encode_message(DirectMessage(7, bytes(100)))
    two.take(two.transport.receive(transient.session.seal(payload, 0.0), moved, 0.0))
    network.run(3.0)
    session = two.transport.transients.get(one.peer_id)
    assert session is not None
    assert (session.address, link.address) == (moved, address_of(1))
    assert two.transport.links.find_by_address(address_of(1)) is link


# --- peers that do not answer -------------------------------------------------------------------


def test_a_peer_that_cannot_be_sent_to_is_reported_once_a_second() -> None:
    table = table_of_one()
    report = AnsweringChange(peer_id(2), is_answering=False, is_silent=True)
    for now, expected in ((5.0, [report]), (5.99, []), (6.0, [report])):
        table.on_unsendable(address_of(2), now)
        assert table.take_answering_changes() == expected


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
    assert leaving().collect_datagrams(0.0, hold_open=False) == []
    assert len(leaving(batch_delay=0.1).collect_datagrams(0.0, hold_open=False)) == 1
