"""Keeps a node's `Saved` over restarts: identity, epoch, seen marks, known peers.

What must stay true:

- One running node per directory: whoever has it holds a lock that dies with the process.
- A run's epoch is higher than every earlier one's and on disk before `load` returns, so before the
  first send. The wall clock is used for this and for nothing else.
- Whatever moment the process or the machine dies at, the next `load` finds the file as it was
  before or after a `save`, never between (`files.put_in_place`).
- A file that cannot be read costs the marks, never the node: it is moved aside, `problem` says so.
- The identity is a file of its own, 0600, written once. It is in no error and no `repr`.
- Nothing is read or written that another user owns or can change: the directory, and each file by its
  opened descriptor. Links are not followed.

In the directory: `lock` (the holder's process id), `identity` (64 hex digits), `state`, and where
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

from grapevine_proto.engine import Saved, SavedStream
from grapevine_proto.errors import ConfigError, StateLockedError, StorageError
from grapevine_proto.files import (
    is_passing,
    make_private_directory,
    open_private,
    put_in_place,
    sweep,
)
from grapevine_proto.forks import give_up_in_children
from grapevine_proto.identity import SEED_BYTES
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
    SEQUENCE_LIMIT,
    Address,
    PeerId,
    join_host_port,
)
from grapevine_proto.trust import check_opened

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MAGIC: Final = b"grapevine state 1\n"  # a later layout gets another number and is not guessed at
CHECK_BYTES: Final = 16
MAX_STATE_BYTES: Final = 1 << 28  # 32,768 streams of 256 holes each come to 150 MB; a guess above
MAX_IDENTITY_BYTES: Final = 4096
LOCK_BYTE: Final = 1 << 30  # Windows locks bytes, not files: one far behind the process id

_DECODE_ERRORS = (ValueError, TypeError, RecursionError, OverflowError, MemoryError)


class StateDirectory:
    """The directory of one node. `load` takes its lock and `close` gives it back.

    Used by one driver: `load` once, then `save`. All may be called from any thread and wait for each
    other: a driver that stops waiting for a save does not stop the save. `problem` is what was found
    wrong by `load`, in plain words; empty: nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problem = ""
        self._lock: int | None = None
        self._is_of_parent = False
        self._turn = threading.RLock()
        give_up_in_children(self)

    def on_forked(self) -> None:
        """In a child of the process that holds the directory: the lock stays the parent's."""
        self._turn = threading.RLock()  # a thread that held it is not in this process
        lock, self._lock = self._lock, None
        if lock is not None:
            self._is_of_parent = True
            os.close(lock)  # the parent's own descriptor keeps the lock

    def load(self, unix_now: float) -> Saved:
        """What the last run left, with the epoch of this one, which is on disk by now.

        Raises StateLockedError where another node holds the directory, StorageError where the disk is
        full or failing, and ConfigError where the directory cannot be made, read or written or is not
        this user's alone; then it is not held.
        """
        with self._turn:
            if self._is_of_parent or self._lock is not None:
                raise StateLockedError(f"state directory {self.path} is in use by this very node")
            try:
                make_private_directory(self.path)
                self._check_directory()
                self._take_lock()
                sweep(self.path)
                saved = self._read(unix_now)
                self.save(saved)
            except OSError as error:
                self.close()
                kind = StorageError if is_passing(error) else ConfigError
                where = error.filename or self.path
                raise kind("state_dir", f"{where}: {error.strerror or error}") from None
            except BaseException:
                self.close()
                raise
            return saved

    def save(self, saved: Saved) -> None:
        """Put `saved` in place of what is there. Raises OSError (a full disk); the old state stays."""
        with self._turn:
            if self._is_of_parent:
                raise OSError(errno.EPERM, "held by the process that this one was forked from")
            put_in_place(self.path / "state", encode_state(saved), mode=0o600, keeps_mode=False)

    def close(self) -> None:
        """Give the lock back. May be called more than once."""
        with self._turn:
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)  # and with it the lock

    def _check_directory(self) -> None:
        if sys.platform == "win32":
            return
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            check_opened(self.path, os.fstat(directory))
        finally:
            os.close(directory)

    def _take_lock(self) -> None:
        lock = self._lock = open_private(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            _lock_file(lock)
        except (BlockingIOError, PermissionError):
            holder = os.read(lock, 32).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise StateLockedError(f"state directory {self.path} is in use by {who}") from None
        # The file stays when the lock goes: removing it would race with the next node.
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())

    def _read(self, unix_now: float) -> Saved:
        seed = self._load_identity()
        epoch, streams, peers = self._load_state()
        epoch = max(epoch + 1, int(unix_now))
        if epoch >= EPOCH_LIMIT:
            raise ConfigError("state_dir", f"{self.path}: its identity has no epoch left")
        return Saved(seed=seed, epoch=epoch, streams=streams, peers=peers)

    def _load_identity(self) -> bytes:
        path = self.path / "identity"
        try:
            seed = bytes.fromhex(_read(path, MAX_IDENTITY_BYTES).decode("ascii"))
            if len(seed) == SEED_BYTES:
                return seed
        except FileNotFoundError:
            return self._make_identity()
        except ValueError:
            pass  # said below, without a word of what it holds
        self._move_aside(path, "not an identity; this node is a new one")
        return self._make_identity()

    def _make_identity(self) -> bytes:
        seed = os.urandom(SEED_BYTES)
        line = seed.hex().encode() + b"\n"
        put_in_place(self.path / "identity", line, mode=0o600, keeps_mode=False)
        return seed

    def _load_state(
        self,
    ) -> tuple[int, tuple[SavedStream, ...], tuple[tuple[PeerId, Address], ...]]:
        path = self.path / "state"
        try:
            return decode_state(_read(path, MAX_STATE_BYTES))
        except FileNotFoundError:
            return 0, (), ()
        except _DECODE_ERRORS:
            pass
        self._move_aside(path, "not readable; what this node had seen is forgotten")
        return 0, (), ()

    def _move_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        said = f"{path}: {why} (kept as {aside.name})"
        self.problem = f"{self.problem}; {said}" if self.problem else said


