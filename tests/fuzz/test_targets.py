"""Each fuzz target with its seeds and mutations by hypothesis."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgpack
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


# --- values of other types ------------------------------------------------------------------------

OTHER_VALUES: Final[list[Any]] = [
    *(None, False, True, 0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**64 - 1, 0.5, float("nan")),
    *(b"", b"x", bytes(8), bytes(32), bytes(64), "", "text", (), (0,), (b"", 1), ((),) * 3),
]


def with_another_value(fields: Any, data: st.DataObject) -> Any:
    """`fields` with one value, at any depth, replaced by one that is likely to be of another type."""
    if isinstance(fields, list) and fields and data.draw(st.integers(0, 5)):
        at = data.draw(st.integers(0, len(fields) - 1))
        return [*fields[:at], with_another_value(fields[at], data), *fields[at + 1 :]]
    return data.draw(st.sampled_from(OTHER_VALUES))


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_values_of_other_types_are_dropped_with_a_reason(data: st.DataObject) -> None:
    plaintext = data.draw(st.sampled_from(seeds_of("messages")))
    try:
        fields = msgpack.unpackb(plaintext[1:])
    except ValueError:
        fields = []  # a kind that is no list of values
    changed = plaintext[:1] + msgpack.packb(with_another_value(fields, data))
    TARGETS["messages"].check(changed)
    TARGETS["members"].check(len(changed).to_bytes(2, "big") + b"\x05" + changed)
