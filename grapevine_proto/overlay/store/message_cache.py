"""The rumors that are held: bodies, kept for repair as long as they live and fit.

What must stay true:

- No rumor leaves, by `copy` or `in_ranges`, whose signature was not checked. One taken on its origin's
  session alone is checked when it is first asked for; if it is badly signed it is let go, and its
  origin is in `forgers` until somebody clears that.
- A body is held for `message_dedup_ttl` of its age and within the byte budget, one origin within a
  quarter of it, but one whole message always. What makes room for another is counted.
- Of several copies the least age and hops count, so that nobody stops a rumor by claiming it old.
- Iteration follows insertion, never hash order: the same seed gives the same run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import MIN_COUNTED_PAYLOAD_BYTES, Rumor

ENTRY_OVERHEAD_BYTES: Final = 512  # what holding a rumor costs beside its body
PAYLOAD_OVERHEAD_BYTES: Final = MIN_COUNTED_PAYLOAD_BYTES  # and each payload in it
KEYS_PER_SCAN: Final = 64  # of a stream's rumors, looked at in one go
COMPACT_THRESHOLD: Final = 64  # gone entries before a list is cut: rarely, and never for short ones

RumorKey = tuple[PeerId, int, int]  # origin, epoch, first sequence


def rumor_key(rumor: Rumor) -> RumorKey:
    return rumor.origin, rumor.epoch, rumor.first


class _CachedRumor:
    """A rumor in hand, and how it came."""

    __slots__ = ("age_ms", "cost_bytes", "hops", "is_verified", "received_at", "rumor")

    def __init__(self, copy: RumorCopy, received_at: float, is_verified: bool) -> None:
        self.rumor = copy.rumor
        payloads_bytes = PAYLOAD_OVERHEAD_BYTES * len(self.rumor.lengths)
        self.cost_bytes = len(self.rumor.body) + payloads_bytes + ENTRY_OVERHEAD_BYTES
        self.is_verified = is_verified
        self.hops = copy.hops
        self.age_ms = copy.age_ms
        self.received_at = received_at

    def age_now_ms(self, now: float) -> int:
        return self.age_ms + int((now - self.received_at) * 1000)


class _FirstSequences:
    """The first sequences of one stream's held rumors, ascending; the oldest go first."""

    __slots__ = ("_firsts", "_removed_count")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._removed_count = 0  # those before this index are no longer held

    def __len__(self) -> int:
        return len(self._firsts) - self._removed_count

    @property
    def lowest(self) -> int:
        return self._firsts[self._removed_count]

    def add(self, first: int) -> None:
        if not self._firsts or first > self._firsts[-1]:
            self._firsts.append(first)
        else:
            insort(self._firsts, first, lo=self._removed_count)

    def remove(self, first: int) -> None:
        if self._firsts[self._removed_count] == first:  # nearly always
            self._removed_count += 1
            if self._removed_count > COMPACT_THRESHOLD and 2 * self._removed_count > len(
                self._firsts
            ):
                del self._firsts[: self._removed_count]
                self._removed_count = 0
        else:
            del self._firsts[bisect_left(self._firsts, first, lo=self._removed_count)]

    def overlapping(self, first: int, last: int, limit: int) -> list[int]:
        """Where rumors begin that may hold any of `first` to `last`, `limit` of them at most: the one
        before may reach in."""
        start = max(
            bisect_right(self._firsts, first, lo=self._removed_count) - 1, self._removed_count
        )
        return self._firsts[
            start : min(bisect_right(self._firsts, last, lo=self._removed_count), start + limit)
        ]


