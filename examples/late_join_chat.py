"""A chat whose latecomers see what was said before: the last five minutes, and the subject however old it is.

    python examples/late_join_chat.py cluster.key 127.0.0.1:17400-17409 ada   # each with its own name

Lines go to all; ``/subject TEXT`` sets the subject. The nodes find each other in the range of ports. Ctrl+D
leaves.
"""

import asyncio
import sys

from grapevine_proto import ClusterKey, Node, NodeConfig


async def show(node: Node) -> None:
    async for message in node.subscribe("chat.>", ordered=True):  # begins with what was said before
        text = message.payload.decode(errors="replace")
        shown = "".join(each if each.isprintable() else "?" for each in text)  # it is untrusted
        print("subject:" if message.topic == "chat.subject" else "", shown)


async def main(key_file: str, ports: str, name: str) -> None:
    typed, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
    key = ClusterKey.load_or_generate(key_file)
    async with Node(NodeConfig.local(keys=key, bind=ports, bootstrap_peers=ports)) as node:
        print("listening on", node.address)
        showing = asyncio.create_task(show(node))
        async for line in typed:
            text = line.decode().strip()
            if text.startswith("/subject "):
                subject = text.removeprefix("/subject ").encode()
                await node.publish("chat.subject", subject, retain="subject")
            else:
                await node.publish("chat.said", f"{name}: {text}".encode())
    await showing  # it ends when the node has left


asyncio.run(main(*sys.argv[1:]))
