"""Token bucket: capacity, refill, and no rounding errors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.token_bucket import TokenBucket, token_cost
from grapevine_proto.wire.messages import Kind

capacities = st.floats(1, 1e6)
rates = st.floats(0.1, 1e6)
starts = st.floats(0, 1e7)
steps = st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 5)), max_size=60)


def test_a_new_bucket_holds_exactly_its_capacity() -> None:
    bucket = TokenBucket(3, 1.0, 10.0)

    assert [bucket.try_take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.available(1000.0) == 3


@pytest.mark.parametrize("rate", [0.1, 0.3, 7.0, 100.0, 45.0])
@pytest.mark.parametrize("now", [0.0, 0.1, 1e6 / 3])
def test_rounding_costs_no_token_of_a_burst(rate: float, now: float) -> None:
    bucket = TokenBucket(100, rate, now)

    assert sum(bucket.try_take(now) for _ in range(200)) == 100


def test_a_bucket_refills_at_its_rate() -> None:
    bucket = TokenBucket(2, 4.0, 0.0)
    assert bucket.try_take(0.0, 2)

    assert not bucket.try_take(0.24)
    assert bucket.try_take(0.25)
    assert bucket.available(0.5) == pytest.approx(1)


def test_a_failed_take_takes_no_tokens() -> None:
    bucket = TokenBucket(2, 1.0, 0.0)

    assert not bucket.try_take(0.0, 3)
    assert bucket.try_take(0.0, 2)


def test_up_to_what_is_asked_for_is_taken_and_never_more_than_there_is() -> None:
    bucket = TokenBucket(10, 1.0, 5.0)
    bucket.take_up_to(5.0, 0)
    assert bucket.available(5.0) == 10
    bucket.take_up_to(5.0, 4)
    assert bucket.available(5.0) == 6
    bucket.take_up_to(5.0, 7)
    assert bucket.available(5.0) == 0
    bucket.take_up_to(5.0, 7)
    assert bucket.available(6.0) == 1


def test_more_tokens_than_the_capacity_are_never_ready() -> None:
    assert TokenBucket(2, 1.0, 0.0).ready_at(0.0, 2.5) == math.inf


def test_a_clock_that_stops_or_goes_back_refills_nothing() -> None:
    bucket = TokenBucket(1, 1.0, 5.0)
    assert bucket.try_take(5.0)

    assert not bucket.try_take(5.0)
    assert not bucket.try_take(1.0)


@given(capacities, rates, starts, steps)
def test_no_interval_grants_more_than_capacity_and_refill(
    capacity: float, rate: float, now: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(capacity, rate, now)
    taken: list[tuple[float, float]] = []
    for elapsed_s, tokens in steps:
        now += elapsed_s
        if bucket.try_take(now, tokens):
            taken.append((now, tokens))

    for index, (first_at, _) in enumerate(taken):
        total = 0.0
        for at, tokens in taken[index:]:
            total += tokens
            allowed = capacity + (at - first_at) * rate
            assert total <= allowed + 0.0011 + 1e-8 * rate + 1e-9 * allowed


@given(capacities, rates, starts, steps)
def test_a_take_succeeds_at_the_time_that_ready_at_returns(
    capacity: float, rate: float, now: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(capacity, rate, now)
    for _, tokens in steps:
        ready_at = bucket.ready_at(now, tokens)
        if ready_at == math.inf:
            assert tokens > capacity
            continue
        assert ready_at >= now
        if ready_at > now + 0.01 / rate:
            assert not bucket.try_take(now, tokens)
        now = ready_at
        assert bucket.try_take(now, tokens)


@given(capacities, rates, steps)
def test_a_bucket_agrees_with_one_refilled_in_steps(
    capacity: float, rate: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now, plain = TokenBucket(capacity, rate, 0.0), 0.0, capacity
    for elapsed_s, tokens in steps:
        now += elapsed_s
        plain = min(capacity, plain + elapsed_s * rate)
        assert bucket.available(now) == pytest.approx(plain, rel=1e-6, abs=0.1 + 1e-6 * rate)
        if abs(plain - tokens) < 0.002 + 1e-6 * max(rate, capacity):
            plain = bucket.available(now)  # too close to call: whichever is right
        if bucket.try_take(now, tokens):
            plain = max(plain - tokens, 0.0)


def test_missing_tokens_stay_missing_after_a_resize() -> None:
    bucket = TokenBucket(10, 1.0, 0.0)
    bucket.try_take(0.0, 4)

    bucket.resize(20, 2.0, 0.0)
    assert bucket.available(0.0) == pytest.approx(16)
    assert bucket.available(1.0) == pytest.approx(18)
    bucket.resize(3, 1.0, 0.0)
    assert bucket.available(0.0) == 0
    assert bucket.available(3.0) == pytest.approx(3)


def test_a_full_bucket_stays_full_after_a_resize() -> None:
    bucket = TokenBucket(10, 1.0, 0.0)
    bucket.resize(100, 1.0, 5.0)

    assert bucket.is_full(5.0)
    assert bucket.try_take(5.0, 100)
    assert not bucket.is_full(5.0)


@pytest.mark.parametrize(("capacity", "rate"), [(0, 1.0), (1, 0.0), (-1, 1.0), (math.nan, 1.0)])
def test_a_bucket_requires_a_positive_capacity_and_refill_rate(
    capacity: float, rate: float
) -> None:
    with pytest.raises(ValueError, match="positive capacity"):
        TokenBucket(capacity, rate, 0.0)


def test_cheap_kinds_are_free_and_all_others_cost_one_token() -> None:
    began = {Kind.CONFIRM, Kind.NEIGHBOR_REQUEST, Kind.SWAP_REQUEST, Kind.OPEN_TRANSIENT}
    free = began | {Kind.CLOSE, Kind.ACK, Kind.MTU_PROBE, Kind.PATH_RESPONSE, Kind.PIGGYBACKED_ACK}
    free.add(Kind.RELAYED)  # it has a budget of bytes

    assert {kind for kind in Kind if token_cost(kind) == 0} == free
    assert all(token_cost(kind) == 1 for kind in range(256) if kind not in free)
