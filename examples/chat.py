"""A serverless chat: lines go to everyone, /to NAME sends to one member, joins and leaves are shown.

    python examples/chat.py chat.key 127.0.0.1:8000 --name ada
    python examples/chat.py chat.key 127.0.0.1:8001 127.0.0.1:8000 --name bob

Arguments: the cluster key file, created if it does not exist; the listen address; bootstrap peers; your
name. Ctrl+D leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import sys
from pathlib import Path

from grapevine_proto import (
    ClusterKey,
    Event,
    MemberChanged,
    MemberStatus,
    Message,
    Node,
    NodeConfig,
    PeerId,
    UnknownPeer,
)


def plain(text: str) -> str:
    """Replaces control characters: names and messages are untrusted."""
    return "".join(each if each.isprintable() else "?" for each in text)


class Chat:
    """The chat of one user. Names are chosen by their users; only the PeerId is authenticated."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._names: dict[PeerId, str] = {}
        node.on_message(self._show)
        node.on_event(self._report)

    def _name(self, peer_id: PeerId) -> str:
        return self._names.get(peer_id) or peer_id.short

    def _show(self, message: Message) -> None:
        to_me = " (to you)" if message.is_direct else ""
        print(
            f"{self._name(message.origin)}{to_me}: {plain(message.payload.decode(errors='replace'))}"
        )

    def _report(self, event: Event) -> None:
        # Members are all nodes of the cluster; peers are those this node is connected to.
        if isinstance(event, MemberChanged) and event.member.peer_id != self._node.peer_id:
            member = event.member
            is_new = member.peer_id not in self._names
            self._names[member.peer_id] = plain(member.name)
            if is_new or member.status is not MemberStatus.UP:
                print(f"* {self._name(member.peer_id)} is {member.status}")
            if member.status in (MemberStatus.DOWN, MemberStatus.LEFT):
                del self._names[member.peer_id]

    async def send(self, line: str) -> None:
        if not line.startswith("/to "):
            await self._node.broadcast(line.encode())
            return
        name, _, text = line.removeprefix("/to ").partition(" ")
        found = [peer for peer in self._node.peers() if peer.name == name]
        if len(found) != 1:  # names are not unique
            print(f"* {len(found)} peers are named {name}")
            return
        try:
            await self._node.send(found[0].peer_id, text.encode())
        except UnknownPeer:
            print(f"* {name} has just left")


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(key_file: Path, bind: str, bootstrap: list[str], name: str) -> None:
    config = NodeConfig.local(
        bind=bind,
        bootstrap_peers=bootstrap,
        name=name,
        keys=ClusterKey.load_or_generate(key_file),
    )
    node = Node(config)
    chat = Chat(node)  # before the start, so that no event is missed
    async with node:
        print(f"* you are {name} at {node.address}")
        typed = await lines()
        while line := await typed.readline():
            if text := line.decode(errors="replace").strip():
                await chat.send(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A serverless chat.")
    parser.add_argument(
        "key_file", type=Path, help="cluster key file; created if it does not exist"
    )
    parser.add_argument("bind", metavar="HOST:PORT", help="listen address")
    parser.add_argument("bootstrap", metavar="PEER", nargs="*", help="bootstrap peers")
    parser.add_argument("--name", default=getpass.getuser(), help="display name [your user name]")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.key_file, arguments.bind, arguments.bootstrap, arguments.name))
