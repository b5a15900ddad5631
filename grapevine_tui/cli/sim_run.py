"""A cluster of real engines in virtual time: what to simulate, the run, and its result.

Invariants:

- Equal options give an equal result, except for `events_per_second`, in any process.
- All figures come from the simulation's own records of what was sent and delivered.
- It needs neither Textual nor an event loop nor a socket.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.ids import MessageId
from grapevine_proto.sim import BroadcastReport, Network, Simulation, memoized
from grapevine_proto.sim.report import percentile

JOIN_TIME_S: Final = 20.0  # for unconnected nodes to discover each other
SETTLE_TIME_S: Final = 2.0  # from the start of connected nodes to the first message
MAX_TOTAL_MEMBER_ENTRIES: Final = (
    2_500_000  # known to all nodes together; each knows fewer in big clusters
)
MIN_MEMBER_LIMIT: Final = 256
STEP_S: Final = 0.05
CRASH_EVERY: Final = 2  # every second node that churn removes crashes; the others leave


@dataclass(frozen=True, slots=True, kw_only=True)
class SimOptions:
    """What to simulate.

    Latencies are in seconds. `churn`: nodes that stop, and start, per minute. `settle`: seconds
    from the start of connected nodes to the first message.
    """

    nodes: int = 100
    messages: int = 10
    senders: str = "random"
    warmup: int = 0
    interval: float = 1.0
    wait: float = 60.0
    size: int = 100
    strategy: str = "auto"
    distribution: str = "uniform"
    fanout: int = 3
    degree: int = 5
    latency: tuple[float, float] = (0.010, 0.050)
    latency_between_zones: tuple[float, float] | None = None
    jitter: bool = False
    zones: int = 1
    loss: float = 0.0
    churn: float = 0.0
    join: bool = False
    settle: float = SETTLE_TIME_S
    seed: int = 1
    lazy_push: bool = True
    anti_entropy: bool = True
    optimize_links: bool = False

    def config(self) -> NodeConfig:
        """Configuration of every node. Raises ConfigError."""
        members = max(MIN_MEMBER_LIMIT, MAX_TOTAL_MEMBER_ENTRIES // self.nodes)
        return NodeConfig(
            strategy=self.strategy,
            distribution=self.distribution,
            fanout=self.fanout,
            max_peers=self.degree,
            lazy_push=self.lazy_push,
            optimize_links=self.optimize_links,
            anti_entropy=AntiEntropyConfig(enabled=self.anti_entropy),
            limits=LimitsConfig(members=min(members, LimitsConfig().members)),
        )

    def network(self) -> Network:
        return Network(
            latency=self.latency,
            latency_between_zones=self.latency_between_zones,
            per_pair=not self.jitter,
            loss=self.loss,
        )

    def simulation(self) -> Simulation:
        names = tuple(f"zone {number + 1}" for number in range(self.zones))
        return Simulation(
            nodes=self.nodes,
            config=self.config(),
            seed=self.seed,
            network=self.network(),
            zones=names if self.zones > 1 else (),
            initial_links=0 if self.join else self.degree,
            hash_trace=False,
        )


@dataclass(slots=True, kw_only=True)
class SimResult:
    """A run from the first counted message on.

    `datagrams` and `bytes` count everything sent, heartbeats included. `redundant_copies` counts
    payloads a node received again.
    """

    nodes: int
    seed: int
    reports: list[BroadcastReport]
    latencies_s: list[float]
    datagrams: int
    bytes: int
    bytes_between_zones: int
    redundant_copies: int
    zones: int
    steps: int
    virtual_s: float
    events_per_second: float = 0.0

    @property
    def expected(self) -> int:
        return sum(report.expected for report in self.reports)

    @property
    def missed(self) -> int:
        return sum(report.missed for report in self.reports)

    @property
    def coverage(self) -> float:
        return 1 - self.missed / self.expected if self.expected else 1.0

    @property
    def redundancy(self) -> float:
        reached = self.expected - self.missed
        return self.redundant_copies / reached if reached else 0.0

    @property
    def duplicates(self) -> int:
        return sum(report.duplicates for report in self.reports)

    @property
    def hops_last(self) -> float:
        """Maximum hops of a delivery, averaged over the messages."""
        return sum(report.hops for report in self.reports) / len(self.reports)

    @property
    def last_mean_s(self) -> float:
        """Time until the last node has a message, averaged over the messages that reached any."""
        lasts = [report.last for report in self.reports if not math.isnan(report.last)]
        return sum(lasts) / len(lasts) if lasts else math.nan

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints; null where no node was reached."""
        messages = len(self.reports)
        return {
            "nodes": self.nodes,
            "messages": messages,
            "seed": self.seed,
            "coverage": round(self.coverage, 6),
            "latency_ms": {
                "p50": _to_ms(percentile(self.latencies_s, 0.50)),
                "p99": _to_ms(percentile(self.latencies_s, 0.99)),
                "last": _to_ms(percentile(self.latencies_s, 1.0)),
                "last_mean": _to_ms(self.last_mean_s),
            },
            "hops_last": round(self.hops_last, 3),
            "redundancy": round(self.redundancy, 4),
            "datagrams_per_broadcast": round(self.datagrams / messages, 2),
            "bytes_per_broadcast": round(self.bytes / messages, 1),
            "between_zones": round(self.bytes_between_zones / self.bytes, 4) if self.bytes else 0.0,
            "missed": self.missed,
            "duplicates": self.duplicates,
            "virtual_seconds": round(self.virtual_s, 3),
            "events_per_second": round(self.events_per_second),
        }


