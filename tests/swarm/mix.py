"""What one seed lets happen: how many nodes, which settings, what weather, which faults how often.

What must stay true: a mix is drawn from its seed alone; every fault is in about half of the mixes, so
that each meets every other, and some mixes have none, so that good weather is held to more; in some there are
more nodes than a node may have links.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from grapevine_proto import (
    AntiEntropyConfig,
    EpidemicConfig,
    LimitsConfig,
    NodeConfig,
    RateLimitConfig,
)
from grapevine_proto.config.node import STRATEGIES
from grapevine_proto.sim import Network


@dataclass(slots=True)
class Mix:
    """What one seed lets happen. `actions`: how often each, by weight."""

    seed: int
    nodes: int
    config: NodeConfig
    network: Network
    actions: dict[str, float]
    lasts_s: float
    has_liar: bool

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong at all."""
        network = self.network
        faults = network.loss + network.duplication + network.reorder + network.corruption
        has_room = self.nodes <= self.config.max_peers  # else some are turned away, in all weathers
        return not faults and has_room and self.actions.keys() <= {"say", "whisper"}

    @property
    def strategy(self) -> str:
        """The one that all nodes keep to; "": they change it as they go."""
        return "" if "change" in self.actions else self.config.strategy


FAULTS: Final = (
    "crash", "tear", "lose", "part", "part_one_way", "heal", "suspend", "slow", "move", "rotate",
    "leave", "join", "skew", "stranger", "replay", "burst", "shout", "trace", "change",
)  # fmt: skip
CROWDED: Final = 0.15  # of all mixes have more nodes than a node may have links
LIES: Final = ("forge", "flood", "garble")


def drawn(seed: int) -> Mix:
    """The mix of `seed`."""
    rng = random.Random(f"grapevine swarm {seed}")
    is_calm = rng.random() < 0.12
    nodes = rng.randint(3, 5) if is_calm else rng.randint(4, 10)

    def some(high: float) -> float:
        return 0.0 if is_calm or rng.random() < 0.5 else rng.uniform(0, high)

    config = NodeConfig.local(
        max_peers=50,
        strategy=rng.choice(STRATEGIES),
        lazy_push=rng.random() < 0.8,
        fanout=rng.randint(2, 4),
        batch_delay=rng.choice([0.0, 0.0, 0.05]),
        message_dedup_ttl=rng.choice([20.0, 300.0, 300.0]),
        anti_entropy=AntiEntropyConfig(interval=5.0),
        epidemic=EpidemicConfig(hops=rng.choice([3, 10])),
        rate_limit=RateLimitConfig(capacity=40, refill_rate=30.0),
        limits=LimitsConfig(members=rng.choice([8, 10_000]), addresses=16),
    )
    network = Network(
        loss=some(0.3), duplication=some(0.3), reorder=some(0.3), corruption=some(0.05)
    )
    actions = {"say": 6.0, "whisper": 2.0}
    if not is_calm:
        for each in FAULTS:
            if rng.random() < 0.5:
                actions[each] = rng.uniform(0.2, 1.5)
    lasts_s = rng.uniform(250, 300) if is_calm else rng.uniform(30, 90)
    has_liar = not is_calm and rng.random() < 0.3
    if has_liar:
        actions |= dict(zip(LIES, (1.0, 0.5, 0.5), strict=True))
    if not is_calm and rng.random() < CROWDED:
        nodes, lasts_s = rng.randint(8, 14), lasts_s / 2
        config = config.replace(max_peers=rng.randint(3, 5))
    return Mix(seed, nodes, config, network, actions, lasts_s, has_liar)
