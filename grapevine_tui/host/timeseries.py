"""Traffic of the node over time: in total, by peer, by author.

Invariants: at most one sample a second, at a cost independent of the number of messages; everything
kept is bounded.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grapevine_proto.events import Message, PeerInfo, PeerState, Stats, Via
from grapevine_proto.ids import PeerId
from grapevine_tui.host.link_quality import LinkQuality

MAX_FINE_SAMPLES: Final = 900  # one a second for fifteen minutes
MAX_COARSE_SAMPLES: Final = 1_080  # of ten seconds each, for three hours
FINE_PER_COARSE: Final = 10  # fine samples in a coarse one
MAX_RTT_SAMPLES: Final = 180  # per peer, one a second
SAMPLE_INTERVAL_S: Final = 1.0
MAX_AUTHORS: Final = 4_096  # with separate counts; beyond that the least recently active is evicted


@dataclass(slots=True)
class PeerRates:
    """Datagrams per second of one peer, measured between two samples."""

    received: int
    sent: int
    in_per_s: float = 0.0
    out_per_s: float = 0.0


class TimeSeries:
    """One measure over time: a sample a second for fifteen minutes, and their means for three
    hours.
    """

    __slots__ = ("_pending", "coarse", "fine")

    def __init__(self) -> None:
        self.fine: deque[float] = deque(maxlen=MAX_FINE_SAMPLES)
        self.coarse: deque[float] = deque(maxlen=MAX_COARSE_SAMPLES)
        self._pending: list[float] = []

    def add(self, value: float, seconds: int = 1) -> None:
        """Add the mean of so many seconds."""
        for _ in range(seconds):
            self.fine.append(value)
            self._pending.append(value)
            if len(self._pending) == FINE_PER_COARSE:
                self.coarse.append(sum(self._pending) / FINE_PER_COARSE)
                self._pending.clear()

    @property
    def latest(self) -> float:
        return self.fine[-1] if self.fine else 0.0


@dataclass(slots=True)
class TrafficSeries:
    """Rates of the whole node, per second, oldest first."""

    datagrams_in: TimeSeries = field(default_factory=TimeSeries)
    datagrams_out: TimeSeries = field(default_factory=TimeSeries)
    messages: TimeSeries = field(default_factory=TimeSeries)
    duplicates: TimeSeries = field(default_factory=TimeSeries)
    gaps_abandoned: TimeSeries = field(default_factory=TimeSeries)
    bytes_in_per_s: float = 0.0
    bytes_out_per_s: float = 0.0

    @property
    def in_per_s(self) -> deque[float]:
        return self.datagrams_in.fine

    @property
    def out_per_s(self) -> deque[float]:
        return self.datagrams_out.fine

    @property
    def messages_per_s(self) -> float:
        return self.messages.latest


@dataclass(slots=True)
class AuthorStats:
    """Messages received from one author. `messages_at_sample` is `messages` at the last sample."""

    messages: int = 0
    bytes: int = 0
    repaired: int = 0  # of those, the ones delivered by repair
    per_s: float = 0.0
    messages_at_sample: int = 0


class AuthorTable:
    """Counts by author."""

    def __init__(self, limit: int = MAX_AUTHORS) -> None:
        self._authors: OrderedDict[PeerId, AuthorStats] = OrderedDict()
        self._limit = limit
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._authors)

    def all(self) -> Mapping[PeerId, AuthorStats]:
        return self._authors

    def get(self, peer_id: PeerId) -> AuthorStats | None:
        return self._authors.get(peer_id)

    def add(self, message: Message) -> None:
        """Count a message."""
        origin = message.id.origin
        author = self._authors.get(origin)
        if author is None:
            author = self._authors[origin] = AuthorStats()
            if len(self._authors) > self._limit:
                self._authors.popitem(last=False)
                self.evicted += 1
        author.messages += 1
        author.bytes += len(message.payload)
        author.repaired += message.via is Via.REPAIR
        self._authors.move_to_end(origin)

    def sample(self, interval_s: float) -> None:
        for author in self._authors.values():
            author.per_s = (author.messages - author.messages_at_sample) / interval_s
            author.messages_at_sample = author.messages


class Sampler:
    """Takes the samples."""

    def __init__(self) -> None:
        self.traffic = TrafficSeries()
        self.authors = AuthorTable()
        self.peer_rates: dict[PeerId, PeerRates] = {}
        self.rtts: dict[PeerId, deque[float]] = {}  # seconds, one a second, oldest first
        self.link_quality = LinkQuality()
        self._sampled_at: float | None = None
        self._stats = Stats()

    def sample(self, peers: Mapping[PeerId, PeerInfo], stats: Stats, now: float) -> bool:
        """Sample the node's tables as of `now`; return whether a sample was due."""
        if self._sampled_at is None:
            self._sampled_at, self._stats = now, stats
            return False
        interval_s = now - self._sampled_at
        if interval_s < SAMPLE_INTERVAL_S:
            return False
        self._sample_traffic(stats, interval_s)
        self._sample_peer_rates(peers, interval_s)
        self._sample_rtts(peers, whole_seconds(interval_s))
        self.link_quality.sample(peers.values())
        self.authors.sample(interval_s)
        self._sampled_at, self._stats = now, stats
        return True

    def _sample_traffic(self, new: Stats, interval_s: float) -> None:
        old, traffic, seconds = self._stats, self.traffic, whole_seconds(interval_s)
        for series, count in (
            (traffic.datagrams_in, new.datagrams_in - old.datagrams_in),
            (traffic.datagrams_out, new.datagrams_out - old.datagrams_out),
            (traffic.messages, new.delivered - old.delivered),
            (traffic.duplicates, new.duplicates - old.duplicates),
            (traffic.gaps_abandoned, new.gaps_abandoned - old.gaps_abandoned),
        ):
            series.add(count / interval_s, seconds)
        traffic.bytes_in_per_s = (new.bytes_in - old.bytes_in) / interval_s
        traffic.bytes_out_per_s = (new.bytes_out - old.bytes_out) / interval_s

    def _sample_peer_rates(self, peers: Mapping[PeerId, PeerInfo], interval_s: float) -> None:
        new_rates: dict[PeerId, PeerRates] = {}
        for peer_id, peer in peers.items():
            old_rates = self.peer_rates.get(peer_id)
            if old_rates is None:  # no earlier sample to compare with
                new_rates[peer_id] = PeerRates(peer.received, peer.sent)
                continue
            new_rates[peer_id] = PeerRates(
                peer.received,
                peer.sent,
                # Counters of a peer that reconnected restart at zero; a rate is never negative.
                max(0.0, peer.received - old_rates.received) / interval_s,
                max(0.0, peer.sent - old_rates.sent) / interval_s,
            )
        self.peer_rates = new_rates

    def _sample_rtts(self, peers: Mapping[PeerId, PeerInfo], seconds: int) -> None:
        for departed in self.rtts.keys() - peers.keys():
            del self.rtts[departed]
        for peer_id, peer in peers.items():
            if peer.rtt_s is not None and peer.state is PeerState.CONNECTED:
                history = self.rtts.get(peer_id)
                if history is None:
                    history = self.rtts[peer_id] = deque(maxlen=MAX_RTT_SAMPLES)
                history.extend([peer.rtt_s] * min(seconds, MAX_RTT_SAMPLES))


def whole_seconds(interval_s: float) -> int:
    """How many samples of a series an interval stands for: one, or more after a stall and in a replay."""
    return max(1, min(MAX_FINE_SAMPLES, int(interval_s / SAMPLE_INTERVAL_S)))
