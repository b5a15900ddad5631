"""Keeps a node's `Saved` over restarts: identity, epoch, seen marks, known peers.

What must stay true:

- One running node per directory: whoever has it holds a lock that dies with the process.
- A run's epoch is higher than every earlier one's and on disk before `load` returns, so before the
  first send. The wall clock is used for this and for nothing else.
- Whatever moment the process or the machine dies at, the next `load` finds the file as it was
  before or after a `save`, never between (`files.put_in_place`).
- A file that cannot be read costs the marks, never the node: it is moved aside, `load_warning` says so.
- The identity is a file of its own, 0600, written once. It is in no error and no `repr`.
- Nothing is read or written that another user owns or can change: the directory, and each file by its
  opened descriptor. Links are not followed.

In the directory: `lock_fd` (the holder's process id), `identity` (64 hex digits), `state`, and where
something was wrong `state.damaged` or `identity.damaged`.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgpack

from grapevine_proto.crypto.identity import SEED_BYTES
from grapevine_proto.engine import NodeState, SavedStream
from grapevine_proto.errors import ConfigError, StateLockedError, StorageError
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
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

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MAGIC: Final = b"grapevine state 1\n"  # a later layout gets another number and is not guessed at
CHECKSUM_BYTES: Final = 16
MAX_STATE_BYTES: Final = 1 << 28  # 32,768 streams of 256 holes each come to 150 MB; a guess above
MAX_IDENTITY_BYTES: Final = 4096
LOCK_OFFSET: Final = 1 << 30  # Windows locks bytes, not files: one far behind the process id

_DECODE_ERRORS = (ValueError, TypeError, RecursionError, OverflowError, MemoryError)


class StateDirectory:
    """The directory of one node. `load` takes its lock and `close` gives it back.

    Used by one driver: `load` once, then `save`. All may be called from any thread and wait for each
    other: a driver that stops waiting for a save does not stop the save. `load_warning` is what was found
    wrong by `load`, in plain words; empty: nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.load_warning = ""
        self._lock_fd: int | None = None
        self._is_forked_copy = False
        self._mutex = threading.RLock()
        register_at_fork(self)

    def on_forked(self) -> None:
        """In a child of the process that holds the directory: the lock stays the parent's."""
        self._mutex = threading.RLock()  # a thread that held it is not in this process
        lock_fd, self._lock_fd = self._lock_fd, None
        if lock_fd is not None:
            self._is_forked_copy = True
            os.close(lock_fd)  # the parent's own descriptor keeps the lock

    def load(self, unix_now: float) -> NodeState:
        """What the last run left, with the epoch of this one, which is on disk by now.

        Raises StateLockedError where another node holds the directory, StorageError where the disk is
        full or failing, and ConfigError where the directory cannot be made, read or written or is not
        this user's alone; then it is not held.
        """
        with self._mutex:
            if self._is_forked_copy or self._lock_fd is not None:
                raise StateLockedError(f"state directory {self.path} is in use by this very node")
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
        """Put `saved` in place of what is there. Raises OSError (a full disk); the old state stays."""
        with self._mutex:
            if self._is_forked_copy:
                raise OSError(errno.EPERM, "held by the process that this one was forked from")
            atomic_write(self.path / "state", encode_state(saved), mode=0o600, preserve_mode=False)

    def close(self) -> None:
        """Give the lock back. May be called more than once."""
        with self._mutex:
            lock_fd, self._lock_fd = self._lock_fd, None
            if lock_fd is not None:
                os.close(lock_fd)  # and with it the lock

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
                f"state directory {self.path} is in use by {holder_text}"
            ) from None
        # The file stays when the lock goes: removing it would race with the next node.
        os.ftruncate(lock_fd, 0)
        os.write(lock_fd, b"%d\n" % os.getpid())

    def _read(self, unix_now: float) -> NodeState:
        seed = self._load_identity()
        epoch, streams, peers = self._load_state()
        epoch = max(epoch + 1, int(unix_now))
        if epoch >= EPOCH_LIMIT:
            raise ConfigError("state_dir", f"{self.path}: its identity has no epoch left")
        return NodeState(seed=seed, epoch=epoch, streams=streams, peers=peers)

    def _load_identity(self) -> bytes:
        path = self.path / "identity"
        try:
            seed = bytes.fromhex(_read_private(path, MAX_IDENTITY_BYTES).decode("ascii"))
            if len(seed) == SEED_BYTES:
                return seed
        except FileNotFoundError:
            return self._make_identity()
        except ValueError:
            pass  # said below, without a word of what it holds
        self._quarantine(path, "not an identity; this node is a new one")
        return self._make_identity()

    def _make_identity(self) -> bytes:
        seed = os.urandom(SEED_BYTES)
        line = seed.hex().encode() + b"\n"
        atomic_write(self.path / "identity", line, mode=0o600, preserve_mode=False)
        return seed

    def _load_state(
        self,
    ) -> tuple[int, tuple[SavedStream, ...], tuple[tuple[PeerId, Address], ...]]:
        path = self.path / "state"
        try:
            return decode_state(_read_private(path, MAX_STATE_BYTES))
        except FileNotFoundError:
            return 0, (), ()
        except _DECODE_ERRORS:
            pass
        self._quarantine(path, "not readable; what this node had seen is forgotten")
        return 0, (), ()

    def _quarantine(self, path: Path, reason: str) -> None:
        damaged = path.with_name(path.name + ".damaged")
        path.replace(damaged)
        warning = f"{path}: {reason} (kept as {damaged.name})"
        self.load_warning = f"{self.load_warning}; {warning}" if self.load_warning else warning


