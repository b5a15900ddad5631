"""Packetization layer path MTU discovery (RFC 8899).

Invariants:

- No datagram but a probe is larger than the largest acknowledged probe; 1,200 bytes need no probe.
- A lost probe does not count as congestion. After `MAX_PROBES` losses, or at once if the system refuses the
  size, the search pauses for ten minutes.
- On a black hole (large datagrams vanish, small ones may arrive) the size returns to the base.
- A node probes only if it has messages that do not fit one datagram.
"""

from __future__ import annotations

import ipaddress
import math
from typing import Final

from grapevine_proto.ids import Address

BASE_PLPMTU_BYTES: Final = 1200  # every IPv6 path carries it (RFC 8200, section 5)
RELAYED_DATAGRAM_BYTES: Final = 1120  # inside a datagram of the base size
# Ethernet and jumbo frames, each with room for a tunnel header
PROBE_SIZES: Final = (1452, 8952)
# up to the largest UDP datagram over IPv4
LOOPBACK_PROBE_SIZES: Final = (8952, 32_000, 65_000)
MAX_PROBES: Final = 3  # per size (RFC 8899, section 5.1.2)
PMTU_RAISE_TIMER_S: Final = 600.0  # RFC 8899, section 5.1.1
BLACK_HOLE_LOSSES: Final = 12  # consecutive: by chance once in two million at 30 % loss
BLACK_HOLE_ACKS: Final = 3  # consecutive ACKs that report only losses of large datagrams


class MtuDiscovery:
    """Discovers the datagram size of the path to `host`, an IP address."""

    __slots__ = (
        "_base_bytes",
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
        is_relayed = Address(host, 0).is_via_relay
        self._base_bytes = RELAYED_DATAGRAM_BYTES if is_relayed else BASE_PLPMTU_BYTES
        self.datagram_bytes = self._base_bytes
        is_loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        probe_sizes = LOOPBACK_PROBE_SIZES if is_loopback else PROBE_SIZES
        self._probe_sizes: tuple[int, ...] = () if is_relayed else probe_sizes
        self._size_index = 0  # index in `_probe_sizes` of the next probe
        self._probe_count = 0
        self.is_probing = False
        self._search_resumes_at = -math.inf
        self._consecutive_losses = self._loss_only_acks = 0

    def next_probe_size(self, now: float) -> int:
        """Returns the size of the probe to send now; 0: none."""
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
        """A probe of `size_bytes` arrived: uses that size from now on and continues with the next one."""
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
        """The operating system refused to send a datagram of `size_bytes` bytes (EMSGSIZE)."""
        if size_bytes <= self.datagram_bytes:
            self._reset_to_base()
        if (
            self._size_index < len(self._probe_sizes)
            and self._probe_sizes[self._size_index] >= size_bytes
        ):
            self._pause_search(now)

    def on_ack(self, acked: int, lost: int) -> None:
        """Detects a black hole: `acked` datagrams above the base size arrived and `lost` did not.

        A queue overflow also loses many in a row, but not in every ACK.
        """
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
        """Consecutive PTO probes expired, perhaps because the datagrams are too large."""
        self._reset_to_base()

    def _reset_to_base(self) -> None:
        """Returns to the base size and restarts the search."""
        self.datagram_bytes = self._base_bytes
        self._size_index = self._probe_count = self._consecutive_losses = self._loss_only_acks = 0
        self.is_probing = False

    def _pause_search(self, now: float) -> None:
        self._probe_count = 0
        self._search_resumes_at = now + PMTU_RAISE_TIMER_S
