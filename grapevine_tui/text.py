"""Makes untrusted text safe to show.

Invariants:

- Nothing that `printable` returns can move a cursor, set a color, reverse a line or be invisible:
  each control, format, private-use, unassigned or surrogate code point becomes a visible symbol.
- `printable(printable(x)) == printable(x)`, so calling it twice is harmless.
- The work is bounded by what is visible: a megabyte of payload costs as much as its first line.
- Importing this is cheap and imports no Textual; headless nodes use it too.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import Any, Final
from unicodedata import category

MAX_COMBINING_MARKS: Final = 4  # enough for every living script; a "zalgo" text stacks dozens
ELLIPSIS: Final = "…"
# Code points per cell: one base and its marks; a two-cell base leaves room to spare.
CODE_POINTS_PER_CELL: Final = 1 + MAX_COMBINING_MARKS
PREVIEW_BYTES: Final = 4096  # of a payload, for one line: wider than any screen
_VIA_WORDS: Final = {
    "eager": "push",
    "lazy": "pull",
    "local": "sent",
}  # of `Via`, where they differ

_PICTURES: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20)},  # ␛ and the like take one cell each
    0x7F: "␡",
    0x09: " ",
    0x0A: "↵",
    0x0D: "␍",
}
# Letters by category, but invisible: fillers used to forge a blank name.
_BLANK_LETTERS: Final = frozenset({0x115F, 0x3164, 0xFFA0, 0x034F, 0x17B4, 0x17B5, 0x2800})
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
_VARIATIONS: Final = range(0xFE00, 0xFE10)
# Zero-width (non-)joiners hold emoji together and belong to Persian and Indic spelling. There they
# are left out without a symbol; anywhere else they could only forge a name.
_JOINERS: Final = range(0x200C, 0x200E)
_JOINING: Final = frozenset({"So", "Lo"})
_SKIN_TONES: Final = range(0x1F3FB, 0x1F400)


def _is_mark(code: int, kind: str) -> bool:
    # Hangul vowels and finals are letters but combine with the letter before them like marks.
    return kind in _MARKS or 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FF


def escape(code: int) -> str:
    """Escape of a code point that must not be shown, in Python's notation."""
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def via_word(via: str) -> str:
    """Returns how a message came, by the value of its `Via`, in the word of screens and filters."""
    return _VIA_WORDS.get(via, via)


def printable(text: str) -> str:
    """Return `text` on one line, without anything a terminal would obey or hide.

    C0 controls become their Unicode symbols (``␛``), a line end becomes ``↵``, a tab and every
    unusual space a plain space, other invisible code points an escape (``\\u202e``). At most four
    combining marks in a row are kept.
    """
    if text.isascii() and text.isprintable():
        return text  # nearly every name and most messages
    shown: list[str] = []
    marks = 0
    previous = ""  # category of the character before
    for character in text:
        code = ord(character)
        kind = category(character)
        if _is_mark(code, kind):
            if code in _VARIATIONS and previous in _JOINING:
                continue  # requests a color emoji; terminals disagree on its width, so it is dropped
            if code in _VARIATIONS or code in _BLANK_LETTERS:
                shown.append(escape(code))
                marks, previous = 0, "Po"
                continue
            marks += 1
            if marks <= MAX_COMBINING_MARKS:
                shown.append(character)
            continue
        if code in _JOINERS and previous in _JOINING:
            continue  # the joined characters are readable on their own
        marks, previous = 0, "So" if code in _SKIN_TONES else kind
        if code in _PICTURES:
            shown.append(_PICTURES[code])
        elif kind in _HIDDEN or code in _BLANK_LETTERS:
            shown.append(escape(code))
        else:
            shown.append(" " if kind == "Zs" else character)
    return "".join(shown)


def printable_lines(text: str) -> list[str]:
    """Return the lines of `text`, each made printable."""
    return [printable(line) for line in text.replace("\r\n", "\n").split("\n")]


def format_payload(payload: bytes, limit_bytes: int = PREVIEW_BYTES) -> str:
    """Return one printable line for `payload`: text if it is UTF-8, otherwise hex.

    Only the first `limit_bytes` are read; an ellipsis marks the rest.
    """
    head = payload[:limit_bytes]
    is_whole = len(head) == len(payload)
    try:
        # Not final at the cut, which may fall inside a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, is_whole)
    except UnicodeDecodeError:
        return head.hex(" ") + ("" if is_whole else ELLIPSIS)
    return printable(text) + ("" if is_whole else ELLIPSIS)


def json_payload_text(fields: Mapping[str, Any]) -> str:
    """Return the text of a payload in an object of JSON Lines, unescaped; what it is if it is none."""
    text = fields.get("text")
    return text if isinstance(text, str) else f"{fields.get('bytes', 0):,} bytes, not text"


def cells(text: str) -> int:
    """Number of terminal cells of printable `text`."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # as Textual measures; only the screens need it

    return cell_len(text)


def truncate(text: str, width_cells: int) -> str:
    """Return printable `text` in at most `width_cells`, with an ellipsis if it is cut."""
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
        if used > width_cells - 1:  # this character would take the place of the ellipsis
            return head[:index] + ELLIPSIS
    return head + ELLIPSIS


def wrap(text: str, width_cells: int) -> Iterator[str]:
    """Wrap `text` into lines of at most `width_cells`, between words if possible."""
    while len(text) > 1 and cells(text) > width_cells > 0:
        head = truncate(text, width_cells + 1)[:-1] or text[0]  # what fits, without the ellipsis
        at = len(head)
        if text[at:][:1] != " " and (blank := head.rstrip(" ").rfind(" ")) > 0:
            at = blank
        yield text[:at].rstrip(" ")
        text = text[at:].lstrip(" ")
    yield text


def pad(text: str, width_cells: int, *, right: bool = False) -> str:
    """Return printable `text` in exactly `width_cells`, cut or padded with spaces."""
    shown = truncate(text, width_cells)
    blank = " " * (width_cells - cells(shown))
    return blank + shown if right else shown + blank
