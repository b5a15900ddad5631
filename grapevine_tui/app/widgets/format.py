"""Counts, sizes, durations and latencies as short text.

Invariants: no result takes more cells than its docstring says.
"""

from __future__ import annotations

import math


def format_count(value: float) -> str:
    """At most five cells: ``7``, ``0.4``, ``412``, ``1.2k``, ``12k``, ``3.4M``."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    for unit in ("", "k", "M", "G"):
        if value < 9.95 and unit:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def format_bytes(value: float) -> str:
    """At most seven cells: ``61 B``, ``6.1 KB``, ``12 MB``; a KB is 1,000 bytes."""
    return (
        f"{value:.0f} B"
        if value < 1000
        else f"{format_count(value).upper()[:-1]} {_byte_unit(value)}"
    )


def _byte_unit(value: float) -> str:
    return {"k": "KB", "M": "MB", "G": "GB", "T": "TB"}[format_count(value)[-1]]


def format_duration(duration_s: float) -> str:
    """At most six cells: ``42s``, ``5m03s``, ``3h12m``, ``12d4h``."""
    if not math.isfinite(duration_s):
        return "never"
    seconds = max(0, int(duration_s))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    return f"{seconds // 86_400}d{seconds // 3600 % 24}h"


def format_latency(latency_s: float | None) -> str:
    """At most six cells: ``--``, ``0.4ms``, ``81ms``, ``2.1s``."""
    if latency_s is None:
        return "--"
    ms = latency_s * 1000
    if ms < 9.95:
        return f"{ms:.1f}ms"
    return f"{ms:.0f}ms" if ms < 999.5 else f"{latency_s:.1f}s"
