"""How fast a link sends: over a bottleneck, beside another, over loss."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from grapevine_proto.config.sections import CongestionConfig
from grapevine_proto.transport.link.congestion import (
    MIN_FILTER_LIMIT,
    AckSummary,
    Aimd,
    Pacer,
    RttEstimator,
)
from grapevine_proto.wire.codec import encode_message
from grapevine_proto.wire.messages import DirectMessage
from tests.proto.transport.paths import Road, Roads, Side

MEGABITS_10 = 1_250_000.0  # bytes a second
LARGE = encode_message(DirectMessage(1, random.Random(5).randbytes(10 * 2**20)))


def keep_busy(roads: Roads, *sides: Side, seconds: float) -> None:
    """Let `sides` have something to say all the time."""
    ends_at = roads.now + seconds
    while roads.now < ends_at:
        for side in sides:
            if side.link.queued < 2:
                side.link.send(LARGE, roads.now)
        roads.run(min(0.5, ends_at - roads.now))


def bottleneck(rate: float = MEGABITS_10) -> Road:
    return Road(rate=rate, queue_bytes=64 * 1024, delay_s=0.025)


def seconds_for_ten_mebibytes(loss: float) -> float:
    roads = Roads()
    there = Road(rate=MEGABITS_10, loss=loss, seed=3)
    back = Road(rate=MEGABITS_10, loss=loss, seed=4)
    ours, theirs = roads.join(there, back, rtt_s=0.05)
    ours.link.send(LARGE, 0.0)
    took_s = roads.run(60.0, until=lambda: bool(theirs.got))
    assert theirs.got == [LARGE]
    return took_s


def test_random_loss_costs_repair_and_not_rate() -> None:
    clean_s = seconds_for_ten_mebibytes(0.0)

    assert clean_s < 1.2 * len(LARGE) / MEGABITS_10
    for loss, factor in ((0.01, 1.3), (0.1, 1.6), (0.3, 2.5)):
        assert seconds_for_ten_mebibytes(loss) < factor * clean_s


def test_one_link_uses_a_bottleneck_and_hardly_overflows_it() -> None:
    roads, road = Roads(), bottleneck()
    ours, _ = roads.join(road, rtt_s=0.05)
    keep_busy(roads, ours, seconds=3.0)
    before = road.carried_bytes, road.overflowed, road.entered
    keep_busy(roads, ours, seconds=12.0)
    carried_bytes, overflowed, entered = (
        now - then
        for now, then in zip(
            (road.carried_bytes, road.overflowed, road.entered), before, strict=True
        )
    )

    assert carried_bytes > 0.85 * 12.0 * MEGABITS_10
    assert overflowed < 0.02 * entered


@pytest.mark.parametrize("later_s", [0.0, 4.0])
def test_two_links_share_a_bottleneck(later_s: float) -> None:
    roads, road = Roads(), bottleneck()
    one, other_end_of_one = roads.join(road, rtt_s=0.05)
    keep_busy(roads, one, seconds=later_s)
    two, other_end_of_two = roads.join(road, rtt_s=0.05)
    keep_busy(roads, one, two, seconds=8.0)
    ends = (other_end_of_one, other_end_of_two)
    before = [end.link.received for end in ends]
    keep_busy(roads, one, two, seconds=20.0)
    shares = [end.link.received - then for end, then in zip(ends, before, strict=True)]

    assert max(shares) < 0.6 * sum(shares)
    assert road.carried_bytes > 0.8 * roads.now * MEGABITS_10


def test_the_rate_falls_with_the_bottleneck_within_two_seconds() -> None:
    for warm_s in (6.0, 6.4, 6.8, 7.2):
        roads, road = Roads(), bottleneck()
        ours, _ = roads.join(road, rtt_s=0.05)
        keep_busy(roads, ours, seconds=warm_s)
        road.rate /= 4
        keep_busy(roads, ours, seconds=2.0)

        assert ours.link.path.rate < 1.1 * MEGABITS_10 / 4
        keep_busy(roads, ours, seconds=4.0)
        carried_bytes = road.carried_bytes
        keep_busy(roads, ours, seconds=5.0)
        assert road.carried_bytes - carried_bytes > 0.75 * 5.0 * MEGABITS_10 / 4


def test_small_messages_overtake_a_large_one() -> None:
    roads = Roads()
    ours, theirs = roads.join(bottleneck(), rtt_s=0.05)
    ours.link.send(LARGE, 0.0)
    roads.run(2.0)
    small = encode_message(DirectMessage(2, b"quick"))
    ours.link.send(small, roads.now)

    assert roads.run(1.0, until=lambda: small in theirs.got) < 0.2


def test_no_more_is_on_its_way_than_the_ceiling() -> None:
    roads = Roads()
    congestion = CongestionConfig(in_flight_bytes=65_536)
    ours, theirs = roads.join(Road(delay_s=1.0), rtt_s=0.05, congestion=congestion)
    ours.link.send(LARGE, 0.0)
    roads.run(0.9)

    assert ours.there.entered <= 65_536 // 1200 + 2
    assert theirs.got == []


# --- the controller alone -----------------------------------------------------------------------


def controller(rtt_s: float = 0.05) -> tuple[Aimd, RttEstimator, Callable[..., float]]:
    path = RttEstimator(rtt_s, 10.0)
    aimd = Aimd(CongestionConfig(), path, 1200)
    now = 0.0

    def report(
        *, queue_s: float = 0.0, arrived: int = 40, lost: int = 0, limited: bool = True
    ) -> float:
        """A round trip later: what the rate is now, as a part of what it was."""
        nonlocal now
        now += rtt_s
        before = aimd.rate
        path.on_sample(rtt_s + queue_s, now)
        aimd.on_ack(AckSummary(arrived, 1200 * arrived, lost, now - rtt_s / 2, limited), now)
        return aimd.rate / before

    return aimd, path, report


def test_it_doubles_at_first_and_adds_a_packet_a_round_trip_after_congestion() -> None:
    aimd, _, report = controller()
    assert aimd.rate == 10 * 1200 / 0.05
    assert [report() for _ in range(3)] == [2.0, 2.0, 2.0]
    assert report(queue_s=0.020) == pytest.approx(0.7)
    before = aimd.rate
    report()
    assert aimd.rate - before == pytest.approx(1200 / 0.05)


def test_it_cuts_only_once_for_what_was_sent_before_the_cut() -> None:
    aimd, path, report = controller()
    report()
    report(queue_s=0.020)
    rate = aimd.rate
    path.on_sample(0.08, 0.11)
    aimd.on_ack(AckSummary(40, 48_000, 0, 0.05, True), 0.11)
    assert aimd.rate == rate


def test_loss_that_the_path_always_has_costs_no_rate_and_more_than_that_does() -> None:
    _, _, report = controller()
    for _ in range(30):
        assert report(arrived=36, lost=4) >= 1.0
    assert report(arrived=20, lost=20) == pytest.approx(0.7)


def test_a_queue_that_drains_is_left_to_drain() -> None:
    _, _, report = controller()
    report()
    assert report(queue_s=0.040) < 1.0
    assert report(queue_s=0.030) == 1.0
    assert report(queue_s=0.030) < 1.0


def test_a_rate_that_nobody_uses_does_not_grow() -> None:
    _, _, report = controller()
    assert [report(limited=False) for _ in range(5)] == [1.0] * 5


def test_silence_halves_the_rate_down_to_a_packet_a_round_trip() -> None:
    aimd, _, _ = controller()
    for _ in range(20):
        aimd.on_pto(1.0)
    assert aimd.rate == pytest.approx(1200 / 0.05)


def test_the_rate_has_an_upper_bound() -> None:
    aimd, _, report = controller()
    for _ in range(60):
        report()
    assert aimd.rate == CongestionConfig().max_rate


def test_the_pacer_lets_a_burst_go_and_then_keeps_the_rate() -> None:
    pacer, now, sent = Pacer(12_000, 0.0), 0.0, 0
    while now < 10.0:
        now = max(now, pacer.ready_at(100_000.0))
        pacer.spend(1200, 100_000.0, now)
        sent += 1200
    assert sent == pytest.approx(100_000 * 10 + 12_000, abs=2400)


def test_the_least_round_trip_is_forgotten_after_a_while() -> None:
    path = RttEstimator(None, 10.0)
    for second, sample_s in enumerate([0.05, 0.02] + [0.08] * 12):
        path.on_sample(sample_s, float(second))
    assert path.min_rtt_s == 0.08


def test_ever_longer_round_trips_are_remembered_within_a_cap_and_the_least_of_them_stays() -> None:
    trip = RttEstimator(0.01, 1e9)
    for number in range(MIN_FILTER_LIMIT + 1):
        trip.on_sample(0.01 + number / 1000, float(number))
    assert len(trip._min_samples) == MIN_FILTER_LIMIT
    assert trip.min_rtt_s == 0.01
