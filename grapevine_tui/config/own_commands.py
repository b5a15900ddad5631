"""The commands of ``[app.commands]``: programs that an operator runs on the selected row.

``ping = { key = "alt+p", words = "Ping it", argv = ["ping", "-c", "3", "{host}"] }``

Invariants:

- A command is a list of arguments. No shell sees it, and a placeholder is replaced within its argument.
- Placeholders are fields of the JSON of a peer, a member or a message. An unknown one is refused by name.
- What a remote node chose never begins an argument that it did not begin in the config file with a hyphen.
- Importing this module imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.config.toml import did_you_mean
from grapevine_proto.errors import ConfigError
from grapevine_tui.config.keymap import SIMULTANEOUS_KEYS, parse_keys
from grapevine_tui.config.named_entries import NamedEntries

MAX_COMMANDS: Final = 32
ENTRIES: Final = NamedEntries("app.commands", "commands", MAX_COMMANDS, 32)
MAX_ARGUMENTS: Final = 64
MAX_TIMEOUT_S: Final = 600
DEFAULT_TIMEOUT_S: Final = 30
NODE_FIELDS: Final = (
    *("peer_id", "name", "zone", "address", "host", "port", "state", "status", "health", "rtt_ms"),
    *("sent", "received", "lost", "queued", "throttled", "tokens", "epoch", "path", "reason"),
)
MESSAGE_FIELDS: Final = (
    *("id", "origin", "from_name", "sequence", "topic", "via", "hops", "bytes", "text", "base64"),
)
APP_FIELDS: Final = ("context",)  # of any row, where the app shows one context of several
FIELDS: Final = tuple(dict.fromkeys((*NODE_FIELDS, *MESSAGE_FIELDS, *APP_FIELDS)))
TAG_PREFIX: Final = "tag."
APP_KEYS: Final = ("ctrl+c", "ctrl+p", "ctrl+q")
ENTRY_NAMES: Final = ("argv", "key", "words", "timeout")

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+(?:\.[^{}\s]+)?)\}")


class MissingField(Exception):
    """The selected row has no value for a placeholder. The message says which."""


class OwnCommand(NamedTuple):
    """A program and its arguments. `key` is empty if it has none."""

    name: str
    argv: tuple[str, ...]
    key: str = ""
    words: str = ""
    """What it does, for the palette and the help."""
    timeout_s: int = DEFAULT_TIMEOUT_S

    @property
    def placeholders(self) -> frozenset[str]:
        """The fields of the row that it needs."""
        return frozenset(_PLACEHOLDER.findall(" ".join(self.argv)))

    def arguments_for(self, row: Mapping[str, Any]) -> list[str]:
        """The arguments for a row, the fields of its JSON. Raises MissingField."""
        return [_fill(each, row) for each in self.argv]


def field_text(row: Mapping[str, Any], name: str) -> str:
    """The value of a field of a row as text; ``tag.NAME`` is a tag. Raises MissingField."""
    if name.startswith(TAG_PREFIX):
        value = row.get("tags", {}).get(name.removeprefix(TAG_PREFIX))
    else:
        value = row.get(name)
    if value is None or value == "":
        raise MissingField(f"this row has no {name}")
    return str(value)


def _fill(argument: str, row: Mapping[str, Any]) -> str:
    def value_of(found: re.Match[str]) -> str:
        text = field_text(row, found[1])
        if "\0" in text:
            raise MissingField(f"{found[1]} holds a null byte")
        if found.start() == 0 and text.startswith("-"):
            raise MissingField(f"{found[1]} begins with - and would be taken for an option")
        return text

    return _PLACEHOLDER.sub(value_of, argument)


def parse_commands(given: Any, keys: Mapping[str, str]) -> tuple[OwnCommand, ...]:
    """The commands that a config file has under [app.commands]. `keys` are those of `app.keys`.

    Raises:
        ConfigError: a command is not valid, or its key has another meaning.
    """
    owners = {
        key: each.name
        for group in SIMULTANEOUS_KEYS
        for part in group
        for each in part
        for key in keys.get(each.name, each.keys).split(",")
    }
    owners |= dict.fromkeys(APP_KEYS, "the app")
    found = []
    for name, location, entry in ENTRIES.parse(given):
        command = _parse_command(name, location, entry)
        for key in filter(None, command.key.split(",")):
            owner = owners.setdefault(key, name)
            if owner != name:
                raise ConfigError(location, f"{key!r} is already the key of {owner}")
        found.append(command)
    return tuple(found)


def _parse_command(name: str, location: str, entry: Any) -> OwnCommand:
    if not isinstance(entry, Mapping):
        raise ConfigError(location, 'expected { argv = ["PROGRAM", "ARGUMENT"] }')
    for each in entry:
        if each not in ENTRY_NAMES:
            problem = f"unknown entry {each!r}{did_you_mean(each, ENTRY_NAMES)}"
            raise ConfigError(location, problem)
    argv: Any = entry.get("argv")
    is_list = isinstance(argv, list) and bool(argv) and all(isinstance(e, str) for e in argv)
    if not is_list or not argv[0].strip():
        raise ConfigError(location, 'argv: expected a list, such as ["ping", "{host}"]')
    if len(argv) > MAX_ARGUMENTS or any("\0" in each for each in argv):
        raise ConfigError(location, f"argv: at most {MAX_ARGUMENTS} arguments, no null bytes")
    if _PLACEHOLDER.search(argv[0]):
        raise ConfigError(location, "argv: the program itself cannot be a placeholder")
    words = entry.get("words", "")
    if not isinstance(words, str) or "\n" in words:
        raise ConfigError(location, f"words: expected one line of text, not {words!r:.40}")
    timeout_s = entry.get("timeout", DEFAULT_TIMEOUT_S)
    if type(timeout_s) is not int or not 1 <= timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError(location, f"timeout: expected 1 to {MAX_TIMEOUT_S}, got {timeout_s!r}")
    key = parse_keys(entry["key"], location) if "key" in entry else ""
    command = OwnCommand(name, tuple(argv), key, words or f"Run {name}", timeout_s)
    for field in sorted(command.placeholders):
        if field not in FIELDS and not field.startswith(TAG_PREFIX):
            problem = f"unknown placeholder {{{field}}}{did_you_mean(field, FIELDS)}"
            raise ConfigError(location, problem)
    return command
