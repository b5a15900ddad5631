"""Colors that can be read: text is moved towards white or black until it stands out from every ground.

Invariants:

- Every color that letters have stands out from every ground that letters have by at least `LEAST`
  (WCAG 2.1, 1.4.3: 4.5 to 1), in every theme: ours, Textual's, and one of a user.
- A color that stands out already is left as the theme has it. Colors that are the terminal's own (ANSI
  themes) are left alone: nobody here knows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from textual.color import Color, ColorParseError

LEAST: Final = 4.5
STEP: Final = 0.05
CURSOR_SHARE: Final = 0.22  # of `secondary` over the surface
ALARM_SHARE: Final = 0.22  # of `error`
TEXTS: Final = (
    *("foreground", "text-muted", "text-disabled", "success", "warning", "error", "accent"),
    *("text-accent", "secondary", "primary", "author-4", "author-5"),
)
GROUNDS: Final = ("background", "surface", "panel", "cursor-ground", "alarm-ground")
FADED: Final = {
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


def contrast(one: Color, other: Color) -> float:
    """The contrast ratio by WCAG, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def readable(color: Color, grounds: Sequence[Color]) -> Color:
    """`color`, as far moved towards white or black as it needs to stand out from all of `grounds`."""

    def least(candidate: Color) -> float:
        return min(contrast(candidate, ground) for ground in grounds)

    ends = (Color(255, 255, 255), Color(0, 0, 0))
    end = max(ends, key=least)
    for step in range(round(1 / STEP)):
        candidate = color.blend(end, step * STEP)
        if least(candidate) >= LEAST:
            return candidate
    return end


def _parsed(text: str) -> Color | None:
    """None: it is no color before it is painted, or the terminal's own."""
    try:
        color = Color.parse(text)
    except ColorParseError:
        return None
    return None if color.ansi is not None or color.a < 1 else color


def with_contrast(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a theme with `TEXTS` such that they can be read, and the grounds of the cursor's
    line and of an alarm among them."""
    found = dict(variables)
    colors = {name: _parsed(found.get(name, "")) for name in (*TEXTS, *GROUNDS)}
    surface, foreground = colors["surface"], colors["foreground"]
    if surface is None or foreground is None:
        return found | {"cursor-ground": "ansi_bright_black", "alarm-ground": "ansi_red"}
    for name, ink, share in (
        ("cursor-ground", "secondary", CURSOR_SHARE),
        ("alarm-ground", "error", ALARM_SHARE),
    ):
        ground = surface.blend(colors[ink] or foreground, share)
        colors[name], found[name] = ground, ground.hex
    grounds = [each for name in GROUNDS if (each := colors[name]) is not None]
    for name in TEXTS:
        text = colors[name]
        if text is None and name in FADED:
            text = surface.blend(foreground, FADED[name])
        if text is not None:
            found[name] = readable(text, grounds).hex
    return found
