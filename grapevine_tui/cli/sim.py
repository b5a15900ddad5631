"""``grapevine-tui sim``: runs a cluster of real engines in virtual time and reports the results.

Invariants:

- The same arguments give the same stdout, to the byte, except for `events_per_second`. Whatever
  depends on the speed of this machine goes to stderr.
- All figures come from the simulation's own records of what was sent and delivered.
- It needs neither Textual nor an event loop nor a socket.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from grapevine_proto.config.node import DISTRIBUTIONS, STRATEGIES, NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.ids import MessageId
from grapevine_proto.sim import BroadcastReport, Network, Simulation, memoized
from grapevine_tui.cli.sim_run import SimResult, format_result

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


# --- the command ----------------------------------------------------------------------------------


def _parse_latency_range(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    """Parse ``10..50`` or ``30``, milliseconds, into the shortest and longest latency in seconds."""
    if value is None:
        return None
    low, dots, high = value.partition("..")
    try:
        shortest, longest = float(low), float(high if dots else low)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not milliseconds, as in 10..50") from None
    if not 0 <= shortest <= longest <= 60_000:
        raise click.BadParameter(f"{value!r} is not a range within 0..60000")
    return shortest / 1000, longest / 1000


def _progress_printer(options: SimOptions) -> Callable[[int], None]:
    """Print progress on the last line of a terminal, unless stdout is that terminal."""
    if not sys.stderr.isatty():
        return lambda _: None

    def print_progress(sent: int) -> None:
        text = f"{options.nodes:,} nodes: {sent:,} of {options.messages:,} sent"
        click.echo(f"\r{text}\x1b[K", err=True, nl=False)

    return print_progress


@click.command(short_help="Simulate a cluster of up to thousands of nodes.")
@click.option("--nodes", type=click.IntRange(2, 100_000), default=100, show_default=True)
@click.option(
    "--messages",
    type=click.IntRange(1, 1_000_000),
    default=10,
    show_default=True,
    help="Number of broadcasts",
)
@click.option(
    "--senders",
    type=click.Choice(["one", "random", "all"]),
    default="random",
    show_default=True,
    help="Sender: one node, a random node each time, or in each round all nodes at once",
)
@click.option(
    "--warmup",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    help="Broadcasts before the measured ones",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.001, 3600),
    default=1.0,
    show_default=True,
    help="Virtual seconds between messages or rounds",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 36_000),
    default=60.0,
    show_default=True,
    help="Maximum virtual seconds to wait at the end for nodes that miss messages",
)
@click.option(
    "--size",
    type=click.IntRange(24, 900),
    default=100,
    show_default=True,
    help="Payload size in bytes",
)
@click.option(
    "--strategy", type=click.Choice(STRATEGIES), default=NodeConfig().strategy, show_default=True
)
@click.option(
    "--distribution", type=click.Choice(DISTRIBUTIONS), default="uniform", show_default=True
)
@click.option("--fanout", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option(
    "--degree",
    type=click.IntRange(1, 512),
    default=5,
    show_default=True,
    help="Maximum number of links per node",
)
@click.option(
    "--latency",
    metavar="MS..MS",
    callback=_parse_latency_range,
    default="10..50",
    show_default=True,
    help="One-way latency in ms; drawn once for each pair of nodes",
)
@click.option("--jitter", is_flag=True, help="Draw the latency of each datagram separately")
@click.option("--zones", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option(
    "--latency-between",
    "latency_between_zones",
    metavar="MS..MS",
    callback=_parse_latency_range,
    help="One-way latency in ms between zones  [default: --latency]",
)
@click.option(
    "--loss",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Fraction of datagrams lost",
)
@click.option(
    "--churn",
    type=click.FloatRange(0, 60_000),
    default=0.0,
    show_default=True,
    help="Nodes that stop, and new ones that start, per minute",
)
@click.option(
    "--join",
    is_flag=True,
    help="Start unconnected, each node with three addresses, instead of with random links",
)
@click.option(
    "--settle",
    type=click.FloatRange(0, 36_000),
    default=SETTLE_TIME_S,
    show_default=True,
    help="Virtual seconds from the start to the first message, without --join",
)
@click.option("--seed", type=click.IntRange(0, 2**63), default=1, show_default=True)
@click.option(
    "--optimize-links",
    is_flag=True,
    help="Replace links by ones with lower latency (allow time: --settle)",
)
@click.option(
    "--no-lazy-push",
    "lazy_push",
    flag_value=False,
    type=bool,
    default=True,
    help="Disable lazy push (IHAVE)",
)
@click.option(
    "--no-anti-entropy",
    "anti_entropy",
    flag_value=False,
    type=bool,
    default=True,
    help="Disable anti-entropy",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table")
def sim(*, as_json: bool, **options: Any) -> int:
    """Simulate a cluster of real engines in virtual time. The same arguments give the same run.

    Reports, for each message and in total: coverage (of the nodes up all the time); virtual
    milliseconds until 50 %, 99 % and all of them have it; hops; redundancy (duplicate copies per
    node); datagrams and bytes per node; and how many nodes missed it or delivered it twice.
    """
    sim_options = SimOptions(**options)
    on_progress = _progress_printer(sim_options)
    result = run_simulation(sim_options, on_progress)
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    if as_json:
        click.echo(json.dumps(result.to_json(), allow_nan=False))
        return 0
    for line in format_result(result, plot=sys.stdout.isatty()):
        click.echo(line)
    click.echo(f"{result.events_per_second:,.0f} events a second", err=True)
    return 0


__all__ = ["BroadcastReport", "SimOptions", "run_simulation", "sim"]
