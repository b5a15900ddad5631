"""An exported screen as cells: read, compared by meaning, written as an SVG that is the same every time.

What must stay true:

- A cell is its letter and what it means: the theme's name for its colour, bold or italic, the ground
  it stands on. A colour itself is never compared, so a theme that changes upstream changes nothing.
- How the exporter cuts a line into pieces, what it calls them and where a scrollbar's thumb ends are
  not compared either.
- What `write` makes of a picture, `read` reads back as the same picture.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple
from xml.etree import ElementTree

from rich.cells import get_character_cell_size
from textual.color import Color, ColorParseError

CELL_WIDTH: Final = 12.2  # Rich's own measures, in its SVG
LINE_HEIGHT: Final = 24.4
TEXT_Y: Final = 20.0  # the base of the first line's letters
RECT_Y: Final = 1.5  # the top of its ground
NEAR: Final = 3  # of 255: colours are rounded on their way through blends
# Where several names have one colour the first says best what is meant.
TONES: Final = (
    *("success", "warning", "error", "accent", "secondary", "foreground", "text-muted"),
    *("text-disabled", "border-blurred", "author-4", "author-5", "background", "surface", "panel"),
)
OTHER: Final = "other"  # blended from several, or Textual's own
SCROLLBARS: Final = frozenset("▁▂▃▄▅▆▇")  # ends of a thumb; nothing of ours is painted with these
SVG: Final = "{http://www.w3.org/2000/svg}"


class Cell(NamedTuple):
    letter: str
    ink: str
    ground: str

    def __str__(self) -> str:
        return f"{self.ink} on {self.ground}"


BLANK: Final = Cell(" ", "", "")


class Picture(NamedTuple):
    """Rows of cells; the second half of a wide letter has the letter ``""``."""

    rows: tuple[tuple[Cell, ...], ...]

    @property
    def text(self) -> list[str]:
        return ["".join(cell.letter for cell in row).rstrip() for row in self.rows]


class Palette:
    """Names for the colours of a theme, by its variables."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._colours: dict[str, tuple[int, int, int]] = {}
        for name in TONES:
            try:
                self._colours[name] = Color.parse(variables.get(name, "")).rgb
            except ColorParseError:  # ``auto 60%`` and its like: no colour before it is painted
                continue

    def name(self, colour: str) -> str:
        """The first of the names that is this colour."""
        try:
            wanted = Color.parse(colour).rgb
        except ColorParseError:
            return colour  # a picture that we wrote has names already
        for name, own in self._colours.items():
            if all(abs(one - other) <= NEAR for one, other in zip(own, wanted, strict=True)):
                return name
        return OTHER

    def rules(self) -> str:
        """The names as classes."""
        return "\n".join(
            f".{name} {{ fill: #{bytes(colour).hex()} }}" for name, colour in self._colours.items()
        )


# Reading


def read(svg: str, palette: Palette, size: tuple[int, int]) -> Picture:
    """The cells of a screen of `size` (columns, lines), as Rich exported it or `write` wrote it."""
    root = ElementTree.fromstring(svg)
    styles = dict(_styles(root, palette))
    width, height = size
    cells = [[BLANK] * width for _ in range(height)]
    for element in root.iter(f"{SVG}rect"):
        if "class" not in element.attrib and "shape-rendering" not in element.attrib:
            continue  # the window's frame, and what cuts off what stands out of a line
        row, column, wide = _place(element, RECT_Y)
        ground = element.get("class") or palette.name(element.get("fill", ""))
        if row < height:
            for at in range(column, min(column + wide, width)):
                cells[row][at] = Cell(" ", "", ground)
    for element in root.iter(f"{SVG}text"):
        if "textLength" not in element.attrib:  # the window's title
            continue
        row, column, _ = _place(element, TEXT_Y)
        name = element.get("class", "")
        if row < height:
            _put(cells[row], column, element.text or "", styles.get(name, name))
    return Picture(tuple(map(tuple, cells)))


def _place(element: ElementTree.Element, above: float) -> tuple[int, int, int]:
    """Line, column and number of cells."""
    x, y = float(element.get("x", 0)), float(element.get("y", 0))
    wide = float(element.get("width") or element.get("textLength") or 0)
    return (
        round((y - above) / LINE_HEIGHT),
        round(x / CELL_WIDTH),
        round(wide / CELL_WIDTH),
    )


