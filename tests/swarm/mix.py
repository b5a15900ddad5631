"""The mix of one seed: number of nodes, settings, network, and the frequency of each fault.

Invariants:

- A mix is drawn from its seed alone.
- Every fault is in about half of the mixes, so that each meets every other. Some mixes have none,
  for stricter checks, and some have more nodes than link slots.
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
from grapevine_proto.config.sections import StateConfig
from grapevine_proto.sim import Network


@dataclass(slots=True)
class Mix:
    """What one seed makes happen. `actions` maps each action to its weight."""

    seed: int
    nodes: int
    config: NodeConfig
    network: Network
    actions: dict[str, float]
    duration_s: float
    has_malicious: bool

    @property
    def is_calm(self) -> bool:
        """Whether there are no faults at all."""
        network = self.network
        faults = network.loss + network.duplication + network.reorder + network.corruption
        # otherwise some nodes are rejected even without faults
        is_calm = self.is_full_mesh and not faults
        return is_calm and self.actions.keys() <= {"broadcast", "send_direct"}

    @property
    def is_full_mesh(self) -> bool:
        """Whether each node has room for a link to every other."""
        return self.nodes <= self.config.max_peers

    @property
    def strategy(self) -> str:
        """The strategy of all nodes; "" if they change it."""
        return "" if "change_strategy" in self.actions else self.config.strategy


FAULTS: Final = (
    "crash", "crash_while_saving", "lose_state", "partition", "partition_one_way", "heal", "suspend",
    "slow", "move", "rotate_key", "leave", "join", "skew_clock", "unauthenticated", "replay", "burst",
    "broadcast_large", "trace", "change_strategy",
)  # fmt: skip
TOMBSTONE_S: Final = 2.0  # short, so that an older copy could bring a deleted key back
CROWDED: Final = 0.15  # fraction of mixes with more nodes than link slots
ATTACKS: Final = ("forge", "flood", "garble")


def draw_mix(seed: int) -> Mix:
    """The mix of `seed`."""
    rng = random.Random(f"grapevine swarm {seed}")
    is_calm = rng.random() < 0.12
    nodes = rng.randint(3, 5) if is_calm else rng.randint(4, 10)

    def random_rate(maximum: float) -> float:
        return 0.0 if is_calm or rng.random() < 0.5 else rng.uniform(0, maximum)

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
        loss=random_rate(0.3),
        duplication=random_rate(0.3),
        reorder=random_rate(0.3),
        corruption=random_rate(0.05),
    )
    actions = {"broadcast": 6.0, "send_direct": 2.0}
    if not is_calm:
        for each in FAULTS:
            if rng.random() < 0.5:
                actions[each] = rng.uniform(0.2, 1.5)
        if seed % 2:  # without a draw, so that the other mixes stay as they were
            actions["publish"] = 1.0
        if seed % 3 == 1:
            actions |= {"set_entry": 1.5, "delete_entry": 1.0}
            config = config.replace(state=StateConfig(tombstone=TOMBSTONE_S))
    duration_s = rng.uniform(250, 300) if is_calm else rng.uniform(30, 90)
    has_malicious = not is_calm and rng.random() < 0.3
    if has_malicious:
        actions |= dict(zip(ATTACKS, (1.0, 0.5, 0.5), strict=True))
    if not is_calm and rng.random() < CROWDED:
        nodes, duration_s = rng.randint(8, 14), duration_s / 2
        config = config.replace(max_peers=rng.randint(3, 5))
    return Mix(seed, nodes, config, network, actions, duration_s, has_malicious)


def add_entries(mix: Mix) -> None:
    """Has the nodes write entries often, whatever else was drawn."""
    mix.actions |= {"set_entry": 4.0, "delete_entry": 3.0}
    mix.config = mix.config.replace(state=StateConfig(tombstone=TOMBSTONE_S))
