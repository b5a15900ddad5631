"""Files put in place whole or not at all.

What must stay true:

- Whatever moment the process or the machine dies at, the file is there as it was before or after, never
  between: written aside, flushed, then put in place, and the folder flushed behind it.
- At no moment can anybody read it who could not read it in the end.
- Two writers at once do not mix: each writes aside under a name of its own. `put_in_place` replaces, and
  the later one wins; `put_new` never replaces, and the first one wins.
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

from grapevine_proto.trust import UntrustedFile, check_owner

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("grapevine")

ASIDE: Final = ".new"  # ends the name of what is written aside
PRIVATE: Final = 0o600
SHARED: Final = 0o644  # never writable by others, whatever the umask: it would be refused
BINARY: Final = getattr(os, "O_BINARY", 0)  # or Windows would end a file at its first 0x1a
NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
PASSING: Final = frozenset(
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
BLANK: Final = b"\0 \t\r\n"  # after a power failure a file may be as long as it was, and all zeros
STALE_S: Final = 600.0  # no write takes so long: whoever began it is dead
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)


def put_in_place(path: str | Path, data: bytes, *, mode: int, keeps_mode: bool = True) -> None:
    """Make `data` the content of `path`, or of what `path` is a link to. Raises OSError; then the file is
    as it was.

    A new file gets `mode`, less what the umask takes; one that is there keeps its own.  Without
    `keeps_mode` the file is private: it gets exactly `mode`, and a link at `path` is replaced and not
    followed.
    """
    path = Path(os.path.realpath(path)) if keeps_mode else Path(path)
    kept = None if keeps_mode else mode
    if keeps_mode:
        with contextlib.suppress(FileNotFoundError):
            kept = path.stat().st_mode & 0o777
    aside = _write_aside(path, data, mode if kept is None else mode & kept, kept)
    try:
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def put_new(path: str | Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Make a file at `path` with `data`, whole from the moment it is there. A private one has exactly this
    `mode`, any other what the umask leaves of it.

    Raises FileExistsError where something has that name, a link included; it is left alone. Raises
    OSError where it cannot be made; then nothing is there.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    exactly = None if mode & 0o077 else mode
    aside = _write_aside(path, data, mode, exactly)
    try:
        os.link(aside, path)
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno not in _NO_LINKS:
            raise
        _write_new(path, data, mode, exactly)  # FAT and some network file systems
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(path.parent)


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
    fresh = False
    flags |= BINARY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        try:
            file = os.open(path, flags & ~os.O_TRUNC | os.O_EXCL, PRIVATE)
            fresh = True
        except FileExistsError:  # made in this very moment: then it is the other one's to fill
            file = os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # FreeBSD has the latter word for it
            raise UntrustedFile(path, "is a link, which is not followed here") from None
        raise
    try:
        if fresh and sys.platform != "win32":
            os.fchmod(file, PRIVATE)
        _check_private(path, os.fstat(file), is_written=bool(flags & (os.O_WRONLY | os.O_RDWR)))
        if flags & os.O_TRUNC:
            os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file


def _check_private(path: str | Path, found: os.stat_result, *, is_written: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedFile(path, "is not a plain file")
    check_owner(path, found, 0o077)
    if is_written and found.st_nlink > 1:
        raise UntrustedFile(path, "is another file too, under a second name")


def set_aside_empty(path: str | Path) -> None:
    """Rename what is at `path` to ``NAME.damaged`` where it is a plain file with nothing in it, as a full
    disk or a power failure leaves it. Says so in the log. Of several processes that do this at once, none
    takes what another has put there since. Raises OSError."""
    path = Path(path)
    try:
        file = os.open(path, os.O_RDONLY | BINARY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return  # not there, or for whoever reads it to refuse
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_EMPTY_BYTES:
            return
        if os.read(file, MAX_EMPTY_BYTES).strip(BLANK):
            return
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)  # from here nobody but us renames this file
        here = os.lstat(path)
        if (found.st_dev, found.st_ino) != (here.st_dev, here.st_ino):
            return
        aside = path.with_name(path.name + ".damaged")
        os.replace(path, aside)
    except FileNotFoundError:
        return  # another process was quicker
    finally:
        os.close(file)
    logger.warning("%s: nothing was in it (kept as %s)", path, aside.name)


def is_passing(error: OSError) -> bool:
    """Whether the disk may take tomorrow what it does not take now."""
    return error.errno in PASSING


def sweep(folder: Path) -> None:
    """Take away what dead runs left aside in `folder`, where nobody else writes now. Raises OSError."""
    for left in folder.glob(f".*{ASIDE}"):
        left.unlink(missing_ok=True)


def _write_aside(path: Path, data: bytes, mode: int, final_mode: int | None) -> Path:
    _sweep_stale(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{ASIDE}")
    try:
        _write_new(aside, data, mode, final_mode)
    except OSError as error:
        error.filename = str(path)  # what the caller knows of
        raise
    return aside


def _sweep_stale(path: Path) -> None:
    """Take away what dead runs left aside of the one file `path`."""
    stale_before = time.time() - STALE_S
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            is_aside = left.name.startswith(f".{path.name}.") and left.name.endswith(ASIDE)
            if is_aside and left.lstat().st_mtime < stale_before:
                left.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int, final_mode: int | None) -> None:
    """Nothing is left where it fails."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, mode)
    try:
        try:
            if final_mode is not None and sys.platform != "win32":
                os.fchmod(file, final_mode)
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        finally:
            os.close(file)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(path: Path) -> None:
    """Make a replacement in `path` last; where the system has no such call, the rename must do."""
    if sys.platform == "win32":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
