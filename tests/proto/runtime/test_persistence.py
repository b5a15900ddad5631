"""Saving off the loop: what changed goes to the journal, and everything else only when it has to."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.ids import Address, MessageId
from grapevine_proto.runtime.persistence import STREAMS_PER_SLICE, StatePersister
from tests.proto.overlay.builders import EPOCH, copy, peer_id
from tests.proto.test_engine import make

HERE = Address("10.0.0.1", 8000)


class Saving:
    """An engine and its persister, which saves at times that count up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine: Engine = make(1, HERE)
        self.problems: list[str] = []
        self.persister = StatePersister(path, self.problems.append)
        self.now = 0.0

    def receive(self, origin: int, first: int) -> None:
        store = self.engine._overlay.store
        store.insert(copy(origin, first), peer_id(9), True, self.now)

    async def save(self, unhandled: Iterable[MessageId] = (), handled: int = 0) -> bool:
        self.now += 1.0
        return await self.persister.save(self.engine, self.now, lambda: unhandled, handled)

    def sizes(self) -> tuple[int, int]:
        """Of the state and the journal, which tell what was written."""
        journal = self.path / "journal"
        return (
            (self.path / "state").stat().st_size,
            journal.stat().st_size if journal.exists() else 0,
        )

    async def reload(self) -> NodeState:
        self.persister.close()
        persister = StatePersister(self.path, self.problems.append)
        saved = await persister.load()
        persister.close()
        return saved


def saving(main: Callable[[Saving], Any], path: Path) -> None:
    async def run() -> None:
        node = Saving(path)
        await node.persister.load()
        await main(node)

    asyncio.run(run())


def test_after_the_first_save_only_what_changed_is_written(tmp_path: Path) -> None:
    async def main(node: Saving) -> None:
        for origin in range(10, 200):
            node.receive(origin, 1)
        assert await node.save()
        state, journal = node.sizes()
        assert state > 190 * 40
        assert journal == 0
        node.receive(10, 2)
        node.receive(300, 1)
        assert await node.save()
        assert node.sizes()[0] == state
        assert 0 < node.sizes()[1] < 400
        assert await node.save(), "nothing changed"
        assert node.sizes()[1] < 400
        expected = node.engine.snapshot(node.now - 1.0)
        saved = await node.reload()
        assert set(saved.streams) == set(expected.streams)
        assert saved.entries == expected.entries

    saving(main, tmp_path)


def test_a_message_that_is_not_handled_is_saved_as_unseen_until_it_is(tmp_path: Path) -> None:
    async def main(node: Saving) -> None:
        node.receive(10, 1)
        await node.save()
        node.receive(10, 2)
        second = MessageId(peer_id(10), EPOCH, 2)
        await node.save([second])
        unhandled = await node.reload()
        assert [each.high for each in unhandled.streams] == [1]
        node.persister = StatePersister(node.path, node.problems.append)
        await node.persister.load()
        await node.save([second], handled=1)
        await node.save((), handled=2)
        assert node.sizes()[1] > 0, "the stream did not change, yet what is saved of it"
        assert [each.high for each in (await node.reload()).streams] == [2]

    saving(main, tmp_path)


def test_what_a_full_disk_did_not_take_is_saved_with_the_next_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(node: Saving) -> None:
        node.receive(10, 1)
        await node.save()
        node.receive(11, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _no_space)
            assert not await node.save()
            assert not await node.save()
        assert [problem.partition(": ")[2] for problem in node.problems] == [
            "No space left on device"
        ]
        node.receive(12, 1)
        assert await node.save()
        assert node.problems[1:] == [""]
        origins = {each.origin for each in (await node.reload()).streams}
        assert origins == {peer_id(10), peer_id(11), peer_id(12)}

    saving(main, tmp_path)


def test_a_save_that_was_given_up_is_followed_by_a_whole_one(tmp_path: Path) -> None:
    async def main(node: Saving) -> None:
        node.receive(10, 1)
        await node.save()
        node.receive(11, 1)
        task = asyncio.create_task(node.save())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        node.receive(12, 1)
        await node.save()
        origins = {each.origin for each in (await node.reload()).streams}
        assert origins == {peer_id(10), peer_id(11), peer_id(12)}

    saving(main, tmp_path)


def test_what_changes_while_everything_is_saved_is_saved_as_it_became(tmp_path: Path) -> None:
    async def main(node: Saving) -> None:
        for origin in range(10, 10 + 3 * STREAMS_PER_SLICE):
            node.receive(origin, 1)
        unhandled: list[MessageId] = []
        task = asyncio.create_task(node.save(unhandled))
        for _ in range(3):
            await asyncio.sleep(0)
        node.receive(10, 2)
        node.receive(9, 1)
        node.receive(11, 2)
        unhandled.append(MessageId(peer_id(11), EPOCH, 2))
        assert await task
        assert node.sizes()[1] == 0
        saved = {each.origin: each for each in (await node.reload()).streams}
        assert len(saved) == 3 * STREAMS_PER_SLICE + 1
        assert [saved[peer_id(each)].high for each in (9, 10, 11, 12)] == [1, 2, 1, 1]
        assert not node.problems

    saving(main, tmp_path)


def test_entries_of_this_node_are_saved_once_and_removed_when_replaced(tmp_path: Path) -> None:
    async def main(node: Saving) -> None:
        await node.save()
        for number in range(20):
            node.engine.set_entry(f"k{number}", bytes(1000), node.now)
        await node.save()
        journal = node.sizes()[1]
        assert journal > 20_000
        node.engine.set_entry("k0", b"new", node.now)
        await node.save()
        assert node.sizes()[1] < journal + 1000
        expected = node.engine.snapshot(node.now)
        saved = await node.reload()
        assert [each[:-1] for each in saved.entries] == [each[:-1] for each in expected.entries]

    saving(main, tmp_path)


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
