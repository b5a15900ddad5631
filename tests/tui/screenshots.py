"""Screenshots as cells: parsed from SVG, compared by meaning, and written as a stable SVG.

Invariants:

- A cell is a character with the theme's names of its foreground and background color, and its style.
  RGB values are not compared, so that a change of a theme does not change a screenshot.
- Neither are the exporter's segments and class names, nor where the thumb of a scrollbar ends.
- `read` returns the screenshot that `write` wrote.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple
from xml.etree import ElementTree

from rich.cells import get_character_cell_size
from textual.color import Color, ColorParseError

CELL_WIDTH: Final = 12.2  # in Rich's SVG export
LINE_HEIGHT: Final = 24.4
TEXT_Y: Final = 20.0  # baseline of the first line
RECT_Y: Final = 1.5  # top of its background
MAX_CHANNEL_DIFFERENCE: Final = 3  # of 255: blending rounds colors
# Of several names for one color the first is used.
TONES: Final = (
    *("success", "warning", "error", "accent", "secondary", "foreground", "text-muted"),
    *("text-disabled", "border-blurred", "author-4", "author-5", "background", "surface", "panel"),
)
OTHER: Final = "other"  # blended, or Textual's own
SCROLLBARS: Final = frozenset("▁▂▃▄▅▆▇")  # ends of a thumb; our widgets do not use these
SVG: Final = "{http://www.w3.org/2000/svg}"


class Cell(NamedTuple):
    letter: str
    foreground: str
    background: str

    def __str__(self) -> str:
        return f"{self.foreground} on {self.background}"


BLANK: Final = Cell(" ", "", "")


class Screenshot(NamedTuple):
    """Rows of cells; the second cell of a wide character has the letter ``""``."""

    rows: tuple[tuple[Cell, ...], ...]

    @property
    def text(self) -> list[str]:
        return ["".join(cell.letter for cell in row).rstrip() for row in self.rows]


class Palette:
    """Names of a theme's colors, from its variables."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._colors: dict[str, tuple[int, int, int]] = {}
        for name in TONES:
            try:
                self._colors[name] = Color.parse(variables.get(name, "")).rgb
            except ColorParseError:  # ``auto 60%``: depends on the background
                continue

    def name(self, color: str) -> str:
        """Return the first name of this color, or `OTHER`."""
        try:
            expected = Color.parse(color).rgb
        except ColorParseError:
            return color  # our own SVG has names
        for name, own in self._colors.items():
            if all(
                abs(one - other) <= MAX_CHANNEL_DIFFERENCE
                for one, other in zip(own, expected, strict=True)
            ):
                return name
        return OTHER

    def rules(self) -> str:
        """Return the names as CSS rules."""
        return "\n".join(
            f".{name} {{ fill: #{bytes(color).hex()} }}" for name, color in self._colors.items()
        )


# Reading


def read(svg: str, palette: Palette, size: tuple[int, int]) -> Screenshot:
    """Return the cells of an SVG that Rich or `write` made, of a screen of `size` (columns, lines)."""
    root = ElementTree.fromstring(svg)
    styles = dict(_styles(root, palette))
    width, height = size
    cells = [[BLANK] * width for _ in range(height)]
    for element in root.iter(f"{SVG}rect"):
        if "class" not in element.attrib and "shape-rendering" not in element.attrib:
            continue  # the window's frame and clip paths
        row, column, wide = _cell_position(element, RECT_Y)
        background = element.get("class") or palette.name(element.get("fill", ""))
        if row < height:
            for at in range(column, min(column + wide, width)):
                cells[row][at] = Cell(" ", "", background)
    for element in root.iter(f"{SVG}text"):
        if "textLength" not in element.attrib:  # the window's title
            continue
        row, column, _ = _cell_position(element, TEXT_Y)
        name = element.get("class", "")
        if row < height:
            _put(cells[row], column, element.text or "", styles.get(name, name))
    return Screenshot(tuple(map(tuple, cells)))


def _cell_position(element: ElementTree.Element, above: float) -> tuple[int, int, int]:
    """Return the line, the column and the number of cells."""
    x, y = float(element.get("x", 0)), float(element.get("y", 0))
    wide = float(element.get("width") or element.get("textLength") or 0)
    return (
        round((y - above) / LINE_HEIGHT),
        round(x / CELL_WIDTH),
        round(wide / CELL_WIDTH),
    )


