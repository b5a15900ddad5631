"""Signature check budgets: which sender pays for which check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.verification import (
    DEFAULT_BURST_S,
    PAIR_CHECKS_PER_S,
    KeyedRateLimiter,
    Verifier,
)
from tests.proto.overlay.builders import config, context, peer_id, rumor

PAIR_BURST = int(PAIR_CHECKS_PER_S * DEFAULT_BURST_S)


def spend(verifier: Verifier, sender: int, origin: int) -> None:
    """Use up the budget of `sender` for rumors of `origin`."""
    forged = replace(rumor(9, 1), origin=peer_id(origin), signature=b"")  # rejected without a check
    for _ in range(PAIR_BURST):
        assert verifier.check(forged, peer_id(sender), 0.0) is DropReason.BAD_SIGNATURE


def test_a_good_signature_is_accepted_and_a_bad_one_rejected() -> None:
    verifier = context().verifier
    assert verifier.check(rumor(1, 1), peer_id(2), 0.0) is None
    forged = replace(rumor(1, 1), origin=peer_id(3))
    assert verifier.check(forged, peer_id(2), 0.0) is DropReason.BAD_SIGNATURE


def test_forged_copies_use_up_only_the_budget_of_their_sender() -> None:
    verifier = context().verifier
    spend(verifier, sender=2, origin=1)
    over_budget = DropReason.SIGNATURE_BUDGET
    assert verifier.check(rumor(1, 1), peer_id(2), 0.0) is over_budget
    assert verifier.check(rumor(1, 1), peer_id(3), 0.0) is None
    assert verifier.check(rumor(4, 1), peer_id(2), 0.0) is None
    assert verifier.allow_origin(peer_id(1), 0.0)
    assert verifier.check(rumor(1, 1), peer_id(2), 1.0) is None, "the budget refills"


def test_without_a_rate_limit_there_are_no_budgets() -> None:
    verifier = context(rate_limit=RateLimitConfig(enabled=False)).verifier
    spend(verifier, sender=2, origin=1)
    assert verifier.check(rumor(1, 1), peer_id(2), 0.0) is None


def test_beyond_the_limit_the_least_recently_used_budget_is_reset() -> None:
    verifier = context().verifier
    verifier._origin_limiter._keys_limit = 2
    for origin in (1, 2, 3):
        assert verifier.allow_origin(peer_id(origin), 0.0)
    assert len(verifier._origin_limiter._buckets) == 2


# --- at the limits ------------------------------------------------------------------------------

A, B = peer_id(1), peer_id(2)


def granted(take: Callable[[float], bool], now: float, *, tries: int = 6000) -> int:
    """How often `take` is granted in a row."""
    return next((number for number in range(tries) if not take(now)), tries)


@pytest.mark.parametrize(
    ("budget", "burst", "per_s"),
    [("sender", 4800, 1200), ("record", 192, 64), ("origin", 4800, 1200), ("pair", 1200, 300)],
)
def test_each_budget_has_a_burst_and_a_rate(budget: str, burst: int, per_s: int) -> None:
    verifier = context().verifier
    forged = replace(rumor(9, 1), origin=B, signature=b"")

    def take(now: float) -> bool:
        match budget:
            case "sender":
                return verifier.try_charge_check(A, now)
            case "record":
                return verifier.try_charge_record_check(A, now)
            case "origin":
                return verifier.allow_origin(A, now)
            case _:
                return verifier.check(forged, A, now) is DropReason.BAD_SIGNATURE

    assert granted(take, 0.0) == burst
    assert granted(take, 1.0) == per_s


def test_each_check_that_is_made_is_work_and_one_that_is_refused_is_none() -> None:
    node = context()
    verifier, meter = node.verifier, node.work
    assert meter.units == 0
    verifier.try_charge_check(A, 0.0)
    one = meter.units
    assert one > 0
    verifier.try_charge_record_check(A, 0.0)
    verifier.check(rumor(1, 1), B, 0.0)
    assert meter.units == 3 * one
    for _ in range(300):
        verifier.try_charge_record_check(A, 0.0)
    assert meter.units == (2 + 192) * one
    verifier.allow_origin(A, 0.0)
    assert meter.units == (2 + 192) * one


def test_budgets_of_senders_and_origins_are_their_own() -> None:
    verifier = context().verifier
    while verifier.try_charge_record_check(A, 0.0):
        pass
    assert verifier.try_charge_record_check(B, 0.0)
    while verifier.allow_origin(A, 0.0):
        pass
    assert verifier.allow_origin(B, 0.0)


def test_settings_that_change_lift_the_budgets_and_name_the_cluster() -> None:
    node = context()
    verifier = node.verifier
    while verifier.try_charge_record_check(A, 0.0):
        pass
    node.config.replace(config(rate_limit=RateLimitConfig(enabled=False), cluster="other"))
    assert verifier.try_charge_record_check(A, 0.0)
    assert verifier.check(rumor(1, 1), A, 0.0) is DropReason.BAD_SIGNATURE
    assert verifier.check(rumor(1, 1, cluster="other"), A, 0.0) is None


def test_a_budget_used_lately_is_kept_beyond_4096() -> None:
    limiter = KeyedRateLimiter(1.0, 1.0)
    keys = [(PeerId(number.to_bytes(32, "big")),) for number in range(4097)]
    assert all(limiter.try_take(key, 0.0) for key in keys[:4096])
    assert not limiter.try_take(keys[0], 0.0)
    assert limiter.try_take(keys[4096], 0.0)
    assert not limiter.try_take(keys[0], 0.0)
    assert limiter.try_take(keys[1], 0.0), "it was reset"
    assert len(limiter._buckets) == 4096
