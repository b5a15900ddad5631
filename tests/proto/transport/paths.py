"""Pairs of links and the paths between them: rate, queue, delay and loss, under virtual time.

Invariants: links are driven as by the engine, only by `transmit` at `deadline`; a path is first in, first
out, except for losses; all randomness comes from the seed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

from grapevine_proto.config.sections import CongestionConfig, LimitsConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.session.session import EstablishedSession, Session
from grapevine_proto.wire.codec import Data, decode_packet
from tests.proto.transport.ends import EMPTY, KEY, End

ADA = End("ada", Address("192.0.2.1", 1000))
BOB = End("bob", Address("192.0.2.2", 2000))
UDP_BYTES = 28  # of IP and UDP headers

_numbers = itertools.count(1)


class OneWayPath:
    """One direction of a path. `rate` in bytes per second (0: unlimited), `delay_s` is its latency."""

    def __init__(
        self,
        *,
        rate: float = 0.0,
        queue_bytes: int = 64 * 1024,
        delay_s: float = 0.025,
        loss: float = 0.0,
        mtu_bytes: int = 1472,
        seed: int = 1,
    ) -> None:
        self.rate, self.queue_bytes, self.delay_s = rate, queue_bytes, delay_s
        self.loss, self.mtu_bytes = loss, mtu_bytes
        self.rng = random.Random(seed)
        self.drops: Callable[[bytes, float], bool] = lambda datagram, now: False
        self.busy_until = 0.0
        self.carried_bytes = self.overflowed = self.entered = 0

    def arrival(self, datagram: bytes, now: float) -> float:
        """Returns when `datagram` arrives at the other end; math.inf: never."""
        self.entered += 1
        size_bytes = len(datagram) + UDP_BYTES
        if len(datagram) > self.mtu_bytes or self.drops(datagram, now):
            return math.inf
        if self.loss and self.rng.random() < self.loss:
            return math.inf
        if not self.rate:
            return now + self.delay_s
        waiting_bytes = max(0.0, self.busy_until - now) * self.rate
        if waiting_bytes + size_bytes > self.queue_bytes:
            self.overflowed += 1
            return math.inf
        self.busy_until = max(self.busy_until, now) + size_bytes / self.rate
        self.carried_bytes += len(datagram)
        return self.busy_until + self.delay_s


class Side:
    """One end: its link, what it received and what it dropped."""

    def __init__(self, link: Link, there: OneWayPath) -> None:
        self.link = link
        self.there = there
        self.other: Side = self
        self.got: list[bytes] = []
        self.drops: list[DropReason] = []
        self.due_at = math.inf


class PathNetwork:
    """Pairs of links, each with a path in both directions, which several pairs may share."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sides: list[Side] = []
        self._flying: list[tuple[float, int, Side, bytes]] = []
        self._ties = itertools.count()

    def join(
        self,
        there: OneWayPath,
        back: OneWayPath | None = None,
        *,
        rtt_s: float | None = None,
        limits: LimitsConfig | None = None,
        congestion: CongestionConfig | None = None,
        max_message_bytes: int = 10 * 2**20,
        to: Address = BOB.address,
    ) -> tuple[Side, Side]:
        """Adds a pair of links."""
        ours, theirs = sessions(self.now)
        made = []
        for session, record, address in (
            (ours, BOB.record, to),
            (theirs, ADA.record, ADA.address),
        ):
            made.append(
                Link(
                    EstablishedSession(session, record, address, rtt_s, EMPTY),
                    None,
                    limits or LimitsConfig(),
                    self.now,
                    congestion=congestion,
                    max_message_bytes=max_message_bytes,
                )
            )
        here, over = Side(made[0], there), Side(made[1], back or OneWayPath())
        here.other, over.other = over, here
        self.sides += [here, over]
        return here, over

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Advances time until `until` holds, at most `seconds`. Returns the elapsed seconds."""
        began_at, ends_at = self.now, self.now + seconds
        for side in self.sides:
            self._settle(side)
        while not until():
            next_at = min(side.due_at for side in self.sides)
            if self._flying and self._flying[0][0] < next_at:
                next_at = self._flying[0][0]
            if next_at > ends_at:
                self.now = ends_at
                break
            self.now = max(self.now, next_at)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, side, datagram = heapq.heappop(self._flying)
                self._deliver(side, datagram)
            for side in self.sides:
                if side.due_at <= self.now:
                    side.link.advance(self.now)
                    self._settle(side)
        return self.now - began_at

    def _deliver(self, side: Side, datagram: bytes) -> None:
        packet = decode_packet(datagram)
        assert isinstance(packet, Data)
        try:
            plaintext = side.link.receive(packet, self.now)
        except Dropped as refused:
            side.drops.append(refused.reason)
        else:
            if plaintext is not None:
                side.got.append(plaintext)
        self._settle(side)

    def _settle(self, side: Side) -> None:
        for datagram in side.link.transmit(self.now):
            at = side.there.arrival(datagram, self.now)
            if at < math.inf:
                heapq.heappush(self._flying, (at, next(self._ties), side.other, datagram))
        side.due_at = max(side.link.deadline, self.now + 1e-4)


def sessions(now: float) -> tuple[Session, Session]:
    """Returns both ends of one session."""
    number = next(_numbers)
    our_id, their_id = (number.to_bytes(7, "big") + bytes([side]) for side in (1, 2))
    keys = bytes([number % 256] * 32), bytes([(number + 1) % 256] * 32)
    ours = Session(our_id, their_id, KEY, True, *keys, now)
    return ours, Session(their_id, our_id, KEY, False, *keys[::-1], now)
