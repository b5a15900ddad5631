"""Export and import: nothing is lost, nothing is doubled, and a bad line is named."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from grapevine_tui.history.database import HISTORY_FILE, HistoryUnavailable
from grapevine_tui.history.records import to_key
from grapevine_tui.history.terms import MATCH_ALL, parse_query
from grapevine_tui.history.transfer import Counts, export_history, import_history, offline_writer
from grapevine_tui.history.writer import Limits
from tests.tui.history.conftest import NOW, PATIENCE_S, Bookshelf
from tests.tui.hostile import HOSTILE
from tests.tui.values import an_id


def filled(shelf: Bookshelf) -> None:
    for index, text in enumerate(HOSTILE):
        name = text.encode(errors="replace").decode()
        shelf.add(
            text.encode(errors="surrogatepass"), at=NOW + index, name=name, topic="a.b", age_s=1.5
        )
    shelf.add(b"\xff\x00", is_direct=True, to=an_id(9))
    shelf.add("long " * 50_000)
    shelf.happen("db-1 disconnected", peer_id=an_id(1), name="db-1", reason="silent", suppressed=3)
    shelf.happen("node started")
    shelf.flush()


def test_what_is_imported_equals_what_was_exported_and_a_second_import_adds_nothing(
    shelf: Bookshelf, tmp_path: Path
) -> None:
    filled(shelf)
    file = tmp_path / "export.jsonl"
    counts = export_history(shelf.path, file, MATCH_ALL)
    assert counts == Counts(len(HOSTILE) + 2, 2)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    other = Bookshelf(other_dir / HISTORY_FILE)
    assert import_history(other.writer, file) == counts
    again = other_dir / "export.jsonl"
    export_history(other.path, again, MATCH_ALL)
    assert again.read_bytes() == file.read_bytes()
    assert import_history(other.writer, file) == Counts(0, 0)
    other.close()


def test_an_export_has_only_what_matches(shelf: Bookshelf, tmp_path: Path) -> None:
    shelf.add("deploy one")
    shelf.add("other")
    shelf.happen("deploy two")
    shelf.flush()
    file = tmp_path / "export.jsonl"
    assert export_history(shelf.path, file, parse_query("deploy")) == Counts(1, 1)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["event"] for each in lines] == ["message", "history_event"]
    assert lines[0]["text"] == "deploy one"


def test_an_export_overwrites_nothing_and_leaves_no_half_file(
    shelf: Bookshelf, tmp_path: Path
) -> None:
    filled(shelf)
    file = tmp_path / "export.jsonl"
    file.write_text("precious")
    with pytest.raises(FileExistsError):
        export_history(shelf.path, file, MATCH_ALL)
    assert file.read_text() == "precious"
    with pytest.raises(ValueError, match="since"):
        export_history(shelf.path, tmp_path / "new.jsonl", parse_query("since:soon"))
    for words, fault in (("fron:bob", "did you mean from:"), ("/(/", "missing")):
        with pytest.raises(ValueError, match=fault):
            export_history(shelf.path, tmp_path / "new.jsonl", parse_query(words))
    with pytest.raises(HistoryUnavailable):
        export_history(tmp_path / "nowhere" / HISTORY_FILE, tmp_path / "new.jsonl", MATCH_ALL)
    assert not (tmp_path / "new.jsonl").exists()


GOOD = {
    "event": "message", "at": NOW, "key": to_key(NOW), "id": f"{an_id(1)}:5:6", "base64": "aGk=", "hops": 1,
    "via": "eager", "topic": "", "age_s": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "5", "null", "{}", "\udcff",
     *(json.dumps(GOOD | change) for change in (
        {"event": "other"}, {"key": "1"}, {"key": -1}, {"key": 2**63}, {"id": "x"},
        {"id": f"{an_id(1)}:5:{2**70}"},
        {"base64": "%"}, {"via": "teleport"}, {"hops": "x"}, {"to": "ff"}, {"age_s": [1]}))],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named_and_what_was_before_it_stays(
    shelf: Bookshelf, tmp_path: Path, line: str
) -> None:
    file = tmp_path / "import.jsonl"
    good = [json.dumps(GOOD | {"key": to_key(NOW) + n}) for n in range(1_000)]
    file.write_bytes("\n".join([*good, line, ""]).encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="line 1001: not a row of a history"):
        import_history(shelf.writer, file)
    assert len(shelf.search(limit=1000).rows) == 1_000


def test_a_line_that_is_too_long_is_named(
    shelf: Bookshelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grapevine_tui.history.transfer.MAX_LINE_BYTES", 100)
    file = tmp_path / "import.jsonl"
    file.write_bytes(b"x" * 101 + b"\n")
    with pytest.raises(ValueError, match="line 1 is longer than 100 bytes"):
        import_history(shelf.writer, file)


def test_a_history_that_no_node_writes_can_be_written(tmp_path: Path) -> None:
    writer = offline_writer(tmp_path / HISTORY_FILE, Limits(2**30, 30.0))
    assert writer.close(PATIENCE_S)
    with pytest.raises(HistoryUnavailable, match="No such file"):
        offline_writer(tmp_path / "nowhere" / HISTORY_FILE, Limits(2**30, 30.0))
