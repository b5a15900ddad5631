"""A whole cluster of real nodes in one process on loopback: how long a message takes to the last.

    python -m tests.benchmarks.bench_cluster [--nodes 10 25 50] [--strategies auto epidemic ...] [--cpu]

Each of the nodes is a `Node` over asyncio-dgram and uvloop, all linked to all. One says 200 bytes at a
time; `last` is from before `broadcast` until the last node's handler was called. In the same run: the
floor, as many bare asyncio-dgram sockets, of which one sends a datagram to each other, signed and
sealed; each opens it, and checks the signature first or afterwards (`deferred`). Machines are noisy:
the ratio to the floor says more than milliseconds, and where others use the machine as well, `--cpu`
does, which counts the processor time of this process in place of time.
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
PATIENCE_S: Final = 2.0
PAUSE_S: Final = 0.05
LINKED_WITHIN_S: Final = 30.0
DOMAIN: Final = b"benchmark"


class Result(NamedTuple):
    median_s: float
    complete: float

    def __str__(self) -> str:
        return f"{1000 * self.median_s:7.2f} ms, complete {100 * self.complete:5.1f} %"


class Arrivals:
    """Counts who got the payload of the moment, and when by `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.waiting_for = b""
        self.missing = 0
        self.last_at = 0.0
        self.all_there = asyncio.Event()

    def expect(self, payload: bytes, count: int) -> None:
        self.waiting_for, self.missing = payload, count
        self.all_there.clear()

    def take(self, payload: bytes) -> None:
        if payload == self.waiting_for:
            self.missing -= 1
            self.last_at = self.clock()
            if not self.missing:
                self.all_there.set()

    def take_message(self, message: Message) -> None:
        self.take(message.payload)

    async def seconds_since(self, began_at: float) -> float | None:
        """None: somebody is still without it."""
        try:
            await asyncio.wait_for(self.all_there.wait(), PATIENCE_S)
        except TimeoutError:
            return None
        return self.last_at - began_at


def summed_up(took_s: list[float | None]) -> Result:
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
            node.on_message(arrivals.take_message)
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
    return summed_up(took_s)


async def linked(nodes: list[Node]) -> None:
    """Wait until all are linked to all, but not for ever; says how far that came."""
    wanted = len(nodes) - 1
    give_up_at = time.monotonic() + LINKED_WITHIN_S
    for node in nodes:
        try:
            await node.ready(wanted, timeout=max(0.1, give_up_at - time.monotonic()))
        except TimeoutError:
            continue
    links = [sum(p.state is PeerState.CONNECTED for p in node.peers()) for node in nodes]
    if min(links) < wanted:
        mean = statistics.mean(links)
        print(
            f"not all are linked to all: {mean:.1f} links, at least {min(links)}", file=sys.stderr
        )


async def floor(
    count: int, rounds: int, clock: Callable[[], float], *, is_deferred: bool
) -> Result:
    """As many bare sockets."""
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
                arrivals.take(payload)
                unchecked.append((signature, payload))
            elif not verify(identity.peer_id, signature, DOMAIN, payload):
                raise AssertionError("a bad signature")
            else:
                arrivals.take(payload)

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
        if not all(verify(identity.peer_id, each, DOMAIN, said) for each, said in unchecked):
            raise AssertionError("a bad signature")
        unchecked.clear()
        await asyncio.sleep(PAUSE_S)
    for task in tasks:
        task.cancel()
    for each in sockets:
        each.close()
    return summed_up(took_s)


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
    parser.add_argument("--cpu", action="store_true", help="count processor time in place of time")
    asked = parser.parse_args()
    clock = time.process_time if asked.cpu else time.perf_counter
    return 0 if uvloop.run(run(asked.nodes, asked.strategies, asked.rounds, clock)) else 1


if __name__ == "__main__":
    sys.exit(main())
