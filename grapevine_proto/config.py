"""How a node is set up: frozen values, checked on birth, so that a wrong configuration cannot exist.

What must stay true:

- Every default has its reason beside it; every field says which way it trades.
- A wrong value raises `ConfigError` that names the field by its dotted path, before anything starts.
- Nothing here is a secret but `keys`: those print as fingerprints and are never written to a file;
  a file names the files they are in (`key_files`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from grapevine_proto.errors import ConfigError
from grapevine_proto.files import put_in_place
from grapevine_proto.identity import ClusterKey
from grapevine_proto.ids import Address, PeerId, Zone, split_host_port

MAX_TEXT_BYTES: Final = 64  # of a name, a zone, a cluster: what a record carries
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
        "detection",
        "connection_timeout",
        "anti_entropy",
        "bundle_delay",
        "bundle_bytes",
        "epidemic",
        "strategy",
        "subscriptions",
        "lazy_repair",
        "rate_limit",
    }
)


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(name, f"expected a number, not {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, f"{value!r} is not between {low:g} and {high:g}")


def _check_count(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int:
        raise ConfigError(name, f"expected a whole number, not {value!r}")
    _check_number(name, value, low, high)


def _check_flag(name: str, value: bool) -> None:
    if type(value) is not bool:
        raise ConfigError(name, f"expected true or false, not {value!r}")


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(name, f"expected text, not {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # half a surrogate pair, as an environment that is not UTF-8 gives
        raise ConfigError(name, f"{value!r} is not valid Unicode") from None
    if size > MAX_TEXT_BYTES:
        raise ConfigError(name, f"{value!r} is longer than {MAX_TEXT_BYTES} bytes")


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigError(name, f"{value!r} is not one of: {', '.join(words)}")


def _check_host_port(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(name, f"expected host:port, not {value!r}")
    try:
        split_host_port(value)
    except ValueError as error:
        raise ConfigError(name, str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AntiEntropyConfig:
    """Rounds that find and mend what broadcast missed."""

    enabled: bool = True
    interval: float = 30.0
    """Seconds between rounds (Grapevine's). Shorter finds a loss sooner, and costs a datagram a peer."""
    fanout: int = 3
    """Peers per round: three independent partners make it unlikely that all miss the same message."""

    def __post_init__(self) -> None:
        _check_flag("anti_entropy.enabled", self.enabled)
        _check_number("anti_entropy.interval", self.interval, 0.1, 86_400)
        _check_count("anti_entropy.fanout", self.fanout, 1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpidemicConfig:
    """Rumor mongering with Grapevine's figures (Demers et al. 1987: push with feedback)."""

    forward_probability: float = 0.7
    """Chance that a node relays a rumor it hears. Lower saves copies and reaches fewer nodes."""
    max_forwards: int = 5
    """Copies of one rumor that one node sends in all while it stays hot."""
    hops: int = 10
    """Relays a push may travel; right below 500 nodes. Repair is not limited by it."""

    def __post_init__(self) -> None:
        _check_number("epidemic.forward_probability", self.forward_probability, 0, 1)
        _check_count("epidemic.max_forwards", self.max_forwards, 1, 64)
        _check_count("epidemic.hops", self.hops, 1, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionConfig:
    """How soon a member that does not answer is suspected, and then held for dead (SWIM, and
    Lifeguard's times; the figures are those of memberlist for one site)."""

    probe_timeout: float = 0.5
    """Seconds to wait for an answer. A link silent for so much longer than it should be is probed
    three times, then through others; more is kinder to slow nodes and later with the dead."""
    probe_interval: float = 1.0
    """Seconds between probes of a member that is suspected: its chances to be heard."""
    indirect_probes: int = 3
    """Peers asked to try as well, each time: three make it unlikely that all roads fail at once."""
    suspicion: float = 4.0
    """Seconds a suspect has to say that it lives, per power of ten of members, where others suspect it
    too. Fewer know a death sooner; more forgive longer stalls."""
    suspicion_max: float = 6.0
    """How many times as long it has while only one suspects it."""

    def __post_init__(self) -> None:
        _check_number("detection.probe_timeout", self.probe_timeout, 0.01, 60)
        _check_number("detection.probe_interval", self.probe_interval, 0.05, 60)
        _check_count("detection.indirect_probes", self.indirect_probes, 0, 16)
        _check_number("detection.suspicion", self.suspicion, 0.1, 600)
        _check_number("detection.suspicion_max", self.suspicion_max, 1, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    """What each peer may send us, in envelopes: a token bucket."""

    enabled: bool = True
    capacity: int = 100
    """The burst a peer may send at once (Grapevine's)."""
    refill_rate: float = 50.0
    """Tokens a second after that (Grapevine's)."""

    def __post_init__(self) -> None:
        _check_flag("rate_limit.enabled", self.enabled)
        _check_count("rate_limit.capacity", self.capacity, 1, 1_000_000_000)
        _check_number("rate_limit.refill_rate", self.refill_rate, 0.1, 1_000_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CongestionConfig:
    """How fast each link sends: additive increase, multiplicative decrease on congestion."""

    initial_packets: int = 10
    """Packets in the first round trip (RFC 6928): enough for most of what gossip says at once."""
    decrease: float = 0.7
    """What is left of the rate after congestion (RFC 9438, CUBIC's). Less drains queues sooner, more
    keeps the path busier."""
    delay: float = 0.010
    """Seconds of queueing that are no congestion: what a busy event loop adds by itself."""
    delay_fraction: float = 0.25
    """The same as a part of the round trip; the larger of both counts."""
    memory: float = 10.0
    """Seconds for which the least round trip and the least loss of a path are remembered (BBR's).
    Longer takes a path that became longer for a queue, shorter a standing queue for the path."""
    max_rate: int = 1_000_000_000
    """Bytes a second to one peer at most: more than one core seals."""
    in_flight_bytes: int = 16 * 2**20
    """Bytes on the way to one peer at most, kept until their arrival is told: 1 Gbit/s over 130 ms."""

    def __post_init__(self) -> None:
        _check_count("congestion.initial_packets", self.initial_packets, 1, 1000)
        _check_number("congestion.decrease", self.decrease, 0.1, 0.95)
        _check_number("congestion.delay", self.delay, 0.001, 10)
        _check_number("congestion.delay_fraction", self.delay_fraction, 0.01, 10)
        _check_number("congestion.memory", self.memory, 1, 3600)
        _check_count("congestion.max_rate", self.max_rate, 10_000, 10**12)
        _check_count("congestion.in_flight_bytes", self.in_flight_bytes, 65_536, 2**40)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Ceilings on everything that somebody else can make grow. Each is counted when it is met."""

    sessions: int = 512
    """Peers with an encrypted session, links and short ones (2 KB each, and as much again for ten
    seconds after a rekey)."""
    short_sessions: int = 64
    """Of those, with members that are no links: private words and repair, closed after 10 s idle."""
    dials: int = 256
    """Handshakes that this node began and that are not done yet."""
    accepted_proofs: int = 4096
    """Handshakes remembered so that a replay opens nothing; each for at most 240 s."""
    hello_buckets: int = 1024
    """Buckets that strangers' first packets share, by a keyed hash of their address."""
    challenges_per_second: int = 2000
    """Answers to strangers in all; two hashes each, so a flood costs 1 % of a core."""
    members: int = 10_000
    """Members known; beyond it a node works on with a part (400 bytes each)."""
    addresses: int = 2048
    """Addresses heard of and not yet reached."""
    addresses_per_teller: int = 64
    """Of those, from one member."""
    origins: int = 16_384
    """Origins whose streams are remembered, the last two streams of each."""
    new_origins_per_link: int = 64
    """Origins nobody here is linked to, per link that brings them, in 300 s."""
    holes: int = 256
    """Gaps remembered in one stream; beyond it the oldest is given up, as lost."""
    held_bytes: int = 64 * 2**20
    """Payload bytes held for repair; one origin may take a quarter."""
    events: int = 10_000
    """Events waiting for a slow application, and `event_bytes` of payload; then the oldest go."""
    event_bytes: int = 64 * 2**20
    queue_messages: int = 256
    """Messages waiting for one peer, and `queue_bytes`; beyond it repair brings them."""
    queue_bytes: int = 2**20
    reassembly_bytes: int = 64 * 2**20
    """Bytes kept of large messages that have not come whole, of all peers; one may take
    `max_message_size`."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_count(f"limits.{each.name}", getattr(self, each.name), 1, 2**40)


SECTIONS: Final[Mapping[str, Any]] = {
    "anti_entropy": AntiEntropyConfig,
    "detection": DetectionConfig,
    "epidemic": EpidemicConfig,
    "rate_limit": RateLimitConfig,
    "congestion": CongestionConfig,
    "limits": LimitsConfig,
}


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
    strategy: str = "epidemic"
    """How broadcasts spread: to a few at random (epidemic), to all who subscribed (flood), along a tree
    (plumtree), from the origin to every member (direct-mail), or by mail while that is cheap and else
    along a tree (auto)."""
    subscriptions: int = 5
    """Peers that a node picks to receive from under flood: the copies it gets of each message. With
    three, some are left out."""
    lazy_repair: bool = True
    """Tell linked peers that were not sent a message its id, and ask for what others tell of: closes
    within a fraction of a second what spreading leaves open, for a small packet a link and message."""
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
            _check_text(name, getattr(self, name))
        _check_word("strategy", self.strategy, STRATEGIES)
        _check_count("subscriptions", self.subscriptions, 1, 1000)
        _check_flag("lazy_repair", self.lazy_repair)
        _check_word("distribution", self.distribution, DISTRIBUTIONS)
        _check_number("gossip_interval", self.gossip_interval, 0.05, 3600)
        _check_count("fanout", self.fanout, 1, 1000)
        _check_count("max_peers", self.max_peers, 1, self.limits.sessions)
        _check_count("max_message_size", self.max_message_size, 1, 2**30)
        _check_number("peer_timeout", self.peer_timeout, 0.1, 86_400)
        if self.peer_timeout < 2 * self.gossip_interval:
            raise ConfigError(
                "peer_timeout",
                f"{self.peer_timeout:g} is less than two gossip intervals of {self.gossip_interval:g}",
            )
        _check_number("connection_timeout", self.connection_timeout, 0.1, 3600)
        _check_number("message_dedup_ttl", self.message_dedup_ttl, 1, 86_400)
        _check_number("bundle_delay", self.bundle_delay, 0, 0.5)
        _check_count("bundle_bytes", self.bundle_bytes, 1, 2**16)

    def _check_addresses(self) -> None:
        _check_host_port("bind", self.bind)
        if self.advertise:
            _check_host_port("advertise", self.advertise)
            try:
                address = Address.parse(self.advertise)
            except ValueError as error:
                raise ConfigError("advertise", str(error)) from None
            if address.port == 0:
                raise ConfigError("advertise", "port 0 cannot be dialled")
        for peer in self.bootstrap_peers:
            _check_host_port("bootstrap_peers", peer)

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
        """Between sites: longer and rarer, so that a slow path is not taken for a dead one."""
        patient: dict[str, Any] = {
            "gossip_interval": 10.0,
            "peer_timeout": 60.0,
            "connection_timeout": 20.0,
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
            put_in_place(path, tomli_w.dumps(tables).encode(), mode=0o666)
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
