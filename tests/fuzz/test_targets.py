"""Each fuzz target with its seeds and mutations by hypothesis."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS


@cache
def seeds_of(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_accepts_its_seeds(name: str) -> None:
    assert seeds_of(name)
    for seed in seeds_of(name):
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_input_breaks_no_promise(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(seeds_of(name)))
    changed = bytearray(seed)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, max(len(seed) - 1, 0)), st.integers(0, 255)), max_size=4)
    ):
        changed[at : at + 1] = bytes((byte,))
    TARGETS[name].check(bytes(changed) + data.draw(st.binary(max_size=40)))
