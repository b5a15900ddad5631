"""Changes settings in the text of a TOML file and leaves the rest as its owner wrote it.

Invariants:

- The result parses to the old values with the changes applied; it is parsed and compared before it
  is returned.
- Comments, blank lines and order are kept (tomlkit). If a change does not come out right, the file
  is rewritten without comments, and the result says so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tomli_w


class EditedToml(NamedTuple):
    """The new text, and whether the comments were kept."""

    text: str
    comments_preserved: bool


def edit_toml(text: str, changes: Mapping[str, Any]) -> EditedToml:
    """Apply `changes`, by dotted name (``epidemic.hops``), to `text`; None removes a setting. Raises
    ValueError if it is not TOML.
    """
    expected = tomllib.loads(text)
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        table: Any = expected
        for part in section.split(".") if section else ():
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise ValueError(f"{section} is a value there, not a section")  # noqa: TRY004  the file is wrong, not an argument
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    from tomlkit.exceptions import TOMLKitError  # imported late: few runs change a file

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
    """Return the text with one setting changed."""
    import tomlkit

    section, _, key = name.rpartition(".")
    document = tomlkit.parse(text)
    table: Any = document
    for part in section.split(".") if section else ():
        if part not in table:  # the section does not exist yet
            above = text + "\n" if text.strip() else ""
            return f"{above}[{section}]\n{tomlkit.dumps({key: _inline(value)})}"
        table = table[part]
    if value is None:
        table.pop(key, None)
    elif key in table:
        table[key] = _inline(value)
    elif not hasattr(table, "body") and not hasattr(getattr(table, "value", None), "body"):
        table[key] = value  # a section defined in several parts
    else:
        body = table.body if table is document else table.value.body
        is_last = table is not document and table is document.body[-1][1]
        line = tomlkit.item(_inline(value))
        line.trivia.trail = "\n"
        body.insert(_insertion_index(body, key, is_last=is_last), (tomlkit.key(key), line))
    return tomlkit.dumps(document)


def _inline(value: Any) -> Any:
    """A table on one line; any other value as it is."""
    import tomlkit

    if not isinstance(value, dict):
        return value
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _insertion_index(body: list[tuple[Any, Any]], key: str, *, is_last: bool) -> int:
    """Find where a new `key` goes in a section: below the comment that shows it, else at the end. A
    comment directly above the next section belongs to that section.
    """
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
