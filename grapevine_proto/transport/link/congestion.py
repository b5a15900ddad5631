"""How fast a link may send: round-trip time, rate, pacing.

What must stay true:

- The rate falls on *congestion* only: a queue that builds up on the path, or loss clearly above what
  this path loses anyway. Random loss costs repair, not rate.
- It falls at most once a round trip, for what was sent since it fell last; it grows only while it
  is what holds us back.
- No clock is shared: all times are differences of our own.

Another controller is one class with the four notices of `CongestionController`. The figures are those of
docs/reference/protocol.md; each is a field of `CongestionConfig`, with its reason.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from grapevine_proto.config.sections import CongestionConfig
from grapevine_proto.transport.session.ack_tracker import MIN_REORDER_WINDOW_S

INITIAL_RTT_S: Final = 0.1  # until measured: halfway round the world, nearly
MIN_INITIAL_RTT_S: Final = 0.001  # what a handshake takes at the least: it holds signature checks
JITTER_TOLERANCE_FACTOR: Final = 3.0  # a path that varies so much by itself is no queue building up
LONG_QUEUE_FACTOR: Final = 2.0  # times what is bearable
LOSS_SAMPLE_PACKETS: Final = 32  # packets: fewer say nothing about a rate of loss
LOSS_DEVIATIONS: Final = 4.0  # how surprising a loss must be: one report in ten thousand by chance
LOSS_SLACK_PACKETS: Final = 2.0  # packets besides
MIN_FILTER_LIMIT: Final = 64  # of ascending values, where chance makes half a dozen
LOSS_EWMA_WEIGHT: Final = 1 / 16  # weight of a sample in the slow average
ROUNDS_IN_FLIGHT: Final = 3.0  # one on the way, one for the report to be due, one for it to come


def update_windowed_min(
    samples: list[tuple[float, float]], value: float, now: float, window_s: float
) -> None:
    """Add `value` to those of which the first is the least of the last `memory_s`. A peer that makes
    each value larger than the one before could make them many: beyond `MIN_FILTER_LIMIT` the newest takes
    the place of the one before it."""
    while samples and samples[-1][1] >= value:
        samples.pop()
    if len(samples) >= MIN_FILTER_LIMIT:
        samples.pop()
    samples.append((now, value))
    while samples[0][0] < now - window_s:
        del samples[0]


class RttEstimator:
    """The round-trip time of a path: smoothed, its variation, and the least of the last seconds."""

    __slots__ = (
        "_last_sample_at",
        "_min_samples",
        "_min_window_s",
        "is_measured",
        "jitter_s",
        "latest_rtt_s",
        "previous_rtt_s",
        "rttvar_s",
        "srtt_s",
    )

    def __init__(self, rtt_s: float | None, min_window_s: float) -> None:
        self.is_measured = rtt_s is not None
        self.srtt_s = INITIAL_RTT_S if rtt_s is None else rtt_s
        self.rttvar_s = self.srtt_s / 2
        self.latest_rtt_s = self.previous_rtt_s = self.srtt_s
        self.jitter_s = 0.0  # from one sample to the next, as RFC 3550 has it
        self._min_window_s = min_window_s
        self._last_sample_at = -math.inf
        self._min_samples: list[tuple[float, float]] = []  # (when, what), both ascending: a few

    def on_sample(self, sample_s: float, now: float) -> None:
        """A packet and the answer to it took so long (RFC 6298, section 2)."""
        sample_s = max(sample_s, 1e-6)
        self._last_sample_at = now
        if self._min_samples:
            self.jitter_s += (abs(sample_s - self.latest_rtt_s) - self.jitter_s) / 16
        self.previous_rtt_s, self.latest_rtt_s = self.latest_rtt_s, sample_s
        if self.is_measured and self._min_samples:
            self.rttvar_s += (abs(self.srtt_s - sample_s) - self.rttvar_s) / 4
            self.srtt_s += (sample_s - self.srtt_s) / 8
        else:  # a handshake's figure holds signature checks too: better forgotten
            self.srtt_s, self.rttvar_s = sample_s, sample_s / 2
            self.is_measured = True
        update_windowed_min(self._min_samples, sample_s, now, self._min_window_s)

    def use_handshake_rtt(self, rtt_s: float) -> None:
        """A handshake took so long; nothing has been measured lately that says more."""
        self.srtt_s, self.rttvar_s, self.is_measured = rtt_s, rtt_s / 2, True

    def has_recent_sample(self, now: float) -> bool:
        """Whether data measured it within memory."""
        return bool(self._min_samples) and now - self._last_sample_at < 3 * self._min_window_s

    @property
    def min_rtt_s(self) -> float:
        return self._min_samples[0][1] if self._min_samples else self.srtt_s

    @property
    def reorder_window_s(self) -> float:
        """How long one packet may be overtaken by others before it counts as lost."""
        return max(self.srtt_s / 4, MIN_REORDER_WINDOW_S)

    @property
    def ack_interval_s(self) -> float:
        """How often reports come: once a round trip, but not in the rhythm of loopback."""
        return max(self.srtt_s, MIN_REORDER_WINDOW_S)

    @property
    def pto_s(self) -> float:
        """After how much silence a packet, or the report of it, is taken for lost (RFC 8985, 7.2)."""
        return 2 * self.srtt_s + 4 * self.rttvar_s + 2 * self.reorder_window_s


class AckSummary(NamedTuple):
    """What one report told of: how many packets arrived, their bytes, how many were lost; when the
    latest that arrived was sent; whether the rate held us back meanwhile."""

    acked: int
    acked_bytes: int
    lost: int
    latest_acked_sent_at: float
    was_pacing_limited: bool


class CongestionController(Protocol):
    """What decides how fast a link may send."""

    rate: float
    """Bytes a second."""

    def on_ack(self, summary: AckSummary, now: float) -> None:
        """A report of the peer came; the round-trip time is up to date."""
        ...

    def on_pto(self, now: float) -> None:
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
        "_acked",
        "_config",
        "_decreased_at",
        "_in_slow_start",
        "_increased_at",
        "_loss_average",
        "_loss_floor_samples",
        "_lost",
        "_packet_bytes",
        "_rate_before_doubling",
        "_rtt",
        "decreases",
        "rate",
    )

    def __init__(self, config: CongestionConfig, rtt: RttEstimator, packet_bytes: int) -> None:
        self._config = config
        self._rtt = rtt
        self._packet_bytes = packet_bytes
        self._in_slow_start = True
        self._decreased_at = self._increased_at = -math.inf
        self._acked = self._lost = 0  # since the last sample of loss
        self._loss_average: float | None = None  # the slow average of it
        self._loss_floor_samples: list[
            tuple[float, float]
        ] = []  # of that, as RoundTrip keeps its least
        self.decreases = 0
        self._rate_before_doubling = 0.0
        self.rate = config.initial_packets * packet_bytes / max(rtt.srtt_s, MIN_INITIAL_RTT_S)

    def on_ack(self, summary: AckSummary, now: float) -> None:
        is_lossy = self._is_loss_excessive(summary, now)
        queue_s, max_queue_s = self._queue_delay_s()
        is_draining = (
            self._rtt.latest_rtt_s < self._rtt.previous_rtt_s
        )  # what we did about it works
        if is_lossy or (queue_s > max_queue_s and not is_draining):
            # A queue that is merely there had no time yet to shrink; one that is long has to.
            is_long = is_lossy or queue_s > LONG_QUEUE_FACTOR * max_queue_s
            grace_s = 0.0 if is_long else self._rtt.min_rtt_s
            if summary.latest_acked_sent_at > self._decreased_at + grace_s:
                self._decrease(summary, now)
        elif summary.was_pacing_limited and queue_s <= max_queue_s:
            self._increase(summary, now)

    def on_pto(self, now: float) -> None:
        self._decreased_at, self._in_slow_start = now, False
        self.rate *= 0.5
        self._clamp_rate()

    def on_packet_size(self, packet_bytes: int) -> None:
        self._packet_bytes = packet_bytes
        self._clamp_rate()

    @property
    def window_bytes(self) -> float:
        rtt, initial_bytes = self._rtt, self._config.initial_packets * self._packet_bytes
        window = ROUNDS_IN_FLIGHT * self.rate * (rtt.ack_interval_s + rtt.reorder_window_s)
        return min(max(window, 2 * initial_bytes), self._config.in_flight_bytes)

    def _increase(self, summary: AckSummary, now: float) -> None:
        rtt_s = max(self._rtt.latest_rtt_s, MIN_REORDER_WINDOW_S)
        rounds = min((now - self._increased_at) / rtt_s, 1.0)
        if self._in_slow_start:
            if summary.latest_acked_sent_at < self._increased_at:
                return  # sent before the rate grew last: says nothing about the rate of now
            self._rate_before_doubling = self.rate
            self.rate *= 2
        else:
            self.rate += rounds * self._packet_bytes / rtt_s
        self._increased_at = now
        self._clamp_rate()

    def _decrease(self, summary: AckSummary, now: float) -> None:
        if self._in_slow_start and summary.latest_acked_sent_at < self._increased_at:
            self.rate = (
                self._rate_before_doubling
            )  # what is told of was sent before the rate grew last
        self._decreased_at, self._in_slow_start = now, False
        self.decreases += 1
        self.rate *= self._config.decrease_factor
        self._clamp_rate()

    def _clamp_rate(self) -> None:
        min_rate = (
            self._packet_bytes / self._rtt.ack_interval_s
        )  # RFC 8085, 3.1.1: one packet a round trip
        self.rate = min(max(self.rate, min_rate), self._config.max_rate)

    def _queue_delay_s(self) -> tuple[float, float]:
        """How long packets wait on the way, and how long they may."""
        rtt, config = self._rtt, self._config
        jitter_s = JITTER_TOLERANCE_FACTOR * rtt.jitter_s
        max_queue_s = max(
            config.max_queue_delay, config.max_queue_delay_fraction * rtt.min_rtt_s, jitter_s
        )
        return rtt.latest_rtt_s - rtt.min_rtt_s, max_queue_s

    def _is_loss_excessive(self, summary: AckSummary, now: float) -> bool:
        """Whether clearly more is lost than this path loses at its best."""
        self._acked += summary.acked
        self._lost += summary.lost
        count = self._acked + self._lost
        if count < LOSS_SAMPLE_PACKETS:
            return False
        sample, lost = self._lost / count, self._lost
        self._acked = self._lost = 0
        if self._loss_average is None:
            self._loss_average = sample
        floor = self._loss_floor_samples[0][1] if self._loss_floor_samples else sample
        self._loss_average += (sample - self._loss_average) * LOSS_EWMA_WEIGHT
        self._update_loss_floor(self._loss_average, now)
        deviation = math.sqrt(count * floor * (1 - floor))
        return lost > count * floor + LOSS_DEVIATIONS * deviation + LOSS_SLACK_PACKETS

    def _update_loss_floor(self, loss: float, now: float) -> None:
        update_windowed_min(self._loss_floor_samples, loss, now, self._config.min_rtt_window)


class Pacer:
    """Spends a rate evenly: a token bucket in bytes, kept as the instant at which it is empty of
    debt, so that the rate may change at any time."""

    __slots__ = ("_debt_free_at", "burst_bytes")

    def __init__(self, burst_bytes: int, now: float) -> None:
        self.burst_bytes = burst_bytes
        self._debt_free_at = now

    def ready_at(self, rate: float) -> float:
        """When the next packet may go."""
        return self._debt_free_at - self.burst_bytes / rate

    def spend(self, size_bytes: int, rate: float, now: float) -> None:
        """A packet of so many bytes went."""
        self._debt_free_at = (
            self._debt_free_at if self._debt_free_at > now else now
        ) + size_bytes / rate
