"""Signature check budgets: which sender pays for which check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.overlay import verification as module
from grapevine_proto.overlay.verification import DEFAULT_BURST_S, PAIR_CHECKS_PER_S, Verifier
from tests.proto.overlay.builders import context, peer_id, rumor

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


def test_beyond_the_limit_the_least_recently_used_budget_is_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LIMITER_KEYS_LIMIT", 2)
    verifier = context().verifier
    for origin in (1, 2, 3):
        assert verifier.allow_origin(peer_id(origin), 0.0)
    assert len(verifier._origin_limiter._buckets) == 2
