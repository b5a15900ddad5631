"""Fresh seeds at every run, each a cluster with its own misfortune; see `swarm` for what is asked of them.

A failure names its seed: `GRAPEVINE_SWARM_SEED=<seed> pytest tests/sim/test_swarm.py` plays it again.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.swarm import FAULTS, LIES, World, drawn, fresh_seed, swarm

FRESH_SEEDS = 20  # two or three seconds each; `python -m tests.sim.swarm --seeds 500` for a night


@pytest.mark.parametrize("number", range(FRESH_SEEDS))
def test_whatever_befalls_a_cluster_every_promise_is_kept(number: int) -> None:
    swarm(fresh_seed())


def test_a_seed_is_the_same_run_to_the_byte() -> None:
    assert swarm(7).sim.trace_hash == swarm(7).sim.trace_hash


def test_a_seed_is_the_same_mix() -> None:
    assert drawn(4711) == drawn(4711)


def test_everything_that_may_happen_is_drawn_often_enough() -> None:
    """Else a fault could drop out of the swarm and nobody would notice."""
    mixes = [drawn(seed) for seed in range(400)]
    count = Counter(name for mix in mixes for name in mix.actions)
    assert all(count[name] > 100 for name in FAULTS)
    assert all(hasattr(World, name) or name in LIES for name in count)
    assert sum(mix.is_calm for mix in mixes) > 20
    assert sum(mix.has_liar for mix in mixes) > 60
    for weather in ("loss", "duplication", "reorder", "corruption"):
        assert sum(getattr(mix.network, weather) > 0 for mix in mixes) > 100


def test_what_is_drawn_does_happen() -> None:
    happened: Counter[str] = Counter()
    for seed in (3, 10, 15, 19):
        happened.update(swarm(seed).happened)
    assert happened["say"] > 40
    assert sum(happened[name] > 0 for name in FAULTS) >= len(FAULTS) - 2
