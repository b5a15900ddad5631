"""What is read-only refuses every act that the registry has, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.storage.permissions import UntrustedFile
from grapevine_tui.app.screens.members import MembersScreen
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.client import send_command
from grapevine_tui.control.commands import COMMANDS, CommandSpec, Kind, Surface, commands_on
from grapevine_tui.control.read_only import REFUSED_TEXT, ReadOnly, is_act
from grapevine_tui.control.requests import parse_request
from grapevine_tui.control.server import control_server
from grapevine_tui.control.slash_parser import parse_command
from grapevine_tui.control.socket_file import (
    PEER_CREDENTIALS,
    SOCKET_NAME,
    WATCH_SOCKET_NAME,
    check_server_owner,
)
from grapevine_tui.control.target import LocalTarget
from grapevine_tui.host.local import Host
from tests.tui.control.test_registry import json_line, slash_line
from tests.tui.fake_host import FakeHost
from tests.tui.lively import fill
from tests.tui.stage import staged

READING_FORMS = {"state": ("list", "get", "watch"), "tags": ("list",)}


@pytest.mark.parametrize("spec", COMMANDS, ids=lambda spec: spec.name)
def test_every_act_of_the_registry_is_an_act_and_every_query_none(spec: CommandSpec) -> None:
    commands = []
    if spec.is_on(Surface.SLASH):
        commands.append(parse_command(slash_line(spec, spec.name)))
    if spec.is_on(Surface.JSON):
        request = parse_request(json_line(spec, spec.name))
        assert request is not None
        commands.append(request.command)
    assert commands
    for each in commands:
        assert is_act(each) == (spec.kind is Kind.NODE_ACT), each


@pytest.mark.parametrize(
    ("name", "action"), [(name, each) for name, forms in READING_FORMS.items() for each in forms]
)
def test_an_act_that_can_also_read_may_read(name: str, action: str) -> None:
    key = {"key": "cfg/limit"} if name == "state" else {}
    request = parse_request(json.dumps({"cmd": name, "action": action, **key}).encode())
    assert request is not None
    assert not is_act(request.command)


@pytest.mark.parametrize(
    "spec",
    [each for each in commands_on(Surface.JSON) if each.kind is Kind.NODE_ACT],
    ids=lambda spec: spec.name,
)
def test_a_read_only_target_gets_no_act(spec: CommandSpec, tmp_path: Path) -> None:
    request = json.loads(json_line(spec, spec.name))
    with pytest.raises(ReadOnly, match=r"^refused: this is read-only$"):
        send_command(LocalTarget(tmp_path, is_readonly=True), request)


# --- watch.sock -----------------------------------------------------------------------------------


async def exchange(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send lines to a socket and return the replies."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"".join(line + b"\n" for line in lines))
    writer.write_eof()
    replies = [json.loads(line) async for line in reader]
    writer.close()
    return replies


@pytest.mark.asyncio
async def test_the_watch_socket_answers_what_reads_and_refuses_every_act(tmp_path: Path) -> None:
    settings = load_settings({"app.on": ("member notify --password secret",)}, {})
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()], name="us"), tmp_path / "state")
    path = tmp_path / "state" / WATCH_SOCKET_NAME
    async with control_server(host, lambda: pytest.fail("a watcher stopped the node"), settings):
        await host.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        specs = commands_on(Surface.JSON)
        acts = [each for each in specs if each.kind is Kind.NODE_ACT]
        refused = await exchange(path, *(json_line(each, each.name) for each in acts))
        assert [each["error"] for each in refused] == [REFUSED_TEXT] * len(acts)
        config, broadcasts = host.config, host.unacknowledged
        for word in (b"plain text is a broadcast", b"/leave", b"/deny bob"):
            (reply,) = await exchange(path, word)
            assert reply["error"] == REFUSED_TEXT
        assert (host.config, host.unacknowledged) == (config, broadcasts)
        reads = (b"status", b"members", b"stats", b"poll", b"snapshot", b"report", b"watch")
        for name in reads:
            replies = await exchange(path, b'{"cmd":"' + name + b'"}')
            assert replies[0]["ok"], replies
        (reply,) = await exchange(path, b'{"cmd":"settings"}')
        assert "secret" not in json.dumps(reply)
        shown = {each["name"]: each for each in reply["values"]}
        assert (shown["app.on"]["value"], shown["app.on"]["origin"]) == ([], "not shown")
        await host.leave(0.1)
    assert not path.exists()


def test_the_owner_of_a_directory_may_serve_its_watch_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid

    class Connected:
        def getsockopt(self, *_: object) -> bytes:
            return PEER_CREDENTIALS.pack(1, owner, 0)

    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    check_server_owner(Connected(), tmp_path / WATCH_SOCKET_NAME)
    if owner != 0:
        with pytest.raises(UntrustedFile):
            check_server_owner(Connected(), tmp_path / SOCKET_NAME)


# --- the app --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_read_only_app_refuses_every_act_and_its_key_bar_says_so() -> None:
    host = FakeHost()
    host.is_readonly = True
    host.model.is_remote = True
    fill(host)
    async with staged(host) as stage:
        assert "read-only  " in stage.text.splitlines()[-1]
        assert "nothing is sent from here" in stage.text
        for spec in commands_on(Surface.SLASH):
            if spec.kind is Kind.NODE_ACT and spec.name != "leave":  # which detaches
                stage.main.compose_box.draft.replace_text("")
                await stage.submit(slash_line(spec, spec.name))
                assert REFUSED_TEXT in stage.text, spec.name
        stage.main.compose_box.draft.focus()
        await stage.paint()
        assert "⏎ Run" in stage.text.splitlines()[-1]
        stage.main.compose_box.draft.replace_text("")
        await stage.submit("hello everyone")
        assert REFUSED_TEXT in stage.text
        acts = (host.broadcasts, host.published, host.sends, host.dials, host.denied)
        assert acts == ([],) * 5
        stage.main.compose_box.draft.replace_text("")
        await stage.press("escape", "1", "D")
        assert not stage.app.screen.is_modal  # nothing to confirm
        keys = stage.text.splitlines()[-1]
        assert "Deny" not in keys
        assert "Reconnect" not in keys
        assert "Details" in keys
        await stage.submit("/members")
        assert isinstance(stage.app.screen, MembersScreen)
