"""Budgets of signature checks: who pays for what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.overlay.store import verification as module
from grapevine_proto.overlay.store.verification import DEFAULT_BURST_S, PAIR_CHECKS_PER_S, Verifier
from tests.proto.overlay.builders import config, peer_id, rumor

PAIR_BURST = int(PAIR_CHECKS_PER_S * DEFAULT_BURST_S)


def spend(signatures: Verifier, sender: int, origin: int) -> None:
    """Use up what `sender` may cause in `origin`'s name."""
    forged = replace(rumor(9, 1), origin=peer_id(origin), signature=b"")  # refused without a check
    for _ in range(PAIR_BURST):
        assert signatures.check(forged, peer_id(sender), 0.0) is DropReason.BAD_SIGNATURE


def test_a_good_signature_is_not_refused_and_a_bad_one_is() -> None:
    signatures = Verifier(config())
    assert signatures.check(rumor(1, 1), peer_id(2), 0.0) is None
    forged = replace(rumor(1, 1), origin=peer_id(3))
    assert signatures.check(forged, peer_id(2), 0.0) is DropReason.BAD_SIGNATURE


def test_forged_copies_use_up_what_their_sender_may_cause_and_nobody_elses() -> None:
    signatures = Verifier(config())
    spend(signatures, sender=2, origin=1)
    refused = DropReason.SIGNATURE_BUDGET
    assert signatures.check(rumor(1, 1), peer_id(2), 0.0) is refused
    assert signatures.check(rumor(1, 1), peer_id(3), 0.0) is None
    assert signatures.check(rumor(4, 1), peer_id(2), 0.0) is None
    assert signatures.allow_origin(peer_id(1), 0.0)
    assert signatures.check(rumor(1, 1), peer_id(2), 1.0) is None, "it comes back with time"


def test_without_a_rate_limit_there_are_no_budgets() -> None:
    signatures = Verifier(config(rate_limit=RateLimitConfig(enabled=False)))
    spend(signatures, sender=2, origin=1)
    assert signatures.check(rumor(1, 1), peer_id(2), 0.0) is None


def test_one_budget_beyond_the_cap_makes_the_least_lately_used_start_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LIMITER_KEYS_LIMIT", 2)
    signatures = Verifier(config())
    for origin in (1, 2, 3):
        assert signatures.allow_origin(peer_id(origin), 0.0)
    assert len(signatures._origin_limiter._buckets) == 2
