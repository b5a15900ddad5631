"""A node on one page: joins, prints messages, broadcasts typed lines, leaves on Ctrl+C or Ctrl+D.

    python examples/simple_node.py cluster.key 127.0.0.1:8000
    python examples/simple_node.py cluster.key 127.0.0.1:8001 127.0.0.1:8000

Arguments: the cluster key file, created if it does not exist; the listen address; bootstrap peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from grapevine_proto import ClusterKey, Message, Node, NodeConfig, PeerState, PeerStateChanged


async def lines() -> asyncio.StreamReader:
    """Returns a reader of the lines typed on stdin."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(key_file: str, bind: str, *bootstrap: str) -> None:
    config = NodeConfig.local(
        bind=bind, bootstrap_peers=bootstrap, keys=ClusterKey.load_or_generate(key_file)
    )
    async with Node(config) as node:
        print(f"{node.peer_id.short} listening on {node.address}")

        @node.on_message
        def show(message: Message) -> None:
            # repr, because payloads are untrusted and may contain control characters
            print(f"{message.origin.short} ({message.hops} hops): {message.payload!r}")

        @node.on_event
        def report(event: object) -> None:
            if isinstance(event, PeerStateChanged) and event.peer.state is not PeerState.STALE:
                print(f"{event.peer.peer_id.short} is {event.peer.state} ({event.reason})")

        typed = await lines()
        while line := await typed.readline():
            await node.broadcast(line.rstrip(b"\n"))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
