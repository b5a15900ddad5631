"""RTT estimation: the minimum filter forgets and stays bounded."""

from __future__ import annotations

import pytest

from grapevine_proto.transport.link.rtt import (
    MIN_FILTER_LIMIT,
    RttEstimator,
    update_windowed_min,
)


def test_the_minimum_rtt_expires_with_its_window() -> None:
    rtt = RttEstimator(None, 10.0)
    for second, sample_s in enumerate([0.05, 0.02] + [0.08] * 12):
        rtt.on_sample(sample_s, float(second))
    assert rtt.min_rtt_s == 0.08


def test_ever_longer_samples_fill_the_minimum_filter_up_to_its_limit_and_the_minimum_stays() -> (
    None
):
    rtt = RttEstimator(0.01, 1e9)
    for number in range(MIN_FILTER_LIMIT + 1):
        rtt.on_sample(0.01 + number / 1000, float(number))
    assert len(rtt._min_samples) == MIN_FILTER_LIMIT
    assert rtt.min_rtt_s == 0.01


def test_the_first_data_sample_replaces_the_estimate_of_the_handshake() -> None:
    rtt = RttEstimator(0.5, 10.0)
    rtt.on_sample(0.02, 1.0)
    assert (rtt.srtt_s, rtt.rttvar_s) == (0.02, 0.01)


# --- at the limits ------------------------------------------------------------------------------


def test_without_samples_an_intercontinental_path_is_assumed() -> None:
    rtt = RttEstimator(None, 10.0)
    assert (rtt.srtt_s, rtt.rttvar_s, rtt.min_rtt_s, rtt.latest_rtt_s) == (0.1, 0.05, 0.1, 0.1)
    assert rtt.jitter_s == 0.0
    assert (rtt.is_measured, rtt.has_recent_sample(0.0)) == (False, False)
    assert RttEstimator(0.3, 10.0).is_measured


def test_later_samples_count_an_eighth_and_their_deviation_a_quarter() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(0.080, 1.0)
    rtt.on_sample(0.160, 2.0)
    assert rtt.srtt_s == pytest.approx(0.090)
    assert rtt.rttvar_s == pytest.approx(0.040 + (0.080 - 0.040) / 4)
    assert (rtt.previous_rtt_s, rtt.latest_rtt_s, rtt.min_rtt_s) == (0.080, 0.160, 0.080)


def test_jitter_is_a_sixteenth_of_the_difference_of_consecutive_samples() -> None:
    rtt = RttEstimator(0.5, 10.0)
    rtt.on_sample(0.080, 1.0)
    assert rtt.jitter_s == 0.0, "the estimate of the handshake is no sample"
    rtt.on_sample(0.096, 2.0)
    assert rtt.jitter_s == pytest.approx(0.001)
    rtt.on_sample(0.080, 3.0)
    assert rtt.jitter_s == pytest.approx(0.001 + (0.016 - 0.001) / 16)


def test_a_sample_is_at_least_a_microsecond() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(-1.0, 1.0)
    assert rtt.srtt_s == rtt.min_rtt_s == 1e-6


def test_a_handshake_replaces_the_estimate_and_the_next_sample_is_averaged_with_it() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(0.080, 1.0)
    rtt.use_handshake_rtt(0.040)
    assert (rtt.srtt_s, rtt.rttvar_s, rtt.is_measured) == (0.040, 0.020, True)
    rtt.on_sample(0.080, 2.0)
    assert rtt.srtt_s == pytest.approx(0.045)


def test_a_sample_is_recent_for_three_windows() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(0.080, 100.0)
    assert rtt.has_recent_sample(129.9)
    assert not rtt.has_recent_sample(130.0)


def test_the_minimum_is_that_of_the_window_including_its_edge() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(0.020, 0.0)
    rtt.on_sample(0.080, 10.0)
    assert rtt.min_rtt_s == 0.020
    rtt.on_sample(0.080, 10.1)
    assert rtt.min_rtt_s == 0.080


