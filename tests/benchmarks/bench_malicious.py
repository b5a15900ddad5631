"""What one malicious member costs two honest nodes: ``python -m tests.benchmarks.bench_malicious
[--help]``.

Two real nodes exchange messages at a steady rate, first undisturbed, then while a third member, in a
process of its own, sends all attacks of `tests/scenarios/worst_case.py` at once, at twenty times its
allowed rate. The exit code is 1 if a message is missing, the 99th percentile of the delivery time
reaches 100 ms, the process of the two nodes grows beyond 100 MiB, or the member is not expelled.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any, Final

from grapevine_proto import ClusterKey, Event, MessageReceived, Node, NodeConfig, PeerId
from grapevine_proto.events import Standing, StandingChanged
from grapevine_proto.sim.report import percentile

KEY: Final = ClusterKey(bytes(range(32)))
MAX_P99_MS: Final = 100.0
MAX_MEMORY_MIB: Final = 100.0
PATIENCE_S: Final = 60.0  # for the last message and for the expulsion


def attack_forever(address: str, victim: bytes) -> None:
    """Join at `address` and attack the node `victim` until this process is terminated."""
    from tests.scenarios.real_attack import attack  # the honest process never loads it

    async def main() -> None:
        config = NodeConfig.local(keys=[KEY], bootstrap_peers=[address])
        async with Node(config) as malicious:
            await attack(malicious, PeerId(victim))

    asyncio.run(main())


def memory_mib() -> float:
    """The resident memory of this process."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * 4096 / 2**20


async def wait_for(event: asyncio.Event) -> None:
    """Wait for `event`, at most `PATIENCE_S`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), PATIENCE_S)


def percentile_ms(values: list[float], fraction: float) -> float | None:
    return round(percentile(sorted(values), fraction), 2) if values else None


class Exchange:
    """Two nodes that broadcast to each other, and how long each message took."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sent_at: dict[bytes, float] = {}
        self.delays_ms: list[float] = []
        self.all_delivered = asyncio.Event()
        self.expelled = asyncio.Event()
        self.expelled_at = 0.0
        self.until_expelled = 0  # delays measured until then

    def observe(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, MessageReceived):
            sent_at = self.sent_at.get(event.message.payload)
            if sent_at is not None:
                self.delays_ms.append((now - sent_at) * 1000)
                if len(self.delays_ms) == 2 * self.count:
                    self.all_delivered.set()
        elif self.expelled.is_set():
            return
        elif isinstance(event, StandingChanged) and event.standing is Standing.EXPELLED:
            self.expelled_at, self.until_expelled = now, len(self.delays_ms)
            self.expelled.set()

    async def run(self, nodes: tuple[Node, Node], interval_s: float) -> None:
        """Broadcast `count` messages from each node, then wait until all are delivered."""
        for number in range(self.count):
            for name, node in zip((b"first", b"second"), nodes, strict=True):
                payload = b"%s %d" % (name, number)
                self.sent_at[payload] = time.perf_counter()
                await node.broadcast(payload)
            await asyncio.sleep(interval_s)
        await wait_for(self.all_delivered)


async def measure(count: int, interval_s: float, *, is_attacked: bool) -> dict[str, Any]:
    """One exchange. Times are in ms, memory is in MiB."""
    config = NodeConfig.local(keys=[KEY])
    exchange = Exchange(count)
    async with Node(config) as first:
        address = str(first.address)
        async with Node(config.replace(bootstrap_peers=(address,))) as second:
            for node in (first, second):
                node.on_event(exchange.observe)
            await second.ready()
            started_at = time.perf_counter()
            attacker = multiprocessing.get_context("spawn").Process(
                target=attack_forever, args=(address, bytes(first.peer_id)), daemon=True
            )
            if is_attacked:
                attacker.start()
            try:
                await exchange.run((first, second), interval_s)
                if is_attacked:
                    await wait_for(exchange.expelled)
            finally:
                if is_attacked:
                    attacker.terminate()
                    attacker.join()
    delays = exchange.delays_ms
    was_expelled = exchange.expelled.is_set()
    return {
        "attacked": is_attacked,
        "sent": 2 * count,
        "delivered": len(delays),
        "p50_ms": percentile_ms(delays, 0.5),
        "p99_ms": percentile_ms(delays, 0.99),
        "max_ms": percentile_ms(delays, 1),
        "p99_until_expelled_ms": percentile_ms(delays[: exchange.until_expelled], 0.99),
        "expelled_after_s": round(exchange.expelled_at - started_at, 1) if was_expelled else None,
        "memory_mib": round(memory_mib(), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1000, help="from each of the two nodes")
    parser.add_argument("--interval-ms", type=float, default=20.0, help="between two messages")
    args = parser.parse_args()
    results = [
        asyncio.run(measure(args.messages, args.interval_ms / 1000, is_attacked=is_attacked))
        for is_attacked in (False, True)
    ]
    for result in results:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
    print(json.dumps(results))
    attacked = results[1]
    is_unharmed = (
        attacked["delivered"] == attacked["sent"]
        and attacked["p99_ms"] < MAX_P99_MS
        and attacked["memory_mib"] < MAX_MEMORY_MIB
        and attacked["expelled_after_s"] is not None
    )
    return 0 if is_unharmed else 1


if __name__ == "__main__":
    raise SystemExit(main())
