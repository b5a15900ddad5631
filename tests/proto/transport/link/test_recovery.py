"""What is lost goes again: reports, repeats, the last packet, and when to let go."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.errors import DropReason
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.recovery import PTO_LIMIT, RETRANSMISSIONS_LIMIT
from grapevine_proto.transport.session.ack_tracker import (
    ACK_RANGES_LIMIT,
    MISSING_RANGES_LIMIT,
    AckTracker,
)
from grapevine_proto.wire.codec import encode_message
from grapevine_proto.wire.messages import DirectMessage, Records
from tests.proto.transport.ends import EMPTY, HEARTBEAT, RUMORS, linked_ends
from tests.proto.transport.paths import Road, Roads


def said(number: int, size_bytes: int = 100) -> bytes:
    return encode_message(DirectMessage(number, bytes(size_bytes)))


# --- what a receiver tells ----------------------------------------------------------------------


def arrivals_of(*counters: int, every_s: float = 0.001) -> tuple[AckTracker, float]:
    arrivals, now = AckTracker(), 0.0
    for counter in counters:
        now += every_s
        arrivals.on_packet(counter, now)
        arrivals.schedule_ack(counter, now)
    return arrivals, now


def test_an_ack_is_due_after_the_reordering_window() -> None:
    arrivals = AckTracker()
    arrivals.update_rtt(0.08, 0.02)
    arrivals.on_packet(0, 1.0)
    arrivals.schedule_ack(0, 1.0)
    assert arrivals.due_at == 1.02
    first, end, latest, delay_s, missing = arrivals.build_ack(1.02)
    assert (first, end, latest, missing) == (0, 1, 0, ())
    assert delay_s == pytest.approx(0.02)
    assert arrivals.due_at == float("inf")


def test_under_load_there_is_one_ack_per_rtt() -> None:
    arrivals = AckTracker()
    arrivals.update_rtt(0.08, 0.02)
    reports = 0
    for counter in range(1000):
        now = counter / 1000
        arrivals.on_packet(counter, now)
        arrivals.schedule_ack(counter, now)
        if now >= arrivals.due_at:
            arrivals.build_ack(now)
            reports += 1
    assert reports == pytest.approx(1.0 / 0.08, abs=1)


def test_a_packet_that_may_be_reordered_is_not_reported_missing() -> None:
    arrivals, now = arrivals_of(0, 1, 4)
    assert arrivals.build_ack(now).end == 2
    assert arrivals.build_ack(now + 0.02)[:2] == (0, 2)
    assert arrivals.build_ack(now + 0.04).missing == ((2, 3),)


def test_ranges_that_do_not_fit_go_in_the_next_ack_at_once() -> None:
    arrivals, now = arrivals_of(*range(1, 400, 2))
    told: set[int] = set()
    for _ in range(10):
        now += 0.02
        first, end, _, _, missing = arrivals.build_ack(now)
        assert len(missing) <= ACK_RANGES_LIMIT
        assert all(first <= low <= high < end for low, high in missing)
        told.update(number for low, high in missing for number in range(low, high + 1))
        if arrivals.due_at == float("inf"):
            break
    assert told == set(range(0, 400, 2))


def test_the_number_of_tracked_gaps_is_limited() -> None:
    arrivals, now = arrivals_of(*range(1, 2 * MISSING_RANGES_LIMIT + 2, 2))
    assert len(arrivals._missing) == MISSING_RANGES_LIMIT
    assert not arrivals.claim(0, now)
    assert arrivals.claim(2, now)
    arrivals.on_packet(2**32 - 1, now)
    assert len(arrivals._missing) == MISSING_RANGES_LIMIT
    arrivals.on_packet(2**31, now)  # in two with the largest
    assert len(arrivals._missing) == MISSING_RANGES_LIMIT


def test_a_gap_of_any_width_is_one_range_and_each_number_in_it_is_claimed_once() -> None:
    arrivals, now = arrivals_of(0, 2**32 - 1)
    for counter in (1, 2**32 - 2, 2**31, 2**31 + 1, 2**31 - 1, 2):
        assert arrivals.claim(counter, now)
        assert not arrivals.claim(counter, now)
    assert arrivals._missing == [(3, 2**31 - 2), (2**31 + 2, 2**32 - 3)]


@given(st.lists(st.integers(0, 60), unique=True, min_size=1), st.randoms(use_true_random=False))
def test_an_ack_is_correct_for_each_packet_number(counters: list[int], rng: random.Random) -> None:
    arrivals, now, came = AckTracker(), 0.0, set()
    for counter in counters:
        now += rng.choice([0.001, 0.02])
        arrivals.on_packet(counter, now)
        arrivals.schedule_ack(counter, now)
        came.add(counter)
        if rng.random() < 0.3:
            first, end, latest, _, missing = arrivals.build_ack(now)
            gone = {number for low, high in missing for number in range(low, high + 1)}
            assert gone.isdisjoint(came)
            assert set(range(first, end)) - gone <= came
            assert latest in came


def test_content_is_claimed_by_the_first_packet_that_carries_it() -> None:
    arrivals, now = arrivals_of(0, 2)
    assert arrivals.claim(1, now)
    assert not arrivals.claim(1, now)
    assert not arrivals.claim(2, now)
    assert arrivals.claim(7, now)
    assert not arrivals.claim(7, now)


# --- over a link --------------------------------------------------------------------------------


def test_every_small_message_arrives_once_over_thirty_percent_loss() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(loss=0.3, seed=1), Road(loss=0.3, seed=2), rtt_s=0.05)
    for number in range(300):
        ours.link.send(said(number), roads.now)
        roads.run(0.01)
    roads.run(5.0)

    assert sorted(theirs.got) == sorted(said(number) for number in range(300))
    assert ours.link.send_drops == 0
    assert ours.link.is_idle


def test_reordering_loses_and_duplicates_nothing() -> None:
    roads = Roads()
    road = Road(seed=3)
    ours, theirs = roads.join(road, rtt_s=0.05)
    for number in range(300):
        road.delay_s = road.rng.uniform(0.01, 0.15)
        ours.link.send(said(number), roads.now)
        roads.run(0.01)
    roads.run(5.0)

    assert sorted(theirs.got) == sorted(said(number) for number in range(300))
    late = {DropReason.DUPLICATE, DropReason.REPLAY}
    assert set(theirs.drops) <= late


def test_the_loss_of_the_last_packet_is_detected_after_about_two_rtts() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(), rtt_s=0.05)
    for number in range(5):
        ours.link.send(said(number), roads.now)
        roads.run(0.1)
    ours.there.drops = lambda datagram, now: True
    ours.link.send(said(5), roads.now)
    roads.run(0.01)
    ours.there.drops = lambda datagram, now: False
    took_s = roads.run(1.0, until=lambda: len(theirs.got) == 6)

    assert 0.1 < took_s < 0.25


def test_an_outage_of_five_seconds_loses_nothing() -> None:
    for rate in (0.0, 1_250_000.0):
        roads = Roads()
        ours, theirs = roads.join(Road(rate=rate), Road(), rtt_s=0.05)
        whole = encode_message(DirectMessage(1, bytes(1_000_000)))
        ours.link.send(whole, 0.0)
        roads.run(0.2)
        for road in (ours.there, theirs.there):
            road.drops = lambda datagram, now: True
        for number in range(50):
            ours.link.send(said(number), roads.now)
            roads.run(0.1)
        for road in (ours.there, theirs.there):
            road.drops = lambda datagram, now: False
        roads.run(10.0)

        assert len(theirs.got) == 51
        assert ours.link.send_drops == 0


def test_acks_are_not_acknowledged_and_an_idle_link_is_quiet() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(), rtt_s=0.05)
    for side in (ours, theirs):
        side.link.send(said(1), roads.now)
    roads.run(1.0)
    sent = [side.there.entered for side in (ours, theirs)]
    assert sum(sent) == 4  # two messages, two reports
    roads.run(60.0)
    assert [side.there.entered for side in (ours, theirs)] == sent
    assert all(side.link.transmit_at == math.inf for side in (ours, theirs))


def test_heartbeats_are_neither_acknowledged_nor_retransmitted() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(), rtt_s=0.05)
    ours.link.send(HEARTBEAT, 0.0)
    roads.run(5.0)
    assert (ours.there.entered, theirs.there.entered) == (1, 1)  # and the answer to our handshake
    assert ours.link.is_idle


def test_control_messages_are_retransmitted_too() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(loss=0.5, seed=5), rtt_s=0.05)
    records = encode_message(Records(()))
    for _ in range(20):
        ours.link.send(records, roads.now)
        roads.run(0.2)
    roads.run(3.0)
    assert theirs.got == [records] * 20


def test_after_the_last_pto_everything_in_flight_is_abandoned_and_counted() -> None:
    roads = Roads()
    ours, _ = roads.join(Road(loss=1.0), rtt_s=0.05)
    ours.link.send(said(1), 0.0)
    ours.link.send(encode_message(DirectMessage(2, bytes(5000))), 0.0)
    roads.run(5.0)
    assert ours.link.send_drops == 0
    took_s = 5.0 + roads.run(60.0, until=lambda: ours.link.is_idle)

    assert 8.0 < took_s < 30.0
    assert ours.link.send_drops == 2
    assert ours.there.entered < 6 + 3 * PTO_LIMIT
    entered = ours.there.entered
    roads.run(60.0)
    assert ours.there.entered == entered


def test_content_that_is_always_lost_is_abandoned_while_other_messages_arrive() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(), rtt_s=0.05)
    tries = 0

    def drops(datagram: bytes, now: float) -> bool:
        nonlocal tries
        is_cursed = 900 < len(datagram) < 1100  # and no probe of the path
        tries += is_cursed
        return is_cursed

    ours.there.drops = drops
    ours.link.send(encode_message(DirectMessage(1, bytes(900))), 0.0)
    for number in range(2, 302):
        ours.link.send(said(number), roads.now)
        roads.run(0.02)
    roads.run(5.0)
    assert len(theirs.got) == 300
    assert ours.link.send_drops == 1
    assert RETRANSMISSIONS_LIMIT < tries <= RETRANSMISSIONS_LIMIT + 2


def test_a_lost_message_costs_its_token_once() -> None:
    roads = Roads()
    ours, theirs = roads.join(Road(loss=0.3, seed=9), rtt_s=0.05)
    ours.link.send_limit = TokenBucket(90, 45, 0.0)
    theirs.link.inbound_limit.bucket = TokenBucket(100, 50, 0.0)
    for number in range(250):
        ours.link.send(said(number), 0.0)
    roads.run(10.0)
    assert len(theirs.got) == 250
    assert theirs.link.inbound_limit.throttled == 0


def test_packets_in_flight_during_a_rekey_arrive_once() -> None:
    for seed in range(6):
        world, ada, bob = linked_ends()
        rng = random.Random(seed)
        world.drop = lambda datagram, *_, rng=rng: datagram[0] == 5 and rng.random() < 0.3
        sent = 0
        while world.now < 6.0:
            if 3.0 < world.now < 3.05 and not ada.dials:
                ada.dial(bob.address, world.now, expected=bob.peer_id)
            ada.link.send(said(sent), world.now)
            sent += 1
            world.run(0.02)
        world.run(10.0)

        assert len(ada.established) >= 2
        got = [each for each in bob.opened if each not in (EMPTY, RUMORS)]
        assert sorted(got) == sorted(said(number) for number in range(sent))
