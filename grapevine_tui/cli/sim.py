"""``grapevine-tui sim``: runs a cluster of real engines in virtual time and reports the results.

Invariants: the same arguments give the same stdout, to the byte, except for `events_per_second`.
Whatever depends on the speed of this machine goes to stderr. With `--seeds` or `--sweep` nothing depends
on the number of jobs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from grapevine_proto.config.node import DISTRIBUTIONS, STRATEGIES, NodeConfig
from grapevine_tui.cli.sim_report import format_result
from grapevine_tui.cli.sim_run import SETTLE_TIME_S, SimOptions, run_simulation
from grapevine_tui.cli.sim_sweep import (
    Sweep,
    format_sweep,
    list_cases,
    list_rows,
    parse_jobs,
    parse_seeds,
    parse_sweeps,
    progress_bar,
    run_cases,
    sweep_to_json,
)


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
@click.option(
    "--nodes",
    type=click.IntRange(2, 100_000),
    default=100,
    show_default=True,
    help="Number of nodes",
)
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
    "--strategy",
    type=click.Choice(STRATEGIES),
    default=NodeConfig().strategy,
    show_default=True,
    help="How broadcasts spread",
)
@click.option(
    "--distribution",
    type=click.Choice(DISTRIBUTIONS),
    default="uniform",
    show_default=True,
    help="Which peers to prefer",
)
@click.option(
    "--fanout",
    type=click.IntRange(1, 64),
    default=3,
    show_default=True,
    help="Peers each message is relayed to (strategy epidemic)",
)
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
@click.option(
    "--zones",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Number of zones, assigned to the nodes in turn",
)
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
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63),
    default=1,
    show_default=True,
    help="Seed of every random choice",
)
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
@click.option(
    "--seeds",
    metavar="A..B",
    callback=parse_seeds,
    help="Run once with each of these seeds instead of --seed",
)
@click.option(
    "--sweep",
    "sweeps",
    metavar="NAME=VALUES",
    multiple=True,
    callback=parse_sweeps,
    help="Run with each value of an option: fanout=2..6, loss=0,0.1; repeatable, for all combinations",
)
@click.option(
    "--jobs",
    metavar="N|ADDRESS",
    callback=parse_jobs,
    help="Processes for --seeds and --sweep, or the address of a Dask scheduler "
    "(tcp://HOST:8786)  [default: the number of CPUs]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table")
@click.pass_context
def sim(
    context: click.Context,
    /,
    *,
    as_json: bool,
    seeds: tuple[int, ...] | None,
    sweeps: tuple[Sweep, ...],
    jobs: int | str | None,
    **options: Any,
) -> int:
    """Simulate a cluster of real engines in virtual time. The same arguments give the same run.

    Reports, for each message and in total: coverage (of the nodes up all the time); virtual
    milliseconds until 50 %, 99 % and all of them have it; hops; redundancy (duplicate copies per
    node); datagrams and bytes per node; and how many nodes missed it or delivered it twice.

    With --seeds or --sweep, it reports the same for each run; --jobs sets how many run at once.
    """
    sim_options = SimOptions(**options)
    if seeds is None and not sweeps:
        if jobs is not None:
            raise click.UsageError("--jobs needs --seeds or --sweep: a single run uses one process")
        return _run_one(sim_options, as_json=as_json)
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if seeds is not None and "seed" in given:
        raise click.UsageError("--seed and --seeds exclude each other")
    for sweep in sweeps:
        if sweep.field in given:
            raise click.UsageError(f"{sweep.name} is both given and swept")
    seeds = seeds or (sim_options.seed,)
    cases = list_cases(sim_options, sweeps, seeds)
    with progress_bar(len(cases)) as on_progress:
        figures = run_cases(cases, jobs, on_progress)
    if as_json:
        click.echo(json.dumps(sweep_to_json(cases, sweeps, figures), allow_nan=False))
        return 0
    rows = list_rows(cases, figures)
    for line in format_sweep(sweeps, seeds, rows, plot=sys.stdout.isatty()):
        click.echo(line)
    return 0


def _run_one(options: SimOptions, *, as_json: bool) -> int:
    result = run_simulation(options, _progress_printer(options))
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    if as_json:
        click.echo(json.dumps(result.to_json(), allow_nan=False))
        return 0
    for line in format_result(result, plot=sys.stdout.isatty()):
        click.echo(line)
    click.echo(f"{result.events_per_second:,.0f} events a second", err=True)
    return 0
