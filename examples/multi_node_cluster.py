"""A cluster in one process: one node speaks, and we see when and how everybody heard it.

    python examples/multi_node_cluster.py [NODES]

Any number of nodes may live in one event loop; each has its own socket, identity and handlers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from grapevine_proto import ClusterKey, Message, MessageId, Node, NodeConfig


class Arrivals:
    """Who was given which message, when. Every node gets a handler that notes it here."""

    def __init__(self) -> None:
        self.heard: dict[MessageId, list[tuple[float, str, Message]]] = {}
        self._changed = asyncio.Event()

    def listen_at(self, node: Node, name: str) -> None:
        @node.on_message
        def note(message: Message) -> None:
            self.heard.setdefault(message.id, []).append((time.monotonic(), name, message))
            self._changed.set()

    async def wait_for(self, message_id: MessageId, count: int) -> None:
        while len(self.heard.get(message_id, ())) < count:
            self._changed.clear()
            await self._changed.wait()


async def main(count: int = 5) -> None:
    arrivals = Arrivals()
    key = ClusterKey.generate()  # whoever has it is in the cluster; without it, nobody even answers
    async with AsyncExitStack() as running:
        nodes: list[Node] = []
        for number in range(count):
            # One address that answers is enough: it tells a newcomer of the others.
            bootstrap = [str(nodes[0].address)] if nodes else []
            config = NodeConfig.local(keys=[key], name=f"node-{number}", bootstrap_peers=bootstrap)
            node = await running.enter_async_context(Node(config))
            arrivals.listen_at(node, config.name)
            nodes.append(node)
        for node in nodes:
            await node.ready(min_peers=min(3, count - 1), timeout=10)
        print(
            f"{count} nodes, linked to {sum(len(node.peers()) for node in nodes) / count:.1f} each"
        )

        said_at = time.monotonic()
        message_id = await nodes[0].broadcast(b"hello, everyone")
        async with asyncio.timeout(10):
            await arrivals.wait_for(message_id, count - 1)
        for at, name, message in arrivals.heard[message_id]:
            # via: eager (pushed), lazy (an id, then asked for), repair (anti-entropy)
            print(
                f"{name} after {(at - said_at) * 1000:.1f} ms, hops {message.hops}, {message.via}"
            )
        print(f"heard by {len(arrivals.heard[message_id])} of {count - 1}, once each")
    # Leaving the block left the cluster politely: each told the others before it closed.


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:2])))
