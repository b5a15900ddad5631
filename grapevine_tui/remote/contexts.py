"""Contexts: the nodes that one operator looks after, by name.

Invariants:

- ``contexts.toml`` beside the user's config file names them, in the order in which they are shown. Without
  that file they are the nodes of this user that run here, named after their state directories.
- A file that another user can change is not read: it names hosts and programs.
- Neither Textual nor an event loop is imported, so that `ctl` starts quickly.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, assert_never

from grapevine_proto.config.toml import ConfigFile, did_you_mean, read_toml
from grapevine_proto.errors import ConfigError
from grapevine_tui.config.user_files import expand_user, user_config_file
from grapevine_tui.control.client import running_state_dirs
from grapevine_tui.control.target import PROGRAM, LocalTarget, SshTarget, Target

CONTEXTS_FILE: Final = "contexts.toml"
FIELDS: Final = {"state_dir": str, "ssh": str, "program": str, "readonly": bool}
TYPE_NAMES: Final = {str: "text", bool: "true or false"}
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Context:
    """A node by the name under which its operator knows it."""

    name: str
    target: Target

    @property
    def is_readonly(self) -> bool:
        return self.target.is_readonly

    @property
    def place(self) -> str:
        """Where the node runs, for people."""
        match self.target:
            case LocalTarget(state_dir):
                return str(state_dir)
            case SshTarget():
                return str(self.target)
            case _:
                assert_never(self.target)

    def as_readonly(self) -> Context:
        """The same node, only looked at."""
        return replace(self, target=replace(self.target, is_readonly=True))


def contexts_file() -> Path:
    """Path of the file that names the contexts, whether it exists or not. Raises ConfigError."""
    return user_config_file().with_name(CONTEXTS_FILE)


def read_contexts(path: Path) -> list[Context]:
    """The contexts that a file names. Raises ConfigError."""
    document, lines = read_toml(path)
    file = ConfigFile(path, {}, lines)
    contexts = [_parse_context(file, name, fields) for name, fields in document.items()]
    if not contexts:
        raise ConfigError("contexts", f"{path}: names no context; a context is a section, [NAME]")
    return contexts


def _parse_context(file: ConfigFile, name: str, fields: Any) -> Context:
    place = file.location_of(name)
    if not NAME.fullmatch(name):
        allowed = "letters, digits, dots, hyphens and underscores"
        raise ConfigError(name, f"a name of a context is 1 to 64 {allowed} ({place})")
    if not isinstance(fields, dict):
        raise ConfigError(name, f"expected a section, [{name}], not a value ({place})")
    for field, value in fields.items():
        location = file.location_of(f"{name}.{field}")
        if field not in FIELDS:
            hint = did_you_mean(field, FIELDS) or f"; expected {', '.join(FIELDS)}"
            raise ConfigError(f"{name}.{field}", f"unknown setting{hint} ({location})")
        if not isinstance(value, FIELDS[field]):
            expected = TYPE_NAMES[FIELDS[field]]
            raise ConfigError(f"{name}.{field}", f"expected {expected}, got {value!r} ({location})")
    try:
        return Context(name, _to_target(**fields))
    except ConfigError as error:
        raise ConfigError(f"{name}.{error.field}", f"{error.problem} ({place})") from None


def _to_target(
    state_dir: str = "", ssh: str | None = None, program: str = PROGRAM, readonly: bool = False
) -> Target:
    if ssh is not None:
        return SshTarget(ssh, state_dir, program, readonly)
    if not state_dir:
        raise ConfigError("state_dir", "expected state_dir or ssh")
    if program != PROGRAM:
        raise ConfigError("program", "belongs to ssh")
    path = expand_user("state_dir", state_dir)
    if not path.is_absolute():
        raise ConfigError("state_dir", f"expected an absolute path, got {state_dir!r}")
    return LocalTarget(path, readonly)


def running_contexts() -> list[Context]:
    """The nodes of this user that run here, named after their state directories."""
    return [Context(each.name, LocalTarget(each)) for each in running_state_dirs()]


def all_contexts() -> list[Context]:
    """The contexts of the file; without it, those that run here. Raises ConfigError."""
    configured = configured_contexts()
    return running_contexts() if configured is None else configured


def configured_contexts() -> list[Context] | None:
    """The contexts of the file; None if there is no file. Raises ConfigError."""
    try:
        path = contexts_file()
    except ConfigError:  # a user without a home directory has no such file
        return None
    return read_contexts(path) if path.exists() else None


def find_context(name: str) -> Context:
    """The context of that name: one of the file, or else one that runs here. Raises ConfigError."""
    known: dict[str, Context] = {}
    for contexts in (configured_contexts() or [], running_contexts()):
        known |= {each.name: each for each in contexts}
        if name in known:
            return known[name]
    raise ConfigError("context", unknown_context_text(name, known))


def unknown_context_text(name: str, known: Collection[str]) -> str:
    """Say that no context is named `name`, and which is the nearest, or which there are."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    if not known:
        hint = "there is no contexts.toml, and no node of yours runs here"
    return f"no context is named {name!r:.80}; {hint}"
