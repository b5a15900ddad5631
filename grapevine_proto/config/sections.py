"""The sections of a node's configuration: frozen values, validated on construction.

Invariants: every default has its reason beside it, and every field states its trade-off. Durations are
stored in seconds; constructors accept a timedelta too, which their declared signatures say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from grapevine_proto.config.validate import (
    Seconds,
    check_flag,
    check_integer,
    check_number,
    convert_durations,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AntiEntropyConfig:
    """Anti-entropy rounds, which repair what broadcast missed."""

    enabled: bool = True
    interval: float = 30.0
    """Seconds between rounds (as in Grapevine 1.x). Shorter repairs a loss sooner and costs one
    datagram per peer."""
    fanout: int = 3
    """Peers per round. That three random peers all miss the same message is unlikely."""

    if TYPE_CHECKING:

        def __init__(
            self, *, enabled: bool = ..., interval: Seconds = ..., fanout: int = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        convert_durations(self, ("interval",))
        check_flag("anti_entropy.enabled", self.enabled)
        check_number("anti_entropy.interval", self.interval, 0.1, 86_400)
        check_integer("anti_entropy.fanout", self.fanout, 1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpidemicConfig:
    """Rumor mongering with the parameters of Grapevine 1.x (Demers et al. 1987: push with feedback)."""

    forward_probability: float = 0.7
    """Probability that a node relays a new rumor. Lower sends fewer copies and reaches fewer nodes."""
    max_forwards: int = 5
    """Copies of one rumor that one node sends in total."""
    hops: int = 10
    """Maximum hops of a push; sufficient below 500 nodes. It does not limit repair."""

    def __post_init__(self) -> None:
        check_number("epidemic.forward_probability", self.forward_probability, 0, 1)
        check_integer("epidemic.max_forwards", self.max_forwards, 1, 64)
        check_integer("epidemic.hops", self.hops, 1, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionConfig:
    """Failure detection: SWIM with the timeouts of Lifeguard. The defaults are memberlist's for one
    site."""

    probe_timeout: float = 0.5
    """Seconds to wait for a ping reply, and beyond an overdue heartbeat before the first ping. Longer
    tolerates slower nodes and detects failures later."""
    probe_interval: float = 1.0
    """Seconds between pings of a suspect."""
    indirect_probes: int = 3
    """Peers asked for an indirect probe each time. That three paths fail at once is unlikely."""
    suspicion_timeout: float = 4.0
    """Minimum suspicion timeout in seconds, per power of ten of members, once three members suspect.
    Shorter detects failures sooner; longer tolerates longer stalls."""
    suspicion_max_factor: float = 6.0
    """Factor on that timeout while only one member suspects."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            probe_timeout: Seconds = ...,
            probe_interval: Seconds = ...,
            indirect_probes: int = ...,
            suspicion_timeout: Seconds = ...,
            suspicion_max_factor: float = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        convert_durations(self, ("probe_timeout", "probe_interval", "suspicion_timeout"))
        check_number("detection.probe_timeout", self.probe_timeout, 0.01, 60)
        check_number("detection.probe_interval", self.probe_interval, 0.05, 60)
        check_integer("detection.indirect_probes", self.indirect_probes, 0, 16)
        check_number("detection.suspicion_timeout", self.suspicion_timeout, 0.1, 600)
        check_number("detection.suspicion_max_factor", self.suspicion_max_factor, 1, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    """Inbound rate limit of each peer: a token bucket, in messages."""

    enabled: bool = True
    capacity: int = 100
    """Burst a peer may send at once (as in Grapevine 1.x)."""
    refill_rate: float = 50.0
    """Tokens per second after that (as in Grapevine 1.x)."""

    def __post_init__(self) -> None:
        check_flag("rate_limit.enabled", self.enabled)
        check_integer("rate_limit.capacity", self.capacity, 1, 1_000_000_000)
        check_number("rate_limit.refill_rate", self.refill_rate, 0.1, 1_000_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CongestionConfig:
    """Send rate of each link: additive increase, multiplicative decrease."""

    initial_packets: int = 10
    """Packets in the first round trip (RFC 6928): enough for a typical burst of gossip."""
    decrease_factor: float = 0.7
    """Factor on the rate after congestion (RFC 9438, CUBIC). Lower drains queues sooner; higher uses the
    path better."""
    max_queue_delay: float = 0.010
    """Seconds of queueing delay that do not count as congestion: a busy event loop adds as much."""
    max_queue_delay_fraction: float = 0.25
    """The same as a share of the round-trip time; the larger of the two applies."""
    min_rtt_window: float = 10.0
    """Window in seconds for the minimum round-trip time and loss of a path (BBR). Longer mistakes a
    longer path for a queue; shorter mistakes a standing queue for the path."""
    max_rate: int = 1_000_000_000
    """Maximum bytes per second to one peer: more than one core can encrypt."""
    in_flight_bytes: int = 16 * 2**20
    """Maximum unacknowledged bytes to one peer: 1 Gbit/s over 130 ms."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            initial_packets: int = ...,
            decrease_factor: float = ...,
            max_queue_delay: Seconds = ...,
            max_queue_delay_fraction: float = ...,
            min_rtt_window: Seconds = ...,
            max_rate: int = ...,
            in_flight_bytes: int = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        convert_durations(self, ("max_queue_delay", "min_rtt_window"))
        check_integer("congestion.initial_packets", self.initial_packets, 1, 1000)
        check_number("congestion.decrease_factor", self.decrease_factor, 0.1, 0.95)
        check_number("congestion.max_queue_delay", self.max_queue_delay, 0.001, 10)
        check_number("congestion.max_queue_delay_fraction", self.max_queue_delay_fraction, 0.01, 10)
        check_number("congestion.min_rtt_window", self.min_rtt_window, 1, 3600)
        check_integer("congestion.max_rate", self.max_rate, 10_000, 10**12)
        check_integer("congestion.in_flight_bytes", self.in_flight_bytes, 65_536, 2**40)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """Keyed state: how long what is gone is remembered."""

    tombstone: float = 7200.0
    """Seconds for which a deleted key is remembered at least (as in chitchat). Longer takes memory; a node
    that was away for longer is sent the whole map."""
    keep: float = 86_400.0
    """Seconds for which the entries of a member that is down or left are kept. At half of that another
    member adopts durable ones."""

    if TYPE_CHECKING:

        def __init__(self, *, tombstone: Seconds = ..., keep: Seconds = ...) -> None: ...

    def __post_init__(self) -> None:
        convert_durations(self, ("tombstone", "keep"))
        check_number("state.tombstone", self.tombstone, 1, 31_536_000)
        check_number("state.keep", self.keep, 1, 31_536_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Limits of everything that remote nodes can make grow. Reaching one is counted."""

    sessions: int = 512
    """Peers with a session, links and transient ones (16 KB each while idle)."""
    transient_sessions: int = 64
    """Transient sessions among those, for direct messages and repair; closed after 10 s idle."""
    dials: int = 256
    """Handshakes in progress that this node initiated."""
    accepted_proofs: int = 4096
    """Accepted handshakes remembered against replay, each for at most 240 s and 64 per identity.
    The oldest is evicted."""
    handshake_buckets: int = 1024
    """Rate-limit buckets for first packets, by a keyed hash of the source address."""
    challenges_per_second: int = 2000
    """Challenges sent to unauthenticated peers in total; two hashes each, so a flood costs 1% of a
    core."""
    members: int = 10_000
    """Known members (800 bytes each); a node works with a part of a larger cluster."""
    addresses: int = 2048
    """Advertised addresses that were not reached yet."""
    addresses_per_source: int = 64
    """Those from one member."""
    origins: int = 16_384
    """Origins whose latest two streams are tracked. Those that are not known members are evicted
    first."""
    new_origins_per_link: int = 64
    """Origins that are not known members, per link that introduces them, once three quarters of `origins`
    are in use. A link that introduces more replaces its own."""
    gaps: int = 256
    """Tracked gaps in one stream; beyond that the oldest is abandoned and counted as lost."""
    cache_bytes: int = 64 * 2**20
    """Bytes of messages cached for repair; one origin may use a quarter."""
    events: int = 10_000
    """Events queued for a slow application. Beyond it, or beyond `event_bytes`, the oldest are
    dropped."""
    event_bytes: int = 64 * 2**20
    queue_messages: int = 256
    """Messages queued for one peer. Beyond it, or beyond `queue_bytes`, they are left to repair."""
    queue_bytes: int = 2**20
    reassembly_bytes: int = 64 * 2**20
    """Bytes of incomplete large messages from all peers; one peer may use `max_message_size`."""
    state_owners: int = 10_000
    """Members whose entries are kept. Those that are not up make room first."""
    state_bytes: int = 64 * 2**20
    """Bytes of their entries, with 1 KiB for each. Beyond it new ones are refused."""

    def __post_init__(self) -> None:
        for each in fields(self):
            check_integer(f"limits.{each.name}", getattr(self, each.name), 1, 2**40)


SECTIONS: Final[Mapping[str, Any]] = {
    "anti_entropy": AntiEntropyConfig,
    "detection": DetectionConfig,
    "epidemic": EpidemicConfig,
    "rate_limit": RateLimitConfig,
    "congestion": CongestionConfig,
    "state": StateConfig,
    "limits": LimitsConfig,
}
