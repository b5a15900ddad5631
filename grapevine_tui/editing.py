"""Settings changed while the node runs: read from what was typed, checked, applied, saved.

What must stay true:

- Nothing is applied or saved that the same checks as at the start have not passed, all together.
- What is saved is what was changed and nothing else; the file is replaced whole or not at all, and is
  read by its owner alone if it is new.
- It is told what takes effect only at the next start, and what a flag or a variable will undo there.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import tomli_w

from grapevine_proto.config import LIVE_FIELDS, NodeConfig
from grapevine_proto.errors import ConfigError
from grapevine_proto.files import make_private_directory, put_in_place
from grapevine_proto.ids import join_host_port, split_host_port
from grapevine_tui.folders import expanded, own_config_file
from grapevine_tui.keys import DEFAULT_KEYS
from grapevine_tui.layers import CHANGED, NOT_IN_A_FILE, Value
from grapevine_tui.settings import Settings
from grapevine_tui.toml_edit import edited

LIVE_HERE: Final = frozenset(
    {"app.theme", "app.alert", "app.log_level", "app.messages", "app.keys"}
)
YES: Final = frozenset({"true", "yes", "on"})
NO: Final = frozenset({"false", "no", "off"})


def is_live(name: str) -> bool:
    """Whether a running app takes over a change of this setting."""
    return name in LIVE_HERE or name == "key_files" or name.partition(".")[0] in LIVE_FIELDS


def is_editable(name: str) -> bool:
    return name not in NOT_IN_A_FILE


def waiting(began: Settings, wished: Settings) -> tuple[str, ...]:
    """Names of the settings that only a restart applies and that `wished` has otherwise than `began`, with
    which this process runs."""
    now = {each.name: each.value for each in began.values}
    return tuple(
        each.name
        for each in wished.values
        if is_editable(each.name) and not is_live(each.name) and each.value != now.get(each.name)
    )


def value_words(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        plain = all(each and not set(each) & set(',"[]') and each == each.strip() for each in value)
        return ", ".join(value) if plain else _toml(list(value))
    if isinstance(value, Mapping):
        return _toml(dict(value)) if value else ""
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value)


def _toml(value: Any) -> str:
    """On one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def read_text(name: str, text: str, like: Any) -> Any:
    """What `text` says as a value of the kind that `like` is. What cannot be read so is given as text,
    for the setting's own check to refuse; raises ConfigError where that could not say why."""
    text = text.strip()
    if isinstance(like, bool):
        return True if text.lower() in YES else False if text.lower() in NO else text
    if isinstance(like, (int, float)):
        for read in (int, float):
            with contextlib.suppress(ValueError):
                return read(text)
        return text
    if isinstance(like, (list, tuple, Mapping)):
        if text.startswith(("[", "{")) or (text and isinstance(like, Mapping)):
            try:
                return tomllib.loads(f"x = {text}")["x"]
            except ValueError as error:
                raise ConfigError(name, f"not TOML: {error}") from None
        plain = [each.strip() for each in text.split(",") if each.strip()]
        return {} if isinstance(like, Mapping) else plain
    return text


class Saved(NamedTuple):
    """`path` None: a demonstration, which saves nothing. `restart`: names that wait for the next start;
    `overruled`: name -> what will win over the file there."""

    path: Path | None
    keeps_comments: bool
    restart: tuple[str, ...]
    overruled: Mapping[str, str]


