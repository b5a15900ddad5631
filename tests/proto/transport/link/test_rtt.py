"""RTT estimation: the minimum filter forgets and stays bounded."""

from __future__ import annotations

from grapevine_proto.transport.link.rtt import MIN_FILTER_LIMIT, RttEstimator


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
