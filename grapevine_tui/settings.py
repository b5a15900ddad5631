"""Every setting, merged once: defaults < profile < TOML file < ``.env`` < environment < flags.

What must stay true:

- Each value knows where it came from, and a wrong one is told with that place, in one line.
- Merging reads files and changes none; `with_keys` alone touches keys, and alone may make one.
- No secret is in a setting: key files are named here, what they hold is only in `NodeConfig.keys`.
- This is plain data for the rest of the application: nobody else reads the environment.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.config import MAX_TEXT_BYTES, NodeConfig, key_paths, setting_names
from grapevine_proto.errors import ConfigError, KeyFileError
from grapevine_proto.identity import ClusterKey
from grapevine_proto.ids import split_host_port
from grapevine_proto.toml_file import SettingsFile, nearest_name
from grapevine_tui.keys import read_keys
from grapevine_tui.options import LOG_LEVELS, OPTIONS, PROFILES, rust_log_level

FOLDER: Final = "grapevine"  # of this user's configuration and state, where the system keeps those
SPARE_STATE_DIRS: Final = (
    64  # nodes on "any port" that one user may run at once without naming a folder
)
HEARTBEATS_TO_DISCONNECT: Final = 6  # Grapevine's 30 s at its interval of 5 s


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
    "app.on": [],
    "app.state_dir": "",
    "app.profile": "",
    "app.config": "",
    "app.on_eof": "stay",
    "app.eof_timeout": 10.0,
    "app.wait_peers": 0,
    "app.theme": "",
    "app.messages": 10_000,
    "app.keys": {},
}
NOT_IN_A_FILE: Final = frozenset({"app.demo", "app.config"})
FILE_NAMES: Final = (
    *setting_names(),
    *(name for name in APP_DEFAULTS if name not in NOT_IN_A_FILE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that one run of the application goes by. Raises ConfigError on birth."""

    node: NodeConfig
    key_files: tuple[Path, ...]
    """Empty: this user's own key."""
    state_dir: Path | None
    """None: nothing is kept (a demonstration)."""
    spare_state_dirs: tuple[Path, ...]
    """Where to look next when `state_dir` is in use (any port)."""
    profile: str
    log_level: str
    log_file: Path | None
    metrics: str
    """Where Prometheus finds them, ``host:port``; empty: nowhere."""
    on: tuple[str, ...]
    """``EVENT COMMAND`` each: what to run when."""
    headless: bool
    demo: bool
    on_eof: str
    eof_timeout: float
    wait_peers: int
    theme: str
    """Empty: the application's own choice."""
    messages: int
    """How many the log on the screen keeps."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Keys of the app that are not our own choice: action -> keys, checked."""
    credentials: Path | None = None
    """Where the service manager puts what is secret (LoadCredential)."""
    values: tuple[Value, ...] = ()
    warnings: tuple[str, ...] = ()
    reload: Callable[[], Settings] = field(repr=False, compare=False)
    """The same files, variables and flags read anew; keys not loaded. Raises ConfigError."""

    def __post_init__(self) -> None:
        _check_word("app.log_level", self.log_level, LOG_LEVELS)
        _check_word("app.on_eof", self.on_eof, ("exit", "stay"))
        for name in ("headless", "demo"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"app.{name}", "expected true or false")
        if not isinstance(self.theme, str):
            raise ConfigError("app.theme", f"expected text, not {self.theme!r}")
        if not isinstance(self.metrics, str):
            raise ConfigError("app.metrics", f"expected text, not {self.metrics!r}")
        if self.metrics:
            try:
                split_host_port(self.metrics)
            except ValueError as error:
                raise ConfigError("app.metrics", str(error)) from None
        for hook in self.on:
            _check_hook(hook)
        _check_range("app.eof_timeout", self.eof_timeout, 0, 86_400)
        _check_range("app.wait_peers", self.wait_peers, 0, 10_000, whole=True)
        _check_range("app.messages", self.messages, 1, 10_000_000, whole=True)

    @property
    def choices_file(self) -> Path | None:
        """Where the app keeps what is chosen on the screen; None: nowhere."""
        if self.demo:
            return None
        is_named = any(each.name == "app.state_dir" and each.value for each in self.values)
        return (self.state_dir if is_named and self.state_dir else state_root()) / "app.json"

    def with_keys(self) -> Settings:
        """These settings with the cluster keys loaded; this user's own is made if it must be.
        Raises KeyFileError."""
        if self.demo:
            keys = [ClusterKey.generate()]
        else:
            paths = self.key_files or (own_key(),)
            keys = [ClusterKey.load(path, closed_to=self._closed_to(path)) for path in paths]
        return replace(self, node=self.node.replace(keys=keys))

    def _closed_to(self, path: Path) -> int:
        # systemd lets a service read a credential by an access list, which shows as group bits;
        # the folder is closed to everybody else.
        return 0o007 if path.parent == self.credentials else 0o077

    def show(self) -> list[str]:
        """Every setting with its value and origin, a line each; no secret is among them."""
        shown = [(f"{each.name} = {json.dumps(each.value)}", each.origin) for each in self.values]
        width = min(48, max(len(left) for left, _ in shown))
        return [f"{left:<{width}}  # {origin}" for left, origin in shown]


def own_config_file() -> Path:
    """Where this user's settings are looked for."""
    return _user_folder("config") / "config.toml"


