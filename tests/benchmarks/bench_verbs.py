"""What programs may rely on, in numbers: ``python -m tests.benchmarks.bench_verbs [--help]``.

- `slow`: messages into a handler of 2 ms, with each `on_full`: how many are dropped, and whether the node
  stays `up` at its peer.
- `exit`: programs that join, broadcast once and exit, one after another: how many messages are lost.
- `synced`: how long a joining node takes to say that it has the backlog.
- `workers`: processes that start at once with one key file that does not exist yet: how many fail.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal

from grapevine_proto import (
    ClusterKey,
    EventsLost,
    MemberChanged,
    MemberStatus,
    Message,
    MessageReceived,
    Node,
    NodeConfig,
    RateLimitConfig,
)

KEY: Final = ClusterKey(bytes(range(32)))
UNLIMITED: Final = RateLimitConfig(enabled=False)
HANDLER_S: Final = 0.002


def config(*bootstrap: Node, **changes: Any) -> NodeConfig:
    addresses = [node.address for node in bootstrap]
    return NodeConfig.local(keys=KEY, bootstrap_peers=addresses, rate_limit=UNLIMITED, **changes)


async def slow(
    count: int, on_full: Literal["pause", "drop_oldest", "drop_newest"]
) -> dict[str, Any]:
    """`count` messages into a handler of `HANDLER_S`."""
    async with Node(config()) as receiver, Node(config(receiver)) as sender:
        await asyncio.gather(receiver.ready(), sender.ready())
        handled, dropped = 0, 0
        is_done = asyncio.Event()
        statuses: set[str] = {MemberStatus.UP.value}

        @receiver.on_message(on_full=on_full)
        async def handle(message: Message) -> None:
            nonlocal handled
            await asyncio.sleep(HANDLER_S)
            handled += 1
            if message.payload == b"last" or handled + dropped == count + 1:
                is_done.set()

        @receiver.on_event
        def count_lost(event: object) -> None:
            nonlocal dropped
            if isinstance(event, EventsLost):
                dropped += event.count

        @sender.on_event
        def watch(event: object) -> None:
            if isinstance(event, MemberChanged) and event.member.peer_id == receiver.peer_id:
                statuses.add(event.member.status.value)

        started_at = time.perf_counter()
        for number in range(count):
            await sender.broadcast(b"%d" % number)
        sent_s = time.perf_counter() - started_at
        if on_full == "drop_newest":  # the last message must not be among those dropped
            arrived = receiver.events(MessageReceived)
            while receiver.stats().delivered < count:
                await anext(arrived)
        await sender.broadcast(b"last")
        await is_done.wait()
        return {
            "handled": handled,
            "dropped": receiver.stats().events_lost,
            "statuses": sorted(statuses),
            "sent_s": round(sent_s, 1),
            "s": round(time.perf_counter() - started_at, 1),
        }


async def exits(count: int) -> dict[str, Any]:
    """Programs that join, broadcast and exit."""
    async with Node(config()) as receiver:
        messages = receiver.messages()
        for number in range(count):
            async with Node(config(receiver)) as program:
                await program.broadcast(b"%d" % number)
        received: set[bytes] = set()
        with_deadline = asyncio.timeout(10)
        try:
            async with with_deadline:
                while len(received) < count:
                    received.add((await anext(messages)).payload)
        except TimeoutError:
            pass
        return {"programs": count, "lost": count - len(received)}


async def synced(backlog: int) -> dict[str, Any]:
    """A node that joins two others with a backlog."""
    async with Node(config()) as first, Node(config(first)) as second:
        await asyncio.gather(first.ready(), second.ready())
        for number in range(backlog):
            await first.broadcast(b"%d" % number)
        await first.flush()
        started_at = time.perf_counter()
        arrived_at = 0.0
        late = Node(config(first, second))

        @late.on_message
        def note(message: Message) -> None:
            nonlocal arrived_at
            arrived_at = time.perf_counter()

        async with late:
            await late.synced(timeout=60)
            synced_at = time.perf_counter()
            return {
                "missing": backlog - late.stats().delivered,
                "backlog_s": round(arrived_at - started_at, 2),
                "synced_s": round(synced_at - started_at, 2),
            }


def _work(directory: str, start: Any, results: Any) -> None:
    async def main() -> None:
        key = ClusterKey.load_or_generate(Path(directory, "keys", "cluster.key"))
        async with Node(NodeConfig.local(keys=key)):
            results.put(key.fingerprint)

    start.wait()
    try:
        asyncio.run(main())
    except Exception as error:  # noqa: BLE001  that is what is counted
        results.put(f"{type(error).__name__}: {error}")


def workers(count: int) -> dict[str, Any]:
    """Processes that load or create the same key file at once, and start a node with it."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as directory:
        start, results = context.Barrier(count), context.Queue()
        processes = [
            context.Process(target=_work, args=(directory, start, results)) for _ in range(count)
        ]
        for process in processes:
            process.start()
        outcomes = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
        fingerprint = ClusterKey.load(Path(directory, "keys", "cluster.key")).fingerprint
    failures = [each for each in outcomes if each != fingerprint]
    return {"workers": count, "failed": len(failures), "errors": failures[:3]}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench_verbs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="slow, exit, synced, workers [all]")
    parser.add_argument("--messages", type=int, default=30_000, help="of `slow` [30000]")
    arguments = parser.parse_args()
    parts = arguments.parts or ["workers", "exit", "synced", "slow"]
    found: dict[str, Any] = {}

    def show(name: str, values: dict[str, Any]) -> None:
        found[name] = values
        text = ", ".join(f"{key} {value}" for key, value in values.items())
        print(f"{name}: {text}", flush=True)

    if "workers" in parts:  # first: it forks, and threads of event loops would be in the way
        show("workers", workers(160))
    if "exit" in parts:
        show("exit", asyncio.run(exits(100)))
    if "synced" in parts:
        show("synced", asyncio.run(synced(10_000)))
    if "slow" in parts:
        for on_full in ("pause", "drop_oldest", "drop_newest"):
            show(f"slow, {on_full}", asyncio.run(slow(arguments.messages, on_full)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
