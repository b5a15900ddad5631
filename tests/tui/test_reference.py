"""The tables in docs/reference/ match the code; `python -m tests.tui.make_reference` writes them."""

from __future__ import annotations

from tests.tui.make_reference import REGION, TABLES, pages


def test_every_generated_table_is_up_to_date() -> None:
    for path, expected in pages():
        assert path.read_text(encoding="utf-8") == expected, (
            f"{path.name} is out of date: run python -m tests.tui.make_reference"
        )


def test_every_table_stands_on_a_page() -> None:
    shown = [match[2] for _, text in pages() for match in REGION.finditer(text)]
    assert sorted(shown) == sorted(TABLES)
