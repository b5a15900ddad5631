"""Every setting, merged once: defaults < profile < TOML file < ``.env`` < environment < flags.

Invariants:

- Each value knows its source, and an invalid one is reported with it in one line.
- Merging reads files and changes none. Only `with_keys` reads keys, and only it may create one.
- No setting contains a secret: settings name key files; the keys are only in `NodeConfig.keys`.
- The rest of the application reads settings from here and never from the environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from grapevine_proto.config.node import NodeConfig, key_paths
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import join_host_port, split_host_port
from grapevine_tui.config.alert_rules import AlertRule, parse_alerts
from grapevine_tui.config.columns import parse_columns
from grapevine_tui.config.highlights import parse_highlights
from grapevine_tui.config.hook_spec import Hook
from grapevine_tui.config.options import ALERTS, DISCOVERIES, HISTORIES, LOG_LEVELS
from grapevine_tui.config.own_commands import OwnCommand, parse_commands
from grapevine_tui.config.saved_filters import parse_filters
from grapevine_tui.config.sources import (
    EDITED_ORIGIN,
    SettingValue,
    check_choice,
    from_edits,
    merge,
)
from grapevine_tui.config.user_files import ensure_user_key, expand_user, user_state_directory

MAX_SPARE_STATE_DIRS: Final = (
    64  # nodes with a free port and no state directory that one user may run at once
)


class Reloader(Protocol):
    def __call__(self, edits: Mapping[str, Any] | None = None) -> Settings: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one run of the application. Raises ConfigError when constructed with invalid
    ones.
    """

    node: NodeConfig
    key_files: tuple[Path, ...]
    """Empty: the user's own key."""
    state_dir: Path | None
    """None: a demo, which keeps no state."""
    spare_state_dirs: tuple[Path, ...]
    """Directories to try next if `state_dir` is in use (free port)."""
    profile: str
    log_level: str
    log_file: Path | None
    metrics: str
    """Address of the metrics endpoint, ``host:port``; empty: off."""
    web: str
    """Address that serves the app to a browser, ``host:port``; empty: off."""
    discover: tuple[str, ...]
    """Sources of addresses, of `DISCOVERIES`."""
    on: tuple[str, ...]
    """Programs to run, ``EVENT COMMAND`` each."""
    headless: bool
    demo: bool
    on_eof: str
    eof_timeout: float
    wait_peers: int
    theme: str
    """Empty: the app's default theme."""
    messages: int
    """Number of messages kept in the log on the screen."""
    history: str
    """What the history keeps, one of `HISTORIES`."""
    history_bytes: int
    """Size of the file of the history. Beyond it, the oldest messages go."""
    history_days: float
    """Age of its oldest rows."""
    history_direct: bool
    """Whether it keeps direct messages."""
    alert: str = "off"
    """How the terminal alerts its operator, one of `ALERTS`."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Validated keys of the app that differ from the defaults, by action."""
    alerts: Mapping[str, str] = field(default_factory=dict)
    """Rules of alerts, by name."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns of tables that differ from the defaults, as the config file has them."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Saved filters of the log, by name."""
    highlights: Mapping[str, str] = field(default_factory=dict)
    """Filters of what stands out, by name."""
    commands: Mapping[str, Any] = field(default_factory=dict)
    """Own commands, by name, as the config file has them."""
    credentials_directory: Path | None = None
    """Directory of secrets from the service manager (LoadCredential)."""
    kept_edits: Mapping[str, Any] = field(default_factory=dict)
    """Values in effect that a flag or a variable overrides at the next start, by setting name."""
    values: tuple[SettingValue, ...] = ()
    warnings: tuple[str, ...] = ()
    reload: Reloader = field(repr=False, compare=False)
    """Reads the same files, variables and flags again, with edits by setting name over them. Does
    not load keys. Raises ConfigError.
    """

    def __post_init__(self) -> None:
        check_choice("app.log_level", self.log_level, LOG_LEVELS)
        check_choice("app.on_eof", self.on_eof, ("exit", "stay"))
        for name in ("headless", "demo", "history_direct"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"app.{name}", "expected true or false")
        if not isinstance(self.theme, str):
            raise ConfigError("app.theme", f"expected text, not {self.theme!r}")
        check_choice("app.alert", self.alert, ALERTS)
        parse_alerts(self.alerts)
        parse_commands(self.commands, self.keys)
        parse_columns(self.columns)
        parse_filters(self.filters)
        parse_highlights(self.highlights)
        _check_address("app.metrics", self.metrics)
        _check_address("app.web", self.web)
        for hook in self.on:
            _check_hook(hook)
        for source in self.discover:
            check_choice("app.discover", source, DISCOVERIES)
        _check_range("app.eof_timeout", self.eof_timeout, 0, 86_400)
        _check_range("app.wait_peers", self.wait_peers, 0, 10_000, whole=True)
        check_choice("app.history", self.history, HISTORIES)
        _check_range("app.history_bytes", self.history_bytes, 2**20, 2**50, whole=True)
        _check_range("app.history_days", self.history_days, 0.001, 36_500)
        _check_range("app.messages", self.messages, 1, 10_000_000, whole=True)

    @property
    def alert_rules(self) -> tuple[AlertRule, ...]:
        """The rules of `alerts`."""
        return parse_alerts(self.alerts)

    @property
    def columns_by_table(self) -> Mapping[str, tuple[str, ...]]:
        """The columns of each table of `DEFAULTS`."""
        return parse_columns(self.columns)

    @property
    def own_commands(self) -> tuple[OwnCommand, ...]:
        """The commands of `commands`."""
        return parse_commands(self.commands, self.keys)

    @property
    def preferences_file(self) -> Path | None:
        """File for the app's preferences; None: they are not stored."""
        if self.demo:
            return None
        is_configured = any(each.name == "app.state_dir" and each.value for each in self.values)
        if is_configured and self.state_dir:
            return self.state_dir / "app.json"
        with suppress(ConfigError):  # a user without a home directory
            return user_state_directory() / "app.json"
        return None

    def with_keys(self) -> Settings:
        """Return these settings with the cluster keys loaded. Creates the user's own key if it is
        used and missing. Raises KeyFileError.
        """
        if self.demo:
            keys = [ClusterKey.generate()]
        else:
            paths = self.key_files or (ensure_user_key(),)
            keys = [
                ClusterKey.load(path, forbidden_mode=self._forbidden_mode(path)) for path in paths
            ]
        return replace(self, node=self.node.replace(keys=keys))

    def _forbidden_mode(self, path: Path) -> int:
        # systemd grants a service access to a credential by an ACL, which shows as group bits; the
        # directory itself is closed to other users.
        return 0o007 if path.parent == self.credentials_directory else 0o077

    def format_lines(self) -> list[str]:
        """Format every setting with value and origin, one per line. None of them is a secret."""
        shown = [(f"{each.name} = {json.dumps(each.value)}", each.origin) for each in self.values]
        width = min(48, max(len(left) for left, _ in shown))
        return [f"{left:<{width}}  # {origin}" for left, origin in shown]


