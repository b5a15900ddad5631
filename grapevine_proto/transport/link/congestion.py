"""Congestion control and pacing of one link (RFC 9002, section 7; RFC 8085).

Invariants:

- The rate decreases only on congestion: a queue that builds up on the path, or loss clearly above the
  path's usual loss. Random loss costs retransmissions, not rate.
- The rate decreases at most once per RTT, for packets sent since the last decrease. It increases only
  while the rate, not the application, limits sending.
- Times are differences of this node's own clock; the clocks of two nodes are never compared.

To add a controller, implement `CongestionController`. docs/reference/protocol.md lists the parameters, which
are fields of `CongestionConfig`.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from grapevine_proto.config.sections import CongestionConfig
from grapevine_proto.transport.link.rtt import RttEstimator, update_windowed_min
from grapevine_proto.transport.session.ack_tracker import MIN_REORDER_WINDOW_S

MIN_INITIAL_RTT_S: Final = 0.001  # a handshake takes at least this long, for its signature checks
JITTER_TOLERANCE_FACTOR: Final = 3.0  # below this multiple, delay may be jitter, not a queue
LONG_QUEUE_FACTOR: Final = 2.0  # times the tolerated queue delay
LOSS_SAMPLE_PACKETS: Final = 32  # fewer packets give no usable loss rate
LOSS_DEVIATIONS: Final = 4.0  # exceeded by chance in one ACK of ten thousand
LOSS_SLACK_PACKETS: Final = 2.0  # on top of the deviations
LOSS_EWMA_WEIGHT: Final = 1 / 16  # weight of one sample in the average
ROUNDS_IN_FLIGHT: Final = 3.0  # in flight, waiting for the ACK to be due, ACK in flight


class AckSummary(NamedTuple):
    """The effect of one received ACK on the packets in flight.

    `acked` and `lost` count packets newly acknowledged or declared lost. `latest_acked_sent_at` is when the
    latest acknowledged packet was sent. `was_pacing_limited` is whether the rate limited sending meanwhile.
    """

    acked: int
    acked_bytes: int
    lost: int
    latest_acked_sent_at: float
    was_pacing_limited: bool


class CongestionController(Protocol):
    """Decides how fast a link may send."""

    rate: float
    """Bytes per second."""

    def on_ack(self, summary: AckSummary, now: float) -> None:
        """The peer acknowledged packets. The RTT estimate already includes this ACK."""
        ...

    def on_pto(self, now: float) -> None:
        """A PTO probe expired unanswered."""
        ...

    def on_packet_size(self, packet_bytes: int) -> None:
        """The packet size changed to `packet_bytes` (path MTU discovery)."""
        ...

    @property
    def window_bytes(self) -> float:
        """Maximum bytes in flight."""
        ...


class Aimd:
    """Additive increase, multiplicative decrease (Chiu and Jain 1989), on congestion only."""

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
        self._acked = self._lost = 0  # since the last loss sample
        self._loss_average: float | None = None
        self._loss_floor_samples: list[
            tuple[float, float]
        ] = []  # windowed minimum of `_loss_average`
        self.decreases = 0
        self._rate_before_doubling = 0.0
        self.rate = config.initial_packets * packet_bytes / max(rtt.srtt_s, MIN_INITIAL_RTT_S)

    def on_ack(self, summary: AckSummary, now: float) -> None:
        is_lossy = self._is_loss_excessive(summary, now)
        queue_s, max_queue_s = self._queue_delay_s()
        is_draining = self._rtt.latest_rtt_s < self._rtt.previous_rtt_s  # the last decrease works
        if is_lossy or (queue_s > max_queue_s and not is_draining):
            # Give a short queue one RTT to drain; a long one must shrink now.
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
                return  # sent before the last increase: proves nothing about the current rate
            self._rate_before_doubling = self.rate
            self.rate *= 2
        else:
            self.rate += rounds * self._packet_bytes / rtt_s
        self._increased_at = now
        self._clamp_rate()

    def _decrease(self, summary: AckSummary, now: float) -> None:
        if self._in_slow_start and summary.latest_acked_sent_at < self._increased_at:
            self.rate = self._rate_before_doubling  # the lost packets were sent at this rate
        self._decreased_at, self._in_slow_start = now, False
        self.decreases += 1
        self.rate *= self._config.decrease_factor
        self._clamp_rate()

    def _clamp_rate(self) -> None:
        # one packet per RTT (RFC 8085, section 3.1.1)
        min_rate = self._packet_bytes / self._rtt.ack_interval_s
        self.rate = min(max(self.rate, min_rate), self._config.max_rate)

    def _queue_delay_s(self) -> tuple[float, float]:
        """Returns the current queue delay of the path and the tolerated one, in seconds."""
        rtt, config = self._rtt, self._config
        jitter_s = JITTER_TOLERANCE_FACTOR * rtt.jitter_s
        max_queue_s = max(
            config.max_queue_delay, config.max_queue_delay_fraction * rtt.min_rtt_s, jitter_s
        )
        return rtt.latest_rtt_s - rtt.min_rtt_s, max_queue_s

    def _is_loss_excessive(self, summary: AckSummary, now: float) -> bool:
        """Whether loss clearly exceeds the lowest recent loss of this path."""
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
    """Paces packets at a rate: a token bucket in bytes (RFC 9002, section 7.7).

    It stores only the instant at which everything sent is paid for, so the rate may change at any time.
    """

    __slots__ = ("_debt_free_at", "burst_bytes")

    def __init__(self, burst_bytes: int, now: float) -> None:
        self.burst_bytes = burst_bytes
        self._debt_free_at = now

    def set_burst(self, burst_bytes: int) -> None:
        """From now on at most `burst_bytes` bytes go at once."""
        self.burst_bytes = burst_bytes

    def ready_at(self, rate: float) -> float:
        """When the next packet may be sent at `rate` bytes per second."""
        return self._debt_free_at - self.burst_bytes / rate

    def spend(self, size_bytes: int, rate: float, now: float) -> None:
        """Charges a sent packet of `size_bytes` bytes."""
        self._debt_free_at = (
            self._debt_free_at if self._debt_free_at > now else now
        ) + size_bytes / rate
