"""Path MTU discovery: probes, black holes and refused sizes."""

from __future__ import annotations

import random

import pytest

from grapevine_proto.ids import RELAY_HOST_PREFIX, Address
from grapevine_proto.transport.link.mtud import (
    MtuDiscovery,
)
from grapevine_proto.wire.codec import encode_message
from grapevine_proto.wire.messages import DirectMessage
from tests.proto.transport.paths import OneWayPath, PathNetwork

LARGE = encode_message(DirectMessage(1, random.Random(5).randbytes(400_000)))


def lose_probes(path: MtuDiscovery, now: float = 0.0) -> None:
    while path.next_probe_size(now):
        path.on_probe_sent()
        path.on_probe_lost(now)


def test_the_search_starts_at_the_base_size_and_climbs_in_steps() -> None:
    path = MtuDiscovery("192.0.2.1")
    assert path.datagram_bytes == 1200
    for size_bytes in (1452, 8952):
        assert path.next_probe_size(0.0) == size_bytes
        path.on_probe_sent()
        assert path.next_probe_size(0.0) == 0
        path.on_probe_acked(size_bytes)
        assert path.datagram_bytes == size_bytes
    assert path.next_probe_size(1e9) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1"])
def test_on_loopback_the_search_climbs_to_the_largest_datagram(host: str) -> None:
    path = MtuDiscovery(host)
    for size_bytes in (8952, 32_000, 65_000):
        path.on_probe_sent()
        path.on_probe_acked(size_bytes)
    assert path.datagram_bytes == 65_000


def test_after_three_lost_probes_the_search_pauses_for_ten_minutes() -> None:
    path = MtuDiscovery("192.0.2.1")
    for _ in range(3):
        assert path.next_probe_size(5.0) == 1452
        path.on_probe_sent()
        path.on_probe_lost(5.0)
    assert path.next_probe_size(604.0) == 0
    assert path.next_probe_size(605.0) == 1452


def test_a_size_refused_by_the_system_is_not_retried() -> None:
    path = MtuDiscovery("192.0.2.1")
    path.on_probe_sent()
    path.on_probe_acked(1452)
    path.on_probe_sent()
    path.on_emsgsize(8952, 1.0)
    path.on_probe_lost(1.0)
    assert (path.datagram_bytes, path.next_probe_size(2.0)) == (1452, 0)
    path.on_emsgsize(1452, 3.0)
    assert path.datagram_bytes == 1200


def test_losses_in_several_acks_are_a_black_hole_and_in_one_an_overflow() -> None:
    path = MtuDiscovery("192.0.2.1")
    path.on_probe_sent()
    path.on_probe_acked(1452)
    path.on_ack(0, 60)
    assert path.datagram_bytes == 1452
    path.on_ack(1, 100)
    for _ in range(3):
        path.on_ack(0, 12)
    assert path.datagram_bytes == 1200


# --- over a link ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mtu_bytes", "found"), [(1300, 1200), (1472, 1452), (9000, 8952)])
def test_a_link_discovers_the_path_mtu_and_never_exceeds_it(mtu_bytes: int, found: int) -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(mtu_bytes=mtu_bytes), rtt_s=0.05)
    ours.link.send(LARGE, 0.0)
    network.run(10.0)
    assert theirs.got == [LARGE]
    assert ours.link.path.mtu.datagram_bytes == found
    assert ours.link.packets_lost == 0  # probes are no content


def test_on_loopback_a_link_climbs_to_65_000() -> None:
    network = PathNetwork()
    ours, theirs = network.join(
        OneWayPath(mtu_bytes=65_507, delay_s=0.0005), rtt_s=0.001, to=Address("127.0.0.1", 9)
    )
    ours.link.send(LARGE, 0.0)
    network.run(10.0)
    assert theirs.got == [LARGE]
    assert ours.link.path.mtu.datagram_bytes == 65_000


def test_a_smaller_path_mtu_is_detected_and_nothing_is_lost() -> None:
    network = PathNetwork()
    path = OneWayPath(mtu_bytes=9000, rate=1e6)
    ours, theirs = network.join(path, rtt_s=0.05)
    for number in range(6):
        ours.link.send(encode_message(DirectMessage(number, LARGE)), network.now)
        network.run(0.2)
    assert ours.link.path.mtu.datagram_bytes == 8952
    path.mtu_bytes = 1472
    network.run(20.0)
    assert ours.link.path.mtu.datagram_bytes == 1452
    assert len(theirs.got) == 6 - ours.link.send_drops


def test_a_link_with_small_messages_does_not_probe() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(mtu_bytes=9000), rtt_s=0.05)
    for number in range(20):
        ours.link.send(encode_message(DirectMessage(number, bytes(800))), network.now)
        network.run(0.1)
    assert len(theirs.got) == 20
    assert ours.there.entered == 20


