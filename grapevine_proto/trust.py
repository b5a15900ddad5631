"""Whether a file can be changed by anyone but this user and root, decided before its content is used.

A file that says what to run, where to connect or who this node is must not be another user's to write.
The rules are those of OpenSSH's StrictModes, with the sticky bit understood.

Invariants:

- The owner and the mode that count are those of the opened descriptor, never of a name looked at before.
- Every link on the way belongs to this user or to root, and so does every directory above the file.
- A directory above that others can write is refused, unless it is sticky (`/tmp`) or mounted read-only.
- The owner of `/` counts as root: in a user namespace without root it is the one that stands for it.
- Windows has access lists in place of modes; nothing is refused there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

WRITABLE: Final = 0o022  # by the group, by others
OPEN: Final = 0o077  # anything for anyone but the owner
MAX_LINKS: Final = 40  # on the way to one file, as the kernel has it
_IS_POSIX: Final = sys.platform != "win32"
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)  # a FIFO must not hold up the start
_BINARY: Final = getattr(os, "O_BINARY", 0)


class UntrustedFile(PermissionError):
    """Someone else owns or can change the file, or a directory above it. `strerror` says who and where."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(errno.EPERM, problem, str(path))


def open_trusted(
    path: str | Path, *, closed_to: int = WRITABLE, is_strict_above: bool = True
) -> int:
    """A descriptor to read the file at `path`, which nobody else can change.

    `closed_to`: mode bits that the file must not have. `is_strict_above`: refuse it too where others
    could rename it away, which is for what is found rather than named: a file that they put in its
    place is theirs, and refused in any case. Raises UntrustedFile, and OSError where it cannot be opened.
    """
    file = os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)
    try:
        found = os.fstat(file)
        _check(path, found, closed_to)
        _check_above(Path(path), found, is_strict=is_strict_above)
        if stat.S_ISFIFO(found.st_mode):
            os.set_blocking(file, True)  # a process substitution: its writer may not be there yet
    except BaseException:
        os.close(file)
        raise
    return file


def read_trusted(
    path: str | Path,
    *,
    limit_bytes: int,
    closed_to: int = WRITABLE,
    is_strict_above: bool = True,
) -> bytes:
    """What is in the file at `path`, under the rules of `open_trusted`. Raises OSError (EFBIG) above
    `limit_bytes`."""
    file = open_trusted(path, closed_to=closed_to, is_strict_above=is_strict_above)
    with open(file, "rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes:,} bytes", str(path))
    return data


def check_program(path: str | Path) -> None:
    """Raises UntrustedFile where someone else can change the program at `path`, OSError where it is not
    there. A group may write to the directories above it: administrators share those (`/usr/local`)."""
    found = os.stat(path)
    _check(path, found, WRITABLE)
    _check_above(Path(path), found, is_strict=True, writable=stat.S_IWOTH)


def check_owner(path: str | Path, found: os.stat_result, closed_to: int = WRITABLE) -> None:
    """Raises UntrustedFile where `found`, the `fstat` of what was opened at `path`, is another user's or
    has a bit of `closed_to`."""
    _check(path, found, closed_to)


def check_opened(path: str | Path, found: os.stat_result) -> None:
    """Raises UntrustedFile where someone else owns or can write the file or directory `found`, opened at
    `path`, or owns a directory or a link on the way to it."""
    _check(path, found, WRITABLE)
    _check_above(Path(path), found, is_strict=False)


def _check(path: str | Path, found: os.stat_result, closed_to: int) -> None:
    if not _IS_POSIX:
        return
    if not _is_own(found):
        raise UntrustedFile(path, f"belongs to {_user(found.st_uid)}, not to this user or root")
    mode = stat.S_IMODE(found.st_mode)
    if open_to := mode & closed_to & ~_private_bits(found):
        what = "writable" if open_to & WRITABLE else "readable"
        bits = "go-w" if closed_to == WRITABLE else "600"
        raise UntrustedFile(path, f"{what} by others (mode {mode:04o}); run chmod {bits} on it")


def _check_above(
    path: Path, found: os.stat_result, *, is_strict: bool, writable: int = WRITABLE
) -> None:
    """Walk to `path` from the root, link by link. It must end where `found` was opened."""
    if not _IS_POSIX:
        return
    todo = list(reversed(Path(os.getcwd(), path).parts[1:]))
    here, links = Path("/"), 0
    while todo:
        _check_directory_above(path, here, writable if is_strict else 0)
        part = todo.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        status = os.lstat(step)
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        if not _is_own(status):
            raise UntrustedFile(path, f"the link {step} belongs to {_user(status.st_uid)}")
        if here.name == "fd" and here.is_relative_to("/proc"):
            return  # an open descriptor of this process: there is no other way to it
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink(step))
        here = Path("/") if target.is_absolute() else here
        todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    reached = os.lstat(here)
    if (reached.st_dev, reached.st_ino) != (found.st_dev, found.st_ino):
        raise UntrustedFile(path, "was changed while it was opened")


def _check_directory_above(path: Path, above: Path, writable: int) -> None:
    status = os.lstat(above)
    if not _is_own(status):
        raise UntrustedFile(path, f"the directory {above} belongs to {_user(status.st_uid)}")
    mode = stat.S_IMODE(status.st_mode)
    if not mode & writable & ~_private_bits(status) or mode & stat.S_ISVTX:
        return
    if os.statvfs(above).f_flag & os.ST_RDONLY:
        return  # a ConfigMap of Kubernetes: mode 0777, and nobody writes
    raise UntrustedFile(path, f"others can write to the directory {above} (mode {mode:04o})")


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid in (os.geteuid(), 0, os.stat("/").st_uid)


def _private_bits(found: os.stat_result) -> int:
    """Group bits that mean nobody else: where each user has a group of its own, the umask leaves them."""
    mode = found.st_mode & 0o070
    is_ours = found.st_gid == os.getegid() and os.geteuid() != 0
    return mode if mode and is_ours and _is_private_group(found.st_gid) else 0


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
        return group_id == uid  # a container's: neither has a name
    is_alone = not set(group.gr_mem) - {name}
    # A container with an arbitrary user id runs in root's group, alone.
    return is_alone and (group.gr_name == name or (not name and group_id == 0))


def _user(uid: int) -> str:
    import pwd

    with contextlib.suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name}"
    return f"uid {uid}"
