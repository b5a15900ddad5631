"""A chat without a server: everyone hears what is typed, /to says it to one, who comes and goes is told.

    python examples/chat.py chat.key 127.0.0.1:8000 --name ada
    python examples/chat.py chat.key 127.0.0.1:8001 127.0.0.1:8000 --name bob

The key file (made where there is none), where to listen, nodes to ask first, and your name. Ctrl+D leaves.
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
    """`text` without what could move the cursor: names and lines come from others."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Chat:
    """One person's end. Names are what people call themselves; only the PeerId is proved."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._names: dict[PeerId, str] = {}
        node.on_message(self._show)
        node.on_event(self._tell)

    def _name(self, peer_id: PeerId) -> str:
        return self._names.get(peer_id) or peer_id.short

    def _show(self, message: Message) -> None:
        to_me = " (to you)" if message.is_direct else ""
        print(
            f"{self._name(message.origin)}{to_me}: {plain(message.payload.decode(errors='replace'))}"
        )

    def _tell(self, event: Event) -> None:
        # Members are everyone in the cluster, linked to us or not; peers are only our neighbours.
        if isinstance(event, MemberChanged) and event.member.peer_id != self._node.peer_id:
            member = event.member
            is_new = member.peer_id not in self._names
            self._names[member.peer_id] = plain(member.name)
            if is_new or member.status is not MemberStatus.UP:
                print(f"* {self._name(member.peer_id)} is {member.status}")
            if member.status in (MemberStatus.DOWN, MemberStatus.LEFT):
                del self._names[member.peer_id]

    async def say(self, line: str) -> None:
        if not line.startswith("/to "):
            await self._node.broadcast(line.encode())
            return
        name, _, text = line.removeprefix("/to ").partition(" ")
        found = [peer for peer in self._node.peers() if peer.name == name]
        if len(found) != 1:  # two may call themselves the same: better to ask than to guess
            print(f"* {len(found)} neighbours are called {name}")
            return
        try:
            await self._node.send(found[0].peer_id, text.encode())
        except UnknownPeer:
            print(f"* {name} has just gone")


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
        keys=[ClusterKey.load_or_generate(key_file)],
    )
    node = Node(config)
    chat = Chat(node)  # before the start, so that nobody's arrival is missed
    async with node:
        print(f"* you are {name} at {node.address}")
        typed = await lines()
        while line := await typed.readline():
            if text := line.decode(errors="replace").strip():
                await chat.say(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat without a server.")
    parser.add_argument("key_file", type=Path, help="the cluster key; made where there is none")
    parser.add_argument("bind", metavar="HOST:PORT", help="where to listen")
    parser.add_argument("bootstrap", metavar="PEER", nargs="*", help="nodes to ask first")
    parser.add_argument(
        "--name", default=getpass.getuser(), help="what others see [your user name]"
    )
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(given.key_file, given.bind, given.bootstrap, given.name))