def load_settings(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    directory: Path | None = None,
    edits: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge all sources of settings.

    `flags` are those given, by setting name: text, a tuple of texts, or True. `directory` is where
    ``.env`` is looked up (None: the working directory). `edits`, by setting name, override
    everything. Raises ConfigError.
    """
    sources = merge(flags, environ, Path() if directory is None else directory, edits or {})
    merged = sources.values

    def reload(edits: Mapping[str, Any] | None = None) -> Settings:
        return load_settings(flags, environ, directory=directory, edits=edits)

    try:
        settings = _build_settings(merged, reload)
    except ConfigError as error:
        raise ConfigError(
            error.field, f"{error.problem}{_origin_of(error.field, merged)}"
        ) from None
    return replace(
        settings, warnings=sources.warnings, credentials_directory=sources.credentials_directory
    )


def settings_from_values(values: Iterable[SettingValue]) -> Settings:
    """Return the settings that a node in another process reported.

    Edits are validated as there; keys are not loaded. Raises ConfigError.
    """
    merged = {each.name: each for each in values}
    chosen = merged["app.config"].value
    directory = expand_user("app.config", chosen).parent if chosen else Path()

    def reload(edits: Mapping[str, Any] | None = None) -> Settings:
        return settings_from_values((merged | from_edits(edits or {}, directory)).values())

    return _build_settings(merged, reload)


# --- the result -----------------------------------------------------------------------------------


def _build_settings(merged: Mapping[str, SettingValue], reload: Reloader) -> Settings:
    app = {
        name.removeprefix("app."): each.value for name, each in merged.items() if name[:4] == "app."
    }
    values = {name: each.value for name, each in merged.items() if name[:4] != "app."}
    host, port = values.pop("host"), values.pop("port")
    bind = join_host_port(str(host), port)
    node = NodeConfig.from_settings(values | {"bind": bind})
    state_dir, *spare = _state_dirs(app["state_dir"], port, app["demo"])
    log_file = key_paths([app["log_file"]], Path())[0] if app["log_file"] else None
    return Settings(
        node=node,
        key_files=key_paths(values["key_files"], Path()),
        state_dir=state_dir,
        spare_state_dirs=tuple(each for each in spare if each),
        log_file=log_file,
        values=tuple(sorted(merged.values(), key=lambda each: ("." in each.name, each.name))),
        reload=reload,
        on=_check_texts("app.on", app["on"]),
        **{
            name: app[name] for name in app if name not in ("state_dir", "log_file", "config", "on")
        },
    )


def _state_dirs(given: str, port: int, is_demo: bool) -> list[Path | None]:
    if is_demo:
        return [None]
    if given:
        return [*key_paths([given], Path())]
    root = user_state_directory()
    if port:
        return [root / str(port)]
    return [root / f"any-{number}" for number in range(1, MAX_SPARE_STATE_DIRS + 1)]


def _origin_of(name: str, merged: Mapping[str, SettingValue]) -> str:
    """Return the origin of an invalid value, to append to an error."""
    for each in ("host", "port") if name == "bind" else (name,):
        if each in merged and merged[each].origin not in ("default", "", EDITED_ORIGIN):
            return f" ({merged[each].origin})"
    return ""


def _check_texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(name, f"expected a list of texts, not {value!r}")
    return tuple(value)


def _check_hook(text: str) -> None:
    try:
        Hook.parse(text)
    except ValueError as expected:
        raise ConfigError("app.on", f"expected {expected}, not {text!r}") from None


def _check_address(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ConfigError(name, f"expected text, not {value!r}")
    if value:
        try:
            split_host_port(value)
        except ValueError as error:
            raise ConfigError(name, str(error)) from None


def _check_range(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(name, f"expected a {'whole ' * whole}number, not {value!r}")
    if not low <= value <= high:
        raise ConfigError(name, f"must be between {low:g} and {high:g}, got {value!r}")
