"""A cluster in one process: one node broadcasts, and each delivery is printed with its time and path.

    python examples/multi_node_cluster.py [NODES]

An event loop can run any number of nodes. Each has its own socket, identity and readers.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from datetime import timedelta

from grapevine_proto import ClusterKey, Node, NodeConfig


async def main(count: int = 5) -> None:
    key = ClusterKey.generate()  # a node does not answer anyone without this key
    async with AsyncExitStack() as running:
        nodes: list[Node] = []
        for number in range(count):
            # One reachable bootstrap peer is enough: a node discovers the others through it.
            bootstrap = [nodes[0].address] if nodes else []
            config = NodeConfig.local(keys=key, name=f"node-{number}", bootstrap_peers=bootstrap)
            nodes.append(await running.enter_async_context(Node(config)))
        for node in nodes:
            await node.ready(min_peers=min(3, count - 1), timeout=timedelta(seconds=10))
        print(
            f"{count} nodes with {sum(len(node.peers()) for node in nodes) / count:.1f} peers on average"
        )

        readers = {node.config.name: node.messages() for node in nodes[1:]}
        sent_at = nodes[0].now()
        await nodes[0].broadcast(b"hello, cluster")
        for name, messages in readers.items():
            message = await anext(messages)
            # via: eager (pushed), lazy (announced by ID), repair (anti-entropy)
            print(
                f"{name} after {(message.received_at - sent_at) * 1000:.1f} ms,"
                f" hops {message.hops}, {message.via}"
            )
    # At the end of the block each node leaves the cluster and informs the others, and readers end.
    again = [each for messages in readers.values() async for each in messages]
    print(f"delivered to {len(readers)} of {count - 1}, {'once' if not again else 'twice'} each")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:2])))
