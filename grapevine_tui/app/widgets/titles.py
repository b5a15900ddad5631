"""Border titles of panels and tables: a name and the parts that fit beside it.

Invariants: titles are `Content`, never markup, so text from the network cannot style them.
"""

from __future__ import annotations

import time
from typing import Final

from textual.content import Content

from grapevine_tui.host.model import Model
from grapevine_tui.host.query import Query
from grapevine_tui.text import printable, truncate

TONE_COLORS: Final = {
    "good": "$success",
    "warn": "$warning",
    "bad": "$error",
    "dim": "$text-muted",
}
MAX_FILTER_CELLS: Final = 24  # of the filter's text in a title
SEPARATOR: Final = " · "  # between the parts of a title
FRAME_CELLS: Final = 6  # of a panel's width that the border keeps from its title


def format_title(name: str, *parts: tuple[str, str]) -> Content:
    """Return ``Name · part · part``. Each part is printable text with the name of a theme color."""
    pieces: list[tuple[str, str]] = [(name, "bold")]
    for text, color in parts:
        pieces += [(SEPARATOR, "$text-muted"), (text, color)]
    return Content.assemble(*pieces)


def format_as_of(model: Model) -> str:
    """Return the time of the data on the screen, or "" while it is current."""
    if not model.outdated_since:
        return ""
    return f"as of {time.strftime('%H:%M:%S', time.localtime(model.outdated_since))}"


def shorten_title(title_text: Content, panel_cells: int) -> Content:
    """Drop parts from the end until the title fits a panel of `panel_cells`."""
    while (
        title_text.cell_length > max(0, panel_cells - FRAME_CELLS) and SEPARATOR in title_text.plain
    ):
        title_text = title_text[: title_text.plain.rindex(SEPARATOR)]
    return title_text


def find_status(query: Query, position: int, count: int) -> list[tuple[str, str]]:
    """Return the title part for what is looked for; none if nothing is. `position` is 0 between matches."""
    if not query:
        return []
    words = truncate(printable(query.text), MAX_FILTER_CELLS)
    if not count:
        return [(f"no match for {words}", "$warning")]
    of = f"match {position:,} of {count:,}" if position else f"{count:,} found"
    return [(f"{of} {words}", "$text-accent")]


def filter_status(query: Query, shown: int) -> list[tuple[str, str]]:
    """Return the title part for a filter with `shown` matches; none without a filter."""
    if not query:
        return []
    return [
        (f"{shown:,} match {truncate(printable(query.text), MAX_FILTER_CELLS)}", "$text-accent")
    ]
