"""Which panels are on the screen at which size: one function, so that every size can be tested.

What must stay true: there is an answer for every size, 1x1 included, and the focused panel is
always among those shown.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WIDE_CELLS: Final = 120
NARROW_CELLS: Final = 40
SHORT_LINES: Final = 20  # below this one panel at a time
LOW_LINES: Final = 12
PANELS: Final = ("peers", "log", "rates", "rounds")  # keys 1 to 4


class Arrangement(NamedTuple):
    """`kind` is a class of the screen; `shown` holds the ids of what is on it."""

    kind: str
    shown: frozenset[str]


def arrange(width: int, height: int, front: str, zoomed: str) -> Arrangement:
    """What to show at this size. `front` is the panel last gone to; `zoomed` one that has the
    screen to itself, or empty."""
    if width < NARROW_CELLS or height < LOW_LINES:
        return Arrangement("-tiny", frozenset({"status", "log"}))
    frame = {"status", "compose", "keys"}
    if zoomed:
        kind = "-wide" if width >= WIDE_CELLS else "-column"
        return Arrangement(kind, frozenset(frame | {zoomed}))
    if height < SHORT_LINES:
        return Arrangement("-column", frozenset(frame | {front}))
    if width >= WIDE_CELLS:
        return Arrangement("-wide", frozenset(frame | {*PANELS, "traffic"}))
    lower = front if front != "peers" else "log"
    shown = frame | {"peers", lower, "summary"}
    if lower == "rates" and height >= SHORT_LINES + 10:
        shown |= {"traffic"}
    return Arrangement("-column", frozenset(shown))
