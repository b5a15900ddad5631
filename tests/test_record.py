"""Recorded runs go as they went: whatever changes their hashes changed the protocol's behavior."""

from __future__ import annotations

from typing import Final

import pytest

from tests import record

LINES: Final[dict[str, str]] = {}
for line in record.RECORD.read_text(encoding="utf-8").splitlines():
    digest, name = line.split(maxsplit=1)
    LINES[name] = digest


@pytest.mark.parametrize(
    ("seed", "run"), list(enumerate(record.RUNS, 1)), ids=lambda value: getattr(value, "name", "")
)
def test_a_recorded_run_goes_as_it_went(seed: int, run: record.Run) -> None:
    assert record.play(seed, run) == LINES[f"{seed} {run.name}"]


def test_golden_bytes_are_as_recorded() -> None:
    assert record.wire_digest() == LINES["wire"]
