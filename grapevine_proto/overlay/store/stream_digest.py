"""The stream digest: one checksum over all recently active streams; equal digests mean equal
stores.

Invariants:

- Covers streams that were active within `message_dedup_ttl` and have been unchanged for 2 s, so
  that messages in transit do not look like a difference.
- Maintained incrementally as a sum of keyed hashes. An exclusive or would cancel equal terms.
- Work per call is bounded by the changes since the last, or by the caller's limit.
- Two nodes with the same highest sequences of the same streams have the same digest, regardless of
  order.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import Final

from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import Stream

DIGEST_SETTLE_S: Final = 2.0  # longer than any push is in transit
STALE_EXPIRIES_ALLOWED: Final = 1024
DIGEST_MODULUS: Final = 1 << 128


class StreamDigest:
    """The recently active streams and their digest."""

    def __init__(self, cluster: str, ttl_s: float) -> None:
        self._cluster = cluster
        self._ttl_s = ttl_s
        # settles at, high, expires at; in that order
        self._settling: dict[Stream, tuple[float, int, float]] = {}
        self._terms: dict[Stream, tuple[int, float]] = {}  # settled: hash and expiry
        self._expiry_heap: list[tuple[float, Stream]] = []  # a heap; an entry may be early
        self._expiring: set[Stream] = set()  # streams with an entry in the heap, one each
        self._total = 0
        self._rotation: dict[Stream, None] = {}  # all streams, the next for a vector first

    def update(self, stream: Stream, high: int, published_at: float, now: float) -> None:
        """`stream` was seen up to `high`; its latest message was published at `published_at`."""
        self._rotation.setdefault(stream)
        self._settling.pop(stream, None)  # re-inserted at the end: the latest change settles last
        if stream in self._terms:
            self._subtract_term(stream)
        self._settling[stream] = (now + DIGEST_SETTLE_S, high, published_at + self._ttl_s)

    def remove(self, stream: Stream) -> None:
        self._rotation.pop(stream, None)
        self._settling.pop(stream, None)
        self._subtract_term(stream)

    def next_streams(self, limit: float) -> list[Stream]:
        """All streams, or the next `limit` in turn."""
        if len(self._rotation) <= limit:
            return list(self._rotation)
        chosen = list(islice(self._rotation, int(limit)))
        for stream in chosen:
            del self._rotation[stream]
            self._rotation[stream] = None
        return chosen

    def _subtract_term(self, stream: Stream) -> None:
        removed = self._terms.pop(stream, None)
        if removed is not None:
            self._total = (self._total - removed[0]) % DIGEST_MODULUS

    def digest(self, now: float) -> tuple[int, bytes]:
        """The number of settled streams and the sum of their hashes."""
        while self._settling:
            stream, (due_at, high, expires_at) = next(iter(self._settling.items()))
            if due_at > now:
                break
            del self._settling[stream]
            self._add_term(stream, high, expires_at)
        while self._expiry_heap and self._expiry_heap[0][0] <= now:
            _, stream = heapq.heappop(self._expiry_heap)
            self._expiring.discard(stream)
            settled = self._terms.get(stream)
            if settled is None:
                continue
            if settled[1] <= now:
                self.remove(stream)
            else:
                self._schedule_expiry(settled[1], stream)
        return len(self._terms), self._total.to_bytes(16, "big")

    def _add_term(self, stream: Stream, high: int, expires_at: float) -> None:
        hashed = digest(b"grapevine digest 1", self._cluster, *stream, high, size=16)
        term = int.from_bytes(hashed, "big")
        self._terms[stream] = (term, expires_at)
        self._total = (self._total + term) % DIGEST_MODULUS
        if stream not in self._expiring:
            self._schedule_expiry(expires_at, stream)

    def _schedule_expiry(self, expires_at: float, stream: Stream) -> None:
        self._expiring.add(stream)
        heapq.heappush(self._expiry_heap, (expires_at, stream))
        if (
            len(self._expiry_heap) > 2 * len(self._terms) + STALE_EXPIRIES_ALLOWED
        ):  # most entries are of removed streams
            self._expiry_heap = [each for each in self._expiry_heap if each[1] in self._terms]
            heapq.heapify(self._expiry_heap)
            self._expiring = {stream for _, stream in self._expiry_heap}
