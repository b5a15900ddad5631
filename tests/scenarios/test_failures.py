"""What the benchmarks of failures, zones and growth measure, small enough for every run of the tests."""

from __future__ import annotations

from statistics import fmean

import pytest

from tests.benchmarks.bench_failures import mass_death
from tests.benchmarks.bench_growth import cost
from tests.benchmarks.bench_zones import DISTRIBUTIONS, crossing


@pytest.mark.parametrize(("share", "seed"), [(0.5, 1), (0.8, 2)])
def test_whoever_survives_a_mass_death_hears_what_is_said_next(share: float, seed: int) -> None:
    found = mass_death(nodes=60, share=share, seed=seed)
    assert found.survivors == round(60 * (1 - share))
    assert found.first.missed == 0
    assert found.later.missed == 0
    assert found.later.duplicates == found.first.duplicates == 0


def test_each_distribution_sends_across_zones_as_much_as_it_says() -> None:
    """Links and bytes alike: the fewest by hubs, the most where those elsewhere are preferred."""
    found = {
        each: [
            crossing(each, nodes=30, max_peers=6, messages=8, warmup=4, settle_s=20.0, seed=seed)
            for seed in (1, 2, 3)  # one alone may have it the other way round
        ]
        for each in DISTRIBUTIONS
    }
    assert all(run.missed == 0 for runs in found.values() for run in runs)
    for kind in ("links", "bytes"):
        shares = {each: fmean(getattr(run, kind) for run in found[each]) for each in DISTRIBUTIONS}
        hub, local = shares["hub-and-spoke"], shares["prefer-local"]
        assert hub < shares["uniform"] < shares["prefer-remote"], (kind, shares)
        assert local < shares["uniform"], (kind, shares)


def test_what_an_idle_node_sends_does_not_grow_with_the_cluster() -> None:
    """Five links each, in a cluster of 30 and in one of 120: heartbeats, news of members with them."""
    small, large = (cost(nodes=nodes, broadcasts_per_s=0, seconds=10.0) for nodes in (30, 120))
    assert large.datagrams < 1.15 * small.datagrams
    assert large.bytes < 1.3 * small.bytes
    assert large.known_members > small.known_members
