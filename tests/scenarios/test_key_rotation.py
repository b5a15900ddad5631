"""Rotates the key of three live nodes that exchange messages, as docs/how-to/rotate-keys.md describes."""

from __future__ import annotations

import json
import signal
import time

from tests.tui.runs import WAIT_S, Bench, Run


def set_keys(bench: Bench, *files: str) -> None:
    listed = ", ".join(f'"{each}"' for each in files)
    (bench.folder / "node.toml").write_text(f"key_files = [{listed}]\n")


def reload_each(bench: Bench, runs: list[Run], keys: int) -> list[str]:
    """What `systemctl reload` does on one node after another; the fingerprints they have then."""
    for number, run in enumerate(runs):
        run.process.send_signal(signal.SIGHUP)
        give_up_at = time.monotonic() + WAIT_S
        while len(fingerprints(bench, number)) != keys and time.monotonic() < give_up_at:
            pass
        say(bench, number, f"said by {number} with {keys}")
    return fingerprints(bench, 0)


def fingerprints(bench: Bench, number: int) -> list[str]:
    status = bench.command("ctl", "--state-dir", f"n{number}", "status", "--json")
    found: list[str] = json.loads(status.stdout)["keys"]
    return found


def say(bench: Bench, number: int, text: str) -> None:
    done = bench.command("ctl", "--state-dir", f"n{number}", "broadcast", text)
    assert (done.returncode, done.stderr) == (0, "")


def wait_linked(bench: Bench, number: int, peers: int) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at:
        status = bench.command("ctl", "--state-dir", f"n{number}", "status", "--json")
        if json.loads(status.stdout)["peers"] == peers:
            return
    raise AssertionError(f"node {number} is not linked to {peers}")


def heard(run: Run, texts: set[str]) -> None:
    while missing := texts - {told["text"] for told in run.seen if told["event"] == "message"}:
        assert run.expect("message")["text"], missing


def test_three_nodes_get_another_key_while_they_talk_and_nothing_is_lost(bench: Bench) -> None:
    for name in ("old.key", "new.key"):
        assert bench.command("keygen", name).returncode == 0
    set_keys(bench, "old.key")
    first, address = bench.started("-c", "node.toml", "--state-dir", "n0")
    more = [
        bench.started("-c", "node.toml", "--state-dir", f"n{number}", "--peer", address)[0]
        for number in (1, 2)
    ]
    runs = [first, *more]
    for number in range(3):
        wait_linked(bench, number, 2)

    set_keys(bench, "old.key", "new.key")  # 1: everybody accepts the new one, too
    (old, new) = reload_each(bench, runs, 2)
    set_keys(bench, "new.key", "old.key")  # 2: everybody starts with the new one
    for run in runs:
        run.process.send_signal(signal.SIGHUP)
    give_up_at = time.monotonic() + WAIT_S
    while any(fingerprints(bench, number) != [new, old] for number in range(3)):
        assert time.monotonic() < give_up_at
    set_keys(bench, "new.key")  # 3: nobody accepts the old one any more
    assert reload_each(bench, runs, 1) == [new]

    for number in range(3):
        wait_linked(bench, number, 2)
    say(bench, 0, "after all")
    texts = {f"said by {number} with {keys}" for number in range(3) for keys in (1, 2)}
    for run in runs:
        heard(run, texts | {"after all"})
    for run in runs:
        assert run.end() == 0
        messages = [told["id"] for told in run.seen if told["event"] == "message"]
        assert len(messages) == len(set(messages)) == 7
