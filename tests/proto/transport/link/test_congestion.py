"""Congestion control: links over a bottleneck, beside another link, over random loss."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from grapevine_proto.config.sections import CongestionConfig
from grapevine_proto.transport.link.congestion import AckSummary, Aimd, Pacer
from grapevine_proto.transport.link.rtt import RttEstimator
from grapevine_proto.wire.codec import encode_message
from grapevine_proto.wire.messages import DirectMessage
from tests.proto.transport.paths import OneWayPath, PathNetwork, Side

MEGABITS_10 = 1_250_000.0  # bytes a second
LARGE = encode_message(DirectMessage(1, random.Random(5).randbytes(10 * 2**20)))


def keep_busy(network: PathNetwork, *sides: Side, seconds: float) -> None:
    """Keeps the send queues of `sides` filled for `seconds`."""
    ends_at = network.now + seconds
    while network.now < ends_at:
        for side in sides:
            if side.link.queued < 2:
                side.link.send(LARGE, network.now)
        network.run(min(0.5, ends_at - network.now))


def bottleneck(rate: float = MEGABITS_10) -> OneWayPath:
    return OneWayPath(rate=rate, queue_bytes=64 * 1024, delay_s=0.025)


def seconds_for_ten_mebibytes(loss: float) -> float:
    network = PathNetwork()
    there = OneWayPath(rate=MEGABITS_10, loss=loss, seed=3)
    back = OneWayPath(rate=MEGABITS_10, loss=loss, seed=4)
    ours, theirs = network.join(there, back, rtt_s=0.05)
    ours.link.send(LARGE, 0.0)
    duration_s = network.run(60.0, until=lambda: bool(theirs.got))
    assert theirs.got == [LARGE]
    return duration_s


def test_random_loss_costs_retransmissions_and_not_rate() -> None:
    clean_s = seconds_for_ten_mebibytes(0.0)

    assert clean_s < 1.2 * len(LARGE) / MEGABITS_10
    for loss, factor in ((0.01, 1.3), (0.1, 1.6), (0.3, 2.5)):
        assert seconds_for_ten_mebibytes(loss) < factor * clean_s


def test_one_link_fills_a_bottleneck_and_overflows_it_rarely() -> None:
    network, path = PathNetwork(), bottleneck()
    ours, _ = network.join(path, rtt_s=0.05)
    keep_busy(network, ours, seconds=3.0)
    before = path.carried_bytes, path.overflowed, path.entered
    keep_busy(network, ours, seconds=12.0)
    carried_bytes, overflowed, entered = (
        now - then
        for now, then in zip(
            (path.carried_bytes, path.overflowed, path.entered), before, strict=True
        )
    )

    assert carried_bytes > 0.85 * 12.0 * MEGABITS_10
    assert overflowed < 0.02 * entered


@pytest.mark.parametrize("later_s", [0.0, 4.0])
def test_two_links_share_a_bottleneck(later_s: float) -> None:
    network, path = PathNetwork(), bottleneck()
    one, far_end_of_one = network.join(path, rtt_s=0.05)
    keep_busy(network, one, seconds=later_s)
    two, far_end_of_two = network.join(path, rtt_s=0.05)
    keep_busy(network, one, two, seconds=8.0)
    ends = (far_end_of_one, far_end_of_two)
    before = [end.link.received for end in ends]
    keep_busy(network, one, two, seconds=20.0)
    shares = [end.link.received - then for end, then in zip(ends, before, strict=True)]

    assert max(shares) < 0.6 * sum(shares)
    assert path.carried_bytes > 0.8 * network.now * MEGABITS_10


def test_the_rate_follows_a_slower_bottleneck_within_two_seconds() -> None:
    for warm_s in (6.0, 6.4, 6.8, 7.2):
        network, path = PathNetwork(), bottleneck()
        ours, _ = network.join(path, rtt_s=0.05)
        keep_busy(network, ours, seconds=warm_s)
        path.rate /= 4
        keep_busy(network, ours, seconds=2.0)

        assert ours.link.path.rate < 1.1 * MEGABITS_10 / 4
        keep_busy(network, ours, seconds=4.0)
        carried_bytes = path.carried_bytes
        keep_busy(network, ours, seconds=5.0)
        assert path.carried_bytes - carried_bytes > 0.75 * 5.0 * MEGABITS_10 / 4


def test_small_messages_overtake_a_large_one() -> None:
    network = PathNetwork()
    ours, theirs = network.join(bottleneck(), rtt_s=0.05)
    ours.link.send(LARGE, 0.0)
    network.run(2.0)
    small = encode_message(DirectMessage(2, b"quick"))
    ours.link.send(small, network.now)

    assert network.run(1.0, until=lambda: small in theirs.got) < 0.2


def test_bytes_in_flight_stay_below_the_limit() -> None:
    network = PathNetwork()
    congestion = CongestionConfig(in_flight_bytes=65_536)
    ours, theirs = network.join(OneWayPath(delay_s=1.0), rtt_s=0.05, congestion=congestion)
    ours.link.send(LARGE, 0.0)
    network.run(0.9)

    assert ours.there.entered <= 65_536 // 1200 + 2
    assert theirs.got == []


# --- the controller alone -------------------------------------------------------------------------


def controller(rtt_s: float = 0.05) -> tuple[Aimd, RttEstimator, Callable[..., float]]:
    rtt = RttEstimator(rtt_s, 10.0)
    aimd = Aimd(CongestionConfig(), rtt, 1200)
    now = 0.0

    def report(
        *, queue_s: float = 0.0, acked: int = 40, lost: int = 0, pacing_limited: bool = True
    ) -> float:
        """Receives an ACK one RTT later. Returns the new rate divided by the old one."""
        nonlocal now
        now += rtt_s
        before = aimd.rate
        rtt.on_sample(rtt_s + queue_s, now)
        aimd.on_ack(AckSummary(acked, 1200 * acked, lost, now - rtt_s / 2, pacing_limited), now)
        return aimd.rate / before

    return aimd, rtt, report


def test_slow_start_doubles_the_rate_and_afterwards_it_grows_by_a_packet_per_rtt() -> None:
    aimd, _, report = controller()
    assert aimd.rate == 10 * 1200 / 0.05
    assert [report() for _ in range(3)] == [2.0, 2.0, 2.0]
    assert report(queue_s=0.020) == pytest.approx(0.7)
    before = aimd.rate
    report()
    assert aimd.rate - before == pytest.approx(1200 / 0.05)


def test_packets_sent_before_a_decrease_cause_no_second_one() -> None:
    aimd, rtt, report = controller()
    report()
    report(queue_s=0.020)
    rate = aimd.rate
    rtt.on_sample(0.08, 0.11)
    aimd.on_ack(AckSummary(40, 48_000, 0, 0.05, True), 0.11)
    assert aimd.rate == rate


def test_the_usual_loss_of_a_path_costs_no_rate_and_more_loss_does() -> None:
    _, _, report = controller()
    for _ in range(30):
        assert report(acked=36, lost=4) >= 1.0
    assert report(acked=20, lost=20) == pytest.approx(0.7)


def test_loss_beyond_four_deviations_and_two_packets_costs_rate() -> None:
    tolerated = {0: 2, 4: 13}  # of 40 packets; 4 + 4 * sqrt(40 * 0.1 * 0.9) + 2 = 13.6
    for usual, most in tolerated.items():
        for lost, factor in ((most, 1.0), (most + 1, 0.7)):
            _, _, report = controller()
            for _ in range(30):
                report(acked=40 - usual, lost=usual)
            assert report(acked=40 - lost, lost=lost, pacing_limited=False) == pytest.approx(factor)


def test_a_sample_of_loss_counts_for_a_sixteenth_of_the_usual_loss() -> None:
    for lost, factor in ((189_000, 1.0), (189_100, 0.7)):  # 187,500 + 4 deviations of 390.3 + 2
        _, _, report = controller()
        report(acked=80, lost=20)
        report(acked=100)
        rate = report(acked=1_000_000 - lost, lost=lost, pacing_limited=False)
        assert rate == pytest.approx(factor)


def test_delay_up_to_three_times_the_jitter_is_no_queue() -> None:
    for queue_s, is_queue in ((0.050, False), (0.070, True)):
        _, rtt, report = controller()
        report()
        rtt.jitter_s = 0.020
        assert (report(queue_s=queue_s) < 1.0) is is_queue
        assert 0.020 < rtt.jitter_s < 0.0235


def test_a_draining_queue_causes_no_further_decrease() -> None:
    _, _, report = controller()
    report()
    assert report(queue_s=0.040) < 1.0
    assert report(queue_s=0.030) == 1.0
    assert report(queue_s=0.030) < 1.0


def test_the_rate_does_not_grow_while_the_application_limits_sending() -> None:
    _, _, report = controller()
    assert [report(pacing_limited=False) for _ in range(5)] == [1.0] * 5


def test_each_pto_halves_the_rate_down_to_a_packet_per_rtt() -> None:
    aimd, _, _ = controller()
    for _ in range(20):
        aimd.on_pto(1.0)
    assert aimd.rate == pytest.approx(1200 / 0.05)


def test_the_rate_is_limited_by_the_configuration() -> None:
    aimd, _, report = controller()
    for _ in range(60):
        report()
    assert aimd.rate == CongestionConfig().max_rate


def test_the_pacer_permits_a_burst_and_then_keeps_to_the_rate() -> None:
    pacer, now, sent = Pacer(12_000, 0.0), 0.0, 0
    while now < 10.0:
        now = max(now, pacer.ready_at(100_000.0))
        pacer.spend(1200, 100_000.0, now)
        sent += 1200
    assert sent == pytest.approx(100_000 * 10 + 12_000, abs=2400)


def at_an_eighth() -> tuple[Aimd, RttEstimator]:
    """A controller on a path with an RTT of 0.125 s, where a queue of 0.03125 s is tolerated."""
    rtt = RttEstimator(0.125, 10.0)
    aimd = Aimd(CongestionConfig(), rtt, 1200)
    rtt.on_sample(0.125, 0.0)
    return aimd, rtt


def ack(aimd: Aimd, now: float, sent_at: float, *, pacing_limited: bool = True) -> float:
    """An ACK without losses of a packet sent at `sent_at`. Returns the new rate divided by the old one."""
    before = aimd.rate
    aimd.on_ack(AckSummary(1, 1200, 0, sent_at, pacing_limited), now)
    return aimd.rate / before


def test_the_first_rate_assumes_an_rtt_of_at_least_a_millisecond() -> None:
    assert controller(0.0001)[0].rate == 10 * 1200 / 0.001
    assert controller(0.002)[0].rate == 10 * 1200 / 0.002


def test_three_rounds_are_in_flight_and_at_least_twice_the_first_packets() -> None:
    aimd = controller(0.1)[0]
    aimd.rate = 1_000_000.0
    assert aimd.window_bytes == pytest.approx(3 * 1_000_000 * (0.1 + 0.025))
    aimd.rate = 1200.0
    assert aimd.window_bytes == 2 * 10 * 1200
    aimd.rate = 1e12
    assert aimd.window_bytes == CongestionConfig().in_flight_bytes


def test_larger_packets_raise_the_least_rate_and_window() -> None:
    aimd = controller()[0]
    for _ in range(20):
        aimd.on_pto(1.0)
    aimd.on_packet_size(9000)
    assert aimd.rate == pytest.approx(9000 / 0.05)
    assert aimd.window_bytes == 2 * 10 * 9000


@pytest.mark.parametrize(("queue_s", "factor"), [(0.03125, 2.0), (0.032, 0.7)])
def test_delay_up_to_the_tolerated_one_is_no_queue(queue_s: float, factor: float) -> None:
    aimd, rtt = at_an_eighth()
    rtt.on_sample(0.125 + queue_s, 1.0)
    assert ack(aimd, 1.0, 0.9) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("queue_s", "sent_after_s", "decreases"),
    [
        (0.0625, 0.1, 1),
        (0.0625, 0.125, 1),
        (0.0625, 0.126, 2),  # a short queue has one RTT to drain
        (0.063, 0.0, 1),
        (0.063, 0.001, 2),  # one of more than twice the tolerated delay has none
    ],
)
def test_a_short_queue_has_an_rtt_to_drain_and_a_long_one_has_none(
    queue_s: float, sent_after_s: float, decreases: int
) -> None:
    aimd, rtt = at_an_eighth()
    for sent_at, now in ((0.5, 1.0), (1.0 + sent_after_s, 1.25)):
        rtt.on_sample(0.125 + queue_s, now)
        ack(aimd, now, sent_at)
    assert aimd.decreases == decreases


def test_only_packets_sent_since_the_last_increase_prove_that_more_is_possible() -> None:
    aimd, _ = at_an_eighth()
    assert ack(aimd, 1.0, 0.5) == 2.0
    assert ack(aimd, 1.125, 0.999) == 1.0
    assert ack(aimd, 1.25, 1.0) == 2.0


@pytest.mark.parametrize(("sent_at", "factor"), [(0.999, 0.35), (1.0, 0.7)])
def test_a_queue_of_packets_before_an_increase_takes_it_back(sent_at: float, factor: float) -> None:
    aimd, rtt = at_an_eighth()
    ack(aimd, 1.0, 0.5)
    rtt.on_sample(0.25, 1.125)
    assert ack(aimd, 1.125, sent_at) == pytest.approx(factor)


def test_after_the_slow_start_no_increase_is_taken_back() -> None:
    aimd, rtt = at_an_eighth()
    ack(aimd, 1.0, 0.5)
    rtt.on_sample(0.25, 1.125)
    ack(aimd, 1.125, 1.0)
    rtt.on_sample(0.125, 2.0)
    assert ack(aimd, 2.0, 1.5) > 1.0
    rtt.on_sample(0.25, 2.125)
    assert ack(aimd, 2.125, 1.75) == pytest.approx(0.7)


def test_the_rate_grows_by_the_share_of_an_rtt_that_has_passed() -> None:
    aimd, _ = at_an_eighth()
    aimd.on_pto(0.5)
    grown = []
    for now in (1.0, 1.0625, 2.0):
        before = aimd.rate
        ack(aimd, now, now - 0.01)
        grown.append(aimd.rate - before)
    packet = 1200 / 0.125
    assert grown == pytest.approx([packet, packet / 2, packet])


def test_a_pto_ends_the_slow_start_and_packets_sent_before_it_decrease_nothing() -> None:
    aimd, rtt = at_an_eighth()
    before = aimd.rate
    aimd.on_pto(1.0)
    assert aimd.rate == before / 2
    rtt.on_sample(0.25, 1.125)
    assert ack(aimd, 1.125, 0.999) == 1.0
    assert aimd.decreases == 0
    rtt.on_sample(0.125, 2.0)
    assert ack(aimd, 2.0, 1.9) < 2.0


def test_loss_is_judged_by_32_packets() -> None:
    _, _, report = controller()
    report(acked=31)
    report(acked=1)  # the first sample, without a loss
    assert report(acked=28, lost=3, pacing_limited=False) == 1.0
    assert report(acked=1, pacing_limited=False) == pytest.approx(0.7)


def test_loss_is_compared_with_the_lowest_usual_loss_and_not_the_latest() -> None:
    _, _, report = controller()
    report(acked=100)
    for _ in range(2):
        assert report(acked=97, lost=3, pacing_limited=False) == pytest.approx(0.7)
