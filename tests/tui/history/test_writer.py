"""Writing: bounded, in batches, within its limits, and through every fault of the disk."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from grapevine_tui.history import database
from grapevine_tui.history import writer as module
from grapevine_tui.history.database import (
    BROKEN_SUFFIX,
    HISTORY_FILE,
    HistoryUnavailable,
    open_for_writing,
)
from grapevine_tui.history.writer import HistoryWriter, Limits
from tests.tui.history.conftest import NOW, PATIENCE_S, Bookshelf
from tests.tui.values import an_id

DAY_S = 86_400


def wait_for_problem(shelf: Bookshelf, text: str) -> None:
    """Wait until the writer has reported a problem with `text` in it."""
    for _ in range(600):
        if any(text in each for each in shelf.problems):
            return
        threading.Event().wait(0.05)
    raise AssertionError(shelf.problems)


def test_messages_and_events_survive_a_restart(shelf: Bookshelf) -> None:
    shelf.add("one", name="ann")
    shelf.happen("db-1 disconnected: silent for 6 s")
    shelf.close()
    shelf.writer = shelf.opened()
    shelf.add("two", at=NOW + 1)
    assert shelf.texts() == ["one", "two"]
    assert shelf.events() == ["db-1 disconnected: silent for 6 s"]
    assert shelf.rows()[0].origin_name == "ann"


def test_rows_of_one_moment_and_of_a_clock_that_was_set_back_are_all_kept(shelf: Bookshelf) -> None:
    for index in range(5):
        shelf.add(f"same {index}", at=NOW)
    for index in range(3):
        shelf.add(f"earlier {index}", at=NOW - 3600)
    assert shelf.texts() == [*(f"earlier {n}" for n in range(3)), *(f"same {n}" for n in range(5))]


def test_what_finds_no_room_is_dropped_counted_and_reported_later(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_ROWS", 3)
    shelf.flush()
    held, release = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        held.set()
        assert release.wait(PATIENCE_S)

    holder = threading.Thread(target=shelf.writer.run, args=(hold, PATIENCE_S))
    holder.start()
    assert held.wait(PATIENCE_S)
    for index in range(3):
        shelf.add(f"kept {index}")
    row = shelf.writer._rows[-1]
    assert not shelf.writer.put(row)
    assert shelf.writer.lost == 1
    release.set()
    holder.join()
    assert shelf.texts() == ["kept 0", "kept 1", "kept 2"]
    shelf.flush()
    assert shelf.events() == [
        "1 messages and events are missing in the history: it could not keep up"
    ]


def test_the_queue_is_bounded_in_bytes(shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10)
    row = shelf.add("0123456789")
    shelf.flush()
    shelf.add("0123456789")
    assert not shelf.writer.put(row._replace(message=row.message._replace(payload=b"x" * 11)))


@pytest.mark.parametrize(
    ("pragma", "problem"),
    [("PRAGMA max_page_count = 1", "full"), ("PRAGMA query_only = 1", "readonly")],
)
def test_a_full_or_read_only_disk_is_reported_once_and_the_rows_are_written_when_it_works_again(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch, pragma: str, problem: str
) -> None:
    shelf.flush()
    original = database.open_for_writing
    is_broken = True

    def open_broken(path: Path) -> sqlite3.Connection:
        connection = original(path)
        if is_broken:
            connection.execute(pragma)
        return connection

    monkeypatch.setattr(module, "open_for_writing", open_broken)
    monkeypatch.setattr(module, "MIN_RETRY_S", 0.01)
    shelf.sql(pragma)
    for index in range(100):
        shelf.add("x" * 1000 + str(index))
    wait_for_problem(shelf, problem)
    with pytest.raises(HistoryUnavailable, match=problem):
        shelf.flush()
    assert len(shelf.problems) == 1
    is_broken = False
    shelf.writer._hurry.set()
    wait_until_written(shelf)
    assert len(shelf.rows()) == 100
    assert shelf.problems[1:] == [""]
    assert shelf.writer.lost == 0


def wait_until_written(shelf: Bookshelf) -> None:
    for _ in range(600):
        if not shelf.writer.queued:
            return
        threading.Event().wait(0.05)
    raise AssertionError(shelf.problems)


def test_a_torn_file_is_set_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_bytes(b"torn" * 5000)
    shelf = Bookshelf(path)
    shelf.add("hello")
    wait_for_problem(shelf, "it was renamed to")
    wait_until_written(shelf)
    assert shelf.texts() == ["hello"]
    assert shelf.problems[-1] == ""
    assert path.with_name(HISTORY_FILE + BROKEN_SUFFIX).read_bytes() == b"torn" * 5000
    shelf.close()


def test_a_file_torn_in_the_middle_is_found_out_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    shelf = Bookshelf(path)
    for index in range(2_000):
        shelf.add(f"message number {index} with some text")
    shelf.flush()
    shelf.close()
    content = bytearray(path.read_bytes())
    for start in range(8192, len(content), 4096):
        content[start : start + 2048] = b"\xa5" * len(content[start : start + 2048])
    path.write_bytes(bytes(content))
    shelf.writer = shelf.opened()
    shelf.add("after")
    wait_for_problem(shelf, "it was renamed to")
    wait_until_written(shelf)
    assert shelf.texts() == ["after"]
    shelf.close()


def test_a_file_of_a_later_version_is_left_alone_and_what_is_not_kept_is_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / HISTORY_FILE
    open_for_writing(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    shelf = Bookshelf(path)
    row = shelf.add("hello")
    wait_for_problem(shelf, "schema 99")
    shelf.close()
    assert not shelf.writer.put(row)
    assert shelf.writer.lost == 2
    with pytest.raises(HistoryUnavailable, match="schema 99"):
        shelf.flush()


def test_old_rows_go(tmp_path: Path) -> None:
    shelf = Bookshelf(tmp_path / HISTORY_FILE, Limits(2**30, 1.0))
    shelf.add("old", at=NOW - DAY_S - 1)
    shelf.add("new", at=NOW - DAY_S + 1)
    shelf.happen("old", at=NOW - DAY_S - 1)
    shelf.happen("new", at=NOW)
    assert shelf.texts() == ["old", "new"]
    assert shelf.prune() == 2
    assert shelf.texts() == ["new"]
    assert shelf.events() == ["new"]
    assert shelf.texts("old") == []
    shelf.close()


def test_the_file_stays_within_its_bytes_and_the_newest_rows_stay(tmp_path: Path) -> None:
    limits = Limits(2 * 2**20, 30.0)
    shelf = Bookshelf(tmp_path / HISTORY_FILE, limits)
    for index in range(12_000):
        shelf.add(f"message {index} " + "filling " * 10, at=NOW + index, origin=index % 40)
        if index % 500 == 499:
            shelf.flush()
    shelf.prune()
    texts = shelf.texts(limit=5)
    assert [each.split()[1] for each in texts] == [str(n) for n in range(11_995, 12_000)]
    used = shelf.writer.run(lambda writer, _: writer.table.used_bytes, PATIENCE_S)
    assert limits.bytes // 2 < used <= limits.bytes
    kept = shelf.sql("SELECT count(*), min(key), max(key) FROM messages")[0]
    assert kept[0] == (kept[2] - kept[1]) // 10**6 + 1  # without a hole
    tables = {
        name for (name,) in shelf.sql("SELECT name FROM sqlite_master WHERE name GLOB 'index_*'")
    }
    parts = [number for (number,) in shelf.sql("SELECT number FROM parts")]
    assert {f"index_{number}" for number in parts} == {
        each for each in tables if each.count("_") == 1
    }
    shelf.close()


def test_a_member_that_floods_evicts_its_own_messages_only(tmp_path: Path) -> None:
    limits = Limits(2**20, 30.0)
    shelf = Bookshelf(tmp_path / HISTORY_FILE, limits)
    for index in range(100):
        shelf.add(f"quiet {index}", at=NOW + index, origin=1)
    for index in range(6_000):
        shelf.add(f"flood {index} " + "x" * 50, at=NOW + 200 + index, origin=2)
        if index % 500 == 499:
            shelf.flush()
    shelf.prune()
    assert len(shelf.search("quiet").rows) == 100
    bytes_by_origin = dict(shelf.sql("SELECT hex(peer_id), bytes FROM origins"))
    assert bytes_by_origin[str(an_id(2)).upper()] <= limits.bytes // 4
    assert shelf.texts("flood", limit=1)[0].startswith("flood 5999 ")
    assert not shelf.texts('"flood 0 "')
    shelf.close()


def test_the_bytes_of_an_author_are_exact_and_an_author_without_messages_is_forgotten(
    shelf: Bookshelf,
) -> None:
    for index in range(10):
        shelf.add(f"message {index}", at=NOW - 40 * DAY_S, origin=1)
    shelf.add("recent", origin=2)
    shelf.flush()
    assert shelf.prune() == 10
    assert shelf.sql("SELECT count(*) FROM origins") == [(1,)]
    shelf.add("again", origin=1)
    assert len(shelf.search("again").rows) == 1


def test_events_are_limited_and_one_member_has_a_quarter_of_them(tmp_path: Path) -> None:
    shelf = Bookshelf(tmp_path / HISTORY_FILE, Limits(2**20, 30.0))  # 1,000 events
    for index in range(300):
        shelf.happen(f"flapping {index}", at=NOW + index, peer_id=an_id(1))
    for index in range(100):
        shelf.happen(f"quiet {index}", at=NOW + 1000 + index, peer_id=an_id(2))
    shelf.flush()
    shelf.prune()
    assert len(shelf.events("flapping", limit=1000)) == 250
    assert len(shelf.events("quiet")) == 100
    for index in range(1_001):
        shelf.happen(f"node {index}", at=NOW + 2000 + index)
    shelf.flush()
    shelf.prune()
    assert len(shelf.events(limit=1000)) == 1_000
    assert shelf.events('"node 0"') == []
    shelf.close()


def test_a_row_that_no_database_can_hold_is_left_out_and_counted(shelf: Bookshelf) -> None:
    shelf.add("before")
    shelf.add("half a surrogate pair", name="\ud800")
    shelf.add("too large", hops=2**70)
    shelf.add("after")
    assert shelf.texts() == ["before", "after"]
    assert shelf.writer.lost == 2


def test_closing_writes_what_is_queued_and_refuses_more(shelf: Bookshelf) -> None:
    row = shelf.add("last words")
    shelf.close()
    assert not shelf.writer.put(row)
    with pytest.raises(HistoryUnavailable):
        shelf.flush()
    shelf.writer = shelf.opened()
    assert shelf.texts() == ["last words"]


def test_an_internal_error_ends_the_history_and_nothing_else(
    shelf: Bookshelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.flush()

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(module._Table, "write", fail)
    row = shelf.add("hello")
    wait_for_problem(shelf, "internal error")
    assert not shelf.writer.put(row)
    with pytest.raises(HistoryUnavailable, match="internal error"):
        shelf.flush()


def test_a_writer_that_was_never_opened_ends_quickly(tmp_path: Path) -> None:
    problems: list[str] = []
    writer = HistoryWriter(tmp_path / "missing" / HISTORY_FILE, Limits(2**30, 1.0), problems.append)
    with pytest.raises(HistoryUnavailable, match="No such file"):
        writer.flush(PATIENCE_S)
    assert writer.close(PATIENCE_S)
    assert problems == ["No such file or directory"]