# --- the file's bytes ---------------------------------------------------------------------------


def encode_state(saved: NodeState) -> bytes:
    """All of `saved` but the seed, with a checksum before it."""
    body = msgpack.packb(
        (
            saved.epoch,
            tuple(
                (bytes(each.origin), each.epoch, each.high, each.gaps, float(each.idle_s))
                for each in saved.streams
            ),
            tuple((bytes(peer), address.host, address.port) for peer, address in saved.peers),
        )
    )
    return MAGIC + blake2b(body, digest_size=CHECKSUM_BYTES).digest() + body


def decode_state(
    data: bytes,
) -> tuple[int, tuple[SavedStream, ...], tuple[tuple[PeerId, Address], ...]]:
    """(epoch, streams, peers) of what `encode_state` made. Raises ValueError or TypeError."""
    start = len(MAGIC) + CHECKSUM_BYTES
    body = data[start:]
    checksum = blake2b(body, digest_size=CHECKSUM_BYTES).digest()
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != checksum:
        raise ValueError("not a whole state file")
    size = len(body)
    epoch, streams, peers = msgpack.unpackb(
        body,
        use_list=False,
        strict_map_key=True,
        max_array_len=size,
        max_bin_len=PEER_ID_BYTES,
        max_str_len=64,
        max_map_len=0,
        max_ext_len=0,
    )
    return (
        _check_integer(epoch, EPOCH_LIMIT),
        tuple(_to_stream(*each) for each in streams),
        tuple((PeerId(peer), _to_address(host, port)) for peer, host, port in peers),
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
        raise ValueError("a hole ends before it begins")
    if type(idle_s) is not float or not 0 <= idle_s < math.inf:
        raise ValueError("not a duration")
    return SavedStream(
        origin=PeerId(origin),
        epoch=_check_integer(epoch, EPOCH_LIMIT),
        high=high,
        gaps=ranges,
        idle_s=idle_s,
    )


def _to_address(host: Any, port: Any) -> Address:
    address = Address.parse(join_host_port(host, _check_integer(port, 65536)))
    if address.port != port:
        raise ValueError("not a port")
    return address


def _read_private(path: Path, limit_bytes: int) -> bytes:
    """What is in `path`, which is this user's alone. Raises OSError, and ValueError above the limit."""
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError("too large")
    return data


# --- the system ---------------------------------------------------------------------------------


def _lock_file(fd: int) -> None:
    """Lock `fd` for this process until it is closed. Raises OSError where somebody else has it."""
    if sys.platform == "win32":
        os.lseek(fd, LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
