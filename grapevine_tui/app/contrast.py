"""Colors that can be read: text is moved towards white or black until it stands out from every ground.

Invariants:

- Every color that letters have stands out from every ground that letters have by at least `MIN_CONTRAST`
  (WCAG 2.1, 1.4.3: 4.5 to 1), in every theme: ours, Textual's, and one of a user.
- A color that stands out already is left as the theme has it. Colors that are the terminal's own (ANSI
  themes) are left alone: nobody here knows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from textual.color import Color, ColorParseError

MIN_CONTRAST: Final = 4.5
BLEND_STEP: Final = 0.05
CURSOR_BLEND: Final = 0.22  # of `secondary` over the surface
ALARM_BLEND: Final = 0.22  # of `error`
TEXT_VARIABLES: Final = (
    *("foreground", "text-muted", "text-disabled", "success", "warning", "error", "accent"),
    *("text-accent", "secondary", "primary", "author-4", "author-5"),
)
BACKGROUND_VARIABLES: Final = ("background", "surface", "panel", "cursor-ground", "alarm-ground")
DIMMED_TEXT_BLEND: Final = {
    "text-muted": 0.7,
    "text-disabled": 0.6,
}  # of the foreground, where a theme says "auto"


def _linear(channel: int) -> float:
    value = channel / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(color: Color) -> float:
    """Relative luminance by WCAG: 0 black, 1 white."""
    red, green, blue = (_linear(channel) for channel in color.rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast_ratio(one: Color, other: Color) -> float:
    """The contrast ratio by WCAG, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def ensure_contrast(color: Color, backgrounds: Sequence[Color]) -> Color:
    """`color`, as far moved towards white or black as it needs to stand out from all of `backgrounds`."""

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
    """None: it is no color before it is painted, or the terminal's own."""
    try:
        color = Color.parse(text)
    except ColorParseError:
        return None
    return None if color.ansi is not None or color.a < 1 else color


def with_contrast(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a theme with `TEXT_VARIABLES` such that they can be read, and the grounds of the
    cursor's
    line and of an alarm among them."""
    adjusted = dict(variables)
    colors = {
        name: _parse_color(adjusted.get(name, ""))
        for name in (*TEXT_VARIABLES, *BACKGROUND_VARIABLES)
    }
    surface, foreground = colors["surface"], colors["foreground"]
    if surface is None or foreground is None:
        return adjusted | {"cursor-ground": "ansi_bright_black", "alarm-ground": "ansi_red"}
    for name, tint, blend in (
        ("cursor-ground", "secondary", CURSOR_BLEND),
        ("alarm-ground", "error", ALARM_BLEND),
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
