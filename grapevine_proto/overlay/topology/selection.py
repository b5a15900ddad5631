"""Random selection of peers, uniform or by zone.

Invariants:

- Pure: the same candidates and the same `rng` state give the same choice.
- No candidate is chosen twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from typing import Final, TypeVar

from grapevine_proto.ids import Zone

T = TypeVar("T")
ZoneOf = Callable[[T], Zone]

PREFERRED_WEIGHT: Final = 2.0  # likelihood of a preferred zone relative to the others


def uniform(
    candidates: Sequence[T], count: int, rng: random.Random, *, exclude: Container[T] = ()
) -> list[T]:
    """`count` of `candidates` that are not in `exclude`, drawn uniformly; all of them if there are
    fewer.
    """
    if not candidates:
        return []
    if len(candidates) <= 4 * count:
        eligible = [each for each in candidates if each not in exclude]
        return rng.sample(eligible, count) if len(eligible) > count else eligible
    # With many candidates and a small count, rejection sampling is cheaper than a copy.
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
    """`count` of `candidates` that are not in `exclude`, drawn as a node in `zone` prefers; all of
    them if there are fewer. Nodes without a zone share one.

    - `uniform`: regardless of zone.
    - `hub-and-spoke`: one in each other zone, for at most half of `count`, the rest in its own.
    - `prefer-local`, `prefer-remote`: twice as likely in its own zone, or in other zones.
    """
    if distribution == "uniform":
        return uniform(candidates, count, rng, exclude=exclude)
    eligible = [each for each in candidates if each not in exclude]
    if len(eligible) <= count:
        return eligible
    if distribution == "hub-and-spoke":
        return _hubs_and_local(eligible, count, rng, zone, zone_of)
    prefers_local = distribution == "prefer-local"
    # Efraimidis and Spirakis 2006: the largest random() ** (1 / weight) are a weighted sample
    # without replacement.
    exponents = (1.0 / PREFERRED_WEIGHT, 1.0)
    ranked = [
        (rng.random() ** exponents[(zone_of(each) == zone) is not prefers_local], index)
        for index, each in enumerate(eligible)
    ]
    return [eligible[index] for _, index in sorted(ranked, reverse=True)[:count]]


def _hubs_and_local(
    eligible: list[T], count: int, rng: random.Random, zone: Zone, zone_of: ZoneOf[T]
) -> list[T]:
    """One of `eligible` in each other zone and the rest in the local one; if the local zone has too
    few, more remote ones. At least half of `count` stays local, so that a zone stays connected with
    any number of zones.
    """
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
