"""How large a datagram the path bears (RFC 8899, packetization layer path MTU discovery).

What must stay true:

- No datagram is larger than what has arrived as a probe, but for probes; 1,200 bytes need none.
- A probe that is lost says nothing about congestion. A size is given up after three, for ten
  minutes; at once where the system itself refuses it.
- Where large datagrams stop arriving while small ones may get through, it goes back to the base.
- Nobody probes but who has something that does not fit.
"""

from __future__ import annotations

import ipaddress
import math
from typing import Final

BASE_PLPMTU_BYTES: Final = 1200  # what crosses every path that carries IPv6 (RFC 8200, section 5)
PROBE_SIZES: Final = (
    1452,
    8952,
)  # Ethernet with a tunnel's header to spare; jumbo frames, likewise
LOOPBACK_PROBE_SIZES: Final = (
    8952,
    32_000,
    65_000,
)  # up to what one datagram of UDP over IPv4 holds
MAX_PROBES: Final = 3  # MAX_PROBES
PMTU_RAISE_TIMER_S: Final = 600.0  # PMTU_RAISE_TIMER
BLACK_HOLE_LOSSES: Final = 12  # in a row: at 30 % loss one in two million by chance
BLACK_HOLE_ACKS: Final = 3  # in a row that tell of nothing else


class MtuDiscovery:
    """The size of datagrams on one path."""

    __slots__ = (
        "_consecutive_losses",
        "_loss_only_acks",
        "_probe_count",
        "_probe_sizes",
        "_search_resumes_at",
        "_size_index",
        "datagram_bytes",
        "is_probing",
    )

    def __init__(self, host: str) -> None:
        self.datagram_bytes = BASE_PLPMTU_BYTES
        is_loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        self._probe_sizes = LOOPBACK_PROBE_SIZES if is_loopback else PROBE_SIZES
        self._size_index = 0  # the next of `_probe_sizes` to try
        self._probe_count = 0
        self.is_probing = False
        self._search_resumes_at = -math.inf
        self._consecutive_losses = self._loss_only_acks = 0

    def next_probe_size(self, now: float) -> int:
        """The size to try next; 0: none now."""
        if (
            self.is_probing
            or self._size_index == len(self._probe_sizes)
            or now < self._search_resumes_at
        ):
            return 0
        return self._probe_sizes[self._size_index]

    def on_probe_sent(self) -> None:
        self.is_probing = True

    def on_probe_acked(self, size_bytes: int) -> None:
        """The path bears it: send so large from now on, and try the next size."""
        self.is_probing = False
        if (
            self._size_index < len(self._probe_sizes)
            and self._probe_sizes[self._size_index] == size_bytes
        ):
            self.datagram_bytes = size_bytes
            self._size_index += 1
            self._probe_count = self._consecutive_losses = 0

    def on_probe_lost(self, now: float) -> None:
        self.is_probing = False
        self._probe_count += 1
        if self._probe_count >= MAX_PROBES:
            self._pause_search(now)

    def on_emsgsize(self, size_bytes: int, now: float) -> None:
        """The system does not send datagrams of this size (EMSGSIZE)."""
        if size_bytes <= self.datagram_bytes:
            self._reset_to_base()
        if (
            self._size_index < len(self._probe_sizes)
            and self._probe_sizes[self._size_index] >= size_bytes
        ):
            self._pause_search(now)

    def on_ack(self, acked: int, lost: int) -> None:
        """So many datagrams larger than the base arrived, and so many did not. A queue that
        overflows loses many in a row as well, but not in every report."""
        if acked:
            self._consecutive_losses = self._loss_only_acks = 0
        elif lost:
            self._consecutive_losses += lost
            self._loss_only_acks += 1
            if (
                self._consecutive_losses >= BLACK_HOLE_LOSSES
                and self._loss_only_acks >= BLACK_HOLE_ACKS
            ):
                self._reset_to_base()

    def on_pto(self) -> None:
        """Probe after probe is without answer: perhaps because all are too large."""
        self._reset_to_base()

    def _reset_to_base(self) -> None:
        """To what every path bears, and up again from there by the usual steps."""
        self.datagram_bytes = BASE_PLPMTU_BYTES
        self._size_index = self._probe_count = self._consecutive_losses = self._loss_only_acks = 0
        self.is_probing = False

    def _pause_search(self, now: float) -> None:
        self._probe_count = 0
        self._search_resumes_at = now + PMTU_RAISE_TIMER_S