def test_sixty_four_samples_are_kept_and_an_equal_one_replaces_the_one_before() -> None:
    samples: list[tuple[float, float]] = []
    for number in range(70):
        update_windowed_min(samples, float(number), float(number), 1e9)
    assert len(samples) == 64
    assert samples[-1] == (69.0, 69.0)
    update_windowed_min(samples, 69.0, 80.0, 1e9)
    assert (len(samples), samples[-1]) == (64, (80.0, 69.0))


def test_after_the_minimum_expires_the_least_of_the_later_samples_is_the_minimum() -> None:
    rtt = RttEstimator(None, 10.0)
    for now, sample_s in ((0.0, 0.020), (5.0, 0.080), (6.0, 0.050), (10.1, 0.090)):
        rtt.on_sample(sample_s, now)
    assert rtt.min_rtt_s == 0.050


def test_equal_samples_take_one_place_in_the_filter_the_latest() -> None:
    samples: list[tuple[float, float]] = []
    for now in (1.0, 2.0, 3.0):
        update_windowed_min(samples, 0.5, now, 10.0)
    assert samples == [(3.0, 0.5)]


@pytest.mark.parametrize(
    ("srtt_s", "reorder_s", "ack_s"),
    [(0.100, 0.025, 0.100), (0.040, 0.010, 0.040), (0.004, 0.010, 0.010)],
)
def test_the_times_that_follow_from_the_rtt(srtt_s: float, reorder_s: float, ack_s: float) -> None:
    rtt = RttEstimator(srtt_s, 10.0)
    assert rtt.reorder_window_s == reorder_s
    assert rtt.ack_interval_s == ack_s
    assert rtt.pto_s == pytest.approx(2 * srtt_s + 2 * srtt_s + 2 * reorder_s)


# --- heartbeats ---------------------------------------------------------------------------------


def test_heartbeats_measure_a_path_without_data() -> None:
    rtt = RttEstimator(None, 10.0)
    assert rtt.on_heartbeat_sample(0.020, 1.0)
    assert rtt.is_measured
    assert rtt.srtt_s == pytest.approx(0.060)
    assert not rtt.has_recent_sample(1.0), "which only data measures"


def test_a_heartbeat_counts_once_data_has_measured_nothing_for_the_minimum_window() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(0.080, 1.0)
    assert not rtt.on_heartbeat_sample(0.040, 10.99)
    assert (rtt.srtt_s, rtt.rttvar_s) == (0.080, 0.040)
    assert rtt.on_heartbeat_sample(0.040, 11.0)
    assert rtt.srtt_s == pytest.approx(0.060)
    assert rtt.rttvar_s == pytest.approx(0.040 + (0.020 - 0.040) / 4)
    assert (rtt.min_rtt_s, rtt.latest_rtt_s) == (0.080, 0.080), "for congestion control"


def test_half_of_a_shorter_heartbeat_counts_and_an_eighth_of_a_longer_one() -> None:
    rtt = RttEstimator(0.080, 10.0)
    rtt.on_heartbeat_sample(0.160, 1.0)
    assert rtt.srtt_s == pytest.approx(0.090)
    rtt.on_heartbeat_sample(0.010, 2.0)
    assert rtt.srtt_s == pytest.approx(0.050)
    rtt.on_heartbeat_sample(-1.0, 3.0)
    assert rtt.srtt_s == pytest.approx(0.025, rel=1e-3)


def test_heartbeats_bring_down_what_load_has_measured_within_six() -> None:
    rtt = RttEstimator(None, 10.0)
    rtt.on_sample(0.6, 1.0)
    assert rtt.pto_s > 2.0
    for number in range(6):
        rtt.on_heartbeat_sample(0.002, 11.0 + 5 * number)
    assert rtt.pto_s < 0.1
