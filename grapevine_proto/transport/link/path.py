"""What one path bears, as far as it is known: round trip, rate and size of packets, put together.

What must stay true:

- `room_bytes` and `window_bytes` follow from the mechanisms beneath and are put right whenever one of
  those learns something, for they are asked for at every packet.
- Of a path to elsewhere nothing is known.
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

PACING_BURST_S: Final = 0.002  # what timers cannot tell apart


class Path:
    """`rtt` is the round trip, `mtu` the size of datagrams; `room_bytes` of plaintext fit one packet,
    `window_bytes` may be on their way. `should_probe_mtu`: something did not fit, so that it pays to look
    for more room. `was_pacing_limited`: the rate held us back since the last report."""

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
        """The peer is elsewhere."""
        self.rtt = RttEstimator(rtt_s, self._congestion.min_rtt_window)
        self.mtu = MtuDiscovery(host)
        self._controller: CongestionController = Aimd(self._congestion, self.rtt, BASE_PLPMTU_BYTES)
        self._pacer = Pacer(0, now)
        self.plaintext_limit_bytes = 0
        self._min_burst_bytes = 0
        self.should_probe_mtu = True
        self._recompute()

    @property
    def rate(self) -> float:
        """Bytes a second that may go."""
        return self._controller.rate

    @property
    def rtt_s(self) -> float | None:
        """The round trip, smoothed; None: nothing has been measured."""
        return self.rtt.srtt_s if self.rtt.is_measured else None

    def recent_rtt_s(self, now: float) -> float | None:
        """The same, where data measured it lately."""
        return self.rtt.srtt_s if self.rtt.has_recent_sample(now) else None

    def ready_at(self) -> float:
        """When the rate lets the next packet go."""
        return self._pacer.ready_at(self._controller.rate)

    def spend(self, size_bytes: int, now: float) -> None:
        """A packet of so many bytes went."""
        self._pacer.spend(size_bytes, self._controller.rate, now)

    # --- what is learned ------------------------------------------------------------------------

    def use_handshake_rtt(self, rtt_s: float) -> None:
        """A handshake took so long, and nothing that was measured lately says more."""
        self.rtt.use_handshake_rtt(rtt_s)
        self.window_bytes = self._controller.window_bytes

    def on_emsgsize(self, size_bytes: int, now: float) -> None:
        """The system would not send a datagram of this size."""
        self.mtu.on_emsgsize(size_bytes, now)
        self._recompute()

    def on_ack(
        self, acked: int, acked_bytes: int, lost: int, latest_acked_sent_at: float, now: float
    ) -> None:
        """The peer told of so many packets."""
        summary = AckSummary(
            acked, acked_bytes, lost, latest_acked_sent_at, self.was_pacing_limited
        )
        self._controller.on_ack(summary, now)
        self.was_pacing_limited = False
        self._recompute()

    def on_rtt(self) -> None:
        """The round trip alone was measured anew."""
        self.window_bytes = self._controller.window_bytes

    def on_pto(self, now: float, *, is_first: bool) -> None:
        """Probe after probe is without answer: it may be the rate, or the size."""
        self._controller.on_pto(now)
        if is_first:
            self.mtu.on_pto()
        self._recompute()

    def _recompute(self) -> None:
        datagram_bytes, rate = self.mtu.datagram_bytes, self._controller.rate
        limit_bytes = datagram_bytes - DATA_OVERHEAD_BYTES
        if limit_bytes != self.plaintext_limit_bytes:
            self.should_probe_mtu |= (
                limit_bytes < self.plaintext_limit_bytes
            )  # it fell back, and climbs again
            self.plaintext_limit_bytes = limit_bytes
            self._min_burst_bytes = max(10 * BASE_PLPMTU_BYTES, 2 * datagram_bytes)
            self._controller.on_packet_size(datagram_bytes)
        self._pacer.burst_bytes = max(self._min_burst_bytes, int(PACING_BURST_S * rate))
        self.window_bytes = self._controller.window_bytes
