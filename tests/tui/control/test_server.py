"""A running node asked and ordered about over its control socket, from other processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_tui import __version__
from grapevine_tui.cli.ctl import format_facts, format_table
from grapevine_tui.control import server as control_module
from grapevine_tui.control import socket_file
from grapevine_tui.control.client import CommandFailed, send_command
from grapevine_tui.control.lines import MAX_LINE_BYTES
from grapevine_tui.control.server import MAX_CLIENTS, ControlServer, control_server
from grapevine_tui.control.socket_file import (
    MAX_SOCKET_PATH_BYTES,
    SOCKET_NAME,
    check_server_owner,
    connectable_path,
)
from grapevine_tui.control.target import NodeUnreachable
from grapevine_tui.host.local import Host
from tests.tui.runs import WAIT_S, Bench, Run, environ_of

Object = dict[str, Any]


def test_a_node_is_looked_at_from_another_process(bench: Bench) -> None:
    bob, address = bench.started("--name", "bob", "--state-dir", "bob")
    run, _ = bench.started(
        "--name", "us", "--state-dir", "kept", "--peer", address, "--wait-peers", "1"
    )
    run.expect("ready")
    path = bench.directory / "kept" / SOCKET_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for command, shown in (
        ("peers", "bob"),
        ("members", "up"),
        ("status", "us"),
        ("stats", "datagrams in"),
        ("rounds", "outcome"),
    ):
        done = bench.command("ctl", "--state-dir", "kept", command)
        assert (done.returncode, done.stderr) == (0, "")
        assert shown in done.stdout
        reply = json.loads(bench.command("ctl", "--state-dir", "kept", command, "--json").stdout)
        assert (reply["event"], reply["ok"]) == ("reply", True)
    output = bench.command("ctl", "--state-dir", "kept", "broadcast", "hello", "there")
    assert "sent to 1 peer" in output.stdout
    assert bob.expect("message")["text"] == "hello there"
    assert (
        bench.command("ctl", "--state-dir", "kept", "send", "bob", "-", stdin="x").returncode == 0
    )
    assert bob.expect("message")["direct"] is True
    assert bench.command("ctl", "--state-dir", "kept", "dial", address).returncode == 0
    done = bench.command("ctl", "--state-dir", "kept", "leave")
    assert done.stdout == "the node has left the cluster and stopped\n"
    assert run.end(None) == 0
    assert run.seen[-1]["reason"] == "quit"
    assert not path.exists()


def test_a_trace_lists_the_members_that_have_it_and_exits_0_if_all_do(bench: Bench) -> None:
    bob, address = bench.started("--name", "bob", "--state-dir", "bob", "--profile", "local")
    # With `wan`, bob stays a member for long enough after it was killed, also on a busy machine.
    arguments = ("--peer", address, "--wait-peers", "1", "--profile", "wan")
    run, _ = bench.started("--name", "us", "--state-dir", "kept", *arguments)
    run.expect("ready")
    done = bench.command("ctl", "--state-dir", "kept", "trace", "who", "is", "there")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 members have it" in done.stdout
    assert bob.expect("message")["text"] == "who is there"
    whole = run.expect("trace", complete=True)
    assert (whole["reached"], whole["known"], whole["unanswered"], whole["hops"]) == (1, 1, [], 1)
    listed = json.loads(bench.command("ctl", "--state-dir", "kept", "traces", "--json").stdout)
    assert [each["id"] for each in listed["traces"]] == [whole["id"]]
    bob.process.kill()
    done = bench.command("ctl", "--state-dir", "kept", "trace", "and now", "--wait", "0.3")
    assert done.returncode == 1
    assert "0 of 1 members have it" in done.stdout
    assert "not confirmed: " in done.stdout
    assert "bob" in done.stdout
    report = bench.command("ctl", "--state-dir", "kept", "trace", "x", "--wait", "0", "--json")
    assert json.loads(report.stdout)["complete"] is False


def test_where_no_node_answers_it_is_one_line_and_exit_1(bench: Bench) -> None:
    for arguments in (("--state-dir", "none"), ("--port", "9")):
        done = bench.command("ctl", *arguments, "peers")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "no node answers" in done.stderr


def test_what_the_node_refuses_is_one_line_and_exit_1(bench: Bench) -> None:
    bench.started("--state-dir", "kept")
    done = bench.command("ctl", "--state-dir", "kept", "send", "nobody", "x")
    assert done.returncode == 1
    assert done.stderr == "grapevine-tui: no peer or member named 'nobody'\n"
    wrong = bench.command("ctl", "--state-dir", "kept", "broadcast")
    assert wrong.returncode == 2


def test_without_a_state_directory_the_only_running_node_is_used(bench: Bench) -> None:
    run, _ = bench.started()
    shown = bench.command("ctl", "--port", "0", "status", "--json")
    assert json.loads(shown.stdout)["peer_id"] == run.seen[0]["peer_id"]
    assert "try --state-dir" in bench.command("ctl", "peers").stderr
    bench.started()
    several = bench.command("ctl", "--port", "0", "status")
    assert several.returncode == 1
    assert "any-1, any-2" in several.stderr


def test_a_socket_that_a_dead_node_left_is_replaced(bench: Bench) -> None:
    run, _ = bench.started("--state-dir", "kept")
    run.close()
    assert (bench.directory / "kept" / SOCKET_NAME).exists()
    bench.started("--state-dir", "kept")
    assert bench.command("ctl", "--state-dir", "kept", "status").returncode == 0


def test_a_denied_peer_is_disconnected_at_once_and_may_be_allowed_again(bench: Bench) -> None:
    bob, address = bench.started("--name", "bob", "--state-dir", "bob")
    run, _ = bench.started("--peer", address, "--state-dir", "kept", "--wait-peers", "1")
    run.expect("ready")
    denied = bench.command("ctl", "--state-dir", "kept", "deny", "bob", "--json")
    bob_id = bob.seen[0]["peer_id"]
    assert json.loads(denied.stdout)["peer_id"] == bob_id
    assert run.expect("peer", state="disconnected")["peer_id"] == bob_id
    assert run.ask(cmd="status")["denied"] == [bob_id]
    assert run.ask(cmd="deny", peer="nobody")["ok"] is False
    assert run.ask(cmd="deny", peer=run.seen[0]["peer_id"])["ok"] is False
    run.write("/allow bob\n")
    assert run.expect("reply")["ok"] is True
    assert run.ask(cmd="status")["denied"] == []
    assert run.ask(cmd="allow", peer="bob")["ok"] is False
    run.ask(cmd="dial", address=address)
    run.expect("peer", state="connected")


# --- in this process ------------------------------------------------------------------------------


async def a_host(stack: AsyncExitStack, state_dir: Path) -> Host:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()], name="us"), state_dir)
    await stack.enter_async_context(control_server(host, lambda: None))
    await host.start()
    stack.push_async_callback(host.leave, 0.1)
    assert (state_dir / SOCKET_NAME).is_socket()  # at once
    return host


def test_topics_are_published_and_subscribed_to_from_the_shell(bench: Bench) -> None:
    _, address = bench.started("--name", "one", "--state-dir", "a")
    other, _ = bench.started(
        "--state-dir", "b", "--peer", address, "--wait-peers", "1", "--topics", "metrics.cpu"
    )
    other.expect("ready")
    publish = ("ctl", "--state-dir", "a", "publish")
    done = bench.command(*publish, "deploy.web", "version", "2", "--expires", "60")
    assert done.stdout.endswith("sent to 1 peer\n"), done.stderr
    bench.command(*publish, "metrics.cpu", "97")
    assert other.expect("message")["topic"] == "metrics.cpu", "not the other one"
    follower = subprocess.Popen(
        f"{sys.executable} -m grapevine_tui ctl --state-dir b --json subscribe deploy.> --count 2".split(),
        stdout=subprocess.PIPE,
        text=True,
        env=environ_of(bench.directory),
        cwd=bench.directory,
    )
    try:
        while True:  # until the follower is connected, its node delivers none of these
            bench.command(*publish, "deploy.db", "version 3")
            if other.ask(cmd="stats")["stats"]["delivered"] > 1:
                break
        bench.command(*publish, "deploy.db", "version 3")
        stdout, _ = follower.communicate(timeout=WAIT_S)
    finally:
        follower.kill()
    assert follower.returncode == 0
    messages = [json.loads(line) for line in stdout.splitlines()]
    assert [(each["topic"], each["text"]) for each in messages] == [("deploy.db", "version 3")] * 2
    shown = bench.command("ctl", "--state-dir", "b", "subscribe", ">", "--count", "1")
    assert shown.stdout == "metrics.cpu  one: 97\n", "from what the node has shown"
    bad = bench.command(*publish, "Deploy", "x")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "'Deploy' has characters other than a-z" in bad.stderr
    bad = bench.command("ctl", "--state-dir", "a", "subscribe", "a..b")
    assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)


def test_members_are_asked_from_the_shell_and_answered_by_programs(bench: Bench) -> None:
    _, address = bench.started("--name", "one", "--state-dir", "a")
    answer_code = "import json,sys; print('load of', json.load(sys.stdin)['name'])"
    program = f'{sys.executable} -c "{answer_code}"'
    other, _ = bench.started(
        *("--name", "two", "--peer", address, "--wait-peers", "1", "--on", "query:load", program)
    )
    other.expect("ready")
    ask = ("ctl", "--state-dir", "a", "query")
    done = bench.command(*ask, "grapevine.version")
    assert done.returncode == 0, done.stderr
    summary, versions = done.stdout.splitlines()
    assert summary.startswith("2 of 2 members answered within")
    assert versions in (f"{__version__}  (2: one, two)", f"{__version__}  (2: two, one)")
    done = bench.command(*ask, "load", "now", "--json")
    reply = json.loads(done.stdout)
    assert (reply["end"], reply["asked"], reply["refused"]) == ("complete", 2, 1)
    (answer,) = [each for each in reply["answers"] if each["status"] == "answered"]
    assert answer["text"] == "load of load\n"
    assert "refused: no handler" in bench.command(*ask, "load").stdout
    links = json.loads(bench.command(*ask, "grapevine.links", "--json").stdout)
    assert all(len(json.loads(each["text"])) == 1 for each in links["answers"])
    for code, arguments, fault in (
        (6, ("load", "--zone", "mars"), "no member matches"),
        (1, ("load", "--timeout", "26"), "expected 1 to 25 seconds"),
        (1, ("x" * 65,), "64 bytes"),
    ):
        failed = bench.command(*ask, *arguments)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (code, "", 1)
        assert fault in failed.stderr


async def exchange(path: Path, *lines: bytes) -> list[Object]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.writelines(lines)
    writer.write_eof()
    output = await reader.read()
    writer.close()
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.asyncio
async def test_the_socket_accepts_the_same_commands_as_stdin(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        await a_host(stack, tmp_path)
        lines = (b"\n", b'{"cmd":"status","request":7}\n', b"/peers\n", b"{\n")
        status, peers, bad, long, after = await exchange(
            tmp_path / SOCKET_NAME, *lines, b"x" * (MAX_LINE_BYTES + 1) + b"\n", b"hi\n"
        )
        assert (status["request"], status["name"]) == (7, "us")
        assert peers["peers"] == []
        assert (bad["ok"], long["ok"], after["ok"]) == (False, False, True)
        assert "65,536" in long["error"]


@pytest.mark.asyncio
async def test_one_client_too_many_gets_an_error(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        await a_host(stack, tmp_path)
        path = str(tmp_path / SOCKET_NAME)
        writers = []
        for _ in range(MAX_CLIENTS):
            reader, writer = await asyncio.open_unix_connection(path)
            writers.append(writer)
            writer.write(b"/status\n")
            assert json.loads(await reader.readline())["ok"] is True
        (refused,) = await exchange(tmp_path / SOCKET_NAME)
        assert refused["ok"] is False
        assert "too many clients" in refused["error"]
        for writer in writers:
            writer.close()


@pytest.mark.asyncio
async def test_clients_that_have_not_asked_make_room_for_one_that_asks(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        await a_host(stack, tmp_path)
        path = tmp_path / SOCKET_NAME
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CLIENTS)]
        for _, writer in silent[1:]:
            writer.write(b"/sta")
        (status,) = await exchange(path, b"/status\n")
        assert status["ok"] is True
        assert await silent[0][0].read() == b""  # the oldest
        for _, writer in silent:
            writer.close()


@pytest.mark.asyncio
async def test_a_line_that_dribbles_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "LINE_TIMEOUT_S", 0.05)
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        await a_host(stack, tmp_path)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET_NAME))
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0)
                if not reader.at_eof():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.001):
                            assert await reader.read() == b""
        writer.close()


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "WRITE_TIMEOUT_S", 0.05)
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        await a_host(stack, tmp_path)
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, str(tmp_path / SOCKET_NAME))
        with pytest.raises(ConnectionError):
            await loop.sock_sendall(sock, b"/help\n" * 2_000_000)
        sock.close()
        (status,) = await exchange(tmp_path / SOCKET_NAME, b"/status\n")
        assert status["ok"] is True


@pytest.mark.asyncio
async def test_stopped_is_sent_once(tmp_path: Path) -> None:
    reported: list[str] = []
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    control = ControlServer(host, tmp_path, lambda: reported.append("bye"))
    async with asyncio.timeout(WAIT_S):
        control.bind()
        await control.start()
        replies = await exchange(tmp_path / SOCKET_NAME, b"/leave\n", b'{"cmd":"quit"}\n')
        control.close()
    assert [reply["ok"] for reply in replies] == [True, True]
    assert reported == ["bye"]
    assert not (tmp_path / SOCKET_NAME).exists()


def test_a_plain_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("mine")
    control = ControlServer(Host(NodeConfig.local(), None), tmp_path, lambda: None)
    with pytest.raises(FileExistsError):
        control.bind()
    control.close()
    assert (tmp_path / SOCKET_NAME).read_text() == "mine"


def test_a_path_too_long_for_a_socket_has_a_shorter_name(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        with connectable_path(directory / SOCKET_NAME) as name:
            sock.bind(name)
        assert (directory / SOCKET_NAME).is_socket()


def test_a_server_that_is_not_a_node_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match="no node answers"):
        send_command(tmp_path, {"cmd": "status"})
    assert issubclass(CommandFailed, Exception)


def test_a_table_for_people_shows_nothing_that_moves_a_cursor() -> None:
    rows: list[Object] = [{"name": "\x1b[2J夜", "sent": 1234}, {"name": "", "sent": None}]
    head, first, second = format_table(rows, ("name", "sent"))
    assert head == "name        sent" or head.split() == ["name", "sent"]
    assert "\x1b" not in first
    assert first.endswith("1,234")
    assert second.split() == ["-", "-"]
    assert format_table([], ("name", "sent")) == ["name  sent"]
    assert format_facts({"lag_ms": 0.25, "dropped": {"replay": 3}}) == [
        "lag ms          0.25",
        "dropped replay  3",
    ]


def test_the_hint_leads_to_another_node_that_runs_and_never_to_where_one_just_asked(
    bench: Bench,
) -> None:
    dead, _ = bench.started("--state-dir", "nodes/dead")
    dead.process.kill()
    dead.process.wait()
    reported = bench.command("ctl", "--state-dir", "nodes/dead", "status").stderr
    assert "no node answers at nodes/dead" in reported
    assert "try" not in reported
    bench.started("--state-dir", "nodes/alive")
    reported = bench.command("ctl", "--state-dir", "nodes/dead", "status").stderr
    assert reported.endswith("try --state-dir nodes/alive\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who answers")
@pytest.mark.parametrize(("uid", "is_refused"), [(1000, False), (0, False), (1001, True)])
def test_a_server_of_another_user_is_sent_nothing(
    monkeypatch: pytest.MonkeyPatch, uid: int, is_refused: bool
) -> None:
    class Connected:
        def getsockopt(self, *_: int) -> bytes:
            return socket_file.PEER_CREDENTIALS.pack(1, uid, uid)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if is_refused:
        with pytest.raises(OSError, match=f"belongs to uid {uid}"):
            check_server_owner(Connected(), Path(SOCKET_NAME))
    else:
        check_server_owner(Connected(), Path(SOCKET_NAME))


def test_a_reload_reports_whether_it_succeeded(bench: Bench) -> None:
    config = bench.directory / "c.toml"
    config.write_text("fanout = 3\n")
    run, _ = bench.started("-c", str(config), "--state-dir", "kept")
    ctl = ("ctl", "--state-dir", "kept")
    config.write_text('fanout = 4\ncluster = "eu"\n')
    done = bench.command(*ctl, "reload")
    assert (done.returncode, done.stdout) == (0, "reloaded; restart needed for: cluster\n")
    config.write_text("fanout = 5\nfanot = 3\n")
    done = bench.command(*ctl, "reload")
    assert done.returncode == 1
    assert done.stderr.startswith("grapevine-tui: not reloaded: fanot: unknown setting")
    values = {each["name"]: each["value"] for each in _values_after(config, run)}
    assert values["fanout"] == 4
    assert bench.command(*ctl, "reload").stdout == "reloaded\n"


def test_ctl_set_settings_applies_all_changes_or_none(bench: Bench) -> None:
    config = bench.directory / "c.toml"
    config.write_text("# ours\nfanout = 3\n")
    run, _ = bench.started("-c", str(config), "--state-dir", "kept")
    ctl = ("ctl", "--state-dir", "kept", "set_settings")
    done = bench.command(*ctl, "fanout=5", "cluster=us west")
    assert done.stdout == f"saved to {config}; restart needed for: cluster\n"
    assert config.read_text() == '# ours\nfanout = 5\ncluster = "us west"\n'
    for refused in (("fanout=6", "nonsense=1"), ("fanout",)):
        assert bench.command(*ctl, *refused).returncode == 1
    assert "fanout = 5" in config.read_text()
    assert bench.command("ctl", "--state-dir", "kept", "help", "trace").stdout.startswith("Usage: ")
    assert run.process.poll() is None


def test_what_was_set_over_an_option_stays_in_effect_until_a_reload(bench: Bench) -> None:
    config = bench.directory / "c.toml"
    config.write_text("max_peers = 20\n")
    run, _ = bench.started("-c", str(config), "--state-dir", "kept", "--fanout", "5")
    ctl = ("ctl", "--state-dir", "kept")
    done = bench.command(*ctl, "set_settings", "fanout=7")
    assert done.stdout == (
        f"saved to {config}\nfanout is overridden by --fanout after a reload or restart\n"
    )

    def fanout() -> tuple[object, object]:
        values = {each["name"]: each for each in run.ask(cmd="settings")["values"]}
        return values["fanout"]["value"], values["fanout"]["origin"]

    assert fanout() == (7, "changed here")
    assert bench.command(*ctl, "set_settings", "max_peers=30").stdout == f"saved to {config}\n"
    assert fanout() == (7, "changed here")
    events = bench.command(*ctl, "--json", "events", "kind:settings").stdout
    assert "became 5" not in events
    assert bench.command(*ctl, "reload").stdout == "reloaded\n"
    assert fanout() == (5, "--fanout")


def _values_after(config: Path, run: Run) -> list[Object]:
    """The settings once the file is as it should be."""
    config.write_text("fanout = 4\n")
    values: list[Object] = run.ask(cmd="settings")["values"]
    return values
