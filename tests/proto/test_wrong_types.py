"""Arguments of the wrong type: every public method refuses them by one error, compiled or not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from grapevine_proto import ClusterKey, InvalidArgument, MemberFilter, Node, NodeConfig

CALLS: dict[str, Callable[[Any], object]] = {
    "broadcast": lambda node: node.broadcast("text"),
    "broadcast None": lambda node: node.broadcast(None),
    "publish": lambda node: node.publish("topic", "text"),
    "publish a topic": lambda node: node.publish(7, b""),
    "publish with an expiry": lambda node: node.publish("topic", b"", expires_s="soon"),
    "publish and retain": lambda node: node.publish("topic", b"", retain=7),
    "trace": lambda node: node.trace("text"),
    "send a payload": lambda node: node.send(node.peer_id, "text"),
    "send to": lambda node: node.send(7, b""),
    "query a name": lambda node: node.query(7),
    "query a payload": lambda node: node.query("up", "text"),
    "query with a timeout": lambda node: node.query("up", timeout="soon"),
    "query with a true timeout": lambda node: node.query("up", timeout=True),
    "query with a limit": lambda node: node.query("up", limit=1.5),
    "set_tags": lambda node: node.set_tags([("a", "b")]),
    "set_tags of numbers": lambda node: node.set_tags({"a": 1}),
    "forget": lambda node: node.forget("text"),
    "reconfigure": lambda node: node.reconfigure({"fanout": 4}),
    "leave": lambda node: node.leave("soon"),
    "flush": lambda node: node.flush("soon"),
    "ready": lambda node: node.ready("one"),
    "events": lambda node: node.events("message"),
    "peer_at": lambda node: node.peer_at("127.0.0.1:1"),
    "is_cached": lambda node: node.is_cached("text"),
    "state.set a key": lambda node: node.state.set(7, b""),
    "state.set a value": lambda node: node.state.set("k", "text"),
    "state.set a ttl": lambda node: node.state.set("k", b"", ttl="soon"),
    "state.delete": lambda node: node.state.delete(7),
    "state.get": lambda node: node.state.get(7),
    "state.get_all": lambda node: node.state.get_all(None),
    "state.keys": lambda node: node.state.keys(7),
    "state.watch": lambda node: node.state.watch(7),
    "state of a member": lambda node: node.state["text"],
    "MemberFilter": lambda node: MemberFilter(zone=7),  # type: ignore[arg-type]
    "on_message": lambda node: node.on_message(7),
    "on_query": lambda node: node.on_query(7),
    "subscribe": lambda node: node.subscribe(7),
}


async def call(name: str, node: Node) -> None:
    found = CALLS[name](node)
    if inspect.isawaitable(found):
        await found


def test_an_argument_of_the_wrong_type_is_refused() -> None:
    async def main() -> None:
        async with Node(NodeConfig.local(keys=(ClusterKey.generate(),))) as node:
            for name in CALLS:
                with pytest.raises(InvalidArgument):
                    await call(name, node)
            await node.broadcast(b"the node goes on")

    asyncio.run(main())