def _put(row: list[Cell], column: int, text: str, foreground: str) -> None:
    at = column
    for letter in text.replace("\xa0", " "):
        size = get_character_cell_size(letter)
        if letter == "\n" or at >= len(row):
            return
        if not size:  # combines with the previous character, which may be two cells wide
            below = at - 1 if row[at - 1].letter else at - 2
            row[below] = row[below]._replace(letter=row[below].letter + letter)
            continue
        shown = " " if letter in SCROLLBARS else letter
        row[at] = row[at]._replace(letter=shown, foreground="" if shown == " " else foreground)
        if size == 2 and at + 1 < len(row):
            row[at + 1] = row[at + 1]._replace(letter="", foreground=foreground)
        at += size


def _styles(root: ElementTree.Element, palette: Palette) -> Iterator[tuple[str, str]]:
    """Yield each class with its meaning: a color's name, then ``bold`` and the like."""
    for style in root.iter(f"{SVG}style"):
        for rule in (style.text or "").split("}"):
            selector, _, body = rule.partition("{")
            name = selector.strip().removeprefix(".")
            parts = (part.partition(":") for part in body.split(";"))
            properties = {key.strip(): value.strip() for key, _, value in parts}
            if "fill" not in properties or "-r" not in name:
                continue
            meaning = [palette.name(properties["fill"])]
            meaning += ["bold"] if properties.get("font-weight") == "bold" else []
            meaning += ["italic"] if properties.get("font-style") == "italic" else []
            meaning += properties.get("text-decoration", "").split()
            yield name, " ".join(meaning)


# Writing

HEAD: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<!-- {note} -->
<style>
text {{ font: 20px "Fira Code", monospace; white-space: pre }}
rect {{ shape-rendering: crispEdges }}
.other {{ fill: #888 }}
rect.other {{ fill: #8884 }}
.bold {{ font-weight: bold }}
.italic {{ font-style: italic }}
.underline {{ text-decoration: underline }}
.line-through {{ text-decoration: line-through }}
{rules}
</style>
"""


def write(screenshot: Screenshot, palette: Palette, note: str) -> str:
    """Return `screenshot` as an SVG whose classes name colors and styles, with `note` as a comment."""
    width, height = max(map(len, screenshot.rows)), len(screenshot.rows)
    parts = [
        HEAD.format(
            width=f"{width * CELL_WIDTH:g}",
            height=f"{height * LINE_HEIGHT + RECT_Y:g}",
            note=note,
            rules=palette.rules(),
        )
    ]
    for number, row in enumerate(screenshot.rows):
        y = number * LINE_HEIGHT
        for at, background, run in _runs(row, lambda cell: cell.background):
            if background:
                parts.append(
                    f'<rect class="{background}" x="{at * CELL_WIDTH:g}" y="{y + RECT_Y:g}" '
                    f'width="{len(run) * CELL_WIDTH:g}" height="24.65"/>\n'
                )
        for at, foreground, run in _runs(row, lambda cell: cell.foreground):
            text = "".join(cell.letter for cell in run).replace(" ", "\xa0")
            if foreground:
                parts.append(
                    f'<text class="{foreground}" x="{at * CELL_WIDTH:g}" y="{y + TEXT_Y:g}" '
                    f'textLength="{len(run) * CELL_WIDTH:g}">{html.escape(text)}</text>\n'
                )
    return "".join([*parts, "</svg>\n"])


def _runs(
    row: Sequence[Cell], kind: Callable[[Cell], str]
) -> Iterator[tuple[int, str, list[Cell]]]:
    """Yield runs of adjacent cells of one kind: first column, kind and cells."""
    at = 0
    for name, found in groupby(row, key=kind):
        run = list(found)
        yield at, name, run
        at += len(run)


# Comparing


def difference(expected: Screenshot, found: Screenshot) -> str:
    """Return a description of the first difference, or ""."""
    if len(expected.rows) != len(found.rows):
        return f"{len(expected.rows)} lines were expected, not {len(found.rows)}"
    for number, (before, after) in enumerate(zip(expected.text, found.text, strict=True), 1):
        if before != after:
            return f"line {number}\n  was  {before!r}\n  is   {after!r}"
    for number, (one, other) in enumerate(zip(expected.rows, found.rows, strict=True), 1):
        for column, (before_cell, after_cell) in enumerate(zip(one, other, strict=True), 1):
            if before_cell != after_cell:
                text = "".join(cell.letter for cell in other[column - 1 :])[:20].rstrip()
                return (
                    f"line {number}, column {column}, at {text!r}: "
                    f"the letters are the same, but {before_cell} is now {after_cell}"
                )
    return ""
