"""The result of a simulated run as a table and a plot.

Invariants: everything is computed from a `SimResult`, and nothing depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from grapevine_proto.sim import BroadcastReport
from grapevine_proto.sim.report import percentile
from grapevine_tui.cli.sim_run import SimResult

MAX_ROWS: Final = 40  # of messages in a table
PLOT_CELLS: Final = (64, 10)
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
COLUMN_TITLES: Final = (
    "message", "coverage", "p50 ms", "p99 ms", "last ms", "hops", "redundancy",
    "datagrams", "bytes", "missed", "duplicates",
)  # fmt: skip


def format_result(result: SimResult, *, plot: bool) -> list[str]:
    """The table for a terminal: one row per message, a total, and with `plot` the coverage over
    time.
    """
    rows = [
        _format_row(f"{number}", each, result.nodes)
        for number, each in enumerate(result.reports, 1)
    ]
    lines = format_table(COLUMN_TITLES, [*rows[:MAX_ROWS], _format_total(result)])
    if len(rows) > MAX_ROWS:
        lines.insert(-1, f"… and {len(rows) - MAX_ROWS:,} more messages")
    lines.append("")
    lines.append(_format_summary(result))
    if plot:
        lines += ["", *plot_coverage(result.latencies_s, result.expected)]
    return lines


def _format_row(name: str, report: BroadcastReport, nodes: int) -> tuple[str, ...]:
    return (
        name,
        format_percent(report.coverage),
        *(format_ms(each) for each in (report.p50, report.p99, report.last)),
        f"{report.hops}",
        f"{report.redundancy:.3f}",
        f"{report.datagrams / nodes:,.2f}",
        f"{report.bytes / nodes:,.0f}",
        f"{report.missed:,}",
        f"{report.duplicates:,}",
    )


def _format_total(result: SimResult) -> tuple[str, ...]:
    deliveries = len(result.reports) * result.nodes
    return (
        "all",
        format_percent(result.coverage),
        *(format_ms(percentile(result.latencies_s, quantile)) for quantile in (0.50, 0.99, 1.0)),
        f"{result.hops_last:.1f}",
        f"{result.redundancy:.3f}",
        f"{result.datagrams / deliveries:,.2f}",
        f"{result.bytes / deliveries:,.0f}",
        f"{result.missed:,}",
        f"{result.duplicates:,}",
    )


def format_percent(share: float) -> str:
    """Format a share, rounded down, so that only 1 is shown as 100 %."""
    return f"{math.floor(share * 10_000) / 100:.2f} %"


def format_ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:,.0f}"


def format_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the columns to the right, below their titles."""
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (titles, *rows)
    ]


def _format_summary(result: SimResult) -> str:
    text = (
        f"{result.nodes:,} nodes, {len(result.reports):,} messages, seed {result.seed}, "
        f"{result.virtual_s:,.1f} virtual seconds; datagrams and bytes are per node and message"
    )
    if result.zones > 1 and result.bytes:
        share = result.bytes_between_zones / result.bytes
        text += f"; {100 * share:.1f} % of all bytes went from zone to zone"
    return text


def plot_coverage(latencies_s: Sequence[float], expected: int) -> list[str]:
    """Plot coverage over time: the share of all deliveries made by each moment."""
    width, height = PLOT_CELLS
    if not latencies_s or not expected:
        return ["no node was reached"]
    last_s = percentile(
        latencies_s, 0.99
    )  # one late repair would compress everything else to the left
    shares: list[float] = []
    reached = 0
    for column in range(1, width + 1):
        until_s = last_s * column / width
        while reached < len(latencies_s) and latencies_s[reached] <= until_s:
            reached += 1
        shares.append(min(1.0, reached / expected))
    lines = []
    for row in range(height, 0, -1):
        label = {height: "100 %", (height + 1) // 2: " 50 %", 1: "  0 %"}.get(row, "")
        bars = "".join(
            _EIGHTHS[max(0, min(8, round((share * height - row + 1) * 8)))] for share in shares
        )
        lines.append(f"{label:>6} ▏{bars.rstrip()}")
    end = f"{last_s * 1000:,.0f} ms"
    lines.append(f"{'':6}  {'0':<{width - len(end)}}{end}")
    return lines
