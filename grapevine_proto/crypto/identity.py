"""Who a node is, and which cluster it belongs to.

What must stay true:

- A secret never prints: `repr`, `str`, errors and pickles show fingerprints or nothing.
- Every signature and every derived key is bound to a domain, so that what was made for one use
  means nothing in another.
- Nothing here draws randomness of its own but `ClusterKey.generate`, which people call by hand.

Signatures are Ed25519 (RFC 8032), hashes and MACs BLAKE2b (RFC 7693), all by libsodium and hashlib.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from pathlib import Path
from typing import Final, NoReturn

from nacl import bindings
from nacl.exceptions import CryptoError

from grapevine_proto.errors import KeyFileError
from grapevine_proto.ids import PeerId
from grapevine_proto.storage.atomic_file import (
    BLANK_BYTES,
    atomic_create,
    make_private_directory,
    quarantine_empty,
)
from grapevine_proto.storage.permissions import read_trusted

SEED_BYTES: Final = 32
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAC_BYTES: Final = 16

MAX_KEY_FILE_BYTES: Final = 4096  # of a key file, with whatever space is around the key
LARGE_PART_BYTES: Final = 1 << 16  # of a part, which is hashed where it is and copied nowhere

DigestPart = bytes | str | int


def digest(domain: bytes, *parts: DigestPart, key: bytes = b"", size: int = 32) -> bytes:
    """BLAKE2b over `domain` and `parts`, each with its length before it, so that no two lists of
    parts hash alike. Integers count as eight bytes, big-endian."""
    state = blake2b(key=key, digest_size=size)
    pieces = [len(domain).to_bytes(8, "big"), domain]
    for part in parts:
        if isinstance(part, int):
            data = part.to_bytes(8, "big")
        else:
            data = part.encode() if isinstance(part, str) else part
        pieces.append(len(data).to_bytes(8, "big"))
        pieces.append(data)
        if len(data) > LARGE_PART_BYTES:
            state.update(b"".join(pieces[:-1]))
            state.update(data)
            pieces.clear()
    state.update(b"".join(pieces))
    return state.digest()


def verify(signer: PeerId, signature: bytes, domain: bytes, *parts: DigestPart) -> bool:
    """Whether `signer` signed exactly this under this domain. Never raises; about 41 us."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + digest(domain, *parts), signer)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


class Identity:
    """A node's Ed25519 key pair. Keep the seed in the state directory and nowhere else."""

    __slots__ = ("_secret", "peer_id")

    def __init__(self, seed: bytes) -> None:
        public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.peer_id = PeerId(public)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for whoever stores them."""
        return self._secret[:SEED_BYTES]

    def sign(self, domain: bytes, *parts: DigestPart) -> bytes:
        """64 bytes that `verify` accepts for this peer id, domain and parts; about 16 us."""
        return bindings.crypto_sign(digest(domain, *parts), self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Identity({self.peer_id.short}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity is not pickled: it would carry its secret along")


class ClusterKey:
    """The 32-byte secret shared by all members of a cluster. A node does not answer peers without it.

    Displayed only as `fingerprint`. Comparison takes constant time.
    """

    __slots__ = ("_secret", "fingerprint")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a cluster key is {KEY_BYTES} bytes, not {len(secret)}")
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
            raise KeyFileError(f"key file {path}: there is no such file") from None
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
            pass  # another process was faster
        except OSError as error:
            raise KeyFileError(f"key file {path}: {error.strerror}") from None
        return cls.load(path)

    def save(self, path: str | Path) -> None:
        """Writes the key to a new file at `path`, mode 0600, atomically. Never overwrites. Raises
        KeyFileError."""
        try:
            self._write_new(Path(path))
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
        raise TypeError("a cluster key is not pickled: it would carry its secret along")