def _to_ms(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds * 1000, 3)


class SimRun:
    """A simulation of `options` in progress. `on_progress` is called with the number of messages sent."""

    def __init__(self, options: SimOptions, on_progress: Callable[[int], None]) -> None:
        self._options = options
        self._on_progress = on_progress
        self._rng = random.Random(f"grapevine-tui sim {options.seed}")
        self._simulation = options.simulation()
        self._fixed_sender = self._rng.randrange(options.nodes)
        self._next_churn_at = float("inf")
        self._departures = 0

    def run(self) -> SimResult:
        """Send all messages and wait until they are delivered or the time is up."""
        options, simulation = self._options, self._simulation
        self._advance(JOIN_TIME_S if options.join else options.settle)
        if options.churn:
            self._next_churn_at = simulation.now
        self._broadcast_messages(options.warmup)
        datagrams, sent_bytes = simulation.datagrams, simulation.bytes
        bytes_between_zones, copies = simulation.bytes_between_zones, self._duplicate_count()
        message_ids = self._broadcast_messages(options.messages)
        simulation.run_until(
            lambda: self._is_fully_delivered(message_ids), options.wait, every=STEP_S
        )
        return SimResult(
            nodes=options.nodes,
            seed=options.seed,
            reports=[simulation.report(each) for each in message_ids],
            latencies_s=sorted(at for each in message_ids for at in simulation.latencies(each)),
            datagrams=simulation.datagrams - datagrams,
            bytes=simulation.bytes - sent_bytes,
            bytes_between_zones=simulation.bytes_between_zones - bytes_between_zones,
            redundant_copies=self._duplicate_count() - copies,
            zones=options.zones,
            steps=simulation.steps,
            virtual_s=simulation.now,
        )

    def _broadcast_messages(self, count: int) -> list[MessageId]:
        """Send `count` broadcasts, one per interval, or one per interval from every node."""
        message_ids: list[MessageId] = []
        while len(message_ids) < count:
            for number in self._senders(count - len(message_ids)):
                payload = b"%d of %d " % (len(message_ids) + 1, number)
                message_ids.append(
                    self._simulation.broadcast(number, payload.ljust(self._options.size, b"."))
                )
            self._on_progress(len(message_ids))
            self._advance(self._options.interval)
        return message_ids

    def _senders(self, limit: int) -> list[int]:
        up = [node.number for node in self._simulation.nodes if self._is_up(node.number)]
        match self._options.senders:
            case "all":
                return up[:limit]
            case "random":
                return [self._rng.choice(up)]
            case _:
                return [self._fixed_sender]

    def _is_up(self, number: int) -> bool:
        node = self._simulation.nodes[number]
        return node.is_running and not node.is_leaving

    def _advance(self, seconds: float) -> None:
        simulation, until = self._simulation, self._simulation.now + seconds
        while self._next_churn_at <= until:
            simulation.run(max(0.0, self._next_churn_at - simulation.now))
            self._churn_once()
            self._next_churn_at += 60.0 / self._options.churn
        simulation.run(until - simulation.now)

    def _churn_once(self) -> None:
        """Stop one node, by a crash or by leaving, and start another."""
        simulation = self._simulation
        up = [node.number for node in simulation.nodes if self._is_up(node.number)]
        numbers = [number for number in up if number != self._fixed_sender]
        if not numbers:
            return
        number = self._rng.choice(numbers)
        self._departures += 1
        if self._departures % CRASH_EVERY:
            simulation.leave(number)
        else:
            simulation.crash(number)
        others = [each for each in up if each != number]
        simulation.add(bootstrap=self._rng.sample(others, min(3, len(others))))

    def _is_fully_delivered(self, message_ids: list[MessageId]) -> bool:
        return all(self._simulation.report(each).missed == 0 for each in message_ids)

    def _duplicate_count(self) -> int:
        return sum(node.duplicates for node in self._simulation.nodes)


def run_simulation(
    options: SimOptions, on_progress: Callable[[int], None] = lambda _: None
) -> SimResult:
    """Simulate `options`; `on_progress` is called with the number of messages sent so far."""
    with memoized():
        started_at = time.perf_counter()
        result = SimRun(options, on_progress).run()
        result.events_per_second = result.steps / (time.perf_counter() - started_at)
    return result
