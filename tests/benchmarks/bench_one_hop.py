"""Throughput and cost of one hop: ``python -m tests.benchmarks.bench_one_hop [--help]``.

Sender and receiver are two processes on loopback, each on its own core, on uvloop. For comparison, bare
asyncio-dgram sends payloads of the same size in the same run, one per datagram (larger payloads in the
largest datagrams that loopback carries), with a window, so that none is lost. Ratios depend less on the
machine than rates do. `a core` is the rate at which the busier end would use a whole core, from its
processor time. Then follow microseconds per stage on one core, and the memory of links.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import asyncio_dgram
import uvloop

from grapevine_proto import ClusterKey, Node, NodeConfig, RateLimitConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.ids import Address
from grapevine_proto.runtime.udp_socket import SOCKET_BUFFER_BYTES, UdpSocket
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RumorCopy, Rumors
from grapevine_proto.wire.signed import Rumor
from tests.turn import take_turn

KEY: Final = ClusterKey(bytes(range(32)))
QUIET_S: Final = 8.0  # after this time without a payload the rest counts as lost
LARGEST: Final = 65_000  # bytes of a bare datagram
WINDOW: Final = 512  # bare datagrams in flight, and at most WINDOW_BYTES
WINDOW_BYTES: Final = SOCKET_BUFFER_BYTES // 4
ACKS_A_WINDOW: Final = 8
MIB: Final = 2**20


class Case(NamedTuple):
    """Payloads of `size` bytes; the target is a rate per second, or a ratio to bare sockets."""

    name: str
    size: int
    a_second: int  # payloads per second of `--seconds`
    is_limited: bool = False
    batch_bytes: int = 2**16
    is_one_a_turn: bool = False  # the event loop turns after each
    target: int = 0
    target_ratio: float = 0.0
    messages: int = 0

    @property
    def config(self) -> NodeConfig:
        limit = RateLimitConfig(enabled=self.is_limited)
        return NodeConfig(keys=(KEY,), rate_limit=limit, batch_bytes=self.batch_bytes)


CASES: Final = (
    Case("100 B in batches", 100, 60_000, target=60_000),
    Case("100 B alone", 100, 12_000, batch_bytes=1, target=15_000),
    Case("100 B, one a turn", 100, 6_000, is_one_a_turn=True, target=10_000),
    Case("1 KB in batches", 1024, 20_000),
    Case("1 KB alone", 1024, 8_000, batch_bytes=1),
    Case("64 KB", 64 * 1024, 1_000),
    Case("10 MiB", 10 * MIB, 4, target_ratio=1 / 3),
    Case("100 B, default limits", 100, 20_000, is_limited=True, target=5_000),
)


class Run(NamedTuple):
    """Result of one run: payloads a second, CPU microseconds per payload at each end, and losses."""

    rate: float
    sender_us: float
    receiver_us: float
    lost: int

    @property
    def of_a_core(self) -> float:
        """Payloads a second at which the busier end would use a whole core."""
        return 1e6 / max(self.sender_us, self.receiver_us, 1e-9)


# --- grapevine ------------------------------------------------------------------------------------


async def receive(pipe: Connection, case: Case) -> None:
    done, received = asyncio.Event(), 0

    def on_message(_: object) -> None:
        nonlocal received
        received += 1
        if received == case.messages:
            done.set()

    async with Node(case.config) as node:
        node.on_message(on_message)
        pipe.send(str(node.address))
        await node.ready()
        pipe.send("ready")
        before_s = time.process_time()
        last_at, last = time.monotonic(), 0
        while not done.is_set() and time.monotonic() - last_at < QUIET_S:
            try:
                await asyncio.wait_for(done.wait(), 0.5)
            except TimeoutError:
                if received != last:
                    last_at, last = time.monotonic(), received
        ended_at = time.monotonic() if done.is_set() else last_at
        pipe.send((ended_at, received, time.process_time() - before_s))
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
            if case.is_one_a_turn:
                await asyncio.sleep(0)
        pipe.send(began_at)
        await asyncio.to_thread(pipe.recv)
        pipe.send(time.process_time() - before_s)


# --- bare -----------------------------------------------------------------------------------------


def cut(size: int) -> list[int]:
    """Returns the sizes of the datagrams that carry one payload."""
    whole, rest = divmod(size, LARGEST)
    return [LARGEST] * whole + [rest] * bool(rest)


def window_of(case: Case) -> tuple[int, int]:
    """Returns the number of datagrams in flight, and that between two acknowledgments."""
    window = max(8, min(WINDOW, WINDOW_BYTES // min(case.size, LARGEST)))
    return window, max(1, window // ACKS_A_WINDOW)


async def receive_bare(pipe: Connection, case: Case) -> None:
    stream = await asyncio_dgram.bind(("127.0.0.1", 0))
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    pipe.send(str(Address(*stream.sockname[:2])))
    pipe.send("ready")
    before_s = time.process_time()
    count, (_, every) = case.messages * len(cut(case.size)), window_of(case)
    for number in range(1, count + 1):
        _, source = await stream.recv()
        if number % every == 0 or number == count:
            await stream.send(b"ack", source)
    pipe.send((time.monotonic(), case.messages, time.process_time() - before_s))
    await asyncio.to_thread(pipe.recv)


async def send_bare(pipe: Connection, case: Case, address: str) -> None:
    where = Address.parse(address)
    stream = await asyncio_dgram.connect((where.host, where.port))
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    payloads = [bytes(size) for size in cut(case.size)]
    window, every = window_of(case)
    began_at, before_s, sent, acked = time.monotonic(), time.process_time(), 0, 0
    for _ in range(case.messages):
        for payload in payloads:
            await stream.send(payload)
            sent += 1
            while sent - acked >= window:
                await stream.recv()
                acked += every
    pipe.send(began_at)
    await asyncio.to_thread(pipe.recv)
    pipe.send(time.process_time() - before_s)


# --- both ends ------------------------------------------------------------------------------------


def run_process(
    main: Callable[..., Awaitable[None]], core: int, pipe: Connection, *args: object
) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})

    async def run() -> None:
        await main(pipe, *args)

    uvloop.run(run())


def one_hop(case: Case, *, bare: bool = False) -> Run:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    pipe, far = context.Pipe()
    receive_main, send_main = (receive_bare, send_bare) if bare else (receive, send)
    receiver = context.Process(target=run_process, args=(receive_main, 0, theirs, case))
    receiver.start()
    sender = context.Process(target=run_process, args=(send_main, 1, far, case, ours.recv()))
    sender.start()
    pipe.recv()
    ours.recv()
    pipe.send("go")
    began_at = pipe.recv()
    ended_at, received, receiver_s = ours.recv()
    pipe.send("done")
    sender_s = pipe.recv()
    ours.send("done")
    for process in (sender, receiver):
        process.join()
    return Run(
        received / (ended_at - began_at),
        sender_s / max(received, 1) * 1e6,
        receiver_s / max(received, 1) * 1e6,
        case.messages - received,
    )


def middle(runs: list[Run]) -> Run:
    """Returns the run of median rate, with the losses of all runs."""
    runs = sorted(runs, key=lambda run: run.rate)
    return runs[len(runs) // 2]._replace(lost=sum(run.lost for run in runs))


HEADS: Final = ("a second", "a core", "MB/s", "us sender", "us receiver", "lost")
BARE_HEADS: Final = ("bare", "ratio", "a core", "ratio", "target")


def goodput(seconds: float, repeats: int, only: str) -> list[dict[str, Any]]:
    heads = (
        "".join(f"{head:>12}" for head in HEADS) + " |" + "".join(f"{h:>10}" for h in BARE_HEADS)
    )
    print(f"{'one hop':22}{heads}", file=sys.stderr)
    rows = []
    for case in CASES:
        if only in case.name:
            case = case._replace(messages=max(3, int(case.a_second * seconds)))
            rows.append(
                report_case(
                    case, [(one_hop(case), one_hop(case, bare=True)) for _ in range(repeats)]
                )
            )
    return rows


def report_case(case: Case, pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    """Prints the results of one case, and returns them for JSON."""
    run, bare = middle([pair[0] for pair in pairs]), middle([pair[1] for pair in pairs])
    ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)
    core_ratio = statistics.median(ours.of_a_core / theirs.of_a_core for ours, theirs in pairs)
    target = (
        f"{case.target:,}"
        if case.target
        else f"{case.target_ratio:.2f}"
        if case.target_ratio
        else ""
    )
    print(
        f"{case.name:22}{run.rate:12,.0f}{run.of_a_core:12,.0f}{run.rate * case.size / 1e6:12.1f}"
        f"{run.sender_us:12.1f}{run.receiver_us:12.1f}{run.lost:12}"
        f" |{bare.rate:10,.0f}{ratio:10.2f}{bare.of_a_core:10,.0f}{core_ratio:10.2f}{target:>10}",
        file=sys.stderr,
        flush=True,
    )
    return {
        "case": case.name,
        **run._asdict(),
        "of_a_core": run.of_a_core,
        "bare": bare.rate,
        "ratio": ratio,
        "bare_of_a_core": bare.of_a_core,
        "ratio_of_a_core": core_ratio,
    }


# --- stages ---------------------------------------------------------------------------------------


def best_us(work: Callable[[], object], count: int = 2000, repeats: int = 5) -> float:
    def once() -> float:
        began_at = time.process_time()
        for _ in range(count):
            work()
        return (time.process_time() - began_at) / count * 1e6

    return min(once() for _ in range(repeats))


STAGES: Final = ("sign", "pack", "seal", "send", "receive", "open", "decode", "verify")


def stages() -> dict[str, dict[str, float]]:
    print(f"\n{'us CPU a datagram':22}" + "".join(f"{name:>9}" for name in STAGES), file=sys.stderr)
    found = {}
    for name, payloads in (
        ("one of 100 B", (bytes(100),)),
        ("nine of 100 B", (bytes(100),) * 9),
        ("one of 1,000 B", (bytes(1000),)),
    ):
        costs = dict(zip(STAGES, stage_costs(payloads), strict=True))
        print(f"{name:22}" + "".join(f"{cell:9.1f}" for cell in costs.values()), file=sys.stderr)
        found[name] = costs
    return found


def stage_costs(payloads: tuple[bytes, ...]) -> list[float]:
    identity = Identity(bytes(32))
    rumor = Rumor.signed(identity, "default", 1, 1, payloads)
    copy = RumorCopy(rumor, 1, 0)
    plaintext = codec.encode_message(Rumors((copy,)))
    ours = Session(b"a" * 8, b"b" * 8, KEY, True, b"1" * 32, b"2" * 32, 0.0)
    theirs = Session(b"b" * 8, b"a" * 8, KEY, False, b"2" * 32, b"1" * 32, 0.0)
    sealed = [ours.seal(plaintext, 0.0) for _ in range(10_000)]
    datagrams = iter(sealed)

    def open_next() -> None:
        packet = codec.decode_packet(next(datagrams))
        assert isinstance(packet, codec.Data)
        theirs.open(packet, 0.0)

    send_us, receive_us = uvloop.run(socket_costs(sealed[0]))
    return [
        best_us(lambda: Rumor.signed(identity, "default", 1, 1, payloads)),
        best_us(lambda: codec.encode_rumors([codec.encode_rumor_copy(copy)])),
        best_us(lambda: ours.seal(plaintext, 0.0)),
        send_us,
        receive_us,
        best_us(open_next),
        best_us(lambda: codec.decode_message(plaintext)),
        best_us(lambda: rumor.is_authentic("default")),
    ]


async def socket_costs(datagram: bytes, count: int = 200, repeats: int = 20) -> tuple[float, float]:
    """Returns the microseconds in which a `UdpSocket` sends and receives one datagram, in groups that fit
    the buffer."""
    one, other = await UdpSocket.open("127.0.0.1:0"), await UdpSocket.open("127.0.0.1:0")
    sends, receives = [], []
    for _ in range(repeats):
        began_at = time.process_time()
        for _ in range(count):
            await one.send(datagram, other.address)
        sent_at = time.process_time()
        for _ in range(count):
            await other.receive()
        sends.append(sent_at - began_at)
        receives.append(time.process_time() - sent_at)
    one.close()
    other.close()
    return min(sends) / count * 1e6, min(receives) / count * 1e6


# --- memory ---------------------------------------------------------------------------------------


def memory() -> dict[str, float]:
    """Returns the memory of an engine and its idle links, without interpreter and libraries."""
    tracemalloc.start()
    sizes = []
    for links in (1, 50):
        before = tracemalloc.get_traced_memory()[0]
        hub = linked_to(links)
        sizes.append((tracemalloc.get_traced_memory()[0] - before) / 1024)
        assert len(hub.peers(0.0)) == links
        del hub
    tracemalloc.stop()
    a_link = (sizes[1] - sizes[0]) / 49
    print(
        f"\nan engine with 1 idle link: {sizes[0]:,.0f} KB; with 50: {sizes[1]:,.0f} KB;"
        f" {a_link:.1f} KB a link",
        file=sys.stderr,
    )
    return {"one_link_kb": sizes[0], "fifty_links_kb": sizes[1], "a_link_kb": a_link}


def linked_to(count: int) -> Engine:
    """Returns an engine with `count` links, whose other ends no longer exist."""

    def make(number: int, bootstrap: tuple[str, ...]) -> Engine:
        rng = random.Random(number)
        return Engine(
            NodeConfig(keys=(KEY,), bootstrap_peers=bootstrap),
            NodeState(rng.randbytes(32), 1),
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
            for _ in range(6):
                for datagram, to in take_turn(peer, now):
                    if to == addresses[0]:
                        hub.receive(datagram, addresses[number], now)
                for datagram, to in take_turn(hub, now):
                    if to == addresses[number]:
                        peer.receive(datagram, addresses[0], now)
        hub.events()
    return hub


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate, per line and end")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs per line; the median is printed"
    )
    parser.add_argument("--case", default="", help="only lines with this in their name")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    arguments = parser.parse_args()
    rows = goodput(arguments.seconds, arguments.repeats, arguments.case)
    found: dict[str, Any] = {"goodput": rows}
    if not arguments.case:
        found |= {"stages_us": stages(), "memory": memory()}
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
