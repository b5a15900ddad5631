"""Relays: two members that cannot reach each other exchange direct messages through a common peer."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.dial_purpose import LINK
from grapevine_proto.errors import DropReason
from grapevine_proto.events import PathKind
from grapevine_proto.ids import RELAY_NETWORK, Address
from grapevine_proto.transport.events import DirectMessageIn, PacketIn
from grapevine_proto.transport.link.mtud import RELAYED_DATAGRAM_BYTES, MtuDiscovery
from grapevine_proto.transport.relay import Relays, mark_of
from grapevine_proto.transport.transport import SendOutcome
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.messages import RELAY_MARK_BYTES, Introduce, Relayed
from grapevine_proto.wire.packets import BASE_PLAINTEXT_BYTES
from tests.proto.overlay.builders import identity, peer_id, record
from tests.proto.transport.nodes import Network, TransportNode, address_of, linked_to_two


def apart(**changes: Any) -> tuple[Network, TransportNode, TransportNode, TransportNode]:
    """Node 1, with links to nodes 2 and 3, between which no datagram passes; both are behind NATs."""
    network, relay = linked_to_two(**changes)
    ends = {address_of(2), address_of(3)}
    network.is_lost = lambda _, source, to: {source, to} == ends
    for number, other in ((2, 3), (3, 2)):
        attributes = record_attributes(introducers=(peer_id(1)[:8],))
        hidden = replace(record(other), attributes=attributes).signed(identity(other), "default")
        view = network[number].view
        view.records[peer_id(other)] = hidden
        view.introducers[peer_id(other)] = (peer_id(1),)
    return network, relay, network[2], network[3]


def received(node: TransportNode) -> list[bytes]:
    return [each.message.payload for each in node.reported(DirectMessageIn)]


def test_a_direct_message_arrives_through_the_common_peer_within_a_second() -> None:
    network, relay, two, three = apart()
    assert network.send_direct(2, 3, b"hello") is SendOutcome.QUEUED
    network.run(1.0)
    assert received(three) == [b"hello"]
    assert received(relay) == []
    for node, other in ((two, three), (three, two)):
        link = node.transport.transients.get(other.peer_id)
        assert link is not None
        assert link.path_kind is PathKind.RELAYED
        assert link.address.is_via_relay
        assert other.peer_id not in node.transport.links
    assert relay.transport.relays.relayed > 4
    assert len(two.transport.direct) == 0, "it was acknowledged"


def test_the_relay_sees_only_boxes_and_every_datagram_fits_the_smallest_path() -> None:
    network, _, _, three = apart()
    payload = b"secret" * 3000
    assert network.send_direct(2, 3, payload) is SendOutcome.QUEUED
    network.run(5.0)
    assert received(three) == [payload]
    assert max(len(datagram) for datagram, _, _ in network.log) <= 1200
    assert not any(to.is_via_relay or source.is_via_relay for _, source, to in network.log)


def test_a_node_that_does_not_relay_counts_what_it_refuses() -> None:
    network, relay, _, three = apart(relay=False)
    network.send_direct(2, 3, b"hello")
    network.run(2.0)
    assert received(three) == []
    assert relay.transport.relays.relayed == 0
    assert relay.transport.relays.refused > 0


def test_a_direct_path_is_used_if_there_is_one() -> None:
    network, relay, two, three = apart()
    network.is_lost = lambda *_: False
    network.send_direct(2, 3, b"hello")
    network.run(3.0)
    link = two.transport.transients.get(three.peer_id)
    assert link is not None
    assert link.path_kind is not PathKind.RELAYED
    assert relay.transport.relays.relayed == 0


def test_a_relayed_message_is_reported_as_a_packet_at_the_relay_and_at_its_end() -> None:
    network, relay, two, three = apart()
    network.inject(2, 1, Relayed(False, mark_of(three.peer_id), bytes(100)))
    network.exchange()
    assert relay.events == [PacketIn(relay.link_to(two), True, False)]
    assert three.events[0] == PacketIn(three.link_to(relay), True, False)


def test_a_relay_passes_on_between_transient_sessions_too() -> None:
    network = Network(4)
    for number in (4, 2, 3):
        network.open_transient(1, number)
    relay, link = network[1], network[2].transport.transients.get(peer_id(1))
    network.inject(2, 1, Relayed(False, mark_of(peer_id(3)), bytes(100)), link)
    assert (relay.transport.relays.relayed, relay.transport.relays.relayed_bytes) == (1, 100)


def test_the_first_relay_is_tried_after_two_fifths_of_a_second_and_another_after_a_second() -> None:
    network, first, two, three = apart(relay=False)
    others = [network.add(number) for number in (4, 5)]
    for node in others:
        for end in (2, 3):
            network.dial(node.number, end)
    two.view.introducers[three.peer_id] = tuple(node.peer_id for node in (first, *others))
    network.send_direct(2, 3, b"hello")
    tried = []
    for until in (0.39, 0.99, 2.0):
        network.run(until - network.now)
        tried.append((first.transport.relays.refused > 0, others[0].transport.relays.relayed > 0))
    assert tried == [(False, False), (True, False), (True, True)]
    assert received(three) == [b"hello"]
    assert others[1].transport.relays.relayed == 0, "a third one is not asked"


# --- what is refused ------------------------------------------------------------------------------


def relay_once(network: Network, message: Relayed) -> None:
    network.inject(2, 1, message)
    network.exchange()


@pytest.mark.parametrize("mark", [mark_of(peer_id(9)), mark_of(peer_id(2)), bytes(8)])
def test_nothing_is_passed_on_to_a_node_without_a_session_or_back(mark: bytes) -> None:
    network, relay, *_ = apart()
    relay_once(network, Relayed(False, mark, bytes(100)))
    assert (relay.transport.relays.relayed, relay.transport.relays.refused) == (0, 1)


def test_a_sender_beyond_its_bytes_is_refused_and_the_others_are_not() -> None:
    network, relay, *_ = apart()
    full = Relayed(False, mark_of(peer_id(3)), bytes(RELAYED_DATAGRAM_BYTES))
    passed = 512 * 1024 // RELAYED_DATAGRAM_BYTES
    for _ in range(passed + 3):
        network.inject(2, 1, full)
    assert relay.transport.relays.relayed == passed
    assert relay.transport.relays.relayed_bytes == passed * RELAYED_DATAGRAM_BYTES
    assert relay.transport.relays.refused == 3
    network.inject(3, 1, Relayed(False, mark_of(peer_id(2)), bytes(100)))
    assert relay.transport.relays.relayed == passed + 1


def admitted(network: Network, sender: int, size_bytes: int) -> int:
    """How many datagrams of this size node 1 admits at once as those of a peer."""
    relays, link = network[1].transport.relays, network[1].link_to(network[2])
    link.peer_id = peer_id(sender)
    count = 0
    while relays.admit(link, Relayed(False, bytes(8), bytes(size_bytes)), network.now):
        count += 1
    return count


@pytest.mark.parametrize(
    ("size_bytes", "count"), [(1024, 512), (257, 2040), (256, 2048), (1, 2048)]
)
def test_a_peer_has_half_a_mebibyte_in_which_small_datagrams_count_as_256_bytes(
    size_bytes: int, count: int
) -> None:
    assert admitted(apart()[0], 2, size_bytes) == count


def test_a_peer_has_256_kibibytes_a_second_and_all_together_have_two_mebibytes() -> None:
    network, *_ = apart()
    at_once = [admitted(network, sender, 1024) for sender in range(2, 11)]
    assert at_once == [512] * 8 + [0]
    network.now = 1.0
    assert [admitted(network, sender, 1024) for sender in range(2, 11)] == [256] * 8 + [0]


def test_nothing_goes_through_a_relay_without_a_session_or_through_two_relays() -> None:
    network, _, two, three = apart()
    relays = two.transport.relays
    assert relays.wrap(b"x", relays.address_via(peer_id(9), mark_of(peer_id(3)))) is None
    network.send_direct(2, 3, b"hello")
    network.run(1.0)
    assert relays.wrap(b"x", relays.address_via(three.peer_id, bytes(8))) is None
    assert relays.wrap(b"x", relays.address_via(peer_id(1), mark_of(peer_id(3)))) is not None


def test_garbage_from_a_relay_is_dropped_as_from_a_socket() -> None:
    network, _, two, _ = apart()
    network.inject(1, 2, Relayed(True, mark_of(peer_id(3)), b"\x00"))
    network.inject(1, 2, Relayed(True, mark_of(peer_id(3)), bytes(200)))
    assert two.transport.drops.total == 2


def test_a_link_is_not_accepted_through_a_relay() -> None:
    network, _, two, three = apart()
    way = two.transport.relays.address_via(peer_id(1), mark_of(peer_id(3)))
    two.take(two.transport.dial(way, peer_id(3), LINK, network.now))
    network.run(1.0)
    assert peer_id(2) not in three.transport.links
    assert three.dropped(DropReason.UNEXPECTED) > 0


def test_a_relayed_session_relays_and_introduces_nothing() -> None:
    network, _, two, three = apart()
    network.send_direct(2, 3, b"hello")
    network.run(1.0)
    link = two.transport.transients.get(peer_id(3))
    assert link is not None
    for message in (Relayed(False, mark_of(peer_id(1)), bytes(50)), Introduce(peer_id(1), True)):
        sealed = link.session.seal(codec.encode_message(message), network.now)
        source = three.transport.relays.address_via(peer_id(1), mark_of(peer_id(2)))
        three.take(three.transport.receive(sealed, source, network.now, is_relayed=True))
    assert three.transport.relays.refused == 1
    assert three.transport.introducer.refused == 1


def test_no_socket_delivers_from_an_address_of_a_relay() -> None:
    network, *_ = apart()
    network[2].take(network[2].transport.receive(bytes(100), Address("100::1", 1), 0.0))
    assert network[2].dropped(DropReason.UNEXPECTED) == 1


# --- tables and sizes -----------------------------------------------------------------------------


def way(relays: Relays, number: int) -> Address:
    return relays.address_via(peer_id(1), number.to_bytes(8, "big"))


def test_256_ways_are_remembered_and_the_one_unused_for_longest_is_forgotten() -> None:
    network, *_ = apart()
    relays = network[2].transport.relays
    before = relays.has_ways
    ways = [way(relays, number) for number in range(256)]
    assert (before, relays.has_ways) == (False, True)
    way(relays, 0)
    way(relays, 256)
    known = [relays.wrap(b"x", each) is not None for each in ways]
    assert known == [True, False] + [True] * 254


def test_256_senders_have_budgets_and_the_one_that_sent_longest_ago_starts_again() -> None:
    network, *_ = apart()
    for sender in (2, *range(100, 354), 3):
        link = network[1].link_to(network[2])
        link.peer_id = peer_id(sender)
        network[1].transport.relays.admit(link, Relayed(False, bytes(8), bytes(1024)), network.now)
    assert admitted(network, 2, 1024) == 511
    assert admitted(network, 400, 1024) == 512
    assert admitted(network, 100, 1024) == 512, "it was forgotten for the last one"
    assert admitted(network, 3, 1024) == 511


def test_addresses_of_ways_use_all_64_bits_of_the_discard_prefix() -> None:
    _, relay, *_ = apart()
    ways = [way(relay.transport.relays, number) for number in range(16)]
    assert ways[3] == way(relay.transport.relays, 3)
    assert {each.port for each in ways} == {1}
    hosts = [ipaddress.IPv6Address(each.host) for each in ways]
    assert all(host in RELAY_NETWORK for host in hosts)
    suffixes = [int(host) - int(RELAY_NETWORK.network_address) for host in hosts]
    assert max(suffixes).bit_length() == 64
    assert len(set(suffixes)) == 16


def test_a_relayed_datagram_fits_the_datagram_around_it_and_is_not_probed_for_more() -> None:
    inner = Relayed(True, bytes(RELAY_MARK_BYTES), bytes(RELAYED_DATAGRAM_BYTES))
    assert len(codec.encode_message(inner)) <= BASE_PLAINTEXT_BYTES
    path = MtuDiscovery("100::1")
    assert path.datagram_bytes == RELAYED_DATAGRAM_BYTES
    assert path.next_probe_size(0.0) == 0
    path.on_pto()
    assert path.datagram_bytes == RELAYED_DATAGRAM_BYTES
