"""Contexts on the command line: ``ctl``, ``ctl stream`` and ``attach``, over real nodes and a fake ssh."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grapevine_tui.control.commands import ONE_CONTEXT_COMMANDS
from tests.tui.fake_ssh import install_fake_ssh, ssh_calls
from tests.tui.runs import WAIT_S, Bench, environ_of


@pytest.fixture
def ssh(bench: Bench) -> dict[str, str]:
    """The environment of a user with two nodes, one of them over ssh, and a host that is down."""
    bench.started("--name", "alpha", "--state-dir", "one")
    bench.started("--name", "beta", "--state-dir", "two")
    (bench.directory / "config" / "grapevine" / "contexts.toml").write_text(
        f'[here]\nstate_dir = "{bench.directory}/one"\n'
        f'[there]\nssh = "web-1"\nstate_dir = "{bench.directory}/two"\n'
        '[gone]\nssh = "down"\n'
        f'[watched]\nstate_dir = "{bench.directory}/two"\nreadonly = true\n'
    )
    return install_fake_ssh(bench.directory / "bin")


def answer(
    bench: Bench, typed: bytes, *arguments: str, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command that asks on a terminal, and answer it."""
    ours, theirs = pty.openpty()
    with open(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "grapevine_tui", *arguments],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ_of(bench.directory) | environ,
            cwd=bench.directory,
            text=True,
        )
        terminal.write(typed)
        out, errors = process.communicate(timeout=WAIT_S)
    os.close(theirs)
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_program_that_a_read_only_app_runs_can_change_nothing_through_this_one(
    bench: Bench, ssh: dict[str, str]
) -> None:
    environ = ssh | {"GRAPEVINE_READ_ONLY": "1"}
    for where in (("--context", "here"), ("--state-dir", "one"), ("--yes", "--all-contexts")):
        done = bench.command("ctl", *where, "broadcast", "x", environ=environ)
        assert done.returncode == 1
        assert "refused: this is read-only" in done.stderr
        assert bench.command("ctl", *where, "status", environ=environ).stdout
    assert not bench.command("ctl", "--context", "here", "broadcast", "x", environ=ssh).returncode
    assert "not a setting" not in bench.command("config", "check", environ=environ).stderr


def test_the_rows_of_a_table_over_all_contexts_are_printed(
    bench: Bench, ssh: dict[str, str]
) -> None:
    (bench.directory / "config" / "grapevine" / "config.toml").write_text(
        '[app.alerts]\nalone = "peers < 1"\n'
    )
    for name in ("here", "there"):
        sent = bench.command("ctl", "--context", name, "broadcast", f"from {name}", environ=ssh)
        assert not sent.returncode, sent.stderr
    shown = bench.command("fleet", "messages", "--json", environ=ssh)
    assert shown.returncode == 1  # one host is down
    rows = objects(shown.stdout)
    assert [(each["context"], each["text"], each["cluster"]) for each in rows] == [
        ("here", "from here", "default"),
        ("there", "from there", "default"),
        ("watched", "from there", "default"),
    ]
    assert not objects(bench.command("fleet", "members", "--json", environ=ssh).stdout)
    alerts = objects(bench.command("fleet", "alerts", "--json", environ=ssh).stdout)
    assert [(each["context"], each["name"], each["state"]) for each in alerts] == [
        (name, "alone", "firing") for name in ("here", "there", "watched")
    ]
    table = bench.command("fleet", "alerts", "--once", environ=ssh).stdout.splitlines()
    assert table[0].split() == [
        *("context", "state", "name", "peer", "name", "value", "since", "s", "muted", "rule"),
        *("as", "of"),
    ]
    wrong = bench.command("fleet", "mebers", environ=ssh)
    assert wrong.returncode == 2
    assert "members" in wrong.stderr


def test_contexts_are_asked_by_name_alone_and_together(bench: Bench, ssh: dict[str, str]) -> None:
    for name, node in (("here", "alpha"), ("there", "beta")):
        done = bench.command("ctl", "--context", name, "--json", "status", environ=ssh)
        assert json.loads(done.stdout)["name"] == node, done.stderr
        assert "context" not in json.loads(done.stdout)
    (called,) = ssh_calls(bench.directory / "bin")
    assert called.endswith(f"-- web-1 grapevine-tui ctl --state-dir {bench.directory}/two stream")

    done = bench.command("ctl", "--all-contexts", "--json", "status", environ=ssh)
    assert done.returncode == 1
    replies = objects(done.stdout)
    assert [(each["context"], each["ok"]) for each in replies] == [
        ("here", True), ("there", True), ("gone", False), ("watched", True),
    ]  # fmt: skip
    assert done.stderr == "gone: ssh down: ssh: Could not resolve hostname down\n"

    done = bench.command("ctl", "--all-contexts", "members", environ=ssh)
    assert [line for line in done.stdout.splitlines() if line.startswith("==")] == [
        "== here", "== there", "== gone", "== watched",
    ]  # fmt: skip

    unknown = bench.command("ctl", "--context", "ther", "status", environ=ssh)
    assert unknown.returncode == 2
    assert "no context is named 'ther'; did you mean there?" in unknown.stderr
    both = bench.command("ctl", "--context", "here", "--port", "1", "status", environ=ssh)
    assert both.returncode == 2
    assert "not several of them" in both.stderr