class Editing:
    """Changes of `settings`; `reconfigure` is the host's. `running`: what this process began with, where
    the settings have been read again since."""

    def __init__(
        self,
        settings: Settings,
        reconfigure: Callable[[NodeConfig], tuple[str, ...]],
        running: Settings | None = None,
    ) -> None:
        self._began = settings
        self._running = settings if running is None else running
        self._reconfigure = reconfigure
        self._applied: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self.settings = settings
        """As they would be with what is pending."""

    @property
    def pending(self) -> tuple[str, ...]:
        return tuple(self._pending)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Names of what takes effect only at the next start."""
        return waiting(self._running, self.settings)

    @property
    def shown(self) -> tuple[Value, ...]:
        """All settings; the origin of one that waits for a restart says what is in effect until then."""
        now = {each.name: value_words(each.value) for each in self._running.values}
        late = set(self.waiting)
        return tuple(
            each._replace(origin=f"until the restart: {now.get(each.name) or '-'}; {each.origin}")
            if each.name in late and each.origin != CHANGED
            else each
            for each in self.settings.values
        )

    def value(self, name: str) -> Value:
        """Raises ConfigError where there is no such setting."""
        for each in self.settings.values:
            if each.name == name:
                return each
        raise ConfigError(name, "there is no such setting")

    def check(self, name: str, text: str) -> Settings:
        """The settings with `name` as `text` says. Raises ConfigError, KeyFileError."""
        if not is_editable(name):
            raise ConfigError(name, "chosen at the start only")
        value = read_text(name, text, self.value(name).value)
        return self._load(self._applied | self._pending | {name: value})

    def change(self, name: str, text: str) -> None:
        """Have `name` as `text` says, from the next `save` on. Raises ConfigError, KeyFileError."""
        if text.strip() == value_words(self.value(name).value):
            return
        self.settings = self.check(name, text)
        self._pending[name] = read_text(name, text, self.value(name).value)

    def drop(self) -> dict[str, Any]:
        """Forget what is pending, and give it for `take_back`."""
        dropped = dict(self._pending)
        self._pending.clear()
        self.settings = self._load(self._applied)
        return dropped

    def take_back(self, dropped: Mapping[str, Any]) -> None:
        """Have what was dropped pending again. Raises ConfigError, KeyFileError."""
        self.settings = self._load(self._applied | self._pending | dict(dropped))
        self._pending |= dropped

    def _load(self, edits: Mapping[str, Any]) -> Settings:
        settings = self._began.reload(edits)
        if "key_files" in edits and not settings.demo:
            return settings.with_keys()
        return replace(settings, node=settings.node.replace(keys=self._began.node.keys))

    def save(self) -> Saved:
        """Apply what is pending as far as it can be now, and write it. Raises ConfigError, KeyFileError,
        NotRunning, and OSError where it is applied and cannot be written."""
        settings = self._load(self._applied | self._pending)
        self._reconfigure(settings.node)
        path, keeps_comments = None, True
        if not settings.demo:
            path = self._path()
            keeps_comments = _write(path, self._pending)
        fresh = {each.name: each for each in self._began.reload().values}
        overruled = {
            name: fresh[name].origin
            for name in self._pending
            if path is not None and fresh[name].value != self.value(name).value
        }
        restart = tuple(name for name in self._pending if not is_live(name))
        self._applied |= self._pending
        self._pending.clear()
        values = tuple(
            fresh[each.name] if each.value == fresh[each.name].value else each
            for each in settings.values
        )
        self.settings = replace(settings, values=values)
        return Saved(path, keeps_comments, restart, overruled)

    async def keep(self) -> Saved:
        """`save`, for whoever need not care where the settings are."""
        return self.save()

    def _path(self) -> Path:
        chosen = self.value("app.config").value
        return expanded("app.config", chosen) if chosen else own_config_file()


@runtime_checkable
class RemoteSettings(Protocol):
    """A host whose settings are those of a node elsewhere."""

    async def edit(self) -> Editing:
        """The settings as they are there now. Raises NoAnswer, NotDone."""
        ...


class RemoteEditing(Editing):
    """Changes of the settings of a node elsewhere: checked here, applied and saved there by `change`,
    which is given what one would type by setting name, and gives what became of it."""

    def __init__(
        self,
        settings: Settings,
        change: Callable[[Mapping[str, str]], Awaitable[tuple[Saved, Settings]]],
    ) -> None:
        super().__init__(settings, lambda _: ())
        self._change_there = change

    def _load(self, edits: Mapping[str, Any]) -> Settings:
        return self._began.reload(edits)

    async def keep(self) -> Saved:
        """Have it applied and saved there."""
        texts = {name: value_words(value) for name, value in self._pending.items()}
        saved, self._began = await self._change_there(texts)
        self._pending.clear()
        self.settings = self._began
        return saved


def _write(path: Path, changes: Mapping[str, Any]) -> bool:
    """Put `changes` into the file at `path`; whether its comments are still there. Raises OSError,
    ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
        path = path.resolve()  # a link may lead to a folder that is not there yet
        make_private_directory(path.parent)
    try:
        new = edited(text, _for_file(tomllib.loads(text), changes))
    except ValueError as error:
        raise ConfigError("config", f"{path}: {error}") from None
    put_in_place(path, new.text.encode(), mode=0o600)
    return new.keeps_comments


def _for_file(there: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` by the names that a file has for them."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        if name in ("host", "port"):
            continue
        if name == "app.keys":
            old = there.get("app", {}).get("keys", {})
            whole = {each: DEFAULT_KEYS[each] for each in old if each in DEFAULT_KEYS} | value
            found |= {f"app.keys.{each}": keys for each, keys in whole.items()}
        else:
            found[name] = value
    if "host" in changes or "port" in changes:
        host, port = split_host_port(there.get("bind", "127.0.0.1:8000"))
        host, port = changes.get("host", host), changes.get("port", port)
        found["bind"] = join_host_port(str(host), port)
    return found
