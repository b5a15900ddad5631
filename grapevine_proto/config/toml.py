"""TOML config files: settings by dotted name, with line numbers for error messages.

Invariants:

- An unknown name is an error, in one line with the file, the line number, the name and the nearest valid
  name.
- A file that another user can change is not read (`storage.permissions`), because it may name keys and
  programs.
- A cluster key is never read from a config file, nor repeated in an error about one.
- Values are validated where they are used; `location_of` locates them for the error message.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from grapevine_proto.errors import ConfigError
from grapevine_proto.storage.permissions import read_trusted

MAX_CONFIG_FILE_BYTES: Final = 1 << 24  # far above any real file; a device never ends
MAX_SHOWN_VALUE_CHARS: Final = 32  # of the value of an unknown setting: half of a key

_NAME = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEY_LINE: Final = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_SECTION_LINE: Final = re.compile(rf"\s*\[\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*\]")


class ConfigFile:
    """The settings in one config file: `values` by dotted name (``epidemic.hops``)."""

    def __init__(
        self,
        path: Path,
        values: dict[str, Any],
        lines: dict[str, int],
        table_settings: Iterable[str] = (),
    ) -> None:
        self.path = path
        self._table_settings = frozenset(table_settings)
        self.values = values
        self._lines = lines

    @classmethod
    def read(
        cls,
        path: str | Path,
        names: Iterable[str],
        *,
        ignored: Iterable[str] = (),
        table_settings: Iterable[str] = (),
    ) -> ConfigFile:
        """Reads the config file at `path`.

        `names` are the valid dotted names. Sections in `ignored` are skipped. A setting in
        `table_settings` has a whole section as its value. Raises ConfigError.
        """
        path = Path(path)
        document, lines = read_toml(path)
        config_file = cls(path, {}, lines, table_settings)
        known = frozenset(names)
        sections = {name.partition(".")[0] for name in known if "." in name}
        for name, value in document.items():
            if name in sections:
                config_file._add_section(name, value, known)
            elif name not in ignored:
                config_file._add(name, value, known)
        return config_file

    def location_of(self, name: str) -> str:
        """Returns where `name` is set, for people: ``grapevine.toml, line 3``."""
        line = self._lines.get(name) or self._lines.get(name.partition(".")[0])
        return f"{self.path}, line {line}" if line else str(self.path)

    def _add_section(self, section: str, table: Any, known: frozenset[str]) -> None:
        if not isinstance(table, dict):
            problem = f"expected a section, [{section}], not a value"
            raise ConfigError(section, f"{problem} ({self.location_of(section)})")
        for name, value in table.items():
            self._add(f"{section}.{name}", value, known)

    def _add(self, name: str, value: Any, known: frozenset[str]) -> None:
        if name not in known:
            raise self._unknown_setting(name, value, known)
        if isinstance(value, dict) and name not in self._table_settings:
            raise ConfigError(name, f"expected a value, not a section ({self.location_of(name)})")
        self.values[name] = value

    def _unknown_setting(self, name: str, value: Any, known: frozenset[str]) -> ConfigError:
        if "key" in name.lower() and "key_files" in known:
            problem = "keys do not belong in a config file; list their files in key_files"
            return ConfigError(name, f"{problem} ({self.location_of(name)})")
        kind = "section" if isinstance(value, dict) else "setting"
        problem = f"unknown {kind}{_format_value(value)}{did_you_mean(name, known)}"
        return ConfigError(name, f"{problem} ({self.location_of(name)})")


def read_toml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns what the file at `path` has, and the line of each dotted name. Raises ConfigError."""
    try:
        text = read_trusted(path, limit_bytes=MAX_CONFIG_FILE_BYTES).decode()
        return tomllib.loads(text), _find_lines(text)
    except FileNotFoundError:
        raise ConfigError("config", f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError("config", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("config", f"{path}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError("config", f"{path}: not TOML: {error}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a suggestion of the known name nearest to `name`; empty if none is near."""
    names = sorted({*known, *(each.partition(".")[0] for each in known)})
    matches = difflib.get_close_matches(name, names, n=1)
    if not matches:  # the right name in the wrong section?
        leaf = name.rpartition(".")[2]
        leaves = {each.rpartition(".")[2]: each for each in names}
        matches = [leaves[each] for each in difflib.get_close_matches(leaf, leaves, n=1)]
    return f"; did you mean {matches[0]}?" if matches else ""


def _format_value(value: Any) -> str:
    if isinstance(value, (bool, int, float, str)) and len(repr(value)) <= MAX_SHOWN_VALUE_CHARS:
        return f" (set to {value!r})"
    return ""


def _find_lines(text: str) -> dict[str, int]:
    """Returns the line of each dotted name. A heuristic for messages, because tomllib keeps no lines."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        if header := _SECTION_LINE.match(line):
            section = _unquote(header[1])
            lines.setdefault(section, number)
        elif key := _KEY_LINE.match(line):
            name = _unquote(key[1])
            lines.setdefault(f"{section}.{name}" if section else name, number)
    return lines


def _unquote(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
