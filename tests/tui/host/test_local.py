"""One node and what there is to show of it: names are resolved without guessing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import NotRunning, StateLockedError, UnknownPeer
from grapevine_proto.events import Event, MessageReceived, MessageSent, NodeStarted
from grapevine_proto.node import Node
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes

KEYS = (ClusterKey.generate(),)
WAIT_S = 10.0


def config(name: str, *bootstrap: Node) -> NodeConfig:
    peers = [str(node.address) for node in bootstrap]
    return NodeConfig.local(name=name, keys=KEYS, bootstrap_peers=peers)


class Trio:
    """A host and two nodes it is linked to."""

    def __init__(self, host: Host, first: Node, second: Node) -> None:
        self.host, self.first, self.second = host, first, second


async def trio_of(host_name: str, first: str, second: str) -> Trio:
    one = Node(config(first))
    await one.start()
    other = Node(config(second, one))
    await other.start()
    host = Host(config(host_name, one, other), None)
    await host.start()
    await host.node.ready(2, timeout=WAIT_S)
    return Trio(host, one, other)


async def leave(trio: Trio) -> None:
    for node in (trio.host.node, trio.first, trio.second):
        await node.leave(0.5)


@pytest_asyncio.fixture
async def trio() -> AsyncIterator[Trio]:
    made = await trio_of("us", "bob", "carol")
    yield made
    await leave(made)


@pytest.mark.asyncio
async def test_a_peer_is_found_by_name_id_prefix_and_address(trio: Trio) -> None:
    bob = trio.first.peer_id
    for identity in (
        "bob",
        " bob ",
        str(bob),
        str(bob).upper(),
        str(bob)[:8],
        str(trio.first.address),
    ):
        assert trio.host.resolve(identity) == bob


@pytest.mark.asyncio
async def test_an_unknown_peer_is_an_error_and_never_guessed(trio: Trio) -> None:
    with pytest.raises(UnknownPeer, match="did you mean carol"):
        trio.host.resolve("carl")
    for identity in ("", "nobody at all", str(trio.first.peer_id)[:3], "127.0.0.1:1", "\x1b[31m"):
        with pytest.raises(UnknownPeer) as caught:
            trio.host.resolve(identity)
        assert "\x1b" not in str(caught.value)


@pytest.mark.asyncio
async def test_this_node_is_not_its_own_peer(trio: Trio) -> None:
    for identity in ("us", str(trio.host.node.peer_id), str(trio.host.node.address)):
        with pytest.raises(UnknownPeer, match="this node"):
            trio.host.resolve(identity)


@pytest.mark.asyncio
async def test_a_name_shared_by_two_peers_is_rejected_with_both_ids() -> None:
    trio = await trio_of("us", "bob", "bob")
    try:
        with pytest.raises(UnknownPeer) as caught:
            trio.host.resolve("bob")
        assert str(trio.first.peer_id) in str(caught.value)
        assert str(trio.second.peer_id) in str(caught.value)
        assert trio.host.resolve(str(trio.second.peer_id)[:16]) == trio.second.peer_id
    finally:
        await leave(trio)


@pytest.mark.asyncio
async def test_a_member_that_left_bears_its_name_no_more(trio: Trio) -> None:
    old = trio.second.peer_id
    await trio.second.leave(0.5)
    trio.second = Node(config("carol", trio.first, trio.host.node))
    await trio.second.start()
    await trio.second.ready(2, timeout=WAIT_S)
    assert trio.host.resolve("carol") == trio.second.peer_id
    assert trio.host.resolve(str(old)[:16]) == old


@pytest.mark.asyncio
async def test_a_broadcast_reports_how_many_peers_it_goes_to_and_reaches_them(trio: Trio) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    for node in (trio.first, trio.second):
        node.on_message(lambda message: got.put_nowait(message.payload))
    message_id, peers = await trio.host.broadcast(b"hello")
    assert message_id.origin == trio.host.node.peer_id
    assert peers == 2
    async with asyncio.timeout(WAIT_S):
        assert [await got.get(), await got.get()] == [b"hello", b"hello"]


@pytest.mark.asyncio
async def test_a_direct_message_reaches_one_member(trio: Trio) -> None:
    got: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
    trio.second.on_message(lambda message: got.put_nowait((message.payload, message.is_direct)))
    assert (await trio.host.send("carol", b"only you")).is_direct
    async with asyncio.timeout(WAIT_S):
        assert await got.get() == (b"only you", True)


@pytest.mark.asyncio
async def test_events_reach_the_model_before_the_listeners(trio: Trio) -> None:
    host = trio.host
    seen: asyncio.Queue[tuple[int, Changes]] = asyncio.Queue()

    def listen(event: Event, changes: Changes) -> None:
        if isinstance(event, MessageReceived | MessageSent):
            seen.put_nowait((len(host.model.messages), changes))

    host.listen(listen)
    await trio.first.broadcast(b"hello")
    async with asyncio.timeout(WAIT_S):
        count, changes = await seen.get()
    assert count == 1
    assert Changes.MESSAGES in changes
    assert host.model.name_of(trio.first.peer_id) == "bob"
    assert host.name_of(trio.first.peer_id) == "bob"


@pytest.mark.asyncio
async def test_a_broadcast_without_peers_is_unacknowledged() -> None:
    host = Host(config("alone"), None)
    with pytest.raises(NotRunning):
        await host.broadcast(b"x")
    await host.start()
    assert host.unacknowledged == 0
    assert (await host.broadcast(b"is anybody there?"))[1] == 0
    assert host.unacknowledged == 1
    assert host.failure() is None
    assert await host.leave(0.1) == 1


@pytest.mark.asyncio
async def test_a_state_directory_in_use_is_skipped_for_the_next(tmp_path: Path) -> None:
    spare = [tmp_path / "2", tmp_path / "3"]
    hosts = [Host(config(str(n)), tmp_path / "1", spare_state_dirs=spare) for n in range(4)]
    started: list[Event] = []
    for host in hosts[:3]:
        host.listen(lambda event, _: started.append(event))
        await host.start()
    with pytest.raises(StateLockedError):
        await hosts[3].start()
    assert [host.state_dir for host in hosts[:3]] == [tmp_path / str(n) for n in (1, 2, 3)]
    assert sum(isinstance(event, NodeStarted) for event in started) == 3
    for host in hosts[:3]:
        await host.leave(0.1)