def own_key_file() -> Path:
    """Where this user's cluster key is, or would be."""
    return _user_folder("config") / "cluster.key"


def state_root() -> Path:
    """Under this, nodes of this user keep their state where no folder was named."""
    return _user_folder("state")


def own_key() -> Path:
    """The path of this user's cluster key, which is made if there is none. Raises KeyFileError."""
    path = own_key_file()
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Written aside and linked into place, so that of two first runs at once both get one key.
            aside = path.with_name(f"{path.name}.{os.getpid()}")
            aside.unlink(missing_ok=True)
            ClusterKey.generate().save(aside)
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
        except OSError as error:
            raise KeyFileError(f"key file {path}: {error.strerror}") from None
    return path


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, folder: Path | None = None
) -> Settings:
    """Merge everything. `flags` are those given, by setting name: text, a tuple of texts, or True;
    `folder` is where ``.env`` is looked for (None: the working directory). Raises ConfigError."""
    folder = Path() if folder is None else folder
    env_file = _read_env_file(folder / ".env")
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
    lower = _lower(upper, chosen_at) | _from_credentials(environ)
    merged = lower | {name: value for name, value in upper.items() if name != "app.config"}
    _stretch_peer_timeout(merged)
    _take_demo(merged)
    warnings = (
        *_unknown_variables(env_file, ".env"),
        *_unknown_variables(environ, "the environment"),
    )
    try:
        settings = _settings(merged, lambda: load(flags, environ, folder=folder))
    except ConfigError as error:
        raise ConfigError(
            error.field, f"{error.problem}{_origin_of(error.field, merged)}"
        ) from None
    return replace(settings, warnings=warnings, credentials=_credentials(environ))


# --- the layers -----------------------------------------------------------------------------------


def _put(values: dict[str, Value], more: Iterable[Value], *, under: bool = False) -> None:
    for each in more:
        if not under or each.name not in values:
            values[each.name] = each


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("", f"{path}: not UTF-8 text") from None
    from dotenv import dotenv_values  # only now, or every start would pay for it
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        if binding.error:  # dotenv_values would only log it
            raise ConfigError("", f"{path}, line {binding.original.line}: expected NAME=value")
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in values.items() if value is not None}


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
            problem = f"expected {expected}, not {given!r} ({option.flag})"
            raise ConfigError(option.name, problem) from None
    return found


def _settings_file(upper: Mapping[str, Value]) -> tuple[SettingsFile | None, Value]:
    chosen = upper.get("app.config")
    if chosen is not None:
        path = key_paths([chosen.value], Path())[0]
        return SettingsFile.read(path, FILE_NAMES, tables=("app.keys",)), chosen
    path = own_config_file()
    with contextlib.suppress(OSError):
        if path.is_file():
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
        _check_word("app.profile", profile.value, tuple(PROFILES))
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


# --- the result -----------------------------------------------------------------------------------


def _settings(merged: Mapping[str, Value], reload: Callable[[], Settings]) -> Settings:
    app = {
        name.removeprefix("app."): each.value for name, each in merged.items() if name[:4] == "app."
    }
    values = {name: each.value for name, each in merged.items() if name[:4] != "app."}
    host, port = values.pop("host"), values.pop("port")
    bind = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
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
        on=_texts("app.on", app["on"]),
        **{
            name: app[name] for name in app if name not in ("state_dir", "log_file", "config", "on")
        },
    )


def _state_dirs(given: str, port: int, is_demo: bool) -> list[Path | None]:
    if is_demo:
        return [None]
    if given:
        return [*key_paths([given], Path())]
    root = state_root()
    if port:
        return [root / str(port)]
    return [root / f"any-{number}" for number in range(1, SPARE_STATE_DIRS + 1)]


def _origin_of(name: str, merged: Mapping[str, Value]) -> str:
    """Where a wrong value stands, to be put behind what is wrong with it."""
    for each in ("host", "port") if name == "bind" else (name,):
        if each in merged and merged[each].origin not in ("default", ""):
            return f" ({merged[each].origin})"
    return ""


def _unknown_variables(variables: Mapping[str, str], where: str) -> list[str]:
    known = [option.env for option in OPTIONS if option.env]
    return [
        f"{name} in {where} is no setting{nearest_name(name, known)}"
        for name in variables
        if name.startswith("GRAPEVINE_") and name not in known
    ]


def _own_name() -> str:
    name = socket.gethostname().partition(".")[0]
    return name.encode("utf-8", "ignore")[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _user_folder(kind: str) -> Path:
    import platformdirs

    if kind == "config":
        return platformdirs.user_config_path(FOLDER, appauthor=False)
    return platformdirs.user_state_path(FOLDER, appauthor=False)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(name, f"expected a list of texts, not {value!r}")
    return tuple(value)


def _check_hook(text: str) -> None:
    from grapevine_tui.hooks import Hook  # few ask for it

    try:
        Hook.read(text)
    except ValueError as expected:
        raise ConfigError("app.on", f"expected {expected}, not {text!r}") from None


def _check_word(name: str, value: Any, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigError(name, f"{value!r} is not one of: {', '.join(words)}")


def _check_range(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(name, f"expected a {'whole ' * whole}number, not {value!r}")
    if not low <= value <= high:
        raise ConfigError(name, f"{value!r} is not between {low:g} and {high:g}")
