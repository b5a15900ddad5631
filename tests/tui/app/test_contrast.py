"""Text is readable in every theme, on every background it is drawn on."""

from __future__ import annotations

import pytest
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from grapevine_tui.app.contrast import (
    BACKGROUND_VARIABLES,
    MIN_CONTRAST,
    TEXT_VARIABLES,
    contrast_ratio,
    ensure_contrast,
    with_contrast,
)
from grapevine_tui.app.themes import THEME_VARIABLES, THEMES

ALL = {**BUILTIN_THEMES, **{theme.name: theme for theme in THEMES}}
PAINTED = {name: theme for name, theme in ALL.items() if not name.startswith("ansi-")}


def test_black_on_white_is_21_to_1() -> None:
    white, black = Color(255, 255, 255), Color(0, 0, 0)
    assert contrast_ratio(white, black) == pytest.approx(21)
    assert contrast_ratio(white, white) == 1
    assert ensure_contrast(black, [white]) == black


@pytest.mark.parametrize("name", list(PAINTED))
def test_all_text_stands_out_from_every_ground_in_every_theme(name: str) -> None:
    theme = PAINTED[name]
    variables = THEME_VARIABLES | theme.to_color_system().generate() | theme.variables
    found = with_contrast(variables)
    for text in TEXT_VARIABLES:
        for ground in BACKGROUND_VARIABLES:
            ratio = contrast_ratio(Color.parse(found[text]), Color.parse(found[ground]))
            assert ratio >= MIN_CONTRAST - 0.01, f"{text} on {ground}: {ratio:.2f}"


@pytest.mark.parametrize("name", ["ansi-dark", "ansi-light"])
def test_the_colors_of_the_terminal_are_left_alone(name: str) -> None:
    theme = ALL[name]
    variables = THEME_VARIABLES | theme.to_color_system().generate() | theme.variables
    found = with_contrast(variables)
    assert {key: found[key] for key in variables} == variables


def test_one_theme_has_more_contrast_than_that() -> None:
    theme = ALL["grapevine-contrast"]
    found = with_contrast(THEME_VARIABLES | theme.to_color_system().generate() | theme.variables)
    for text in ("foreground", "text-muted", "success", "warning", "error", "accent"):
        for ground in ("background", "surface", "panel"):
            assert contrast_ratio(Color.parse(found[text]), Color.parse(found[ground])) >= 7
