"""Fresh seeds at every run, each a cluster with its own misfortune; see `swarm` for what is asked of them.

A failure names its seed: `GRAPEVINE_SWARM_SEED=<seed> pytest tests/swarm/test_swarm.py -k befalls` plays
it again.
"""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.sim import Network
from tests.swarm import FAULTS, LIES, World, drawn, fresh_seed, swarm

FRESH_SEEDS = 6  # two or three seconds each; `python -m tests.swarm --seeds 500` for a night
QUICK_SEEDS = (109, 115, 119)  # of which much can be seen in little time


@pytest.mark.parametrize("number", range(FRESH_SEEDS))
def test_whatever_befalls_a_cluster_every_promise_is_kept(number: int) -> None:
    swarm(fresh_seed())


def test_a_seed_is_the_same_run_to_the_byte() -> None:
    assert swarm(2).sim.trace_hash == swarm(2).sim.trace_hash


def test_a_seed_is_the_same_mix() -> None:
    assert drawn(4711) == drawn(4711)


def test_a_failure_names_its_seed() -> None:
    with pytest.raises(AttributeError) as caught:
        swarm(4711, lambda mix: mix.actions.update(unheard_of=1e9))
    assert "GRAPEVINE_SWARM_SEED=4711" in caught.value.__notes__[0]


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
    for seed in QUICK_SEEDS:
        happened.update(swarm(seed).happened)
    assert happened["say"] > 20
    assert sum(happened[name] > 0 for name in FAULTS) >= len(FAULTS) - 3


@pytest.mark.parametrize("error_s", [-1e6, 1e6])
def test_a_wall_clock_that_is_wrong_changes_nothing_but_epochs(error_s: float) -> None:
    def timeline(error_s: float) -> list[tuple[float, int, int]]:
        world = World(drawn(4))
        world.sim.change_network(Network(loss=0.1, duplication=0.1, reorder=0.1))
        sent: list[tuple[float, int, int]] = []
        world.sim.watch(lambda at, number, datagram, to: sent.append((at, number, to.port)))
        for node in world.sim.nodes:
            world.sim.set_clock(node.number, error_s=error_s)
        world.sim.run(5.0)
        for number in range(3):
            world.say(number)
            world.sim.run(2.0)
        world.sim.crash(1)
        world.start(1, "kept")
        world.sim.run(5.0)
        return sent

    assert timeline(error_s) == timeline(0.0)
