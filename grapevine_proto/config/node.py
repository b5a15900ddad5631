"""The configuration of a node: frozen values, validated on construction, so an invalid one cannot exist.

Invariants:

- Every default has its reason beside it; every field states its trade-off.
- An invalid value raises `ConfigError` with the dotted path of the field, before anything starts.
- Only `keys` is secret. Keys print as fingerprints and are never written to a config file, which names
  the key files instead (`key_files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from grapevine_proto.config.sections import (
    SECTIONS,
    AntiEntropyConfig,
    CongestionConfig,
    DetectionConfig,
    EpidemicConfig,
    LimitsConfig,
    RateLimitConfig,
    StateConfig,
)
from grapevine_proto.config.validate import (
    HostPort,
    Seconds,
    check_bootstrap_source,
    check_choice,
    check_flag,
    check_host_port,
    check_integer,
    check_number,
    check_text,
    convert_durations,
    is_bootstrap_source,
    is_host_port_pair,
    to_host_port,
)
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import Address, PeerId, Zone, expand_ports
from grapevine_proto.storage.atomic_file import SHARED_MODE, atomic_write
from grapevine_proto.tags import parse_tags, tag_texts
from grapevine_proto.topics import MAX_PATTERNS, pattern_fault

STRATEGIES: Final = ("epidemic", "flood", "plumtree", "direct-mail", "auto")
MAX_ACK_DELAY_S: Final = 1.0  # peers heed no longer one (`wire.attributes`)
PORT_MAPPINGS: Final = ("off", "auto")
DISTRIBUTIONS: Final = ("uniform", "hub-and-spoke", "prefer-local", "prefer-remote")

# Fields of NodeConfig that accept a timedelta.
DURATIONS: Final = (
    "gossip_interval",
    "peer_timeout",
    "reconnect_timeout",
    "tombstone_timeout",
    "connection_timeout",
    "message_dedup_ttl",
    "batch_delay",
    "leave_timeout",
    "order_wait",
)

# Fields of NodeConfig that a running node can change; the others need a restart.
LIVE_FIELDS: Final = frozenset(
    {
        "advertise",
        "name",
        "zone",
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
        "batch_delay",
        "batch_bytes",
        "leave_timeout",
        "order_wait",
        "epidemic",
        "strategy",
        "subscriptions",
        "lazy_push",
        "relay",
        "port_mapping",
        "optimize_links",
        "rate_limit",
        "topics",
        "builtin_queries",
        "tags",
        "state",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All settings of one node. Durations are in seconds, sizes in bytes.

    Names and defaults are those of Grapevine 1.x where it has them. The constructor raises
    ConfigError for an invalid value. It also accepts a timedelta as a duration, an `Address` or a
    pair of host and port as an address, and a single value in place of a list.
    """

    bind: str = "127.0.0.1:0"
    """Listen address, ``host:port``; port 0 picks a free one. ``host:first-last``: the first free port of
    at most 64."""
    advertise: str = ""
    """Address advertised to peers, if it is not the bound one (NAT, containers)."""
    bootstrap_peers: Sequence[str] = ()
    """Peers to contact at startup, ``host:port`` or ``host:first-last`` each. Names are resolved again for
    every attempt."""
    keys: Sequence[ClusterKey] = ()
    """Cluster keys. The first initiates handshakes, all are accepted. A node needs at least one."""
    cluster: str = "default"
    """Name of the cluster, part of every signature. Separates two clusters that share a key by
    mistake."""
    name: str = ""
    """Display name; not unique, never trusted."""
    zone: Zone = ""
    """Location label, for display and for `distribution`."""
    strategy: str = "auto"
    """How broadcasts spread: direct mail while that is cheap, otherwise along a tree (`auto`);
    always along a tree (`plumtree`); to every member while all are connected (`direct-mail`); to
    all subscribers (`flood`); to a few random peers (`epidemic`)."""
    subscriptions: int = 5
    """Under `flood`, peers that a node chooses to receive from: the copies it gets of each message. Three
    leave some nodes out."""
    lazy_push: bool = True
    """Lazy push: send the ID of a message to peers that did not get its payload, and request announced
    messages. Closes gaps within a fraction of a second, for one small packet per link and message."""
    relay: bool = True
    """Pass datagrams on between two peers that cannot reach each other, within fixed limits. They are
    encrypted from end to end."""
    port_mapping: str = "off"
    """Whether the home router is asked to map a port to this node, so that everyone can dial it: by PCP,
    NAT-PMP or UPnP (`auto`). The router learns that a node runs here. No effect with `advertise`."""
    optimize_links: bool = False
    """In a cluster larger than `max_peers`, replace distant links with nearer ones (X-BOT).
    Messages arrive sooner after a minute or two. On in the `wan` profile; it has no effect on a
    single network."""
    distribution: str = "uniform"
    """Which peers a node connects and relays to: any (`uniform`); one in each other zone and the
    rest in its own (`hub-and-spoke`, the least traffic between zones); twice as often in its own
    zone, or in others (`prefer-local`, `prefer-remote`)."""
    gossip_interval: float = 5.0
    """Seconds between heartbeats. Shorter detects failures sooner and costs two small packets per
    peer."""
    fanout: int = 3
    """Peers each message is relayed to under `epidemic`. Higher is faster and costs more traffic."""
    max_peers: int = 50
    """Maximum peer connections. Each costs a heartbeat per interval."""
    max_message_size: int = 10 * 2**20
    """Maximum size of one payload."""
    peer_timeout: float = 30.0
    """Silence after which a peer is disconnected. `detection` reports a failure earlier, but a link
    outlives an outage shorter than this."""
    reconnect_timeout: float = 86_400.0
    """How long a member that is down is listed and dialed again (as in Serf). Shorter removes
    containers that never return sooner; longer keeps members listed over longer outages."""
    tombstone_timeout: float = 86_400.0
    """How long a member that left is listed, and how long old records cannot restore a removed
    member (as in Serf). Must be longer than any node, with its copy of a record, may be away."""
    connection_timeout: float = 10.0
    """How long a dial may take."""
    message_dedup_ttl: float = 300.0
    """How long a message is cached for repair, and the maximum age at which one is accepted."""
    batch_delay: float = 0.0
    """How long a payload may wait for others to share its signature, at most 1 s. 0: until the event loop
    comes around, so a single payload does not wait. Longer makes fewer and larger rumors, and lets ACKs wait
    twice as long for a datagram that they can share."""
    batch_bytes: int = 2**16
    """Maximum bytes of payloads that share one signature; 1: each has its own."""
    topics: Sequence[str] = (">",)
    """Patterns of the topics whose messages this node delivers, such as ``deploy.>``; by default all.
    `Node.subscribe` adds to them. Messages without a topic are always delivered."""
    tags: Sequence[str] = ()
    """What this node is, ``name=value`` each, for other members to see and to select by; at most 16. A
    mapping is accepted too. `Node.set_tags` replaces them until the next start."""
    leave_timeout: float = 5.0
    """How long leaving may take: to send what is queued, and for message handlers to finish. A reconnect
    and a retransmission fit."""
    order_wait: float = 5.0
    """How long an ordered reader waits for a missing message before it skips it. A gap is requested
    within a second; longer waits for nodes that are away."""
    builtin_queries: bool = True
    """Whether this node answers the queries ``grapevine.*``: version, key fingerprints, links, counters, and
    whether it has a message."""
    denied: Sequence[PeerId] = ()
    """Identities that may not connect. Identities are free, so rotate the key to exclude a person."""
    anti_entropy: AntiEntropyConfig = field(default_factory=AntiEntropyConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    epidemic: EpidemicConfig = field(default_factory=EpidemicConfig)
    rate_limit: RateLimitConfig = field(default_factory=RateLimitConfig)
    congestion: CongestionConfig = field(default_factory=CongestionConfig)
    state: StateConfig = field(default_factory=StateConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    if TYPE_CHECKING:  # what is accepted is wider than what is stored

        def __init__(
            self,
            *,
            bind: HostPort = ...,
            advertise: HostPort = ...,
            bootstrap_peers: HostPort | Iterable[HostPort] = ...,
            keys: ClusterKey | Iterable[ClusterKey] = ...,
            cluster: str = ...,
            name: str = ...,
            zone: Zone = ...,
            strategy: str = ...,
            subscriptions: int = ...,
            lazy_push: bool = ...,
            relay: bool = ...,
            port_mapping: str = ...,
            optimize_links: bool = ...,
            distribution: str = ...,
            gossip_interval: Seconds = ...,
            fanout: int = ...,
            max_peers: int = ...,
            max_message_size: int = ...,
            peer_timeout: Seconds = ...,
            reconnect_timeout: Seconds = ...,
            tombstone_timeout: Seconds = ...,
            connection_timeout: Seconds = ...,
            message_dedup_ttl: Seconds = ...,
            batch_delay: Seconds = ...,
            batch_bytes: int = ...,
            topics: str | Iterable[str] = ...,
            tags: Mapping[str, str] | str | Iterable[str] = ...,
            leave_timeout: Seconds = ...,
            order_wait: Seconds = ...,
            builtin_queries: bool = ...,
            denied: PeerId | Iterable[PeerId] = ...,
            anti_entropy: AntiEntropyConfig = ...,
            detection: DetectionConfig = ...,
            epidemic: EpidemicConfig = ...,
            rate_limit: RateLimitConfig = ...,
            congestion: CongestionConfig = ...,
            state: StateConfig = ...,
            limits: LimitsConfig = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._convert()
        self._check_addresses()
        for key in self.keys:
            if not isinstance(key, ClusterKey):
                raise ConfigError("keys", "expected cluster keys")
        for peer_id in self.denied:
            if not isinstance(peer_id, PeerId):
                raise ConfigError("denied", "expected peer IDs")
        for pattern in self.topics:
            if fault := pattern_fault(pattern):
                raise ConfigError("topics", fault)
        if len(self.topics) > MAX_PATTERNS:
            raise ConfigError("topics", f"more than {MAX_PATTERNS} patterns")
        try:
            object.__setattr__(self, "tags", tag_texts(parse_tags(self.tags)))
        except ValueError as error:
            raise ConfigError("tags", str(error)) from None
        for name in ("cluster", "name", "zone"):
            check_text(name, getattr(self, name))
        check_choice("strategy", self.strategy, STRATEGIES)
        check_integer("subscriptions", self.subscriptions, 1, 1000)
        check_flag("lazy_push", self.lazy_push)
        check_flag("relay", self.relay)
        check_choice("port_mapping", self.port_mapping, PORT_MAPPINGS)
        check_flag("optimize_links", self.optimize_links)
        check_flag("builtin_queries", self.builtin_queries)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_number("gossip_interval", self.gossip_interval, 0.05, 3600)
        check_integer("fanout", self.fanout, 1, 1000)
        check_integer("max_peers", self.max_peers, 1, self.limits.sessions)
        check_integer("max_message_size", self.max_message_size, 1, 2**30)
        check_number("peer_timeout", self.peer_timeout, 0.1, 86_400)
        if self.peer_timeout < 2 * self.gossip_interval:
            raise ConfigError(
                "peer_timeout",
                f"must be at least two gossip intervals of {self.gossip_interval:g},"
                f" got {self.peer_timeout:g}",
            )
        check_number("reconnect_timeout", self.reconnect_timeout, 1, 31_536_000)
        check_number("tombstone_timeout", self.tombstone_timeout, 1, 31_536_000)
        check_number("connection_timeout", self.connection_timeout, 0.1, 3600)
        check_number("message_dedup_ttl", self.message_dedup_ttl, 1, 86_400)
        check_number("batch_delay", self.batch_delay, 0, 1)
        check_integer("batch_bytes", self.batch_bytes, 1, 2**16)
        check_number("leave_timeout", self.leave_timeout, 0, 3600)
        check_number("order_wait", self.order_wait, 0, 3600)

    def _convert(self) -> None:
        """Stores lists as tuples, a single value as a tuple of one, addresses as text and durations in
        seconds."""
        if isinstance(self.tags, Mapping):
            object.__setattr__(self, "tags", tag_texts(self.tags))
        for name in ("bootstrap_peers", "keys", "topics", "tags", "denied"):
            value: Any = getattr(self, name)
            if isinstance(value, (str, ClusterKey, PeerId)) or is_host_port_pair(value):
                value = (value,)
            elif not isinstance(value, Iterable):
                raise ConfigError(name, "expected a list")
            object.__setattr__(self, name, tuple(map(to_host_port, value)))
        for name in ("bind", "advertise"):
            object.__setattr__(self, name, to_host_port(getattr(self, name)))
        convert_durations(self, DURATIONS)

    def _check_addresses(self) -> None:
        check_host_port("bind", self.bind, allows_range=True)
        if self.advertise:
            check_host_port("advertise", self.advertise)
            try:
                address = Address.parse(self.advertise)
            except ValueError as error:
                raise ConfigError("advertise", str(error)) from None
            if address.undialable_reason:
                raise ConfigError(
                    "advertise",
                    f"{address.undialable_reason}; set the address that other nodes dial, such as"
                    " 192.168.1.5:8000",
                )
        for peer in self.bootstrap_peers:
            if is_bootstrap_source(peer):
                check_bootstrap_source(peer)
            else:
                check_host_port("bootstrap_peers", peer, is_dialed=True, allows_range=True)

    @property
    def bootstrap_addresses(self) -> tuple[str, ...]:
        """The bootstrap peers, ``host:port`` each: a range of ports is expanded. Without
        `bootstrap_sources`."""
        return tuple(
            each
            for peer in self.bootstrap_peers
            if not is_bootstrap_source(peer)
            for each in expand_ports(peer)
        )

    @property
    def bootstrap_sources(self) -> tuple[str, ...]:
        """The bootstrap peers that name a source of addresses: ``@FILE`` and ``srv+NAME``."""
        return tuple(each for each in self.bootstrap_peers if is_bootstrap_source(each))

    @property
    def max_ack_delay(self) -> float:
        """How long peers may wait before they acknowledge rumors of this node, in seconds: a batch and the
        wait for the next one, so that most ACKs share its packet, up to `MAX_ACK_DELAY_S`."""
        return min(2 * self.batch_delay, MAX_ACK_DELAY_S)

    def replace(self, **changes: Any) -> Self:
        """Returns a validated copy with `changes`. Raises ConfigError, also for an unknown field."""
        known = {setting.name for setting in fields(self)}
        for name in changes:
            if name not in known:
                raise ConfigError(name, "unknown setting")
        return replace(self, **changes)

    @classmethod
    def local(cls, **changes: Any) -> Self:
        """Returns the profile for nodes on one machine: short timeouts, because loss is rare and
        round trips are short."""
        profile: dict[str, Any] = {
            "gossip_interval": 1.0,
            "peer_timeout": 6.0,
            "connection_timeout": 5.0,
            "anti_entropy": AntiEntropyConfig(interval=10.0),
            "detection": DetectionConfig(suspicion_timeout=3.0),
        }
        return cls(**(profile | changes))

    @classmethod
    def lan(cls, **changes: Any) -> Self:
        """Returns the profile for one site: the defaults."""
        return cls(**changes)

    @classmethod
    def wan(cls, **changes: Any) -> Self:
        """Returns the profile for several sites: longer timeouts, so a slow path does not count as
        a failure, and `optimize_links`."""
        profile: dict[str, Any] = {
            "gossip_interval": 10.0,
            "peer_timeout": 60.0,
            "connection_timeout": 20.0,
            "optimize_links": True,
            "anti_entropy": AntiEntropyConfig(interval=60.0),
            "detection": DetectionConfig(
                probe_timeout=2.0, probe_interval=4.0, suspicion_timeout=6.0
            ),
        }
        return cls(**(profile | changes))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Reads a TOML config file.

        Fields are at the top level, sections have the names of the fields that hold them, and
        `key_files` lists paths of key files, relative to the config file. Missing settings keep
        their defaults. The application's section ``[app]`` is ignored.

        Raises:
            ConfigError: one line with the file, the line number and the setting.
            KeyFileError: a key file cannot be used.
        """
        from grapevine_proto.config.toml import ConfigFile  # most programs read no file

        file = ConfigFile.read(path, setting_names(), ignored=("app",))
        try:
            config = cls.from_settings(file.values)
            paths = key_paths(file.values.get("key_files", []), file.path.parent)
        except ConfigError as error:
            raise ConfigError(
                error.field, f"{error.problem} ({file.location_of(error.field)})"
            ) from None
        return config.replace(keys=[ClusterKey.load(each) for each in paths])

    def to_toml(self, path: str | Path) -> None:
        """Writes all settings except the keys to the file at `path`, atomically.

        Raises ConfigError if it cannot be written; the old file is then unchanged.
        """
        import tomli_w

        tables: dict[str, Any] = {}
        for name, value in self.settings().items():
            section, dot, field_name = name.partition(".")
            if dot:
                tables.setdefault(section, {})[field_name] = value
            else:
                tables[name] = value
        try:
            atomic_write(path, tomli_w.dumps(tables).encode(), mode=SHARED_MODE)
        except OSError as error:
            raise ConfigError("config", f"{path}: {error.strerror}") from None

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> Self:
        """Builds a configuration from dotted names and plain values; ignores `key_files`. Raises
        ConfigError."""
        top_level: dict[str, Any] = {}
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, dot, field_name = name.partition(".")
            if dot:
                sections.setdefault(section, {})[field_name] = value
            elif name == "denied":
                top_level[name] = _parse_peer_ids(value)
            elif name != "key_files":
                top_level[name] = value
        built_sections = {name: SECTIONS[name](**changes) for name, changes in sections.items()}
        return cls(**top_level, **built_sections)

    def settings(self) -> dict[str, Any]:
        """Returns all settings except the keys by dotted name, as plain values; the inverse of
        `from_settings`."""
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
    """Returns the dotted names of all node settings that a config file may contain."""
    return (*NodeConfig().settings(), "key_files")


def key_paths(value: Any, directory: Path) -> tuple[Path, ...]:
    """Returns the paths of a `key_files` value, relative to `directory`. Raises ConfigError."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise ConfigError("key_files", f"expected a list of paths, not {value!r}")
    try:
        return tuple(directory / Path(each).expanduser() for each in value)
    except RuntimeError:  # ~user of an unknown user
        raise ConfigError("key_files", f"{value!r}: no such user") from None


def _parse_peer_ids(value: Any) -> tuple[PeerId, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError("denied", f"expected a list of peer IDs, not {value!r}")
    peer_ids = []
    for each in value:
        try:
            peer_ids.append(PeerId.parse(each))
        except (ValueError, TypeError):
            raise ConfigError(
                "denied", f"expected a peer ID of 64 hex digits, got {each!r}"
            ) from None
    return tuple(peer_ids)
