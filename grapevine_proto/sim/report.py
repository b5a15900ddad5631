"""Reports on the broadcasts of a simulation: coverage, latency and cost.

Invariants:

- A report is computed from what the simulation recorded and from the engines' counters, never from
  what a node believes.
- A node is expected to receive a message if it was up at the broadcast and is up now.
- The traffic between two broadcasts is the cost of the first one; broadcasts of the same instant
  share it.
- Reading a report changes neither a node nor a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grapevine_proto.ids import MessageId
from grapevine_proto.sim.node import SimulatedNode


@dataclass(frozen=True, slots=True)
class BroadcastReport:
    """How one message spread. Latencies are in virtual seconds from its broadcast; NaN if no node
    received it.

    `expected` counts the nodes other than the origin that were up at the broadcast and are up now;
    `coverage` is the share of them that received it, `missed` the rest. `hops` is the maximum of
    all deliveries. `redundancy` (copies beyond the first, per node reached), `datagrams` and
    `bytes` (all traffic, heartbeats included) cover the time until the next broadcast or now,
    divided among the broadcasts of the same instant.
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


@dataclass(slots=True)
class _CostSnapshot:
    """An instant at which something was said, what had been carried by then, and how much was said."""

    at: float
    totals: Totals
    messages: int = 0


@dataclass(frozen=True, slots=True)
class _Broadcast:
    """A broadcast: when and by whom, who was up, and its mark by index."""

    at: float
    origin: int
    running: frozenset[int]
    snapshot: int


class BroadcastLog:
    """How everything went that was said to everybody. Driven by `Simulation`, which tells what was
    `said` and how many `datagrams` and `carried_bytes` its network has carried by now; reads `nodes`."""

    def __init__(self, nodes: Sequence[SimulatedNode]) -> None:
        self._nodes = nodes
        self._broadcasts: dict[MessageId, _Broadcast] = {}
        self._snapshots: list[_CostSnapshot] = []
        self._last_running: frozenset[int] = frozenset()

    def record(
        self, message_id: MessageId, origin: int, now: float, datagrams: int, carried_bytes: int
    ) -> None:
        """Node `origin` says this now: before anything of it goes out."""
        if not self._snapshots or self._snapshots[-1].at != now:
            self._snapshots.append(_CostSnapshot(now, self._totals(datagrams, carried_bytes)))
        self._snapshots[-1].messages += 1
        self._broadcasts[message_id] = _Broadcast(
            now, origin, self._running(), len(self._snapshots) - 1
        )

    def deliveries(self, message_id: MessageId) -> dict[int, int]:
        """How often each node was given a message; nodes that were not are left out."""
        return {
            node.number: node.deliveries[message_id].count
            for node in self._nodes
            if message_id in node.deliveries
        }

    def report(self, message_id: MessageId, datagrams: int, carried_bytes: int) -> BroadcastReport:
        """What is known by now of one of them."""
        broadcast = self._broadcasts[message_id]
        expected = {number for number in broadcast.running if self._nodes[number].is_running}
        expected.discard(broadcast.origin)
        deliveries = [
            self._nodes[number].deliveries[message_id]
            for number in sorted(expected)
            if message_id in self._nodes[number].deliveries
        ]
        snapshot, next_snapshots = (
            self._snapshots[broadcast.snapshot],
            self._snapshots[broadcast.snapshot + 1 : broadcast.snapshot + 2],
        )
        totals_after = (
            next_snapshots[0].totals if next_snapshots else self._totals(datagrams, carried_bytes)
        )
        return make_report(
            [delivery.at - broadcast.at for delivery in deliveries],
            max((delivery.hops for delivery in deliveries), default=0),
            len(expected),
            sum(delivery.count - 1 for delivery in deliveries),
            totals_after.since(snapshot.totals),
            snapshot.messages,
        )

    def latencies(self, message_id: MessageId) -> list[float]:
        """When each node that was given it was given it first, in virtual seconds after its
        broadcast, the quickest first."""
        sent_at = self._broadcasts[message_id].at
        return sorted(
            node.deliveries[message_id].at - sent_at
            for node in self._nodes
            if message_id in node.deliveries
        )

    def _running(self) -> frozenset[int]:
        """Who is up; one set for all that is said while nobody comes or goes."""
        running = frozenset(node.number for node in self._nodes if node.is_running)
        if running != self._last_running:
            self._last_running = running
        return self._last_running

    def _totals(self, datagrams: int, carried_bytes: int) -> Totals:
        return Totals(datagrams, carried_bytes, sum(node.duplicates for node in self._nodes))


def make_report(
    latencies_s: Sequence[float],
    hops: int,
    expected: int,
    duplicates: int,
    cost: Totals,
    broadcasts_sharing: int,
) -> BroadcastReport:
    """The report of one message from the latency of each first delivery, the most hops, how many
    nodes should have got it, deliveries beyond the first, and the cost that `broadcasts_sharing`
    messages share.
    """
    latencies_s = sorted(latencies_s)
    reached = len(latencies_s)
    return BroadcastReport(
        coverage=reached / expected if expected else 1.0,
        p50=percentile(latencies_s, 0.50),
        p99=percentile(latencies_s, 0.99),
        last=latencies_s[-1] if latencies_s else math.nan,
        hops=hops,
        redundancy=cost.copies / broadcasts_sharing / reached if reached else 0.0,
        datagrams=cost.datagrams / broadcasts_sharing,
        bytes=cost.bytes / broadcasts_sharing,
        expected=expected,
        missed=expected - reached,
        duplicates=duplicates,
    )


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The smallest of `ordered` that at least `fraction` of them do not exceed; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
