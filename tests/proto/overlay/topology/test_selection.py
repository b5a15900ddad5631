"""Selection of peers, uniform and by zone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.node import DISTRIBUTIONS
from grapevine_proto.overlay.topology.selection import choose, uniform


@given(st.integers(0, 40), st.integers(0, 10), st.sets(st.integers(0, 39)), st.integers())
def test_uniform_returns_distinct_candidates_without_excluded_ones(
    population: int, count: int, excluded: set[int], seed: int
) -> None:
    chosen = uniform(range(population), count, random.Random(seed), exclude=excluded)
    allowed = set(range(population)) - excluded
    assert len(chosen) == len(set(chosen)) == min(count, len(allowed))
    assert set(chosen) <= allowed


def test_uniform_is_reproducible_and_even() -> None:
    assert uniform(range(100), 3, random.Random(1)) == uniform(range(100), 3, random.Random(1))
    rng = random.Random(2)
    counts = Counter(
        each for _ in range(6000) for each in uniform(range(30), 3, rng, exclude={0, 1, 2})
    )
    assert set(counts) == set(range(3, 30))
    assert min(counts.values()) / max(counts.values()) > 0.8


@pytest.mark.parametrize("count", [5, 6])
def test_all_of_no_more_than_wanted_are_chosen_in_order_and_without_a_draw(count: int) -> None:
    rng = random.Random(3)
    state = rng.getstate()
    assert uniform(range(6), count, rng, exclude={2}) == [0, 1, 3, 4, 5]
    assert rng.getstate() == state
    assert len(uniform(range(6), 4, rng, exclude={2})) == 4


def chosen(
    distribution: str, count: int, *, zones: str = "aaaaabbbbbccccc", seed: int = 1
) -> list[int]:
    """The indices that a node in zone a chooses from nodes in these zones."""
    return choose(
        range(len(zones)),
        count,
        random.Random(seed),
        distribution=distribution,
        zone="a",
        zone_of=lambda each: zones[each],
    )


def local_share(distribution: str, count: int) -> float:
    zones = "a" * 10 + "b" * 10 + "c" * 10
    is_local = Counter(
        zones[each] == "a"
        for seed in range(3000)
        for each in chosen(distribution, count, zones=zones, seed=seed)
    )
    return is_local[True] / is_local.total()


@given(
    st.sampled_from(DISTRIBUTIONS),
    st.text(alphabet="abcd", max_size=30),
    st.integers(0, 12),
    st.sets(st.integers(0, 29)),
    st.integers(),
)
def test_every_distribution_returns_distinct_candidates_without_excluded_ones(
    distribution: str, zones: str, count: int, excluded: set[int], seed: int
) -> None:
    picks = [
        choose(
            range(len(zones)),
            count,
            random.Random(seed),
            distribution=distribution,
            zone="a",
            zone_of=lambda each: zones[each],
            exclude=excluded,
        )
        for _ in range(2)
    ]
    allowed = set(range(len(zones))) - excluded
    assert picks[0] == picks[1]
    assert len(set(picks[0])) == len(picks[0]) == min(count, len(allowed))
    assert set(picks[0]) <= allowed


def test_hub_and_spoke_takes_one_in_each_other_zone_and_the_rest_in_its_own() -> None:
    for seed in range(50):
        zones = Counter("aaaaabbbbbccccc"[each] for each in chosen("hub-and-spoke", 5, seed=seed))
        assert zones == {"a": 3, "b": 1, "c": 1}


def test_with_more_zones_than_links_half_stay_in_the_local_zone() -> None:
    zones = "aaaaa" + "bcdefghij"
    for seed in range(50):
        picks = chosen("hub-and-spoke", 4, zones=zones, seed=seed)
        assert sum(zones[each] == "a" for each in picks) == 2


def test_a_node_alone_in_its_zone_chooses_from_other_zones() -> None:
    assert len(chosen("hub-and-spoke", 5, zones="bbbbbbccccc")) == 5


def test_a_preferred_zone_is_twice_as_likely() -> None:
    # per local node there is one in each of two other zones: a third, or weighted 2:1 or 1:2
    assert abs(local_share("uniform", 1) - 1 / 3) < 0.03
    assert abs(local_share("prefer-local", 1) - 2 / 4) < 0.03
    assert abs(local_share("prefer-remote", 1) - 1 / 5) < 0.03


def test_nodes_without_a_zone_are_equally_likely() -> None:
    for distribution in DISTRIBUTIONS:
        counts = Counter(
            each
            for seed in range(3000)
            for each in choose(
                range(10),
                3,
                random.Random(seed),
                distribution=distribution,
                zone="",
                zone_of=lambda _: "",
            )
        )
        assert min(counts.values()) / max(counts.values()) > 0.8


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_all_candidates_are_chosen_in_order_if_no_more_are_wanted_than_there_are(
    distribution: str,
) -> None:
    for count in (15, 16):
        assert chosen(distribution, count) == list(range(15))
    assert len(chosen(distribution, 14)) == 14
