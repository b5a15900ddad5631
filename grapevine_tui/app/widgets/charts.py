"""Bars and graphs drawn with block and braille characters.

Invariants: every function returns exactly the cells it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

BAR_FULL: Final = "━"
BAR_HALF: Final = "╸"
BAR_EMPTY: Final = "─"  # thinner, so that a bar can be read without colors


def bar(fraction: float, width_cells: int) -> tuple[str, str]:
    """Return the filled part and the empty track of a bar, together `width_cells`, to half a cell."""
    halves = round(min(1.0, max(0.0, fraction)) * width_cells * 2)
    filled = BAR_FULL * (halves // 2) + (BAR_HALF if halves % 2 else "")
    return filled, BAR_EMPTY * (width_cells - len(filled))


# Braille cells hold two columns of four dots each (Unicode 2800: dots 1-8 are bits 0-7).
_LEFT_UP: Final = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT_UP: Final = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_LEFT_DOWN: Final = (0x00, 0x01, 0x03, 0x07, 0x47)
_RIGHT_DOWN: Final = (0x00, 0x08, 0x18, 0x38, 0xB8)


def braille_graph(
    values: Iterable[float], width_cells: int, rows: int, *, hanging: bool = False
) -> list[str]:
    """Return a filled curve of `rows` lines of braille, newest value at the right.

    The curve is scaled to its peak and grows from the bottom, or from the top if `hanging`. A value
    above zero shows at least one dot.
    """
    point_count = width_cells * 2
    if point_count <= 0:
        return [""] * rows
    shown = list(values)[-point_count:]
    shown = [0.0] * (point_count - len(shown)) + shown
    peak = max(shown) or 1.0
    dots = [max(1 if value > 0 else 0, round(value / peak * rows * 4)) for value in shown]
    left, right = (_LEFT_DOWN, _RIGHT_DOWN) if hanging else (_LEFT_UP, _RIGHT_UP)
    lines = []
    for row in range(rows):
        filled_below = (row if hanging else rows - 1 - row) * 4  # dots drawn in other rows
        lines.append(
            "".join(
                chr(
                    0x2800
                    + left[min(4, max(0, dots[index] - filled_below))]
                    + right[min(4, max(0, dots[index + 1] - filled_below))]
                )
                for index in range(0, point_count, 2)
            )
        )
    return lines


EIGHTH_BLOCKS: Final = " ▏▎▍▌▋▊▉█"  # a cell filled by eighths


def eighths_bar(ratio: float, width_cells: int) -> tuple[str, str]:
    """Return the filled part and the track of a bar, to an eighth of a cell. Only a `ratio` of 1 fills it."""
    eighths = int(max(0.0, min(ratio, 1.0)) * width_cells * 8)
    full, part = divmod(eighths, 8)
    filled = "█" * full + (EIGHTH_BLOCKS[part] if part else "")
    return filled, "─" * (width_cells - len(filled))
