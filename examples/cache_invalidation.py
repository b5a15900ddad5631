"""A cache in every process, before one database: ``set KEY VALUE`` makes all of them forget the old value.

    python examples/cache_invalidation.py cluster.key 127.0.0.1:17400-17409 shop.db   # several times

Type ``get KEY`` or ``set KEY VALUE``; Ctrl+D leaves. The nodes find each other in the range of ports.
"""

import asyncio
import sqlite3
import sys

from grapevine_proto import ClusterKey, Node, NodeConfig


async def main(key_file: str, ports: str, database: str) -> None:
    cache: dict[bytes, bytes] = {}
    db = sqlite3.connect(database, isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS items (key PRIMARY KEY, value)")
    typed, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)

    key = ClusterKey.load_or_generate(key_file)
    node = Node(NodeConfig.local(keys=key, bind=ports, bootstrap_peers=ports))
    node.on_message(lambda message: cache.pop(message.payload, None))  # every message names a key
    async with node:
        print("listening on", node.address)
        async for line in typed:
            match line.split(maxsplit=2):
                case [b"get", name]:
                    if name not in cache:
                        row = db.execute("SELECT value FROM items WHERE key = ?", [name])
                        cache[name] = (row.fetchone() or [b""])[0]
                    print(cache[name].decode())
                case [b"set", name, value]:
                    db.execute("REPLACE INTO items VALUES (?, ?)", [name, value.strip()])
                    cache.pop(name, None)
                    await node.publish("items.changed", name)


asyncio.run(main(*sys.argv[1:]))
