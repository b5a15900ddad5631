"""The layout of the main screen: which panels are visible at which size.

Invariants: there is a layout for every size and every choice of boxes, 1x1 included. It shows the active
panel; the smallest one shows only the message log, which then gets the focus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

WIDE_CELLS: Final = 120
NARROW_CELLS: Final = 40
SHORT_LINES: Final = 20  # a lower screen shows one panel at a time
LOW_LINES: Final = 12
PANELS: Final = ("peers", "log", "rates", "rounds")  # keys 1 to 4
BOXES: Final = (*PANELS, "traffic")
WALL: Final = "wall"


class Choice(NamedTuple):
    """The boxes that an operator has switched on, of `BOXES`, and the preset that they come from, of
    `LAYOUTS`. A `is_bare` one has neither compose box nor key footer."""

    preset: str
    boxes: frozenset[str]

    @property
    def is_bare(self) -> bool:
        return self.preset == WALL

    def with_box(self, name: str) -> Choice:
        """This choice with the box switched on."""
        return self if name in self.boxes else self._replace(boxes=self.boxes | {name})

    def without_box(self, name: str) -> Choice:
        """This choice with the box switched off; the last panel stays."""
        boxes = self.boxes - {name}
        return self._replace(boxes=boxes) if boxes & set(PANELS) else self


PRESETS: Final[Mapping[str, Choice]] = {
    name: Choice(name, frozenset(boxes))
    for name, boxes in (
        ("all", BOXES),
        ("chat", ("peers", "log")),
        ("traffic", ("peers", "log", "traffic", "rates")),
        ("repair", ("peers", "log", "traffic", "rounds")),
        (WALL, BOXES),
    )
}
ALL: Final = PRESETS["all"]


class Layout(NamedTuple):
    """The CSS class of the screen and the IDs of the visible widgets."""

    css_class: str
    visible_ids: frozenset[str]


def choose_layout(
    width: int, height: int, active_panel: str, zoomed_panel: str, choice: Choice = ALL
) -> Layout:
    """Return the layout for a screen of `width` by `height` cells. `active_panel` is the panel focused last,
    one of the boxes of `choice`; `zoomed_panel` is the panel that fills the screen, or ""."""
    if width < NARROW_CELLS or height < LOW_LINES:
        return Layout("-tiny", frozenset({"status", "log"}))
    frame = {"status"} if choice.is_bare else {"status", "compose", "keys"}
    if zoomed_panel:
        css_class = "-wide" if width >= WIDE_CELLS else "-column"
        return Layout(css_class, frozenset(frame | {zoomed_panel}))
    if height < SHORT_LINES:
        return Layout("-column", frozenset(frame | {active_panel}))
    if width >= WIDE_CELLS:
        return Layout("-wide", frozenset(frame | choice.boxes))
    lower = active_panel if active_panel != "peers" else "log"
    visible_ids = {"peers", lower}
    if lower == "rates" and height >= SHORT_LINES + 10:
        visible_ids |= {"traffic"}
    visible_ids = visible_ids & choice.boxes | {active_panel}
    return Layout("-column", frozenset(frame | visible_ids | {"summary"}))
