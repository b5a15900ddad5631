"""`ctl events` and `ctl history`, for a node that runs and for its state directory alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grapevine_tui.cli import ctl_history
from grapevine_tui.cli.main import run
from grapevine_tui.control.target import NodeUnreachable
from grapevine_tui.history.database import HISTORY_FILE
from grapevine_tui.history.records import to_key
from grapevine_tui.history.writer import Limits
from tests.tui.history.conftest import Bookshelf
from tests.tui.hostile import HOSTILE
from tests.tui.runs import Bench
from tests.tui.values import an_id


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state directory with a history, and no node."""
    directory = tmp_path / "state"
    directory.mkdir()
    shelf = Bookshelf(directory / HISTORY_FILE, Limits(2**30, 36_500.0))
    shelf.add("deploy of api finished", name="ann", topic="deploy.web")
    shelf.add("deploy -test", name="bob", origin=2, at=shelf.now + 60)
    shelf.add(b"\xff\xfe", origin=3, at=shelf.now + 120)
    shelf.happen("db-1 disconnected: silent for 6 s", peer_id=an_id(1), name="db-1", suppressed=3)
    shelf.flush()
    shelf.close()
    return directory


def ctl(
    capsys: pytest.CaptureFixture[str], state_dir: Path, *arguments: str
) -> tuple[int, str, str]:
    code = run(["ctl", "--state-dir", str(state_dir), *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_messages_are_searched_without_a_node(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("history",), ("history", "search")):
        code, out, _ = ctl(capsys, state_dir, *command, "deploy", "api")
        assert code == 0
        assert out.endswith("  ann  deploy.web: deploy of api finished\n")
        assert out.count("\n") == 1
    out = ctl(capsys, state_dir, "history", "--", "deploy", "-api")[1]
    assert out.endswith("  bob: deploy -test\n")
    assert ctl(capsys, state_dir, "history", "of api")[1].count("\n") == 1
    assert ctl(capsys, state_dir, "history", "bytes:2")[1].endswith("2 bytes, not text\n")
    reply = json.loads(ctl(capsys, state_dir, "--json", "history", "from:ann")[1])
    assert [each["text"] for each in reply["messages"]] == ["deploy of api finished"]
    assert ctl(capsys, state_dir, "history", "nothing-here") == (0, "", "no messages match\n")


def test_a_page_says_how_to_go_on(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ctl(capsys, state_dir, "history", "deploy", "--limit", "1")
    assert (code, out.count("\n")) == (0, 1)
    assert err.startswith("older ones: --older-than ")
    key = err.split()[-1]
    code, out, err = ctl(
        capsys, state_dir, "history", "deploy", "--limit", "1", "--older-than", key
    )
    assert "deploy of api finished" in out
    assert not err


def test_times_narrow_the_page_and_a_wrong_one_is_an_error(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl(capsys, state_dir, "history", "--before", "2000-01-01")[:2] == (0, "")
    assert ctl(capsys, state_dir, "history", "--since", "2000-01-01")[1].count("\n") == 3
    assert ctl(capsys, state_dir, "history", "--at", "now", "--limit", "2")[1].count("\n") <= 3
    for command in ("history", "events"):
        code, out, err = ctl(capsys, state_dir, command, "--since", "soon")
        assert (code, out) == (1, "")
        assert "since: expected a time such as" in err
    code, out, _ = ctl(capsys, state_dir, "--json", "events", "--since", "soon")
    assert code == 1
    assert json.loads(out)["ok"] is False


def test_events_have_their_reasons(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ctl(capsys, state_dir, "events")
    assert code == 0
    assert out.endswith(" db-1 disconnected: silent for 6 s (and 3 of this kind before)\n")
    event = json.loads(ctl(capsys, state_dir, "events", "peer:db-1", "--json")[1])["events"][0]
    assert event["peer_id"] == str(an_id(1))


def test_a_history_is_exported_pruned_and_imported_without_a_node(
    state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "past.jsonl"
    code, out, _ = ctl(capsys, state_dir, "history", "export", str(file), "deploy")
    assert (code, out) == (0, f"wrote 2 messages and 0 events to {file}\n")
    code, _, err = ctl(capsys, state_dir, "history", "export", str(file))
    assert code == 1
    assert "exists" in err
    assert ctl(capsys, state_dir, "history", "prune", "now")[1] == "deleted 4 messages and events\n"
    assert ctl(capsys, state_dir, "history")[1] == ""
    other = tmp_path / "other"
    other.mkdir()
    for target in (state_dir, other):
        pruned = ctl(capsys, target, "--json", "history_import", str(file))
        assert json.loads(pruned[1]) == {"ok": True, "messages": 2, "events": 0}
    file.write_text("{\n")
    code, _, err = ctl(capsys, state_dir, "history", "import", str(file))
    assert code == 1
    assert "line 1: not a row of a history" in err
    code, _, err = ctl(capsys, state_dir, "history", "prune", "soon")
    assert code == 1
    assert "expected a time such as" in err


def test_a_directory_without_a_history_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("history",), ("events",), ("history", "export", str(tmp_path / "x"))):
        code, out, err = ctl(capsys, tmp_path, *command)
        assert (code, out) == (1, "")
        assert "no node" in err or "has no history" in err
    assert not (tmp_path / "x").exists()


def test_hostile_text_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf = Bookshelf(tmp_path / HISTORY_FILE)
    texts = [text.encode(errors="replace").decode() for text in HOSTILE]
    for index, text in enumerate(texts):
        shelf.add(text, name=text, origin=index, at=shelf.now + index)
        shelf.happen(text, at=shelf.now + index)
    shelf.flush()
    shelf.close()
    for command in ("history", "events"):
        out = ctl(capsys, tmp_path, command, "--limit", "1000")[1]
        assert out.count("\n") == len(texts)
        assert all(each.isprintable() for each in out.splitlines())


def test_following_prints_each_new_row_once_until_the_node_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def event(number: int) -> dict[str, object]:
        return {
            "key": number,
            "at": number / 1e6,
            "level": "info",
            "text": f"event {number}",
            "suppressed": 0,
        }

    last = to_key(4e9)
    pages = [[event(last), event(last + 1)], [], [event(last + 2)]]
    asked: list[dict[str, object]] = []

    def reply(_: Path, fields: dict[str, object]) -> dict[str, object]:
        asked.append(fields)
        if not pages:
            raise NodeUnreachable("the node stopped")
        return {"events": pages.pop(0), "older": None, "newer": None, "note": ""}

    monkeypatch.setattr(ctl_history, "send_command", reply)
    monkeypatch.setattr(ctl_history, "FOLLOW_INTERVAL_S", 0.0)
    code, out, err = ctl(capsys, tmp_path, "events", "event", "--follow", "--since", "1h")
    assert code == 1
    assert "the node stopped" in err
    assert [line.split()[-1] for line in out.splitlines()] == [str(last + n) for n in range(3)]
    assert asked[0]["since"] == "1h"
    assert [each.get("newer_than") for each in asked[1:]] == [last + 1, last + 1, last + 2]
    assert all(each["words"] == "event" for each in asked)


def test_a_node_writes_a_snapshot_and_a_report(bench: Bench) -> None:
    run_, _ = bench.started("--name", "one <b>", "--state-dir", "kept", "--fanout", "5")
    ctl_ = ("ctl", "--state-dir", "kept")
    snapshot = json.loads(bench.command(*ctl_, "snapshot").stdout)
    assert snapshot["status"]["name"] == "one <b>"
    assert {"peers", "members", "rounds", "traces", "stats", "traffic", "authors"} <= set(snapshot)
    assert {"name": "fanout", "value": 5, "origin": "--fanout"} in snapshot["settings"]
    assert run_.ask(cmd="snapshot")["ok"] is True
    report = bench.command(*ctl_, "report").stdout
    assert report.startswith("# Grapevine node one &lt;b&gt;")
    assert "node started at" in report
    assert "fanout" in report
    page = bench.command(*ctl_, "report", "--html", "--since", "1s").stdout
    assert page.startswith("<!DOCTYPE html>")
    reply = run_.ask(cmd="report", since="soon")
    assert (reply["ok"], "since: expected a time" in reply["error"]) == (False, True)


def test_a_running_node_is_asked_and_keeps_what_it_gets(bench: Bench) -> None:
    run_, _ = bench.started("--name", "one", "--state-dir", "kept")
    ctl_ = ("ctl", "--state-dir", "kept")
    assert bench.command(*ctl_, "broadcast", "hello", "there").returncode == 0
    assert bench.command(*ctl_, "history", "hello").stdout.endswith("  one: hello there\n")
    assert "node started" in bench.command(*ctl_, "events").stdout
    status = run_.ask(cmd="status")["history"]
    assert status == {"keep": "on", "problem": "", "lost": 0}
    done = bench.command(*ctl_, "history", "export", "past.jsonl", "hello")
    assert done.stdout == "wrote 1 messages and 0 events to past.jsonl\n", done.stderr
    assert bench.command(*ctl_, "history", "prune", "now").returncode == 0
    assert bench.command(*ctl_, "history", "hello").stdout == ""
    done = bench.command(*ctl_, "history", "import", "past.jsonl")
    assert done.stdout == "added 1 messages and 0 events\n", done.stderr
    found = run_.ask(cmd="history", words="hello", limit=5)
    assert [each["text"] for each in found["messages"]] == ["hello there"]
    assert run_.ask(cmd="history", words="since:soon")["ok"] is False
    assert (
        run_.ask(cmd="history_import", file_name="nowhere")["error"]
        == "nowhere: No such file or directory"
    )
    assert bench.command(*ctl_, "leave").returncode == 0
    assert bench.command(*ctl_, "history", "hello").stdout.endswith("  one: hello there\n")
    assert "node stopped" in bench.command(*ctl_, "events").stdout