def test_datagrams_have_the_documented_sizes() -> None:
    def climb(host: str) -> list[int]:
        path, sizes = MtuDiscovery(host), []
        while size_bytes := path.next_probe_size(0.0):
            path.on_probe_sent()
            path.on_probe_acked(size_bytes)
            sizes.append(path.datagram_bytes)
        return sizes

    assert climb("192.0.2.1") == [1452, 8952]
    assert climb("127.0.0.1") == [8952, 32_000, 65_000]
    assert MtuDiscovery("192.0.2.1").datagram_bytes == 1200


def test_an_acknowledged_probe_of_another_size_changes_nothing() -> None:
    path = MtuDiscovery("192.0.2.1")
    for size_bytes in (1452, 8952):
        path.on_probe_sent()
        path.on_probe_acked(size_bytes + 1)
        path.on_probe_acked(size_bytes)
    for size_bytes in (1452, 8952, 65_000):
        path.on_probe_acked(size_bytes)  # the search is complete
    assert path.datagram_bytes == 8952
    assert path.next_probe_size(0.0) == 0


def test_a_search_ends_after_three_losses_of_a_size_for_ten_minutes() -> None:
    path = MtuDiscovery("192.0.2.1")
    for _ in range(3):
        assert path.next_probe_size(0.0) == 1452
        path.on_probe_sent()
        path.on_probe_lost(5.0)
    assert path.next_probe_size(604.9) == 0
    assert path.next_probe_size(605.0) == 1452


def at_1452() -> MtuDiscovery:
    """Discovery that has found 1,452 bytes."""
    path = MtuDiscovery("192.0.2.1")
    path.on_probe_sent()
    path.on_probe_acked(1452)
    return path


@pytest.mark.parametrize(
    ("lost", "found"), [((4, 4, 4), 1200), ((4, 4, 3), 1452), ((6, 6), 1452), ((4, 4, 3, 1), 1200)]
)
def test_twelve_losses_in_three_acks_return_to_the_base_size(
    lost: tuple[int, ...], found: int
) -> None:
    path = at_1452()
    for count in lost:
        path.on_ack(0, count)
    assert path.datagram_bytes == found


def test_an_acknowledged_large_datagram_starts_the_count_of_losses_again() -> None:
    path = at_1452()
    for _ in range(2):
        path.on_ack(0, 11)
    path.on_ack(1, 11)
    for count, found in ((4, 1452), (4, 1452), (3, 1452), (1, 1200)):
        path.on_ack(0, count)
        assert path.datagram_bytes == found


def test_a_larger_datagram_starts_the_counts_again() -> None:
    path = MtuDiscovery("192.0.2.1")
    for _ in range(2):
        path.on_probe_sent()
        path.on_probe_lost(0.0)
    for _ in range(3):
        path.on_ack(0, 3)
    path.on_probe_sent()
    path.on_probe_acked(1452)
    for count, found in ((11, 1452), (1, 1200)):
        path.on_ack(0, count)
        assert path.datagram_bytes == found
    path = at_1452()
    for _ in range(2):
        path.on_probe_sent()
        path.on_probe_lost(0.0)
    assert path.next_probe_size(0.0) == 8952, "a third probe of that size"


def test_after_the_return_to_the_base_size_the_search_begins_again_at_once() -> None:
    path = at_1452()
    path.on_probe_sent()
    path.on_pto()
    assert (path.datagram_bytes, path.next_probe_size(0.0)) == (1200, 1452)
    for count in (4, 4, 3):
        path.on_ack(0, count)
    path.on_probe_sent()
    path.on_probe_acked(1452)
    assert path.datagram_bytes == 1452


def test_each_search_has_three_probes() -> None:
    path = MtuDiscovery("192.0.2.1")
    for began_at in (0.0, 600.0, 1200.0):
        sent = 0
        while path.next_probe_size(began_at):
            path.on_probe_sent()
            path.on_probe_lost(began_at)
            sent += 1
        assert sent == 3


def test_a_refusal_by_the_system_after_the_search_changes_nothing() -> None:
    path = at_1452()
    path.on_probe_sent()
    path.on_probe_acked(8952)
    path.on_emsgsize(65_000, 1.0)
    assert (path.datagram_bytes, path.next_probe_size(1e9)) == (8952, 0)


def test_through_a_relay_datagrams_have_1120_bytes_and_no_probe_goes() -> None:
    path = MtuDiscovery(f"{RELAY_HOST_PREFIX}1")
    assert (path.datagram_bytes, path.next_probe_size(0.0)) == (1120, 0)
    path.on_pto()
    assert path.datagram_bytes == 1120
