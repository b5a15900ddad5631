"""The message cache: rumor bodies kept for repair, within an age and a byte limit.

Invariants:

- No rumor leaves through `copy` or `in_ranges` without a checked signature. A rumor accepted on its
  origin's own session is checked when first requested; if forged it is removed and its origin added
  to `forgers` until the owner clears that list.
- A body is kept for `message_dedup_ttl` of its age and within the byte limit, one origin within a
  quarter of it, but always at least one message. Evictions are counted.
- Of several copies the lowest age and hop count apply, so a claimed age cannot stop a rumor.
- Iteration follows insertion order, never hash order: a seed reproduces a run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final, NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Via
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.overlay.verification import Verifier
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import MIN_COUNTED_PAYLOAD_BYTES, Rumor

ENTRY_OVERHEAD_BYTES: Final = 512  # per cached rumor, besides its body
PAYLOAD_OVERHEAD_BYTES: Final = MIN_COUNTED_PAYLOAD_BYTES  # per payload
KEYS_PER_SCAN: Final = 64  # of one stream
# removed entries before a list is compacted, so that short lists never are
COMPACT_THRESHOLD: Final = 64

RumorKey = tuple[PeerId, int, int]  # origin, epoch, first sequence


def rumor_key(rumor: Rumor) -> RumorKey:
    return rumor.origin, rumor.epoch, rumor.first


class Arrival(NamedTuple):
    """How a cached message came here: `hops` and `age_ms` are those of its best copy, by the claims of peers;
    `source` is the peer that brought the first."""

    via: Via
    source: PeerId
    hops: int
    age_ms: int
    cached_at: float


class _CachedRumor:
    """A cached rumor with the metadata of its best copy."""

    __slots__ = (
        "age_ms",
        "cost_bytes",
        "holder",
        "hops",
        "is_verified",
        "received_at",
        "rumor",
        "source",
        "via",
    )

    def __init__(
        self, copy: RumorCopy, received_at: float, is_verified: bool, via: Via, source: PeerId
    ) -> None:
        self.rumor = copy.rumor
        self.via = via
        self.source = source
        payloads_bytes = PAYLOAD_OVERHEAD_BYTES * len(self.rumor.lengths)
        self.cost_bytes = len(self.rumor.body) + payloads_bytes + ENTRY_OVERHEAD_BYTES
        self.is_verified = is_verified
        self.hops = copy.hops
        self.holder = copy.holder
        self.age_ms = copy.age_ms
        self.received_at = received_at

    def age_now_ms(self, now: float) -> int:
        return self.age_ms + int((now - self.received_at) * 1000)


class _FirstSequences:
    """First sequences of one stream's cached rumors, ascending; removal is mostly from the front."""

    __slots__ = ("_firsts", "_removed_count")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._removed_count = 0  # entries before this index are removed

    def __len__(self) -> int:
        return len(self._firsts) - self._removed_count

    def __bool__(self) -> bool:  # compiled, an object with a length alone is always true
        return len(self) > 0

    @property
    def lowest(self) -> int:
        return self._firsts[self._removed_count]

    def add(self, first: int) -> None:
        if not self._firsts or first > self._firsts[-1]:
            self._firsts.append(first)
        else:
            insort(self._firsts, first, lo=self._removed_count)

    def remove(self, first: int) -> None:
        if self._firsts[self._removed_count] == first:  # the usual case
            self._removed_count += 1
            if self._removed_count > COMPACT_THRESHOLD and 2 * self._removed_count > len(
                self._firsts
            ):
                del self._firsts[: self._removed_count]
                self._removed_count = 0
        else:
            del self._firsts[bisect_left(self._firsts, first, lo=self._removed_count)]

    def overlapping(self, first: int, last: int, limit: int) -> list[int]:
        """First sequences, at most `limit`, of rumors that may overlap `first` to `last`: the
        preceding rumor may extend into the range.
        """
        start = max(
            bisect_right(self._firsts, first, lo=self._removed_count) - 1, self._removed_count
        )
        return self._firsts[
            start : min(bisect_right(self._firsts, last, lo=self._removed_count), start + limit)
        ]


