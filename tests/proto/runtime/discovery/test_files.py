"""Discovery from a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from grapevine_proto import FileDiscovery, GrapevineError
from grapevine_proto.runtime.discovery import files
from grapevine_proto.runtime.discovery.files import MAX_FILE_BYTES


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "POLL_INTERVAL_S", 0.001)


def read(source: FileDiscovery) -> list[str]:
    return asyncio.run(asyncio.wait_for(source.addresses(), 10))


def test_comments_and_blank_lines_are_skipped_and_ranges_expanded(tmp_path: Path) -> None:
    path = tmp_path / "peers.txt"
    path.write_text("# ours\n\n 10.0.0.1:8000  # first\nhost.example:1-3\n[::1]:9\n")
    expected = ["10.0.0.1:8000", *(f"host.example:{port}" for port in (1, 2, 3)), "[::1]:9"]
    assert read(FileDiscovery(path)) == expected


def test_a_file_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "peers.txt"
    path.write_text("10.0.0.1:1\n")
    source = FileDiscovery(path)

    async def follow() -> None:
        assert await source.addresses() == ["10.0.0.1:1"]
        waiting = asyncio.create_task(source.addresses())
        await asyncio.sleep(0)
        assert not waiting.done()
        new = tmp_path / "new"
        new.write_text("10.0.0.2:2\n")
        os.replace(new, path)
        assert await asyncio.wait_for(waiting, 10) == ["10.0.0.2:2"]

    asyncio.run(follow())


def test_a_missing_file_is_an_error_until_it_appears(tmp_path: Path) -> None:
    source = FileDiscovery(tmp_path / "peers.txt")
    with pytest.raises(FileNotFoundError):
        read(source)
    source.path.write_text("10.0.0.1:1")
    assert read(source) == ["10.0.0.1:1"]


@pytest.mark.parametrize("line", ["10.0.0.1", "a b:1", "10.0.0.1:0", "10.0.0.1:70000", "@x"])
def test_an_error_names_the_file_and_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "peers.txt"
    path.write_text(f"10.0.0.1:1\n{line}\n")
    with pytest.raises(GrapevineError, match=r"peers\.txt:2: "):
        read(FileDiscovery(path))


@pytest.mark.parametrize(("size", "is_read"), [(MAX_FILE_BYTES, True), (MAX_FILE_BYTES + 1, False)])
def test_a_file_has_a_limit(tmp_path: Path, size: int, *, is_read: bool) -> None:
    path = tmp_path / "peers.txt"
    path.write_bytes(b"10.0.0.1:1\n" + b"#" * (size - 11))
    if is_read:
        assert read(FileDiscovery(path)) == ["10.0.0.1:1"]
    else:
        with pytest.raises(GrapevineError, match="more than"):
            read(FileDiscovery(path))


def test_bytes_that_are_no_text_are_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "peers.txt"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(GrapevineError, match=r"peers\.txt:"):
        read(FileDiscovery(path))