def test_an_act_on_all_contexts_asks_once_and_what_cuts_off_acts_on_one(
    bench: Bench, ssh: dict[str, str]
) -> None:
    refused = bench.command("ctl", "--all-contexts", "broadcast", "hi", environ=ssh)
    assert refused.returncode == 2
    assert (
        "broadcast acts on 4 contexts: here, there, gone, watched; add --yes before broadcast"
        in refused.stderr
    )
    done = bench.command("ctl", "--all-contexts", "--yes", "--json", "broadcast", "hi", environ=ssh)
    by_context = {each["context"]: each for each in objects(done.stdout)}
    assert [name for name, each in by_context.items() if each["ok"]] == ["here", "there"]
    assert by_context["watched"]["error"] == "refused: this is read-only"

    for name in sorted(ONE_CONTEXT_COMMANDS):
        argument = {"set_settings": ["fanout=5"], "reload": []}.get(name, ["x"])
        done = bench.command("ctl", "--all-contexts", "--yes", name, *argument, environ=ssh)
        assert done.returncode == 2
        assert f"{name} acts on one context only; choose it with --context" in done.stderr
    one = bench.command("ctl", "--all-contexts", "stream", environ=ssh)
    assert "acts on one context only" in one.stderr


def test_a_question_on_a_terminal_names_the_contexts_and_no_means_no(
    bench: Bench, ssh: dict[str, str]
) -> None:
    done = answer(bench, b"n\n", "ctl", "--all-contexts", "broadcast", "hi", environ=ssh)
    assert done.stdout == ""
    assert "broadcast acts on 4 contexts: here, there, gone, watched. Go on? [y/N]" in done.stderr
    assert done.returncode == 130


def test_a_payload_from_a_file_goes_over_ssh_in_the_line(
    bench: Bench, ssh: dict[str, str], tmp_path: Path
) -> None:
    (bench.directory / "text").write_bytes(b"from a file")
    done = bench.command(
        "ctl", "--context", "there", "--json", "broadcast", "--file", "text", environ=ssh
    )
    assert json.loads(done.stdout)["ok"], done.stderr
    found = bench.command("ctl", "--context", "there", "--json", "history", "file", environ=ssh)
    assert [each["text"] for each in json.loads(found.stdout)["messages"]] == ["from a file"]
    (bench.directory / "text").write_bytes(b"x" * 50_000)
    done = bench.command("ctl", "--context", "there", "broadcast", "--file", "text", environ=ssh)
    assert "bytes in text; over ssh, no more can be sent" in done.stderr
    done = bench.command("ctl", "--context", "there", "history_export", "f", environ=ssh)
    assert "history_export needs the file of the node; run it on web-1" in done.stderr


def test_the_stream_speaks_the_control_protocol(bench: Bench, ssh: dict[str, str]) -> None:
    lines = '{"cmd":"status","request":1}\n/broadcast hi\n/nonsense\n'
    done = bench.command("ctl", "--context", "there", "stream", stdin=lines, environ=ssh)
    assert done.returncode == 0, done.stderr
    status, sent, refused = objects(done.stdout)
    assert (status["name"], status["request"]) == ("beta", 1)
    assert sent["ok"]
    assert not refused["ok"]
    watched = bench.command("ctl", "--state-dir", "one", "stream", stdin='{"cmd":"watch"}\n')
    assert objects(watched.stdout)[0]["status"]["name"] == "alpha"
    nobody = bench.command("ctl", "--state-dir", "none", "stream")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "no node is running there" in nobody.stderr


def test_the_events_of_all_contexts_are_one_stream(bench: Bench, ssh: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "grapevine_tui",
         "ctl", "--all-contexts", "--json", "subscribe", "--count", "1", "deploy.>"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environ_of(bench.directory) | ssh, cwd=bench.directory,
    )  # fmt: skip
    for name, text in (("here", "one"), ("there", "two")):
        bench.command("ctl", "--context", name, "publish", "deploy.web", text, environ=ssh)
    out, _ = process.communicate(timeout=WAIT_S)
    found = {(each["context"], each.get("text")) for each in objects(out)}
    assert found == {("here", "one"), ("there", "two"), ("watched", "two"), ("gone", None)}


def test_attach_finds_contexts_and_asks_which_node(bench: Bench, ssh: dict[str, str]) -> None:
    unknown = bench.command("attach", "nobody", environ=ssh)
    assert unknown.returncode == 2
    assert "no context is named 'nobody'; there are here, there, gone, watched" in unknown.stderr
    both = bench.command("attach", "here", "--port", "1", environ=ssh)
    assert "not several of them" in both.stderr


def test_of_several_nodes_that_run_here_one_is_picked(bench: Bench) -> None:
    for name in ("one", "two"):
        bench.started("--name", name)
    done = answer(bench, b"7\n2\n", "attach", environ={})
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["1", "2"]
    assert "Attach to (number or context)" in done.stdout
    assert "'7' is none of them" in done.stdout + done.stderr
    assert "the app needs a terminal" in done.stderr  # one was picked; its output is no terminal
    assert done.returncode == 2
