"""Every command has a manual page with every flag; `python -m tests.tui.make_man_pages` makes them."""

from __future__ import annotations

import re

import pytest

from tests.tui.make_man_pages import DIRECTORY, pages


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]+", text.replace("\\-", "-")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # click-man asks click for its version
def test_every_command_has_a_page_with_every_flag() -> None:
    expected = dict(pages())
    assert {path.name for path in DIRECTORY.iterdir()} == set(expected)
    for name, text in expected.items():
        assert flags_of((DIRECTORY / name).read_text(encoding="utf-8")) == flags_of(text), name
