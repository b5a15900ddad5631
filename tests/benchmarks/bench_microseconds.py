"""Where the microseconds of a broadcast go: ``python -m tests.benchmarks.bench_microseconds [--help]``.

Two linked engines in one process, without sockets; one broadcasts 200 bytes, one message per turn, and the
other receives them. Prints the median time of each step, in a warm loop and cold (other data fills the
processor's caches between two messages), and of the cryptography and coding within, which is the floor. What
is left is this package's own bookkeeping. Then follow two nodes with sockets in one process, beside bare
sockets with as many tasks. Medians of short steps depend little on other load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import uvloop

import grapevine_proto
from grapevine_proto import ClusterKey, Node, NodeConfig, RateLimitConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.engine import Engine
from grapevine_proto.ids import Address
from grapevine_proto.runtime.udp_socket import UdpSocket
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.benchmarks.count_calls import Cluster
from tests.turn import take_turn

T = TypeVar("T")
PAYLOAD: Final = bytes(200)
KEY: Final = ClusterKey(bytes(range(32)))
CACHE_OBJECTS: Final = 400_000  # some 12 MB
SETTLE: Final = 50  # messages before the first that counts
INTERVAL_S: Final = 0.002  # of virtual time between two messages, so that ACKs keep up
SEND: Final = ("broadcast", "send turn")
RECEIVE: Final = ("receive", "receive turn", "events")
FLOOR: Final = ("sign", "encode", "seal", "open", "decode")  # the session proves the origin


def main() -> None:
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1000, help="of each kind [1000]")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args()
    warm = engine_costs(options.messages, lambda: None)
    cold = engine_costs(max(options.messages // 10, 20), Cache().fill)
    nodes = node_costs(options.messages, warm["send, whole"] + warm["receive, whole"])
    if options.json:
        compiled = grapevine_proto.compiled
        json.dump({"compiled": compiled, "warm": warm, "cold": cold, "nodes": nodes}, sys.stdout)
        return
    print(f"compiled: {grapevine_proto.compiled}\n")
    print("| Step, µs | Warm | Cold |\n|---|---|---|")
    for name, warm_us in warm.items():
        print(f"| {name} | {warm_us:.1f} | {cold[name]:.1f} |")
    print("\n| Two nodes with sockets, µs of processor time per message | |\n|---|---|")
    for name, cost_us in nodes.items():
        print(f"| {name} | {cost_us:.1f} |")


# --- engines --------------------------------------------------------------------------------------


class Cache:
    """Fills the caches of the processor with other data."""

    def __init__(self) -> None:
        self._numbers = [1000 + number for number in range(CACHE_OBJECTS)]

    def fill(self) -> None:
        sum(self._numbers)


class Times:
    """Durations by name."""

    def __init__(self) -> None:
        self._ns: dict[str, list[int]] = {}

    def run(self, name: str, step: Callable[..., T], *args: object) -> T:
        began_at = time.perf_counter_ns()
        result = step(*args)
        self._ns.setdefault(name, []).append(time.perf_counter_ns() - began_at)
        return result

    def medians_us(self) -> dict[str, float]:
        return {name: statistics.median(each) / 1000 for name, each in self._ns.items()}


def engine_costs(messages: int, before_each: Callable[[], None]) -> dict[str, float]:
    """Returns the median microseconds of each step, of the floor within, and of the rest."""
    steps = step_costs(messages, before_each) | floor_costs(messages, before_each)
    sign, encode, seal, opening, decode = (steps[name] for name in FLOOR)
    send_us, receive_us = (sum(steps[name] for name in names) for names in (SEND, RECEIVE))
    return steps | {
        "send, whole": send_us,
        "send, own bookkeeping": send_us - sign - encode - seal,
        "receive, whole": receive_us,
        "receive, own bookkeeping": receive_us - opening - decode,
    }


def step_costs(messages: int, before_each: Callable[[], None]) -> dict[str, float]:
    cluster = Cluster(2, rate_limit=RateLimitConfig(enabled=False))
    sender, receiver = cluster.engines
    source, sender_at = cluster.addresses
    times, now = Times(), cluster.now

    def deliver(engine: Engine, datagrams: list[tuple[bytes, Address]], source: Address) -> None:
        for datagram, _ in datagrams:
            engine.receive(datagram, source, now)

    for number in range(SETTLE + messages):
        each = times if number >= SETTLE else Times()
        now += INTERVAL_S
        before_each()
        each.run("broadcast", sender.broadcast, PAYLOAD, now)
        sent = each.run("send turn", take_turn, sender, now)
        before_each()
        each.run("receive", deliver, receiver, sent, source)
        replies = each.run("receive turn", take_turn, receiver, now)
        each.run("events", receiver.events)
        deliver(sender, replies, sender_at)
        sender.events()
    return times.medians_us()


def floor_costs(messages: int, before_each: Callable[[], None]) -> dict[str, float]:
    identity = Identity(bytes(32))
    ours = Session(b"a" * 8, b"b" * 8, KEY, True, b"1" * 32, b"2" * 32, 0.0)
    theirs = Session(b"b" * 8, b"a" * 8, KEY, False, b"2" * 32, b"1" * 32, 0.0)
    rumor = Rumor.signed(identity, "default", 1, 1, (PAYLOAD,))
    copy = RumorCopy(rumor, 1, 0)
    plaintext = codec.encode_rumors([codec.encode_rumor_copy(copy)])

    def open_datagram(datagram: bytes) -> None:
        packet = codec.decode_packet(datagram)
        assert isinstance(packet, codec.Data)
        theirs.open(packet, 0.0)

    times = Times()
    for _ in range(messages):
        before_each()
        times.run("sign", Rumor.signed, identity, "default", 1, 1, (PAYLOAD,))
        times.run("encode", lambda: codec.encode_rumors([codec.encode_rumor_copy(copy)]))
        datagram = times.run("seal", ours.seal, plaintext, 0.0)
        before_each()
        times.run("open", open_datagram, datagram)
        times.run("decode", codec.decode_message, plaintext)
        times.run("verify", rumor.is_authentic, "default")
    return times.medians_us()


# --- nodes ----------------------------------------------------------------------------------------


def node_costs(messages: int, engines_us: float) -> dict[str, float]:
    """Returns the processor time of two nodes in this process, per message of a turn of its own."""
    pairs = [
        (uvloop.run(exchange(messages)), uvloop.run(exchange_bare(messages))) for _ in range(5)
    ]
    nodes_us, bare_us = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {
        "two nodes": nodes_us,
        "of it the engines": engines_us,
        "of it sockets and wake-ups, as bare ones take": bare_us,
        "of it drivers and delivery to the application": nodes_us - engines_us - bare_us,
    }


async def exchange(messages: int) -> float:
    """Returns the processor time of one message between two nodes, in microseconds."""
    config = NodeConfig(keys=(KEY,), rate_limit=RateLimitConfig(enabled=False))
    async with Node(config) as receiver:
        arrived = asyncio.Event()
        receiver.on_message(lambda _: arrived.set())
        async with Node(config.replace(bootstrap_peers=[str(receiver.address)])) as sender:
            await sender.ready()
            return await time_rounds(messages, lambda: sender.broadcast(PAYLOAD), arrived)


async def exchange_bare(messages: int) -> float:
    """The same between two sockets: a task at each end, and no more."""
    one, other = await UdpSocket.open("127.0.0.1:0"), await UdpSocket.open("127.0.0.1:0")
    arrived, wanted = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        while True:
            await other.receive()
            arrived.set()

    async def write() -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            await one.send(PAYLOAD, other.address)

    async def want() -> None:
        wanted.set()

    tasks = [asyncio.create_task(each) for each in (read(), write())]
    try:
        return await time_rounds(messages, want, arrived)
    finally:
        for task in tasks:
            task.cancel()
        one.close()
        other.close()


async def time_rounds(
    messages: int, send: Callable[[], Awaitable[object]], arrived: asyncio.Event
) -> float:
    """Returns the processor time of one round, in microseconds: `send`, then wait for `arrived`."""
    began_at = 0.0
    for number in range(SETTLE + messages):
        if number == SETTLE:
            began_at = time.process_time()
        arrived.clear()
        await send()
        await arrived.wait()
    return (time.process_time() - began_at) / messages * 1e6


if __name__ == "__main__":
    main()
