"""Settings read from a TOML file, flat, each with the line it stands on.

What must stay true:

- A name that is not known never passes: the error has the file, the line, the name and the nearest
  name that would have been right, all in one line.
- A file that someone else can change is not read (`trust`): it may name keys and programs.
- A cluster key is never taken from a settings file, and never repeated in an error about one.
- What a value may be is not decided here but where it is used; `location_of` tells where it was written.
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

MAX_CONFIG_FILE_BYTES: Final = 1 << 24  # far above any; a device never ends
MAX_SHOWN_VALUE_CHARS: Final = 32  # of a value under an unknown name: half of what a key has

_NAME = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEY_LINE: Final = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_SECTION_LINE: Final = re.compile(rf"\s*\[\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*\]")


class ConfigFile:
    """The settings in one file: `values` by dotted name (``epidemic.hops``)."""

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
        """What stands in the file at `path`. `names` are all dotted names that may; sections in
        `ignored` are somebody else's; those in `table_settings` hold a section whole. Raises ConfigError."""
        path = Path(path)
        try:
            text = read_trusted(path, limit_bytes=MAX_CONFIG_FILE_BYTES).decode()
            document = tomllib.loads(text)
        except FileNotFoundError:
            raise ConfigError("config", f"{path}: there is no such file") from None
        except OSError as error:
            raise ConfigError("config", f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError("config", f"{path}: not UTF-8 text") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError("config", f"{path}: not TOML: {error}") from None
        config_file = cls(path, {}, _find_lines(text), table_settings)
        known = frozenset(names)
        sections = {name.partition(".")[0] for name in known if "." in name}
        for name, value in document.items():
            if name in sections:
                config_file._add_section(name, value, known)
            elif name not in ignored:
                config_file._add(name, value, known)
        return config_file

    def location_of(self, name: str) -> str:
        """Where `name` was written, for people: ``grapevine.toml, line 3``."""
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
            problem = "keys are never written into a settings file; name their files in key_files"
            return ConfigError(name, f"{problem} ({self.location_of(name)})")
        kind = "section" if isinstance(value, dict) else "setting"
        problem = f"there is no such {kind}{_format_value(value)}{did_you_mean(name, known)}"
        return ConfigError(name, f"{problem} ({self.location_of(name)})")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Words that lead from a mistyped dotted name to the right one; empty: nothing comes near."""
    names = sorted({*known, *(each.partition(".")[0] for each in known)})
    matches = difflib.get_close_matches(name, names, n=1)
    if not matches:  # the right word in the wrong section?
        leaf = name.rpartition(".")[2]
        leaves = {each.rpartition(".")[2]: each for each in names}
        matches = [leaves[each] for each in difflib.get_close_matches(leaf, leaves, n=1)]
    return f"; did you mean {matches[0]}?" if matches else ""


def _format_value(value: Any) -> str:
    if isinstance(value, (bool, int, float, str)) and len(repr(value)) <= MAX_SHOWN_VALUE_CHARS:
        return f" (set to {value!r})"
    return ""


def _find_lines(text: str) -> dict[str, int]:
    """Dotted name -> line. A guess by looking, since tomllib keeps no lines; good for messages."""
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
