"""How fast a link may send: round-trip time, rate, pacing.

What must stay true:

- The rate falls on *congestion* only: a queue that builds up on the path, or loss clearly above what
  this path loses anyway. Random loss costs repair, not rate.
- It falls at most once a round trip, for what was sent since it fell last; it grows only while it
  is what holds us back.
- No clock is shared: all times are differences of our own.

Another controller is one class with the four notices of `Controller`. The figures are those of
docs/reference/protocol.md; each is a field of `CongestionConfig`, with its reason.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from grapevine_proto.link.sequence import LEAST_REORDER_S
from grapevine_proto.sections import CongestionConfig

UNKNOWN_RTT_S: Final = 0.1  # until measured: halfway round the world, nearly
LEAST_RTT_S: Final = 0.001  # what a handshake takes at the least: it holds signature checks
JITTER_FACTOR: Final = 3.0  # a path that varies so much by itself is no queue building up
LONG_QUEUE: Final = 2.0  # times what is bearable
LOSS_SAMPLE: Final = 32  # packets: fewer say nothing about a rate of loss
LOSS_DEVIATIONS: Final = 4.0  # how surprising a loss must be: one report in ten thousand by chance
LOSS_SLACK: Final = 2.0  # packets besides
LEAST_LIMIT: Final = 64  # of ascending values, where chance makes half a dozen
LOSS_MEMORY: Final = 1 / 16  # weight of a sample in the slow average
ROUNDS_IN_FLIGHT: Final = 3.0  # one on the way, one for the report to be due, one for it to come


def remember_least(
    least: list[tuple[float, float]], value: float, now: float, memory_s: float
) -> None:
    """Add `value` to those of which the first is the least of the last `memory_s`. A peer that makes
    each value larger than the one before could make them many: beyond `LEAST_LIMIT` the newest takes
    the place of the one before it."""
    while least and least[-1][1] >= value:
        least.pop()
    if len(least) >= LEAST_LIMIT:
        least.pop()
    least.append((now, value))
    while least[0][0] < now - memory_s:
        del least[0]


class RoundTrip:
    """The round-trip time of a path: smoothed, its variation, and the least of the last seconds."""

    __slots__ = (
        "_least",
        "_measured_at",
        "_memory_s",
        "is_measured",
        "jitter_s",
        "latest_s",
        "previous_s",
        "smoothed_s",
        "varies_s",
    )

    def __init__(self, rtt_s: float | None, memory_s: float) -> None:
        self.is_measured = rtt_s is not None
        self.smoothed_s = UNKNOWN_RTT_S if rtt_s is None else rtt_s
        self.varies_s = self.smoothed_s / 2
        self.latest_s = self.previous_s = self.smoothed_s
        self.jitter_s = 0.0  # from one sample to the next, as RFC 3550 has it
        self._memory_s = memory_s
        self._measured_at = -math.inf
        self._least: list[tuple[float, float]] = []  # (when, what), both ascending: a few

    def measured(self, sample_s: float, now: float) -> None:
        """A packet and the answer to it took so long (RFC 6298, section 2)."""
        sample_s = max(sample_s, 1e-6)
        self._measured_at = now
        if self._least:
            self.jitter_s += (abs(sample_s - self.latest_s) - self.jitter_s) / 16
        self.previous_s, self.latest_s = self.latest_s, sample_s
        if self.is_measured and self._least:
            self.varies_s += (abs(self.smoothed_s - sample_s) - self.varies_s) / 4
            self.smoothed_s += (sample_s - self.smoothed_s) / 8
        else:  # a handshake's figure holds signature checks too: better forgotten
            self.smoothed_s, self.varies_s = sample_s, sample_s / 2
            self.is_measured = True
        remember_least(self._least, sample_s, now, self._memory_s)

    def assume(self, rtt_s: float) -> None:
        """A handshake took so long; nothing has been measured lately that says more."""
        self.smoothed_s, self.varies_s, self.is_measured = rtt_s, rtt_s / 2, True

    def is_fresh(self, now: float) -> bool:
        """Whether data measured it within memory."""
        return bool(self._least) and now - self._measured_at < 3 * self._memory_s

    @property
    def least_s(self) -> float:
        return self._least[0][1] if self._least else self.smoothed_s

    @property
    def reorder_s(self) -> float:
        """How long one packet may be overtaken by others before it counts as lost."""
        return max(self.smoothed_s / 4, LEAST_REORDER_S)

    @property
    def round_s(self) -> float:
        """How often reports come: once a round trip, but not in the rhythm of loopback."""
        return max(self.smoothed_s, LEAST_REORDER_S)

    @property
    def probe_s(self) -> float:
        """After how much silence a packet, or the report of it, is taken for lost (RFC 8985, 7.2)."""
        return 2 * self.smoothed_s + 4 * self.varies_s + 2 * self.reorder_s


class Outcome(NamedTuple):
    """What one report told of: how many packets arrived, their bytes, how many were lost; when the
    latest that arrived was sent; whether the rate held us back meanwhile."""

    arrived: int
    arrived_bytes: int
    lost: int
    latest_sent_at: float
    was_limited: bool


class Controller(Protocol):
    """What decides how fast a link may send."""

    rate: float
    """Bytes a second."""

    def on_report(self, outcome: Outcome, now: float) -> None:
        """A report of the peer came; the round-trip time is up to date."""
        ...

    def on_silence(self, now: float) -> None:
        """Nothing came in answer to a probe."""
        ...

    def on_packet_size(self, packet_bytes: int) -> None:
        """Packets are so large from now on."""
        ...

    @property
    def window_bytes(self) -> float:
        """How much may be on its way without word of it."""
        ...


class Aimd:
    """Additive increase, multiplicative decrease (Chiu and Jain 1989), on congestion alone."""

    __slots__ = (
        "_arrived",
        "_config",
        "_cut_at",
        "_floors",
        "_grown_at",
        "_loss",
        "_lost",
        "_packet_bytes",
        "_path",
        "_slower",
        "_starting",
        "cuts",
        "rate",
    )

    def __init__(self, config: CongestionConfig, path: RoundTrip, packet_bytes: int) -> None:
        self._config = config
        self._path = path
        self._packet_bytes = packet_bytes
        self._starting = True
        self._cut_at = self._grown_at = -math.inf
        self._arrived = self._lost = 0  # since the last sample of loss
        self._loss: float | None = None  # the slow average of it
        self._floors: list[tuple[float, float]] = []  # of that, as RoundTrip keeps its least
        self.cuts = 0
        self._slower = 0.0
        self.rate = config.initial_packets * packet_bytes / max(path.smoothed_s, LEAST_RTT_S)

    def on_report(self, outcome: Outcome, now: float) -> None:
        is_lossy = self._is_lossy(outcome, now)
        queue_s, bearable_s = self._queue_s()
        is_draining = self._path.latest_s < self._path.previous_s  # what we did about it works
        if is_lossy or (queue_s > bearable_s and not is_draining):
            # A queue that is merely there had no time yet to shrink; one that is long has to.
            is_long = is_lossy or queue_s > LONG_QUEUE * bearable_s
            patience_s = 0.0 if is_long else self._path.least_s
            if outcome.latest_sent_at > self._cut_at + patience_s:
                self._cut(outcome, now)
        elif outcome.was_limited and queue_s <= bearable_s:
            self._grow(outcome, now)

    def on_silence(self, now: float) -> None:
        self._cut_at, self._starting = now, False
        self.rate *= 0.5
        self._bound()

    def on_packet_size(self, packet_bytes: int) -> None:
        self._packet_bytes = packet_bytes
        self._bound()

    @property
    def window_bytes(self) -> float:
        path, least = self._path, self._config.initial_packets * self._packet_bytes
        window = ROUNDS_IN_FLIGHT * self.rate * (path.round_s + path.reorder_s)
        return min(max(window, 2 * least), self._config.in_flight_bytes)

    def _grow(self, outcome: Outcome, now: float) -> None:
        round_s = max(self._path.latest_s, LEAST_REORDER_S)
        rounds = min((now - self._grown_at) / round_s, 1.0)
        if self._starting:
            if outcome.latest_sent_at < self._grown_at:
                return  # sent before the rate grew last: says nothing about the rate of now
            self._slower = self.rate
            self.rate *= 2
        else:
            self.rate += rounds * self._packet_bytes / round_s
        self._grown_at = now
        self._bound()

    def _cut(self, outcome: Outcome, now: float) -> None:
        if self._starting and outcome.latest_sent_at < self._grown_at:
            self.rate = self._slower  # what is told of was sent before the rate grew last
        self._cut_at, self._starting = now, False
        self.cuts += 1
        self.rate *= self._config.decrease
        self._bound()

    def _bound(self) -> None:
        least = self._packet_bytes / self._path.round_s  # RFC 8085, 3.1.1: one packet a round trip
        self.rate = min(max(self.rate, least), self._config.max_rate)

    def _queue_s(self) -> tuple[float, float]:
        """How long packets wait on the way, and how long they may."""
        path, config = self._path, self._config
        jitter_s = JITTER_FACTOR * path.jitter_s
        bearable_s = max(config.delay, config.delay_fraction * path.least_s, jitter_s)
        return path.latest_s - path.least_s, bearable_s

    def _is_lossy(self, outcome: Outcome, now: float) -> bool:
        """Whether clearly more is lost than this path loses at its best."""
        self._arrived += outcome.arrived
        self._lost += outcome.lost
        count = self._arrived + self._lost
        if count < LOSS_SAMPLE:
            return False
        sample, lost = self._lost / count, self._lost
        self._arrived = self._lost = 0
        if self._loss is None:
            self._loss = sample
        floor = self._floors[0][1] if self._floors else sample
        self._loss += (sample - self._loss) * LOSS_MEMORY
        self._remember_floor(self._loss, now)
        deviation = math.sqrt(count * floor * (1 - floor))
        return lost > count * floor + LOSS_DEVIATIONS * deviation + LOSS_SLACK

    def _remember_floor(self, loss: float, now: float) -> None:
        remember_least(self._floors, loss, now, self._config.memory)


class Pacer:
    """Spends a rate evenly: a token bucket in bytes, kept as the instant at which it is empty of
    debt, so that the rate may change at any time."""

    __slots__ = ("_at", "burst_bytes")

    def __init__(self, burst_bytes: int, now: float) -> None:
        self.burst_bytes = burst_bytes
        self._at = now

    def ready_at(self, rate: float) -> float:
        """When the next packet may go."""
        return self._at - self.burst_bytes / rate

    def spend(self, size_bytes: int, rate: float, now: float) -> None:
        """A packet of so many bytes went."""
        self._at = (self._at if self._at > now else now) + size_bytes / rate
