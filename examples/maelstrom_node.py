#!/usr/bin/env python3
"""A node for Maelstrom (https://github.com/jepsen-io/maelstrom) and the Gossip Glomers challenges.

It drives `Engine` without sockets: a datagram to the node `n7` is a line of JSON to it, so that Maelstrom
delays, drops and counts every packet. Workloads: echo, broadcast, unique-ids, g-set.

    ./maelstrom test -w broadcast --bin examples/maelstrom_node.py --node-count 25 --time-limit 20 \
        --rate 100 --latency 100 --nemesis partition

GRAPEVINE_BATCH_DELAY is the setting `batch_delay` in seconds: fewer packets per message, and later. The
broadcast challenges take 0.25 (3d) and 0.6 (3e).
"""

from __future__ import annotations

import json
import math
import os
import random
import select
import sys
import time
from base64 import b64decode, b64encode
from hashlib import blake2b
from typing import Any

from grapevine_proto import (
    Address,
    ClusterKey,
    Engine,
    EntryChanged,
    Message,
    MessageReceived,
    NodeConfig,
    NodeState,
)

KEY = ClusterKey(blake2b(b"maelstrom", digest_size=32).digest())  # all processes are ours
SET_KEY = "set"  # of the keyed state: the elements that were added at one node
READ_BYTES = 65_536


def address_of(node_id: str) -> Address:
    """Maelstrom's nodes are n0, n1, ...; each gets an address of its own."""
    number = int(node_id.removeprefix("n"))
    return Address(f"10.0.{number // 250}.{number % 250 + 1}", 8000)


class MaelstromNode:
    """One node: lines from Maelstrom in, lines out."""

    def __init__(self) -> None:
        self.node_id = ""
        self.engine: Engine | None = None
        self.has_topology = False  # of the workloads, only broadcast sends one
        self.values: list[Any] = []  # delivered and own ones, duplicates included
        self.sets: dict[Any, list[Any]] = {}  # elements by the node that got them
        self.added: list[Any] = []
        self.generated = 0
        self._nodes: dict[Address, str] = {}

    def send(self, to: str, body: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"src": self.node_id, "dest": to, "body": body}) + "\n")

    def handle(self, line: bytes) -> None:
        request = json.loads(line)
        source, body = request["src"], request["body"]
        if body["type"] == "dg":
            assert self.engine is not None
            self.engine.receive(b64decode(body["b"]), address_of(source), time.monotonic())
            return
        reply = self.answer(body)
        if reply is not None and "msg_id" in body:
            self.send(source, reply | {"in_reply_to": body["msg_id"]})

    def answer(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Executes a request. Returns the body of the reply."""
        match body["type"]:
            case "init":
                self.start(body["node_id"], body["node_ids"])
                return {"type": "init_ok"}
            case "echo":
                return {"type": "echo_ok", "echo": body["echo"]}
            case "topology":  # ours is its own
                self.has_topology = True
                return {"type": "topology_ok"}
            case "broadcast":
                self.broadcast(body["message"])
                return {"type": "broadcast_ok"}
            case "add":
                self.add(body["element"])
                return {"type": "add_ok"}
            case "read" if self.has_topology:
                return {"type": "read_ok", "messages": self.values}
            case "read":
                elements = {json.dumps(each) for some in self.sets.values() for each in some}
                return {"type": "read_ok", "value": [json.loads(each) for each in elements]}
            case "generate":
                return {"type": "generate_ok", "id": self.next_id()}
            case "error" | "init_ok":
                return None
            case unknown:
                return {"type": "error", "code": 10, "text": f"{unknown} is not supported"}

    def start(self, node_id: str, node_ids: list[str]) -> None:
        self.node_id = node_id
        self._nodes = {address_of(each): each for each in node_ids}
        config = NodeConfig(
            keys=KEY,
            name=node_id,
            bootstrap_peers=[str(address_of(each)) for each in node_ids if each != node_id],
            batch_delay=float(os.environ.get("GRAPEVINE_BATCH_DELAY", "0")),
        )
        seed = blake2b(node_id.encode(), digest_size=32).digest()
        self.engine = Engine(
            config,
            NodeState(seed, int(time.time())),
            address=address_of(node_id),
            rng=random.Random(os.urandom(16)),
            entropy=os.urandom,
            now=time.monotonic(),
        )

    def broadcast(self, value: Any) -> None:
        assert self.engine is not None
        self.values.append(value)
        self.engine.broadcast(json.dumps(value).encode(), time.monotonic())

    def add(self, element: Any) -> None:
        assert self.engine is not None
        self.added.append(element)
        self.sets[self.engine.peer_id] = self.added
        self.engine.set_entry(SET_KEY, json.dumps(self.added).encode(), time.monotonic())

    def next_id(self) -> str:
        """Unique without asking anyone: the identity, its epoch and a counter."""
        assert self.engine is not None
        self.generated += 1
        return f"{self.engine.peer_id}:{self.engine.epoch}:{self.generated}"

    def deliver(self, message: Message) -> None:
        self.values.append(json.loads(message.payload))

    def take_turn(self) -> float:
        """Sends what is due. Returns how long the node may sleep, in seconds."""
        engine = self.engine
        if engine is None:
            return math.inf
        now = time.monotonic()
        if engine.deadline <= now:
            engine.advance(now)
        for datagram, to in engine.datagrams_to_send(now):
            if to in self._nodes:
                self.send(self._nodes[to], {"type": "dg", "b": b64encode(datagram).decode()})
        for event in engine.events():
            if isinstance(event, MessageReceived):
                self.deliver(event.message)
            elif isinstance(event, EntryChanged) and event.key == SET_KEY and event.value:
                self.sets[event.owner] = json.loads(event.value)
        return max(0.0, engine.deadline - time.monotonic())

    def run(self) -> None:
        """Serves until the end of the input."""
        rest = b""
        while True:
            sleep_s = self.take_turn()
            sys.stdout.flush()
            timeout_s = None if sleep_s == math.inf else sleep_s
            if not select.select([0], [], [], timeout_s)[0]:
                continue
            piece = os.read(0, READ_BYTES)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    self.handle(line)


if __name__ == "__main__":
    MaelstromNode().run()
