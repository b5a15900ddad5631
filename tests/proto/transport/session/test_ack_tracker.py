"""ACK tracking: losses are reported six times, reordered packets are not, and the state is bounded."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from grapevine_proto.transport.session.ack_tracker import (
    AckRanges,
    AckTracker,
)

STEP_S = 0.1  # well above the reordering window


def receive(tracker: AckTracker, *counters: int, now: float) -> None:
    for counter in counters:
        tracker.on_packet(counter, now)
        tracker.schedule_ack(counter, now)


def next_ack(tracker: AckTracker, counter: int, now: float) -> AckRanges:
    """Receives one packet and builds the ACK that follows it."""
    receive(tracker, counter, now=now)
    return tracker.build_ack(max(now, tracker.due_at))


def test_without_packets_no_ack_is_due() -> None:
    assert AckTracker().due_at == math.inf


def test_packets_in_order_are_acknowledged_as_one_range() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 1, 2, now=0.0)
    assert tracker.due_at > 0.0
    ack = tracker.build_ack(tracker.due_at)

    assert (ack.first, ack.end, ack.latest, ack.missing) == (0, 3, 2, ())
    assert tracker.due_at == math.inf


def test_a_packet_within_the_reordering_window_is_neither_missing_nor_acknowledged() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, now=0.0)
    ack = tracker.build_ack(0.0)

    assert (ack.first, ack.end, ack.missing) == (0, 1, ())
    assert tracker.due_at < math.inf


def test_later_packets_do_not_shorten_the_reordering_window() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, 3, 4, now=5.0)
    ack = tracker.build_ack(5.001)

    assert (ack.end, ack.missing) == (1, ())


def test_a_loss_is_reported_in_as_many_acks_as_documented() -> None:
    tracker, reports = AckTracker(), 0
    receive(tracker, 0, 2, now=0.0)
    for number in range(3, 40):
        reports += (1, 1) in next_ack(tracker, number, number * STEP_S).missing

    assert reports == 6


def test_one_ack_reports_a_limited_number_of_losses_and_the_next_one_follows_at_once() -> None:
    tracker = AckTracker()
    receive(tracker, *range(0, 256, 2), now=0.0)
    receive(tracker, 256, now=STEP_S)
    receive(tracker, 257, now=2 * STEP_S)
    ack = tracker.build_ack(3 * STEP_S)

    assert len(ack.missing) == 64
    assert tracker.due_at == 3 * STEP_S


def test_the_number_of_missing_ranges_is_limited() -> None:
    tracker = AckTracker()
    for counter in range(0, 4 * 2048, 2):
        tracker.on_packet(counter, 0.0)

    assert len(tracker._missing) == 2048


def test_the_content_of_a_packet_is_claimed_once() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, now=0.0)

    assert tracker.claim(1, 0.0)
    assert not tracker.claim(1, 0.0)
    assert not tracker.claim(2, 0.0)
    assert tracker.claim(7, 0.0)
    assert not tracker.claim(7, 0.0)


# --- at the limits ------------------------------------------------------------------------------


def tracker_with_losses(*arrived: int) -> AckTracker:
    """A tracker on which these packets arrived long ago, so that all others before the last are lost."""
    tracker = AckTracker()
    receive(tracker, *arrived, now=0.0)
    last = arrived[-1]
    receive(tracker, last + 1, now=STEP_S)
    receive(tracker, last + 2, now=2 * STEP_S)
    return tracker


def test_an_ack_is_due_after_the_reordering_window_and_an_rtt_after_the_last_one() -> None:
    tracker = AckTracker()
    receive(tracker, 0, now=5.0)
    assert tracker.due_at == 5.010
    tracker.update_rtt(0.2, 0.05)
    receive(tracker, 1, now=5.001)
    assert tracker.due_at == 5.010, "later packets do not postpone it"
    tracker.build_ack(5.010)
    receive(tracker, 2, now=5.020)
    assert tracker.due_at == 5.210
    tracker.build_ack(5.210)
    receive(tracker, 3, now=6.0)
    assert tracker.due_at == 6.05


def test_an_ack_that_does_not_wait_keeps_its_time_when_the_round_trip_shrinks() -> None:
    tracker = AckTracker()
    tracker.update_rtt(0.2, 0.05)
    receive(tracker, 0, now=5.0)
    tracker.update_rtt(0.02, 0.01)
    receive(tracker, 1, now=5.001)
    assert tracker.due_at == 5.05


def test_an_ack_names_the_highest_packet_that_elicits_one_and_its_age() -> None:
    tracker = AckTracker()
    receive(tracker, 4, now=1.0)
    receive(tracker, 2, now=1.25)
    tracker.on_packet(5, 1.25)
    ack = tracker.build_ack(1.5)
    assert (ack.latest, ack.ack_delay_s, ack.end) == (4, 0.5, 6)


def test_losses_are_reported_with_both_ends() -> None:
    ack = tracker_with_losses(0, 2, 6, 7, 9).build_ack(3 * STEP_S)
    assert ack == AckRanges(0, 12, 11, 3 * STEP_S - 2 * STEP_S, ((1, 1), (3, 5), (8, 8)))


def test_what_may_still_arrive_ends_the_acknowledged_range() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 1, 5, now=0.0)
    ack = tracker.build_ack(0.0)
    assert (ack.first, ack.end, ack.missing) == (0, 2, ())
    assert tracker.due_at == 0.010, "the rest is due after the window"
    receive(tracker, 6, now=STEP_S)
    receive(tracker, 7, now=2 * STEP_S)
    ack = tracker.build_ack(3 * STEP_S)
    assert (ack.first, ack.end, ack.missing) == (0, 8, ((2, 4),))


def test_a_late_packet_splits_the_gap_it_fills() -> None:
    tracker = tracker_with_losses(0, 10)
    receive(tracker, 5, now=2 * STEP_S)
    assert tracker.build_ack(3 * STEP_S).missing == ((1, 4), (6, 9))
    receive(tracker, 1, 4, 6, 9, now=3 * STEP_S)
    assert tracker.build_ack(4 * STEP_S).missing == ((2, 3), (7, 8))
    receive(tracker, 2, 3, 7, 8, now=4 * STEP_S)
    assert tracker.build_ack(5 * STEP_S).missing == ()


def test_a_packet_that_arrives_twice_changes_nothing() -> None:
    tracker = tracker_with_losses(0, 2)
    for counter in (0, 2, 3):
        tracker.on_packet(counter, 3 * STEP_S)
        assert not tracker.claim(counter, 3 * STEP_S)
    assert tracker.highest == 4
    assert tracker.build_ack(3 * STEP_S).missing == ((1, 1),)


def test_six_acks_report_a_loss_and_then_begin_above_it() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, now=0.0)
    seen = [next_ack(tracker, number, number * STEP_S) for number in range(3, 13)]
    assert [bool(ack.missing) for ack in seen].count(True) == 6
    assert [ack.first for ack in seen] == [0, 0, 0, 0, 0, 0, 1, 5, 6, 7]


def test_losses_of_several_packets_that_an_ack_has_no_room_for_are_not_acknowledged() -> None:
    tracker = tracker_with_losses(*range(0, 3 * 66, 3))  # 65 times two are missing
    ack = tracker.build_ack(3 * STEP_S)
    assert (ack.missing[-1], ack.end) == ((190, 191), 193)
    ack = tracker.build_ack(3 * STEP_S)
    assert (ack.first, ack.missing[0], ack.missing[-1]) == (3, (4, 5), (193, 194))


def test_one_ack_reports_sixty_four_losses_the_earliest_first() -> None:
    tracker = tracker_with_losses(*range(0, 132, 2))  # 65 are missing
    ack = tracker.build_ack(3 * STEP_S)
    assert (len(ack.missing), ack.missing[0], ack.missing[-1]) == (64, (1, 1), (127, 127))
    assert (ack.end, tracker.due_at) == (129, 3 * STEP_S)
    ack = tracker.build_ack(3 * STEP_S)
    assert len(ack.missing) == 64, "one that was reported gives way"
    assert (ack.first, ack.missing[-1], ack.end) == (2, (129, 129), 133)
    assert tracker.due_at == math.inf
    tracker = tracker_with_losses(*range(0, 130, 2))  # 64 are missing
    ack = tracker.build_ack(3 * STEP_S)
    assert (len(ack.missing), ack.first, tracker.due_at) == (64, 0, math.inf)


def test_of_losses_that_were_reported_as_few_as_possible_give_way_to_new_ones() -> None:
    tracker = tracker_with_losses(*range(0, 136, 2))  # 67 are missing
    assert tracker.build_ack(3 * STEP_S).missing[-1] == (127, 127)
    ack = tracker.build_ack(3 * STEP_S)
    assert (ack.first, ack.missing[0], ack.missing[-1]) == (6, (7, 7), (133, 133))
    assert len(ack.missing) == 64


def test_the_first_packet_counts_whatever_its_number() -> None:
    for first in (0, 1, 2):
        tracker = AckTracker()
        receive(tracker, first, now=5.0)
        ack = tracker.build_ack(5.25)
        assert (ack.latest, ack.ack_delay_s) == (first, 0.25)


@pytest.mark.parametrize("began_at", [0.0, 5.0])
def test_what_precedes_the_first_packet_may_arrive_within_the_reordering_window(
    began_at: float,
) -> None:
    tracker = AckTracker()
    tracker.update_rtt(1.0, 0.25)
    receive(tracker, 2, now=began_at)
    ack = tracker.build_ack(began_at + 0.2)
    assert (ack.first, ack.end, ack.missing) == (0, 0, ())
    ack = tracker.build_ack(began_at + 0.25)
    assert (ack.first, ack.end, ack.missing) == (0, 3, ((0, 1),))


def test_a_gap_is_lost_two_reordering_windows_later_to_the_instant() -> None:
    by_packets, by_acks = AckTracker(), AckTracker()
    for tracker in (by_packets, by_acks):
        tracker.update_rtt(1.0, 0.25)
        receive(tracker, 0, 2, now=0.0)
    by_packets.on_packet(3, 0.25)
    by_packets.on_packet(4, 0.5)
    assert by_packets.build_ack(0.5625).missing == ((1, 1),)
    assert by_acks.build_ack(0.25).missing == ()
    assert by_acks.build_ack(0.5).missing == ((1, 1),)


def test_2048_gaps_are_kept_the_latest() -> None:
    tracker = AckTracker()
    for counter in range(0, 2 * 2048 + 4, 2):
        tracker.on_packet(counter, 0.0)
    assert len(tracker._missing) == 2048
    assert tracker._missing[0] == (3, 3)
    tracker.on_packet(2 * 2048 + 20, 0.0)
    assert tracker.claim(2 * 2048 + 10, 0.0)  # splits a gap
    assert len(tracker._missing) == 2048


def reordered_window_s(losses_reported_early: int) -> float:
    """The reordering window after so many packets arrived that an ACK had reported."""
    tracker = AckTracker()
    tracker.update_rtt(0.040, 0.010)
    count = losses_reported_early
    receive(tracker, *range(0, 2 * count + 1, 2), now=0.0)
    receive(tracker, 2 * count + 1, now=STEP_S)
    receive(tracker, 2 * count + 2, now=2 * STEP_S)
    tracker.build_ack(3 * STEP_S)
    receive(tracker, *range(1, 2 * count, 2), now=3 * STEP_S)
    tracker.update_rtt(0.040, 0.010)
    return tracker._scaled_reorder_window_s


def test_each_loss_reported_too_early_widens_the_window_by_half_up_to_four_times() -> None:
    assert reordered_window_s(0) == 0.010
    assert reordered_window_s(1) == pytest.approx(0.015)
    assert reordered_window_s(2) == pytest.approx(0.0225)
    assert reordered_window_s(9) == pytest.approx(0.040)


def test_a_widened_window_narrows_by_a_fiftieth_with_each_ack() -> None:
    tracker = tracker_with_losses(0, 2)
    tracker.build_ack(3 * STEP_S)
    receive(tracker, 1, now=3 * STEP_S)
    tracker.build_ack(4 * STEP_S)
    assert tracker._scaled_reorder_window_s == pytest.approx(0.010 * 1.5 * 0.98)
    for number in range(30):
        tracker.build_ack((5 + number) * STEP_S)
    assert tracker._scaled_reorder_window_s == 0.010


def test_a_late_packet_that_no_ack_had_reported_does_not_widen_the_window() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, 1, now=0.0)
    tracker.update_rtt(0.040, 0.010)
    assert tracker._scaled_reorder_window_s == 0.010


@pytest.mark.parametrize("seed", range(8))
def test_an_ack_reports_exactly_what_did_not_arrive_in_its_range(seed: int) -> None:
    rng = random.Random(seed)
    delays_s = [0.0, 0.0, 0.003, 0.03]
    sent = [number for number in range(600) if rng.random() < 0.85]
    arrivals = sorted((number / 1000 + rng.choice(delays_s), number) for number in sent)
    tracker, received = AckTracker(), set[int]()
    reports: Counter[int] = Counter()
    for now, number in arrivals:
        receive(tracker, number, now=now)
        received.add(number)
        missing = [each for low, high in tracker._missing for each in range(low, high + 1)]
        assert missing == sorted(set(range(max(received))) - received)
        if now >= tracker.due_at:
            ack = tracker.build_ack(now)
            reported = [each for low, high in ack.missing for each in range(low, high + 1)]
            assert reported == sorted(set(range(ack.first, ack.end)) - received)
            reports.update(reported)
    lost = set(range(300)) - set(sent)  # long enough ago
    assert {reports[each] for each in lost} == {6}


# --- ACKs that wait for a packet to share ---------------------------------------------------------


def delayed(*counters: int, now: float, tracker: AckTracker | None = None) -> AckTracker:
    """A tracker that received packets whose ACK may wait for a second."""
    tracker = tracker or AckTracker()
    for counter in counters:
        tracker.on_packet(counter, now)
        tracker.schedule_ack(counter, now, 1.0)
    return tracker


def test_an_ack_waits_as_long_as_the_peer_permits() -> None:
    tracker = delayed(0, now=0.0)
    assert tracker.due_at == 1.0
    delayed(1, now=0.9, tracker=tracker)
    assert tracker.due_at == 1.0
    assert tracker.build_ack(1.0).ack_delay_s == pytest.approx(0.1)


def test_the_ack_of_another_packet_does_not_wait() -> None:
    tracker = delayed(0, now=0.0)
    receive(tracker, 1, now=0.5)
    assert tracker.due_at == 0.5 + 0.010


def test_an_ack_does_not_wait_for_more_than_eight_packets() -> None:
    tracker = delayed(*range(8), now=0.0)
    assert tracker.due_at == 1.0
    delayed(8, now=0.5, tracker=tracker)
    assert tracker.due_at == 0.5 + 0.010


def test_the_packets_that_an_ack_waits_for_count_from_the_first_of_them() -> None:
    tracker = delayed(*range(20), now=0.0)
    tracker.build_ack(0.5)
    delayed(*range(20, 28), now=1.0, tracker=tracker)
    assert tracker.due_at == 2.0
    delayed(28, now=1.5, tracker=tracker)
    assert tracker.due_at == 1.510


def test_acks_do_not_wait_for_30_seconds_after_a_gap() -> None:
    tracker = delayed(0, 2, now=0.0)
    assert tracker.due_at == 0.010
    while tracker.due_at < math.inf:
        tracker.build_ack(tracker.due_at)
    delayed(3, now=29.0, tracker=tracker)
    assert tracker.due_at == 29.0 + 0.010
    tracker.build_ack(tracker.due_at)
    delayed(4, now=30.0, tracker=tracker)
    assert tracker.due_at == 31.0


def test_acks_do_not_wait_after_a_retransmission() -> None:
    tracker = AckTracker()
    assert tracker.claim(0, 0.0)
    delayed(1, now=1.0, tracker=tracker)
    assert tracker.due_at == 1.0 + 0.010


def test_a_retransmission_of_what_arrived_is_no_loss() -> None:
    tracker = delayed(0, now=0.0)
    assert not tracker.claim(0, 0.5)
    tracker.build_ack(0.5)
    delayed(1, now=1.0, tracker=tracker)
    assert tracker.due_at == 2.0


def test_an_ack_shares_a_packet_once_a_round_trip() -> None:
    tracker = AckTracker()
    tracker.update_rtt(0.2, 0.05)
    assert not tracker.can_piggyback(0.0)
    receive(tracker, 0, now=1.0)
    assert tracker.can_piggyback(1.0)
    tracker.build_ack(1.0)
    receive(tracker, 1, now=1.1)
    assert not tracker.can_piggyback(1.19)
    assert tracker.can_piggyback(1.2)


def test_an_ack_shares_a_packet_a_round_trip_after_the_last_one_to_the_instant() -> None:
    tracker = AckTracker()
    tracker.update_rtt(0.25, 0.0625)
    receive(tracker, 0, now=1.0)
    tracker.build_ack(1.0)
    receive(tracker, 1, now=1.24)
    assert tracker.due_at > 1.25
    assert not tracker.can_piggyback(1.249)
    assert tracker.can_piggyback(1.25)


def test_an_ack_shares_no_packet_before_it_can_report_a_new_gap() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, now=1.0)
    assert not tracker.can_piggyback(1.0)
    receive(tracker, 3, now=tracker.due_at)
    assert tracker.can_piggyback(tracker.due_at)
    assert tracker.build_ack(tracker.due_at + STEP_S).missing == ((1, 1),)
    receive(tracker, 4, now=2.0)
    assert tracker.can_piggyback(2.0)


def test_an_old_gap_does_not_hide_a_new_one() -> None:
    tracker = tracker_with_losses(0, 2)
    assert tracker.build_ack(3 * STEP_S).missing == ((1, 1),)
    receive(tracker, 6, now=2.0)
    assert not tracker.can_piggyback(2.0), "the new gap cannot be reported yet"
    assert tracker.can_piggyback(tracker.due_at)
