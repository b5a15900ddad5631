"""What a run showed of one message: who got it, when, and what that cost.

What must stay true: a report is computed from what the simulation recorded, of virtual time and of
datagrams, and from the engines' own counters; it never asks a node what it believes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dissemination:
    """How one message spread. Latencies in virtual seconds from its broadcast; NaN: nobody got it.

    `expected` are the nodes other than the origin that were up at the broadcast and are up now;
    `coverage` is the part of them that got it, `missed` how many did not. `hops` are the most that
    a delivery took. `redundancy`, `datagrams` and `bytes` are what went over the network from this
    broadcast to the next (or to now), shared among the messages sent at the same instant:
    copies beyond the first per node that got one, and all datagrams, heartbeats too.
    """

    coverage: float
    p50: float
    p99: float
    last: float
    hops: int
    redundancy: float
    datagrams: float
    bytes: float
    expected: int
    missed: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the network carried and the nodes threw away, since the beginning."""

    datagrams: int
    bytes: int
    copies: int

    def since(self, earlier: Totals) -> Totals:
        return Totals(
            self.datagrams - earlier.datagrams,
            self.bytes - earlier.bytes,
            self.copies - earlier.copies,
        )


def dissemination(
    latencies_s: Sequence[float],
    hops: int,
    expected: int,
    repeated: int,
    cost: Totals,
    sharing: int,
) -> Dissemination:
    """The report of one message from the latency of each first delivery, the most hops, how many
    nodes should have got it, deliveries beyond the first, and the cost that `sharing` messages share.
    """
    latencies_s = sorted(latencies_s)
    reached = len(latencies_s)
    return Dissemination(
        coverage=reached / expected if expected else 1.0,
        p50=percentile(latencies_s, 0.50),
        p99=percentile(latencies_s, 0.99),
        last=latencies_s[-1] if latencies_s else math.nan,
        hops=hops,
        redundancy=cost.copies / sharing / reached if reached else 0.0,
        datagrams=cost.datagrams / sharing,
        bytes=cost.bytes / sharing,
        expected=expected,
        missed=expected - reached,
        duplicates=repeated,
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest of `ordered` that at least `part` of them do not exceed; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
