"""One number for what was seen of all streams that spoke lately: equal, and two nodes agree.

What must stay true:

- The digest covers streams that spoke within `message_dedup_ttl` and have been still for 2 s, so
  that what is on its way does not look like a difference.
- It is kept up to date, never recomputed: a sum of keyed hashes, not an exclusive or, in which an
  even number of equal terms would vanish.
- Work per call is bounded by what changed since the last, or by the limit that the caller names.
- Two nodes with the same highs of the same streams have the same digest, however they came by them.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import Final

from grapevine_proto.identity import digest
from grapevine_proto.ids import Stream

SETTLE_S: Final = 2.0  # longer than any push is on its way
SPARE_ENDS: Final = 1024
MODULUS: Final = 1 << 128


class RecentStreams:
    """The streams that spoke lately, and their digest."""

    def __init__(self, cluster: str, ttl_s: float) -> None:
        self._cluster = cluster
        self._ttl_s = ttl_s
        self._settling: dict[Stream, tuple[float, int, float]] = {}  # when, high, end: as due
        self._terms: dict[Stream, tuple[int, float]] = {}  # settled: its part, and when that ends
        self._ends: list[tuple[float, Stream]] = []  # a heap; an entry may be early
        self._ending: set[Stream] = set()  # those with an entry there: one each
        self._total = 0
        self._turn: dict[Stream, None] = {}  # all of these, the next to be told of first

    def changed(self, stream: Stream, high: int, said_at: float, now: float) -> None:
        """`stream` was seen up to `high`; its latest word was said at `said_at`."""
        self._turn.setdefault(stream)
        self._settling.pop(stream, None)  # it goes to the end: the latest settles last
        self._unsettle(stream)
        self._settling[stream] = (now + SETTLE_S, high, said_at + self._ttl_s)

    def forget(self, stream: Stream) -> None:
        self._turn.pop(stream, None)
        self._settling.pop(stream, None)
        self._unsettle(stream)

    def in_turn(self, limit: float) -> list[Stream]:
        """All streams, or `limit` of them and the others at later calls."""
        if len(self._turn) <= limit:
            return list(self._turn)
        chosen = list(islice(self._turn, int(limit)))
        for stream in chosen:
            del self._turn[stream]
            self._turn[stream] = None
        return chosen

    def _unsettle(self, stream: Stream) -> None:
        gone = self._terms.pop(stream, None)
        if gone is not None:
            self._total = (self._total - gone[0]) % MODULUS

    def digest(self, now: float) -> tuple[int, bytes]:
        """How many streams there are, and the sum of their hashes."""
        while self._settling:
            stream, (due_at, high, ends_at) = next(iter(self._settling.items()))
            if due_at > now:
                break
            del self._settling[stream]
            self._settle(stream, high, ends_at)
        while self._ends and self._ends[0][0] <= now:
            _, stream = heapq.heappop(self._ends)
            self._ending.discard(stream)
            settled = self._terms.get(stream)
            if settled is None:
                continue
            if settled[1] <= now:
                self.forget(stream)
            else:
                self._end_at(settled[1], stream)
        return len(self._terms), self._total.to_bytes(16, "big")

    def _settle(self, stream: Stream, high: int, ends_at: float) -> None:
        said = digest(b"grapevine digest 1", self._cluster, *stream, high, size=16)
        term = int.from_bytes(said, "big")
        self._terms[stream] = (term, ends_at)
        self._total = (self._total + term) % MODULUS
        if stream not in self._ending:
            self._end_at(ends_at, stream)

    def _end_at(self, ends_at: float, stream: Stream) -> None:
        self._ending.add(stream)
        heapq.heappush(self._ends, (ends_at, stream))
        if len(self._ends) > 2 * len(self._terms) + SPARE_ENDS:  # most of them are of the forgotten
            self._ends = [each for each in self._ends if each[1] in self._terms]
            heapq.heapify(self._ends)
            self._ending = {stream for _, stream in self._ends}
