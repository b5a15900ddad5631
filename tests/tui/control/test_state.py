"""The keyed state and tags from the shell, from scripts and from programs, over real nodes."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import EntryInfo, KeyInfo
from grapevine_tui.control.server import control_server
from grapevine_tui.control.socket_file import SOCKET_NAME
from grapevine_tui.control.subscribers import MAX_KEY_PREFIXES, Subscriber
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.local import MAX_LISTED_KEYS, Host, list_keys
from grapevine_tui.host.model import Model
from grapevine_tui.host.protocol import HostView
from grapevine_tui.remote.host import RemoteHost
from tests.tui.runs import WAIT_S, Bench
from tests.tui.values import an_entry_info

Object = dict[str, Any]


def an_info(key: str, value: bytes | None = b"v") -> KeyInfo:
    return KeyInfo(key, an_entry_info(1, key, value))


async def a_host(stack: AsyncExitStack, state_dir: Path, **fields: Any) -> Host:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()], **fields), state_dir)
    await stack.enter_async_context(control_server(host, lambda: None))
    await host.start()
    stack.push_async_callback(host.leave, 0.1)
    return host


def test_a_list_has_pages_and_leaves_out_what_has_commands_of_its_own() -> None:
    keys = [an_info(f"k{number:05}") for number in range(MAX_LISTED_KEYS + 1)]
    keys += [an_info("retain/a"), an_info("tag/role")]
    first = list_keys(keys, "", "")
    assert (len(first["keys"]), first["more"]) == (MAX_LISTED_KEYS, True)
    second = list_keys(keys, "", first["keys"][-1]["key"])
    assert [each["key"] for each in second["keys"]] == [f"k{MAX_LISTED_KEYS:05}"]
    assert second["more"] is False
    assert [each["key"] for each in list_keys(keys[-1:], "tag/", "")["keys"]] == ["tag/role"]


def test_a_page_is_full_at_a_mebibyte_of_values_and_has_one_key_at_least() -> None:
    entries: list[EntryInfo] = [an_entry_info(n, "b", bytes(4096)) for n in range(300)]
    keys = [an_info("a"), KeyInfo("b", entries[0], tuple(entries[1:])), an_info("c")]
    pages = [list_keys(keys, "", after) for after in ("", "a", "b")]
    assert [[each["key"] for each in page["keys"]] for page in pages] == [["a"], ["b"], ["c"]]
    assert [page["more"] for page in pages] == [True, True, False]


@pytest.mark.asyncio
async def test_a_node_and_an_app_attached_to_it_act_alike(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        node = await a_host(stack, tmp_path, tags={"role": "web"})
        attached = RemoteHost(tmp_path, Model())
        await attached.start()
        stack.push_async_callback(attached.leave, 0.0)
        hosts: tuple[HostView, ...] = (node, attached)
        for number, host in enumerate(hosts):
            key = f"cfg/{number}"
            assert (await host.state(AccessState("set", key, b"on", ttl_s=60, durable=True)))[
                "key"
            ] == key
            winner = (await host.state(AccessState("get", key)))["winner"]
            assert (winner["text"], winner["ttl_s"], winner["durable"]) == ("on", 60, True)
            listed = await host.state(AccessState("list", "cfg/"))
            assert [each["key"] for each in listed["keys"]][-1] == key
            assert (await host.state(AccessState("del", key)))["deleted"] is True
            assert (await host.state(AccessState("del", key)))["deleted"] is False
            assert (await host.state(AccessState("get", "nothing")))["winner"] is None
            assert (await host.tags("list"))["tags"] == {"role": "web"}
            assert (await host.tags("set", ("rack=7=x",)))["tags"]["rack"] == "7=x"
            assert (await host.tags("unset", ("rack",)))["tags"] == {"role": "web"}
            assert (await host.query(AskMembers("grapevine.version", tags={"role": "web"})))[
                "asked"
            ] == 1
        with pytest.raises(InvalidArgument, match="no tag 'rack'"):
            await node.tags("unset", ("rack",))


async def read_event(reader: asyncio.StreamReader) -> Object:
    event: Object = json.loads(await reader.readline())
    return event


@pytest.mark.asyncio
async def test_a_client_that_watches_keys_gets_their_values_and_then_each_change(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        host = await a_host(stack, tmp_path)
        await host.state(AccessState("set", "cfg/a", b"1"))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET_NAME))
        writer.write(b'{"cmd":"state","action":"watch","key":"cfg/"}\n')
        reply = await read_event(reader)
        assert [each["winner"]["text"] for each in reply["keys"]] == ["1"]
        await host.state(AccessState("set", "other", b"x"))
        await host.broadcast(b"of no interest")
        await host.state(AccessState("set", "cfg/b", b"2"))
        await host.state(AccessState("del", "cfg/a"))
        first = await read_event(reader)
        if first["key"] == "cfg/a":  # written just before: its event waits until it is on disk
            assert first["text"] == "1"
            first = await read_event(reader)
        second = await read_event(reader)
        assert (first["event"], first["key"], first["text"]) == ("entry", "cfg/b", "2")
        assert (second["key"], second["deleted"]) == ("cfg/a", True)
        writer.write(b'{"cmd":"state","action":"watch","key":"o"}\n')
        assert (await read_event(reader))["ok"] is True
        await host.state(AccessState("del", "other"))
        assert (await read_event(reader))["key"] == "other"
        writer.write(b'{"cmd":"subscribe","pattern":"deploy.>"}\n')
        assert (await read_event(reader))["ok"] is True
        await host.publish("deploy.web", b"out")
        await host.state(AccessState("set", "cfg/b", b"3"))
        got = {each["event"]: each for each in [await read_event(reader), await read_event(reader)]}
        assert (got["message"]["text"], got["entry"]["text"]) == ("out", "3")
        writer.close()


def test_a_client_that_watches_too_many_keys_gets_all_changes_and_loses_none() -> None:
    subscriber = Subscriber(MagicMock())
    for number in range(MAX_KEY_PREFIXES):
        subscriber.add_keys(f"k{number}/")
        subscriber.add_keys(f"k{number}/more")
    assert subscriber.wants("entry", {"key": "k7/x"})
    assert not subscriber.wants("entry", {"key": "other"})
    assert not subscriber.wants("message", {"topic": "a"})
    subscriber.add_keys("one too many")
    assert subscriber.wants("entry", {"key": "other"})
    assert subscriber.wants("entry", {"key": "k7/x"})


def test_members_share_keys_and_tags_through_the_shell(bench: Bench) -> None:
    one, address = bench.started("--name", "one", "--state-dir", "a", "--tag", "role=db")
    two, _ = bench.started(
        *("--name", "two", "--state-dir", "b", "--peer", address, "--wait-peers", "1"),
        *("--tag", "role=web", "--tag", "rack=7"),
    )
    two.expect("ready")
    one.expect("member", tags={"rack": "7", "role": "web"})
    one_ctl, two_ctl = ("ctl", "--state-dir", "a"), ("ctl", "--state-dir", "b")

    done = bench.command(*one_ctl, "state", "set", "cfg/limit", "10", "MB", "--durable")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert two.expect("entry", key="cfg/limit", text="10 MB")["owner_name"] == "one"
    done = bench.command(*two_ctl, "state", "get", "cfg/limit")
    assert (done.returncode, done.stdout) == (0, "10 MB\n")
    bench.command(*two_ctl, "state", "set", "cfg/limit", "20 MB")
    one.expect("entry", key="cfg/limit", text="20 MB")
    header, row = bench.command(*one_ctl, "state").stdout.splitlines()
    assert header.split() == ["key", "value", "owner", "clock", "others"]
    assert row.split() == ["cfg/limit", "20", "MB", "two", "2", "1"]
    assert bench.command(*one_ctl, "state", "del", "cfg/limit").returncode == 0
    two.expect("entry", key="cfg/limit", deleted=True)
    done = bench.command(*two_ctl, "state", "get", "cfg/limit")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert bench.command(*two_ctl, "state", "del", "cfg/none").returncode == 1
    for arguments in (("set", "k"), ("got", "k"), ("get",), ("set", "k", "v", "--ttl", "0")):
        failed = bench.command(*one_ctl, "state", *arguments)
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1), arguments

    done = bench.command(*one_ctl, "tags", "set", "rack=9")
    assert done.stdout.splitlines() == ["rack=9", "role=db"]
    two.expect("member", tags={"rack": "9", "role": "db"})
    assert bench.command(*one_ctl, "tags", "unset", "rack").stdout == "role=db\n"
    two.expect("member", tags={"role": "db"})
    listed = bench.command(*two_ctl, "members", "--tag", "role=db")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["name", "one"]
    assert "role=db" in listed.stdout
    asked = bench.command(*two_ctl, "query", "grapevine.version", "--tag", "role=db", "--json")
    assert (json.loads(asked.stdout)["asked"], asked.returncode) == (1, 0)
    none = bench.command(*two_ctl, "query", "grapevine.version", "--tag", "role=none")
    assert none.returncode == 6
    status = json.loads(bench.command(*one_ctl, "status", "--json").stdout)
    assert status["tags"] == {"role": "db"}


def test_a_change_of_a_key_runs_a_program_and_a_script_changes_keys_on_stdin(
    bench: Bench,
) -> None:
    code = "import json,sys; e=json.load(sys.stdin); open('seen','a').write(e['key']+e['text'])"
    program = f'{sys.executable} -c "{code}"'
    run = bench.run("--on", "entry:cfg/", program)
    run.expect("started")
    run.write("/state set other x\n/state set cfg/limit 10 MB\n/tags set role=web\n")
    run.expect("reply", tags={"role": "web"})
    while not (entries := {e["key"]: e for e in run.seen if e["event"] == "entry"}).get("tag/role"):
        run.next()
    assert entries.keys() == {"other", "cfg/limit", "tag/role"}
    changed = entries["cfg/limit"]
    assert (changed["text"], changed["winner"], changed["deleted"]) == ("10 MB", True, False)
    reply = run.ask(cmd="state")
    assert [(each["key"], each["winner"]["text"]) for each in reply["keys"]] == [
        ("cfg/limit", "10 MB"),
        ("other", "x"),
    ]
    assert run.ask(cmd="state", action="set", key="b", base64="/w==")["ok"] is True
    assert run.ask(cmd="state", action="get", key="b")["winner"]["base64"] == "/w=="
    for bad in (
        {"action": "set", "key": "k"},
        {"action": "set", "key": "k", "text": "v", "ttl_s": "60"},
        {"action": "set", "key": "k", "text": "v", "durable": 1},
        {"action": "fly"},
    ):
        assert run.ask(cmd="state", **bad)["ok"] is False
    for tags in ({"role": 7}, "role=web"):
        assert run.ask(cmd="tags", action="set", tags=tags)["ok"] is False
    assert run.ask(cmd="members", tags={"role": "web"})["members"] == []
    assert run.ask(cmd="members", tags=["role"])["ok"] is False
    assert run.end() == 0
    assert (bench.directory / "seen").read_text() == "cfg/limit10 MB"


def test_ctl_prints_the_values_and_then_the_changes_it_watches(bench: Bench) -> None:
    run, _ = bench.started("--name", "one", "--state-dir", "a")
    run.ask(cmd="state", action="set", key="cfg/a", text="1")
    watching = bench.background("ctl", "--state-dir", "a", "state", "watch", "cfg/", "--count", "2")
    assert watching.stdout is not None
    assert watching.stdout.readline() == "cfg/a = 1\n"
    run.ask(cmd="state", action="set", key="cfg/b", text="2\x1b[2J")
    run.ask(cmd="state", action="del", key="cfg/a")
    rest = watching.communicate(timeout=WAIT_S)[0].splitlines()
    assert rest == ["cfg/b = 2␛[2J  (one)", "cfg/a deleted  (one)"]
    assert watching.returncode == 0
