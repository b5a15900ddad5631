"""Suspicion timeouts and local health awareness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.overlay.swim.lifeguard import (
    AWARENESS_DECAY_S,
    AWARENESS_MAX,
    Awareness,
    expected_confirmations,
    min_timeout_s,
    suspicion_timeout_s,
)
from grapevine_proto.overlay.transmit_queue import retransmit_limit


def test_the_minimum_timeout_grows_with_the_logarithm_of_the_cluster() -> None:
    assert [round(min_timeout_s(n, 4.0), 1) for n in (0, 1, 10, 100, 1000)] == [
        4.0,
        4.0,
        4.0,
        8.0,
        12.0,
    ]


def test_each_independent_accuser_shortens_the_timeout_up_to_three() -> None:
    times = [
        round(suspicion_timeout_s(8.0, 48.0, confirmations, 2), 1) for confirmations in range(4)
    ]
    assert times == [48.0, 22.8, 8.0, 8.0]


def test_a_cluster_too_small_to_confirm_uses_the_minimum_timeout() -> None:
    assert [expected_confirmations(n) for n in (2, 3, 4, 100)] == [0, 0, 2, 2]
    assert suspicion_timeout_s(4.0, 24.0, 0, 0) == 4.0


@given(st.integers(0, 10), st.floats(0.1, 100), st.floats(1, 10))
def test_no_number_of_accusers_goes_below_the_minimum_timeout(
    confirmations: int, minimum_s: float, factor: float
) -> None:
    assert (
        minimum_s
        <= suspicion_timeout_s(minimum_s, minimum_s * factor, confirmations, 2)
        <= minimum_s * factor * 1.000001
    )


@pytest.mark.parametrize(
    ("members", "times"), [(1, 4), (8, 4), (9, 4), (10, 8), (99, 8), (100, 12)]
)
def test_updates_are_sent_four_times_per_power_of_ten(members: int, times: int) -> None:
    assert retransmit_limit(members) == times


def test_local_lag_lengthens_timeouts_and_recovers_over_time() -> None:
    awareness = Awareness(0.0)
    assert awareness.multiplier == 1.0
    awareness.on_lag(0.2, 0.0)
    assert awareness.score == 0, "a fifth of a second is below one step"
    awareness.on_lag(0.6, 0.0)
    assert awareness.score == 2
    awareness.on_lag(60.0, 0.0)
    assert awareness.score == AWARENESS_MAX
    awareness.decay(AWARENESS_DECAY_S - 0.1)
    assert awareness.score == AWARENESS_MAX
    for step in range(1, AWARENESS_MAX + 3):
        awareness.decay(step * AWARENESS_DECAY_S)
    assert awareness.score == 0


def test_an_answered_probe_lowers_the_score_by_one() -> None:
    awareness = Awareness(0.0)
    awareness.increment(0.0, 3)
    awareness.decrement(0.1)
    assert awareness.score == 2


def test_awareness_rises_to_eight_and_a_failure_without_steps_changes_nothing() -> None:
    awareness = Awareness(0.0)
    awareness.increment(1.0)
    assert (awareness.score, awareness.multiplier) == (1, 2.0)
    awareness.increment(4.0, 0)
    awareness.decay(6.0)
    assert awareness.score == 0, "five seconds after the failure, not after the call"
    awareness.increment(6.0, 20)
    assert (awareness.score, awareness.multiplier) == (8, 9.0)
    awareness.decay(10.9)
    assert awareness.score == 8
    awareness.decay(11.0)
    awareness.decay(11.0)
    assert awareness.score == 7


def test_each_quarter_second_of_lag_costs_a_step() -> None:
    awareness = Awareness(0.0)
    awareness.on_lag(0.24, 0.0)
    assert awareness.score == 0
    awareness.on_lag(0.5, 0.0)
    assert awareness.score == 2
