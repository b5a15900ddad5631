from __future__ import annotations

import random

import pytest

from grapevine_proto.codec import encode_message
from grapevine_proto.ids import Address
from grapevine_proto.link.pathmtu import (
    BASE_BYTES,
    BLACK_HOLE_LOSSES,
    LOOPBACK_STEPS,
    PROBES,
    RAISE_AFTER_S,
    STEPS,
    PathMtu,
)
from grapevine_proto.messages import Private
from tests.link.roads import Road, Roads

LARGE = encode_message(Private(1, random.Random(5).randbytes(400_000)))


def lose_probes(path: PathMtu, now: float = 0.0) -> None:
    while path.probe_due(now):
        path.probe_sent()
        path.probe_lost(now)


def test_it_begins_at_the_base_and_climbs_step_by_step() -> None:
    path = PathMtu("192.0.2.1")
    assert path.datagram_bytes == BASE_BYTES
    for size_bytes in STEPS:
        assert path.probe_due(0.0) == size_bytes
        path.probe_sent()
        assert path.probe_due(0.0) == 0
        path.probe_arrived(size_bytes)
        assert path.datagram_bytes == size_bytes
    assert path.probe_due(1e9) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1"])
def test_on_loopback_it_climbs_to_what_one_datagram_holds(host: str) -> None:
    path = PathMtu(host)
    for size_bytes in LOOPBACK_STEPS:
        path.probe_sent()
        path.probe_arrived(size_bytes)
    assert path.datagram_bytes == 65_000


def test_a_size_is_given_up_after_three_probes_and_tried_again_after_ten_minutes() -> None:
    path = PathMtu("192.0.2.1")
    for _ in range(PROBES):
        assert path.probe_due(5.0) == STEPS[0]
        path.probe_sent()
        path.probe_lost(5.0)
    assert path.probe_due(5.0 + RAISE_AFTER_S - 1) == 0
    assert path.probe_due(5.0 + RAISE_AFTER_S) == STEPS[0]


def test_what_the_system_refuses_is_not_tried_again() -> None:
    path = PathMtu("192.0.2.1")
    path.probe_sent()
    path.probe_arrived(1452)
    path.probe_sent()
    path.refused(8952, 1.0)
    path.probe_lost(1.0)
    assert (path.datagram_bytes, path.probe_due(2.0)) == (1452, 0)
    path.refused(1452, 3.0)
    assert path.datagram_bytes == BASE_BYTES


def test_large_losses_in_many_reports_are_a_black_hole_and_in_one_an_overflow() -> None:
    path = PathMtu("192.0.2.1")
    path.probe_sent()
    path.probe_arrived(1452)
    path.reported(0, 5 * BLACK_HOLE_LOSSES)
    assert path.datagram_bytes == 1452
    path.reported(1, 100)
    for _ in range(3):
        path.reported(0, BLACK_HOLE_LOSSES)
    assert path.datagram_bytes == BASE_BYTES


# --- over a link --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mtu_bytes", "found"), [(1300, 1200), (1472, 1452), (9000, 8952)])
def test_a_link_finds_what_the_path_bears_and_sends_no_larger(mtu_bytes: int, found: int) -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(mtu_bytes=mtu_bytes), rtt_s=0.05)
    ours.link.send(LARGE, 0.0)
    roads.run(10.0)
    assert theirs.got == [LARGE]
    assert ours.link.path.mtu.datagram_bytes == found
    assert ours.link.lost == 0  # probes are no content


def test_on_loopback_a_link_climbs_to_65_000() -> None:
    roads = Roads()
    ours, theirs = roads.join(
        Road(mtu_bytes=65_507, delay_s=0.0005), rtt_s=0.001, to=Address("127.0.0.1", 9)
    )
    ours.link.send(LARGE, 0.0)
    roads.run(10.0)
    assert theirs.got == [LARGE]
    assert ours.link.path.mtu.datagram_bytes == 65_000


def test_a_path_that_bears_less_than_before_is_noticed_and_nothing_is_lost() -> None:
    roads = Roads()
    road = Road(mtu_bytes=9000, rate=1e6)
    ours, theirs = roads.join(road, rtt_s=0.05)
    for number in range(6):
        ours.link.send(encode_message(Private(number, LARGE)), roads.now)
        roads.run(0.2)
    assert ours.link.path.mtu.datagram_bytes == 8952
    road.mtu_bytes = 1472
    roads.run(20.0)
    assert ours.link.path.mtu.datagram_bytes == 1452
    assert len(theirs.got) == 6 - ours.link.unsent


def test_a_link_that_says_little_probes_nothing() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(mtu_bytes=9000), rtt_s=0.05)
    for number in range(20):
        ours.link.send(encode_message(Private(number, bytes(800))), roads.now)
        roads.run(0.1)
    assert len(theirs.got) == 20
    assert ours.there.entered == 20
