"""Which peers: pure functions of who there is and of a source of chance.

What must stay true: the same candidates and the same `rng` give the same choice, and nobody is
chosen twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from typing import Final, TypeVar

from grapevine_proto.ids import Zone

T = TypeVar("T")
ZoneOf = Callable[[T], Zone]

PREFERRED_WEIGHT: Final = 2.0  # how much likelier a preferred zone's nodes are chosen

# In a cluster larger than `max_peers` a node dials for its links but this part of them, which it
# leaves to those who dial it: then most newcomers find room without asking somebody to make it.
INBOUND_DIVISOR: Final = 5


def uniform(
    candidates: Sequence[T], count: int, rng: random.Random, *, exclude: Container[T] = ()
) -> list[T]:
    """`count` of `candidates` without those in `exclude`, each equally likely; all where fewer are left."""
    if not candidates:
        return []
    if len(candidates) <= 4 * count:
        eligible = [each for each in candidates if each not in exclude]
        return rng.sample(eligible, count) if len(eligible) > count else eligible
    # Many candidates, few to choose: drawing beats copying.
    drawn = rng.sample(candidates, min(len(candidates), 3 * count))
    chosen = [each for each in drawn if each not in exclude][:count]
    if len(chosen) == count:
        return chosen
    eligible = [each for each in candidates if each not in exclude]
    return rng.sample(eligible, min(count, len(eligible)))


def choose(
    candidates: Sequence[T],
    count: int,
    rng: random.Random,
    *,
    distribution: str,
    zone: Zone,
    zone_of: ZoneOf[T],
    exclude: Container[T] = (),
) -> list[T]:
    """`count` of `candidates` without those in `exclude`, as a node in `zone` prefers them; all where
    fewer are left. Nodes that name no zone are in one together.

    - `uniform`: each equally likely.
    - `hub-and-spoke`: one in each other zone, for at most half of `count`, the rest at home.
    - `prefer-local`, `prefer-remote`: those at home, or those elsewhere, are twice as likely.
    """
    if distribution == "uniform":
        return uniform(candidates, count, rng, exclude=exclude)
    eligible = [each for each in candidates if each not in exclude]
    if len(eligible) <= count:
        return eligible
    if distribution == "hub-and-spoke":
        return _hubs_and_local(eligible, count, rng, zone, zone_of)
    prefers_local = distribution == "prefer-local"
    # Chance to the power of 1 / weight: the largest are a weighted draw, none twice.
    exponents = (1.0 / PREFERRED_WEIGHT, 1.0)
    ranked = [
        (rng.random() ** exponents[(zone_of(each) == zone) is not prefers_local], index)
        for index, each in enumerate(eligible)
    ]
    return [eligible[index] for _, index in sorted(ranked, reverse=True)[:count]]


def _hubs_and_local(
    eligible: list[T], count: int, rng: random.Random, zone: Zone, zone_of: ZoneOf[T]
) -> list[T]:
    """One of `eligible` in each other zone and the rest at home; where home has too few, more from
    elsewhere. Half of `count` stays at home, so that a zone keeps together however many there are."""
    zones: dict[Zone, list[T]] = {}
    for each in eligible:
        zones.setdefault(zone_of(each), []).append(each)
    local = zones.pop(zone, [])
    hub_zones = rng.sample(list(zones), min(count // 2, len(zones)))
    chosen = [zones[each].pop(rng.randrange(len(zones[each]))) for each in hub_zones]
    chosen += uniform(local, count - len(chosen), rng)
    if len(chosen) < count:
        remote = [each for others in zones.values() for each in others]
        chosen += uniform(remote, count - len(chosen), rng)
    return chosen


def target_links(members: int, max_peers: int) -> int:
    """How many links to dial for, among `members` others: a full mesh while it fits."""
    return members if members <= max_peers else max_peers - max_peers // INBOUND_DIVISOR
