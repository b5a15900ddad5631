"""The cluster key: the secret shared by all members, and its file.

A node may have several while they are rotated: it dials with the first (`transport.handshakes`), answers any
(`handshake.responder`); `Transport.reconfigure` takes up new ones and ends sessions under removed ones.

Invariants:

- The secret is never printed or pickled: `repr`, `str` and errors show the fingerprint or nothing.
- Every derived key is bound to a domain, so it is worthless in another context.
- Only `ClusterKey.generate` draws randomness.
- A key file is complete from the moment it exists, has mode 0600, and is never overwritten.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final, NoReturn

from nacl import bindings

from grapevine_proto.crypto.identity import KEY_BYTES, DigestPart, digest
from grapevine_proto.errors import KeyFileError
from grapevine_proto.storage.atomic_file import (
    BLANK_BYTES,
    atomic_create,
    make_private_directory,
    quarantine_empty,
)
from grapevine_proto.storage.environment import pop_variable
from grapevine_proto.storage.permissions import read_trusted

MAX_KEY_FILE_BYTES: Final = 4096  # leaves room for whitespace around the key


class ClusterKey:
    """The 32-byte secret shared by all members of a cluster. A node does not answer peers without it.

    Displayed only as `fingerprint`. Comparison takes constant time.
    """

    __slots__ = ("_secret", "fingerprint")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"cluster key: expected {KEY_BYTES} bytes, got {len(secret)}")
        self._secret = bytes(secret)
        self.fingerprint = self.derive(b"grapevine fingerprint")[:4].hex()

    @classmethod
    def generate(cls) -> ClusterKey:
        """Returns a new random key."""
        return cls(bindings.randombytes(KEY_BYTES))

    @classmethod
    def load(cls, path: str | Path, *, forbidden_mode: int = 0o077) -> ClusterKey:
        """Loads the key in the file at `path`: 64 hex digits and a newline.

        The file must belong to this user or to root and have none of the mode bits in `forbidden_mode`,
        so that only its owner can read it. Raises KeyFileError, which names the path and the remedy
        but none of the content.
        """
        path = Path(path)
        try:
            data = read_trusted(
                path,
                limit_bytes=MAX_KEY_FILE_BYTES,
                forbidden_mode=forbidden_mode,
                has_strict_parents=False,
            )
        except FileNotFoundError:
            raise KeyFileError(f"key file {path}: no such file") from None
        except OSError as error:
            raise KeyFileError(f"key file {path}: {error.strerror}") from None
        if not data.strip(BLANK_BYTES):
            raise KeyFileError(f"key file {path}: the file is empty; remove it")
        try:
            return cls(bytes.fromhex(data.decode("ascii").strip()))
        except ValueError:
            raise KeyFileError(f"key file {path}: expected {2 * KEY_BYTES} hex digits") from None

    @classmethod
    def load_or_generate(cls, path: str | Path) -> ClusterKey:
        """Loads the key in the file at `path`, or creates the file with a new key.

        Processes that call this simultaneously all get the same key. Missing directories are
        created with mode 0700. An empty file, which a full disk or a power failure leaves behind,
        is renamed to ``NAME.damaged`` and replaced; any other file is read as by `load`. Raises
        KeyFileError.
        """
        path = Path(path)
        try:
            make_private_directory(path.parent)
            quarantine_empty(path)
            if not path.exists():
                cls.generate()._write_new(path)
        except FileExistsError:
            pass  # another process created it first
        except OSError as error:
            raise KeyFileError(f"key file {path}: {error.strerror}") from None
        return cls.load(path)

    @classmethod
    def from_env(cls, name: str = "GRAPEVINE_KEY") -> ClusterKey:
        """Takes the key, 64 hex digits, from the environment variable `name` and deletes the variable, so
        that child processes do not inherit it.

        A key file is safer: other processes of the same user can read the environment with which
        this process was started, and deleting the variable does not change that. Raises
        KeyFileError, which does not show the value.
        """
        text = pop_variable(name)
        if text is None:
            raise KeyFileError(f"environment variable {name}: not set")
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError:
            raise KeyFileError(
                f"environment variable {name}: expected {2 * KEY_BYTES} hex digits"
            ) from None

    def save(self, path: str | Path) -> None:
        """Writes the key to a new file at `path`, mode 0600, atomically. Never overwrites. Raises
        KeyFileError."""
        try:
            self._write_new(Path(path))
        except FileExistsError:
            raise KeyFileError(
                f"key file {path} exists and is not overwritten; choose another name, or remove it first"
            ) from None
        except OSError as error:
            raise KeyFileError(f"key file {path}: {error.strerror}") from None

    def _write_new(self, path: Path) -> None:
        quarantine_empty(path)
        atomic_create(path, self._secret.hex().encode() + b"\n")

    def derive(self, domain: bytes, *parts: DigestPart, size: int = 32) -> bytes:
        """Returns a key or MAC of `size` bytes derived from this cluster key, the domain and the
        parts."""
        return digest(domain, *parts, key=self._secret, size=size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"ClusterKey({self.fingerprint}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ClusterKey cannot be pickled: the pickle would contain its secret")
