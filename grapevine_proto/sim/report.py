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
    """Datagrams and bytes carried by the network, and redundant copies, since the start."""

    datagrams: int
    bytes: int
    copies: int

    def since(self, earlier: Totals) -> Totals:
        """Returns the increase since `earlier`."""
        return Totals(
            self.datagrams - earlier.datagrams,
            self.bytes - earlier.bytes,
            self.copies - earlier.copies,
        )


@dataclass(slots=True)
class _CostSnapshot:
    """An instant with broadcasts: the totals before them, and their number."""

    at: float
    totals: Totals
    messages: int = 0


@dataclass(frozen=True, slots=True)
class _Broadcast:
    """A broadcast: time, origin, the nodes that were up, and the index of its snapshot."""

    at: float
    origin: int
    running: frozenset[int]
    snapshot: int


class BroadcastLog:
    """Records the broadcasts of a simulation and reports on them.

    `Simulation` calls `record` with the `datagrams` and `carried_bytes` that its network has carried so far.
    `nodes` are read only.
    """

    def __init__(self, nodes: Sequence[SimulatedNode]) -> None:
        self._nodes = nodes
        self._broadcasts: dict[MessageId, _Broadcast] = {}
        self._snapshots: list[_CostSnapshot] = []
        self._last_running: frozenset[int] = frozenset()

    def record(
        self, message_id: MessageId, origin: int, now: float, datagrams: int, carried_bytes: int
    ) -> None:
        """Records a broadcast by node `origin` at `now`, before any datagram of it is sent."""
        if not self._snapshots or self._snapshots[-1].at != now:
            self._snapshots.append(_CostSnapshot(now, self._totals(datagrams, carried_bytes)))
        self._snapshots[-1].messages += 1
        self._broadcasts[message_id] = _Broadcast(
            now, origin, self._running(), len(self._snapshots) - 1
        )

    def deliveries(self, message_id: MessageId) -> dict[int, int]:
        """Returns how often each node received a message; nodes that did not are omitted."""
        return {
            node.number: node.deliveries[message_id].count
            for node in self._nodes
            if message_id in node.deliveries
        }

    def report(self, message_id: MessageId, datagrams: int, carried_bytes: int) -> BroadcastReport:
        """Returns the report of one broadcast as of now."""
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
        """Returns the delay of the first delivery to each node that received the message, in virtual seconds,
        sorted."""
        sent_at = self._broadcasts[message_id].at
        return sorted(
            node.deliveries[message_id].at - sent_at
            for node in self._nodes
            if message_id in node.deliveries
        )

    def _running(self) -> frozenset[int]:
        """Returns the nodes that are up, as one shared set while it does not change."""
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
    """Builds the report of one broadcast.

    Args:
        latencies_s: delay of the first delivery to each node reached, in virtual seconds.
        hops: largest hop count.
        expected: number of nodes that should have received it.
        duplicates: deliveries beyond the first, over all nodes.
        cost: traffic, shared equally by `broadcasts_sharing` broadcasts.
        broadcasts_sharing: number of broadcasts at the same instant.
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
    """Returns the smallest value that at least `fraction` of the `ordered` values do not exceed; NaN
    without any."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
