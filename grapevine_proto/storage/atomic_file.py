"""Atomic creation and replacement of files, and private files and directories.

Invariants:

- After a crash of the process or the machine the file has its old or its new content, never a mixture: the
  data is written to a temporary file and flushed, the file is renamed, and the directory is flushed.
- At no time can a user read the file who may not read the final one.
- Simultaneous writers do not interfere: each uses its own temporary name. `atomic_write` replaces, so the
  last writer wins; `atomic_create` never replaces, so the first one wins.
- Private files have mode 0600 and private directories 0700, whatever the umask.
- A failed write, for example on a full disk, leaves no temporary file.
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

TEMPORARY_SUFFIX: Final = ".new"  # of temporary files
PRIVATE_MODE: Final = 0o600
SHARED_MODE: Final = 0o644  # never writable by others, or it would be refused later
O_BINARY: Final = getattr(os, "O_BINARY", 0)  # otherwise Windows ends a file at the first 0x1a
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
BLANK_BYTES: Final = b"\0 \t\r\n"  # after a power failure a file may consist of zeros
LEFTOVER_AGE_S: Final = 600.0  # no write takes this long: its process is dead
_NO_HARD_LINK_ERRNOS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)


def atomic_write(path: str | Path, data: bytes, *, mode: int, preserve_mode: bool = True) -> None:
    """Replaces the content of the file at `path`, or of the target if `path` is a symbolic link, with `data`.

    A new file gets `mode` less the umask, an existing one keeps its mode. Without `preserve_mode` the file
    gets exactly `mode`, and a link at `path` is replaced instead of followed. Raises OSError; the file is
    then unchanged.
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
    """Creates a file at `path` that contains `data` from the moment it exists.

    A private `mode` applies exactly, any other less the umask. Raises FileExistsError, and changes
    nothing, if the name is taken, be it by a dangling link. Raises OSError if the file cannot be created;
    nothing is then left behind.
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
        _write_new(path, data, mode, exact_mode)  # no hard links: FAT, some network file systems
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_directory(path.parent)


def make_private_directory(path: str | Path) -> None:
    """Creates the directory at `path` and its missing parents with mode 0700, whatever the umask. Leaves an
    existing one unchanged. Raises OSError."""
    path = Path(path)
    if path.is_dir():
        return
    if path.parent != path:
        make_private_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():  # another process may have created it meanwhile
            raise
    else:
        path.chmod(0o700)


def open_private(path: str | Path, flags: int) -> int:
    """Returns a descriptor of the regular file at `path`, which is created with mode 0600 if `flags` contain
    `O_CREAT` and it is missing.

    Never follows a symbolic link. Raises UntrustedFile if another user owns it, if others can read it or, for
    writing, if it has a second hard link, and OSError if it cannot be opened. After an error nothing has
    changed.
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
        except FileExistsError:  # another process created it meanwhile and fills it
            fd = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # EMLINK on FreeBSD
            raise UntrustedFile(path, "is a symbolic link, which is not followed") from None
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


def append_private(fd: int, directory: Path, data: bytes, *, is_first: bool) -> None:
    """Appends `data` to the file opened as `fd` in `directory`, and flushes it; with `is_first` also the
    directory, as the file may be new. Raises OSError; part of `data` may then be in the file."""
    _write_all(fd, data)
    if is_first:
        _fsync_directory(directory)


def _check_private(path: str | Path, status: os.stat_result, *, is_written: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedFile(path, "is not a regular file")
    check_owner(path, status, 0o077)
    if is_written and status.st_nlink > 1:
        raise UntrustedFile(path, "has a second name (a hard link)")


def quarantine_empty(path: str | Path) -> None:
    """Renames the regular file at `path` to ``NAME.damaged`` if it is empty, as after a full disk or a power
    failure, and logs that. Safe if several processes do it simultaneously: none renames a file that
    another one created since. Raises OSError."""
    path = Path(path)
    try:
        fd = os.open(path, os.O_RDONLY | O_BINARY | O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return  # missing, or the reader will report it
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_EMPTY_BYTES:
            return
        if os.read(fd, MAX_EMPTY_BYTES).strip(BLANK_BYTES):
            return
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_EX)  # only the lock's holder renames this file
        current = os.lstat(path)
        if (status.st_dev, status.st_ino) != (current.st_dev, current.st_ino):
            return
        damaged = path.with_name(path.name + ".damaged")
        os.replace(path, damaged)
    except FileNotFoundError:
        return  # another process renamed it first
    finally:
        os.close(fd)
    logger.warning("%s: the file was empty (kept as %s)", path, damaged.name)


def is_transient_error(error: OSError) -> bool:
    """Whether a later try may succeed: the disk is full, read-only or failing, or no descriptor is free."""
    return error.errno in TRANSIENT_ERRNOS


def remove_leftovers(directory: Path) -> None:
    """Removes the temporary files of dead processes in `directory`, which no other process writes to. Raises
    OSError."""
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
        error.filename = str(path)  # the name that the caller knows
        raise
    return temporary


def _remove_leftovers_of(path: Path) -> None:
    """Removes old temporary files of the file at `path`."""
    stale_before = time.time() - LEFTOVER_AGE_S
    with contextlib.suppress(OSError):
        for leftover in path.parent.iterdir():
            is_temporary = leftover.name.startswith(f".{path.name}.") and leftover.name.endswith(
                TEMPORARY_SUFFIX
            )
            if is_temporary and leftover.lstat().st_mtime < stale_before:
                leftover.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int, exact_mode: int | None) -> None:
    """Creates and flushes a new file. Leaves nothing behind after an error."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY, mode)
    try:
        try:
            if exact_mode is not None and sys.platform != "win32":
                os.fchmod(fd, exact_mode)
            _write_all(fd, data)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)


def _fsync_directory(path: Path) -> None:
    """Makes a rename in the directory durable, where the system supports it."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
