"""Settings changed in the text of a TOML file, so that whatever else its owner wrote stays as it is.

Invariants:

- What comes out means what went in with the changes made, and nothing else: it is read again and
  compared before anyone gets it.
- Comments, blank lines and the order stay (tomlkit). A file in which a change does not come out as meant is
  written anew without them, and that is told.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tomli_w


class EditedToml(NamedTuple):
    """The new text, and whether its comments are those that were there."""

    text: str
    comments_preserved: bool


def edit_toml(text: str, changes: Mapping[str, Any]) -> EditedToml:
    """`text` with `changes` by dotted name (``epidemic.hops``). Raises ValueError where it is no TOML."""
    expected = tomllib.loads(text)
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        table: Any = expected
        for part in section.split(".") if section else ():
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise ValueError(f"{section} is a value there, not a section")  # noqa: TRY004  the file's fault
        table[key] = value
    from tomlkit.exceptions import TOMLKitError  # few ever change a file

    new = text.replace("\r\n", "\n")
    if new and not new.endswith("\n"):
        new += "\n"
    try:
        for name, value in changes.items():
            new = _set_value(new, name, value)
        is_as_expected = tomllib.loads(new) == expected
    except (TOMLKitError, ValueError, AttributeError):
        is_as_expected = False
    if is_as_expected:
        return EditedToml(new, comments_preserved=True)
    return EditedToml(tomli_w.dumps(expected), comments_preserved="#" not in text)


def _set_value(text: str, name: str, value: Any) -> str:
    """The text with that one setting in it."""
    import tomlkit

    section, _, key = name.rpartition(".")
    document = tomlkit.parse(text)
    table: Any = document
    for part in section.split(".") if section else ():
        if part not in table:  # there is no such section yet
            above = text + "\n" if text.strip() else ""
            return f"{above}[{section}]\n{tomlkit.dumps({key: value})}"
        table = table[part]
    if key in table:
        table[key] = value
    elif not hasattr(table, "body") and not hasattr(getattr(table, "value", None), "body"):
        table[key] = value  # a section in several pieces
    else:
        body = table.body if table is document else table.value.body
        is_last = table is not document and table is document.body[-1][1]
        line = tomlkit.item(value)
        line.trivia.trail = "\n"
        body.insert(_insertion_index(body, key, is_last=is_last), (tomlkit.key(key), line))
    return tomlkit.dumps(document)


def _insertion_index(body: list[tuple[Any, Any]], key: str, *, is_last: bool) -> int:
    """Where a new `key` goes in a section: below the comment that shows it, else to the end. A comment
    right above the next section belongs to that one."""
    from tomlkit.items import AoT, Comment, Table, Whitespace

    end = next(
        (at for at, (_, each) in enumerate(body) if isinstance(each, Table | AoT)), len(body)
    )
    for at in range(end):
        if isinstance(body[at][1], Comment):
            commented_key, sign, _ = body[at][1].as_string().lstrip("# \t").partition("=")
            if sign and commented_key.strip() == key:
                return at + 1
    if end < len(body) or not is_last:
        while end and isinstance(body[end - 1][1], Comment):
            end -= 1
    while end and isinstance(body[end - 1][1], Whitespace):
        end -= 1
    return end
