"""How a node is set up: frozen values, checked on birth, so that a wrong configuration cannot exist.

What must stay true:

- Every default has its reason beside it; every field says which way it trades.
- A wrong value raises `ConfigError` that names the field by its dotted path, before anything starts.
- Nothing here is a secret but `keys`: those print as fingerprints and are never written to a file;
  a file names the files they are in (`key_files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from grapevine_proto.checks import (
    check_count,
    check_flag,
    check_host_port,
    check_number,
    check_text,
    check_word,
)
from grapevine_proto.errors import ConfigError
from grapevine_proto.files import SHARED, put_in_place
from grapevine_proto.identity import ClusterKey
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.sections import (
    SECTIONS,
    AntiEntropyConfig,
    CongestionConfig,
    DetectionConfig,
    EpidemicConfig,
    LimitsConfig,
    RateLimitConfig,
)

STRATEGIES: Final = ("epidemic", "flood", "plumtree", "direct-mail", "auto")
DISTRIBUTIONS: Final = ("uniform", "hub-and-spoke", "prefer-local", "prefer-remote")

# Fields of NodeConfig that a running node can take over; the others need a restart.
LIVE_FIELDS: Final = frozenset(
    {
        "bootstrap_peers",
        "keys",
        "denied",
        "distribution",
        "gossip_interval",
        "fanout",
        "max_peers",
        "peer_timeout",
        "reconnect_timeout",
        "tombstone_timeout",
        "detection",
        "connection_timeout",
        "anti_entropy",
        "bundle_delay",
        "bundle_bytes",
        "epidemic",
        "strategy",
        "subscriptions",
        "lazy_repair",
        "nearer_links",
        "rate_limit",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All settings of one node. Durations are in seconds, sizes in bytes.

    Names and defaults are Grapevine's where it had them. Raises ConfigError on birth.
    """

    bind: str = "127.0.0.1:0"
    """Where to listen, ``host:port``; port 0: any free one."""
    advertise: str = ""
    """The address others should dial, where it is not the bound one (NAT, containers)."""
    bootstrap_peers: Sequence[str] = ()
    """Who to ask first, ``host:port`` each; names are resolved anew at every attempt."""
    keys: Sequence[ClusterKey] = ()
    """Cluster keys: the first starts handshakes, all are accepted. Without one no node starts."""
    cluster: str = "default"
    """Signed into everything, so that two clusters that share a key by mistake stay apart."""
    name: str = ""
    """What people call this node; not unique, never trusted."""
    zone: Zone = ""
    """Where it stands, for people and for the distribution strategies."""
    strategy: str = "auto"
    """How broadcasts spread: from the origin to every member while that is cheap and else along a tree
    (auto), always along a tree (plumtree), to every member while all are linked (direct-mail), to all who
    subscribed (flood), to a few at random (epidemic)."""
    subscriptions: int = 5
    """Peers that a node picks to receive from under flood: the copies it gets of each message. With
    three, some are left out."""
    lazy_repair: bool = True
    """Tell linked peers that were not sent a message its id, and ask for what others tell of: closes
    within a fraction of a second what spreading leaves open, for a small packet a link and message."""
    nearer_links: bool = False
    """In a cluster larger than `max_peers`, let far links go for near ones: messages arrive sooner once
    that has settled, after a minute or two. On in the wan profile; on one network nothing moves."""
    distribution: str = "uniform"
    """Which peers are chosen to link to and to relay to: any (`uniform`), one in each other zone and
    the rest at home (`hub-and-spoke`, the least traffic between zones), those at home or elsewhere
    twice as likely (`prefer-local`, `prefer-remote`)."""
    gossip_interval: float = 5.0
    """Between heartbeats. Shorter notices a death sooner and costs two small packets a peer."""
    fanout: int = 3
    """Peers that a rumor is relayed to at once. More is quicker and dearer."""
    max_peers: int = 50
    """Links at most: each costs a heartbeat an interval."""
    max_message_size: int = 10 * 2**20
    """Of one payload."""
    peer_timeout: float = 30.0
    """Silence after which a peer is disconnected. Who is dead is known earlier (`detection`), but a
    link outlives an outage shorter than this."""
    reconnect_timeout: float = 86_400.0
    """How long a member that is down is dialed again and listed (Serf's). Shorter lets go of containers
    that never return sooner; longer keeps members over longer outages in the list."""
    tombstone_timeout: float = 86_400.0
    """How long a member that left is listed, and how long records of a member that was let go do not
    bring it back (Serf's): longer than any node or copy of its record may be away."""
    connection_timeout: float = 10.0
    """How long to knock at an address before giving up for now."""
    message_dedup_ttl: float = 300.0
    """How long a message is held for repair, and how old one may be to be taken at all."""
    bundle_delay: float = 0.0
    """How long a payload may wait for others to share its signature. 0: as long as the loop takes to
    come round, so a payload alone waits for nothing; more makes fewer and larger rumors."""
    bundle_bytes: int = 2**16
    """Of payloads that share one signature, at most; 1: each has its own."""
    denied: Sequence[PeerId] = ()
    """Identities that are shut out. Identities are free: against a person, change the key."""
    anti_entropy: AntiEntropyConfig = field(default_factory=AntiEntropyConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    epidemic: EpidemicConfig = field(default_factory=EpidemicConfig)
    rate_limit: RateLimitConfig = field(default_factory=RateLimitConfig)
    congestion: CongestionConfig = field(default_factory=CongestionConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        for name in ("bootstrap_peers", "keys", "denied"):  # lists are welcome, tuples are kept
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ConfigError(name, "expected a list")
            object.__setattr__(self, name, tuple(value))
        self._check_addresses()
        for key in self.keys:
            if not isinstance(key, ClusterKey):
                raise ConfigError("keys", "expected cluster keys")
        for peer_id in self.denied:
            if not isinstance(peer_id, PeerId):
                raise ConfigError("denied", "expected peer ids")
        for name in ("cluster", "name", "zone"):
            check_text(name, getattr(self, name))
        check_word("strategy", self.strategy, STRATEGIES)
        check_count("subscriptions", self.subscriptions, 1, 1000)
        check_flag("lazy_repair", self.lazy_repair)
        check_flag("nearer_links", self.nearer_links)
        check_word("distribution", self.distribution, DISTRIBUTIONS)
        check_number("gossip_interval", self.gossip_interval, 0.05, 3600)
        check_count("fanout", self.fanout, 1, 1000)
        check_count("max_peers", self.max_peers, 1, self.limits.sessions)
        check_count("max_message_size", self.max_message_size, 1, 2**30)
        check_number("peer_timeout", self.peer_timeout, 0.1, 86_400)
        if self.peer_timeout < 2 * self.gossip_interval:
            raise ConfigError(
                "peer_timeout",
                f"{self.peer_timeout:g} is less than two gossip intervals of {self.gossip_interval:g}",
            )
        check_number("reconnect_timeout", self.reconnect_timeout, 1, 31_536_000)
        check_number("tombstone_timeout", self.tombstone_timeout, 1, 31_536_000)
        check_number("connection_timeout", self.connection_timeout, 0.1, 3600)
        check_number("message_dedup_ttl", self.message_dedup_ttl, 1, 86_400)
        check_number("bundle_delay", self.bundle_delay, 0, 0.5)
        check_count("bundle_bytes", self.bundle_bytes, 1, 2**16)

    def _check_addresses(self) -> None:
        check_host_port("bind", self.bind)
        if self.advertise:
            check_host_port("advertise", self.advertise)
            try:
                address = Address.parse(self.advertise)
            except ValueError as error:
                raise ConfigError("advertise", str(error)) from None
            if address.why_not_dialed:
                raise ConfigError(
                    "advertise",
                    f"{address.why_not_dialed}: name the address that other nodes dial, as in"
                    " 192.168.1.5:8000",
                )
        for peer in self.bootstrap_peers:
            check_host_port("bootstrap_peers", peer, is_dialed=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, checked anew. Raises ConfigError, also for an unknown field."""
        known = {each.name for each in fields(self)}
        for name in changes:
            if name not in known:
                raise ConfigError(name, "there is no such setting")
        return replace(self, **changes)

    @classmethod
    def local(cls, **changes: Any) -> Self:
        """For nodes of one machine: losses are rare and round trips short, so notice everything soon."""
        quick: dict[str, Any] = {
            "gossip_interval": 1.0,
            "peer_timeout": 6.0,
            "connection_timeout": 5.0,
            "anti_entropy": AntiEntropyConfig(interval=10.0),
            "detection": DetectionConfig(suspicion=3.0),
        }
        return cls(**(quick | changes))

    @classmethod
    def lan(cls, **changes: Any) -> Self:
        """For one site: Grapevine's own figures, which are the defaults."""
        return cls(**changes)

    @classmethod
    def wan(cls, **changes: Any) -> Self:
        """Between sites: longer and rarer, so that a slow path is not taken for a dead one, and near links
        where there is a choice."""
        patient: dict[str, Any] = {
            "gossip_interval": 10.0,
            "peer_timeout": 60.0,
            "connection_timeout": 20.0,
            "nearer_links": True,
            "anti_entropy": AntiEntropyConfig(interval=60.0),
            "detection": DetectionConfig(probe_timeout=2.0, probe_interval=4.0, suspicion=6.0),
        }
        return cls(**(patient | changes))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """The config in a TOML file: fields at the top, sections of the same names, and `key_files`
        (paths, seen from the file's own folder) for the keys. What is not named keeps its default;
        the application's section ``[app]`` is passed over.

        Raises ConfigError, in one line with the file and the line in it, and KeyFileError.
        """
        from grapevine_proto.toml_file import SettingsFile  # most programs read no file

        file = SettingsFile.read(path, setting_names(), ignored=("app",))
        try:
            config = cls.from_settings(file.values)
            paths = key_paths(file.values.get("key_files", []), file.path.parent)
        except ConfigError as error:
            raise ConfigError(error.field, f"{error.problem} ({file.place(error.field)})") from None
        return config.replace(keys=[ClusterKey.load(each) for each in paths])

    def to_toml(self, path: str | Path) -> None:
        """Write all settings but the keys to the file at `path`, in place of what is there.

        Raises ConfigError where it cannot be written; then the old file is still whole.
        """
        import tomli_w

        tables: dict[str, Any] = {}
        for name, value in self.settings().items():
            section, dot, leaf = name.partition(".")
            if dot:
                tables.setdefault(section, {})[leaf] = value
            else:
                tables[name] = value
        try:
            put_in_place(path, tomli_w.dumps(tables).encode(), mode=SHARED)
        except OSError as error:
            raise ConfigError("config", f"{path}: {error.strerror}") from None

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> Self:
        """The config that dotted names and plain values make; `key_files` is passed over.
        Raises ConfigError."""
        tops: dict[str, Any] = {}
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, dot, leaf = name.partition(".")
            if dot:
                sections.setdefault(section, {})[leaf] = value
            elif name == "denied":
                tops[name] = _peer_ids(value)
            elif name != "key_files":
                tops[name] = value
        made = {name: SECTIONS[name](**changes) for name, changes in sections.items()}
        return cls(**tops, **made)

    def settings(self) -> dict[str, Any]:
        """All values but the keys, by dotted name, plain enough for a file: `from_settings` of it
        is this config without keys."""
        values: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in SECTIONS:
                values |= {
                    f"{each.name}.{leaf.name}": getattr(value, leaf.name) for leaf in fields(value)
                }
            elif each.name == "denied":
                values[each.name] = [str(peer_id) for peer_id in value]
            elif each.name != "keys":
                values[each.name] = list(value) if isinstance(value, tuple) else value
        return values


def setting_names() -> tuple[str, ...]:
    """Dotted names of all that a settings file may hold for a node."""
    return (*NodeConfig().settings(), "key_files")


def key_paths(value: Any, folder: Path) -> tuple[Path, ...]:
    """The paths that a `key_files` value names, seen from `folder`. Raises ConfigError."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise ConfigError("key_files", f"expected a list of paths, not {value!r}")
    try:
        return tuple(folder / Path(each).expanduser() for each in value)
    except RuntimeError:  # ~somebody who is not there
        raise ConfigError("key_files", f"{value!r}: there is no such user") from None


def _peer_ids(value: Any) -> tuple[PeerId, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError("denied", f"expected a list of peer ids, not {value!r}")
    found = []
    for each in value:
        try:
            found.append(PeerId.parse(each))
        except (ValueError, TypeError):
            raise ConfigError("denied", f"{each!r} is not a peer id of 64 hex digits") from None
    return tuple(found)
