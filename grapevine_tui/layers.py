"""The layers that settings come in: defaults < profile < TOML file < ``.env`` < environment < flags, and
above them all what somebody changes while the node runs.

What must stay true: each value knows where it came from; reading changes no file; a value that cannot
be read is told with its place, in one line. What a value may be is decided where it is used.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.checks import MAX_TEXT_BYTES
from grapevine_proto.config import NodeConfig, key_paths, setting_names
from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import split_host_port
from grapevine_proto.toml_file import SettingsFile
from grapevine_tui.env_file import read_env_file, unknown, without_links
from grapevine_tui.folders import CONFIG_FILE, own_config_folder
from grapevine_tui.keys import read_keys
from grapevine_tui.options import OPTIONS, PROFILES, rust_log_level

HEARTBEATS_TO_DISCONNECT: Final = 6  # Grapevine's 30 s at its interval of 5 s
CHANGED: Final = "changed here"  # where an edit comes from


class Value(NamedTuple):
    """One setting with where it came from, in words for people."""

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
    "app.keys": {},
}
NOT_IN_A_FILE: Final = frozenset({"app.demo", "app.config"})
FILE_NAMES: Final = (
    *setting_names(),
    *(name for name in APP_DEFAULTS if name not in NOT_IN_A_FILE),
)


class Layers(NamedTuple):
    """All of them merged; `warnings` for people; `credentials`: where the service manager puts keys."""

    values: dict[str, Value]
    warnings: tuple[str, ...]
    credentials: Path | None


def gather(
    flags: Mapping[str, Any], environ: Mapping[str, str], folder: Path, edits: Mapping[str, Any]
) -> Layers:
    """Read and merge them. Raises ConfigError."""
    env_file, env_warnings = read_env_file(folder / ".env")
    env_file, env_links = without_links(env_file, ".env")
    environ, links = without_links(environ, "the environment")
    upper: dict[str, Value] = {}
    variables = ((env_file, ".env: "), (environ, "environment: "))
    for each, where in variables:  # RUST_LOG from anywhere comes after GRAPEVINE_LOG from anywhere
        _put(upper, _from_rust_log(each, where))
    for each, where in variables:
        _put(upper, _from_variables(each, where))
    _put(upper, _from_flags(flags))
    file, chosen_at = _settings_file(upper)
    if file is not None:
        _put(upper, _from_file(file), under=True)
    edited = from_edits(edits, file.path.parent if file is not None else own_config_folder())
    _put(upper, edited.values())
    lower = _lower(upper, chosen_at) | _from_credentials(environ)
    merged = lower | {name: value for name, value in upper.items() if name != "app.config"}
    _stretch_peer_timeout(merged)
    _take_demo(merged)
    warnings = (
        *(*env_warnings, *env_links, *links),
        *unknown(env_file, ".env"),
        *unknown(environ, "the environment"),
    )
    return Layers(merged | edited, warnings, _credentials(environ))


def from_edits(edits: Mapping[str, Any], folder: Path) -> dict[str, Value]:
    """Values changed by hand, by setting name; paths are from `folder`. Raises ConfigError."""
    found: dict[str, Value] = {}
    for name, value in edits.items():
        try:
            read = (
                {name: value} if name in ("host", "port") else _read_from_file(name, value, folder)
            )
        except ValueError as error:
            raise ConfigError(name, str(error)) from None
        found |= {plain: Value(plain, each, CHANGED) for plain, each in read.items()}
    return found


def _put(values: dict[str, Value], more: Iterable[Value], *, under: bool = False) -> None:
    for each in more:
        if not under or each.name not in values:
            values[each.name] = each


def _from_variables(variables: Mapping[str, str], where: str) -> list[Value]:
    found = []
    for option in OPTIONS:
        text = variables.get(option.env, "").strip() if option.env else ""
        if not text:  # an empty variable is one that is not set
            continue
        try:
            found.append(Value(option.name, option.read(text), where + option.env))
        except ValueError as expected:
            problem = f"expected {expected}, not {text!r} ({where}{option.env})"
            raise ConfigError(option.name, problem) from None
    return found


def _from_rust_log(variables: Mapping[str, str], where: str) -> list[Value]:
    level = rust_log_level(variables.get("RUST_LOG", ""))
    return [Value("app.log_level", level, f"{where}RUST_LOG")] if level else []


def _credentials(environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def _from_credentials(environ: Mapping[str, str]) -> dict[str, Value]:
    """Cluster keys that the service manager hands over, in the order of their names."""
    folder = _credentials(environ)
    with contextlib.suppress(OSError):
        paths = sorted(str(each) for each in folder.glob("cluster.key*")) if folder else []
        if paths:
            return {"key_files": Value("key_files", paths, "$CREDENTIALS_DIRECTORY")}
    return {}


def _from_flags(flags: Mapping[str, Any]) -> list[Value]:
    found = [
        Value(name, True, f"--{name.removeprefix('app.')}")
        for name in ("app.headless", "app.demo")
        if flags.get(name)
    ]
    for option in OPTIONS:
        given = flags.get(option.name)
        if given is None or given == ():
            continue
        try:
            found.append(Value(option.name, option.read_flag(given), option.flag))
        except ValueError as expected:
            text = given if isinstance(given, str) else " ".join(map(str, given))
            problem = f"expected {expected}, not {text!r} ({option.flag})"
            raise ConfigError(option.name, problem) from None
    return found


def _settings_file(upper: Mapping[str, Value]) -> tuple[SettingsFile | None, Value]:
    chosen = upper.get("app.config")
    if chosen is not None:
        path = key_paths([chosen.value], Path())[0]
        return SettingsFile.read(path, FILE_NAMES, tables=("app.keys",)), chosen
    path = own_config_folder() / CONFIG_FILE
    with contextlib.suppress(OSError):
        if path.is_absolute() and path.is_file():
            return SettingsFile.read(path, FILE_NAMES, tables=("app.keys",)), Value(
                "app.config", str(path), "the user's own"
            )
    return None, Value("app.config", "", "default")


def _from_file(file: SettingsFile) -> list[Value]:
    found = []
    for name, value in file.values.items():
        place = file.place(name)
        try:
            for plain, read in _read_from_file(name, value, file.path.parent).items():
                found.append(Value(plain, read, place))
        except ValueError as error:
            raise ConfigError(name, f"{error} ({place})") from None
        except ConfigError as error:
            raise ConfigError(
                error.field or name, f"{error.problem} ({file.place(error.field or name)})"
            ) from None
    return found


def _read_from_file(name: str, value: Any, folder: Path) -> dict[str, Any]:
    if name in ("bind", "app.state_dir", "app.log_file") and not isinstance(value, str):
        raise ConfigError(name, f"expected text, not {value!r}")
    if name == "app.keys":
        return {name: read_keys(value)}
    if name == "bind":
        host, port = split_host_port(value)
        return {"host": host, "port": port}
    if name == "key_files":
        return {name: [str(path) for path in key_paths(value, folder)]}
    if name in ("app.state_dir", "app.log_file") and value:
        return {name: str(key_paths([value], folder)[0])}
    return {name: value}


def _lower(upper: Mapping[str, Value], chosen_at: Value) -> dict[str, Value]:
    """Defaults and profile: what `upper` leaves open."""
    values: dict[str, Value] = {}
    host = upper["host"].value if "host" in upper else "127.0.0.1"
    profile = upper.get("app.profile")
    if profile is None:
        name = "local" if _is_loopback(host) else "lan"
        profile = Value("app.profile", name, f"default for {host}")
    try:
        check_word("app.profile", profile.value, tuple(PROFILES))
    except ConfigError as error:
        raise ConfigError(error.field, f"{error.problem} ({profile.origin})") from None
    plain = NodeConfig().settings()
    for name, value in PROFILES[profile.value]().settings().items():
        origin = "default" if plain[name] == value else f"profile {profile.value}"
        values[name] = Value(name, value, origin)
    del values["bind"]
    for name, value in {"host": "127.0.0.1", "port": 8000, "key_files": []}.items():
        values[name] = Value(name, value, "default")
    values["name"] = Value("name", _own_name(), "host name")
    for name, value in APP_DEFAULTS.items():
        values[name] = Value(name, value, "default")
    values["app.profile"], values["app.config"] = profile, chosen_at
    return values


def _stretch_peer_timeout(merged: dict[str, Value]) -> None:
    """A long gossip interval asks for a long peer timeout; whoever set only the one means both."""
    interval, timeout = merged["gossip_interval"].value, merged["peer_timeout"]
    is_set = timeout.origin != "default" and not timeout.origin.startswith("profile ")
    if is_set or isinstance(interval, bool) or not isinstance(interval, (int, float)):
        return
    least = float(HEARTBEATS_TO_DISCONNECT * interval)
    if timeout.value < least <= 86_400:
        origin = f"{HEARTBEATS_TO_DISCONNECT} gossip intervals"
        merged["peer_timeout"] = Value("peer_timeout", least, origin)


DEMO: Final[Mapping[str, Any]] = {
    "host": "127.0.0.1",
    "port": 0,
    "bootstrap_peers": [],
    "advertise": "",
    "key_files": [],
    "cluster": "demo",
    "app.state_dir": "",
    # so little that a neighbour can be seen to run into it, and enough for all that is honest
    "rate_limit.enabled": True,
    "rate_limit.capacity": 10,
    "rate_limit.refill_rate": 5.0,
}


def _take_demo(merged: dict[str, Value]) -> None:
    """A demonstration touches nothing of its user's: a port, a key and a state of its own."""
    if merged["app.demo"].value is True:
        for name, value in DEMO.items():
            merged[name] = Value(name, value, "--demo")


def _own_name() -> str:
    name = socket.gethostname().partition(".")[0]
    return name.encode("utf-8", "ignore")[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_word(name: str, value: Any, words: tuple[str, ...]) -> None:
    """Raises ConfigError where `value` is none of `words`."""
    if value not in words:
        raise ConfigError(name, f"{value!r} is not one of: {', '.join(words)}")
