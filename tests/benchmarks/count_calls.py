"""Counts the Python calls that one received broadcast costs: ``python -m tests.benchmarks.count_calls``.

Three linked nodes under strategy `auto`. One of them broadcasts, so that no ACK of an earlier one shares a
datagram; the others receive. Calls are counted with `sys.setprofile` inside `Engine.receive`, so the
numbers depend neither on the machine nor on its load. Prints calls and distinct source files per received
broadcast, then the functions.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final

import grapevine_proto
from grapevine_proto import ClusterKey, NodeConfig
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.events import MessageReceived
from grapevine_proto.ids import Address
from tests.turn import take_turn

KEY: Final = ClusterKey(bytes(range(32)))
PACKAGE: Final = str(Path(grapevine_proto.__file__).parent)
NODES: Final = 3
BROADCASTS: Final = 50
STEP_S: Final = 0.05  # virtual time between two turns


class Cluster:
    """Engines that exchange datagrams without loss, in virtual time; `changes` are settings."""

    def __init__(self, nodes: int = NODES, **changes: Any) -> None:
        self.now = 0.0
        self._changes = changes
        self.addresses = [Address("10.0.0.1", 8000 + number) for number in range(nodes)]
        self.engines = [self._make(number) for number in range(nodes)]
        self.calls: list[Counter[str]] = []  # of each datagram that delivered a broadcast
        while any(len(engine.peers(self.now)) < nodes - 1 for engine in self.engines):
            self.turn()
        for _ in range(300):  # announcements and probes of the new links, while they are new
            self.turn()

    def _make(self, number: int) -> Engine:
        rng = random.Random(number)
        bootstrap = () if number == 0 else (str(self.addresses[0]),)
        return Engine(
            NodeConfig(keys=(KEY,), bootstrap_peers=bootstrap, **self._changes),
            NodeState(rng.randbytes(32), 1),
            address=self.addresses[number],
            rng=rng,
            entropy=rng.randbytes,
            now=self.now,
        )

    def turn(self, *, is_counted: bool = False) -> None:
        """Lets time pass, then delivers datagrams until no node has more to send."""
        self.now += STEP_S
        is_busy = True
        while is_busy:
            is_busy = False
            for number, engine in enumerate(self.engines):
                for datagram, to in take_turn(engine, self.now):
                    is_busy = True
                    receiver = self.engines[self.addresses.index(to)]
                    self._receive(receiver, datagram, self.addresses[number], is_counted)

    def _receive(self, engine: Engine, datagram: bytes, source: Address, is_counted: bool) -> None:
        engine.events()
        calls: Counter[str] = Counter()

        def count(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(PACKAGE):
                path = code.co_filename.removeprefix(PACKAGE)
                calls[f"{path[1:]}:{code.co_qualname}"] += 1

        sys.setprofile(count)
        engine.receive(datagram, source, self.now)
        sys.setprofile(None)
        if is_counted and any(isinstance(event, MessageReceived) for event in engine.events()):
            self.calls.append(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", action="store_true", help="list calls by function")
    arguments = parser.parse_args()
    cluster = Cluster()
    for _ in range(BROADCASTS):
        cluster.engines[0].broadcast(bytes(100), cluster.now)
        cluster.turn(is_counted=True)
    total = sum(cluster.calls, Counter())
    received = len(cluster.calls)
    files = [len({name.split(":")[0] for name in calls}) for calls in cluster.calls]
    print(
        f"{received} broadcasts received: {total.total() / received:.1f} calls"
        f" in {sum(files) / received:.1f} files each"
    )
    if arguments.functions:
        for name, count in total.most_common():
            print(f"{count / received:6.2f}  {name}")


if __name__ == "__main__":
    main()
