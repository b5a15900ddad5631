"""Merges the sources of settings: defaults < profile < TOML file < ``.env`` < environment < flags <
edits.

Invariants: each value records its source; reading changes no file; a value that cannot be parsed is
reported with its source in one line. Whether a value is valid is checked where it is used.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.config.node import NodeConfig, key_paths, setting_names
from grapevine_proto.config.toml import ConfigFile
from grapevine_proto.config.validate import MAX_TEXT_BYTES
from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import split_host_port
from grapevine_tui.config.alert_rules import parse_alerts
from grapevine_tui.config.columns import parse_columns
from grapevine_tui.config.environment import (
    read_env_file,
    unknown_variable_warnings,
    without_service_links,
)
from grapevine_tui.config.highlights import parse_highlights
from grapevine_tui.config.keymap import parse_keymap
from grapevine_tui.config.options import OPTIONS, PROFILES, rust_log_level
from grapevine_tui.config.own_commands import parse_commands
from grapevine_tui.config.saved_filters import parse_filters
from grapevine_tui.config.user_files import CONFIG_FILE, user_config_directory

HEARTBEATS_PER_TIMEOUT: Final = 6  # Grapevine 1.x: 30 s at an interval of 5 s
EDITED_ORIGIN: Final = "changed here"  # source of an edit


class SettingValue(NamedTuple):
    """A setting with its value and source, as shown to users."""

    name: str
    value: Any
    origin: str


APP_DEFAULTS: Final[Mapping[str, Any]] = {
    "app.headless": False,
    "app.demo": False,
    "app.log_level": "info",
    "app.log_file": "",
    "app.metrics": "",
    "app.web": "",
    "app.discover": [],
    "app.on": [],
    "app.state_dir": "",
    "app.profile": "",
    "app.config": "",
    "app.on_eof": "stay",
    "app.eof_timeout": 10.0,
    "app.wait_peers": 0,
    "app.theme": "",
    "app.alert": "off",
    "app.messages": 10_000,
    "app.history": "on",
    "app.history_bytes": 2**30,
    "app.history_days": 30.0,
    "app.history_direct": False,
    "app.keys": {},
    "app.alerts": {},
    "app.commands": {},
    "app.columns": {},
    "app.filters": {},
    "app.highlights": {},
}
TABLE_SETTINGS: Final = tuple(name for name, value in APP_DEFAULTS.items() if value == {})
NOT_IN_FILE: Final = frozenset({"app.demo", "app.config"})
FILE_SETTINGS: Final = (
    *setting_names(),
    *(name for name in APP_DEFAULTS if name not in NOT_IN_FILE),
)


class MergedSettings(NamedTuple):
    """The merged values. `warnings` are for the user; `credentials_directory` is where the service
    manager puts keys.
    """

    values: dict[str, SettingValue]
    warnings: tuple[str, ...]
    credentials_directory: Path | None


def merge(
    flags: Mapping[str, Any], environ: Mapping[str, str], directory: Path, edits: Mapping[str, Any]
) -> MergedSettings:
    """Read and merge all sources. Raises ConfigError."""
    env_file, env_warnings = read_env_file(directory / ".env")
    env_file, env_link_warnings = without_service_links(env_file, ".env")
    environ, link_warnings = without_service_links(environ, "the environment")
    overrides: dict[str, SettingValue] = {}
    variables = ((env_file, ".env: "), (environ, "environment: "))
    for (
        each,
        source,
    ) in variables:  # RUST_LOG from any source comes after GRAPEVINE_LOG from any source
        _overlay(overrides, _from_rust_log(each, source))
    for each, source in variables:
        _overlay(overrides, _from_variables(each, source))
    _overlay(overrides, _from_flags(flags))
    file, config_value = _read_config_file(overrides)
    if file is not None:
        _overlay(overrides, _from_file(file), only_missing=True)
    edited = from_edits(edits, file.path.parent if file is not None else user_config_directory())
    _overlay(overrides, edited.values())
    defaults = _defaults(overrides, config_value) | _from_credentials(environ)
    merged = defaults | {name: value for name, value in overrides.items() if name != "app.config"}
    _derive_peer_timeout(merged)
    _apply_demo_settings(merged)
    warnings = (
        *(*env_warnings, *env_link_warnings, *link_warnings),
        *unknown_variable_warnings(env_file, ".env"),
        *unknown_variable_warnings(environ, "the environment"),
    )
    return MergedSettings(merged | edited, warnings, _credentials_directory(environ))


def from_edits(edits: Mapping[str, Any], directory: Path) -> dict[str, SettingValue]:
    """Return edits as values by setting name; relative paths start from `directory`. Raises
    ConfigError.
    """
    found: dict[str, SettingValue] = {}
    for name, value in edits.items():
        try:
            read = (
                {name: value}
                if name in ("host", "port")
                else _parse_file_value(name, value, directory)
            )
        except ValueError as error:
            raise ConfigError(name, str(error)) from None
        found |= {plain: SettingValue(plain, each, EDITED_ORIGIN) for plain, each in read.items()}
    return found


def _overlay(
    values: dict[str, SettingValue],
    additions: Iterable[SettingValue],
    *,
    only_missing: bool = False,
) -> None:
    for each in additions:
        if not only_missing or each.name not in values:
            values[each.name] = each


def _from_variables(variables: Mapping[str, str], source: str) -> list[SettingValue]:
    found = []
    for option in OPTIONS:
        text = variables.get(option.env, "").strip() if option.env else ""
        if not text:  # an empty variable counts as unset
            continue
        try:
            found.append(SettingValue(option.name, option.parse(text), source + option.env))
        except ValueError as expected:
            problem = f"expected {expected}, not {text!r} ({source}{option.env})"
            raise ConfigError(option.name, problem) from None
    return found


def _from_rust_log(variables: Mapping[str, str], source: str) -> list[SettingValue]:
    level = rust_log_level(variables.get("RUST_LOG", ""))
    return [SettingValue("app.log_level", level, f"{source}RUST_LOG")] if level else []


def _credentials_directory(environ: Mapping[str, str]) -> Path | None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None


def _from_credentials(environ: Mapping[str, str]) -> dict[str, SettingValue]:
    """List the cluster keys from the service manager, ordered by file name."""
    directory = _credentials_directory(environ)
    with contextlib.suppress(OSError):
        paths = sorted(str(each) for each in directory.glob("cluster.key*")) if directory else []
        if paths:
            return {"key_files": SettingValue("key_files", paths, "$CREDENTIALS_DIRECTORY")}
    return {}


def _from_flags(flags: Mapping[str, Any]) -> list[SettingValue]:
    found = [
        SettingValue(name, True, f"--{name.removeprefix('app.')}")
        for name in ("app.headless", "app.demo")
        if flags.get(name)
    ]
    for option in OPTIONS:
        given = flags.get(option.name)
        if given is None or given == ():
            continue
        try:
            found.append(SettingValue(option.name, option.parse_flag(given), option.flag))
        except ValueError as expected:
            text = given if isinstance(given, str) else " ".join(map(str, given))
            problem = f"expected {expected}, not {text!r} ({option.flag})"
            raise ConfigError(option.name, problem) from None
    return found


def _read_config_file(
    overrides: Mapping[str, SettingValue],
) -> tuple[ConfigFile | None, SettingValue]:
    chosen = overrides.get("app.config")
    if chosen is not None:
        path = key_paths([chosen.value], Path())[0]
        return ConfigFile.read(path, FILE_SETTINGS, table_settings=TABLE_SETTINGS), chosen
    path = user_config_directory() / CONFIG_FILE
    with contextlib.suppress(OSError):
        if path.is_absolute() and path.is_file():
            file = ConfigFile.read(path, FILE_SETTINGS, table_settings=TABLE_SETTINGS)
            return file, SettingValue("app.config", str(path), "the user's own")
    return None, SettingValue("app.config", "", "default")


def _from_file(file: ConfigFile) -> list[SettingValue]:
    found = []
    for name, value in file.values.items():
        location = file.location_of(name)
        try:
            if name == "app.commands":
                parse_commands(value, parse_keymap(file.values.get("app.keys", {})))
            for plain, read in _parse_file_value(name, value, file.path.parent).items():
                found.append(SettingValue(plain, read, location))
        except ValueError as error:
            raise ConfigError(name, f"{error} ({location})") from None
        except ConfigError as error:
            raise ConfigError(
                error.field or name, f"{error.problem} ({file.location_of(error.field or name)})"
            ) from None
    return found


def _parse_file_value(name: str, value: Any, directory: Path) -> dict[str, Any]:
    if name in ("bind", "app.state_dir", "app.log_file") and not isinstance(value, str):
        raise ConfigError(name, f"expected text, not {value!r}")
    if name == "app.keys":
        return {name: parse_keymap(value)}
    if name == "app.alerts":
        parse_alerts(value)
    if name == "app.columns":
        parse_columns(value)
    if name == "app.highlights":
        parse_highlights(value)
    if name == "app.filters":
        return {name: parse_filters(value)}
    if name == "bind":
        host, port = split_host_port(value)
        return {"host": host, "port": port}
    if name == "key_files":
        return {name: [str(path) for path in key_paths(value, directory)]}
    if name in ("app.state_dir", "app.log_file") and value:
        return {name: str(key_paths([value], directory)[0])}
    return {name: value}


def _defaults(
    overrides: Mapping[str, SettingValue], config_value: SettingValue
) -> dict[str, SettingValue]:
    """Return defaults and profile values for everything that `overrides` does not set."""
    values: dict[str, SettingValue] = {}
    host = overrides["host"].value if "host" in overrides else "127.0.0.1"
    profile = overrides.get("app.profile")
    if profile is None:
        name = "local" if _is_loopback(host) else "lan"
        profile = SettingValue("app.profile", name, f"default for {host}")
    try:
        check_choice("app.profile", profile.value, tuple(PROFILES))
    except ConfigError as error:
        raise ConfigError(error.field, f"{error.problem} ({profile.origin})") from None
    default_config = NodeConfig().settings()
    for name, value in PROFILES[profile.value]().settings().items():
        origin = "default" if default_config[name] == value else f"profile {profile.value}"
        values[name] = SettingValue(name, value, origin)
    del values["bind"]
    for name, value in {"host": "127.0.0.1", "port": 8000, "key_files": []}.items():
        values[name] = SettingValue(name, value, "default")
    values["name"] = SettingValue("name", _default_node_name(), "host name")
    for name, value in APP_DEFAULTS.items():
        values[name] = SettingValue(name, value, "default")
    values["app.profile"], values["app.config"] = profile, config_value
    return values


def _derive_peer_timeout(merged: dict[str, SettingValue]) -> None:
    """Derive the peer timeout from a long gossip interval if only the interval was set."""
    interval, timeout = merged["gossip_interval"].value, merged["peer_timeout"]
    is_set = timeout.origin != "default" and not timeout.origin.startswith("profile ")
    if is_set or isinstance(interval, bool) or not isinstance(interval, (int, float)):
        return
    minimum = float(HEARTBEATS_PER_TIMEOUT * interval)
    if timeout.value < minimum <= 86_400:
        origin = f"{HEARTBEATS_PER_TIMEOUT} gossip intervals"
        merged["peer_timeout"] = SettingValue("peer_timeout", minimum, origin)


DEMO_SETTINGS: Final[Mapping[str, Any]] = {
    "host": "127.0.0.1",
    "port": 0,
    "bootstrap_peers": [],
    "advertise": "",
    "key_files": [],
    "cluster": "demo",
    "app.state_dir": "",
    # low enough that a peer can be seen exceeding it, high enough for normal traffic
    "rate_limit.enabled": True,
    "rate_limit.capacity": 40,
    "rate_limit.refill_rate": 10.0,
    # fewer than the members, so that messages take several hops
    "max_peers": 8,
}
DEMO_DEFAULTS: Final[Mapping[str, Any]] = {"name": "ams-1", "zone": "eu-west"}
UNSET_ORIGINS: Final = ("default", "host name")


def _apply_demo_settings(merged: dict[str, SettingValue]) -> None:
    """Return the settings of a demo, which uses a free port, a key of its own and no state."""
    if merged["app.demo"].value is True:
        for name, value in DEMO_SETTINGS.items():
            merged[name] = SettingValue(name, value, "--demo")
        for name, value in DEMO_DEFAULTS.items():
            if merged[name].origin in UNSET_ORIGINS:
                merged[name] = SettingValue(name, value, "--demo")


def _default_node_name() -> str:
    name = socket.gethostname().partition(".")[0]
    return name.encode("utf-8", "ignore")[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ConfigError if `value` is not one of `choices`."""
    if value not in choices:
        raise ConfigError(name, f"must be one of {', '.join(choices)}; got {value!r}")
