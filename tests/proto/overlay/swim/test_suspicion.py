"""How long a suspect has, and how far we trust ourselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.overlay.swim.suspicion import (
    AWARENESS_DECAY_S,
    AWARENESS_MAX,
    Awareness,
    expected_confirmations,
    min_timeout_s,
    suspicion_timeout_s,
)
from grapevine_proto.overlay.transmit_queue import retransmit_limit


def test_the_least_time_grows_with_the_power_of_ten_of_the_cluster() -> None:
    assert [round(min_timeout_s(n, 4.0), 1) for n in (0, 1, 10, 100, 1000)] == [
        4.0,
        4.0,
        4.0,
        8.0,
        12.0,
    ]


def test_each_independent_accuser_hurries_and_three_are_as_many_as_it_takes() -> None:
    times = [
        round(suspicion_timeout_s(8.0, 48.0, confirmations, 2), 1) for confirmations in range(4)
    ]
    assert times == [48.0, 22.8, 8.0, 8.0]


def test_where_hardly_anybody_is_left_to_confirm_nobody_waits_for_it() -> None:
    assert [expected_confirmations(n) for n in (2, 3, 4, 100)] == [0, 0, 2, 2]
    assert suspicion_timeout_s(4.0, 24.0, 0, 0) == 4.0


@given(st.integers(0, 10), st.floats(0.1, 100), st.floats(1, 10))
def test_no_number_of_accusers_leaves_less_than_the_least(
    confirmations: int, least: float, factor: float
) -> None:
    assert (
        least
        <= suspicion_timeout_s(least, least * factor, confirmations, 2)
        <= least * factor * 1.000001
    )


@pytest.mark.parametrize(
    ("members", "times"), [(1, 4), (8, 4), (9, 4), (10, 8), (99, 8), (100, 12)]
)
def test_news_is_told_four_times_for_every_power_of_ten(members: int, times: int) -> None:
    assert retransmit_limit(members) == times


def test_our_own_lag_stretches_what_others_are_given_and_rest_takes_it_back() -> None:
    health = Awareness(0.0)
    assert health.multiplier == 1.0
    health.on_lag(0.2, 0.0)
    assert health.score == 0, "a fifth of a second is nothing"
    health.on_lag(0.6, 0.0)
    assert health.score == 2
    health.on_lag(60.0, 0.0)
    assert health.score == AWARENESS_MAX
    health.decay(AWARENESS_DECAY_S - 0.1)
    assert health.score == AWARENESS_MAX
    for step in range(1, AWARENESS_MAX + 3):
        health.decay(step * AWARENESS_DECAY_S)
    assert health.score == 0


def test_an_answered_probe_is_one_step_back() -> None:
    health = Awareness(0.0)
    health.increment(0.0, 3)
    health.decrement(0.1)
    assert health.score == 2
