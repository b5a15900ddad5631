"""The sections of a node's settings: one frozen value each, checked on birth.

What must stay true: every default has its reason beside it, and every field says which way it trades.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from grapevine_proto.checks import check_count, check_flag, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class AntiEntropyConfig:
    """Rounds that find and mend what broadcast missed."""

    enabled: bool = True
    interval: float = 30.0
    """Seconds between rounds (Grapevine's). Shorter finds a loss sooner, and costs a datagram a peer."""
    fanout: int = 3
    """Peers per round: three independent partners make it unlikely that all miss the same message."""

    def __post_init__(self) -> None:
        check_flag("anti_entropy.enabled", self.enabled)
        check_number("anti_entropy.interval", self.interval, 0.1, 86_400)
        check_count("anti_entropy.fanout", self.fanout, 1, 64)


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
        check_number("epidemic.forward_probability", self.forward_probability, 0, 1)
        check_count("epidemic.max_forwards", self.max_forwards, 1, 64)
        check_count("epidemic.hops", self.hops, 1, 255)


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
        check_number("detection.probe_timeout", self.probe_timeout, 0.01, 60)
        check_number("detection.probe_interval", self.probe_interval, 0.05, 60)
        check_count("detection.indirect_probes", self.indirect_probes, 0, 16)
        check_number("detection.suspicion", self.suspicion, 0.1, 600)
        check_number("detection.suspicion_max", self.suspicion_max, 1, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    """What each peer may send us, in envelopes: a token bucket."""

    enabled: bool = True
    capacity: int = 100
    """The burst a peer may send at once (Grapevine's)."""
    refill_rate: float = 50.0
    """Tokens a second after that (Grapevine's)."""

    def __post_init__(self) -> None:
        check_flag("rate_limit.enabled", self.enabled)
        check_count("rate_limit.capacity", self.capacity, 1, 1_000_000_000)
        check_number("rate_limit.refill_rate", self.refill_rate, 0.1, 1_000_000_000)


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
        check_count("congestion.initial_packets", self.initial_packets, 1, 1000)
        check_number("congestion.decrease", self.decrease, 0.1, 0.95)
        check_number("congestion.delay", self.delay, 0.001, 10)
        check_number("congestion.delay_fraction", self.delay_fraction, 0.01, 10)
        check_number("congestion.memory", self.memory, 1, 3600)
        check_count("congestion.max_rate", self.max_rate, 10_000, 10**12)
        check_count("congestion.in_flight_bytes", self.in_flight_bytes, 65_536, 2**40)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Ceilings on everything that somebody else can make grow. Each is counted when it is met."""

    sessions: int = 512
    """Peers with an encrypted session, links and short ones (16 KB each while idle)."""
    short_sessions: int = 64
    """Of those, with members that are no links: private words and repair, closed after 10 s idle."""
    dials: int = 256
    """Handshakes that this node began and that are not done yet."""
    accepted_proofs: int = 4096
    """Handshakes remembered so that a replay opens nothing; each for at most 240 s, 64 of one identity.
    Beyond it the oldest is forgotten."""
    hello_buckets: int = 1024
    """Buckets that strangers' first packets share, by a keyed hash of their address."""
    challenges_per_second: int = 2000
    """Answers to strangers in all; two hashes each, so a flood costs 1 % of a core."""
    members: int = 10_000
    """Members known; beyond it a node works on with a part (800 bytes each)."""
    addresses: int = 2048
    """Addresses heard of and not yet reached."""
    addresses_per_teller: int = 64
    """Of those, from one member."""
    origins: int = 16_384
    """Origins whose streams are remembered, the last two streams of each. Those that are no known members
    give way to others."""
    new_origins_per_link: int = 64
    """Origins that are no known members, per link that brings them, once three quarters of `origins` are
    taken: a link that brings more replaces those that it brought before."""
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
            check_count(f"limits.{each.name}", getattr(self, each.name), 1, 2**40)


SECTIONS: Final[Mapping[str, Any]] = {
    "anti_entropy": AntiEntropyConfig,
    "detection": DetectionConfig,
    "epidemic": EpidemicConfig,
    "rate_limit": RateLimitConfig,
    "congestion": CongestionConfig,
    "limits": LimitsConfig,
}
