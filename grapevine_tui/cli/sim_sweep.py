"""Many simulated runs, over processes or a Dask cluster: every seed of every combination of options.

Invariants:

- The output depends on the arguments alone: neither on the number of jobs nor on the order in which runs
  end.
- A run returns its figures, not its deliveries, so memory does not grow with the size of the runs.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
import re
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Final

import click

from grapevine_proto.config.toml import did_you_mean
from grapevine_tui.cli.sim_report import format_ms, format_percent, format_table
from grapevine_tui.cli.sim_run import SimOptions, run_simulation

MAX_RUNS: Final = 10_000
MAX_JOBS: Final = 512
MAX_ROWS: Final = 100
BAR_CELLS: Final = 40
NOT_SWEPT: Final = frozenset({"seed", "seeds", "sweep", "jobs", "json"})
FIGURE_TITLES: Final = (
    "coverage", "p50 ms", "p99 ms", "last ms", "hops", "redundancy", "datagrams", "bytes", "missed",
    "duplicates",
)  # fmt: skip
_INTEGER_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


# --- what to run ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sweep:
    """An option with the values to try: `field` of `SimOptions`, `texts` as they were given."""

    name: str
    field: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One run: its options and the texts of the swept values."""

    options: SimOptions
    texts: tuple[str, ...]


def parse_jobs(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Parse a number of processes, or the address of a Dask scheduler."""
    if value is None or re.fullmatch(r"(tcp|tls|ws|wss)://\S+", value):
        return value
    if value.isdecimal() and len(value) < 6 and 1 <= int(value) <= MAX_JOBS:
        return int(value)
    raise click.BadParameter(
        f"{value!r} is neither a number of processes from 1 to {MAX_JOBS} nor an address such as "
        "tcp://host:8786"
    )


def parse_seeds(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse ``1..100`` or ``1,5,9``."""
    if value is None:
        return None
    texts = _expand(value)
    if not all(text.isdecimal() and len(text) < 19 for text in texts):
        raise click.BadParameter(f"{value!r} is not a range of seeds, as in 1..100")
    seeds = tuple(int(text) for text in texts)
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"{value!r} names a seed twice")
    return seeds


def parse_sweeps(
    context: click.Context, _: click.Parameter, values: Sequence[str]
) -> tuple[Sweep, ...]:
    """Parse each ``NAME=VALUES``; the values are checked as the option itself checks them."""
    options = {_sweep_name(each): each for each in context.command.params if each.name}
    sweeps: list[Sweep] = []
    for text in values:
        name, equals, listed = text.partition("=")
        if not equals or not listed:
            raise click.BadParameter(f"{text!r} is not NAME=VALUES, as in fanout=2..6")
        if name not in options or name in NOT_SWEPT:
            known = sorted(options.keys() - NOT_SWEPT)
            raise click.BadParameter(f"no option {name!r} to sweep{did_you_mean(name, known)}")
        if name in (each.name for each in sweeps):
            raise click.BadParameter(f"{name} is swept twice")
        sweeps.append(_parse_values(context, options[name], name, listed))
    return tuple(sweeps)


def _sweep_name(option: click.Parameter) -> str:
    """The name of an option without its dashes; that of ``--no-lazy-push`` is ``lazy-push``."""
    name = option.opts[-1].removeprefix("--")
    return name.removeprefix("no-")


def _parse_values(context: click.Context, option: click.Parameter, name: str, listed: str) -> Sweep:
    is_flag = isinstance(option, click.Option) and option.is_flag
    texts = _expand(listed) if isinstance(option.type, click.IntRange) else listed.split(",")
    if len(texts) != len(set(texts)):
        raise click.BadParameter(f"{name}={listed} names a value twice")
    if isinstance(option.type, click.FloatRange) and ".." in listed:
        raise click.BadParameter(f"{name}={listed}: list the values, as in {name}=0.01,0.05")
    values: list[Any] = []
    for text in texts:
        try:
            if is_flag:
                values.append({"yes": True, "no": False}[text])
            else:
                values.append(option.process_value(context, text))
        except KeyError:
            raise click.BadParameter(f"{name}={listed}: {text!r} is neither yes nor no") from None
        except click.BadParameter as error:
            raise click.BadParameter(f"{name}={listed}: {error.message}") from None
    return Sweep(name, str(option.name), tuple(values), tuple(texts))


