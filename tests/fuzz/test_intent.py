"""A malicious member with a plan gains nothing; and with a protection removed, the fuzzer finds the
weakness.
"""

from __future__ import annotations

import math

import pytest

from grapevine_proto.config.sections import LimitsConfig
from tests.fuzz.intent import ATTACKS, LIMITS, play

SEEDS = 6  # random mixes per test run; `python -m tests.fuzz intent` runs more


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.usefixtures("patch_sources")
def test_a_malicious_member_costs_honest_nodes_no_time_memory_links_or_messages(
    seed: int,
) -> None:
    assert play(seed).violations == []


@pytest.mark.usefixtures("patch_sources")
def test_a_seed_reproduces_its_verdict() -> None:
    assert play(1) == play(1)


@pytest.mark.usefixtures("patch_sources")
def test_all_attacks_at_once_gain_nothing() -> None:
    assert play(0, tuple(ATTACKS)).violations == []


WEAKNESSES: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "payloads per message are unlimited": (
        ("payload bomb",),
        {"grapevine_proto.wire.fields.MAX_PAYLOADS": 10**6},
    ),
    "requests of a round are unlimited": (
        ("vector",),
        {
            "grapevine_proto.transport.peer_limits.EXPELLED_SCORE": math.inf,
            "grapevine_proto.overlay.sync.sync_round.ROUND_LIMIT_S": math.inf,
            "grapevine_proto.overlay.sync.sync_round.STREAMS_PER_ROUND": 10**9,
            "grapevine_proto.overlay.sync.sync_round.PAGES_PER_ROUND": 10**9,
        },
    ),
    "one body is sent to one peer without limit": (
        ("iwant",),
        {
            "grapevine_proto.overlay.sync.repair_server.BODY_REPEATS_LIMIT": 10**9,
            "grapevine_proto.transport.peer_limits.EXPELLED_SCORE": math.inf,
        },
    ),
    "misconduct has no consequence": (
        ("malformed",),
        {"grapevine_proto.transport.peer_limits.EXPELLED_SCORE": math.inf},
    ),
}


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_a_removed_protection_is_found(weakness: str, patch_sources: pytest.MonkeyPatch) -> None:
    attacks, patches = WEAKNESSES[weakness]
    assert play(0, attacks).violations == []
    for target, value in patches.items():
        patch_sources.setattr(target, value)
    assert play(0, attacks).violations


@pytest.mark.usefixtures("patch_sources")
def test_tables_without_limits_are_found() -> None:
    attacks = ("made-up origin",)
    assert play(0, attacks, LIMITS).violations == []
    assert play(0, attacks, LimitsConfig()).violations
