"""`Node.state` and tags over real sockets: what programs set, read and watch."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from grapevine_proto import (
    ClusterKey,
    EntryChanged,
    InvalidArgument,
    LimitsConfig,
    MessageId,
    MessageTooLarge,
    Node,
    NodeConfig,
    NotRunning,
    PeerId,
    StateFull,
    Via,
)
from grapevine_proto import node as node_module
from grapevine_proto.overlay.state.keyed_state import SavedEntry
from grapevine_proto.runtime.event_queue import EVENT_OVERHEAD_BYTES, event_size_bytes
from grapevine_proto.runtime.shared_state import EntryWatch
from grapevine_proto.runtime.state_file import StateDirectory

pytestmark = pytest.mark.asyncio

KEY = ClusterKey(bytes(range(32)))
MESSAGE_ID = MessageId(PeerId(bytes(32)), 1, 1)


@asynccontextmanager
async def pair(**changes: object) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes that are connected."""
    config = NodeConfig.local(keys=KEY, **changes)
    async with Node(config) as one, Node(config.replace(bootstrap_peers=[one.address])) as two:
        await two.ready()
        yield one, two


async def next_change(watch: EntryWatch) -> EntryChanged:
    return await asyncio.wait_for(anext(watch), 10)


async def test_an_entry_is_seen_at_once_here_and_soon_there() -> None:
    async with pair() as (one, two):
        watch = two.state.watch("cfg/")
        await one.state.set("other", b"")
        await one.state.set("cfg/rate", bytearray(b"50"))
        assert one.state.get("cfg/rate") == b"50"
        change = await next_change(watch)
        assert (change.owner, change.key, change.value) == (one.peer_id, "cfg/rate", b"50")
        assert two.state.get("cfg/rate") == b"50"
        assert two.state[one.peer_id] == {"cfg/rate": b"50", "other": b""}
        assert two.state[two.peer_id] == {}
        assert [each.key for each in two.state.keys("")] == ["cfg/rate", "other"]
        assert await two.state.delete("cfg/rate")
        assert (await next_change(watch)).is_deleted is True
        assert two.state.get("cfg/rate") is None
        assert two.state.get_all("cfg/rate") == {one.peer_id: b"50"}
        assert not await two.state.delete("cfg/rate")
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


def entries_after_a_crash(state_dir: Path, copy: Path) -> tuple[SavedEntry, ...]:
    """What another run would have if the node crashed now."""
    shutil.copytree(state_dir, copy)
    directory = StateDirectory(copy)
    try:
        return directory.load(0.0).entries
    finally:
        directory.close()


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_an_entry_is_on_disk_before_another_node_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_deleted: bool
) -> None:
    """Otherwise a crash takes back what others have seen."""
    monkeypatch.setattr(node_module, "ENTRY_SAVE_LIMIT_S", 60.0)  # however busy the machine is
    config, state_dir = NodeConfig.local(keys=KEY), tmp_path / "one"
    async with Node(config, state_dir=state_dir) as one:
        other = config.replace(bootstrap_peers=[one.address])
        async with Node(other) as two:
            await two.ready()
            watch = two.state.watch()
            for number in range(20):
                if is_deleted and number % 2:
                    await one.state.delete("k")
                else:
                    await one.state.set("k", b"%d" % number)
                seen = await next_change(watch)
                (saved,) = entries_after_a_crash(state_dir, tmp_path / f"{number}")
                assert saved.value == (seen.value or b"")


@pytest.mark.parametrize("is_hanging", [False, True], ids=["failing", "hanging"])
async def test_a_disk_that_does_not_take_the_state_keeps_no_entry_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_hanging: bool
) -> None:
    released = threading.Event()

    def save(_: StateDirectory, __: object) -> None:
        if is_hanging:
            released.wait(10)
        else:
            raise OSError(errno.ENOSPC, "No space left on device")

    config = NodeConfig.local(keys=KEY)
    async with Node(config, state_dir=tmp_path) as one:
        other = config.replace(bootstrap_peers=[one.address])
        async with Node(other) as two:
            await two.ready()
            watch = two.state.watch()
            with monkeypatch.context() as patch:
                patch.setattr(StateDirectory, "save", save)
                patch.setattr(StateDirectory, "append", save)
                for number in range(3):
                    await one.state.set("k", b"%d" % number)
                    assert (await next_change(watch)).value == b"%d" % number
                released.set()


async def test_a_watch_ends_with_the_node_and_sees_its_own_writes() -> None:
    async with Node(NodeConfig.local(keys=KEY)) as node:
        watch = node.state.watch()
        await node.state.set("a", b"1", ttl=30, durable=True)
    assert [change.value async for change in watch] == [b"1"]
    assert watch.lost == 0


