"""A map that every node has: the latest write of a key wins everywhere, and nodes that join later get all.

    python examples/replicated_map.py map.key 127.0.0.1:17400-17409   # several times

Type ``KEY=VALUE``, or an empty line to see the map. Ctrl+D leaves.
"""

import asyncio
import sys

from grapevine_proto import ClusterKey, Node, NodeConfig


async def main(key_file: str, ports: str) -> None:
    key = ClusterKey.load_or_generate(key_file)
    async with Node(NodeConfig.local(keys=key, bind=ports, bootstrap_peers=ports)) as node:
        print("listening on", node.address)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, equals, value = line.strip().partition("=")
            if equals:
                await node.state.set(f"map/{name}", value.encode())
            print({each.key: each.value for each in node.state.keys("map/")})


asyncio.run(main(*sys.argv[1:]))
