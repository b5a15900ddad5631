"""The history at one million messages: pages, the start of the writer, and stalls of the loop at 10,000 a
second, with a sample of 50 peers every second.

`python -m tests.benchmarks.bench_history [--messages N]`

On a busy machine the clock measures the other processes: the time on the processor stands beside it, and the
longest stall beside that of a loop that does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import zlib
from pathlib import Path
from typing import Final

from grapevine_proto.events import MessageReceived
from grapevine_tui.history.database import HISTORY_FILE
from grapevine_tui.history.history import History, HistorySettings
from grapevine_tui.history.records import to_key
from grapevine_tui.history.search import search_messages
from grapevine_tui.history.terms import parse_query
from grapevine_tui.history.writer import HistoryWriter, Limits, NewMessage
from tests.tui.values import a_message, a_peer

WORDS: Final = (
    "deploy",
    "error",
    "restart",
    "cache",
    "node",
    "latency",
    "peer",
    "queue",
    "disk",
    "login",
)
LIMITS: Final = Limits(4 * 2**30, 365.0)
RATE_PER_S: Final = 10_000
LIVE_S: Final = 10.0
STEP_S: Final = 0.005
QUERIES: Final = (
    "",
    "deploy",
    "user4711",
    "id=77777 ",
    "nothing-like-it",
    "error -deploy from:node-3",
    "deploy @30m",
)


def payload(rng: random.Random, number: int) -> bytes:
    return f"{' '.join(rng.choices(WORDS, k=8))} id={number} user{rng.randrange(5_000)}".encode()


def fill(path: Path, count: int) -> float:
    """Put `count` messages of the last hour; return how many were written in a second."""
    writer, rng = HistoryWriter(path, LIMITS, print), random.Random(1)
    now, started_at = time.time(), time.perf_counter()
    for number in range(count):
        message = a_message(number % 50, number, payload(rng, number))
        row = NewMessage(
            to_key(now - 3_600 * (1 - number / count)), message, f"node-{number % 50}", "eu"
        )
        while not writer.put(row):
            time.sleep(0.01)
    writer.flush(3_600)
    rate = count / (time.perf_counter() - started_at)
    writer.close(60)
    return rate


def measure_pages(path: Path) -> None:
    for words in QUERIES:
        times, processor_times = [], []
        for _ in range(5):
            started_at, processor_at = time.perf_counter(), time.thread_time()
            page = search_messages(path, parse_query(words))
            times.append((time.perf_counter() - started_at) * 1_000)
            processor_times.append((time.thread_time() - processor_at) * 1_000)
        median_ms, worst_ms = sorted(times)[2], max(times)
        print(
            f"page of {words!r:30} {len(page.rows):4} rows, {median_ms:7.1f} ms, worst {worst_ms:.1f} ms; "
            f"on the processor {sorted(processor_times)[2]:.1f} ms, worst {max(processor_times):.1f} ms"
        )


async def measure_idle() -> None:
    """The longest stall of a loop that only sleeps."""
    worst_stall, begin = 0.0, time.perf_counter()
    while time.perf_counter() - begin < LIVE_S:
        asleep = time.perf_counter()
        await asyncio.sleep(STEP_S)
        worst_stall = max(worst_stall, time.perf_counter() - asleep - STEP_S)
    print(f"idle loop: longest stall {worst_stall * 1_000:.1f} ms")


async def measure_live(directory: Path) -> None:
    """Receive `RATE_PER_S` messages a second and look at the longest stall of the loop."""
    rng, started_at = random.Random(2), time.perf_counter()
    settings = HistorySettings("on", LIMITS, keeps_direct=False)
    history = History(
        directory, settings, name_of=lambda _: "node", zone_of=lambda _: "eu", on_problem=print
    )
    opened_ms = (time.perf_counter() - started_at) * 1_000
    peers = [a_peer(number, f"node-{number}").to_dict(now=0.0) for number in range(50)]
    sampled_at = 0.0
    events = [MessageReceived(a_message(n % 50, n, payload(rng, n))) for n in range(RATE_PER_S)]
    per_step = int(RATE_PER_S * STEP_S)
    worst_put = worst_stall = worst_processor = 0.0
    sent, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < LIVE_S:
        due = int((time.perf_counter() - begin) * RATE_PER_S)
        before, processor_at = time.perf_counter(), time.thread_time()
        for number in range(sent, min(due, sent + 4 * per_step)):
            history.on_event(events[number % RATE_PER_S])
            sent += 1
        if before - sampled_at >= 1.0:
            sampled_at = before
            body = json.dumps([("poll", {"peers": peers})]).encode()
            history.sample(body, is_full=False)
        asleep = time.perf_counter()
        worst_put = max(worst_put, asleep - before)
        worst_processor = max(worst_processor, time.thread_time() - processor_at)
        await asyncio.sleep(STEP_S)
        worst_stall = max(worst_stall, time.perf_counter() - asleep - STEP_S)
    rate = sent / (time.perf_counter() - begin)
    await history.close(60.0)
    packed = len(zlib.compress(body))
    print(f"a sample of 50 peers: {len(body):,} bytes, packed {packed:,}")
    print(
        f"live: {rate:,.0f} messages/s, longest stall {worst_stall * 1_000:.1f} ms, longest step "
        f"{worst_put * 1_000:.1f} ms, on the processor {worst_processor * 1_000:.1f} ms, "
        f"lost {history.status()['lost']}, start {opened_ms:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    count = parser.parse_args().messages
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        rate = fill(directory / HISTORY_FILE, count)
        size = (directory / HISTORY_FILE).stat().st_size / 2**20
        print(f"{count:,} messages: {rate:,.0f}/s written, {size:,.0f} MiB")
        measure_pages(directory / HISTORY_FILE)
        asyncio.run(measure_idle())
        asyncio.run(measure_live(directory))


if __name__ == "__main__":
    main()
