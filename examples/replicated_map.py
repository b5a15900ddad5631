"""A key-value map that every node has a copy of, over broadcasts alone. The last writer wins.

    python examples/replicated_map.py map.key 127.0.0.1:8000
    python examples/replicated_map.py map.key 127.0.0.1:8001 127.0.0.1:8000

Key file (made where there is none), where to listen, nodes to ask first; then, a line each:
``set KEY VALUE``, ``del KEY``, ``get KEY``, ``all``. Ctrl+D leaves.

What makes the copies agree:

- *Which write wins* is decided by what stands in it, not by when it came: a Lamport clock, and of two
  writes that had not seen each other, the greater author. So messages may come in any order.
- *Whoever comes late* needs no code here: what was said in the last `message_dedup_ttl` seconds is held
  by every node, and anti-entropy gives it to whoever lacks it.
- *What is older* is said again before it is held no more, by whichever node is first to find it silent
  for so long; the others hear that and keep quiet. So entries outlive their authors.
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
    """What one key is, and who said so when. Entries of one key are compared by `clock`, then `author`."""

    clock: int
    author: str
    value: str | None  # None: deleted, which has to be remembered, or an old write would undo it

    def encode(self, key: str) -> bytes:
        return json.dumps([key, *self]).encode()


def decode(payload: bytes) -> tuple[str, Entry]:
    """Raises ValueError for what is no entry: others may broadcast anything."""
    match json.loads(payload):
        case [str(key), int(clock), str(author), str() | None as value]:
            return key, Entry(clock, author, value)
    raise ValueError("not an entry of this map")


class ReplicatedMap:
    """One node's copy. Reading is local and at once; a write is everywhere within moments."""

    def __init__(self, node: Node, *, held_s: float = 300.0) -> None:
        self._node = node
        self._held_s = held_s
        self._entries: dict[str, Entry] = {}
        self._said_at: dict[str, float] = {}  # when each key was last heard of, by the node's clock
        self._clock = 0
        node.on_message(self._hear)

    def get(self, key: str) -> str | None:
        entry = self._entries.get(key)
        return entry.value if entry else None

    def items(self) -> list[tuple[str, str]]:
        return [(key, e.value) for key, e in sorted(self._entries.items()) if e.value is not None]

    async def put(self, key: str, value: str | None) -> None:
        """Set `key`, or delete it with None. Wins over every write that this copy has seen."""
        entry = Entry(self._clock + 1, str(self._node.peer_id), value)
        self._merge(key, entry)
        await self._node.broadcast(entry.encode(key))

    def _hear(self, message: Message) -> None:
        with contextlib.suppress(ValueError):
            self._merge(*decode(message.payload))

    def _merge(self, key: str, entry: Entry) -> None:
        # Taking the greater of two is the same in any order and however often: all that agreement needs.
        self._clock = max(self._clock, entry.clock)
        kept = self._entries.get(key)
        if kept is None or entry[:2] >= kept[:2]:
            self._entries[key] = entry
            self._said_at[key] = self._node.now()

    async def keep_alive(self) -> None:
        """Say again what is about to be held no more; runs until it is cancelled."""
        while True:
            # By chance, so that nodes seldom find the same silence at the same moment.
            await asyncio.sleep(self._held_s * random.uniform(0.05, 0.15))
            old = self._node.now() - self._held_s / 2
            for key in [key for key, at in self._said_at.items() if at < old]:
                self._said_at[key] = self._node.now()
                await self._node.broadcast(self._entries[key].encode(key))


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def obey(line: str, store: ReplicatedMap) -> None:
    match line.split(maxsplit=2):
        case ["set", key, value]:
            await store.put(key, value)
        case ["del", key]:
            await store.put(key, None)
        case ["get", key]:
            print(repr(store.get(key)))  # repr: others chose the characters
        case ["all"]:
            print(dict(store.items()))
        case [_, *_]:
            print("set KEY VALUE | del KEY | get KEY | all")


async def main(key_file: str, bind: str, *bootstrap: str) -> None:
    config = NodeConfig.local(
        bind=bind, bootstrap_peers=bootstrap, keys=[ClusterKey.load_or_generate(key_file)]
    )
    node = Node(config)
    store = ReplicatedMap(node, held_s=config.message_dedup_ttl)
    async with node:
        print(f"listens on {node.address}")
        keeping = asyncio.create_task(store.keep_alive())
        typed = await lines()
        while line := await typed.readline():
            await obey(line.decode(errors="replace").strip(), store)
        keeping.cancel()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
