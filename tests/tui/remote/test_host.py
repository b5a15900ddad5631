"""The app before a node in another process: all that can be seen and done, a loss, a return."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from textual.pilot import Pilot

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.events import MessageReceived, Question
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.screens.settings import SettingsScreen
from grapevine_tui.control import subscribers as watching_module
from grapevine_tui.control.client import CommandFailed
from grapevine_tui.control.read_only import ReadOnly
from grapevine_tui.control.server import control_server
from grapevine_tui.control.socket_file import SOCKET_NAME
from grapevine_tui.control.target import LocalTarget, NodeUnreachable, SshTarget
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Model
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.remote import host as attached_module
from grapevine_tui.remote.host import RemoteHost
from tests.tui.fake_host import FakeSettings
from tests.tui.fake_ssh import install_fake_ssh
from tests.tui.runs import WAIT_S, Bench
from tests.tui.stage import text_of
from tests.tui.values import received

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached_module, "RECONNECT_INTERVAL_S", 0.05)


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await pilot.pause(0.05)


@asynccontextmanager
async def an_app(state_dir: Path) -> AsyncIterator[tuple[GrapevineApp, Pilot[None], RemoteHost]]:
    host = RemoteHost(state_dir, Model())
    await host.start()
    app = GrapevineApp(host, FakeSettings(node=host.config))
    host.on_config_changed = partial(app.call_later, app.main.apply_config, is_restarted=True)
    try:
        async with app.run_test(size=(120, 36), notifications=True) as pilot:
            yield app, pilot, host
    finally:
        await host.leave(0.0)


async def test_all_that_is_seen_of_a_node_of_ones_own_is_seen_and_done(bench: Bench) -> None:
    bob, address = bench.started("--name", "bob", "--zone", "eu-west", "--profile", "local")
    us, _ = bench.started(
        "--name", "us", "--state-dir", "kept", "--peer", address, "--wait-peers", "1"
    )
    us.expect("ready")
    bob.ask(cmd="broadcast", text="from before")
    us.expect("message", text="from before")
    async with an_app(bench.directory / "kept") as (app, pilot, host):
        await until(pilot, lambda: "● up      bob" in text_of(app))
        assert "attached:  us" in text_of(app)
        await until(pilot, lambda: "from before" in text_of(app))
        bob.ask(cmd="broadcast", text="from now \x1b[2J")
        await until(pilot, lambda: "from now ␛[2J" in text_of(app))
        await pilot.press("i", *"hello bob", "enter")
        assert (await _expect(bob.expect, "message", text="hello bob"))["from_name"] == "us"
        await until(pilot, lambda: "you       sent           hello bob" in text_of(app))
        await pilot.press(*"/send bob psst", "enter")
        assert (await _expect(bob.expect, "message", text="psst"))["direct"] is True
        await pilot.press(*"/send nobody x", "enter")
        await until(pilot, lambda: "no peer or member named 'nobody'" in text_of(app))
        app.main.compose_box.draft.clear()
        await pilot.press(*"/trace who has it", "enter")
        await until(pilot, lambda: "1 of 1" in text_of(app) and "who has it" in text_of(app))
        await pilot.press("escape", "escape", "A")
        await until(pilot, lambda: "= in sync" in text_of(app))
        await pilot.press("1", "enter")
        await until(pilot, lambda: "healthy" in text_of(app))
        await pilot.press("escape", "m")
        await until(pilot, lambda: "eu-west" in text_of(app) and "up" in text_of(app))
        await pilot.press("escape", "i", *"/deny bob", "enter", "enter")
        await until(pilot, lambda: "● up      bob" not in text_of(app))
        await pilot.press(*"/allow bob", "enter", *f"/connect {address}", "enter")
        await until(pilot, lambda: "● up      bob" in text_of(app))
        assert (await host.snapshot())["status"]["name"] == "us"
        assert (await host.report("1h", ReportFormat.HTML)).startswith("<!DOCTYPE html>")
        large = b"x" * (attached_module.MAX_INLINE_PAYLOAD_BYTES + 1)
        await host.broadcast(large)
        assert (await _expect(bob.expect, "message", bytes=len(large)))["hops"] == 1
    assert us.ask(cmd="status")["ok"] is True  # the node runs on


async def _expect(
    expect: Callable[..., dict[str, object]], *args: str, **fields: object
) -> dict[str, object]:
    return await asyncio.to_thread(expect, *args, **fields)


async def test_a_lost_node_is_reported_at_once_and_found_again_when_it_is_back(
    bench: Bench,
) -> None:
    us, _ = bench.started("--name", "us", "--state-dir", "kept")
    us.ask(cmd="broadcast", text="once")
    async with an_app(bench.directory / "kept") as (app, pilot, host):
        await until(pilot, lambda: "once" in text_of(app))
        us.process.kill()
        await until(pilot, lambda: ": connection closed" in text_of(app))
        assert re.search(r"NODE LOST \d+s ago", text_of(app))
        assert "once" in text_of(app)
        await pilot.press("i", *"hello", "enter")
        await until(pilot, lambda: app.main.compose_box.draft.text == "hello")
        with pytest.raises(NodeUnreachable, match="no connection to the node"):
            await host.dial("127.0.0.1:9")
        app.main.compose_box.draft.clear()
        again, _ = bench.started("--name", "us", "--zone", "mars", "--state-dir", "kept")
        await until(pilot, lambda: "NODE LOST" not in text_of(app))
        await until(pilot, lambda: "zone mars" in text_of(app))
        await pilot.press(*"hello", "enter")
        assert (await _expect(again.expect, "message", text="hello"))["via"] == "local"
        await until(pilot, lambda: text_of(app).count("once") == 1)
        again.ask(cmd="quit")
        await until(pilot, lambda: ": the node stopped: " in text_of(app))


async def test_attach_without_a_node_or_a_terminal_is_one_line(
    bench: Bench, tmp_path: Path
) -> None:
    host = RemoteHost(tmp_path, Model())
    with pytest.raises(NodeUnreachable, match="no node answers"):
        await host.start()
    done = bench.command("attach", "--state-dir", "none")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


async def test_attach_without_a_target_lists_the_nodes_that_run_here(bench: Bench) -> None:
    bench.started("--name", "one")
    alone = bench.command("attach")  # found, but there is no terminal
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "no node" not in alone.stderr
    bench.started("--name", "two \x1b[2J")
    done = bench.command("attach")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    columns = ["number", "context", "node", "address", "cluster", "peers", "members"]
    assert lines[0].split() == columns
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert [line.split()[2] for line in lines[1:3]] == ["one", "two"]
    assert "attach to one of them by its context" in lines[3]
    assert "\x1b" not in done.stdout
    by_name = bench.command("attach", lines[1].split()[1])
    assert "the app needs a terminal" in by_name.stderr  # found


# --- in this process ------------------------------------------------------------------------------


async def a_node(stack: AsyncExitStack, state_dir: Path) -> Host:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()], name="us"), state_dir)
    await stack.enter_async_context(control_server(host, lambda: None))
    await host.start()
    stack.push_async_callback(host.leave, 0.1)
    return host


async def watch(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=2**26)
    writer.write(b'{"cmd":"watch"}\n')
    assert json.loads(await reader.readline())["ok"] is True
    return reader, writer


def deliver(host: Host, number: int, payload: bytes = b"x", topic: str = "") -> None:
    """Delivers a message of another node."""
    event = received(1, number, payload)
    host._on_event(MessageReceived(event.message._replace(topic=topic)))


async def test_a_query_that_takes_long_keeps_no_other_request_waiting(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        node = await a_node(stack, tmp_path)
        is_done = asyncio.Event()

        async def answer(question: Question) -> bytes:
            await is_done.wait()
            return question.payload

        node.node.on_query("slow")(answer)
        host = RemoteHost(tmp_path, Model())
        await host.start()
        stack.push_async_callback(host.leave, 0.0)
        asking = asyncio.create_task(host.query(AskMembers("slow", b"x", timeout_s=20)))
        await host.start_round()
        await host.broadcast(b"meanwhile")
        assert not asking.done()
        is_done.set()
        reply = await asking
        assert [each["text"] for each in reply["answers"]] == ["x"]
        with pytest.raises(CommandFailed, match="no member matches"):
            await host.query(AskMembers("slow", zone="mars"))


async def test_a_subscriber_misses_nothing_between_the_snapshot_and_the_events(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        host = await a_node(stack, tmp_path)
        assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
        for number in range(1, watching_module.MAX_REPLAYED_MESSAGES + 2):
            deliver(host, number)
        reader, writer = await watch(tmp_path / SOCKET_NAME)
        deliver(host, 5000)
        for number in [*range(2, watching_module.MAX_REPLAYED_MESSAGES + 2), 5000]:
            reported = json.loads(await reader.readline())
            assert (reported["event"], reported["sequence"]) == ("message", number)
            assert ("at" in reported) == (number != 5000)
        writer.write(b'{"cmd":"watch"}\n{"cmd":"poll","request":"t"}\n')
        assert json.loads(await reader.readline())["ok"] is True  # nothing is reported twice
        tables = json.loads(await reader.readline())
        assert (tables["request"], tables["members"], tables["peers"]) == ("t", 0, [])
        writer.close()


async def test_a_client_gets_each_message_once_whatever_it_subscribes_to(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        host = await a_node(stack, tmp_path)
        for number, topic in enumerate(("deploy.web", "metrics.cpu", "", "deploy.db"), 1):
            deliver(host, number, topic=topic)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET_NAME))
        requests = [
            {"cmd": "subscribe", "pattern": "deploy.*"},
            {"cmd": "subscribe", "pattern": "deploy.*"},
            {"cmd": "subscribe", "pattern": ">"},
            {"cmd": "watch"},
            {"cmd": "subscribe", "pattern": "metrics.>"},
        ]
        expected: list[list[int]] = [[1, 4], [], [2], [3], []]
        for request, sequences in zip(requests, expected, strict=True):
            writer.write(json.dumps(request).encode() + b"\n")
            assert json.loads(await reader.readline())["ok"] is True
            replayed = [json.loads(await reader.readline())["sequence"] for _ in sequences]
            assert replayed == sequences
        deliver(host, 5)
        assert json.loads(await reader.readline())["sequence"] == 5
        writer.close()


async def test_a_subscriber_that_does_not_read_loses_events_and_gets_their_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_module, "MAX_QUEUED_BYTES", 20_000)
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        host = await a_node(stack, tmp_path)
        reader, writer = await watch(tmp_path / SOCKET_NAME)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        count = 2_000
        for number in range(count):
            deliver(host, number, b"x" * 1000)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        reported: list[dict[str, object]] = []
        while not reported or reported[-1].get("sequence") != 9_999:
            deliver(host, 9_999)
            reported.append(json.loads(await reader.readline()))
        lost = [each for each in reported if each["event"] == "dropped"]
        received_messages = [
            each for each in reported if each["event"] == "message" and each["sequence"] != 9_999
        ]
        assert lost[0]["reason"] == "slow_reader"
        missed = sum(int(str(each["count"])) for each in lost)
        assert missed > 1_000
        assert missed + len(received_messages) >= count
        writer.close()


async def test_one_that_never_reads_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_module, "MAX_QUEUED_BYTES", 20_000)
    monkeypatch.setattr(watching_module, "STUCK_TIMEOUT_S", -1.0)
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        host = await a_node(stack, tmp_path)
        reader, writer = await watch(tmp_path / SOCKET_NAME)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(2_000):
            deliver(host, number, b"x" * 1000)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert not (await reader.read()).endswith(b"\n") or reader.at_eof()
        writer.close()


async def test_a_server_that_is_not_a_node_is_reported(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_unix_server(answer, str(tmp_path / SOCKET_NAME))
    with pytest.raises(NodeUnreachable, match="is not a Grapevine node"):
        await RemoteHost(tmp_path, Model()).start()
    server.close()


async def test_errors_of_the_node_arrive_unchanged(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        node = await a_node(stack, tmp_path)
        host = RemoteHost(tmp_path, Model())
        await host.start()
        stack.push_async_callback(host.leave, 0.0)
        assert host.model.local_node is not None
        assert host.model.local_node.peer_id == node.node.peer_id
        with pytest.raises(CommandFailed, match="no peer or member named"):
            await host.send("nobody", b"x")
        with pytest.raises(CommandFailed):
            await host.forget(node.node.peer_id)
        received_messages: asyncio.Queue[object] = asyncio.Queue()
        host.listen(lambda event, _: received_messages.put_nowait(event))
        deliver(node, 1)
        assert isinstance(await received_messages.get(), MessageReceived)


async def test_a_node_that_hangs_is_as_of_its_last_answer_until_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        await a_node(stack, tmp_path)
        host = RemoteHost(tmp_path, Model(wall_clock=lambda: now + 5e8), clock=lambda: now)
        await host.start()
        stack.push_async_callback(host.leave, 0.0)
        host.refresh()
        assert not host.model.outdated_since
        now += attached_module.SILENT_TIMEOUT_S + 0.5
        host.refresh()  # before the loop has a turn to read an answer
        assert host.model.disconnect_reason == "the node does not answer"
        assert host.model.outdated_since == 1_000.0 + 5e8
        assert host.is_connected
        while host.model.disconnect_reason:  # noqa: ASYNC110  until the loop has read the answer
            await asyncio.sleep(0)
        assert not host.model.outdated_since
        assert [each.text for each in host.model.notices][-1] == "the node answers again"


async def test_a_node_over_ssh_is_like_one_here_and_its_loss_has_the_words_of_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", install_fake_ssh(tmp_path / "bin")["PATH"])
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        node = await a_node(stack, tmp_path)
        host = RemoteHost(SshTarget("web-1", str(tmp_path)), Model())
        await host.start()
        stack.push_async_callback(host.leave, 0.0)
        assert host.model.local_node is not None
        assert host.model.local_node.peer_id == node.node.peer_id
        await host.broadcast(b"over ssh")
        with pytest.raises(CommandFailed, match="too large: over ssh"):
            await host.broadcast(b"x" * (attached_module.MAX_INLINE_PAYLOAD_BYTES + 1))
        with pytest.raises(NodeUnreachable, match="ssh down: ssh: Could not resolve hostname down"):
            await RemoteHost(SshTarget("down"), Model()).start()


async def test_a_read_only_host_reads_and_sends_no_act(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        node = await a_node(stack, tmp_path)
        host = RemoteHost(LocalTarget(tmp_path, is_readonly=True), Model())
        await host.start()
        stack.push_async_callback(host.leave, 0.0)
        assert (await host.snapshot())["status"]["name"] == "us"
        acts = [
            host.broadcast(b"x"), host.publish("a.b", b"x"), host.trace(b"x"), host.send("x", b"x"),
            host.dial("127.0.0.1:1"), host.deny("x"), host.allow("x"), host.start_round(),
            host.forget(node.node.peer_id), host.reload(), host.prune_history(),
            host.export_history("f"), host.import_history("f"), host.query(AskMembers("uptime")),
            host.tags("set", ["a=b"]), host.state(AccessState("set", "a", b"x")),
        ]  # fmt: skip
        for act in acts:
            with pytest.raises(ReadOnly):
                await act
        assert (await host.state(AccessState("list", "")))["keys"] == []


async def test_the_nodes_settings_are_seen_changed_and_saved_where_it_runs(bench: Bench) -> None:
    path = bench.directory / "node.toml"
    path.write_text("# ours\nfanout = 3\n")
    us, _ = bench.started("--name", "us", "--state-dir", "kept", "-c", "node.toml")
    async with an_app(bench.directory / "kept") as (app, pilot, host):
        await pilot.press("escape", "C")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen))
        assert isinstance(app.screen, SettingsScreen)
        table = app.screen.table
        await until(pilot, lambda: "--name" in text_of(app))  # where each value came from there
        while table.cursor_key != "fanout":
            await pilot.press("j")
        await pilot.press("enter", "ctrl+u", *"many")
        await until(pilot, lambda: "a whole number" in text_of(app) or "'many'" in text_of(app))
        await pilot.press("ctrl+u", "7", "enter", "ctrl+s")
        await until(pilot, lambda: "saved in" in text_of(app))
        assert path.read_text() == "# ours\nfanout = 7\n"
        reported = await asyncio.to_thread(us.ask, cmd="settings")
        values = {each["name"]: each for each in reported["values"]}
        assert values["fanout"]["value"] == 7
        # A valid value that the node cannot save is reported with the node's error, and stays in effect.
        editing = await host.edit()
        editing.set_value("fanout", "8")
        path.unlink()
        path.mkdir()
        with pytest.raises(CommandFailed, match="Is a directory"):
            await editing.save_async()
        assert editing.pending == ("fanout",)


async def test_invalid_changes_are_rejected_as_a_whole(bench: Bench) -> None:
    us, _ = bench.started("--state-dir", "kept")
    for changes, expected in (
        ({"fanout": "many"}, "fanout"),
        ({"fanout": "4", "no_such": "1"}, "no_such"),
        ({"app.demo": "true"}, "only at start"),
        ({}, "changes"),
        ({"fanout": 4}, "strings"),
        ("fanout", "changes"),
    ):
        reply = await asyncio.to_thread(us.ask, cmd="set_settings", changes=changes)
        assert reply["ok"] is False
        assert expected in reply["error"]
    reported = await asyncio.to_thread(us.ask, cmd="settings")
    assert next(each for each in reported["values"] if each["name"] == "fanout")["value"] == 3