# --- the file's bytes ---------------------------------------------------------------------------


def encode_state(saved: Saved) -> bytes:
    """All of `saved` but the seed, with a checksum before it."""
    body = msgpack.packb(
        (
            saved.epoch,
            tuple(
                (bytes(each.origin), each.epoch, each.high, each.holes, float(each.idle_s))
                for each in saved.streams
            ),
            tuple((bytes(peer), address.host, address.port) for peer, address in saved.peers),
        )
    )
    return MAGIC + blake2b(body, digest_size=CHECK_BYTES).digest() + body


def decode_state(
    data: bytes,
) -> tuple[int, tuple[SavedStream, ...], tuple[tuple[PeerId, Address], ...]]:
    """(epoch, streams, peers) of what `encode_state` made. Raises ValueError or TypeError."""
    start = len(MAGIC) + CHECK_BYTES
    body = data[start:]
    check = blake2b(body, digest_size=CHECK_BYTES).digest()
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != check:
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
        _whole(epoch, EPOCH_LIMIT),
        tuple(_stream(*each) for each in streams),
        tuple((PeerId(peer), _address(host, port)) for peer, host, port in peers),
    )


def _whole(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("not a whole number in range")
    return value


def _stream(origin: Any, epoch: Any, high: Any, holes: Any, idle_s: Any) -> SavedStream:
    high = _whole(high, SEQUENCE_LIMIT)
    ranges = tuple((_whole(first, high + 1), _whole(last, high + 1)) for first, last in holes)
    if any(first > last for first, last in ranges):
        raise ValueError("a hole ends before it begins")
    if type(idle_s) is not float or not 0 <= idle_s < math.inf:
        raise ValueError("not a duration")
    return SavedStream(
        origin=PeerId(origin),
        epoch=_whole(epoch, EPOCH_LIMIT),
        high=high,
        holes=ranges,
        idle_s=idle_s,
    )


def _address(host: Any, port: Any) -> Address:
    address = Address.parse(join_host_port(host, _whole(port, 65536)))
    if address.port != port:
        raise ValueError("not a port")
    return address


def _read(path: Path, limit_bytes: int) -> bytes:
    """What is in `path`, which is this user's alone. Raises OSError, and ValueError above the limit."""
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError("too large")
    return data


# --- the system ---------------------------------------------------------------------------------


def _lock_file(file: int) -> None:
    """Lock `file` for this process until it is closed. Raises OSError where somebody else has it."""
    if sys.platform == "win32":
        os.lseek(file, LOCK_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
