"""Starts examples in a directory of their own and ends them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.processes import Example, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Example] = []

    def begin(name: str, *arguments: str) -> Example:
        running.append(Example(name, *arguments, directory=tmp_path))
        return running[-1]

    yield begin
    for each in running:
        each.close()
