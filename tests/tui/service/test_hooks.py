"""Programs that are run when something happens: never through a shell, and never too many."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import DropReason
from grapevine_proto.events import DatagramDropped, MemberChanged
from grapevine_tui.config.hook_spec import Hook
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes
from grapevine_tui.service import hooks as hooks_module
from grapevine_tui.service.hooks import (
    MAX_QUEUED_RUNS,
    MAX_RUNNING_HOOKS,
    HookRunner,
    running_hooks,
)
from tests.tui.runs import WAIT_S, Bench
from tests.tui.values import a_member, received

KEEP = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())"


async def a_host() -> Host:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    await host.start()
    return host


def wait_for(path: Path, lines: int) -> list[str]:
    give_up_at = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at:
        if path.exists() and path.read_text().count("\n") >= lines:
            return path.read_text().splitlines()
        time.sleep(0.01)
    raise AssertionError(f"{path}: fewer than {lines} lines")


def test_a_program_gets_the_event_on_its_stdin_and_no_shell_reads_it(bench: Bench) -> None:
    command = f'"{sys.executable}" -c "{KEEP}" "it is; $(touch here)"'
    run, address = bench.started("--on", "message", command, "--on", "peer", "no-such-program")
    other, _ = bench.started("--peer", address, "--wait-peers", "1")
    other.expect("ready")
    other.write("$(touch there) `touch there`; touch there\n")
    (line,) = wait_for(bench.directory / "it is; $(touch here)", 1)
    reported = json.loads(line)
    assert (reported["event"], reported["text"]) == (
        "message",
        "$(touch there) `touch there`; touch there",
    )
    assert run.expect("message")["id"] == reported["id"]
    assert run.end() == 0
    assert "no-such-program failed: No such file or directory" in run.errors()
    reported = next(reported for reported in run.seen if reported["event"] == "hook_failed")
    assert (reported["on"], reported["command"], reported["outcome"]) == (
        "peer",
        "no-such-program",
        "failed",
    )
    assert not (bench.directory / "here").exists()
    assert not (bench.directory / "there").exists()


def test_a_program_runs_for_the_topics_that_its_pattern_selects(bench: Bench) -> None:
    command = f'"{sys.executable}" -c "{KEEP}" deploys'
    run, address = bench.started("--on", "message:deploy.>", command, "--topics", "metrics.cpu")
    other, _ = bench.started("--peer", address, "--wait-peers", "1")
    other.expect("ready")
    for topic in ("deploy.web", "logs", "metrics.cpu", "deploy.db"):
        other.write(f"/publish {topic} about {topic}\n")
    other.write("plain\n")
    lines = wait_for(bench.directory / "deploys", 2)
    assert {json.loads(line)["topic"] for line in lines} == {"deploy.web", "deploy.db"}
    run.expect("message", text="plain")
    topics = {each["topic"] for each in run.seen if each["event"] == "message"}
    assert "logs" not in topics, "neither the setting nor the hook selects it"
    assert run.end() == 0
    assert (bench.directory / "deploys").read_text().count("\n") == 2


def test_ready_and_stopped_run_programs_too_and_the_last_outlives_the_node(bench: Bench) -> None:
    keep = f'"{sys.executable}" -c "import time; time.sleep(0.5); {KEEP}"'
    hooks = [word for event in ("ready", "stopped") for word in ("--on", event, f"{keep} {event}")]
    run, address = bench.started(*hooks)
    bench.started("--peer", address)
    (ready,) = wait_for(bench.directory / "ready", 1)
    assert (json.loads(ready)["event"], json.loads(ready)["peers"]) == ("ready", 1)
    assert run.end() == 0
    (stopped,) = wait_for(bench.directory / "stopped", 1)
    assert json.loads(stopped)["event"] == "stopped"
    assert json.loads(stopped)["reason"] == run.seen[-1]["reason"] == "sigterm"


def test_ready_waits_for_as_many_as_were_asked_for(bench: Bench) -> None:
    keep = f'"{sys.executable}" -c "{KEEP}" ready'
    run, address = bench.started("--on", "ready", keep, "--wait-peers", "2")
    bench.started("--peer", address)
    run.expect("peer", state="connected")
    bench.started("--peer", address)
    run.expect("ready")
    (line,) = wait_for(bench.directory / "ready", 1)
    assert json.loads(line)["peers"] == 2


def test_a_missing_program_for_stopped_is_reported(bench: Bench) -> None:
    run, _ = bench.started("--on", "stopped", "no-such-program")
    assert run.end() == 0
    assert "--on stopped: no-such-program failed" in run.errors()


@pytest.mark.parametrize(
    ("event", "command", "expected"),
    [
        ("massage", "x", "message"),
        ("message", "", "a command"),
        ("message", "'x", "quotes"),
        ("message:a..b", "x", "a pattern of topics after message:"),
        ("peer:a", "x", "one of started"),
        ("entry:", "x", "one of started"),
        ("query:grapevine.stats", "x", "does not begin with grapevine."),
        ("query:" + "x" * 65, "x", "1 to 64 bytes"),
    ],
)
def test_a_wrong_hook_is_one_line_and_exit_2(
    event: str, command: str, expected: str, bench: Bench
) -> None:
    done = bench.command("--headless", "--on", event, command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


@pytest.mark.asyncio
async def test_beyond_what_may_wait_events_are_skipped_and_counted() -> None:
    host = await a_host()
    hooks = HookRunner(host, [Hook.parse("message true")], echoes_stderr=False)
    for number in range(MAX_QUEUED_RUNS + 5):
        hooks.on_event(received(1, number + 1), Changes.NONE)
    assert hooks.counts == {"skipped": 5}
    await host.leave(0.1)


@pytest.mark.asyncio
async def test_a_program_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks_module, "RUN_TIMEOUT_S", 0.3)
    path = tmp_path / "pids"
    script = f"echo $$ >> {path}; sleep 60 & wait"
    texts = [f"message sh -c '{script}'", "dropped false"]
    host = await a_host()
    async with asyncio.timeout(WAIT_S), running_hooks(host, texts, echoes_stderr=False) as hooks:
        for number in range(MAX_RUNNING_HOOKS + 1):
            hooks.on_event(received(1, number + 1), Changes.NONE)
        hooks.on_event(DatagramDropped(DropReason.REPLAY, 1), Changes.NONE)
        while hooks.counts["timed_out"] <= MAX_RUNNING_HOOKS or not hooks.counts["failed"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await host.leave(0.1)
    assert hooks.counts == {"timed_out": MAX_RUNNING_HOOKS + 1, "failed": 1}
    for pid in path.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.asyncio
async def test_a_failed_program_is_reported_with_its_last_output_and_rate_limited() -> None:
    host, reported = await a_host(), list[Object]()
    script = "cat; printf 'one\\n\\033[31mtwo\\n' >&2; exit 7"
    texts = [f'message sh -c "{script}"', "dropped sh -c 'kill -9 $$'", "member /"]
    async with (
        asyncio.timeout(WAIT_S),
        running_hooks(host, texts, echoes_stderr=False, on_hook_failed=reported.append) as hooks,
    ):
        for number in range(3):
            hooks.on_event(received(1, number + 1), Changes.NONE)
        hooks.on_event(DatagramDropped(DropReason.REPLAY, 1), Changes.NONE)
        hooks.on_event(MemberChanged(a_member(1)), Changes.NONE)
        while hooks.counts["failed"] < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await host.leave(0.1)
    by_event = {each["on"]: (each["reason"], each["count"]) for each in reported}
    assert by_event == {
        "message": ("exit status 7; ␛[31mtwo", 2),  # the first at once, the others in one
        "dropped": ("killed by SIGKILL", 1),
        "member": ("Permission denied", 1),
    }
    assert len(reported) == 4


@pytest.mark.asyncio
async def test_programs_that_answer_queries_are_counted_and_reported_like_others() -> None:
    reported: list[Object] = []
    texts = [
        "query:good sh -c 'cat >/dev/null; echo fine; echo noise >&2'",
        "query:bad sh -c 'echo partial; echo broken >&2; exit 7'",
        "query:long sh -c 'head -c 100000 /dev/zero'",
        "query:missing no-such-program",
        "query:slow sleep 60",
    ]
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    async with (
        asyncio.timeout(WAIT_S),
        running_hooks(host, texts, echoes_stderr=False, on_hook_failed=reported.append) as hooks,
    ):
        await host.start()
        answers = {}
        for name in ("good", "bad", "long", "missing", "slow"):
            done = await host.query(AskMembers(name, timeout_s=1))
            answers[name] = [(each["status"], each["text"]) for each in done["answers"]]
        while hooks.counts["timed_out"] < 1:  # noqa: ASYNC110  it is killed at the deadline
            await asyncio.sleep(0.01)
        await host.leave(0.1)
    assert hooks.counts == {"run": 1, "failed": 3, "timed_out": 1}
    failed = ("failed", "the handler raised RuntimeError")
    assert answers == {
        "good": [("answered", "fine\n")],
        "bad": [failed],
        "long": [failed],
        "missing": [failed],
        "slow": [],
    }
    assert {each["on"]: (each["outcome"], each["reason"]) for each in reported} == {
        "query:bad": ("failed", "exit status 7; broken"),
        "query:long": ("failed", "more than 65,536 bytes of answer"),
        "query:missing": ("failed", "No such file or directory"),
        "query:slow": ("timed_out", hooks_module.UNFINISHED_QUERY),
    }


@pytest.mark.asyncio
async def test_what_children_of_a_program_hold_open_is_not_waited_for(tmp_path: Path) -> None:
    host = await a_host()
    texts = [f"message sh -c 'echo $$ > {tmp_path}/group; sleep 60 & exit 0'"]
    async with (
        asyncio.timeout(WAIT_S / 2),
        running_hooks(host, texts, echoes_stderr=False) as hooks,
    ):
        hooks.on_event(received(1, 1), Changes.NONE)
        while not hooks.counts["run"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await host.leave(0.1)
    os.killpg(int((tmp_path / "group").read_text()), signal.SIGKILL)


def test_a_program_that_others_can_change_is_rejected_before_the_node_starts(
    bench: Bench,
) -> None:
    program = bench.directory / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    run = bench.run("--on", "started", str(program))
    assert run.end(None) == 2
    assert f"app.on: {program}: writable by others (mode 0777)" in run.errors()
    assert run.seen == []


def test_config_check_refuses_such_a_program_too(bench: Bench) -> None:
    program = bench.directory / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    (bench.directory / "c.toml").write_text(f'[app]\non = ["started {program}"]\n')
    done = bench.command("config", "check", "c.toml")
    assert done.returncode == 2
    assert "writable by others (mode 0777)" in done.stderr
