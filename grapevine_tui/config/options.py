"""Settings that flags and environment variables can set, and how their text is parsed.

Invariants: this table is the only list of them. The command line, its help, the parsing of the
environment and ``.env.example`` are generated from it or tested against it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.config.node import DISTRIBUTIONS, NodeConfig
from grapevine_proto.ids import canonical_host
from grapevine_tui.config.hook_spec import Hook

LOG_LEVELS: Final = ("error", "warn", "info", "debug", "trace", "off")  # as in Grapevine 1.x
ALERTS: Final = ("off", "bell", "notify", "notify-777")
HISTORIES: Final = ("on", "events", "off")
DISCOVERIES: Final = ("local", "mdns")
PROFILES: Final[Mapping[str, Callable[..., NodeConfig]]] = {
    "local": NodeConfig.local,
    "lan": NodeConfig.lan,
    "wan": NodeConfig.wan,
}

DEFAULT_WEB_ADDRESS: Final = "127.0.0.1:8018"


def _text(text: str) -> str:
    return text


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number")
    return number


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in host:
        with contextlib.suppress(ValueError):
            return canonical_host(host)
        raise ValueError("a host alone (the port is a setting of its own)")
    return host


def _list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _paths(text: str) -> list[str]:
    return [each for each in text.split(os.pathsep) if each]


def _hooks(text: str) -> list[str]:
    Hook.parse(text)
    return [text]


class Option(NamedTuple):
    """A setting that a flag or an environment variable can set."""

    name: str
    flags: tuple[str, ...]
    env: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    flag_value: str = ""
    """Value of the flag without an argument; empty: an argument is required."""

    @property
    def flag(self) -> str:
        return self.flags[-1]

    @property
    def is_list(self) -> bool:
        """Whether the flag is repeatable."""
        return self.parse in (_list, _paths, _hooks)

    @property
    def nargs(self) -> int:
        """Number of arguments of the flag."""
        return 2 if self.parse is _hooks else 1

    def parse_flag(self, given: str | tuple[str, ...]) -> Any:
        """Parse the values of all repetitions of the flag. Raises ValueError."""
        if isinstance(given, str):
            return self.parse(given.strip())
        if self.parse is _paths:  # a flag names a single path, which may contain colons
            return list(given)
        return [part for each in given for part in self.parse(each)]


OPTIONS: Final[tuple[Option, ...]] = (
    Option("host", ("-H", "--host"), "BIND_HOST", _host, "HOST", "Listen address [127.0.0.1]"),
    Option("port", ("-p", "--port"), "BIND_PORT", _port, "PORT", "UDP port; 0 selects a free one [8000]"),
    Option("bootstrap_peers", ("-b", "--peer"), "BOOTSTRAP_PEERS", _list, "HOST:PORT",
           "Bootstrap peer to contact at startup, @FILE with one per line, or srv+NAME for SRV records;"
           " repeatable or comma-separated"),
    Option("app.discover", ("--discover",), "GRAPEVINE_DISCOVER", _list, "SOURCE",
           "Find peers without an address: local, mdns; repeatable or comma-separated [off]"),
    Option("port_mapping", ("--port-mapping",), "GRAPEVINE_PORT_MAPPING", _text, "MODE",
           "Ask the home router to map a port to this node: off or auto (PCP, NAT-PMP, UPnP) [off]"),
    Option("gossip_interval", ("-g", "--gossip-interval"), "GOSSIP_INTERVAL_SECS", _number, "SECONDS",
           "Interval between heartbeats [5, on loopback 1]"),
    Option("fanout", ("-f", "--fanout"), "FANOUT", _integer, "N",
           "Peers each message is relayed to (strategy epidemic) [3]"),
    Option("max_peers", ("-m", "--max-peers"), "MAX_PEERS", _integer, "N",
           "Maximum number of peer connections [50]"),
    Option("app.log_level", ("-l", "--log-level"), "GRAPEVINE_LOG", _text, "LEVEL",
           f"Log level: {', '.join(LOG_LEVELS)} [info]"),
    Option("app.config", ("-c", "--config"), "GRAPEVINE_CONFIG", _text, "FILE.toml",
           "Config file [config.toml in the user's configuration directory]"),
    Option("app.profile", ("--profile",), "GRAPEVINE_PROFILE", _text, "NAME",
           "Default values: local, lan or wan [local on loopback, else lan]"),
    Option("key_files", ("-k", "--key-file"), "GRAPEVINE_KEY_FILE", _paths, "FILE",
           "Cluster key file; repeatable. The first initiates handshakes, all are accepted "
           "[cluster.key in the user's configuration directory]"),
    Option("zone", ("--zone",), "GRAPEVINE_ZONE", _text, "NAME", "Zone (location label) of this node"),
    Option("distribution", ("--distribution",), "GRAPEVINE_DISTRIBUTION", _text, "NAME",
           f"Which peers to prefer: {', '.join(DISTRIBUTIONS)} [uniform]"),
    Option("strategy", ("--strategy",), "GRAPEVINE_STRATEGY", _text, "NAME",
           "How broadcasts spread: auto, plumtree, direct-mail, flood, epidemic [auto]"),
    Option("topics", ("--topics",), "GRAPEVINE_TOPICS", _list, "PATTERN",
           "Topics to deliver, such as deploy.>; repeatable or comma-separated [all]"),
    Option("tags", ("--tag",), "GRAPEVINE_TAGS", _list, "NAME=VALUE",
           "Tag of this node; repeatable or comma-separated"),
    Option("name", ("--name",), "GRAPEVINE_NAME", _text, "NAME", "Display name [host name]"),
    Option("cluster", ("--cluster",), "GRAPEVINE_CLUSTER", _text, "NAME", "Cluster name [default]"),
    Option("advertise", ("--advertise",), "GRAPEVINE_ADVERTISE", _text, "HOST:PORT",
           "Address that peers should dial [the listen address]"),
    Option("app.state_dir", ("--state-dir",), "GRAPEVINE_STATE_DIR", _text, "DIR",
           "Directory for identity and delivery state [one per port in the user's state directory]"),
    Option("app.log_file", ("--log-file",), "GRAPEVINE_LOG_FILE", _text, "FILE",
           "Log file [app: in the state directory; headless: stderr]"),
    Option("app.history", ("--history",), "GRAPEVINE_HISTORY", _text, "on|events|off",
           "Keep messages and events on disk, events only, or nothing [on]"),
    Option("app.metrics", ("--metrics",), "GRAPEVINE_METRICS", _text, "HOST:PORT",
           "Serve Prometheus metrics at this address [off]"),
    Option("app.web", ("--web",), "GRAPEVINE_WEB", _text, "[HOST:PORT]",
           "Serve the UI to a browser instead of this terminal"
           f" [off; address defaults to {DEFAULT_WEB_ADDRESS}]", DEFAULT_WEB_ADDRESS),
    Option("app.on", ("--on",), "", _hooks, "EVENT COMMAND",
           "Run COMMAND on EVENT, with the event as JSON on stdin (no shell); repeatable"),
    Option("app.on_eof", ("--on-eof",), "", _text, "exit|stay",
           "Headless: on stdin EOF, exit or stay [stay]"),
    Option("app.eof_timeout", ("--eof-timeout",), "", _number, "SECONDS",
           "Headless: time to wait for acknowledgments on stdin EOF [10]"),
    Option("app.wait_peers", ("--wait-peers",), "", _integer, "N",
           "Headless: emit `ready` once N peers are connected"),
)  # fmt: skip


def rust_log_level(filters: str) -> str:
    """Map a RUST_LOG value to a log level: its plain level, else that of its first directive; empty
    if there is none.

    Lenient on purpose: the variable is shared with other programs.
    """
    parts = [part.strip().lower().rpartition("=") for part in filters.split(",")]
    plain = [level for _, sign, level in parts if not sign]
    per_target = [level for _, sign, level in parts if sign]
    return next((level for level in (*plain, *per_target) if level in LOG_LEVELS), "")
