"""What flows through the node over time: of all together, of each peer, of each author.

What must stay true: a sample is taken once a second at most, in time that the number of messages has
no part in; everything kept is bounded.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grapevine_proto.events import Message, PeerInfo, PeerState, Stats, Via
from grapevine_proto.ids import PeerId

SAMPLES: Final = 900  # one a second: fifteen minutes of traffic
COARSE_SAMPLES: Final = 1_080  # and of ten seconds each: three hours
COARSE: Final = 10  # fine samples in a coarse one
RTT_SAMPLES: Final = 180  # of each peer, one a second
SAMPLE_S: Final = 1.0
AUTHORS: Final = 4_096  # whose messages are counted apart; then the one silent for longest goes


@dataclass(slots=True)
class Flow:
    """Datagrams a second of one peer, measured between two samples."""

    received: int
    sent: int
    in_per_s: float = 0.0
    out_per_s: float = 0.0


class Series:
    """One measure over time: a sample a second for fifteen minutes, and their means for three hours."""

    __slots__ = ("_pending", "coarse", "fine")

    def __init__(self) -> None:
        self.fine: deque[float] = deque(maxlen=SAMPLES)
        self.coarse: deque[float] = deque(maxlen=COARSE_SAMPLES)
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        self.fine.append(value)
        self._pending.append(value)
        if len(self._pending) == COARSE:
            self.coarse.append(sum(self._pending) / COARSE)
            self._pending.clear()

    @property
    def latest(self) -> float:
        return self.fine[-1] if self.fine else 0.0


@dataclass(slots=True)
class Traffic:
    """Rates of the whole node, a second each, oldest first."""

    datagrams_in: Series = field(default_factory=Series)
    datagrams_out: Series = field(default_factory=Series)
    messages: Series = field(default_factory=Series)
    duplicates: Series = field(default_factory=Series)
    lost: Series = field(default_factory=Series)
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
class Author:
    """What one node has said, as far as it came to us. `sampled` is `messages` at the last sample."""

    messages: int = 0
    bytes: int = 0
    repaired: int = 0  # of those, the ones that pushing had missed
    per_s: float = 0.0
    sampled: int = 0


class Authors:
    """Counts by author."""

    def __init__(self, most: int = AUTHORS) -> None:
        self._authors: OrderedDict[PeerId, Author] = OrderedDict()
        self._most = most
        self.let_go = 0

    def __len__(self) -> int:
        return len(self._authors)

    def all(self) -> Mapping[PeerId, Author]:
        return self._authors

    def get(self, peer_id: PeerId) -> Author | None:
        return self._authors.get(peer_id)

    def count(self, message: Message) -> None:
        """Another message has come."""
        origin = message.id.origin
        author = self._authors.get(origin)
        if author is None:
            author = self._authors[origin] = Author()
            if len(self._authors) > self._most:
                self._authors.popitem(last=False)
                self.let_go += 1
        author.messages += 1
        author.bytes += len(message.payload)
        author.repaired += message.via is Via.REPAIR
        self._authors.move_to_end(origin)

    def sample(self, span_s: float) -> None:
        for author in self._authors.values():
            author.per_s = (author.messages - author.sampled) / span_s
            author.sampled = author.messages


class Samples:
    """Takes them."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.authors = Authors()
        self.flows: dict[PeerId, Flow] = {}
        self.round_trips: dict[PeerId, deque[float]] = {}  # seconds, one a second, oldest first
        self._at: float | None = None
        self._stats = Stats()

    def take(self, peers: Mapping[PeerId, PeerInfo], stats: Stats, now: float) -> bool:
        """Sample the node's tables as of `now`; whether it was time to."""
        if self._at is None:
            self._at, self._stats = now, stats
            return False
        span_s = now - self._at
        if span_s < SAMPLE_S:
            return False
        self._sample_traffic(stats, span_s)
        self._sample_flows(peers, span_s)
        self._sample_round_trips(peers)
        self.authors.sample(span_s)
        self._at, self._stats = now, stats
        return True

    def _sample_traffic(self, new: Stats, span_s: float) -> None:
        old, traffic = self._stats, self.traffic
        for series, count in (
            (traffic.datagrams_in, new.datagrams_in - old.datagrams_in),
            (traffic.datagrams_out, new.datagrams_out - old.datagrams_out),
            (traffic.messages, new.delivered - old.delivered),
            (traffic.duplicates, new.duplicates - old.duplicates),
            (traffic.lost, new.lost - old.lost),
        ):
            series.add(count / span_s)
        traffic.bytes_in_per_s = (new.bytes_in - old.bytes_in) / span_s
        traffic.bytes_out_per_s = (new.bytes_out - old.bytes_out) / span_s

    def _sample_flows(self, peers: Mapping[PeerId, PeerInfo], span_s: float) -> None:
        flows: dict[PeerId, Flow] = {}
        for peer_id, peer in peers.items():
            flow = self.flows.get(peer_id)
            if flow is None:  # nothing to measure against yet
                flows[peer_id] = Flow(peer.received, peer.sent)
                continue
            flows[peer_id] = Flow(
                peer.received,
                peer.sent,
                # A peer that came back counts anew: never less than nothing.
                max(0.0, peer.received - flow.received) / span_s,
                max(0.0, peer.sent - flow.sent) / span_s,
            )
        self.flows = flows

    def _sample_round_trips(self, peers: Mapping[PeerId, PeerInfo]) -> None:
        for gone in self.round_trips.keys() - peers.keys():
            del self.round_trips[gone]
        for peer_id, peer in peers.items():
            if peer.rtt is not None and peer.state is PeerState.CONNECTED:
                history = self.round_trips.get(peer_id)
                if history is None:
                    history = self.round_trips[peer_id] = deque(maxlen=RTT_SAMPLES)
                history.append(peer.rtt)
