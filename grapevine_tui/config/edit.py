"""Edits settings while the node runs: parses what was typed, validates, applies and saves it.

Invariants:

- All edits together pass the same checks as at startup before anything is applied or saved.
- Only edited settings are written. The file is replaced atomically; a new one is readable by its
  owner only.
- A value that was set while the node runs stays in effect until a reload or the next start, also if a flag
  overrides it there.
- The result lists what takes effect after a restart and what a flag or variable overrides.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import tomli_w

from grapevine_proto.config.node import LIVE_FIELDS, NodeConfig
from grapevine_proto.config.toml import did_you_mean
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_proto.ids import join_host_port, split_host_port
from grapevine_proto.storage.atomic_file import atomic_write, make_private_directory
from grapevine_tui.config.keymap import DEFAULT_KEYS
from grapevine_tui.config.settings import Settings
from grapevine_tui.config.sources import EDITED_ORIGIN, NOT_IN_FILE, TABLE_SETTINGS, SettingValue
from grapevine_tui.config.toml_edit import edit_toml
from grapevine_tui.config.user_files import expand_user, user_config_file

LIVE_APP_SETTINGS: Final = frozenset(
    {
        *("app.theme", "app.alert", "app.alerts", "app.log_level", "app.messages", "app.keys"),
        *("app.columns", "app.commands", "app.filters", "app.highlights"),
    }
)
TRUE_TEXTS: Final = frozenset({"true", "yes", "on"})
FALSE_TEXTS: Final = frozenset({"false", "no", "off"})


def is_live(name: str) -> bool:
    """Whether a running app applies a change of this setting."""
    return name in LIVE_APP_SETTINGS or name == "key_files" or name.partition(".")[0] in LIVE_FIELDS


def is_editable(name: str) -> bool:
    return name not in NOT_IN_FILE


def settings_pending_restart(initial: Settings, desired: Settings) -> tuple[str, ...]:
    """List the settings that need a restart and differ between `initial`, which runs, and
    `desired`.
    """
    initial_values = {each.name: each.value for each in initial.values}
    return tuple(
        each.name
        for each in desired.values
        if is_editable(each.name)
        and not is_live(each.name)
        and each.value != initial_values.get(each.name)
    )


def format_value(value: Any) -> str:
    """Format a value as a user would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        plain = all(each and not set(each) & set(',"[]') and each == each.strip() for each in value)
        return ", ".join(value) if plain else _to_inline_toml(list(value))
    if isinstance(value, Mapping):
        return _to_inline_toml(dict(value)) if value else ""
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value)


