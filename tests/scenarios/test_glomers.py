"""The broadcast challenge of Gossip Glomers, for a few seconds."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_glomers import TARGETS, Result, meets, play


@pytest.mark.parametrize(("bundle_s", "target"), TARGETS)
def test_the_challenge_is_met(bundle_s: float, target: Result) -> None:
    got = play(bundle_s, 2.0)
    assert meets(got, target), got
