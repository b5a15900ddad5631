"""How much goes over one hop: ``python -m tests.benchmarks.bench_flow [SECONDS]``.

Sender and receiver are two processes on loopback, each on asyncio-dgram and uvloop. Each line stands
beside bare asyncio-dgram moving payloads of the same size in the same run, one to a datagram, with
a window so that none is lost: machines differ, ratios less. Then microseconds by stage, on one core
and without a socket, and what links weigh.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import resource
import socket
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import asyncio_dgram
import uvloop

from grapevine_proto import (
    ClusterKey,
    Event,
    EventsLost,
    Node,
    NodeConfig,
    RateLimitConfig,
    codec,
)
from grapevine_proto.endpoint import BUFFER_BYTES
from grapevine_proto.engine import Engine, Saved
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address
from grapevine_proto.link.session import Session
from grapevine_proto.messages import Rumor, RumorCopy, Rumors

KEY = ClusterKey(bytes(range(32)))
WINDOW = 512  # datagrams of bare asyncio-dgram on their way
ACK_EVERY = 64


class Run(NamedTuple):
    """What one hop carried: payloads a second, CPU microseconds of each end for one, and loss."""

    rate: float
    sender_us: float
    receiver_us: float
    lost: int


class Case(NamedTuple):
    """So many payloads of so many bytes."""

    name: str
    size: int
    messages: int
    is_limited: bool = False
    bundle_bytes: int = 2**16

    @property
    def config(self) -> NodeConfig:
        limit = RateLimitConfig(enabled=self.is_limited)
        return NodeConfig(keys=(KEY,), rate_limit=limit, bundle_bytes=self.bundle_bytes)


# --- grapevine ----------------------------------------------------------------------------------


async def receive(pipe: Connection, case: Case) -> None:
    done, heard, dropped = asyncio.Event(), 0, 0

    def note(event: Event) -> None:
        nonlocal heard, dropped
        if isinstance(event, EventsLost):
            dropped += event.count

    def take(_: object) -> None:
        nonlocal heard
        heard += 1
        if heard == case.messages:
            done.set()

    async with Node(case.config) as node:
        node.on_event(note)
        node.on_message(take)
        pipe.send(str(node.address))
        await node.ready()
        pipe.send("ready")
        before_s = time.process_time()
        quiet, last = 0, -1
        while not done.is_set() and quiet < 8:  # seconds without a word: the rest is lost
            try:
                await asyncio.wait_for(done.wait(), 1.0)
            except TimeoutError:
                quiet, last = (quiet + 1 if heard == last else 0), heard
        pipe.send((time.monotonic() - quiet, heard, time.process_time() - before_s, node.stats()))
        await asyncio.to_thread(pipe.recv)


async def send(pipe: Connection, case: Case, address: str) -> None:
    async with Node(case.config.replace(bootstrap_peers=[address])) as node:
        await node.ready()
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        payload = bytes(case.size)
        began_at, before_s = time.monotonic(), time.process_time()
        for _ in range(case.messages):
            await node.broadcast(payload)
        pipe.send(began_at)
        await asyncio.to_thread(pipe.recv)
        pipe.send((time.process_time() - before_s, node.stats()))


# --- bare ---------------------------------------------------------------------------------------


async def receive_bare(pipe: Connection, case: Case) -> None:
    stream = await asyncio_dgram.bind(("127.0.0.1", 0))
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    pipe.send(str(Address(*stream.sockname[:2])))
    pipe.send("ready")
    before_s = time.process_time()
    for number in range(1, case.messages + 1):
        _, source = await stream.recv()
        if number % ACK_EVERY == 0 or number == case.messages:
            await stream.send(b"ack", source)
    pipe.send((time.monotonic(), case.messages, time.process_time() - before_s, None))
    await asyncio.to_thread(pipe.recv)


async def send_bare(pipe: Connection, case: Case, address: str) -> None:
    where = Address.parse(address)
    stream = await asyncio_dgram.connect((where.host, where.port))
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    payload = bytes(case.size)
    began_at, before_s, acked = time.monotonic(), time.process_time(), 0
    for number in range(case.messages):
        await stream.send(payload)
        while number - acked >= WINDOW:
            await stream.recv()
            acked += ACK_EVERY
    pipe.send(began_at)
    await asyncio.to_thread(pipe.recv)
    pipe.send((time.process_time() - before_s, None))


# --- both ends ----------------------------------------------------------------------------------


def play(main: Callable[..., Awaitable[None]], pipe: Connection, *args: object) -> None:
    async def run() -> None:
        await main(pipe, *args)

    uvloop.run(run())


def one_hop(case: Case, *, bare: bool = False) -> Run:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=play, args=(receive_bare if bare else receive, theirs, case))
    receiver.start()
    address = ours.recv()
    pipe, far = context.Pipe()
    sender = context.Process(target=play, args=(send_bare if bare else send, far, case, address))
    sender.start()
    pipe.recv()
    ours.recv()
    pipe.send("go")
    began_at = pipe.recv()
    ended_at, heard, receiver_s, _ = ours.recv()
    pipe.send("done")
    sender_s, _ = pipe.recv()
    ours.send("done")
    for process in (sender, receiver):
        process.join()
    elapsed_s = ended_at - began_at
    return Run(
        heard / elapsed_s,
        sender_s / heard * 1e6,
        receiver_s / heard * 1e6,
        case.messages - heard,
    )


def goodput(seconds: float) -> None:
    cases = [
        Case("100 B in bundles", 100, int(50_000 * seconds)),
        Case("100 B alone", 100, int(12_000 * seconds), bundle_bytes=1),
        Case("1 KB", 1000, int(12_000 * seconds)),
        Case("8 B, default limits", 8, 30_000, is_limited=True),
    ]
    print(
        f"{'one hop':22}{'a second':>10}{'MB/s':>8}{'us sender':>11}{'us receiver':>12}{'lost':>6}"
        f"{'bare':>10}{'ratio':>8}"
    )
    for case in cases:
        run, bare = one_hop(case), one_hop(case, bare=True)
        print(
            f"{case.name:22}{run.rate:10,.0f}{run.rate * case.size / 1e6:8.1f}"
            f"{run.sender_us:11.1f}{run.receiver_us:12.1f}{run.lost:6}"
            f"{bare.rate:10,.0f}{run.rate / bare.rate:8.2f}",
            flush=True,
        )


# --- stages -------------------------------------------------------------------------------------


def best_us(work: Callable[[], object], count: int = 2000, repeats: int = 5) -> float:
    def once() -> float:
        began_at = time.perf_counter()
        for _ in range(count):
            work()
        return (time.perf_counter() - began_at) / count * 1e6

    return min(once() for _ in range(repeats))


STAGES = ("sign", "pack", "seal", "open", "decode", "verify")


def stages() -> None:
    print(f"\n{'us a datagram':22}" + "".join(f"{name:>8}" for name in STAGES))
    for name, payloads in (
        ("one of 100 B", (bytes(100),)),
        ("nine of 100 B", (bytes(100),) * 9),
        ("one of 1,000 B", (bytes(1000),)),
    ):
        print(f"{name:22}" + "".join(f"{cell:8.1f}" for cell in stage_costs(payloads)))


def stage_costs(payloads: tuple[bytes, ...]) -> list[float]:
    identity = Identity(bytes(32))
    rumor = Rumor.signed(identity, "default", 1, 1, payloads)
    copy = RumorCopy(rumor, 1, 0)
    plaintext = codec.encode_message(Rumors((copy,)))
    ours = Session(b"a" * 8, b"b" * 8, KEY, True, b"1" * 32, b"2" * 32, 0.0)
    theirs = Session(b"b" * 8, b"a" * 8, KEY, False, b"2" * 32, b"1" * 32, 0.0)
    datagrams = iter([ours.seal(plaintext, 0.0) for _ in range(10_000)])

    def open_next() -> None:
        packet = codec.decode_packet(next(datagrams))
        assert isinstance(packet, codec.Data)
        theirs.open(packet, 0.0)

    return [
        best_us(lambda: Rumor.signed(identity, "default", 1, 1, payloads)),
        best_us(lambda: codec.join_copies([codec.encode_copy(copy)])),
        best_us(lambda: ours.seal(plaintext, 0.0)),
        best_us(open_next),
        best_us(lambda: codec.decode_message(plaintext)),
        best_us(lambda: rumor.is_authentic("default")),
    ]


# --- memory -------------------------------------------------------------------------------------


def memory() -> None:
    """Of the engine and its idle links; the interpreter and its libraries are the floor."""
    floor_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tracemalloc.start()
    sizes = []
    for links in (1, 50):
        before = tracemalloc.get_traced_memory()[0]
        hub = linked_to(links)
        sizes.append(tracemalloc.get_traced_memory()[0] - before)
        assert len(hub.peers(0.0)) == links
        del hub
    tracemalloc.stop()
    print(
        f"\nan engine with 1 idle link: {sizes[0] / 1024:,.0f} KB; with 50: {sizes[1] / 1024:,.0f} KB,"
        f" so {(sizes[1] - sizes[0]) / 49 / 1024:.1f} KB a link (process so far: {floor_mb:.0f} MB)"
    )


def linked_to(count: int) -> Engine:
    """An engine with so many links, and nobody at their other end any more."""

    def make(number: int, bootstrap: tuple[str, ...]) -> Engine:
        rng = random.Random(number)
        return Engine(
            NodeConfig(keys=(KEY,), bootstrap_peers=bootstrap),
            Saved(rng.randbytes(32), 1),
            address=addresses[number],
            rng=rng,
            entropy=rng.randbytes,
            now=0.0,
        )

    addresses = [Address("10.0.0.1", 1000 + number) for number in range(count + 1)]
    hub = make(0, ())
    for number in range(1, count + 1):
        peer, now = make(number, (str(addresses[0]),)), 0.0
        while not hub.peers(now) or len(hub.peers(now)) < number:
            now += 0.05
            if peer.deadline <= now:
                peer.advance(now)
            for _ in range(6):
                for datagram, to in peer.datagrams_to_send(now):
                    if to == addresses[0]:
                        hub.receive(datagram, addresses[number], now)
                for datagram, to in hub.datagrams_to_send(now):
                    if to == addresses[number]:
                        peer.receive(datagram, addresses[0], now)
        hub.events()
    return hub


if __name__ == "__main__":
    goodput(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0)
    stages()
    memory()
