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

BASE_BYTES: Final = 1200  # what crosses every path that carries IPv6 (RFC 8200, section 5)
STEPS: Final = (1452, 8952)  # Ethernet with a tunnel's header to spare; jumbo frames, likewise
LOOPBACK_STEPS: Final = (8952, 32_000, 65_000)  # up to what one datagram of UDP over IPv4 holds
PROBES: Final = 3  # MAX_PROBES
RAISE_AFTER_S: Final = 600.0  # PMTU_RAISE_TIMER
BLACK_HOLE_LOSSES: Final = 12  # in a row: at 30 % loss one in two million by chance
BLACK_HOLE_REPORTS: Final = 3  # in a row that tell of nothing else


class PathMtu:
    """The size of datagrams on one path."""

    __slots__ = (
        "_fruitless",
        "_lost_in_a_row",
        "_resume_at",
        "_step",
        "_steps",
        "_tries",
        "datagram_bytes",
        "is_probing",
    )

    def __init__(self, host: str) -> None:
        self.datagram_bytes = BASE_BYTES
        is_loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        self._steps = LOOPBACK_STEPS if is_loopback else STEPS
        self._step = 0  # the next of `_steps` to try
        self._tries = 0
        self.is_probing = False
        self._resume_at = -math.inf
        self._lost_in_a_row = self._fruitless = 0

    def probe_due(self, now: float) -> int:
        """The size to try next; 0: none now."""
        if self.is_probing or self._step == len(self._steps) or now < self._resume_at:
            return 0
        return self._steps[self._step]

    def probe_sent(self) -> None:
        self.is_probing = True

    def probe_arrived(self, size_bytes: int) -> None:
        """The path bears it: send so large from now on, and try the next size."""
        self.is_probing = False
        if self._step < len(self._steps) and self._steps[self._step] == size_bytes:
            self.datagram_bytes = size_bytes
            self._step += 1
            self._tries = self._lost_in_a_row = 0

    def probe_lost(self, now: float) -> None:
        self.is_probing = False
        self._tries += 1
        if self._tries >= PROBES:
            self._pause(now)

    def refused(self, size_bytes: int, now: float) -> None:
        """The system does not send datagrams of this size (EMSGSIZE)."""
        if size_bytes <= self.datagram_bytes:
            self._fall_back()
        if self._step < len(self._steps) and self._steps[self._step] >= size_bytes:
            self._pause(now)

    def reported(self, arrived: int, lost: int) -> None:
        """So many datagrams larger than the base arrived, and so many did not. A queue that
        overflows loses many in a row as well, but not in every report."""
        if arrived:
            self._lost_in_a_row = self._fruitless = 0
        elif lost:
            self._lost_in_a_row += lost
            self._fruitless += 1
            if self._lost_in_a_row >= BLACK_HOLE_LOSSES and self._fruitless >= BLACK_HOLE_REPORTS:
                self._fall_back()

    def went_silent(self) -> None:
        """Probe after probe is without answer: perhaps because all are too large."""
        self._fall_back()

    def _fall_back(self) -> None:
        """To what every path bears, and up again from there by the usual steps."""
        self.datagram_bytes = BASE_BYTES
        self._step = self._tries = self._lost_in_a_row = self._fruitless = 0
        self.is_probing = False

    def _pause(self, now: float) -> None:
        self._tries = 0
        self._resume_at = now + RAISE_AFTER_S
