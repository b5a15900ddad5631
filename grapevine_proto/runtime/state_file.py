"""The state directory of a node: identity, epoch, delivery state and known peers across restarts.

Invariants:

- One running node per directory: it holds a lock that ends with its process.
- The epoch of a run is higher than that of every earlier run, and on disk before `load` returns and thus
  before the first datagram. The wall clock serves no other purpose.
- `save` replaces the whole state, `append` adds what changed to a journal. Its cost grows with the changes,
  not with the state, and the journal grows to the size of the state at most before a `save` is due.
- After a crash of the process or the machine, `load` finds what it was before or after a `save` or an
  `append`, never a mixture (`storage.atomic_file`, `state_encoding`).
- An unreadable file costs the delivery state, never the node: it is renamed, and `load_warning` reports it.
- The identity is a separate file with mode 0600, written once. No error and no `repr` shows it.
- A directory or file that another user owns or can change is neither read nor written; files are checked
  by their opened descriptors, and symbolic links are not followed.

Files: `lock` (the process ID of the holder), `identity` (64 hex digits), `state`, `journal` (what changed
since `state` was written), and after damage the same names with `.damaged`.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from grapevine_proto.crypto.identity import SEED_BYTES
from grapevine_proto.engine import NodeState
from grapevine_proto.errors import ConfigError, StateLockedError, StorageError
from grapevine_proto.ids import EPOCH_LIMIT
from grapevine_proto.runtime.fork_safety import register_at_fork
from grapevine_proto.runtime.state_encoding import (
    DECODE_ERRORS,
    JOURNAL_MAGIC,
    StateChanges,
    apply_changes,
    checksum_of,
    decode_changes,
    decode_state,
    encode_changes,
    encode_state,
)
from grapevine_proto.storage.atomic_file import (
    append_private,
    atomic_write,
    is_transient_error,
    make_private_directory,
    open_private,
    remove_leftovers,
)
from grapevine_proto.storage.permissions import check_opened

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MAX_STATE_BYTES: Final = 1 << 28  # 32,768 streams with 256 gaps each take 150 MB
MIN_JOURNAL_BYTES: Final = 1 << 18  # up to this size a journal is longer than its state
MAX_IDENTITY_BYTES: Final = 4096
LOCK_OFFSET: Final = 1 << 30  # Windows locks bytes, not files: one far beyond the process ID

_NOTHING: Final = NodeState(seed=b"", epoch=0)


class StateDirectory:
    """The state directory of one node. `load` takes its lock, `close` releases it.

    Call `load` once, then `save`, and `append` unless `is_save_due`. All methods are thread-safe and wait for
    each other; a caller that stops waiting for a save does not stop it. `load_warning` describes damage that
    `load` found, for people; empty if none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.load_warning = ""
        self._lock_fd: int | None = None
        self._is_forked_copy = False
        self._mutex = threading.RLock()
        self._journal_fd: int | None = None
        self._journal_bytes = 0
        self._state_bytes = 0
        # of the state or of the last change; empty: nothing can be appended
        self._last_checksum = b""
        register_at_fork(self)

    def on_forked(self) -> None:
        """Called in a forked child: the lock stays with the parent."""
        self._mutex = threading.RLock()  # the thread that held it does not exist in this process
        lock_fd, self._lock_fd = self._lock_fd, None
        if lock_fd is not None:
            self._is_forked_copy = True
            os.close(lock_fd)  # the lock stays with the parent's descriptor
        self._close_journal()

    def load(self, unix_now: float) -> NodeState:
        """Takes the lock and returns the state of the last run with the epoch of this one, which is on disk.

        `unix_now` is the wall clock. Raises StateLockedError if another node uses the directory,
        StorageError if the disk is full or failing, and ConfigError if the directory cannot be created,
        read or written or is accessible to other users. After an error the lock is not held.
        """
        with self._mutex:
            if self._is_forked_copy or self._lock_fd is not None:
                raise StateLockedError(
                    f"state directory {self.path} is already in use by this node"
                )
            try:
                make_private_directory(self.path)
                self._check_directory()
                self._acquire_lock()
                remove_leftovers(self.path)
                saved = self._read(unix_now)
                self.save(saved)
            except OSError as error:
                self.close()
                error_type = StorageError if is_transient_error(error) else ConfigError
                where = error.filename or self.path
                raise error_type("state_dir", f"{where}: {error.strerror or error}") from None
            except BaseException:
                self.close()
                raise
            return saved

    def save(self, saved: NodeState) -> None:
        """Replaces the saved state, atomically. Raises OSError, for example on a full disk or without the
        lock; the old state remains."""
        with self._mutex:
            self._check_lock()
            self._close_journal()
            data = encode_state(saved)
            atomic_write(self.path / "state", data, mode=0o600, preserve_mode=False)
            self._last_checksum, self._state_bytes = checksum_of(data), len(data)

    @property
    def is_save_due(self) -> bool:
        """Whether the whole state is to be saved next: an `append` failed, or the journal is as long as the
        state."""
        limit = max(self._state_bytes, MIN_JOURNAL_BYTES)
        return not self._last_checksum or self._journal_bytes >= limit

    def append(self, changes: StateChanges) -> None:
        """Adds what changed since the last `save` or `append`. Raises OSError; the old state remains, and a
        `save` is due."""
        with self._mutex:
            self._check_lock()
            if not self._last_checksum:
                raise OSError(errno.EIO, "the state has to be saved as a whole first")
            previous, self._last_checksum = self._last_checksum, b""
            record, checksum = encode_changes(changes, previous)
            if self._journal_fd is None:
                self._journal_fd = open_private(
                    self.path / "journal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                )
                record = JOURNAL_MAGIC + previous + record
            try:
                append_private(
                    self._journal_fd, self.path, record, is_first=not self._journal_bytes
                )
            except BaseException:
                self._close_journal()
                raise
            self._journal_bytes += len(record)
            self._last_checksum = checksum

    def _check_lock(self) -> None:
        if self._is_forked_copy:
            raise OSError(errno.EPERM, "in use by the process that this one was forked from")
        if self._lock_fd is None:
            # A write that was queued when the node stopped: the directory may be another node's by now.
            raise OSError(errno.EPERM, "its lock is released")

    def _close_journal(self) -> None:
        """After this a `save` is due."""
        journal_fd, self._journal_fd = self._journal_fd, None
        self._journal_bytes, self._last_checksum = 0, b""
        if journal_fd is not None:
            os.close(journal_fd)

    def close(self) -> None:
        """Releases the lock. May be called repeatedly."""
        with self._mutex:
            self._close_journal()
            lock_fd, self._lock_fd = self._lock_fd, None
            if lock_fd is not None:
                os.close(lock_fd)  # releases the lock

    def _check_directory(self) -> None:
        if sys.platform == "win32":
            return
        directory_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            check_opened(self.path, os.fstat(directory_fd))
        finally:
            os.close(directory_fd)

    def _acquire_lock(self) -> None:
        lock_fd = self._lock_fd = open_private(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            _lock_file(lock_fd)
        except (BlockingIOError, PermissionError):
            holder = os.read(lock_fd, 32).decode("ascii", "replace").strip()
            holder_text = f"process {holder}" if holder.isdigit() else "another process"
            raise StateLockedError(
                f"state directory {self.path} is in use by {holder_text}; a second node needs its own"
            ) from None
        # The file remains after the lock ends: removing it would race with the next node.
        os.ftruncate(lock_fd, 0)
        os.write(lock_fd, b"%d\n" % os.getpid())

    def _read(self, unix_now: float) -> NodeState:
        had_identity = (self.path / "identity").exists()
        seed = self._load_identity()
        saved = self._load_state()
        epoch = max(saved.epoch + 1, int(unix_now))
        if epoch >= EPOCH_LIMIT:
            raise ConfigError("state_dir", f"{self.path}: the identity has no epoch left")
        is_lost = (had_identity and saved is _NOTHING) or saved.is_lost
        return replace(saved, seed=seed, epoch=epoch, is_lost=is_lost, earlier_epoch=saved.epoch)

    def _load_identity(self) -> bytes:
        path = self.path / "identity"
        try:
            seed = bytes.fromhex(_read_private(path, MAX_IDENTITY_BYTES).decode("ascii"))
            if len(seed) == SEED_BYTES:
                return seed
        except FileNotFoundError:
            return self._make_identity()
        except ValueError:
            pass  # reported below without the content
        self._quarantine(path, "not a valid identity; a new one was generated")
        return self._make_identity()

    def _make_identity(self) -> bytes:
        seed = os.urandom(SEED_BYTES)
        line = seed.hex().encode() + b"\n"
        atomic_write(self.path / "identity", line, mode=0o600, preserve_mode=False)
        return seed

    def _load_state(self) -> NodeState:
        path = self.path / "state"
        try:
            data = _read_private(path, MAX_STATE_BYTES)
            saved = decode_state(data)
        except FileNotFoundError:
            return _NOTHING
        except DECODE_ERRORS:
            self._quarantine(path, "not readable; the delivery state was reset")
            return _NOTHING
        return self._replay_journal(saved, checksum_of(data))

    def _replay_journal(self, saved: NodeState, checksum: bytes) -> NodeState:
        path = self.path / "journal"
        try:
            changes, is_damaged = decode_changes(_read_private(path, MAX_STATE_BYTES), checksum)
        except FileNotFoundError:
            return saved
        except DECODE_ERRORS:
            changes, is_damaged = [], True
        if is_damaged:
            self._quarantine(path, "not readable to its end; the latest delivery state was lost")
            saved = replace(saved, is_lost=True)
        return apply_changes(saved, changes)

    def _quarantine(self, path: Path, reason: str) -> None:
        damaged = path.with_name(path.name + ".damaged")
        path.replace(damaged)
        warning = f"{path}: {reason} (kept as {damaged.name})"
        self.load_warning = f"{self.load_warning}; {warning}" if self.load_warning else warning


def _read_private(path: Path, limit_bytes: int) -> bytes:
    """Returns the content of the private file at `path`. Raises OSError, and ValueError above the limit."""
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError("too large")
    return data


# --- locking ------------------------------------------------------------------------------------


def _lock_file(fd: int) -> None:
    """Locks `fd` until it is closed. Raises OSError if another process holds the lock."""
    if sys.platform == "win32":
        os.lseek(fd, LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
