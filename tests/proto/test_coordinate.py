"""Coordinates as values: distances, their 24 bytes, and estimates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.coordinate import (
    COORDINATE_BYTES,
    LAYOUT,
    MAX_ERROR,
    MAX_RTT_S,
    MIN_HEIGHT_S,
    Coordinate,
    Estimate,
    RttSource,
)


def at(*vector_s: float, height_s: float = MIN_HEIGHT_S, **more: float) -> Coordinate:
    return Coordinate((*vector_s, *(0.0,) * (8 - len(vector_s))), height_s, **more)


def test_the_distance_is_that_of_the_vectors_and_both_heights() -> None:
    first, second = at(0.03, height_s=0.001), at(0.0, 0.04, height_s=0.002)
    assert first.distance_s(second) == pytest.approx(0.053)
    assert second.distance_s(first) == first.distance_s(second)


def test_adjustments_count_unless_they_leave_no_distance() -> None:
    first, second = at(0.03, adjustment_s=0.004), at(0.0, adjustment_s=-0.001)
    raw_s = first.raw_distance_s(second)
    assert first.distance_s(second) == pytest.approx(raw_s + 0.003)
    assert first.distance_s(at(0.0, adjustment_s=-1.0)) == first.raw_distance_s(at(0.0))


@given(
    st.tuples(*[st.floats(-9.9, 9.9)] * 8),
    st.floats(MIN_HEIGHT_S, 9.9),
    st.floats(-9.9, 9.9),
    st.floats(0.0, MAX_ERROR),
)
def test_what_is_encoded_comes_back_within_half_a_unit(
    vector: tuple[float, ...], height_s: float, adjustment_s: float, error: float
) -> None:
    coordinate = Coordinate(vector, height_s, adjustment_s, error)
    data = coordinate.encode()
    assert len(data) == COORDINATE_BYTES
    again = Coordinate.parse(data)
    half_s = (1 << data[0]) / 2e6 + 1e-12
    for before, after in zip(vector, again.vector, strict=True):
        assert abs(before - after) <= half_s
    assert abs(adjustment_s - again.adjustment_s) <= half_s
    assert abs(height_s - again.height_s) <= 1e-6
    assert abs(error - again.error) <= 1 / 256
    assert again.encode() == Coordinate.parse(again.encode()).encode()


def test_a_coordinate_within_one_machine_keeps_its_microseconds() -> None:
    near = at(0.000_123, -0.000_007)
    assert Coordinate.parse(near.encode()).vector == pytest.approx(near.vector)


def test_what_is_out_of_range_is_encoded_at_its_limit() -> None:
    far = at(500.0, -500.0, height_s=99.0, error=9.0)
    data = far.encode()
    exponent, *steps, height_us, _, error = LAYOUT.unpack(data)
    assert (exponent, steps[:2], height_us, error) == (9, [32767, -32767], 10_000_000, 192)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(23),
        bytes(25),
        LAYOUT.pack(10, *(0,) * 8, 10, 0, 0),
        LAYOUT.pack(9, 32767, *(0,) * 7, 10, 0, 0),
        LAYOUT.pack(9, *(0,) * 8, 10, -32767, 0),
        LAYOUT.pack(0, *(0,) * 8, 10_000_001, 0, 0),
        LAYOUT.pack(0, *(0,) * 8, 10, 0, 193),
    ],
)
def test_what_is_none_or_out_of_range_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="coordinate"):
        Coordinate.parse(data)


@given(st.binary(min_size=COORDINATE_BYTES, max_size=COORDINATE_BYTES))
def test_every_coordinate_that_is_accepted_is_finite_and_in_range(data: bytes) -> None:
    try:
        coordinate = Coordinate.parse(data)
    except ValueError:
        return
    assert max(map(abs, coordinate.vector)) <= MAX_RTT_S
    assert math.isfinite(coordinate.distance_s(Coordinate()))
    assert MIN_HEIGHT_S <= coordinate.height_s <= MAX_RTT_S
    assert 0 <= coordinate.error <= MAX_ERROR


def test_an_estimate_states_the_mean_error_of_both_ends() -> None:
    estimate = Estimate.between(at(0.1, error=0.1), at(0.0, error=0.3))
    assert estimate.source is RttSource.ESTIMATED
    assert estimate.seconds == pytest.approx(0.1, rel=0.001)
    assert estimate.error_s == pytest.approx(0.02, rel=0.001)
    assert estimate.to_dict() == {
        "rtt_ms": 100.02,
        "rtt_error_ms": 20.004,
        "rtt_source": "estimated",
    }
    assert Estimate.between(at(9.0), at(-9.0)).seconds == MAX_RTT_S


def test_a_coordinate_has_json_in_milliseconds() -> None:
    assert at(0.01, height_s=0.002, adjustment_s=-0.001, error=0.25).to_dict() == {
        "vector_ms": [10.0, *[0.0] * 7],
        "height_ms": 2.0,
        "adjustment_ms": -1.0,
        "error": 0.25,
    }
