"""Rotates the key of three live nodes that exchange messages, as docs/how-to/rotate-keys.md
describes.
"""

from __future__ import annotations

import json
import signal
import time

from tests.tui.runs import WAIT_S, Bench, Run


def set_keys(bench: Bench, *files: str) -> None:
    listed = ", ".join(f'"{each}"' for each in files)
    (bench.directory / "node.toml").write_text(f"key_files = [{listed}]\n")


def reload_each(bench: Bench, runs: list[Run], keys: int) -> list[str]:
    """Reload one node after another, as `systemctl reload` does; the fingerprints afterwards."""
    for number, run in enumerate(runs):
        run.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + WAIT_S
        while len(fingerprints(bench, number)) != keys and time.monotonic() < deadline:
            pass
        broadcast(bench, number, f"sent by {number} with {keys}")
    return fingerprints(bench, 0)


def fingerprints(bench: Bench, number: int) -> list[str]:
    status = bench.command("ctl", "--state-dir", f"n{number}", "status", "--json")
    found: list[str] = json.loads(status.stdout)["keys"]
    return found


def broadcast(bench: Bench, number: int, text: str) -> None:
    done = bench.command("ctl", "--state-dir", f"n{number}", "broadcast", text)
    assert (done.returncode, done.stderr) == (0, "")


def wait_linked(bench: Bench, number: int, peers: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        status = bench.command("ctl", "--state-dir", f"n{number}", "status", "--json")
        if json.loads(status.stdout)["peers"] == peers:
            return
    raise AssertionError(f"node {number} is not linked to {peers}")


def expect_messages(run: Run, texts: set[str]) -> None:
    while missing := texts - {event["text"] for event in run.seen if event["event"] == "message"}:
        assert run.expect("message")["text"], missing


def test_rotating_the_key_of_three_live_nodes_loses_no_message(bench: Bench) -> None:
    for name in ("old.key", "new.key"):
        assert bench.command("keygen", name).returncode == 0
    set_keys(bench, "old.key")
    first, address = bench.started("-c", "node.toml", "--state-dir", "n0")
    others = [
        bench.started("-c", "node.toml", "--state-dir", f"n{number}", "--peer", address)[0]
        for number in (1, 2)
    ]
    runs = [first, *others]
    for number in range(3):
        wait_linked(bench, number, 2)

    set_keys(bench, "old.key", "new.key")  # round 1: every node accepts the new key too
    (old, new) = reload_each(bench, runs, 2)
    set_keys(bench, "new.key", "old.key")  # round 2: every node starts with the new key
    for run in runs:
        run.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + WAIT_S
    while any(fingerprints(bench, number) != [new, old] for number in range(3)):
        assert time.monotonic() < deadline
    set_keys(bench, "new.key")  # round 3: no node accepts the old key any more
    assert reload_each(bench, runs, 1) == [new]

    for number in range(3):
        wait_linked(bench, number, 2)
    broadcast(bench, 0, "after all")
    texts = {f"sent by {number} with {keys}" for number in range(3) for keys in (1, 2)}
    for run in runs:
        expect_messages(run, texts | {"after all"})
    for run in runs:
        assert run.end() == 0
        messages = [event["id"] for event in run.seen if event["event"] == "message"]
        assert len(messages) == len(set(messages)) == 7
