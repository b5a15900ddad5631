"""Text from strangers, made fit to be shown.

What must stay true:

- Nothing `printable` returns can move a cursor, set a colour, reverse a line or hide: each control,
  format, private, unassigned or surrogate code point stands there as a visible sign of its own.
- `printable(printable(x)) == printable(x)`, so it does no harm to call it twice.
- The work is bounded by what can be seen: a payload of a megabyte costs as much as its first line.
- Importing this costs next to nothing and no Textual: the headless node uses it too.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final
from unicodedata import category

MAX_COMBINING_MARKS: Final = 4  # enough for every living script; a "zalgo" text stacks dozens
ELLIPSIS: Final = "…"
# Code points a cell may hold: one base, its marks; and a two-cell base leaves room to spare.
CODE_POINTS_PER_CELL: Final = 1 + MAX_COMBINING_MARKS
PREVIEW_BYTES: Final = 4096  # of a payload, looked at for one line: beyond any screen's width

_PICTURES: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20)},  # ␛ and its kin are one cell each
    0x7F: "␡",
    0x09: " ",
    0x0A: "↵",
    0x0D: "␍",
}
# Letters by category, yet nothing to see: fillers that some use to forge a blank name.
_BLANK_LETTERS: Final = frozenset({0x115F, 0x3164, 0xFFA0, 0x034F, 0x17B4, 0x17B5, 0x2800})
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
_VARIATIONS: Final = range(0xFE00, 0xFE10)
# Zero-width (non-)joiners hold emoji together and are part of how Persian and Indic languages are
# written. There they are left out unseen; anywhere else they would only forge a name.
_JOINERS: Final = range(0x200C, 0x200E)
_JOINING: Final = frozenset({"So", "Lo"})
_SKIN_TONES: Final = range(0x1F3FB, 0x1F400)


def _is_mark(code: int, kind: str) -> bool:
    # Hangul vowels and finals are letters, yet stack upon the letter before them like marks.
    return kind in _MARKS or 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FF


def escape(code: int) -> str:
    """How a code point that must not be shown is spelled: as Python would."""
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def printable(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal would obey or hide.

    C0 controls become their Unicode pictures (``␛``), a line's end ``↵``, a tab and every odd
    space a plain space, all else that is not to be seen an escape (``\\u202e``). Of combining
    marks at most four in a row are kept.
    """
    if text.isascii() and text.isprintable():
        return text  # nearly every name and most messages
    shown: list[str] = []
    marks = 0
    previous = ""  # category of what stands before
    for character in text:
        code = ord(character)
        kind = category(character)
        if _is_mark(code, kind):
            if code in _VARIATIONS and previous in _JOINING:
                continue  # asks for a coloured emoji; terminals disagree on its width, so it goes
            if code in _VARIATIONS or code in _BLANK_LETTERS:
                shown.append(escape(code))
                marks, previous = 0, "Po"
                continue
            marks += 1
            if marks <= MAX_COMBINING_MARKS:
                shown.append(character)
            continue
        if code in _JOINERS and previous in _JOINING:
            continue  # what they join reads well enough apart
        marks, previous = 0, "So" if code in _SKIN_TONES else kind
        if code in _PICTURES:
            shown.append(_PICTURES[code])
        elif kind in _HIDDEN or code in _BLANK_LETTERS:
            shown.append(escape(code))
        else:
            shown.append(" " if kind == "Zs" else character)
    return "".join(shown)


def printable_lines(text: str) -> list[str]:
    """`text` line by line, each made printable: for places that show more than one line."""
    return [printable(line) for line in text.replace("\r\n", "\n").split("\n")]


def format_payload(payload: bytes, limit_bytes: int = PREVIEW_BYTES) -> str:
    """One printable line for `payload`: as text if it is UTF-8, else in hex.

    Only the first `limit_bytes` are looked at; what is left out is told by an ellipsis.
    """
    head = payload[:limit_bytes]
    is_whole = len(head) == len(payload)
    try:
        # Not final where we cut: the cut may go through the middle of a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, is_whole)
    except UnicodeDecodeError:
        return head.hex(" ") + ("" if is_whole else ELLIPSIS)
    return printable(text) + ("" if is_whole else ELLIPSIS)


def cells(text: str) -> int:
    """How many cells of a terminal printable `text` takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # what Textual measures by; only the screen needs it

    return cell_len(text)


def truncate(text: str, width_cells: int) -> str:
    """Printable `text` in at most `width_cells`, an ellipsis in the last where some is left out."""
    if width_cells <= 0:
        return ""
    if len(text) <= width_cells and text.isascii():
        return text
    head = text[: width_cells * CODE_POINTS_PER_CELL + 1]
    if len(head) == len(text) and cells(head) <= width_cells:
        return text
    from rich.cells import get_character_cell_size

    used = 0
    for index, character in enumerate(head):
        used += get_character_cell_size(character)
        if used > width_cells - 1:  # this one would stand where the ellipsis must
            return head[:index] + ELLIPSIS
    return head + ELLIPSIS


def wrap(text: str, width_cells: int) -> Iterator[str]:
    """`text` in lines of at most `width_cells`: between words where that is possible."""
    while len(text) > 1 and cells(text) > width_cells > 0:
        head = truncate(text, width_cells + 1)[:-1] or text[0]  # what fits, without the ellipsis
        at = len(head)
        if text[at:][:1] != " " and (blank := head.rstrip(" ").rfind(" ")) > 0:
            at = blank
        yield text[:at].rstrip(" ")
        text = text[at:].lstrip(" ")
    yield text


def pad(text: str, width_cells: int, *, right: bool = False) -> str:
    """Printable `text` in exactly `width_cells`: cut, or filled with spaces."""
    shown = truncate(text, width_cells)
    blank = " " * (width_cells - cells(shown))
    return blank + shown if right else shown + blank
