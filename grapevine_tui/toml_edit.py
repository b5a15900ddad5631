"""Settings changed in the text of a TOML file, so that whatever else its owner wrote stays as it is.

What must stay true:

- What comes out means what went in with the changes made, and nothing else: it is read again and
  compared before anybody gets it.
- Comments, blank lines and the order stay. Where a file is written in a way that this cannot edit
  (dotted names, tables in a line), it is written anew without them, and that is told.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import tomli_w

LINES_OF_A_VALUE: Final = 1000  # at most; a longer one is written anew with the whole file


class Edited(NamedTuple):
    """The new text, and whether its comments are those that were there."""

    text: str
    keeps_comments: bool


def edited(text: str, changes: Mapping[str, Any]) -> Edited:
    """`text` with `changes` by dotted name (``epidemic.hops``). Raises ValueError where it is no TOML."""
    wanted = tomllib.loads(text)
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        table: Any = wanted
        for part in section.split(".") if section else ():
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise ValueError(f"{section} is a value there, not a section")  # noqa: TRY004  the file's fault
        table[key] = value
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    for name, value in changes.items():
        lines = _put(lines, name, value)
    new = "\n".join(lines) + "\n"
    try:
        is_right = tomllib.loads(new) == wanted
    except ValueError:
        is_right = False
    if is_right:
        return Edited(new, keeps_comments=True)
    return Edited(tomli_w.dumps(wanted), keeps_comments="#" not in text)


def _put(lines: list[str], name: str, value: Any) -> list[str]:
    """The lines with that one setting in them."""
    section, _, key = name.rpartition(".")
    start, end = _section(lines, section)
    written = tomli_w.dumps({key: value}).rstrip("\n").split("\n")
    if start is None:  # there is no such section yet
        gap = [""] if lines and lines[-1].strip() else []
        return [*lines, *gap, f"[{section}]", *written]
    for index in range(start, end):
        if _key_of(lines[index]) == key:
            past = _end_of_value(lines, index, end)
            comment = _comment_of(lines[index]) if past == index + 1 else ""
            if comment:
                written = [*written[:-1], f"{written[-1]}  {comment}"]
            return [*lines[:index], *written, *lines[past:]]
    # Where the file tells of it without setting it, it goes there; else to the end of its section.
    for index in range(start, end):
        if lines[index].lstrip().startswith("#") and _key_of(lines[index].lstrip("# \t")) == key:
            return [*lines[: index + 1], *written, *lines[index + 1 :]]
    while end > start and not lines[end - 1].strip():
        end -= 1
    return [*lines[:end], *written, *lines[end:]]


def _section(lines: list[str], section: str) -> tuple[int | None, int]:
    """From where to where the lines of `section` go; None: it is not there. Empty: what stands above
    the first one."""
    start = 0 if not section else None
    index = 0
    while index < len(lines):
        header = _header_of(lines[index])
        if header is not None:
            if start is not None:
                return start, _before_comments(lines, start, index)
            if header == section:
                start = index + 1
        index = _end_of_value(lines, index, len(lines)) if _key_of(lines[index]) else index + 1
    return start, len(lines)


def _before_comments(lines: list[str], start: int, end: int) -> int:
    """Where a section ends, if what is said right above the next header belongs to that one."""
    while end > start and lines[end - 1].startswith("#"):
        end -= 1
    return end


def _header_of(line: str) -> str | None:
    text = line.strip()
    if not text.startswith("[") or text.startswith("[["):
        return None
    try:
        table = tomllib.loads(text)
    except ValueError:
        return None
    parts = []
    while table:  # one table in another, the innermost empty
        ((part, table),) = table.items()
        parts.append(part)
    return ".".join(parts)


def _key_of(line: str) -> str:
    """The plain key that a line begins to set; empty: none."""
    key, sign, _ = line.partition("=")
    key = key.strip().strip("\"'")
    return key if sign and key.replace("_", "").replace("-", "").isalnum() else ""


def _end_of_value(lines: list[str], index: int, end: int) -> int:
    """The line past the value that begins on line `index`."""
    for past in range(index + 1, min(end, index + LINES_OF_A_VALUE) + 1):
        try:
            tomllib.loads("\n".join(lines[index:past]))
        except ValueError:
            continue
        return past
    return index + 1


def _comment_of(line: str) -> str:
    """What is said behind the value on its line, with the sign."""
    try:
        value = tomllib.loads(line)
    except ValueError:
        return ""
    for at, character in enumerate(line):
        if character == "#":
            try:
                if tomllib.loads(line[:at]) == value:
                    return line[at:]
            except ValueError:
                continue
    return ""