class MessageCache:
    """The bodies of one node's store."""

    def __init__(self, config: NodeConfig, verifier: Verifier) -> None:
        self._verifier = verifier
        self._ttl_ms = config.message_dedup_ttl * 1000
        self._limit_bytes = config.limits.cache_bytes
        self._entries: dict[RumorKey, _CachedRumor] = {}  # by arrival
        self._firsts: dict[
            PeerId, dict[int, _FirstSequences]
        ] = {}  # by origin and epoch, ascending
        self._bytes_by_origin: dict[PeerId, int] = {}
        self.size_bytes = 0
        self.evicted = 0
        self.signatures_checked = 0  # signatures
        self.forgers: list[PeerId] = []

    def __len__(self) -> int:
        return len(self._entries)

    def insert(self, copy: RumorCopy, now: float, *, is_verified: bool) -> None:
        """Keep `copy`, if it is still young, at the cost of what is older."""
        rumor = copy.rumor
        key = rumor_key(rumor)
        if key in self._entries or copy.age_ms >= self._ttl_ms:
            return
        entry = self._entries[key] = _CachedRumor(copy, now, is_verified)
        firsts = self._find(rumor.origin, rumor.epoch)
        if firsts is None:
            epochs = self._firsts.setdefault(rumor.origin, {})
            firsts = epochs[rumor.epoch] = _FirstSequences()
            if len(epochs) > 1:
                self._firsts[rumor.origin] = dict(sorted(epochs.items()))
        firsts.add(rumor.first)
        self.size_bytes += entry.cost_bytes
        self._bytes_by_origin[rumor.origin] = (
            self._bytes_by_origin.get(rumor.origin, 0) + entry.cost_bytes
        )
        while self._exceeds_share(rumor.origin):
            epoch, firsts = next(iter(self._firsts[rumor.origin].items()))
            self._evict((rumor.origin, epoch, firsts.lowest))
        while self.size_bytes > self._limit_bytes:
            self._evict(next(iter(self._entries)))

    def _exceeds_share(self, origin: PeerId) -> bool:
        if self._bytes_by_origin[origin] <= self._limit_bytes // 4:
            return False
        epochs = self._firsts[origin]
        return len(epochs) > 1 or len(next(iter(epochs.values()))) > 1

    def _evict(self, key: RumorKey) -> None:
        self.evicted += 1
        self._remove(key)

    def _remove(self, key: RumorKey) -> None:
        origin, epoch, first = key
        entry = self._entries.pop(key)
        self.size_bytes -= entry.cost_bytes
        self._bytes_by_origin[origin] -= entry.cost_bytes
        epochs = self._firsts[origin]
        epochs[epoch].remove(first)
        if not epochs[epoch]:
            del epochs[epoch]
        if not epochs:
            del self._firsts[origin], self._bytes_by_origin[origin]

    def remove_stream(self, stream: Stream) -> None:
        """Let go of all of one stream."""
        firsts = self._find(*stream)
        while firsts:
            self._remove((*stream, firsts.lowest))

    def tick(self, now: float) -> None:
        """Let go of what is too old."""
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.age_now_ms(now) < self._ttl_ms:
                return
            self._remove(key)

    # --- what there is --------------------------------------------------------------------------

    def _find(self, origin: PeerId, epoch: int) -> _FirstSequences | None:
        epochs = self._firsts.get(origin)
        return None if epochs is None else epochs.get(epoch)

    def contains(self, key: RumorKey) -> bool:
        """Whether this rumor is held."""
        return key in self._entries

    def rumor(self, key: RumorKey) -> Rumor | None:
        """What is held under `key`; its signature may not have been checked."""
        entry = self._entries.get(key)
        return None if entry is None else entry.rumor

    def received_since(self, cutoff: float) -> Iterator[Rumor]:
        """Held rumors that came after `cutoff`, the latest first."""
        for entry in reversed(self._entries.values()):
            if entry.received_at <= cutoff:
                return
            yield entry.rumor

    def lowest_first(self, stream: Stream) -> int | None:
        """The lowest first sequence held of `stream`; None: nothing is."""
        firsts = self._find(*stream)
        return firsts.lowest if firsts else None

    def on_duplicate(self, copy: RumorCopy, now: float) -> None:
        """A duplicate came."""
        entry = self._entries.get(rumor_key(copy.rumor))
        if entry is not None:
            entry.hops = min(entry.hops, copy.hops)
            age_at_receipt_ms = copy.age_ms - int((now - entry.received_at) * 1000)
            entry.age_ms = max(min(entry.age_ms, age_at_receipt_ms), 0)

    def copy(self, key: RumorKey, now: float) -> RumorCopy | None:
        """The held rumor as it would travel on from here: its hops so far, its age now. None also
        where it is badly signed, or cannot be checked now."""
        entry = self._entries.get(key)
        if entry is None or not (entry.is_verified or self.verify(key, now)):
            return None
        age_ms = entry.age_now_ms(now)
        return RumorCopy(entry.rumor, entry.hops, age_ms) if age_ms < self._ttl_ms else None

    def verify(self, key: RumorKey, now: float) -> bool:
        """Whether the rumor is held and its signature good, which is checked once."""
        entry = self._entries.get(key)
        if entry is None or entry.is_verified:
            return entry is not None
        self.signatures_checked += 1
        error = self._verifier.check(entry.rumor, entry.rumor.origin, now)
        entry.is_verified = error is None
        if error is DropReason.BAD_SIGNATURE:
            self._remove(key)
            self.forgers.append(entry.rumor.origin)
        return entry.is_verified

    def keys_in_range(self, requested: StreamRange) -> Iterator[RumorKey]:
        """The held rumors that may have any sequence in `requested`, ascending; some may be let go
        meanwhile."""
        first = requested.first
        last_yielded = 0
        while firsts := self._find(*requested.stream):
            overlapping = firsts.overlapping(first, requested.last, KEYS_PER_SCAN)
            for each in overlapping:
                if each > last_yielded:
                    yield (*requested.stream, each)
            if len(overlapping) < KEYS_PER_SCAN:
                return
            first = last_yielded = overlapping[-1]

    def in_ranges(self, requested: StreamRange, now: float) -> Iterator[RumorCopy]:
        """Held rumors with any sequence in `requested`, ascending, each a hop further."""
        for key in self.keys_in_range(requested):
            copy = self.copy(key, now)
            if copy is not None and copy.rumor.last >= requested.first:
                yield replace(copy, hops=copy.hops + 1)
