"""The state directory of a node: identity, epoch, delivery state and known peers across restarts.

Invariants:

- One running node per directory: it holds a lock that ends with its process.
- The epoch of a run is higher than that of every earlier run, and on disk before `load` returns and thus
  before the first datagram. The wall clock serves no other purpose.
- After a crash of the process or the machine, `load` finds the file from before or after a `save`, never a
  mixture (`storage.atomic_file`).
- An unreadable file costs the delivery state, never the node: it is renamed, and `load_warning` reports it.
- The identity is a separate file with mode 0600, written once. No error and no `repr` shows it.
- A directory or file that another user owns or can change is neither read nor written; files are checked
  by their opened descriptors, and symbolic links are not followed.

Files: `lock` (the process ID of the holder), `identity` (64 hex digits), `state`, and after damage
`state.damaged` or `identity.damaged`.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgpack

from grapevine_proto.crypto.identity import SEED_BYTES
from grapevine_proto.engine import NodeState, SavedEntry, SavedStream
from grapevine_proto.errors import ConfigError, StateLockedError, StorageError
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    SEQUENCE_LIMIT,
    Address,
    PeerId,
    join_host_port,
)
from grapevine_proto.runtime.fork_safety import register_at_fork
from grapevine_proto.storage.atomic_file import (
    atomic_write,
    is_transient_error,
    make_private_directory,
    open_private,
    remove_leftovers,
)
from grapevine_proto.storage.permissions import check_opened
from grapevine_proto.wire.entry_terms import MAX_VALUE_BYTES

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MAGIC: Final = b"grapevine state 1\n"  # another layout gets another number
CHECKSUM_BYTES: Final = 16
MAX_STATE_BYTES: Final = 1 << 28  # 32,768 streams with 256 gaps each take 150 MB
MAX_IDENTITY_BYTES: Final = 4096
LOCK_OFFSET: Final = 1 << 30  # Windows locks bytes, not files: one far beyond the process ID

_NOTHING: Final = NodeState(seed=b"", epoch=0)

_DECODE_ERRORS = (ValueError, TypeError, RecursionError, OverflowError, MemoryError)


class StateDirectory:
    """The state directory of one node. `load` takes its lock, `close` releases it.

    Call `load` once, then `save`. All methods are thread-safe and wait for each other; a caller that stops
    waiting for a save does not stop it. `load_warning` describes damage that `load` found, for people;
    empty if none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.load_warning = ""
        self._lock_fd: int | None = None
        self._is_forked_copy = False
        self._mutex = threading.RLock()
        register_at_fork(self)

    def on_forked(self) -> None:
        """Called in a forked child: the lock stays with the parent."""
        self._mutex = threading.RLock()  # the thread that held it does not exist in this process
        lock_fd, self._lock_fd = self._lock_fd, None
        if lock_fd is not None:
            self._is_forked_copy = True
            os.close(lock_fd)  # the lock stays with the parent's descriptor

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
        """Replaces the saved state, atomically. Raises OSError, for example on a full disk; the old state
        remains."""
        with self._mutex:
            if self._is_forked_copy:
                raise OSError(errno.EPERM, "in use by the process that this one was forked from")
            atomic_write(self.path / "state", encode_state(saved), mode=0o600, preserve_mode=False)

    def close(self) -> None:
        """Releases the lock. May be called repeatedly."""
        with self._mutex:
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
        is_lost = had_identity and saved is _NOTHING
        return replace(saved, seed=seed, epoch=epoch, is_lost=is_lost)

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
            return decode_state(_read_private(path, MAX_STATE_BYTES))
        except FileNotFoundError:
            return _NOTHING
        except _DECODE_ERRORS:
            pass
        self._quarantine(path, "not readable; the delivery state was reset")
        return _NOTHING

    def _quarantine(self, path: Path, reason: str) -> None:
        damaged = path.with_name(path.name + ".damaged")
        path.replace(damaged)
        warning = f"{path}: {reason} (kept as {damaged.name})"
        self.load_warning = f"{self.load_warning}; {warning}" if self.load_warning else warning


# --- encoding -----------------------------------------------------------------------------------


def encode_state(saved: NodeState) -> bytes:
    """Returns the content of the state file: a checksum, then everything in `saved` except the seed. Entries
    are left out if there are none, so that earlier versions can read the file."""
    entries = tuple((*each[:-1], float(each.age_s)) for each in saved.entries)
    body = msgpack.packb(
        (
            saved.epoch,
            tuple(
                (bytes(each.origin), each.epoch, each.high, each.gaps, float(each.idle_s))
                for each in saved.streams
            ),
            tuple((bytes(peer), address.host, address.port) for peer, address in saved.peers),
            *((entries,) if entries else ()),
        )
    )
    return MAGIC + blake2b(body, digest_size=CHECKSUM_BYTES).digest() + body


def decode_state(data: bytes) -> NodeState:
    """Returns what `encode_state` was given, without the seed; files of earlier versions have no entries.
    Raises one of `_DECODE_ERRORS`."""
    start = len(MAGIC) + CHECKSUM_BYTES
    body = data[start:]
    checksum = blake2b(body, digest_size=CHECKSUM_BYTES).digest()
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != checksum:
        raise ValueError("not a whole state file")
    size = len(body)
    epoch, streams, peers, *more = msgpack.unpackb(
        body,
        use_list=False,
        strict_map_key=True,
        max_array_len=size,
        max_bin_len=MAX_VALUE_BYTES,
        max_str_len=64,
        max_map_len=0,
        max_ext_len=0,
    )
    (entries,) = more or ((),)
    return NodeState(
        b"",
        _check_integer(epoch, EPOCH_LIMIT),
        tuple(_to_stream(*each) for each in streams),
        tuple((PeerId(peer), _to_address(host, port)) for peer, host, port in peers),
        tuple(_to_entry(*each) for each in entries),
    )


def _check_integer(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("not a whole number in range")
    return value


def _to_stream(origin: Any, epoch: Any, high: Any, gaps: Any, idle_s: Any) -> SavedStream:
    high = _check_integer(high, SEQUENCE_LIMIT)
    ranges = tuple(
        (_check_integer(first, high + 1), _check_integer(last, high + 1)) for first, last in gaps
    )
    if any(first > last for first, last in ranges):
        raise ValueError("gap ends before it starts")
    if type(idle_s) is not float or not 0 <= idle_s < math.inf:
        raise ValueError("not a duration")
    return SavedStream(
        origin=PeerId(origin),
        epoch=_check_integer(epoch, EPOCH_LIMIT),
        high=high,
        gaps=ranges,
        idle_s=idle_s,
    )


def _to_entry(
    epoch: Any, sequence: Any, value: Any, signature: Any, attributes: Any, age_s: Any
) -> SavedEntry:
    if not type(value) is type(signature) is type(attributes) is bytes:
        raise ValueError("not bytes")
    if type(age_s) is not float or not 0 <= age_s < math.inf:
        raise ValueError("not a duration")
    return SavedEntry(
        _check_integer(epoch, EPOCH_LIMIT),
        _check_integer(sequence, SEQUENCE_LIMIT),
        value,
        signature,
        attributes,
        age_s,
    )


def _to_address(host: Any, port: Any) -> Address:
    address = Address.parse(join_host_port(host, _check_integer(port, 65536)))
    if address.port != port:
        raise ValueError("not a port")
    return address


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
