"""What one path bears, as far as it is known: round trip, rate and size of packets, put together.

What must stay true:

- `room_bytes` and `window_bytes` follow from the mechanisms beneath and are put right whenever one of
  those learns something, for they are asked for at every packet.
- Of a path to elsewhere nothing is known.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.codec import DATA_OVERHEAD
from grapevine_proto.link.congestion import Aimd, Controller, Outcome, Pacer, RoundTrip
from grapevine_proto.link.pathmtu import BASE_BYTES, PathMtu
from grapevine_proto.sections import CongestionConfig

BURST_S: Final = 0.002  # what timers cannot tell apart


class Path:
    """`trip` is the round trip, `mtu` the size of datagrams; `room_bytes` of plaintext fit one packet,
    `window_bytes` may be on their way. `wants_larger`: something did not fit, so that it pays to look
    for more room. `was_limited`: the rate held us back since the last report."""

    __slots__ = (
        "_congestion",
        "_controller",
        "_least_burst_bytes",
        "_pacer",
        "mtu",
        "room_bytes",
        "trip",
        "wants_larger",
        "was_limited",
        "window_bytes",
    )

    def __init__(
        self, congestion: CongestionConfig, host: str, rtt_s: float | None, now: float
    ) -> None:
        self._congestion = congestion
        self.was_limited = False
        self.move(host, rtt_s, now)
        self.wants_larger = False

    def move(self, host: str, rtt_s: float | None, now: float) -> None:
        """The peer is elsewhere."""
        self.trip = RoundTrip(rtt_s, self._congestion.memory)
        self.mtu = PathMtu(host)
        self._controller: Controller = Aimd(self._congestion, self.trip, BASE_BYTES)
        self._pacer = Pacer(0, now)
        self.room_bytes = 0
        self._least_burst_bytes = 0
        self.wants_larger = True
        self._put_right()

    @property
    def rate(self) -> float:
        """Bytes a second that may go."""
        return self._controller.rate

    @property
    def rtt_s(self) -> float | None:
        """The round trip, smoothed; None: nothing has been measured."""
        return self.trip.smoothed_s if self.trip.is_measured else None

    def fresh_rtt_s(self, now: float) -> float | None:
        """The same, where data measured it lately."""
        return self.trip.smoothed_s if self.trip.is_fresh(now) else None

    def ready_at(self) -> float:
        """When the rate lets the next packet go."""
        return self._pacer.ready_at(self._controller.rate)

    def spend(self, size_bytes: int, now: float) -> None:
        """A packet of so many bytes went."""
        self._pacer.spend(size_bytes, self._controller.rate, now)

    # --- what is learned ------------------------------------------------------------------------

    def assume(self, rtt_s: float) -> None:
        """A handshake took so long, and nothing that was measured lately says more."""
        self.trip.assume(rtt_s)
        self.window_bytes = self._controller.window_bytes

    def refused(self, size_bytes: int, now: float) -> None:
        """The system would not send a datagram of this size."""
        self.mtu.refused(size_bytes, now)
        self._put_right()

    def reported(
        self, arrived: int, arrived_bytes: int, lost: int, latest_sent_at: float, now: float
    ) -> None:
        """The peer told of so many packets."""
        outcome = Outcome(arrived, arrived_bytes, lost, latest_sent_at, self.was_limited)
        self._controller.on_report(outcome, now)
        self.was_limited = False
        self._put_right()

    def heeded(self) -> None:
        """The round trip alone was measured anew."""
        self.window_bytes = self._controller.window_bytes

    def silent(self, now: float, *, is_new: bool) -> None:
        """Probe after probe is without answer: it may be the rate, or the size."""
        self._controller.on_silence(now)
        if is_new:
            self.mtu.went_silent()
        self._put_right()

    def _put_right(self) -> None:
        datagram_bytes, rate = self.mtu.datagram_bytes, self._controller.rate
        room_bytes = datagram_bytes - DATA_OVERHEAD
        if room_bytes != self.room_bytes:
            self.wants_larger |= room_bytes < self.room_bytes  # it fell back, and climbs again
            self.room_bytes = room_bytes
            self._least_burst_bytes = max(10 * BASE_BYTES, 2 * datagram_bytes)
            self._controller.on_packet_size(datagram_bytes)
        self._pacer.burst_bytes = max(self._least_burst_bytes, int(BURST_S * rate))
        self.window_bytes = self._controller.window_bytes
