"""The terms of a state entry, attribute 132 of the rumor that sets or deletes it.

Invariants:

- What is encoded is decoded to the same terms. A value that makes no sense raises ValueError, and the rumor
  is not understood.
- `digest` covers all entries of the owner as of this one. A receiver that computes another one lacks
  something, so it takes no entry for the newest by mistake.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from grapevine_proto.ids import EPOCH_LIMIT, SEQUENCE_LIMIT

MAX_KEY_BYTES: Final = 128
MAX_VALUE_BYTES: Final = 4096
MAX_CLOCK: Final = (1 << 62) - 1
MAX_TTL_S: Final = (1 << 32) - 1
MAP_DIGEST_BYTES: Final = 16
RETAIN_PREFIX: Final = "retain/"

_DELETED: Final = 1
_DURABLE: Final = 2

Version = tuple[int, int]
"""Epoch and sequence of the rumor that carries an entry; the greater version is the newer entry."""
NO_VERSION: Final[Version] = (0, 0)


def key_fault(key: object) -> str:
    """What is wrong with `key` as the key of an entry; empty if nothing is."""
    if not isinstance(key, str):
        return f"expected text, got {type(key).__name__}"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "not valid Unicode"
    if not 1 <= size <= MAX_KEY_BYTES:
        return f"expected 1 to {MAX_KEY_BYTES} bytes, got {size}"
    return ""


class EntryTerms(NamedTuple):
    """What an entry says besides its value, which is the payload of its rumor.

    `clock` orders entries of different owners under one key. `ttl_s` is the age in seconds at which it ends;
    0: never. `collected` is the version up to which its owner has forgotten deleted keys. `digest` is that of
    the owner's map once this entry is in it and the deleted keys up to `collected` are not.
    """

    key: str
    clock: int
    ttl_s: int = 0
    is_deleted: bool = False
    is_durable: bool = False
    collected: Version = NO_VERSION
    digest: bytes = bytes(MAP_DIGEST_BYTES)

    def to_value(self) -> tuple[Any, ...]:
        """Returns the value of the attribute."""
        flags = _DELETED * self.is_deleted | _DURABLE * self.is_durable
        return self.key.encode(), self.clock, self.ttl_s, flags, *self.collected, self.digest

    @classmethod
    def from_value(cls, value: Any) -> EntryTerms:
        """Returns the terms in a decoded attribute. Raises ValueError."""
        if type(value) is not tuple or len(value) != 7:
            raise ValueError("not the terms of an entry")
        key, clock, ttl_s, flags, epoch, sequence, digest = value
        if type(key) is not bytes or not 1 <= len(key) <= MAX_KEY_BYTES:
            raise ValueError("not a key")
        if type(digest) is not bytes or len(digest) != MAP_DIGEST_BYTES:
            raise ValueError("not a digest")
        flags = _number(flags, _DELETED | _DURABLE)
        return cls(
            key.decode(),
            _number(clock, MAX_CLOCK),
            _number(ttl_s, MAX_TTL_S),
            bool(flags & _DELETED),
            bool(flags & _DURABLE),
            (_number(epoch, EPOCH_LIMIT - 1), _number(sequence, SEQUENCE_LIMIT)),
            digest,
        )


def _number(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("not a number in range")
    return value
