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


class Layout(NamedTuple):
    """`css_class` is a class of the screen; `visible_ids` holds the ids of what is on it."""

    css_class: str
    visible_ids: frozenset[str]


def choose_layout(width: int, height: int, active_panel: str, zoomed_panel: str) -> Layout:
    """What to show at this size. `active_panel` is the panel last gone to; `zoomed_panel` one that has the
    screen to itself, or empty."""
    if width < NARROW_CELLS or height < LOW_LINES:
        return Layout("-tiny", frozenset({"status", "log"}))
    frame = {"status", "compose", "keys"}
    if zoomed_panel:
        css_class = "-wide" if width >= WIDE_CELLS else "-column"
        return Layout(css_class, frozenset(frame | {zoomed_panel}))
    if height < SHORT_LINES:
        return Layout("-column", frozenset(frame | {active_panel}))
    if width >= WIDE_CELLS:
        return Layout("-wide", frozenset(frame | {*PANELS, "traffic"}))
    lower = active_panel if active_panel != "peers" else "log"
    visible_ids = frame | {"peers", lower, "summary"}
    if lower == "rates" and height >= SHORT_LINES + 10:
        visible_ids |= {"traffic"}
    return Layout("-column", frozenset(visible_ids))
