"""The benchmarks of failures, zones and growth, small enough for every test run."""

from __future__ import annotations

from statistics import fmean

import pytest

from tests.benchmarks.bench_failures import mass_failure
from tests.benchmarks.bench_growth import cost
from tests.benchmarks.bench_zones import DISTRIBUTIONS, measure


@pytest.mark.parametrize(("share", "seed"), [(0.5, 1), (0.8, 2)])
def test_survivors_of_a_mass_failure_receive_the_next_broadcast(share: float, seed: int) -> None:
    result = mass_failure(nodes=60, share=share, seed=seed)
    assert result.survivors == round(60 * (1 - share))
    assert result.first.missed == 0
    assert result.later.missed == 0
    assert result.later.duplicates == result.first.duplicates == 0


def test_distributions_differ_in_cross_zone_traffic_as_documented() -> None:
    """Both links and bytes: fewest with hub-and-spoke, most with prefer-remote."""
    results = {
        each: [
            measure(each, nodes=30, max_peers=6, messages=8, warmup=4, settle_s=20.0, seed=seed)
            for seed in (1, 2, 3)  # a single seed may reverse the order
        ]
        for each in DISTRIBUTIONS
    }
    assert all(run.missed == 0 for runs in results.values() for run in runs)
    for kind in ("links", "bytes"):
        shares = {
            each: fmean(getattr(run, kind) for run in results[each]) for each in DISTRIBUTIONS
        }
        hub_share, local_share = shares["hub-and-spoke"], shares["prefer-local"]
        assert hub_share < shares["uniform"] < shares["prefer-remote"], (kind, shares)
        assert local_share < shares["uniform"], (kind, shares)


def test_idle_traffic_per_node_does_not_grow_with_the_cluster() -> None:
    """Five links per node, in clusters of 30 and of 120: heartbeats with their piggybacked records."""
    small, large = (cost(nodes=nodes, broadcasts_per_s=0, seconds=10.0) for nodes in (30, 120))
    assert large.datagrams < 1.15 * small.datagrams
    assert large.bytes < 1.3 * small.bytes
    assert large.known_members > small.known_members
