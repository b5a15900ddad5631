"""Results of a simulated run: as a table, as a JSON object, and as a plot.

Invariants: everything is computed from a `SimResult`; only `events_per_second`, which only the JSON
object has, depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grapevine_proto.sim import BroadcastReport
from grapevine_proto.sim.report import percentile

MAX_ROWS: Final = 40  # of messages in a table
PLOT_CELLS: Final = (64, 10)
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
COLUMN_TITLES: Final = (
    "message", "coverage", "p50 ms", "p99 ms", "last ms", "hops", "redundancy",
    "datagrams", "bytes", "missed", "duplicates",
)  # fmt: skip


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


def format_result(result: SimResult, *, plot: bool) -> list[str]:
    """The table for a terminal: one row per message, a total, and with `plot` the coverage over
    time.
    """
    rows = [
        _format_row(f"{number}", each, result.nodes)
        for number, each in enumerate(result.reports, 1)
    ]
    lines = _format_table([*rows[:MAX_ROWS], _format_total(result)])
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
        _format_percent(report.coverage),
        *(_format_ms(each) for each in (report.p50, report.p99, report.last)),
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
        _format_percent(result.coverage),
        *(_format_ms(percentile(result.latencies_s, quantile)) for quantile in (0.50, 0.99, 1.0)),
        f"{result.hops_last:.1f}",
        f"{result.redundancy:.3f}",
        f"{result.datagrams / deliveries:,.2f}",
        f"{result.bytes / deliveries:,.0f}",
        f"{result.missed:,}",
        f"{result.duplicates:,}",
    )


def _format_percent(share: float) -> str:
    """Format a share, rounded down, so that only 1 is shown as 100 %."""
    return f"{math.floor(share * 10_000) / 100:.2f} %"


def _format_ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:,.0f}"


def _format_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [
        max(len(cell) for cell in column) for column in zip(COLUMN_TITLES, *rows, strict=True)
    ]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (COLUMN_TITLES, *rows)
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
