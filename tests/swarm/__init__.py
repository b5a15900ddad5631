"""A swarm of small clusters, each with its own mix of misfortune, held to design.md's section 4.

    python -m tests.swarm --seeds 200            fresh seeds, one after another
    python -m tests.swarm --first 4711           one seed again

A seed draws a mix (`mix`), lets it happen to a cluster for a while (`world`, `lies`), then heals
everything and asks that all is well again soon (`ending`). `watch` checks at every datagram and every
event; whatever breaks a promise raises `Violation`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from tests.swarm import inside
from tests.swarm.ending import come_right
from tests.swarm.mix import FAULTS, LIES, Mix, drawn
from tests.swarm.watch import STRANGER, Violation
from tests.swarm.world import World

__all__ = ["FAULTS", "LIES", "Mix", "Violation", "World", "drawn", "fresh_seed", "swarm"]

SEED_VARIABLE: Final = "GRAPEVINE_SWARM_SEED"
KNOWN_EACH_OTHER_S: Final = 5.0


def play(world: World) -> None:
    """A time of faults, then a time in which all must come right. Raises Violation."""
    mix, watch = world.mix, world.watch
    with inside.overheard(watch.on_send, watch.on_stranger, watch.on_arrival, STRANGER):
        world.sim.run(KNOWN_EACH_OTHER_S)
        until, names = world.sim.now + mix.lasts_s, list(mix.actions)
        weights = [mix.actions[each] for each in names]
        while world.sim.now < until:
            world.act(world.rng.choices(names, weights)[0])
            world.sim.run(world.rng.choice([0.0, 0.02, 0.3, 1.0, 2.0]))
        come_right(world)


def swarm(seed: int, change: Callable[[Mix], None] = lambda _: None) -> World:
    """Play the mix of `seed`, after `change` had its way with it. Raises Violation; anything else
    that is raised came out of a node, which breaks the third promise."""
    mix = drawn(seed)
    change(mix)
    world = World(mix)
    try:
        play(world)
    except Exception as error:
        error.add_note(f"again: {SEED_VARIABLE}={seed} pytest tests/swarm/test_swarm.py -k befalls")
        raise
    return world


def fresh_seed() -> int:
    """One that nobody has seen, or the one asked for by the environment."""
    wanted = os.environ.get(SEED_VARIABLE)
    return int(wanted) if wanted else int.from_bytes(os.urandom(4), "big")
