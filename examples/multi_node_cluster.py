"""A cluster in one process: one node broadcasts, and each delivery is printed with its time and path.

    python examples/multi_node_cluster.py [NODES]

An event loop can run any number of nodes. Each has its own socket, identity and handlers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from grapevine_proto import ClusterKey, Message, MessageId, Node, NodeConfig


class Arrivals:
    """Records which node received which message, and when."""

    def __init__(self) -> None:
        self.deliveries: dict[MessageId, list[tuple[float, str, Message]]] = {}
        self._changed = asyncio.Event()

    def watch(self, node: Node, name: str) -> None:
        @node.on_message
        def record(message: Message) -> None:
            self.deliveries.setdefault(message.id, []).append((time.monotonic(), name, message))
            self._changed.set()

    async def wait_for(self, message_id: MessageId, count: int) -> None:
        while len(self.deliveries.get(message_id, ())) < count:
            self._changed.clear()
            await self._changed.wait()


async def main(count: int = 5) -> None:
    arrivals = Arrivals()
    key = ClusterKey.generate()  # a node does not answer anyone without this key
    async with AsyncExitStack() as running:
        nodes: list[Node] = []
        for number in range(count):
            # One reachable bootstrap peer is enough: a node discovers the others through it.
            bootstrap = [str(nodes[0].address)] if nodes else []
            config = NodeConfig.local(keys=[key], name=f"node-{number}", bootstrap_peers=bootstrap)
            node = await running.enter_async_context(Node(config))
            arrivals.watch(node, config.name)
            nodes.append(node)
        for node in nodes:
            await node.ready(min_peers=min(3, count - 1), timeout=10)
        print(
            f"{count} nodes with {sum(len(node.peers()) for node in nodes) / count:.1f} peers on average"
        )

        sent_at = time.monotonic()
        message_id = await nodes[0].broadcast(b"hello, cluster")
        async with asyncio.timeout(10):
            await arrivals.wait_for(message_id, count - 1)
        for at, name, message in arrivals.deliveries[message_id]:
            # via: eager (pushed), lazy (announced by ID), repair (anti-entropy)
            print(
                f"{name} after {(at - sent_at) * 1000:.1f} ms, hops {message.hops}, {message.via}"
            )
        print(f"delivered to {len(arrivals.deliveries[message_id])} of {count - 1}, once each")
    # At the end of the block each node leaves the cluster and informs the others.


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:2])))