def _expand(listed: str) -> list[str]:
    """Split ``1..3,7`` into 1, 2, 3 and 7. Raises BadParameter above `MAX_RUNS` values."""
    texts: list[str] = []
    for part in listed.split(","):
        found = _INTEGER_RANGE.fullmatch(part)
        if found is None:
            texts.append(part)
            continue
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise click.BadParameter(f"{part} is not a range: the first is above the last")
        if last - first >= MAX_RUNS:
            raise click.BadParameter(f"{part} is more than {MAX_RUNS:,} values")
        texts += (str(number) for number in range(first, last + 1))
    return texts


def list_cases(options: SimOptions, sweeps: Sequence[Sweep], seeds: Sequence[int]) -> list[Case]:
    """Every combination of the swept values, each with every seed, in this order.

    Raises UsageError above `MAX_RUNS`, ConfigError for a combination that no node accepts.
    """
    count = len(seeds)
    for sweep in sweeps:
        count *= len(sweep.values)
    if count > MAX_RUNS:
        raise click.UsageError(f"{count:,} runs are more than {MAX_RUNS:,}")
    cases: list[Case] = []
    for choice in itertools.product(*(range(len(sweep.values)) for sweep in sweeps)):
        changes = {
            sweep.field: sweep.values[index] for sweep, index in zip(sweeps, choice, strict=True)
        }
        texts = tuple(sweep.texts[index] for sweep, index in zip(sweeps, choice, strict=True))
        combined = replace(options, **changes)
        combined.config()
        cases += (Case(replace(combined, seed=seed), texts) for seed in seeds)
    return cases


# --- running --------------------------------------------------------------------------------------


def run_case(options: SimOptions) -> dict[str, Any]:
    """Run one simulation and return its figures, without those that depend on the machine."""
    figures = run_simulation(options).to_json()
    del figures["events_per_second"]
    return figures


