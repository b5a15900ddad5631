"""Sections of the config file whose entries have names that the user chooses, such as ``[app.alerts]``.

Invariants: importing this module imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.errors import ConfigError

_LOWER_CASE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ANY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def check_section(section: str, given: Any) -> Mapping[str, Any]:
    """The entries of a section. Raises ConfigError if `given` is none."""
    if not isinstance(given, Mapping):
        raise ConfigError(section, f"expected a section, [{section}], not a value")
    return given


class NamedEntries(NamedTuple):
    """The section `section` with at most `max_entries` of what `noun` says in the plural."""

    section: str
    noun: str
    max_entries: int
    max_name_characters: int
    has_capitals: bool = False
    reserved_name: str = ""

    def parse(self, given: Any) -> Iterator[tuple[str, str, Any]]:
        """Yield name, location for errors, and value of each entry. Raises ConfigError."""
        entries = check_section(self.section, given)
        if len(entries) > self.max_entries:
            problem = f"at most {self.max_entries} {self.noun}, got {len(entries)}"
            raise ConfigError(self.section, problem)
        for name, value in entries.items():
            location = f"{self.section}.{name}"
            self._check_name(name, location)
            yield name, location, value

    def _check_name(self, name: str, location: str) -> None:
        pattern, letters = (
            (_ANY_NAME, "letters")
            if self.has_capitals
            else (_LOWER_CASE_NAME, "lower-case letters")
        )
        is_long = len(name) > self.max_name_characters
        if pattern.fullmatch(name) is None or is_long or name == self.reserved_name:
            limit = self.max_name_characters
            problem = f"a name has {letters}, digits, - and _, at most {limit}"
            if self.reserved_name:
                problem += f", not {self.reserved_name}"
            raise ConfigError(location, problem)


def check_line(value: Any, location: str, expected: str, max_characters: int) -> str:
    """A text that is not empty. `expected` completes "expected ..."; raises ConfigError."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(location, f"expected {expected}, not {value!r:.80}")
    if len(value) > max_characters:
        raise ConfigError(location, f"longer than {max_characters} characters")
    return value