class MessageCache:
    """The cached bodies of one node."""

    def __init__(self, config: NodeConfig, verifier: Verifier) -> None:
        self._verifier = verifier
        self._ttl_ms = config.message_dedup_ttl * 1000
        self._limit_bytes = config.limits.cache_bytes
        self._entries: dict[RumorKey, _CachedRumor] = {}  # in order of arrival
        self._firsts: dict[
            PeerId, dict[int, _FirstSequences]
        ] = {}  # by origin and epoch, ascending
        self._bytes_by_origin: dict[PeerId, int] = {}
        self.size_bytes = 0
        self.evicted = 0
        self.signatures_checked = 0  # signatures checked at request
        self.forgers: list[PeerId] = []

    def __len__(self) -> int:
        return len(self._entries)

    def insert(
        self,
        copy: RumorCopy,
        now: float,
        *,
        is_verified: bool,
        via: Via = Via.LOCAL,
        source: PeerId | None = None,
    ) -> None:
        """Cache `copy` unless expired, evicting older rumors. It came `via` this way from `source`; None: its
        origin."""
        rumor = copy.rumor
        key = (rumor.origin, rumor.epoch, rumor.first)
        if key in self._entries or copy.age_ms >= self._ttl_ms:
            return
        entry = self._entries[key] = _CachedRumor(
            copy, now, is_verified, via, source or rumor.origin
        )
        epochs = self._firsts.setdefault(rumor.origin, {})
        firsts = epochs.get(rumor.epoch)
        if firsts is None:
            firsts = epochs[rumor.epoch] = _FirstSequences()
            if len(epochs) > 1:
                self._firsts[rumor.origin] = dict(sorted(epochs.items()))
        firsts.add(rumor.first)
        self.size_bytes += entry.cost_bytes
        self._bytes_by_origin[rumor.origin] = (
            self._bytes_by_origin.get(rumor.origin, 0) + entry.cost_bytes
        )
        share_bytes = self._limit_bytes // 4
        while self._bytes_by_origin[rumor.origin] > share_bytes and self._has_several(rumor.origin):
            epoch, firsts = next(iter(self._firsts[rumor.origin].items()))
            self._evict((rumor.origin, epoch, firsts.lowest))
        while self.size_bytes > self._limit_bytes:
            self._evict(next(iter(self._entries)))

    def _has_several(self, origin: PeerId) -> bool:
        """Whether more than one rumor of `origin` is cached."""
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
        """Remove all rumors of one stream."""
        firsts = self._find(*stream)
        while firsts:
            self._remove((*stream, firsts.lowest))

    def tick(self, now: float) -> None:
        """Remove expired rumors."""
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.age_now_ms(now) < self._ttl_ms:
                return
            self._remove(key)

    # --- lookup ---------------------------------------------------------------------------------

    def _find(self, origin: PeerId, epoch: int) -> _FirstSequences | None:
        epochs = self._firsts.get(origin)
        return None if epochs is None else epochs.get(epoch)

    def has_message(self, message_id: MessageId) -> bool:
        """Whether a rumor with this message, and its body, is cached."""
        return self.arrival(message_id) is not None

    def arrival(self, message_id: MessageId) -> Arrival | None:
        """How the message came here; None unless it is cached with its body."""
        origin, epoch, sequence, _ = message_id
        firsts = self._find(origin, epoch)
        found = () if firsts is None else firsts.overlapping(sequence, sequence, 1)
        entry = self._entries.get((origin, epoch, found[0])) if found else None
        if entry is None or entry.rumor.last < sequence or not entry.rumor.has_body:
            return None
        return Arrival(entry.via, entry.source, entry.hops, entry.age_ms, entry.received_at)

    def contains(self, key: RumorKey) -> bool:
        """Whether this rumor is cached."""
        return key in self._entries

    def rumor(self, key: RumorKey) -> Rumor | None:
        """The rumor cached under `key`, possibly with an unchecked signature."""
        entry = self._entries.get(key)
        return None if entry is None else entry.rumor

    def copies(self, now: float) -> Iterator[RumorCopy]:
        """Every cached rumor as of now, in order of arrival, possibly with an unchecked signature."""
        for entry in self._entries.values():
            yield RumorCopy(entry.rumor, entry.hops, entry.age_now_ms(now), entry.holder)

    def received_since(self, cutoff: float) -> Iterator[Rumor]:
        """Cached rumors received after `cutoff`, latest first."""
        for entry in reversed(self._entries.values()):
            if entry.received_at <= cutoff:
                return
            yield entry.rumor

    def lowest_first(self, stream: Stream) -> int | None:
        """The lowest first sequence cached of `stream`; None if there is none."""
        firsts = self._find(*stream)
        return firsts.lowest if firsts else None

    def on_duplicate(self, copy: RumorCopy, now: float) -> None:
        """Lower the hops and age of a cached rumor to those of another copy."""
        entry = self._entries.get(rumor_key(copy.rumor))
        if entry is not None:
            entry.hops = min(entry.hops, copy.hops)
            age_at_receipt_ms = copy.age_ms - int((now - entry.received_at) * 1000)
            entry.age_ms = max(min(entry.age_ms, age_at_receipt_ms), 0)

    def copy(self, key: RumorKey, now: float) -> RumorCopy | None:
        """The rumor as it would be forwarded now, with its current age. None if it is missing,
        expired, forged, or cannot be checked now.
        """
        entry = self._entries.get(key)
        if entry is None or not (entry.is_verified or self.verify(key, now)):
            return None
        age_ms = entry.age_now_ms(now)
        if age_ms >= self._ttl_ms:
            return None
        return RumorCopy(entry.rumor, entry.hops, age_ms, entry.holder)

    def verify(self, key: RumorKey, now: float) -> bool:
        """Whether the rumor is cached and authentic; checks the signature once."""
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
        """Cached rumors that may overlap `requested`, ascending. Entries may be removed during the
        iteration.
        """
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
        """Cached rumors that overlap `requested`, ascending, with one more hop."""
        for key in self.keys_in_range(requested):
            copy = self.copy(key, now)
            if copy is not None and copy.rumor.last >= requested.first:
                yield copy._replace(hops=copy.hops + 1)
