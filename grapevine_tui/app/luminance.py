"""Relative luminance of colors by WCAG 2. Imports nothing, so that it costs no start-up time."""

from __future__ import annotations


def relative_luminance(red: float, green: float, blue: float) -> float:
    """Return the luminance, 0 (black) to 1 (white), of sRGB components from 0 to 1."""
    return 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)


def _linear(component: float) -> float:
    return component / 12.92 if component <= 0.04045 else ((component + 0.055) / 1.055) ** 2.4
