"""A node on stdin and stdout: whole processes on loopback, and the parts that need none."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import StateLockedError
from grapevine_tui.cli.invitation import Invitation
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.event_feed import RateLimitedCounter
from grapevine_tui.control.lines import MAX_LINE_BYTES, LineSplitter
from grapevine_tui.service.headless import Headless
from grapevine_tui.service.stdio import LineWriter, read_lines
from tests.tui.runs import WAIT_S, Bench, Run


def messages(run: Run) -> list[str]:
    return [reported["text"] for reported in run.seen if reported["event"] == "message"]


def test_a_broadcast_reaches_two_others_once_each(bench: Bench) -> None:
    first, address = bench.started("--name", "ams-1")
    others = [bench.started("--peer", address, "--wait-peers", "2")[0] for _ in range(2)]
    for other in others:
        assert other.expect("ready")["peers"] == 2
    first.write('{"cmd":"broadcast","text":"hi","request":1}\n')
    reply = first.expect("reply", request=1)
    assert reply["ok"] is True
    assert reply["peers"] == 2
    for other in others:
        received = other.expect("message")
        assert received["id"] == reply["id"]
        assert (received["text"], received["base64"], received["bytes"]) == ("hi", "aGk=", 2)
        assert received["from_name"] == "ams-1"
        assert received["direct"] is False
        assert received["via"] in {"eager", "lazy", "repair"}
        assert received["id"].startswith(received["origin"] + ":")
    for run in (*others, first):
        assert run.end() == 0
        assert messages(run) == ["hi"]


def test_started_is_the_first_object_and_stopped_the_last(bench: Bench) -> None:
    run, _ = bench.started("--zone", "eu-west", "--cluster", "blue")
    assert run.ask(cmd="status")["ok"] is True
    run.write("hello\n/quit\n")
    assert run.process.wait(timeout=WAIT_S) == 0
    run.expect("stopped")
    assert run.end(None) == 0
    assert [reported["event"] for reported in run.seen].count("started") == 1
    assert run.seen[-1]["reason"] == "quit"
    started = run.seen[0]
    assert started["event"] == "started"
    assert (started["zone"], started["cluster"]) == ("eu-west", "blue")
    assert len(started["peer_id"]) == 64


BAD_LINES = (
    (b"{", "not JSON"),
    (b"{}", "cmd"),
    (b'{"cmd":"braodcast","text":"x"}', "broadcast?"),
    (b'{"cmd":3}', "unknown command"),
    (b'{"cmd":"broadcast"}', "text, base64, file"),
    (b'{"cmd":"broadcast","text":"x","base64":"eA=="}', "one of"),
    (b'{"cmd":"broadcast","text":3}', "string"),
    (b'{"cmd":"broadcast","txt":"x"}', "txt"),
    (b'{"cmd":"broadcast","text":"\\ud800"}', "surrogate"),
    (b'{"cmd":"broadcast","base64":"!"}', "base64"),
    (b'{"cmd":"broadcast","file":"none"}', "none"),
    (b'{"cmd":"broadcast","file":"."}', "plain file"),
    (b'{"cmd":"send","text":"x"}', "to"),
    (b'{"cmd":"send","to":"nobody","text":"x"}', "nobody"),
    (b'{"cmd":"dial","address":"here"}', "host:port"),
    (b'{"cmd":"peers","all":"yes"}', "all"),
    (b'{"cmd":"peers","request":NaN}', "NaN"),
    (b'{"cmd":"peers","request":1e999}', "range"),
    (b'{"cmd":"peers","cmd":"quit"}', "twice"),
    (b'{"cmd":"peers","request":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested"),
    (b"\xff\xfe", "UTF-8"),
    (b"/nope", "/nope"),
    (b"/send", "/send PEER TEXT"),
)


def test_a_bad_line_is_answered_and_nothing_else_happens(bench: Bench) -> None:
    run, _ = bench.started()
    for line, expected_text in BAD_LINES:
        run.write(line + b"\n")
        reply = run.expect("reply")
        assert reply["ok"] is False
        assert expected_text in reply["error"]
    assert run.ask(cmd="stats")["stats"]["published"] == 0
    assert run.end() == 0
    replies = ["reply"] * (len(BAD_LINES) + 1)
    assert [reported["event"] for reported in run.seen] == ["started", *replies, "stopped"]


def test_a_command_after_a_byte_order_mark_runs_and_a_malformed_one_is_never_broadcast(
    bench: Bench,
) -> None:
    run, _ = bench.started()
    run.write(b'\xef\xbb\xbf{"cmd":"status","request":7}\r\n')
    assert run.expect("reply", request=7)["ok"] is True
    for line in '{"cmd":"peers"}\n/peers\n'.encode("utf-16").split(b"\n"):
        run.write(line + b"\n")
        assert run.expect("reply")["ok"] is False
    run.write(b'{\n  "cmd": "broadcast",\n  "text": "hello"\n}\n')
    for _ in range(4):
        assert run.expect("reply")["ok"] is False
    assert run.ask(cmd="stats")["stats"]["published"] == 0
    assert run.end() == 0


def test_a_line_that_is_too_long_is_skipped_to_its_end(bench: Bench) -> None:
    run, _ = bench.started()
    run.write(b"x" * (MAX_LINE_BYTES + 1) + b"quit\n" + b"after\n")
    reply = run.expect("reply")
    assert reply["ok"] is False
    assert "65,536" in reply["error"]
    assert run.expect("message")["text"] == "after"


def test_the_commands_answer_with_what_there_is(bench: Bench) -> None:
    bob, address = bench.started("--name", "bob")
    run, _ = bench.started("--wait-peers", "1")
    assert run.ask(cmd="dial", address=address)["ok"] is True
    run.expect("ready")
    (peer,) = run.ask(cmd="peers")["peers"]
    assert (peer["name"], peer["address"], peer["state"]) == ("bob", address, "connected")
    (member,) = run.ask(cmd="members")["members"]
    assert (member["name"], member["status"]) == ("bob", "up")
    status = run.ask(cmd="status")
    assert (status["peers"], status["members"]) == (1, 1)
    assert run.ask(cmd="stats")["stats"]["sessions"] == 1
    assert isinstance(run.ask(cmd="rounds")["rounds"], list)
    assert any(each["usage"] == "/peers" for each in run.ask(cmd="help")["help"])
    sent = run.ask(cmd="send", to="bob", base64="/wA=")
    assert sent["to"] == peer["peer_id"]
    received = bob.expect("message")
    assert received["id"] == sent["id"]
    assert (received["direct"], received["base64"], "text" in received) == (True, "/wA=", False)
    (bench.directory / "text").write_bytes(b"from a file")
    assert run.ask(cmd="broadcast", file="text")["ok"] is True
    assert bob.expect("message")["text"] == "from a file"
    run.write("/send bob by slash\n")
    assert bob.expect("message")["text"] == "by slash"
    assert run.end() == 0
    assert bob.end() == 0


def test_nodes_of_one_user_find_each_other_on_free_ports(bench: Bench) -> None:
    first, address = bench.started("--discover", "local", "--name", "ams-1")
    second = bench.run("--discover", "local", "--wait-peers", "1")
    second.expect("discovered", address=address, source="local")
    second.expect("ready")
    second.write('{"cmd":"discover"}\n')
    reply = second.expect("reply")
    assert [(each["address"], each["source"]) for each in reply["discovered"]] == [
        (address, "local")
    ]
    assert (reply["discovered"][0]["name"], reply["discovered"][0]["state"]) == (
        "ams-1",
        "connected",
    )
    assert reply["sources"] == [{"source": "local", "addresses": 1, "dropped": 0, "problem": ""}]
    for run in (second, first):
        assert run.end() == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--discover", "smoke"), "app.discover: must be one of local, mdns"),
        (("--peer", "@"), "bootstrap_peers: expected the name of a file after @"),
        (("--peer", "srv+"), "bootstrap_peers: expected a DNS name after srv+"),
    ],
)
def test_a_source_that_does_not_exist_is_one_line_and_exit_2(
    bench: Bench, arguments: tuple[str, ...], expected: str
) -> None:
    run = bench.run(*arguments)
    assert run.process.wait(WAIT_S) == 2
    assert expected in run.errors()


def test_untrusted_text_is_printed_only_as_ascii_json(bench: Bench) -> None:
    first, address = bench.started()
    other, _ = bench.started("--peer", address, "--wait-peers", "1")
    other.expect("ready")
    text = "\x1b]0;x\x07[bold][/nope] größe 夜 \x85\u202e"
    assert first.ask(cmd="broadcast", text=text)["ok"] is True
    assert other.expect("message")["text"] == text


def test_the_end_of_input_ends_it_once_a_peer_has_acknowledged_everything(bench: Bench) -> None:
    first, address = bench.started()
    run = bench.run("--peer", address, "--on-eof", "exit")
    run.write("sent without peers")  # the last line needs no newline
    assert run.end(None) == 0
    assert run.seen[-1]["event"] == "stopped"
    assert (run.seen[-1]["reason"], run.seen[-1]["unacknowledged"]) == ("eof", 0)
    assert first.expect("message")["text"] == "sent without peers"


def test_the_end_of_input_without_peers_is_exit_1_and_a_count(bench: Bench) -> None:
    run, _ = bench.started("--on-eof", "exit", "--eof-timeout", "0.2")
    run.write("one\ntwo\n")
    assert run.end(None) == 1
    assert (run.seen[-1]["reason"], run.seen[-1]["unacknowledged"]) == ("eof_timeout", 2)
    assert "2 of our messages" in run.errors()


def test_the_end_of_input_is_ignored_unless_configured(bench: Bench) -> None:
    run = bench.run(stdin=subprocess.DEVNULL)
    address = run.expect("started")["address"]
    other, _ = bench.started("--peer", address, "--wait-peers", "1")
    other.expect("ready")
    assert run.process.poll() is None
    assert run.end() == 0


def test_input_may_be_a_plain_file(bench: Bench) -> None:
    path = bench.directory / "commands"
    path.write_text("\n\r\n/status\r\n/peers\n")
    with path.open("rb") as file:
        run = bench.run("--on-eof", "exit", stdin=file)
        assert run.end(None) == 0
    replies = [reported for reported in run.seen if reported["event"] == "reply"]
    assert [reported["ok"] for reported in replies] == [True, True]


def test_a_closed_stdin_is_an_end_of_input_and_no_socket_reuses_its_descriptor(
    bench: Bench,
) -> None:
    command = f'exec "{sys.executable}" -m grapevine_tui --headless -p 0 --on-eof exit -l warn <&-'
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(bench.directory)},
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events == ["started", "stopped"]


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_it_down_gracefully_and_soon(which: signal.Signals, bench: Bench) -> None:
    first, address = bench.started()
    run, _ = bench.started("--peer", address, "--wait-peers", "1")
    run.expect("ready")
    began = time.monotonic()
    assert run.end(which) == 0
    assert time.monotonic() - began < 2.0  # 0.5 s is promised; a busy machine may take its time
    assert run.seen[-1]["event"] == "stopped"
    assert run.seen[-1]["reason"] == which.name.lower()
    assert first.expect("peer", state="disconnected")["reason"] == "left"


def test_a_second_signal_ends_it_at_once(bench: Bench) -> None:
    run, _ = bench.started()
    run.process.send_signal(signal.SIGSTOP)  # so that both are there when it goes on
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    # The system does not promise which of the two comes second.
    assert run.end(signal.SIGCONT) in {130, 143}
    assert run.seen[-1]["event"] == "started"


def test_a_hangup_reloads_keys_and_a_mistake_changes_nothing(bench: Bench) -> None:
    path = bench.directory / "c.key"
    ClusterKey.generate().save(path)
    run, address = bench.started("-k", str(path), "-l", "info")
    path.chmod(0o644)
    run.process.send_signal(signal.SIGHUP)
    run.expect_error("not reloaded")
    assert run.ask(cmd="status")["ok"] is True
    path.unlink()
    ClusterKey.generate().save(path)
    run.process.send_signal(signal.SIGHUP)
    other, _ = bench.started("-k", str(path), "--peer", address, "--wait-peers", "1")
    assert other.expect("ready")["peers"] == 1
    assert run.end() == 0
    errors = run.errors()
    assert "not reloaded" in errors
    assert "info grapevine.reload: reloaded" in errors


def test_changes_that_need_a_restart_are_reported_as_pending_and_not_as_in_effect(
    bench: Bench,
) -> None:
    config = bench.directory / "c.toml"
    config.write_text('name = "one"\ncluster = "red"\nzone = "z1"\nfanout = 3\n')
    run, _ = bench.started("-c", str(config), "--state-dir", "kept", "-l", "info")
    before = run.ask(cmd="status")
    assert before["restart"] == []
    config.write_text(
        'name = "two"\ncluster = "blue"\nzone = "z2"\nfanout = 4\n[app]\non_eof = "exit"\n'
    )
    run.process.send_signal(signal.SIGHUP)
    while (status := run.ask(cmd="status"))["restart"] == []:
        pass
    assert [status[each] for each in ("name", "cluster", "zone")] == ["two", "red", "z2"]
    assert status["restart"] == ["cluster", "app.on_eof"]
    values = {each["name"]: each for each in run.ask(cmd="settings")["values"]}
    assert values["cluster"]["origin"] == f"until restart: red; {config}, line 2"
    assert values["fanout"]["origin"] == f"{config}, line 4"
    # An order that changes something else does not undo what waits.
    assert run.ask(cmd="deny", peer="ab" * 32)["ok"] is True
    assert run.ask(cmd="status")["cluster"] == "red"
    assert run.ask(cmd="status")["restart"] == status["restart"]
    invited = bench.command("invite", "--state-dir", "kept").stdout
    assert Invitation.from_line(invited).cluster == "red"
    config.write_text('name = "one"\ncluster = "red"\nzone = "z1"\nfanout = 3\n')
    run.process.send_signal(signal.SIGHUP)
    while run.ask(cmd="status")["restart"]:
        pass
    assert run.end() == 0
    assert "restart needed for: cluster, app.on_eof" in run.errors()


def test_a_node_whose_output_is_closed_leaves(bench: Bench) -> None:
    first, address = bench.started()
    run, _ = bench.started("--peer", address, "--wait-peers", "1")
    run.expect("ready")
    run.stop_reading()
    run.write("/status\n")
    assert run.process.wait(timeout=WAIT_S) == 0
    assert first.expect("peer", state="disconnected")["reason"] == "left"


def test_two_nodes_on_any_port_each_find_a_place_and_two_on_one_place_do_not(bench: Bench) -> None:
    runs = [bench.run() for _ in range(3)]
    for run in runs:
        run.expect("started")
    kept = {run.ask(cmd="status")["state_dir"] for run in runs}
    root = bench.directory / "state" / "grapevine"
    assert kept == {str(root / f"any-{number}") for number in (1, 2, 3)}
    second = bench.run("--state-dir", str(root / "any-1"))
    assert second.process.wait(timeout=WAIT_S) == 5
    (line,) = second.errors().splitlines()
    assert any(str(run.process.pid) in line for run in runs)
    assert second.seen == []


def test_an_identity_keeps_its_name_over_a_restart(bench: Bench) -> None:
    first, _ = bench.started("--state-dir", "kept")
    assert first.end() == 0
    again, _ = bench.started("--state-dir", "kept")
    assert again.seen[0]["peer_id"] == first.seen[0]["peer_id"]
    assert again.seen[0]["epoch"] > first.seen[0]["epoch"]


@pytest.mark.asyncio
async def test_a_node_that_stops_by_itself_reports_the_error_as_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.directory))
    flags = {"port": "0", "app.state_dir": str(bench.directory / "kept"), "app.headless": True}
    out, write_end = os.pipe()
    headless = Headless(load_settings(flags, {}).with_keys(), stdin=None, stdout=write_end)
    running = asyncio.create_task(headless.run())
    node = headless.host.node
    async with asyncio.timeout(WAIT_S):
        await headless.host.started.wait()
        node._fail(StateLockedError("this identity is in use at 10.0.0.7:8000"))
        with pytest.raises(StateLockedError, match=r"10\.0\.0\.7"):
            await running
    os.close(write_end)
    *_, stopped = [json.loads(line) for line in os.read(out, 1 << 16).splitlines()]
    os.close(out)
    assert (stopped["event"], stopped["reason"]) == ("stopped", "failed")
    assert "in use" in stopped["error"]


# --- the parts ------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=12).map(lambda part: part.replace(b"\r", b"")), max_size=8))
def test_lines_do_not_depend_on_how_the_bytes_came(parts: list[bytes]) -> None:
    text = b"".join(parts)
    splitter = LineSplitter(max_bytes=8)
    found = [line for part in parts for line in splitter.feed(part)] + splitter.end()
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert found == [line if len(line) <= 8 else None for line in expected]


def test_a_carriage_return_before_a_newline_is_stripped() -> None:
    splitter = LineSplitter(max_bytes=4)
    assert splitter.feed(b"abcd\r\nab\rc\r") == [b"abcd"]
    assert splitter.feed(b"\nx") == [b"ab\rc"]
    assert splitter.end() == [b"x"]


def test_the_first_of_a_kind_is_emitted_at_once_and_the_rest_once_a_second() -> None:
    summary = RateLimitedCounter(interval_s=1.0)
    key, other = ("dropped", "replay"), ("dropped", "malformed")
    assert summary.add(key, 3, now=10.0) == 3
    assert summary.add(key, 2, now=10.1) == 0
    assert summary.add(other, 1, now=10.2) == 1
    assert summary.add(key, 2, now=10.9) == 0
    assert summary.pop_due(now=10.95) == []
    assert summary.pop_due(now=11.0) == [(key, 4)]
    assert summary.add(key, 5, now=11.5) == 0
    assert summary.pop_due(now=11.6, all_pending=True) == [(key, 5)]
    assert summary.add(key, 1, now=20.0) == 1


def test_a_late_summary_includes_everything_pending() -> None:
    summary = RateLimitedCounter(interval_s=1.0)
    key = ("rate_limited", "a")
    assert summary.add(key, 1, now=0.0) == 1
    assert summary.add(key, 2, now=0.5) == 0
    assert summary.add(key, 4, now=1.5) == 6
    assert summary.pop_due(now=3.0) == []


def test_lines_are_written_in_order_and_all_before_the_end() -> None:
    read_end, write_end = os.pipe()
    writer = LineWriter(write_end, on_broken=lambda why: None)
    for number in range(1000):
        writer.put(b"%d\n" % number)
    writer.close(WAIT_S)
    os.close(write_end)
    with open(read_end, "rb") as file:
        assert [int(line) for line in file] == list(range(1000))
    assert writer.has_capacity


def test_a_closed_reader_is_reported_once() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    broken: queue.Queue[OSError] = queue.Queue()
    writer = LineWriter(write_end, on_broken=broken.put)
    writer.put(b"x\n")
    assert isinstance(broken.get(timeout=WAIT_S), BrokenPipeError)
    writer.put(b"y\n")
    writer.close(WAIT_S)
    os.close(write_end)
    assert broken.empty()


def test_a_reader_that_is_slow_fills_the_room_and_nothing_blocks() -> None:
    read_end, write_end = os.pipe()
    writer = LineWriter(write_end, on_broken=lambda why: None)
    while writer.has_capacity:
        writer.put(b"x" * 64 * 1024 + b"\n")
    writer.close(timeout_s=0.01)
    os.close(read_end)
    writer.close(WAIT_S)
    os.close(write_end)


@pytest.mark.asyncio
async def test_lines_are_read_to_the_end_of_any_file() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"one\ntwo")
    os.close(write_end)
    async with asyncio.timeout(WAIT_S):
        assert [line async for line in read_lines(read_end)] == [b"one", b"two"]
    os.close(read_end)
    assert [line async for line in read_lines(read_end)] == []  # not even open
