"""Files put in place whole or not at all.

What must stay true:

- Whatever moment the process or the machine dies at, the file is there as it was before or after, never
  between: written aside, flushed, then put in place, and the folder flushed behind it.
- At no moment can anybody read it who could not read it in the end.
- Two writers at once do not mix: each writes aside under a name of its own. `atomic_write` replaces, and
  the later one wins; `atomic_create` never replaces, and the first one wins.
- What is private has mode 0600 (a directory 0700) whatever the umask.
- A full disk leaves no file behind: what was written aside goes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from pathlib import Path
from typing import Final

from grapevine_proto.storage.permissions import UntrustedFile, check_owner

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("grapevine")

TEMPORARY_SUFFIX: Final = ".new"  # ends the name of what is written aside
PRIVATE_MODE: Final = 0o600
SHARED_MODE: Final = 0o644  # never writable by others, whatever the umask: it would be refused
O_BINARY: Final = getattr(os, "O_BINARY", 0)  # or Windows would end a file at its first 0x1a
O_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
TRANSIENT_ERRNOS: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EROFS",
        "EIO",
        "EMFILE",
        "ENFILE",
        "ENOMEM",
        "ESTALE",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
MAX_EMPTY_BYTES: Final = 4096
BLANK_BYTES: Final = (
    b"\0 \t\r\n"  # after a power failure a file may be as long as it was, and all zeros
)
LEFTOVER_AGE_S: Final = 600.0  # no write takes so long: whoever began it is dead
_NO_HARD_LINK_ERRNOS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)


def atomic_write(path: str | Path, data: bytes, *, mode: int, preserve_mode: bool = True) -> None:
    """Make `data` the content of `path`, or of what `path` is a link to. Raises OSError; then the file is
    as it was.

    A new file gets `mode`, less what the umask takes; one that is there keeps its own.  Without
    `preserve_mode` the file is private: it gets exactly `mode`, and a link at `path` is replaced and not
    followed.
    """
    path = Path(os.path.realpath(path)) if preserve_mode else Path(path)
    exact_mode = None if preserve_mode else mode
    if preserve_mode:
        with contextlib.suppress(FileNotFoundError):
            exact_mode = path.stat().st_mode & 0o777
    temporary = _write_temporary(
        path, data, mode if exact_mode is None else mode & exact_mode, exact_mode
    )
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def atomic_create(path: str | Path, data: bytes, *, mode: int = PRIVATE_MODE) -> None:
    """Make a file at `path` with `data`, whole from the moment it is there. A private one has exactly this
    `mode`, any other what the umask leaves of it.

    Raises FileExistsError where something has that name, a link included; it is left alone. Raises
    OSError where it cannot be made; then nothing is there.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    exact_mode = None if mode & 0o077 else mode
    temporary = _write_temporary(path, data, mode, exact_mode)
    try:
        os.link(temporary, path)
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno not in _NO_HARD_LINK_ERRNOS:
            raise
        _write_new(path, data, mode, exact_mode)  # FAT and some network file systems
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_directory(path.parent)


def make_private_directory(path: str | Path) -> None:
    """Make the directory at `path` and those above it that are missing, each 0700 whatever the umask. One
    that is there is left as it is. Raises OSError."""
    path = Path(path)
    if path.is_dir():
        return
    if path.parent != path:
        make_private_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():  # two at once may both find it missing
            raise
    else:
        path.chmod(0o700)


def open_private(path: str | Path, flags: int) -> int:
    """A descriptor of the plain file at `path`, made 0600 where `flags` have `O_CREAT` and there is none.

    Follows no link. Raises UntrustedFile where it is another user's, can be read by others or, to be
    written, has a second name, and OSError where it cannot be opened; nothing is changed then.
    """
    is_new = False
    flags |= O_BINARY | O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        try:
            fd = os.open(path, flags & ~os.O_TRUNC | os.O_EXCL, PRIVATE_MODE)
            is_new = True
        except FileExistsError:  # made in this very moment: then it is the other one's to fill
            fd = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # FreeBSD has the latter word for it
            raise UntrustedFile(path, "is a link, which is not followed here") from None
        raise
    try:
        if is_new and sys.platform != "win32":
            os.fchmod(fd, PRIVATE_MODE)
        _check_private(path, os.fstat(fd), is_written=bool(flags & (os.O_WRONLY | os.O_RDWR)))
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_private(path: str | Path, status: os.stat_result, *, is_written: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedFile(path, "is not a plain file")
    check_owner(path, status, 0o077)
    if is_written and status.st_nlink > 1:
        raise UntrustedFile(path, "is another file too, under a second name")


def quarantine_empty(path: str | Path) -> None:
    """Rename what is at `path` to ``NAME.damaged`` where it is a plain file with nothing in it, as a full
    disk or a power failure leaves it. Says so in the log. Of several processes that do this at once, none
    takes what another has put there since. Raises OSError."""
    path = Path(path)
    try:
        fd = os.open(path, os.O_RDONLY | O_BINARY | O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return  # not there, or for whoever reads it to refuse
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_EMPTY_BYTES:
            return
        if os.read(fd, MAX_EMPTY_BYTES).strip(BLANK_BYTES):
            return
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_EX)  # from here nobody but us renames this file
        current = os.lstat(path)
        if (status.st_dev, status.st_ino) != (current.st_dev, current.st_ino):
            return
        damaged = path.with_name(path.name + ".damaged")
        os.replace(path, damaged)
    except FileNotFoundError:
        return  # another process was quicker
    finally:
        os.close(fd)
    logger.warning("%s: nothing was in it (kept as %s)", path, damaged.name)


def is_transient_error(error: OSError) -> bool:
    """Whether the disk may take tomorrow what it does not take now."""
    return error.errno in TRANSIENT_ERRNOS


def remove_leftovers(directory: Path) -> None:
    """Take away what dead runs left aside in `folder`, where nobody else writes now. Raises OSError."""
    for leftover in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def _write_temporary(path: Path, data: bytes, mode: int, exact_mode: int | None) -> Path:
    _remove_leftovers_of(path)
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY_SUFFIX}"
    )
    try:
        _write_new(temporary, data, mode, exact_mode)
    except OSError as error:
        error.filename = str(path)  # what the caller knows of
        raise
    return temporary


def _remove_leftovers_of(path: Path) -> None:
    """Take away what dead runs left aside of the one file `path`."""
    stale_before = time.time() - LEFTOVER_AGE_S
    with contextlib.suppress(OSError):
        for leftover in path.parent.iterdir():
            is_temporary = leftover.name.startswith(f".{path.name}.") and leftover.name.endswith(
                TEMPORARY_SUFFIX
            )
            if is_temporary and leftover.lstat().st_mtime < stale_before:
                leftover.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int, exact_mode: int | None) -> None:
    """Nothing is left where it fails."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY, mode)
    try:
        try:
            if exact_mode is not None and sys.platform != "win32":
                os.fchmod(fd, exact_mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _fsync_directory(path: Path) -> None:
    """Make a replacement in `path` last; where the system has no such call, the rename must do."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
