"""The history of a running node: what happens is found, and no fault of the disk stops the node."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import GrapevineError
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.history.database import HISTORY_FILE, open_for_writing
from grapevine_tui.history.records import NewSample, to_key
from grapevine_tui.host.local import Host
from grapevine_tui.host.report_format import ReportFormat
from tests.tui.values import an_id

KEY = ClusterKey.generate()


def settings(state_dir: Path, **changes: Any) -> Settings:
    edits = {"bind": "127.0.0.1:0", "app.state_dir": str(state_dir)} | {
        name.replace("__", "."): value for name, value in changes.items()
    }
    loaded = load_settings({}, {}, directory=state_dir, edits=edits)
    from dataclasses import replace

    return replace(loaded, node=loaded.node.replace(keys=[KEY], gossip_interval=0.2))


@asynccontextmanager
async def running(state_dir: Path, **changes: Any) -> AsyncIterator[Host]:
    state_dir.mkdir(exist_ok=True)  # noqa: ASYNC240
    given = settings(state_dir, **changes)
    host = Host(given.node, given.state_dir, settings=given)
    await host.start()
    try:
        yield host
    finally:
        await host.leave(2.0)


async def texts(host: Host, words: str = "") -> list[str]:
    return [each["text"] for each in (await host.search_history(words))["messages"]]


async def events(host: Host, words: str = "") -> list[str]:
    return [each["text"] for each in (await host.search_events(words))["events"]]


async def until_texts(host: Host, expected: set[str]) -> list[str]:
    """Wait for these messages, which may arrive in any order; return them in the order of arrival."""
    async with asyncio.timeout(20):
        while set(found := await texts(host)) != expected:  # noqa: ASYNC110  the file has no event
            await asyncio.sleep(0.02)
    return found


@pytest.mark.asyncio
async def test_messages_and_events_of_two_nodes_are_found_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "a", name="ann") as ann:
        peers = [str(ann.node.address)]
        async with running(tmp_path / "b", name="bob", bootstrap_peers=peers) as bob:
            await bob.node.ready(1)
            await ann.broadcast(b"deploy of api finished")
            await ann.publish("deploy.web", b"second")
            await ann.send("bob", b"a secret")
            arrived = await until_texts(bob, {"deploy of api finished", "second"})
            assert "ann connected" in await events(bob)
            found = (await bob.search_history("api from:ann"))["messages"][0]
            assert found["from_name"] == "ann"
            assert found["id"].startswith(str(ann.node.peer_id))
            bob_id = bob.node.peer_id
        await ann.deny(str(bob_id))
        assert (await events(ann))[-1] == "bob was denied here"
        assert any(each.startswith("bob left") for each in await events(ann))
    async with running(tmp_path / "b", name="bob") as bob:
        assert await texts(bob) == arrived
        happened = await events(bob)
        assert any(each.startswith("node stopped") for each in happened)
        assert sum(each.startswith("node started") for each in happened) == 2
        path = tmp_path / "b" / HISTORY_FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.asyncio
async def test_direct_messages_are_kept_on_request(tmp_path: Path) -> None:
    async with running(tmp_path / "a", name="ann") as ann:
        options = {
            "name": "bob",
            "bootstrap_peers": [str(ann.node.address)],
            "app__history_direct": True,
        }
        async with running(tmp_path / "b", **options) as bob:
            await bob.node.ready(1)
            await bob.send("ann", b"a secret")
            await until_texts(bob, {"a secret"})
            assert (await bob.search_history("private:"))["messages"][0]["to"] == str(
                ann.node.peer_id
            )


@pytest.mark.asyncio
async def test_events_only_or_nothing_is_kept_as_the_settings_say(tmp_path: Path) -> None:
    async with running(tmp_path / "a", app__history="events") as host:
        await host.broadcast(b"hello")
        assert await texts(host) == []
        assert any(each.startswith("node started") for each in await events(host))
    async with running(tmp_path / "b", app__history="off") as host:
        await host.broadcast(b"hello")
        with pytest.raises(GrapevineError, match="keeps no history"):
            await host.search_history()
        with pytest.raises(GrapevineError, match="keeps no history"):
            await host.search_events()
    assert not (tmp_path / "b" / HISTORY_FILE).exists()


@pytest.mark.asyncio
async def test_a_ban_for_a_time_ends_by_itself_and_another_act_ends_its_clock(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "a") as host:
        await host.deny(str(an_id(5)), 1)
        await host.deny(str(an_id(6)), 3600)
        await host.deny(str(an_id(6)))  # for good now
        assert list(host._ban_timers) == [an_id(5)]
        async with asyncio.timeout(20):
            while an_id(5) in host.model.denied:  # noqa: ASYNC110  nothing reports the end
                await asyncio.sleep(0.02)
        assert host.model.denied == {an_id(6)}
        assert not host._ban_timers
        short = an_id(5).short
        found = await events(host, f"peer:{an_id(5)}")
        assert found == [f"{short} was denied here for 1 s", f"{short} was allowed here"]


@pytest.mark.asyncio
async def test_changes_of_settings_and_of_peers_are_events(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as host:
        host.reconfigure(host.config.replace(fanout=7))
        await host.deny(str(an_id(5)))
        await host.allow(str(an_id(5)))
        short = an_id(5).short
        assert (await events(host))[-3:] == [
            "fanout: 3 became 7", f"{short} was denied here", f"{short} was allowed here"
        ]  # fmt: skip


@pytest.mark.asyncio
async def test_what_is_wrong_with_the_file_is_shown_and_the_node_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_dir = tmp_path / "a"
    state_dir.mkdir()
    open_for_writing(state_dir / HISTORY_FILE).close()
    with closing(sqlite3.connect(state_dir / HISTORY_FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    async with running(state_dir) as host:
        async with asyncio.timeout(20):
            while not host.model.history_error:
                await host.broadcast(b"hello")
                await asyncio.sleep(0.02)
        assert "schema 99" in host.model.history_error
        assert any(
            "history not saved: the file has schema 99" in each.text for each in host.model.notices
        )
        assert "history not saved: the file has schema 99" in caplog.text
        assert len(host.model.notices) == 1
        with pytest.raises(GrapevineError, match="schema 99"):
            await host.search_history()
        assert host.history is not None
        assert host.history.status()["lost"] > 0


@pytest.mark.asyncio
async def test_a_time_that_cannot_be_read_is_an_error_for_users(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as host:
        for search in (host.search_history, host.search_events):
            with pytest.raises(GrapevineError, match="since: expected a time such as"):
                await search("since:soon")
            with pytest.raises(GrapevineError, match="at: expected a time such as"):
                await search("", at="soon")
        with pytest.raises(GrapevineError, match="expected a time such as"):
            await host.prune_history("soon")


@pytest.mark.asyncio
async def test_a_field_that_does_not_exist_is_an_error_for_users(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as host:
        with pytest.raises(GrapevineError, match="unknown field fron:; did you mean from:"):
            await host.search_history("fron:bob")
        with pytest.raises(GrapevineError, match="unknown field knid:; did you mean kind:"):
            await host.search_events("knid:peer")
        assert await events(host, "kind:node|peer started|nothing") == await events(host, "started")


@pytest.mark.asyncio
async def test_a_history_is_exported_pruned_and_imported_again(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    async with running(tmp_path / "a") as host:
        await host.broadcast(b"hello")
        exported = await host.export_history(str(file), "hello")
        assert exported == {"messages": 1, "events": 0, "file": str(file)}
        assert (await host.prune_history("now"))["deleted"] >= 2
        assert await texts(host) == []
        assert await host.import_history(str(file)) == {"messages": 1, "events": 0}
        assert await texts(host) == ["hello"]
        with pytest.raises(OSError, match="exists"):
            await host.export_history(str(file))


@pytest.mark.asyncio
async def test_a_report_shows_the_time_that_was_asked_for_from_the_samples(tmp_path: Path) -> None:
    async with running(tmp_path, name="ann") as host:
        assert host.history is not None
        now = host.model.wall_now()
        for age_s in range(7_000, 0, -100):
            poll = {"stats": {"delivered": 7_000 - age_s}, "peers": [], "lag_ms": 1.0}
            host.history._put(
                NewSample(to_key(now - age_s), False, json.dumps([["poll", poll]]).encode())
            )
        text = await host.report("2h", ReportFormat.HTML)
        assert "messages delivered per second, means of 1 m 40 s: peak 1.0, last 1 h 55 m" in text
        assert "last 1 h" not in await host.report("10m", ReportFormat.HTML)
        with pytest.raises(GrapevineError, match="since: expected a time"):
            await host.report("nonsense", ReportFormat.HTML)
