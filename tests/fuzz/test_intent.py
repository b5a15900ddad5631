"""A member that lies with intent gains nothing; and where a mend is taken away, the liar finds the hole."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.config.sections import LimitsConfig
from tests.fuzz.intent import LIES, LIMITS, play

SEEDS = 6  # of random mixes, in each run of the tests; `python -m tests.fuzz intent` tries more


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_liar_costs_honest_nodes_neither_time_nor_memory_nor_links_nor_messages(
    seed: int,
) -> None:
    assert play(seed).wrongs == []


def test_one_seed_has_one_verdict() -> None:
    assert play(1) == play(1)


def test_all_lies_at_once_gain_nothing() -> None:
    assert play(0, tuple(LIES)).wrongs == []


HOLES: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "payloads in a message have no cap": (
        ("payload bomb",),
        {"grapevine_proto.wire.fields.MAX_PAYLOADS": 10**6},
    ),
    "what is wanted in a round has no cap": (
        ("vector",),
        {
            "grapevine_proto.transport.peer_limits.EXPELLED_SCORE": math.inf,
            "grapevine_proto.overlay.sync.sync_round.ROUND_LIMIT_S": math.inf,
            "grapevine_proto.overlay.sync.sync_round.STREAMS_PER_ROUND": 10**9,
            "grapevine_proto.overlay.sync.sync_round.PAGES_PER_ROUND": 10**9,
        },
    ),
    "one body goes to one peer without end": (
        ("want",),
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


@pytest.mark.parametrize("hole", HOLES)
def test_a_hole_is_found_where_a_mend_is_taken_away(
    hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies, patches = HOLES[hole]
    assert play(0, lies).wrongs == []
    for target, value in patches.items():
        monkeypatch.setattr(target, value)
    assert play(0, lies).wrongs


def test_tables_without_caps_are_found() -> None:
    lies = ("made-up origin",)
    assert play(0, lies, LIMITS).wrongs == []
    assert play(0, lies, LimitsConfig()).wrongs
