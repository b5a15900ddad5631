"""A configuration store: each process sees a change at once, and gets what it missed when it comes back.

    python examples/config_store.py cluster.key 127.0.0.1:17400-17409 state-1   # each its own directory

Type ``set KEY VALUE``, ``get KEY`` or ``del KEY``; Ctrl+D leaves. Values outlive the process that set them.
"""

import asyncio
import sys

from grapevine_proto import ClusterKey, Node, NodeConfig


async def follow(node: Node) -> None:
    async for change in node.state.watch("cfg/"):
        if change.is_winner:
            print("changed", change.key, change.value)


async def main(key_file: str, ports: str, state_dir: str) -> None:
    typed, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
    key = ClusterKey.load_or_generate(key_file)
    config = NodeConfig.local(keys=key, bind=ports, bootstrap_peers=ports)
    node = Node(config, state_dir=state_dir)
    following = asyncio.create_task(follow(node))  # before the start, so that nothing is missed
    async with node:
        print("listening on", node.address)
        async for line in typed:
            match line.decode().strip().split(maxsplit=2):
                case ["set", name, value]:
                    await node.state.set(f"cfg/{name}", value.encode(), durable=True)
                case ["get", name]:
                    print(name, "is", node.state.get(f"cfg/{name}"))
                case ["del", name]:
                    await node.state.delete(f"cfg/{name}")
    await following


asyncio.run(main(*sys.argv[1:]))
