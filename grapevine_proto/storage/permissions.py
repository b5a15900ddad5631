"""Checks that only this user and root can change a file, before its content is used.

A file that names programs to run, peers to connect to or a node's identity must not be writable by other
users. The rules are those of OpenSSH's StrictModes, with support for the sticky bit.

Invariants:

- Owner and mode are those of the opened descriptor, never of a path checked earlier.
- Every symbolic link on the path and every directory above the file belongs to this user or to root.
- A parent directory that others can write to is refused, unless it is sticky (`/tmp`) or mounted read-only.
- The owner of `/` counts as root: in a user namespace without root it stands for it.
- On Windows, which has access lists instead of modes, nothing is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

WRITABLE_BY_OTHERS: Final = 0o022  # by the group, by others
OPEN_TO_OTHERS: Final = 0o077  # any access for anyone but the owner
MAX_SYMLINKS: Final = 40  # on one path, as in the Linux kernel
_IS_POSIX: Final = sys.platform != "win32"
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not block
_BINARY: Final = getattr(os, "O_BINARY", 0)


class UntrustedFile(PermissionError):
    """Another user owns or can change the file or a directory above it. `strerror` says who and where."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(errno.EPERM, problem, str(path))


def open_trusted(
    path: str | Path, *, forbidden_mode: int = WRITABLE_BY_OTHERS, has_strict_parents: bool = True
) -> int:
    """Returns a descriptor for reading the file at `path`, after checking that no other user can change it.

    `forbidden_mode` are mode bits that the file must not have. `has_strict_parents` also refuses a file that
    others could rename away. Use it for files that are searched for, not named: a replacement by another user
    belongs to that user and is refused in any case. Raises UntrustedFile, or OSError if it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)
    try:
        status = os.fstat(fd)
        _check_owner_and_mode(path, status, forbidden_mode)
        _check_parents(Path(path), status, is_strict=has_strict_parents)
        if stat.S_ISFIFO(status.st_mode):
            os.set_blocking(fd, True)  # process substitution: its writer may start later
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_trusted(
    path: str | Path,
    *,
    limit_bytes: int,
    forbidden_mode: int = WRITABLE_BY_OTHERS,
    has_strict_parents: bool = True,
) -> bytes:
    """Returns the content of the file at `path`, checked by the rules of `open_trusted`. Raises OSError:
    EFBIG above `limit_bytes`."""
    fd = open_trusted(path, forbidden_mode=forbidden_mode, has_strict_parents=has_strict_parents)
    with open(fd, "rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes:,} bytes", str(path))
    return data


def check_program(path: str | Path) -> None:
    """Raises UntrustedFile if another user can change the program at `path`, OSError if it is missing. Its
    parent directories may be group-writable, because administrators share those (`/usr/local`)."""
    status = os.stat(path)
    _check_owner_and_mode(path, status, WRITABLE_BY_OTHERS)
    _check_parents(Path(path), status, is_strict=True, writable_mode=stat.S_IWOTH)


def check_owner(
    path: str | Path, status: os.stat_result, forbidden_mode: int = WRITABLE_BY_OTHERS
) -> None:
    """Raises UntrustedFile if `status`, the `fstat` of the file opened at `path`, shows another owner or a
    bit of `forbidden_mode`."""
    _check_owner_and_mode(path, status, forbidden_mode)


def check_opened(path: str | Path, status: os.stat_result) -> None:
    """Raises UntrustedFile if another user owns or can write the file or directory opened at `path`, whose
    `fstat` is `status`, or owns a directory or link on the path."""
    _check_owner_and_mode(path, status, WRITABLE_BY_OTHERS)
    _check_parents(Path(path), status, is_strict=False)


def _check_owner_and_mode(path: str | Path, status: os.stat_result, forbidden_mode: int) -> None:
    if not _IS_POSIX:
        return
    if not _is_owned_by_us(status):
        raise UntrustedFile(
            path, f"belongs to {_format_user(status.st_uid)}, not to this user or root"
        )
    mode = stat.S_IMODE(status.st_mode)
    if excess_mode := mode & forbidden_mode & ~_private_group_bits(status):
        access = "writable" if excess_mode & WRITABLE_BY_OTHERS else "readable"
        bits = "go-w" if forbidden_mode == WRITABLE_BY_OTHERS else "600"
        raise UntrustedFile(path, f"{access} by others (mode {mode:04o}); run chmod {bits} on it")


def _check_parents(
    path: Path, opened: os.stat_result, *, is_strict: bool, writable_mode: int = WRITABLE_BY_OTHERS
) -> None:
    """Checks each directory and link from the root to `path`, which must lead to the file that was
    `opened`."""
    if not _IS_POSIX:
        return
    remaining = list(reversed(Path(os.getcwd(), path).parts[1:]))
    current, symlinks = Path("/"), 0
    while remaining:
        _check_parent(path, current, writable_mode if is_strict else 0)
        part = remaining.pop()
        if part == "..":
            current = current.parent
            continue
        step = current / part
        status = os.lstat(step)
        if not stat.S_ISLNK(status.st_mode):
            current = step
            continue
        if not _is_owned_by_us(status):
            raise UntrustedFile(path, f"the link {step} belongs to {_format_user(status.st_uid)}")
        if current.name == "fd" and current.is_relative_to("/proc"):
            return  # an open descriptor of this process, with no other path
        symlinks += 1
        if symlinks > MAX_SYMLINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink(step))
        current = Path("/") if target.is_absolute() else current
        remaining += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    reached = os.lstat(current)
    if (reached.st_dev, reached.st_ino) != (opened.st_dev, opened.st_ino):
        raise UntrustedFile(path, "was changed while it was opened")


def _check_parent(path: Path, parent: Path, writable_mode: int) -> None:
    status = os.lstat(parent)
    if not _is_owned_by_us(status):
        raise UntrustedFile(
            path, f"the directory {parent} belongs to {_format_user(status.st_uid)}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if not mode & writable_mode & ~_private_group_bits(status) or mode & stat.S_ISVTX:
        return
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        return  # a Kubernetes ConfigMap: mode 0777 on a read-only mount
    raise UntrustedFile(path, f"others can write to the directory {parent} (mode {mode:04o})")


def _is_owned_by_us(status: os.stat_result) -> bool:
    return status.st_uid in (os.geteuid(), 0, os.stat("/").st_uid)


def _private_group_bits(status: os.stat_result) -> int:
    """Returns the group bits that grant no other user access: those of a group with only this user, which the
    umask keeps on such systems."""
    mode = status.st_mode & 0o070
    is_ours = status.st_gid == os.getegid() and os.geteuid() != 0
    return mode if mode and is_ours and _is_private_group(status.st_gid) else 0


def _is_private_group(group_id: int) -> bool:
    import grp
    import pwd

    uid = os.geteuid()
    name = ""
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(uid).pw_name
    try:
        group = grp.getgrgid(group_id)
    except KeyError:
        return group_id == uid  # in a container neither may have a name
    is_alone = not set(group.gr_mem) - {name}
    # A container with an arbitrary user ID runs in root's group, as its only member.
    return is_alone and (group.gr_name == name or (not name and group_id == 0))


def _format_user(uid: int) -> str:
    import pwd

    with contextlib.suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name}"
    return f"uid {uid}"
