"""Readable text colors: a theme's colors are blended towards white or black until they meet WCAG.

Invariants:

- In every theme each text color has at least `MIN_CONTRAST` (WCAG 2.1, 1.4.3) against every background
  that text is drawn on.
- A color that meets it is not changed. ANSI colors are not changed: the terminal defines them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from textual.color import Color, ColorParseError

from grapevine_tui.app.luminance import relative_luminance

MIN_CONTRAST: Final = 4.5
BLEND_STEP: Final = 0.05
CURSOR_BLEND: Final = 0.22  # of `secondary` over the surface
ALARM_BLEND: Final = 0.22  # of `error`
TEXT_VARIABLES: Final = (
    *("foreground", "text-muted", "text-disabled", "success", "warning", "error", "accent"),
    *("text-accent", "secondary", "primary", "author-4", "author-5"),
)
BACKGROUND_VARIABLES: Final = (
    "background",
    "surface",
    "panel",
    "cursor-background",
    "alarm-background",
)
DIMMED_TEXT_BLEND: Final = {
    "text-muted": 0.7,
    "text-disabled": 0.6,
}  # share of the foreground over the surface, where a theme says "auto"


def luminance(color: Color) -> float:
    """Relative luminance by WCAG: 0 black, 1 white."""
    return relative_luminance(*(channel / 255 for channel in color.rgb))


def contrast_ratio(one: Color, other: Color) -> float:
    """The contrast ratio by WCAG, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def ensure_contrast(color: Color, backgrounds: Sequence[Color]) -> Color:
    """Return `color`, blended towards white or black just enough for `MIN_CONTRAST` to all `backgrounds`."""

    def min_ratio(candidate: Color) -> float:
        return min(contrast_ratio(candidate, background) for background in backgrounds)

    extremes = (Color(255, 255, 255), Color(0, 0, 0))
    target = max(extremes, key=min_ratio)
    for step in range(round(1 / BLEND_STEP)):
        candidate = color.blend(target, step * BLEND_STEP)
        if min_ratio(candidate) >= MIN_CONTRAST:
            return candidate
    return target


def _parse_color(text: str) -> Color | None:
    """Return None for ``auto`` colors, ANSI colors and transparent ones."""
    try:
        color = Color.parse(text)
    except ColorParseError:
        return None
    return None if color.ansi is not None or color.a < 1 else color


def with_contrast(variables: Mapping[str, str]) -> dict[str, str]:
    """Return a theme's variables with readable `TEXT_VARIABLES` and the added backgrounds of the cursor's
    line and of an alarm."""
    adjusted = dict(variables)
    colors = {
        name: _parse_color(adjusted.get(name, ""))
        for name in (*TEXT_VARIABLES, *BACKGROUND_VARIABLES)
    }
    surface, foreground = colors["surface"], colors["foreground"]
    if surface is None or foreground is None:
        return adjusted | {"cursor-background": "ansi_bright_black", "alarm-background": "ansi_red"}
    for name, tint, blend in (
        ("cursor-background", "secondary", CURSOR_BLEND),
        ("alarm-background", "error", ALARM_BLEND),
    ):
        background = surface.blend(colors[tint] or foreground, blend)
        colors[name], adjusted[name] = background, background.hex
    backgrounds = [each for name in BACKGROUND_VARIABLES if (each := colors[name]) is not None]
    for name in TEXT_VARIABLES:
        text = colors[name]
        if text is None and name in DIMMED_TEXT_BLEND:
            text = surface.blend(foreground, DIMMED_TEXT_BLEND[name])
        if text is not None:
            adjusted[name] = ensure_contrast(text, backgrounds).hex
    return adjusted
