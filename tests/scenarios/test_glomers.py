"""The broadcast challenge of Gossip Glomers, for a few seconds."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_glomers import TARGETS, Result, meets, play


@pytest.mark.parametrize(("batch_s", "target"), TARGETS)
@pytest.mark.usefixtures("patch_sources")
def test_the_targets_are_met(batch_s: float, target: Result) -> None:
    result = play(batch_s, 2.0)
    assert meets(result, target), result