def _put(row: list[Cell], column: int, text: str, ink: str) -> None:
    at = column
    for letter in text.replace("\xa0", " "):
        size = get_character_cell_size(letter)
        if letter == "\n" or at >= len(row):
            return
        if not size:  # a mark upon the letter before it, which may be two cells wide
            below = at - 1 if row[at - 1].letter else at - 2
            row[below] = row[below]._replace(letter=row[below].letter + letter)
            continue
        shown = " " if letter in SCROLLBARS else letter
        row[at] = row[at]._replace(letter=shown, ink="" if shown == " " else ink)
        if size == 2 and at + 1 < len(row):
            row[at + 1] = row[at + 1]._replace(letter="", ink=ink)
        at += size


def _styles(root: ElementTree.Element, palette: Palette) -> Iterator[tuple[str, str]]:
    """Class -> what it means: a colour's name, then ``bold`` and the like."""
    for style in root.iter(f"{SVG}style"):
        for rule in (style.text or "").split("}"):
            selector, _, body = rule.partition("{")
            name = selector.strip().removeprefix(".")
            parts = (part.partition(":") for part in body.split(";"))
            said = {key.strip(): value.strip() for key, _, value in parts}
            if "fill" not in said or "-r" not in name:
                continue
            words = [palette.name(said["fill"])]
            words += ["bold"] if said.get("font-weight") == "bold" else []
            words += ["italic"] if said.get("font-style") == "italic" else []
            words += said.get("text-decoration", "").split()
            yield name, " ".join(words)


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


def write(picture: Picture, palette: Palette, note: str) -> str:
    """`picture` as an SVG whose classes are what things mean; `note` stands in it as a comment."""
    width, height = max(map(len, picture.rows)), len(picture.rows)
    parts = [
        HEAD.format(
            width=f"{width * CELL_WIDTH:g}",
            height=f"{height * LINE_HEIGHT + RECT_Y:g}",
            note=note,
            rules=palette.rules(),
        )
    ]
    for number, row in enumerate(picture.rows):
        y = number * LINE_HEIGHT
        for at, ground, run in _runs(row, lambda cell: cell.ground):
            if ground:
                parts.append(
                    f'<rect class="{ground}" x="{at * CELL_WIDTH:g}" y="{y + RECT_Y:g}" '
                    f'width="{len(run) * CELL_WIDTH:g}" height="24.65"/>\n'
                )
        for at, ink, run in _runs(row, lambda cell: cell.ink):
            text = "".join(cell.letter for cell in run).replace(" ", "\xa0")
            if ink:
                parts.append(
                    f'<text class="{ink}" x="{at * CELL_WIDTH:g}" y="{y + TEXT_Y:g}" '
                    f'textLength="{len(run) * CELL_WIDTH:g}">{html.escape(text)}</text>\n'
                )
    return "".join([*parts, "</svg>\n"])


def _runs(
    row: Sequence[Cell], kind: Callable[[Cell], str]
) -> Iterator[tuple[int, str, list[Cell]]]:
    """Where neighbours of one kind begin, the kind, and they."""
    at = 0
    for name, found in groupby(row, key=kind):
        run = list(found)
        yield at, name, run
        at += len(run)


# Comparing


def difference(wanted: Picture, found: Picture) -> str:
    """The first line that differs, in words; empty: none does."""
    if len(wanted.rows) != len(found.rows):
        return f"{len(wanted.rows)} lines were expected, not {len(found.rows)}"
    for number, (before, after) in enumerate(zip(wanted.text, found.text, strict=True), 1):
        if before != after:
            return f"line {number}\n  was  {before!r}\n  is   {after!r}"
    for number, (one, other) in enumerate(zip(wanted.rows, found.rows, strict=True), 1):
        for column, (before_cell, after_cell) in enumerate(zip(one, other, strict=True), 1):
            if before_cell != after_cell:
                words = "".join(cell.letter for cell in other[column - 1 :])[:20].rstrip()
                return (
                    f"line {number}, column {column}, at {words!r}: "
                    f"the letters are the same, but {before_cell} is now {after_cell}"
                )
    return ""
