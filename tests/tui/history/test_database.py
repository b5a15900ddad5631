"""The file: private, versioned, and never trusted to be whole."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from grapevine_tui.history.database import (
    HISTORY_FILE,
    SCHEMA_VERSION,
    DamagedFile,
    HistoryUnavailable,
    OtherSchema,
    open_for_reading,
    open_for_writing,
    set_aside,
)

posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix_only
def test_the_file_and_its_companions_are_private(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    old = os.umask(0)
    try:
        with closing(open_for_writing(path)) as connection:
            connection.execute("DELETE FROM events")
            assert {mode(each) for each in tmp_path.iterdir()} == {0o600}
            assert len(list(tmp_path.iterdir())) == 3
    finally:
        os.umask(old)


@posix_only
def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    open_for_writing(path).close()
    path.chmod(0o644)
    open_for_writing(path).close()
    assert mode(path) == 0o600


@posix_only
def test_a_link_or_a_device_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HistoryUnavailable):
        open_for_writing(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(HistoryUnavailable):
        open_for_writing(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(HistoryUnavailable):
        open_for_writing(path)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "schema 2"),
        ("PRAGMA application_id = 7", "another program"),
    ],
)
def test_a_file_of_another_schema_or_program_is_refused_and_not_changed(
    tmp_path: Path, statement: str, problem: str
) -> None:
    path = tmp_path / HISTORY_FILE
    open_for_writing(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    before = path.read_bytes()
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(OtherSchema, match=problem):
            open_it(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look like one" * 100, b"SQLite"]
)
def test_a_file_that_is_no_database_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_bytes(content)
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(DamagedFile):
            open_it(path)
    assert set_aside(path).read_bytes() == content
    open_for_writing(path).close()


def test_a_database_of_another_program_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    with pytest.raises(OtherSchema):
        open_for_writing(path)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(HistoryUnavailable, match="has no history"):
        open_for_reading(tmp_path / HISTORY_FILE)
    assert not list(tmp_path.iterdir())
    (tmp_path / HISTORY_FILE).touch()
    with pytest.raises(HistoryUnavailable, match="no history yet"):
        open_for_reading(tmp_path / HISTORY_FILE)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    open_for_writing(path).close()
    with closing(open_for_reading(path)) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM events")


def test_a_file_in_a_directory_without_write_access_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / HISTORY_FILE
    open_for_writing(path).close()
    monkeypatch.setattr("grapevine_tui.history.database.os.access", lambda *_: False)
    with closing(open_for_reading(path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
