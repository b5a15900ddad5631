"""ACK tracking: losses are reported six times, reordered packets are not, and the state is bounded."""

from __future__ import annotations

import math

from grapevine_proto.transport.session.ack_tracker import (
    ACK_RANGES_LIMIT,
    ACKS_PER_LOSS,
    MISSING_RANGES_LIMIT,
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


def test_a_loss_is_reported_in_as_many_acks_as_documented() -> None:
    tracker, reports = AckTracker(), 0
    receive(tracker, 0, 2, now=0.0)
    for number in range(3, 40):
        reports += (1, 1) in next_ack(tracker, number, number * STEP_S).missing

    assert reports == ACKS_PER_LOSS


def test_one_ack_reports_a_limited_number_of_losses_and_the_next_one_follows_at_once() -> None:
    tracker = AckTracker()
    receive(tracker, *range(0, 4 * ACK_RANGES_LIMIT, 2), now=0.0)
    receive(tracker, 4 * ACK_RANGES_LIMIT, now=STEP_S)
    receive(tracker, 4 * ACK_RANGES_LIMIT + 1, now=2 * STEP_S)
    ack = tracker.build_ack(3 * STEP_S)

    assert len(ack.missing) == ACK_RANGES_LIMIT
    assert tracker.due_at == 3 * STEP_S


def test_the_number_of_missing_ranges_is_limited() -> None:
    tracker = AckTracker()
    for counter in range(0, 4 * MISSING_RANGES_LIMIT, 2):
        tracker.on_packet(counter, 0.0)

    assert len(tracker._missing) == MISSING_RANGES_LIMIT


def test_the_content_of_a_packet_is_claimed_once() -> None:
    tracker = AckTracker()
    receive(tracker, 0, 2, now=0.0)

    assert tracker.claim(1, 0.0)
    assert not tracker.claim(1, 0.0)
    assert not tracker.claim(2, 0.0)
    assert tracker.claim(7, 0.0)
    assert not tracker.claim(7, 0.0)