def run_cases(
    cases: Sequence[Case], jobs: int | str | None, on_progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Run all cases and return their figures in the order of `cases`.

    Args:
        jobs: processes, or the address of a Dask scheduler; None: one process per CPU.
        on_progress: called with the number of runs that have ended.

    Raises:
        ClickException: a worker ended, the scheduler does not answer or Dask is not installed.
    """
    try:
        with open_executor(jobs, len(cases)) as executor:
            futures: list[Future[dict[str, Any]]] = [
                executor.submit(run_case, case.options) for case in cases
            ]
            try:
                for ended, future in enumerate(as_completed(futures), 1):
                    future.result()
                    on_progress(ended)
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
            return [future.result() for future in futures]
    except BrokenExecutor:
        raise click.ClickException(
            "a worker process was ended, perhaps for want of memory; try fewer --jobs"
        ) from None


@contextmanager
def open_executor(jobs: int | str | None, runs: int) -> Iterator[Executor]:
    """Yield what runs the cases: local processes, or the workers of a Dask cluster."""
    if isinstance(jobs, str):
        try:
            distributed = importlib.import_module("distributed")
        except ImportError:
            raise click.ClickException(
                f"--jobs {jobs} needs the extra `cluster`: pip install 'grapevine-tui[cluster]'"
            ) from None
        try:
            client = distributed.Client(jobs, timeout=5, set_as_default=False)
        except OSError as error:
            raise click.ClickException(f"no Dask scheduler at {jobs}: {error}") from None
        with client, client.get_executor(pure=False) as executor:
            yield executor
        return
    workers = min(jobs or os.cpu_count() or 1, runs)
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_end_on_interrupt
    ) as executor:
        yield executor


def _end_on_interrupt() -> None:
    """Let Ctrl-C end a worker without a traceback; the command itself reports it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows the number of runs ended, on a terminal at stderr."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), "runs", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda ended: progress.update(task, completed=ended)


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """Runs that differ in their seed alone, or one run: the mean of each figure, but see `last_ms`."""

    labels: tuple[str, ...]
    runs: tuple[dict[str, Any], ...]

    def mean(self, name: str) -> float:
        return statistics.fmean(run[name] for run in self.runs)

    def total(self, name: str) -> int:
        return sum(run[name] for run in self.runs)

    def latency_ms(self, name: str) -> float:
        """Mean over the runs that reached a node; NaN if none did."""
        known = [run["latency_ms"][name] for run in self.runs]
        reached = [value for value in known if value is not None]
        return statistics.fmean(reached) if reached else float("nan")

    @property
    def last_ms(self) -> float:
        """The latest delivery of all runs."""
        known = [run["latency_ms"]["last"] for run in self.runs]
        return max((value for value in known if value is not None), default=float("nan"))

    def per_node(self, name: str) -> float:
        return statistics.fmean(run[name] / run["nodes"] for run in self.runs)

    def cells(self) -> tuple[str, ...]:
        return (
            *self.labels,
            format_percent(self.mean("coverage")),
            *(format_ms(self.latency_ms(name) / 1000) for name in ("p50", "p99")),
            format_ms(self.last_ms / 1000),
            f"{self.mean('hops_last'):.1f}",
            f"{self.mean('redundancy'):.3f}",
            f"{self.per_node('datagrams_per_broadcast'):,.2f}",
            f"{self.per_node('bytes_per_broadcast'):,.0f}",
            f"{self.total('missed'):,}",
            f"{self.total('duplicates'):,}",
        )


def list_rows(cases: Sequence[Case], figures: Sequence[dict[str, Any]]) -> list[Row]:
    """One row for each combination; with a single one, a row for each seed and one for all."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for case, run in zip(cases, figures, strict=True):
        groups.setdefault(case.texts, []).append(run)
    if () not in groups:
        return [Row(texts, tuple(runs)) for texts, runs in groups.items()]
    runs = groups[()]
    return [*(Row((f"{run['seed']}",), (run,)) for run in runs), Row(("all",), tuple(runs))]


def format_sweep(
    sweeps: Sequence[Sweep], seeds: Sequence[int], rows: Sequence[Row], *, plot: bool
) -> list[str]:
    """The table, a row per combination or seed; with `plot` also a bar for each p99."""
    names = tuple(sweep.name for sweep in sweeps) or ("seed",)
    cells = [row.cells() for row in rows]
    hidden = max(0, len(cells) - MAX_ROWS)
    if hidden:
        cells = [*cells[: MAX_ROWS - 1], cells[-1]]
    lines = format_table((*names, *FIGURE_TITLES), cells)
    if hidden:
        lines.insert(-1, f"… and {hidden:,} more rows; --json prints all")
    lines.append("")
    lines.append(
        f"{len(seeds):,} {'seed' if len(seeds) == 1 else 'seeds'}; a row shows the mean of its runs, in "
        "`last` the latest delivery, in `missed` and `duplicates` the sum"
    )
    if plot:
        lines += ["", *_plot_bars(names, rows[:MAX_ROWS])]
    return lines


def _plot_bars(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    labels = [
        " ".join(f"{name}={text}" for name, text in zip(names, row.labels, strict=True))
        for row in rows
    ]
    width = max(map(len, labels))
    times_ms = [row.latency_ms("p99") for row in rows]
    longest_ms = max((time_ms for time_ms in times_ms if not math.isnan(time_ms)), default=0.0)
    lines = ["p99 ms"]
    for label, time_ms in zip(labels, times_ms, strict=True):
        share = 0.0 if math.isnan(time_ms) or not longest_ms else time_ms / longest_ms
        bar = "█" * round(share * BAR_CELLS)
        lines.append(f"{label:<{width}}  {bar:<{BAR_CELLS}}  {format_ms(time_ms / 1000)}")
    return lines


def sweep_to_json(
    cases: Sequence[Case], sweeps: Sequence[Sweep], figures: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The object of ``--json``: every run with its swept values."""
    names = [sweep.name for sweep in sweeps]
    return {
        "runs": [
            {"sweep": dict(zip(names, case.texts, strict=True)), **run}
            for case, run in zip(cases, figures, strict=True)
        ]
    }
