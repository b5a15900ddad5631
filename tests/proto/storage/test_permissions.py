"""Permissions: a file that another user can change is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from grapevine_proto.config.toml import ConfigFile
from grapevine_proto.errors import ConfigError
from grapevine_proto.storage.permissions import (
    UntrustedFile,
    check_opened,
    check_program,
    open_trusted,
    read_trusted,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX's")

OTHER = 65534
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of ours in a directory of ours."""
    path = tmp_path / "above" / "file"
    path.parent.mkdir(mode=0o755)
    path.write_bytes(b"x = 1\n")
    path.chmod(0o644)
    return path


def read(path: Path, *, is_strict_above: bool = True) -> bytes:
    return read_trusted(path, limit_bytes=100, has_strict_parents=is_strict_above)


def test_own_files_are_read_also_by_relative_paths_and_own_symlinks(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(file) == b"x = 1\n"
    (file.parent / "link").symlink_to("../above/./file")
    (file.parent.parent / "far").symlink_to(file.parent / "link")
    assert read(file.parent.parent / "far") == b"x = 1\n"
    monkeypatch.chdir(file.parent)
    assert read(Path("file")) == b"x = 1\n"
    assert read(Path("../above/file")) == b"x = 1\n"


@pytest.mark.parametrize("mode", [0o666, 0o646, 0o602])
def test_a_file_writable_by_others_is_refused_with_its_mode_and_the_remedy(
    file: Path, mode: int
) -> None:
    file.chmod(mode)
    with pytest.raises(
        UntrustedFile, match=rf"writable by others \(mode {mode:04o}\); run chmod go-w"
    ):
        read(file)


def test_a_directory_writable_by_others_is_refused_unless_sticky(file: Path) -> None:
    file.parent.chmod(0o777)
    with pytest.raises(UntrustedFile, match=f"directory {file.parent}"):
        read(file)
    assert read(file, is_strict_above=False)  # what they put there would be theirs
    file.parent.chmod(0o1777)
    assert read(file)


@as_root
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    os.chown(file, OTHER, OTHER)
    for is_strict in (True, False):
        with pytest.raises(UntrustedFile, match="belongs to"):
            read(file, is_strict_above=is_strict)


@as_root
def test_a_file_in_a_directory_of_another_user_is_refused(file: Path) -> None:
    os.chown(file.parent, OTHER, OTHER)
    for is_strict in (True, False):
        with pytest.raises(UntrustedFile, match=f"directory {file.parent} belongs to"):
            read(file, is_strict_above=is_strict)


@as_root
def test_a_symlink_of_another_user_is_refused(file: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "way").symlink_to(file.parent)
    for link in ("link", "way"):
        os.chown(tmp_path / link, OTHER, OTHER, follow_symlinks=False)
    for path in (tmp_path / "link", tmp_path / "way" / "file"):
        with pytest.raises(UntrustedFile, match=r"the link .* belongs to"):
            read(path, is_strict_above=False)


@as_root
def test_a_group_with_other_members_counts_as_others(file: Path) -> None:
    os.chown(file, 0, OTHER)
    file.chmod(0o664)
    with pytest.raises(UntrustedFile, match="writable by others"):
        read(file)


def test_a_symlink_loop_and_a_missing_file_are_ordinary_errors(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop", "none"):
        with pytest.raises(OSError, match=name):
            read(tmp_path / name)


def test_opening_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    os.close(open_trusted(tmp_path / "fifo"))


def test_a_file_above_the_limit_is_refused(file: Path) -> None:
    file.write_bytes(b"x" * 101)
    with pytest.raises(OSError, match="larger than 100 bytes"):
        read(file)


def test_an_inherited_descriptor_is_read(file: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    with file.open("rb") as stream:
        assert read(Path(f"/proc/self/fd/{stream.fileno()}")) == b"x = 1\n"


def test_the_directory_of_a_program_may_be_group_writable_but_not_world_writable(
    file: Path,
) -> None:
    file.chmod(0o755)
    file.parent.chmod(0o775)
    check_program(file)
    file.parent.chmod(0o777)
    with pytest.raises(UntrustedFile):
        check_program(file)


def test_a_directory_is_checked_like_a_file(file: Path) -> None:
    check_opened(file.parent, file.parent.stat())
    file.parent.chmod(0o757)
    with pytest.raises(UntrustedFile, match="writable by others"):
        check_opened(file.parent, file.parent.stat())


def test_a_config_file_writable_by_others_is_refused_in_one_line(file: Path) -> None:
    assert ConfigFile.read(file, ["x"]).values == {"x": 1}
    file.chmod(0o666)
    with pytest.raises(ConfigError) as caught:
        ConfigFile.read(file, ["x"])
    assert str(caught.value) == (
        f"config: {file}: writable by others (mode 0666); run chmod go-w on it"
    )
