"""Atomic files: complete or absent, and never more accessible than intended."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grapevine_proto.storage.atomic_file import (
    LEFTOVER_AGE_S,
    atomic_create,
    atomic_write,
    make_private_directory,
    open_private,
    quarantine_empty,
    remove_leftovers,
)
from grapevine_proto.storage.permissions import UntrustedFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_requested_mode_less_the_umask(tmp_path: Path) -> None:
    atomic_write(tmp_path / "open", b"1", mode=0o666)
    atomic_write(tmp_path / "closed", b"2", mode=0o600)
    assert mode_of(tmp_path / "open") == 0o644
    assert mode_of(tmp_path / "closed") == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"open", "closed"}


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o666])
def test_an_existing_file_keeps_its_mode(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(kept)
    atomic_write(path, b"new", mode=0o600)
    assert (path.read_bytes(), mode_of(path)) == (b"new", kept)


def test_a_private_file_is_private_whatever_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o666)
    atomic_write(path, b"secret", mode=0o600, preserve_mode=False)
    assert mode_of(path) == 0o600


def test_a_temporary_file_is_never_more_accessible_than_the_final_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    seen: list[int] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        seen.extend(mode_of(each) for each in tmp_path.iterdir())
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    atomic_write(path, b"new", mode=0o666)
    assert set(seen) == {0o600}
    assert len(seen) == 3  # twice the temporary file, then the directory after the rename


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_after_an_error_the_file_is_unchanged_and_no_temporary_file_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new", mode=0o600)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_symlink_is_followed_and_stays_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    atomic_write(tmp_path / "link", b"new", mode=0o600)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"new"


def test_temporary_files_of_dead_processes_are_harmless_and_can_be_removed(tmp_path: Path) -> None:
    ours = tmp_path / f".file.{os.getpid()}.new"
    ours.write_bytes(b"half")
    ours.chmod(0o666)
    (tmp_path / ".file.1.new").write_bytes(b"half")
    atomic_write(tmp_path / "file", b"whole", mode=0o600)
    assert mode_of(tmp_path / "file") == 0o600
    remove_leftovers(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_new_file_is_private_whatever_the_umask_and_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    os.umask(0o277)
    atomic_create(path, b"first")
    assert (path.read_bytes(), mode_of(path)) == (b"first", 0o600)
    with pytest.raises(FileExistsError):
        atomic_create(path, b"second")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        atomic_create(tmp_path / "link", b"second")
    assert path.read_bytes() == b"first"
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_failed_creation_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space") as caught:
        atomic_create(tmp_path / "file", b"new")
    assert call == "link" or caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_created_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fails)
    atomic_create(tmp_path / "file", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_write_removes_old_temporary_files_of_the_same_file(tmp_path: Path) -> None:
    old, young = tmp_path / ".file.1-aa.new", tmp_path / ".file.2-bb.new"
    for each in (old, young):
        each.write_bytes(b"half")
    os.utime(old, (0, old.stat().st_mtime - 2 * LEFTOVER_AGE_S))
    atomic_write(tmp_path / "file", b"whole", mode=0o600)
    assert {each.name for each in tmp_path.iterdir()} == {"file", young.name}


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 65])
def test_only_an_empty_file_is_renamed_to_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    quarantine_empty(path)
    assert (tmp_path / "file.damaged").read_bytes() == content
    quarantine_empty(path)  # not there: nothing to do
    path.write_bytes(b"x")
    quarantine_empty(path)
    assert path.read_bytes() == b"x"


def test_new_directories_are_private_and_existing_ones_unchanged(tmp_path: Path) -> None:
    os.umask(0)
    (tmp_path / "there").mkdir(mode=0o755)
    make_private_directory(tmp_path / "there" / "a" / "b")
    assert mode_of(tmp_path / "there") == 0o755
    assert mode_of(tmp_path / "there" / "a") == mode_of(tmp_path / "there" / "a" / "b") == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        make_private_directory(tmp_path / "file" / "a")


def test_a_private_file_is_not_truncated_before_its_owner_is_checked(tmp_path: Path) -> None:
    dear = tmp_path / "dear"
    dear.write_bytes(b"dear")
    dear.chmod(0o644)
    (tmp_path / "link").symlink_to("dear")
    for path in (tmp_path / "link", dear):
        with pytest.raises(UntrustedFile):
            open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert dear.read_bytes() == b"dear"
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(OSError, match="fifo"):
        open_private(tmp_path / "fifo", os.O_WRONLY)
