"""A key-value map replicated to every node by broadcasts. The last writer wins.

    python examples/replicated_map.py map.key 127.0.0.1:8000
    python examples/replicated_map.py map.key 127.0.0.1:8001 127.0.0.1:8000

Arguments: the cluster key file, created if it does not exist; the listen address; bootstrap peers. Then
one command per line: ``set KEY VALUE``, ``del KEY``, ``get KEY``, ``all``. Ctrl+D leaves.

Why all replicas converge:

- *Order.* The content of a write decides whether it wins, not its arrival: a Lamport clock, and the greater
  author for concurrent writes. Messages may arrive in any order.
- *Late joiners* need no code here. Every node caches the messages of the last `message_dedup_ttl` seconds,
  and anti-entropy delivers them to nodes that lack them.
- *Older entries* are broadcast again before they leave the caches, by the first node that notices; the
  others see that and stay quiet. Entries therefore outlive their authors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from typing import NamedTuple

from grapevine_proto import ClusterKey, Message, Node, NodeConfig


class Entry(NamedTuple):
    """The value of one key. Entries of one key are ordered by `clock`, then `author`."""

    clock: int
    author: str
    value: str | None  # None: deleted. The entry is kept, or an older write would restore the key

    def encode(self, key: str) -> bytes:
        return json.dumps([key, *self]).encode()


def decode(payload: bytes) -> tuple[str, Entry]:
    """Raises ValueError if `payload` is not an entry: any member may broadcast anything."""
    match json.loads(payload):
        case [str(key), int(clock), str(author), str() | None as value]:
            return key, Entry(clock, author, value)
    raise ValueError("not an entry of this map")


class ReplicatedMap:
    """The replica of one node. Reads are local; a write reaches the other replicas within moments."""

    def __init__(self, node: Node, *, cached_s: float = 300.0) -> None:
        self._node = node
        self._cached_s = cached_s
        self._entries: dict[str, Entry] = {}
        self._updated_at: dict[str, float] = {}  # last broadcast of each key, on the node's clock
        self._clock = 0
        node.on_message(self._on_message)

    def get(self, key: str) -> str | None:
        entry = self._entries.get(key)
        return entry.value if entry else None

    def items(self) -> list[tuple[str, str]]:
        return [(key, e.value) for key, e in sorted(self._entries.items()) if e.value is not None]

    async def put(self, key: str, value: str | None) -> None:
        """Sets `key`, or deletes it with None. Wins over every write that this replica has seen."""
        entry = Entry(self._clock + 1, str(self._node.peer_id), value)
        self._merge(key, entry)
        await self._node.broadcast(entry.encode(key))

    def _on_message(self, message: Message) -> None:
        with contextlib.suppress(ValueError):
            self._merge(*decode(message.payload))

    def _merge(self, key: str, entry: Entry) -> None:
        # The maximum does not depend on order or repetition, so all replicas converge.
        self._clock = max(self._clock, entry.clock)
        current = self._entries.get(key)
        if current is None or entry[:2] >= current[:2]:
            self._entries[key] = entry
            self._updated_at[key] = self._node.now()

    async def keep_alive(self) -> None:
        """Broadcasts entries again before they leave the caches. Runs until it is canceled."""
        while True:
            # Random, so that nodes seldom refresh the same entry at the same time.
            await asyncio.sleep(self._cached_s * random.uniform(0.05, 0.15))
            old = self._node.now() - self._cached_s / 2
            for key in [key for key, at in self._updated_at.items() if at < old]:
                self._updated_at[key] = self._node.now()
                await self._node.broadcast(self._entries[key].encode(key))


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def execute(line: str, store: ReplicatedMap) -> None:
    match line.split(maxsplit=2):
        case ["set", key, value]:
            await store.put(key, value)
        case ["del", key]:
            await store.put(key, None)
        case ["get", key]:
            print(repr(store.get(key)))  # repr, because values are untrusted
        case ["all"]:
            print(dict(store.items()))
        case [_, *_]:
            print("set KEY VALUE | del KEY | get KEY | all")


async def main(key_file: str, bind: str, *bootstrap: str) -> None:
    config = NodeConfig.local(
        bind=bind, bootstrap_peers=bootstrap, keys=ClusterKey.load_or_generate(key_file)
    )
    node = Node(config)
    store = ReplicatedMap(node, cached_s=config.message_dedup_ttl)
    async with node:
        print(f"listening on {node.address}")
        with contextlib.suppress(TimeoutError):  # no peer answers yet: what they have comes later
            await node.synced()
        refresh = asyncio.create_task(store.keep_alive())
        typed = await lines()
        while line := await typed.readline():
            await execute(line.decode(errors="replace").strip(), store)
        refresh.cancel()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