async def test_a_slow_watch_loses_the_oldest_changes_and_counts_them() -> None:
    config = NodeConfig.local(keys=KEY, limits=LimitsConfig(events=4))
    async with Node(config) as node:
        watch = node.state.watch("k")
        for number in range(20):
            await node.state.set("k", b"%d" % number)
    found = [change.value async for change in watch]
    assert found[-1] == b"19"
    assert watch.lost + len(found) == 20
    assert watch.lost > 0


async def test_the_values_of_a_change_count_in_the_size_of_a_queue() -> None:
    change = EntryChanged(PeerId(bytes(32)), "k", bytes(4000), bytes(3000), False, True, MESSAGE_ID)
    assert event_size_bytes(change) == EVENT_OVERHEAD_BYTES + 7000


async def test_invalid_entries_are_refused_before_anything_is_sent() -> None:
    async with Node(NodeConfig.local(keys=KEY)) as node:
        for key, value, options in (
            ("", b"", {}),
            ("k" * 129, b"", {}),
            (7, b"", {}),
            ("k", "text", {}),
            ("k", b"", {"ttl": -1}),
            ("k", b"", {"ttl": 2**33}),
            ("k", b"", {"durable": 1}),
        ):
            with pytest.raises(InvalidArgument):
                await node.state.set(key, value, **options)  # type: ignore[arg-type]
        with pytest.raises(MessageTooLarge):
            await node.state.set("k", bytes(4097))
        with pytest.raises(InvalidArgument):
            await node.set_tags([("a", "b")])  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await node.publish("deploy.web", b"", retain="")
        for number in range(256):
            await node.state.set(f"k{number}", b"")
        with pytest.raises(StateFull):
            await node.state.set("k", b"")
        assert len(node.state.keys()) == 256
    with pytest.raises(NotRunning):
        await node.state.set("k0", b"")


async def test_members_are_selected_by_their_tags() -> None:
    async with pair(tags={"role": "web"}) as (one, two):
        changed = two.events(EntryChanged)
        await one.set_tags({"role": "db", "rack": "7"})
        assert one.tags == {"role": "db", "rack": "7"}
        async for event in changed:
            if isinstance(event, EntryChanged) and event.key == "tag/role" and event.value == b"db":
                break
        (member,) = two.members(tags={"role": "db"})
        assert (member.peer_id, dict(member.tags)) == (one.peer_id, one.tags)
        assert two.members(tags={"role": "web"}) == []
        assert two.leader({"role": "db"}) == one.peer_id
        assert two.leader({"role": "web"}) == two.peer_id
        assert two.leader() == min(one.peer_id, two.peer_id)
        assert two.leader({"role": "none"}) is None


async def test_a_retained_message_reaches_later_subscribers_once() -> None:
    config = NodeConfig.local(keys=KEY, message_dedup_ttl=1.0)
    async with Node(config) as one:
        await one.publish("deploy.web", b"v2", retain="web")
        await one.publish("other", b"x", retain="x")
        async with Node(config.replace(bootstrap_peers=[str(one.address)])) as two:
            late = two.subscribe("deploy.>")
            message = await asyncio.wait_for(anext(late), 10)
            assert (message.payload, message.is_retained) == (b"v2", True)
            again = await asyncio.wait_for(anext(two.subscribe("deploy.*")), 10)
            assert (again.id, again.is_retained) == (message.id, True)
            await one.publish("deploy.web", b"v3", retain="web")
            message = await asyncio.wait_for(anext(late), 10)
            assert (message.payload, message.topic) == (b"v3", "deploy.web")
            assert await one.state.delete("retain/web")
            await one.publish("deploy.web", b"end")
            assert (await asyncio.wait_for(anext(late), 10)).payload == b"end"


async def test_retained_messages_outlive_a_restart(tmp_path: Path) -> None:
    config = NodeConfig.local(keys=KEY)
    async with Node(config, state_dir=tmp_path) as one:
        await one.publish("deploy.web", b"v1", retain="web")
        await one.state.set("k", b"1")
    async with Node(config, state_dir=tmp_path) as one:
        assert one.state.get("k") == b"1"
        async with Node(config.replace(bootstrap_peers=[str(one.address)])) as two:
            message = await asyncio.wait_for(anext(two.subscribe("deploy.>")), 10)
            assert (message.payload, message.via) == (b"v1", Via.RETAINED)


async def test_a_node_without_its_state_file_waits_for_its_entries(tmp_path: Path) -> None:
    config = NodeConfig.local(keys=KEY)
    async with Node(config) as other:
        config = config.replace(bootstrap_peers=[str(other.address)])
        async with Node(config, state_dir=tmp_path) as node:
            watch = other.state.watch()
            await node.state.set("a", b"1")
            await next_change(watch)
            owner = node.peer_id
        (tmp_path / "state").unlink()
        async with Node(config, state_dir=tmp_path) as node:
            await asyncio.wait_for(node.state.set("b", b"2"), 20)
            assert node.state[owner] == {"a": b"1", "b": b"2"}
            while other.state[owner] != {"a": b"1", "b": b"2"}:
                await next_change(watch)
