"""Which peers are chosen."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.overlay.selection import links_wanted, uniform


@given(st.integers(0, 40), st.integers(0, 10), st.sets(st.integers(0, 39)), st.integers())
def test_uniform_gives_as_many_as_there_are_none_twice_none_excluded(
    population: int, count: int, but: set[int], seed: int
) -> None:
    chosen = uniform(range(population), count, random.Random(seed), but=but)
    allowed = set(range(population)) - but
    assert len(chosen) == len(set(chosen)) == min(count, len(allowed))
    assert set(chosen) <= allowed


def test_uniform_is_repeatable_and_even() -> None:
    assert uniform(range(100), 3, random.Random(1)) == uniform(range(100), 3, random.Random(1))
    rng = random.Random(2)
    counts = Counter(
        each for _ in range(6000) for each in uniform(range(30), 3, rng, but={0, 1, 2})
    )
    assert set(counts) == set(range(3, 30))
    assert min(counts.values()) / max(counts.values()) > 0.8


def test_a_small_cluster_is_a_full_mesh_and_a_large_one_leaves_room() -> None:
    assert links_wanted(10, 50) == 10
    assert links_wanted(50, 50) == 50
    assert links_wanted(51, 50) == 30
    assert links_wanted(5, 1) == 1