def _to_inline_toml(value: Any) -> str:
    """Format a value as TOML on one line."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{name} = {_to_inline_toml(each)}" for name, each in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_to_inline_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def parse_value(name: str, text: str, example: Any) -> Any:
    """Parse `text` as a value of the type of `example`.

    Text that does not parse is returned as it is, so that the setting's own check rejects it.
    Raises ConfigError if that check could not say why.
    """
    text = text.strip()
    if isinstance(example, bool):
        return (
            True if text.lower() in TRUE_TEXTS else False if text.lower() in FALSE_TEXTS else text
        )
    if isinstance(example, (int, float)):
        for number_type in (int, float):
            with contextlib.suppress(ValueError):
                return number_type(text)
        return text
    if isinstance(example, (list, tuple, Mapping)):
        if text.startswith(("[", "{")) or (text and isinstance(example, Mapping)):
            try:
                return tomllib.loads(f"x = {text}")["x"]
            except ValueError as error:
                raise ConfigError(name, f"not TOML: {error}") from None
        plain = [each.strip() for each in text.split(",") if each.strip()]
        return {} if isinstance(example, Mapping) else plain
    return text


class SaveResult(NamedTuple):
    """What was saved, and where.

    `path` is None for a demo, which saves nothing. `pending_restart` lists settings that take
    effect after a restart. `overridden_by` maps a setting to the source that overrides the file.
    """

    path: Path | None
    comments_preserved: bool
    pending_restart: tuple[str, ...]
    overridden_by: Mapping[str, str]


class SettingsEditor:
    """Edits of `settings`, applied with `reconfigure` of the host.

    `running` are the settings the process started with, if `settings` have been reloaded since.
    """

    def __init__(
        self,
        settings: Settings,
        reconfigure: Callable[[NodeConfig], tuple[str, ...]],
        running: Settings | None = None,
    ) -> None:
        self._initial = settings
        self._running = settings if running is None else running
        self._reconfigure = reconfigure
        self._applied: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self.settings = settings
        """The settings including pending edits."""

    @property
    def pending(self) -> tuple[str, ...]:
        return tuple(self._pending)

    @property
    def pending_restart(self) -> tuple[str, ...]:
        """Names of settings that take effect after a restart."""
        return settings_pending_restart(self._running, self.settings)

    @property
    def values_with_restart_notes(self) -> tuple[SettingValue, ...]:
        """All settings. The origin of one that needs a restart names the value in effect until
        then.
        """
        running_values = {each.name: format_value(each.value) for each in self._running.values}
        pending_restart = set(self.pending_restart)
        return tuple(
            each._replace(
                origin=f"until restart: {running_values.get(each.name) or '-'}; {each.origin}"
            )
            if each.name in pending_restart and each.origin != EDITED_ORIGIN
            else each
            for each in self.settings.values
        )

    def value(self, name: str) -> SettingValue:
        """Return the setting `name`. Raises ConfigError if it does not exist."""
        for each in self.settings.values:
            if each.name == name:
                return each
        known = [each.name for each in self.settings.values]
        raise ConfigError(name, f"unknown setting{did_you_mean(name, known)}")

    def check(self, name: str, text: str) -> Settings:
        """Return the settings with `name` set to `text`, without changing anything. Raises
        ConfigError, KeyFileError.
        """
        if not is_editable(name):
            raise ConfigError(name, "can be set only at start")
        value = parse_value(name, text, self.value(name).value)
        return self._load(self._applied | self._pending | {name: value})

    def set_value(self, name: str, text: str) -> None:
        """Add an edit of `name` to what the next `save` applies. Raises ConfigError, KeyFileError."""
        if text.strip() == format_value(self.value(name).value):
            return
        self.settings = self.check(name, text)
        self._pending[name] = parse_value(name, text, self.value(name).value)

    def discard(self) -> dict[str, Any]:
        """Discard the pending edits and return them for `restore`."""
        discarded = dict(self._pending)
        self._pending.clear()
        self.settings = self._load(self._applied)
        return discarded

    def restore(self, discarded: Mapping[str, Any]) -> None:
        """Make discarded edits pending again. Raises ConfigError, KeyFileError."""
        self.settings = self._load(self._applied | self._pending | dict(discarded))
        self._pending |= discarded

    def _load(self, edits: Mapping[str, Any]) -> Settings:
        settings = self._initial.reload({**self._initial.kept_edits, **edits})
        if "key_files" in edits and not settings.demo:
            return settings.with_keys()
        return replace(settings, node=settings.node.replace(keys=self._initial.node.keys))

    def save(self) -> SaveResult:
        """Apply the pending edits as far as a running node can, and write them to the file.

        Raises ConfigError, KeyFileError, NotRunning; and OSError if the edits were applied but not
        written.
        """
        settings = self._load(self._applied | self._pending)
        self._reconfigure(settings.node)
        path, comments_preserved = None, True
        if not settings.demo:
            path = self._path()
            comments_preserved = _write_file(path, self._pending)
        reloaded = {each.name: each for each in self._initial.reload().values}
        overridden_by = {
            name: reloaded[name].origin
            for name in self._pending
            if path is not None and reloaded[name].value != self.value(name).value
        }
        restart = tuple(name for name in self._pending if not is_live(name))
        self._applied |= self._pending
        edited = {**self._initial.kept_edits, **self._applied}
        kept = {
            name: value
            for name, value in edited.items()
            if is_live(name) and reloaded[name].value != self.value(name).value
        }
        self._pending.clear()
        values = tuple(
            reloaded[each.name] if each.value == reloaded[each.name].value else each
            for each in settings.values
        )
        self.settings = replace(settings, values=values, kept_edits=kept)
        return SaveResult(path, comments_preserved, restart, overridden_by)

    async def save_async(self) -> SaveResult:
        """Save, also where the settings belong to a node in another process."""
        return self.save()

    def _path(self) -> Path:
        chosen = self.value("app.config").value
        return expand_user("app.config", chosen) if chosen else user_config_file()


def reload_kept(settings: Settings, keys: Sequence[ClusterKey]) -> Settings:
    """Read the sources of `settings` again, with what is in effect although they would override it. Raises
    ConfigError."""
    reloaded = settings.reload(settings.kept_edits)
    return replace(reloaded, node=reloaded.node.replace(keys=keys), kept_edits=settings.kept_edits)


class LiveSettings:
    """The settings a running node in this process goes by, from the start through every edit."""

    def __init__(self, settings: Settings) -> None:
        self._startup = self._current = settings
        self._editor: SettingsEditor | None = None

    def edit(self, reconfigure: Callable[[NodeConfig], tuple[str, ...]]) -> SettingsEditor:
        """Open an editor that applies its changes by `reconfigure`.

        From the second time on, the config file is read again, unless the settings are a demo's.
        """
        settings = self._current
        if self._editor is not None and settings.demo:
            return self._editor
        if self._editor is not None:
            with contextlib.suppress(GrapevineError):  # an invalid file: keep what is in effect
                settings = reload_kept(settings, settings.node.keys)
        self._editor = SettingsEditor(settings, reconfigure, self._startup)
        return self._editor

    @property
    def current(self) -> Settings:
        """The settings in effect, as they were saved or reloaded last."""
        return self._current

    @property
    def values(self) -> tuple[SettingValue, ...]:
        """Every setting with its value and source."""
        return self._current.values

    def on_saved(self, settings: Settings) -> tuple[str, ...]:
        """Take over `settings`, which an editor saved; return the names that need a restart."""
        self._current = settings
        return settings_pending_restart(self._startup, settings)

    def reload(
        self, reconfigure: Callable[[NodeConfig], tuple[str, ...]]
    ) -> tuple[Settings, tuple[str, ...]]:
        """Read settings and keys again and apply them by `reconfigure`.

        Returns:
            The settings, and the names of those that need a restart.

        Raises:
            GrapevineError, OSError: something is invalid; nothing changed.
        """
        if self._startup.demo:
            raise ConfigError("", "a demo has no settings or keys in files")
        settings = self._startup.reload().with_keys()
        reconfigure(settings.node)
        return settings, self.on_saved(settings)


class RemoteSettingsEditor(SettingsEditor):
    """Edits of the settings of a node in another process.

    Edits are checked here and applied and saved there. `set_remotely` gets the texts by setting
    name and returns the result and the new settings.
    """

    def __init__(
        self,
        settings: Settings,
        set_remotely: Callable[[Mapping[str, str]], Awaitable[tuple[SaveResult, Settings]]],
    ) -> None:
        super().__init__(settings, lambda _: ())
        self._set_remotely = set_remotely

    def _load(self, edits: Mapping[str, Any]) -> Settings:
        return self._initial.reload(edits)

    async def save_async(self) -> SaveResult:
        """Have the node apply and save the edits."""
        texts = {name: format_value(value) for name, value in self._pending.items()}
        result, self._initial = await self._set_remotely(texts)
        self._pending.clear()
        self.settings = self._initial
        return result


def _write_file(path: Path, changes: Mapping[str, Any]) -> bool:
    """Write `changes` to the config file at `path`; return whether its comments were kept. Raises
    OSError, ConfigError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
        path = path.resolve()  # a link may point into a directory that does not exist yet
        make_private_directory(path.parent)
    try:
        new = edit_toml(text, _to_file_settings(tomllib.loads(text), changes))
    except ValueError as error:
        raise ConfigError("config", f"{path}: {error}") from None
    atomic_write(path, new.text.encode(), mode=0o600)
    return new.comments_preserved


def _to_file_settings(current: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Map `changes` to the names used in a config file; None removes what is there."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        if name in ("host", "port"):
            continue
        if name == "app.keys":
            old = current.get("app", {}).get("keys", {})
            merged_keys = {each: DEFAULT_KEYS[each] for each in old if each in DEFAULT_KEYS} | value
            found |= {f"app.keys.{each}": keys for each, keys in merged_keys.items()}
        elif name in TABLE_SETTINGS:
            section, _, table = name.partition(".")
            gone = current.get(section, {}).get(table, {}).keys() - value.keys()
            found |= {f"{name}.{each}": text for each, text in value.items()}
            found |= {f"{name}.{each}": None for each in gone}
        else:
            found[name] = value
    if "host" in changes or "port" in changes:
        host, port = split_host_port(current.get("bind", "127.0.0.1:8000"))
        host, port = changes.get("host", host), changes.get("port", port)
        found["bind"] = join_host_port(str(host), port)
    return found
