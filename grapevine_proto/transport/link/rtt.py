"""Round-trip time estimation of one path (RFC 6298; RFC 9002, section 5).

Invariants:

- Times are differences of this node's own clock; the clocks of two nodes are never compared.
- The minimum filter holds at most `MIN_FILTER_LIMIT` samples, whatever a peer makes them be.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.transport.session.ack_tracker import MIN_REORDER_WINDOW_S

INITIAL_RTT_S: Final = 0.1  # until measured: nearly the RTT of an intercontinental path
MIN_FILTER_LIMIT: Final = 64  # random samples leave about six


def update_windowed_min(
    samples: list[tuple[float, float]], value: float, now: float, window_s: float
) -> None:
    """Adds `value` to a windowed minimum filter: afterwards `samples[0]` is (time, minimum) of the last
    `window_s` seconds.

    Ever larger values all stay in the filter, and a peer can cause them. Beyond `MIN_FILTER_LIMIT` the new
    sample replaces the one before it.
    """
    while samples and samples[-1][1] >= value:
        samples.pop()
    if len(samples) >= MIN_FILTER_LIMIT:
        samples.pop()
    samples.append((now, value))
    while samples[0][0] < now - window_s:
        del samples[0]


class RttEstimator:
    """Smoothed RTT, RTT variation, jitter and windowed minimum RTT of one path, in seconds."""

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
        self.jitter_s = 0.0  # between consecutive samples (RFC 3550, section 6.4.1)
        self._min_window_s = min_window_s
        self._last_sample_at = -math.inf
        self._min_samples: list[tuple[float, float]] = []  # (time, RTT), both ascending

    def on_sample(self, sample_s: float, now: float) -> None:
        """Takes the RTT sample of an acknowledged packet (RFC 6298, section 2)."""
        sample_s = max(sample_s, 1e-6)
        self._last_sample_at = now
        if self._min_samples:
            self.jitter_s += (abs(sample_s - self.latest_rtt_s) - self.jitter_s) / 16
        self.previous_rtt_s, self.latest_rtt_s = self.latest_rtt_s, sample_s
        if self.is_measured and self._min_samples:
            self.rttvar_s += (abs(self.srtt_s - sample_s) - self.rttvar_s) / 4
            self.srtt_s += (sample_s - self.srtt_s) / 8
        else:  # discard the handshake's estimate, which includes signature checks
            self.srtt_s, self.rttvar_s = sample_s, sample_s / 2
            self.is_measured = True
        update_windowed_min(self._min_samples, sample_s, now, self._min_window_s)

    def on_heartbeat_sample(self, sample_s: float, now: float) -> bool:
        """Takes the RTT sample of a heartbeat, for want of recent samples from data. Returns whether it did.

        An idle link has a heartbeat every few seconds, so half of a smaller sample counts: what the load of
        a start or a burst has measured must not hold up the first retransmission of the next message."""
        if now - self._last_sample_at < self._min_window_s:
            return False
        is_less = sample_s < self.srtt_s
        self.srtt_s += (max(sample_s, 1e-6) - self.srtt_s) / (2 if is_less else 8)
        self.rttvar_s += (abs(self.srtt_s - sample_s) - self.rttvar_s) / 4
        self.rttvar_s = min(self.rttvar_s, self.srtt_s)
        self.is_measured = True
        return True

    def use_handshake_rtt(self, rtt_s: float) -> None:
        """Uses the RTT of a handshake, for want of recent samples from data."""
        self.srtt_s, self.rttvar_s, self.is_measured = rtt_s, rtt_s / 2, True

    def has_recent_sample(self, now: float) -> bool:
        """Whether data measured the RTT within three minimum windows."""
        return bool(self._min_samples) and now - self._last_sample_at < 3 * self._min_window_s

    @property
    def min_rtt_s(self) -> float:
        return self._min_samples[0][1] if self._min_samples else self.srtt_s

    @property
    def reorder_window_s(self) -> float:
        """How long a packet may be late behind others before it counts as lost (RFC 8985)."""
        return max(self.srtt_s / 4, MIN_REORDER_WINDOW_S)

    @property
    def ack_interval_s(self) -> float:
        """ACK interval: one RTT, at least `MIN_REORDER_WINDOW_S`, so loopback links do not ACK constantly."""
        return max(self.srtt_s, MIN_REORDER_WINDOW_S)

    @property
    def pto_s(self) -> float:
        """Probe timeout: silence after which a packet, or its ACK, counts as lost (RFC 8985, 7.2)."""
        return 2 * self.srtt_s + 4 * self.rttvar_s + 2 * self.reorder_window_s
