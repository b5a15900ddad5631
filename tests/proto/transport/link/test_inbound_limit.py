"""Inbound rate limit: tokens, free kinds and repair credit."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.inbound_limit import InboundLimit
from tests.proto.transport.ends import CLOSE, EMPTY, HEARTBEAT, REPAIR, RUMORS


def test_a_message_above_the_limit_is_dropped_and_takes_no_token() -> None:
    bucket = TokenBucket(2, 1.0, 0.0)
    limit = InboundLimit(bucket)
    limit.charge(RUMORS, 0.0)
    limit.charge(HEARTBEAT, 0.0)
    with pytest.raises(Dropped) as refused:
        limit.charge(RUMORS, 0.5)

    assert refused.value.reason is DropReason.RATE_LIMITED
    assert (limit.allowed, limit.throttled) == (2, 1)
    assert bucket.available(0.5) == pytest.approx(0.5)


def test_free_kinds_are_admitted_without_tokens() -> None:
    limit = InboundLimit(TokenBucket(1, 0.1, 0.0))
    for plaintext in (RUMORS, EMPTY, CLOSE):
        limit.charge(plaintext, 0.0)

    assert (limit.allowed, limit.throttled) == (3, 0)


def test_without_a_bucket_everything_is_admitted() -> None:
    limit = InboundLimit(None)
    for _ in range(1000):
        limit.charge(RUMORS, 0.0)
    limit.charge_tokens(1000, 0.0)

    assert (limit.allowed, limit.throttled) == (1000, 0)


def test_a_repair_is_free_once_per_request() -> None:
    bucket = TokenBucket(10, 1.0, 0.0)
    limit = InboundLimit(bucket)
    limit.grant_repair_credit(2)
    for _ in range(3):
        limit.charge(REPAIR, 0.0)

    assert bucket.available(0.0) == pytest.approx(9.0)
    assert not limit.consume_repair_credit()


def test_repair_credit_pays_for_repairs_only() -> None:
    bucket = TokenBucket(10, 1.0, 0.0)
    limit = InboundLimit(bucket)
    limit.grant_repair_credit(1)
    limit.charge(RUMORS, 0.0)

    assert bucket.available(0.0) == pytest.approx(9.0)
    assert limit.consume_repair_credit()


def test_repair_credit_is_limited() -> None:
    limit = InboundLimit(None)
    limit.grant_repair_credit(64)
    limit.grant_repair_credit(1)

    assert [limit.consume_repair_credit() for _ in range(65)] == [
        *[True] * 64,
        False,
    ]


def test_parts_of_a_message_are_charged_one_by_one_and_counted_as_one() -> None:
    bucket = TokenBucket(3, 1.0, 0.0)
    limit = InboundLimit(bucket)
    limit.charge_tokens(2, 0.0)
    limit.charge_tokens(0, 0.0)
    assert (bucket.available(0.0), limit.allowed, limit.throttled) == (1.0, 0, 0)
    with pytest.raises(Dropped) as refused:
        limit.charge_tokens(2, 0.0)
    assert refused.value.reason is DropReason.RATE_LIMITED
    assert (bucket.available(0.0), limit.allowed, limit.throttled) == (1.0, 0, 1)
    limit.count_allowed()
    assert limit.allowed == 1
    limit.set_bucket(None)
    limit.charge_tokens(1000, 0.0)


def test_64_repairs_may_be_owed() -> None:
    limit = InboundLimit(TokenBucket(1, 1.0, 0.0))
    for granted in (1, 63, 1, 5):
        limit.grant_repair_credit(granted)
    assert [limit.consume_repair_credit() for _ in range(65)] == [True] * 64 + [False]


def test_without_a_request_no_repair_is_free() -> None:
    bucket = TokenBucket(10, 1.0, 0.0)
    limit = InboundLimit(bucket)
    assert not limit.consume_repair_credit()
    limit.charge(REPAIR, 0.0)
    assert bucket.available(0.0) == pytest.approx(9.0)
    assert not limit.consume_repair_credit()
