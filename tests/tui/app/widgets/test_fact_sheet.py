"""Fact sheets wrap at any width without losing a character."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.geometry import Offset
from textual.selection import Selection

from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.contrast import with_contrast
from grapevine_tui.app.themes import THEME_VARIABLES
from grapevine_tui.app.widgets.fact_sheet import Fact, FactSheet, layout_facts, layout_two_columns
from grapevine_tui.text import cells, wrap
from tests.tui.stage import lines_of

TEXTS = st.text("ab 日é", max_size=60)


@given(TEXTS, st.integers(2, 40))
def test_a_broken_text_fits_and_loses_nothing_but_blanks(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_lines_are_wrapped_between_words_and_a_long_word_anywhere() -> None:
    assert list(wrap("answers what it is sent", 12)) == ["answers what", "it is sent"]
    assert list(wrap("abcdefgh", 3)) == ["abc", "def", "gh"]
    assert list(wrap("日本語", 5)) == ["日本", "語"]
    assert list(wrap("日本", 1)) == ["日", "本"]  # a character wider than the line is kept
    assert list(wrap("", 5)) == [""]


def test_a_wrapped_value_continues_beneath_itself() -> None:
    facts = [Fact("link", ""), Fact("why", "answers what it is sent"), Fact("", "across")]
    shown = ["".join(part.text for part in line) for line in layout_facts(facts, 20)]
    assert shown == ["link", "why  answers what it", "     is sent", "across"]


def test_where_names_leave_no_room_values_stand_beneath_them() -> None:
    facts = [Fact("datagrams out", "12,401")]
    shown = ["".join(part.text for part in line) for line in layout_facts(facts, 20)]
    assert shown == ["datagrams out", "  12,401"]


def test_a_long_name_pushes_no_other_value_aside() -> None:
    facts = [Fact("?", "Help"), Fact("/broadcast TEXT", "Tell everyone")]
    shown = ["".join(part.text for part in line) for line in layout_facts(facts, 30)]
    assert shown == ["?  Help", "/broadcast TEXT", "  Tell everyone"]


@given(st.lists(st.builds(Fact, TEXTS, TEXTS), max_size=6), st.integers(0, 60))
def test_every_width_has_a_layout(facts: list[Fact], width: int) -> None:
    assert len(layout_facts(facts, width)) >= len(facts)


class Shown(App[None]):
    CSS_PATH: ClassVar[Path] = GrapevineApp.CSS_PATH

    def __init__(self) -> None:
        super().__init__()
        self.sheet = FactSheet()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return {**THEME_VARIABLES, "border-blurred": "#888888"}

    def get_css_variables(self) -> dict[str, str]:
        self.theme_variables = with_contrast(super().get_css_variables())
        return self.theme_variables

    def compose(self) -> ComposeResult:
        yield self.sheet


@pytest.mark.asyncio
async def test_only_what_is_on_the_screen_is_painted_and_it_scrolls() -> None:
    async with (app := Shown()).run_test(size=(30, 5)) as pilot:
        app.sheet.set_facts([Fact(f"n{number}", f"value {number}") for number in range(50)])
        await pilot.pause()
        assert "n0   value 0" in lines_of(app)[1]
        app.sheet.scroll_end(animate=False)
        await pilot.pause()
        assert "n49  value 49" in lines_of(app)[-2]
        app.sheet.set_facts([Fact("one", "left")])
        await pilot.pause()
        assert "one  left" in lines_of(app)[1]
        await pilot.resize_terminal(15, 5)
        for _ in range(100):  # a size goes from app to screen to sheet by message
            await pilot.pause()
            if app.sheet.size.width < 15:
                break
        assert [line[3:-3].strip() for line in lines_of(app)[1:3]] == ["one", "left"]


@pytest.mark.asyncio
async def test_what_is_selected_is_lit_and_copied() -> None:
    async with (app := Shown()).run_test(size=(30, 5)) as pilot:
        app.sheet.set_facts([Fact("name", "日本 carol"), Fact("zone", "eu")])
        await pilot.pause()
        chosen = Selection(Offset(6, 0), Offset(8, 0))
        app.screen.selections = {app.sheet: chosen}
        await pilot.pause()
        assert app.sheet.get_selection(chosen) == ("日本", "\n")
        lit = app.screen.get_component_rich_style("screen--selection").bgcolor
        strip = app.sheet.render_line(0)
        assert [each.text for each in strip if each.style and each.style.bgcolor == lit] == ["日本"]
        everything = Selection(None, None)
        assert app.sheet.get_selection(everything) == ("name  日本 carol\nzone  eu", "\n")


def test_two_columns_are_cut_at_a_heading_where_that_leaves_them_about_as_high() -> None:
    sections = [
        Fact("one", ""), *(Fact(f"a{n}", "x") for n in range(4)),
        Fact("two", ""), *(Fact(f"b{n}", "x") for n in range(5)),
    ]  # fmt: skip
    lines = ["".join(part.text for part in line) for line in layout_two_columns(sections, 100)]
    assert [line.split() for line in lines[:2]] == [["one", "two"], ["a0", "x", "b0", "x"]]
    assert {line.index("b") for line in lines[1:]} == {52}
    lopsided = [Fact("one", ""), Fact("a", "x"), Fact("two", "")]
    lopsided += [Fact(f"b{n}", "x") for n in range(21)]
    assert len(layout_two_columns(lopsided, 100)) == 12


@given(st.lists(st.builds(Fact, TEXTS, TEXTS), max_size=12), st.integers(30, 160))
def test_columns_fit_and_leave_nothing_out(facts: list[Fact], width: int) -> None:
    lines = layout_two_columns(facts, width)
    one = layout_facts(facts, (width - 4) // 2)
    letters = sorted("".join(part.text for line in lines for part in line).replace(" ", ""))
    assert letters == sorted("".join(part.text for line in one for part in line).replace(" ", ""))
    if all(cells(fact.name) < (width - 4) // 2 for fact in facts):
        assert all(sum(cells(part.text) for part in line) <= width for line in lines)
