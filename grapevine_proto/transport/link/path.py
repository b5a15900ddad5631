"""State of the network path to one peer: RTT, congestion control, pacing and path MTU (RFC 9000, section 9).

Invariants:

- `plaintext_limit_bytes` and `window_bytes` are cached, because every packet reads them, and are recomputed
  whenever a component below changes.
- A new path inherits nothing from the old one (RFC 9000, section 9.4).
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.config.sections import CongestionConfig
from grapevine_proto.transport.link.congestion import (
    AckSummary,
    Aimd,
    CongestionController,
    Pacer,
)
from grapevine_proto.transport.link.mtud import BASE_PLPMTU_BYTES, MtuDiscovery
from grapevine_proto.transport.link.rtt import RttEstimator
from grapevine_proto.wire.codec import DATA_OVERHEAD_BYTES

PACING_BURST_S: Final = 0.002  # below the resolution of event loop timers


class Path:
    """The path to one peer.

    `rtt` estimates the round-trip time, `mtu` discovers the datagram size. `plaintext_limit_bytes` fit one
    packet; `window_bytes` may be in flight. `should_probe_mtu` is whether a message did not fit one packet,
    so that a larger MTU pays. `was_pacing_limited` is whether the rate limited sending since the last ACK.
    """

    __slots__ = (
        "_congestion",
        "_controller",
        "_min_burst_bytes",
        "_pacer",
        "mtu",
        "plaintext_limit_bytes",
        "rtt",
        "should_probe_mtu",
        "was_pacing_limited",
        "window_bytes",
    )

    def __init__(
        self, congestion: CongestionConfig, host: str, rtt_s: float | None, now: float
    ) -> None:
        self._congestion = congestion
        self.was_pacing_limited = False
        self.reset(host, rtt_s, now)
        self.should_probe_mtu = False

    def reset(self, host: str, rtt_s: float | None, now: float) -> None:
        """Starts over for a path to `host`: the peer has moved. `rtt_s` is the RTT of its handshake, if
        known."""
        self.rtt = RttEstimator(rtt_s, self._congestion.min_rtt_window)
        self.mtu = MtuDiscovery(host)
        self._controller: CongestionController = Aimd(self._congestion, self.rtt, BASE_PLPMTU_BYTES)
        self._pacer = Pacer(0, now)
        self.plaintext_limit_bytes = 0
        self._min_burst_bytes = 0
        self.should_probe_mtu = True
        self._recompute()

    def request_mtu_probe(self) -> None:
        """A message did not fit one packet: a larger MTU pays."""
        self.should_probe_mtu = True

    def next_mtu_probe(self, now: float) -> int:
        """Returns the size of the MTU probe to send now, in bytes; 0: none."""
        size_bytes = self.mtu.next_probe_size(now)
        if not size_bytes:
            self.should_probe_mtu = self.mtu.is_probing
        return size_bytes

    def on_pacing_limited(self) -> None:
        """The rate kept a packet from being sent now."""
        self.was_pacing_limited = True

    @property
    def rate(self) -> float:
        """Permitted bytes per second."""
        return self._controller.rate

    @property
    def rtt_s(self) -> float | None:
        """Smoothed RTT in seconds; None until measured."""
        return self.rtt.srtt_s if self.rtt.is_measured else None

    def recent_rtt_s(self, now: float) -> float | None:
        """Smoothed RTT in seconds; None unless data measured it recently."""
        return self.rtt.srtt_s if self.rtt.has_recent_sample(now) else None

    def ready_at(self) -> float:
        """When the pacer permits the next packet."""
        return self._pacer.ready_at(self._controller.rate)

    def spend(self, size_bytes: int, now: float) -> None:
        """Charges a sent packet of `size_bytes` bytes to the pacer."""
        self._pacer.spend(size_bytes, self._controller.rate, now)

    # --- measurements ---------------------------------------------------------------------------

    def use_handshake_rtt(self, rtt_s: float) -> None:
        """Uses the RTT of a handshake, for want of recent samples from data."""
        self.rtt.use_handshake_rtt(rtt_s)
        self.window_bytes = self._controller.window_bytes

    def on_heartbeat_rtt(self, sample_s: float, now: float) -> bool:
        """A heartbeat measured the RTT. Returns whether that changed the estimate."""
        if not self.rtt.on_heartbeat_sample(sample_s, now):
            return False
        self.window_bytes = self._controller.window_bytes
        return True

    def on_emsgsize(self, size_bytes: int, now: float) -> None:
        """The operating system refused to send a datagram of `size_bytes` bytes (EMSGSIZE)."""
        self.mtu.on_emsgsize(size_bytes, now)
        self._recompute()

    def on_ack(
        self, acked: int, acked_bytes: int, lost: int, latest_acked_sent_at: float, now: float
    ) -> None:
        """Reports the packets that one ACK resolved to the congestion controller."""
        summary = AckSummary(
            acked, acked_bytes, lost, latest_acked_sent_at, self.was_pacing_limited
        )
        self._controller.on_ack(summary, now)
        self.was_pacing_limited = False
        self._recompute()

    def on_rtt(self) -> None:
        """Updates what depends on the RTT, after an ACK that resolved no packet."""
        self.window_bytes = self._controller.window_bytes

    def on_pto(self, now: float, *, is_first: bool) -> None:
        """Consecutive PTO probes expired: lowers the rate, and at first also the datagram size."""
        self._controller.on_pto(now)
        if is_first:
            self.mtu.on_pto()
        self._recompute()

    def _recompute(self) -> None:
        datagram_bytes = self.mtu.datagram_bytes
        limit_bytes = datagram_bytes - DATA_OVERHEAD_BYTES
        if limit_bytes != self.plaintext_limit_bytes:
            # after a fallback to the base size, probe for the larger one again
            self.should_probe_mtu |= limit_bytes < self.plaintext_limit_bytes
            self.plaintext_limit_bytes = limit_bytes
            self._min_burst_bytes = max(10 * BASE_PLPMTU_BYTES, 2 * datagram_bytes)
            self._controller.on_packet_size(datagram_bytes)
        paced_bytes = int(PACING_BURST_S * self.rate)
        self._pacer.set_burst(max(self._min_burst_bytes, paced_bytes))
        self.window_bytes = self._controller.window_bytes
