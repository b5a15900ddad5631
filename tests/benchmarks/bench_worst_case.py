"""Cost of the most expensive message of each kind for a node with full tables, in time and memory:
``python -m tests.benchmarks.bench_worst_case``.

No token may cost more than 2 ms, whatever the content: otherwise the exit code is 1. Other load on the
machine counts too; ``tests/scenarios/test_worst_case.py`` is deterministic. docs/security.md lists the
limits.
"""

from __future__ import annotations

import sys
import time
import tracemalloc

import click

from grapevine_proto.token_bucket import token_cost
from grapevine_proto.wire.messages import Kind
from tests.scenarios.worst_case import full_victim, is_linked, packets, plaintexts, receive

LIMIT_US = 2000.0

Row = tuple[float, int, int]  # microseconds per token, bytes kept per token, bytes of the message


def measure(rounds: int) -> dict[Kind, Row]:
    """Returns the most expensive message of each kind; each is measured `rounds` times, and the lowest
    time counts, which excludes other load."""
    best: dict[tuple[Kind, int], Row] = {}
    for _ in range(rounds):
        cluster = full_victim()
        for kind in Kind:
            for number, plaintext in enumerate(plaintexts(kind, cluster)):
                if not is_linked(cluster):
                    cluster = full_victim()
                cluster.now += 0.05  # for tokens
                datagrams = packets(cluster, plaintext)
                began = time.thread_time()
                for datagram in datagrams:
                    receive(cluster, datagram)
                cost_us = (time.thread_time() - began) * 1e6 / len(datagrams)
                row = (cost_us, 0, len(plaintext))
                best[kind, number] = min(best.get((kind, number), row), row)
    kept = _kept()
    most_expensive: dict[Kind, Row] = {}
    for (kind, _), (cost_us, _, size) in best.items():
        row = (cost_us, kept[kind], size)
        most_expensive[kind] = max(most_expensive.get(kind, row), row)
    return most_expensive


def _kept() -> dict[Kind, int]:
    """Returns the most bytes of memory that a message of each kind keeps."""
    found: dict[Kind, int] = {}
    cluster = full_victim()
    tracemalloc.start()
    try:
        for kind in Kind:
            for plaintext in plaintexts(kind, cluster):
                if not is_linked(cluster):
                    cluster = full_victim()
                cluster.now += 0.05
                datagrams = packets(cluster, plaintext)
                before, _ = tracemalloc.get_traced_memory()
                for datagram in datagrams:
                    receive(cluster, datagram)
                after, _ = tracemalloc.get_traced_memory()
                kept = max(after - before, 0) // len(datagrams)
                found[kind] = max(found.get(kind, 0), kept)
    finally:
        tracemalloc.stop()
    return found


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="measurements of each message")
def main(rounds: int) -> None:
    rows = measure(rounds)
    print(f"{'kind':16} {'tokens':>6} {'bytes':>6} {'us/token':>9} {'kept/token':>11}")
    for kind, (cost_us, kept, size) in sorted(rows.items(), key=lambda row: -row[1][0]):
        sign = " TOO EXPENSIVE" if cost_us > LIMIT_US else ""
        print(
            f"{kind.name.lower():16} {token_cost(kind):6} {size:6} {cost_us:9.0f} {kept:11,}{sign}"
        )
    if any(cost_us > LIMIT_US for cost_us, *_ in rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
