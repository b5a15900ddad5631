"""The map of one owner as this node knows it: its newest entry of each key, and a digest of all entries.

Invariants:

- A map always equals the map of its owner as of `version`: its digest is that which the newest entry states.
  So a change is applied as a whole or not at all, and a map is never partial.
- The version only rises, and only newer entries change the map. So a deleted key never returns.
- At most `MAX_KEYS` keys with `MAX_MAP_BYTES` of keys and values, and `MAX_ENTRIES` with the deleted ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.wire.entry_terms import (
    MAP_DIGEST_BYTES,
    MAX_VALUE_BYTES,
    NO_VERSION,
    EntryTerms,
    Version,
)
from grapevine_proto.wire.signed import Rumor

MAX_KEYS: Final = 256
MAX_MAP_BYTES: Final = 64 * 1024
MAX_ENTRIES: Final = 1024
ENTRY_OVERHEAD_BYTES: Final = 1024  # of memory, besides key and value

ENTRY_DOMAIN: Final = b"grapevine entry 1"
HEAD_DOMAIN: Final = b"grapevine head 1"
_MODULUS: Final = 1 << 8 * MAP_DIGEST_BYTES


def entry_hash(version: Version, terms: EntryTerms, value: bytes) -> int:
    """Returns the hash of an entry, a summand of the digest of its map."""
    flags = terms.is_deleted | terms.is_durable << 1
    parts = (*version, terms.key, terms.clock, terms.ttl_s, flags, value)
    return int.from_bytes(digest(ENTRY_DOMAIN, *parts, size=MAP_DIGEST_BYTES), "big")


def add_hashes(total: int, *, added: Iterable[int] = (), removed: Iterable[int] = ()) -> int:
    """Returns the digest `total` after entries with these hashes were added and removed."""
    return (total + sum(added) - sum(removed)) % _MODULUS


class Entry:
    """One entry: a signed rumor with one payload, and the time at which this node takes it for expired."""

    __slots__ = ("expires_at", "hash", "published_at", "rumor", "terms", "topic", "version")

    def __init__(self, rumor: Rumor, terms: EntryTerms, published_at: float, topic: str) -> None:
        self.rumor = rumor
        self.terms = terms
        self.topic = topic  # of a retained message
        self.version: Version = (rumor.epoch, rumor.first)
        self.hash = entry_hash(self.version, terms, rumor.body)
        self.published_at = published_at
        self.expires_at = published_at + terms.ttl_s if terms.ttl_s else math.inf

    @classmethod
    def from_rumor(cls, rumor: Rumor, published_at: float) -> Entry | None:
        """Returns the entry that `rumor` carries; None if it carries no valid one."""
        known = rumor.known_attributes
        terms = known.entry
        if terms is None or not rumor.has_body or len(rumor.lengths) != 1:
            return None
        if len(rumor.body) > MAX_VALUE_BYTES or (terms.is_deleted and rumor.body):
            return None
        return cls(rumor, terms, published_at, known.topic)

    @property
    def key(self) -> str:
        return self.terms.key

    @property
    def owner(self) -> PeerId:
        return self.rumor.origin

    @property
    def id(self) -> MessageId:
        """Its owner and version, as a message ID."""
        return MessageId(self.rumor.origin, *self.version)

    @property
    def is_retained(self) -> bool:
        """Whether it is a retained message, and not deleted."""
        return not self.terms.is_deleted and bool(self.topic)

    def value_at(self, now: float) -> bytes | None:
        """Returns the value; None once the entry is deleted or expired."""
        return None if self.terms.is_deleted or now >= self.expires_at else self.rumor.body

    def remaining_ttl_s(self, now: float) -> int:
        """Returns the whole seconds until the entry expires, rounded up, at least 1; 0: never."""
        return max(1, math.ceil(self.expires_at - now)) if self.terms.ttl_s else 0

    @property
    def size_bytes(self) -> int:
        """The bytes of key and value, which count towards `MAX_MAP_BYTES`; 0 once it is deleted."""
        return 0 if self.terms.is_deleted else len(self.terms.key.encode()) + len(self.rumor.body)


class Change(NamedTuple):
    """The entry of one key before and after a change; None if there is none."""

    before: Entry | None
    after: Entry | None


class OwnerMap:
    """The entries of one owner by key; deleted ones stay until their owner collects them."""

    __slots__ = (
        "bytes",
        "departed_at",
        "digest",
        "entries",
        "is_conflicted",
        "keys",
        "newest",
        "owner",
        "version",
    )

    def __init__(self, owner: PeerId) -> None:
        self.owner = owner
        self.entries: dict[str, Entry] = {}
        self.newest: Entry | None = None
        self.version: Version = NO_VERSION
        self.digest = 0
        self.keys = 0  # that are not deleted
        self.bytes = 0  # of those
        self.is_conflicted = False  # its owner signed two contents under one version
        self.departed_at = math.inf  # since when the owner is gone

    @property
    def memory_bytes(self) -> int:
        """The bytes that the map counts towards `limits.state_bytes`."""
        return self.bytes + ENTRY_OVERHEAD_BYTES * len(self.entries)

    @property
    def head(self) -> int:
        """A hash of its version and content; 0 for an empty map."""
        if self.newest is None:
            return 0
        content = self.digest.to_bytes(MAP_DIGEST_BYTES, "big")
        parts = (self.owner, *self.version, content)
        return int.from_bytes(digest(HEAD_DOMAIN, *parts, size=MAP_DIGEST_BYTES), "big")

    def digest_with(self, version: Version, terms: EntryTerms, value: bytes) -> bytes:
        """Returns the digest that the map has with this entry, for its owner to sign."""
        removed = [each.hash for each in self._collected(terms.collected, terms.key)]
        replaced = self.entries.get(terms.key)
        if replaced is not None:
            removed.append(replaced.hash)
        added = (entry_hash(version, terms, value),)
        total = add_hashes(self.digest, added=added, removed=removed)
        return total.to_bytes(MAP_DIGEST_BYTES, "big")

    def _collected(self, up_to: Version, kept_key: str) -> list[Entry]:
        """Returns the deleted entries up to `up_to` that a newer entry, under `kept_key`, removes."""
        if self.newest is None or up_to <= self.newest.terms.collected:
            return []
        return [
            each
            for each in self.entries.values()
            if each.terms.is_deleted and each.version <= up_to and each.key != kept_key
        ]

    def apply(self, entry: Entry) -> list[Change] | None:
        """Applies a newer entry. Returns the changes; None if older entries are missing: nothing changed."""
        if entry.version <= self.version:
            return None
        if self.digest_with(entry.version, entry.terms, entry.rumor.body) != entry.terms.digest:
            return None
        before = self.entries.get(entry.key)
        keys = self.keys + (not entry.terms.is_deleted)
        size_bytes = self.bytes + entry.size_bytes
        if before is not None:
            keys -= not before.terms.is_deleted
            size_bytes -= before.size_bytes
        collected = self._collected(entry.terms.collected, entry.key)
        count = len(self.entries) + (before is None) - len(collected)
        if not _fits(keys, size_bytes, count):
            return None
        for each in collected:
            del self.entries[each.key]
        self.entries.pop(entry.key, None)
        self.entries[entry.key] = entry
        self._finish(entry, keys, size_bytes)
        return [Change(before, entry), *(Change(each, None) for each in collected)]

    def merge(self, entries: Iterable[Entry]) -> list[Change] | None:
        """Applies entries of this map that another node sent: those above our version, or the whole map.
        Returns the changes; None, without a change, if the result lacks the digest that the newest states."""
        given: dict[str, Entry] = {}
        for each in entries:
            if each.key not in given or each.version > given[each.key].version:
                given[each.key] = each
        newest = max(given.values(), key=lambda each: each.version, default=None)
        if newest is None or newest.version <= self.version:
            return None
        newer = {key: each for key, each in given.items() if each.version > self.version}
        for candidate in (self.entries | newer, given):
            merged = {
                key: each
                for key, each in candidate.items()
                if not each.terms.is_deleted
                or each is newest
                or each.version > newest.terms.collected
            }
            total = add_hashes(0, added=(each.hash for each in merged.values()))
            if total.to_bytes(MAP_DIGEST_BYTES, "big") == newest.terms.digest:
                return self._replace(merged, newest)
        return None

    def _replace(self, merged: Mapping[str, Entry], newest: Entry) -> list[Change] | None:
        live = [each for each in merged.values() if not each.terms.is_deleted]
        size_bytes = sum(each.size_bytes for each in live)
        if not _fits(len(live), size_bytes, len(merged)):
            return None
        before = self.entries
        self.entries = dict(sorted(merged.items(), key=lambda item: item[1].version))
        self._finish(newest, len(live), size_bytes)
        changes = [
            Change(before.get(key), each)
            for key, each in self.entries.items()
            if before.get(key) is not each
        ]
        gone = [each for key, each in before.items() if key not in merged]
        return changes + [Change(each, None) for each in gone]

    def _finish(self, newest: Entry, keys: int, size_bytes: int) -> None:
        self.newest, self.version = newest, newest.version
        self.digest = int.from_bytes(newest.terms.digest, "big")
        self.keys, self.bytes = keys, size_bytes

    def above(self, version: Version) -> list[Entry]:
        """Returns the entries that a node with this version of the map lacks, oldest first: the whole map if
        deleted keys that the node may still have were collected since."""
        if self.newest is None:
            return []
        if version < self.newest.terms.collected:
            version = NO_VERSION
        found = [each for each in self.entries.values() if each.version > version]
        return sorted(found, key=lambda each: each.version)


def _fits(keys: int, size_bytes: int, entries: int) -> bool:
    return keys <= MAX_KEYS and size_bytes <= MAX_MAP_BYTES and entries <= MAX_ENTRIES
