"""The fixture `lab`, and which of its tests run by default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.network import why_not

WHY_NOT = why_not()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/lab/" not in item.path.as_posix():
            continue
        if WHY_NOT:
            item.add_marker(pytest.mark.skip(reason=WHY_NOT))
        elif item.get_closest_marker("long") and not os.environ.get("GRAPEVINE_LAB_ALL"):
            item.add_marker(pytest.mark.skip(reason="a long run: python -m tests.lab"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        yield made
