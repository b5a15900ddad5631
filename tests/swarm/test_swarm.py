"""Other seeds in every run, each a cluster with its own mix of faults; see `swarm` for the checks. `.ci/run`
takes them from the commit, so that a commit always passes or always fails.

A failure names its seed: `SWARM_SEED=<seed> pytest tests/swarm/test_swarm.py -k promise`
repeats it.
"""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.sim import Network
from tests.swarm import ATTACKS, FAULTS, World, draw_mix, first_seed, swarm

SEEDS = 6  # two or three seconds each; `python -m tests.swarm --seeds 500` for a night
QUICK_SEEDS = (109, 115, 119)  # with many faults in little time


@pytest.mark.parametrize("number", range(SEEDS))
def test_every_promise_holds_under_random_faults(number: int) -> None:
    swarm(first_seed() + number)


def test_a_seed_reproduces_a_run_to_the_byte() -> None:
    assert swarm(2).sim.trace_hash == swarm(2).sim.trace_hash


def test_a_seed_reproduces_its_mix() -> None:
    assert draw_mix(4711) == draw_mix(4711)


def test_a_failure_names_its_seed() -> None:
    with pytest.raises(AttributeError) as caught:
        swarm(4711, lambda mix: mix.actions.update(no_such_action=1e9))
    assert "SWARM_SEED=4711" in caught.value.__notes__[0]


def test_every_fault_is_drawn_often_enough() -> None:
    """Otherwise a fault could drop out of the swarm unnoticed."""
    mixes = [draw_mix(seed) for seed in range(400)]
    count = Counter(name for mix in mixes for name in mix.actions)
    assert all(count[name] > 100 for name in FAULTS)
    assert all(hasattr(World, name) or name in ATTACKS for name in count)
    assert sum(mix.is_calm for mix in mixes) > 20
    assert sum(mix.has_malicious for mix in mixes) > 60
    for impairment in ("loss", "duplication", "reorder", "corruption"):
        assert sum(getattr(mix.network, impairment) > 0 for mix in mixes) > 100


def test_drawn_faults_are_applied() -> None:
    action_counts: Counter[str] = Counter()
    for seed in QUICK_SEEDS:
        action_counts.update(swarm(seed).action_counts)
    assert action_counts["broadcast"] > 20
    assert sum(action_counts[name] > 0 for name in FAULTS) >= len(FAULTS) - 3


@pytest.mark.parametrize("error_s", [-1e6, 1e6])
def test_a_wrong_wall_clock_changes_only_epochs(error_s: float) -> None:
    def timeline(error_s: float) -> list[tuple[float, int, int]]:
        world = World(draw_mix(4))
        world.sim.change_network(Network(loss=0.1, duplication=0.1, reorder=0.1))
        sent: list[tuple[float, int, int]] = []
        world.sim.watch(lambda at, number, datagram, to: sent.append((at, number, to.port)))
        for node in world.sim.nodes:
            world.sim.set_clock(node.number, error_s=error_s)
        world.sim.run(5.0)
        for number in range(3):
            world.broadcast(number)
            world.sim.run(2.0)
        world.sim.crash(1)
        world.start(1, "kept")
        world.sim.run(5.0)
        return sent

    assert timeline(error_s) == timeline(0.0)
