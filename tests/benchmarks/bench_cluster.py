"""Broadcast latency in a cluster of real nodes in one process on loopback.

    python -m tests.benchmarks.bench_cluster [--nodes 10 25 50] [--strategies auto epidemic ...] [--cpu]

Each node is a `Node` over uvloop, linked to all others. One node broadcasts 200 bytes; the latency is the
time from the call of `broadcast` until the handler of the last node runs. The floor is measured in the
same run: as many bare asyncio-dgram sockets, of which one sends a signed and sealed datagram to each
other, which opens it and verifies the signature before or after (`deferred`) counting it. The ratio to
the floor depends less on the machine than milliseconds do. If other programs use the machine, `--cpu`
counts the processor time of this process instead.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import asyncio_dgram
import uvloop
from nacl.bindings import crypto_secretbox, crypto_secretbox_open

from grapevine_proto import ClusterKey, Message, Node, NodeConfig, PeerState
from grapevine_proto.config.node import STRATEGIES
from grapevine_proto.crypto.identity import Identity, verify

KEY: Final = ClusterKey(bytes(range(32)))
SIZE: Final = 200
DELIVERY_TIMEOUT_S: Final = 2.0
PAUSE_S: Final = 0.05
LINKS_TIMEOUT_S: Final = 30.0
DOMAIN: Final = b"benchmark"


class Result(NamedTuple):
    median_s: float
    complete: float

    def __str__(self) -> str:
        return f"{1000 * self.median_s:7.2f} ms, complete {100 * self.complete:5.1f} %"


class Arrivals:
    """Counts the nodes that received the current payload, and records the time of the last by `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.waiting_for = b""
        self.missing = 0
        self.last_at = 0.0
        self.all_there = asyncio.Event()

    def expect(self, payload: bytes, count: int) -> None:
        self.waiting_for, self.missing = payload, count
        self.all_there.clear()

    def on_payload(self, payload: bytes) -> None:
        if payload == self.waiting_for:
            self.missing -= 1
            self.last_at = self.clock()
            if not self.missing:
                self.all_there.set()

    def on_message(self, message: Message) -> None:
        self.on_payload(message.payload)

    async def seconds_since(self, began_at: float) -> float | None:
        """Returns the latency of the last delivery; None: a node has not received the payload."""
        try:
            await asyncio.wait_for(self.all_there.wait(), DELIVERY_TIMEOUT_S)
        except TimeoutError:
            return None
        return self.last_at - began_at


def summarize(took_s: list[float | None]) -> Result:
    done = [each for each in took_s if each is not None]
    return Result(statistics.median(done) if done else float("nan"), len(done) / len(took_s))


async def cluster(count: int, strategy: str, rounds: int, clock: Callable[[], float]) -> Result:
    config = NodeConfig(keys=(KEY,), strategy=strategy, max_peers=max(50, count))
    nodes: list[Node] = []
    arrivals = Arrivals(clock)
    try:
        for _ in range(count):
            known = [str(each.address) for each in nodes[:3]]
            node = Node(config.replace(bootstrap_peers=known))
            node.on_message(arrivals.on_message)
            await node.start()
            nodes.append(node)
        await linked(nodes)
        took_s: list[float | None] = []
        for number in range(-3, rounds):  # the first few warm up
            payload = b"%d " % number + os.urandom(SIZE - 8)
            arrivals.expect(payload, count - 1)
            began_at = clock()
            await nodes[number % count].broadcast(payload)
            took = await arrivals.seconds_since(began_at)
            if number >= 0:
                took_s.append(took)
            await asyncio.sleep(PAUSE_S)
    finally:
        await asyncio.gather(*(node.leave(timeout=1.0) for node in nodes))
    return summarize(took_s)


async def linked(nodes: list[Node]) -> None:
    """Waits, with a timeout, until all nodes are connected to each other; warns if they are not."""
    others = len(nodes) - 1
    give_up_at = time.monotonic() + LINKS_TIMEOUT_S
    for node in nodes:
        try:
            await node.ready(others, timeout=max(0.1, give_up_at - time.monotonic()))
        except TimeoutError:
            continue
    links = [sum(p.state is PeerState.CONNECTED for p in node.peers()) for node in nodes]
    if min(links) < others:
        mean = statistics.mean(links)
        print(
            f"not fully connected: {mean:.1f} links on average, at least {min(links)}",
            file=sys.stderr,
        )


async def floor(
    count: int, rounds: int, clock: Callable[[], float], *, is_deferred: bool
) -> Result:
    """Measures `count` bare sockets."""
    identity, secret = Identity(bytes(32)), bytes(32)
    arrivals = Arrivals(clock)
    unchecked: list[tuple[bytes, bytes]] = []
    sockets = [await asyncio_dgram.bind(("127.0.0.1", 0)) for _ in range(count)]

    async def receive(socket: asyncio_dgram.DatagramServer) -> None:
        while True:
            datagram, _ = await socket.recv()
            opened = crypto_secretbox_open(datagram[24:], datagram[:24], secret)
            signature, payload = opened[:64], opened[64:]
            if is_deferred:
                arrivals.on_payload(payload)
                unchecked.append((signature, payload))
            elif not verify(identity.peer_id, signature, DOMAIN, payload):
                raise AssertionError("a bad signature")
            else:
                arrivals.on_payload(payload)

    tasks = [asyncio.create_task(receive(each)) for each in sockets[1:]]
    took_s: list[float | None] = []
    for number in range(rounds):
        payload = os.urandom(SIZE)
        arrivals.expect(payload, count - 1)
        began_at = clock()
        signed = identity.sign(DOMAIN, payload) + payload
        for index, each in enumerate(sockets[1:]):
            nonce = (number * count + index).to_bytes(24, "big")
            await sockets[0].send(nonce + crypto_secretbox(signed, nonce, secret), each.sockname)
        took_s.append(await arrivals.seconds_since(began_at))
        if not all(verify(identity.peer_id, each, DOMAIN, payload) for each, payload in unchecked):
            raise AssertionError("a bad signature")
        unchecked.clear()
        await asyncio.sleep(PAUSE_S)
    for task in tasks:
        task.cancel()
    for each in sockets:
        each.close()
    return summarize(took_s)


async def run(
    sizes: list[int], strategies: list[str], rounds: int, clock: Callable[[], float]
) -> bool:
    is_complete = True
    for count in sizes:
        checked = await floor(count, rounds, clock, is_deferred=False)
        deferred = await floor(count, rounds, clock, is_deferred=True)
        print(f"{count:3} nodes  floor, checked    {checked}")
        print(f"{count:3} nodes  floor, deferred   {deferred}", flush=True)
        for strategy in strategies:
            got = await cluster(count, strategy, rounds, clock)
            is_complete = is_complete and got.complete == 1.0
            ratio = got.median_s / checked.median_s
            print(f"{count:3} nodes  {strategy:16}  {got}, {ratio:5.1f} of floor", flush=True)
    return is_complete


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cpu", action="store_true", help="measure processor time instead of time")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    return 0 if uvloop.run(run(options.nodes, options.strategies, options.rounds, clock)) else 1


if __name__ == "__main__":
    sys.exit(main())
