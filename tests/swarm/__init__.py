"""A swarm of small clusters, each with its own mix of faults, checked against the promises of
docs/reference/simulation.md.

    python -m tests.swarm --seeds 200            consecutive seeds from a random one
    python -m tests.swarm --first 4711           one seed again

A seed draws a mix (`mix`) and applies it to a cluster for a while (`world`, `attacks`). Then all
faults end and the cluster must recover soon (`ending`). `watch` checks every datagram and event and
raises `Violation` if a promise is broken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from tests.swarm import inside
from tests.swarm.ending import check_recovery
from tests.swarm.mix import ATTACKS, FAULTS, Mix, draw_mix
from tests.swarm.watch import UNAUTHENTICATED, Violation
from tests.swarm.world import World

__all__ = ["ATTACKS", "FAULTS", "Mix", "Violation", "World", "draw_mix", "first_seed", "swarm"]

SEED_VARIABLE: Final = "SWARM_SEED"
DISCOVERY_S: Final = 5.0


def play(world: World) -> None:
    """Run a phase of faults and then a phase of recovery. Raises Violation."""
    mix, watch = world.mix, world.watch
    with inside.intercept(
        watch.on_send, watch.on_unauthenticated, watch.on_arrival, UNAUTHENTICATED
    ):
        world.sim.run(DISCOVERY_S)
        until, names = world.sim.now + mix.duration_s, list(mix.actions)
        weights = [mix.actions[each] for each in names]
        while world.sim.now < until:
            world.apply(world.rng.choices(names, weights)[0])
            world.sim.run(world.rng.choice([0.0, 0.02, 0.3, 1.0, 2.0]))
        check_recovery(world)


def swarm(seed: int, change: Callable[[Mix], None] = lambda _: None) -> World:
    """Run the mix of `seed` after `change` has modified it. Raises Violation; any other exception
    came out of a node, which breaks the third promise.
    """
    mix = draw_mix(seed)
    change(mix)
    world = World(mix)
    try:
        play(world)
    except Exception as error:
        error.add_note(
            f"repeat: {SEED_VARIABLE}={seed} pytest tests/swarm/test_swarm.py -k promise"
        )
        raise
    return world


def first_seed() -> int:
    """The seed in the environment, or a random one."""
    requested = os.environ.get(SEED_VARIABLE)
    return int(requested) if requested else int.from_bytes(os.urandom(4), "big")
