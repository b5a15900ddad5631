"""What the benchmarks of failures and zones measure, small enough for every run of the tests."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_failures import mass_death
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
        each: crossing(each, nodes=30, max_peers=6, messages=8, warmup=4, settle_s=20.0)
        for each in DISTRIBUTIONS
    }
    assert all(each.missed == 0 for each in found.values())
    for kind in ("links", "bytes"):
        shares = {each: getattr(found[each], kind) for each in DISTRIBUTIONS}
        hub, local = shares["hub-and-spoke"], shares["prefer-local"]
        assert hub < shares["uniform"] < shares["prefer-remote"], (kind, shares)
        assert local < shares["uniform"], (kind, shares)
