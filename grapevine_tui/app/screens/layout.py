"""The layout of the main screen: which panels are visible at which size.

Invariants: there is a layout for every size, 1x1 included. It shows the active panel; the smallest one
shows only the message log, which then gets the focus.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WIDE_CELLS: Final = 120
NARROW_CELLS: Final = 40
SHORT_LINES: Final = 20  # a lower screen shows one panel at a time
LOW_LINES: Final = 12
PANELS: Final = ("peers", "log", "rates", "rounds")  # keys 1 to 4


class Layout(NamedTuple):
    """The CSS class of the screen and the IDs of the visible widgets."""

    css_class: str
    visible_ids: frozenset[str]


def choose_layout(width: int, height: int, active_panel: str, zoomed_panel: str) -> Layout:
    """Return the layout for a screen of `width` by `height` cells. `active_panel` is the panel focused last;
    `zoomed_panel` is the panel that fills the screen, or ""."""
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
