"""Which peers: pure functions of who there is and of a source of chance.

What must stay true: the same candidates and the same `rng` give the same choice, and nobody is
chosen twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Container, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

# A node dials this share of `max_peers` and leaves the rest to those who dial it, so that in a
# cluster larger than `max_peers` a newcomer always finds somebody with room.
DIALLED_SHARE: Final = 0.6


def uniform(
    candidates: Sequence[T], count: int, rng: random.Random, *, but: Container[T] = ()
) -> list[T]:
    """`count` of `candidates` without those in `but`, each equally likely; all where fewer are left."""
    if not candidates:
        return []
    if len(candidates) <= 4 * count:
        left = [each for each in candidates if each not in but]
        return rng.sample(left, count) if len(left) > count else left
    # Many candidates, few to choose: drawing beats copying.
    drawn = rng.sample(candidates, min(len(candidates), 3 * count))
    chosen = [each for each in drawn if each not in but][:count]
    if len(chosen) == count:
        return chosen
    left = [each for each in candidates if each not in but]
    return rng.sample(left, min(count, len(left)))


def links_wanted(members: int, max_peers: int) -> int:
    """How many links to dial for, among `members` others: a full mesh while it fits."""
    return members if members <= max_peers else max(1, math.ceil(DIALLED_SHARE * max_peers))
