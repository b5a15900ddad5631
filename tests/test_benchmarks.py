"""Every benchmark says what it measures and what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parent / "benchmarks"
PROGRAMS = sorted(path.stem for path in DIRECTORY.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_explains_itself(name: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", "--help"],
        cwd=DIRECTORY.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stdout.lower().startswith("usage: ")
