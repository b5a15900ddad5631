"""How quick is one hop? `python -m tests.benchmarks.bench_one_hop [--messages N] [--size BYTES] [--json]`

Two processes on loopback, a sender and a receiver, on whatever cores there are. Once as nodes:
signed, sealed, rate limit off, every message counted by the receiver's handler. Once as bare
asyncio-dgram sockets with the same payloads and nothing else. Machines differ and are noisy, so the
figure to quote is the ratio of the two, measured in one run. `repaired` are messages that the kernel
dropped because the sender was quicker, and that anti-entropy brought: with many of them the rate is that
of repair, and a run of fewer messages shows the hop itself. Not comparable line by line with systems
that sign nothing or run in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Coroutine
from typing import Any

import asyncio_dgram

from grapevine_proto import (
    ClusterKey,
    Message,
    Node,
    NodeConfig,
    PeerState,
    RateLimitConfig,
    Via,
)

KEY = ClusterKey(bytes(range(32)))
QUIET_S = 2.0  # without another datagram the rest is lost
BATCH = 64
Result = dict[str, float]


def config(*bootstrap: str) -> NodeConfig:
    return NodeConfig(
        keys=(KEY,), bootstrap_peers=bootstrap, rate_limit=RateLimitConfig(enabled=False)
    )


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """Counts what arrives, from the first to the last; done at `wanted` or after a quiet moment."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.count = 0
        self.repaired = 0
        self.first_at = self.last_at = self.cpu_at_first = self.cpu_at_last = 0.0
        self.all_came = asyncio.Event()

    def note(self, message: object = None) -> None:
        self.repaired += isinstance(message, Message) and message.via is Via.REPAIR
        if self.count == 0:
            self.first_at, self.cpu_at_first = time.perf_counter(), cpu_s()
        self.count += 1
        self.last_at = time.perf_counter()
        if self.count >= self.wanted:
            self.all_came.set()

    async def result(self) -> Result:
        while not self.all_came.is_set():
            before = self.count
            try:
                async with asyncio.timeout(QUIET_S):
                    await self.all_came.wait()
            except TimeoutError:
                if before and self.count == before:
                    break
        span_s = max(self.last_at - self.first_at, 1e-9)
        return {
            "received": self.count,
            "repaired": self.repaired,
            "per_second": self.count / span_s,
            "receiver_cpu_us": (cpu_s() - self.cpu_at_first) / max(self.count, 1) * 1e6,
        }


async def receive_as_node(messages: int) -> Result:
    async with Node(config()) as node:
        meter = Meter(messages)
        node.on_message(meter.note)
        print(node.address, flush=True)
        return await meter.result()


async def send_as_node(target: str, messages: int, payload: bytes) -> Result:
    async with Node(config(target)) as node:
        await node.ready()
        before = cpu_s()
        for _ in range(messages):
            await node.broadcast(payload)
        cpu_us = (cpu_s() - before) / messages * 1e6
        left = asyncio.Event()
        node.on_event(lambda _: left.set() if not linked(node) else None)
        while linked(node):
            await left.wait()
        return {"sender_cpu_us": cpu_us}


def linked(node: Node) -> bool:
    return any(peer.state is PeerState.CONNECTED for peer in node.peers())


async def receive_bare(messages: int) -> Result:
    stream = await asyncio_dgram.bind(("127.0.0.1", 0))
    sock = stream.socket
    sock.setsockopt(1, 8, 4 * 2**20)  # SOL_SOCKET, SO_RCVBUF: as much as a node asks for
    host, port = stream.sockname[:2]
    meter = Meter(messages)
    print(f"{host}:{port}", flush=True)

    async def read() -> None:
        while True:
            meter.note(await stream.recv())
            if meter.count % BATCH == 0:
                await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    result = await meter.result()
    reading.cancel()
    stream.close()
    return result


async def send_bare(target: str, messages: int, payload: bytes) -> Result:
    host, _, port = target.rpartition(":")
    stream = await asyncio_dgram.connect((host, int(port)))
    before = cpu_s()
    for number in range(messages):
        await stream.send(payload)
        if number % BATCH == 0:
            await asyncio.sleep(0)
    cpu_us = (cpu_s() - before) / messages * 1e6
    await asyncio.sleep(QUIET_S / 2)
    stream.close()
    return {"sender_cpu_us": cpu_us}


def run(main: Coroutine[Any, Any, Result], loop: str) -> Result:
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def measure(kind: str, arguments: argparse.Namespace) -> Result:
    """One pair of processes; what both ends say."""
    program = (
        *(sys.executable, "-m", "tests.benchmarks.bench_one_hop", "--loop", arguments.loop),
        *("--messages", str(arguments.messages), "--size", str(arguments.size)),
    )
    with subprocess.Popen(
        (*program, "--as", f"receive-{kind}"), stdout=subprocess.PIPE, text=True
    ) as receiver:
        assert receiver.stdout is not None
        target = receiver.stdout.readline().strip()
        sender = subprocess.run(
            (*program, "--as", f"send-{kind}", "--target", target),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        received = json.loads(receiver.stdout.read())
    result: Result = {**received, **json.loads(sender.stdout)}
    return result


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=200, help="bytes of each payload")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--as", dest="role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--target", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    messages, payload = arguments.messages, os.urandom(arguments.size)
    match arguments.role:
        case "receive-node":
            print(json.dumps(run(receive_as_node(messages), arguments.loop)))
        case "receive-bare":
            print(json.dumps(run(receive_bare(messages), arguments.loop)))
        case "send-node":
            print(
                json.dumps(run(send_as_node(arguments.target, messages, payload), arguments.loop))
            )
        case "send-bare":
            print(json.dumps(run(send_bare(arguments.target, messages, payload), arguments.loop)))
        case _:
            report(arguments, measure("node", arguments), measure("bare", arguments))


def report(arguments: argparse.Namespace, node: Result, bare: Result) -> None:
    ratio = node["per_second"] / bare["per_second"]
    if arguments.json:
        print(json.dumps({"node": node, "bare": bare, "ratio": ratio, **vars(arguments)}))
        return
    print(f"{arguments.messages} messages of {arguments.size} bytes, {arguments.loop}")
    print(
        f"{'':6}{'per second':>12}{'received':>10}{'repaired':>10}{'us CPU, sender':>16}{'receiver':>10}"
    )
    for name, result in (("node", node), ("bare", bare)):
        print(
            f"{name:6}{result['per_second']:12,.0f}{result['received']:10,.0f}{result['repaired']:10,.0f}"
            f"{result['sender_cpu_us']:16.1f}{result['receiver_cpu_us']:10.1f}"
        )
    print(f"one hop, signed and sealed: {ratio:.3f} of bare asyncio-dgram")


if __name__ == "__main__":
    main()
