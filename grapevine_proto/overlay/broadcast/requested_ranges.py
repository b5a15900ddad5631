"""Requested ranges: IDs that were requested and may still arrive, by stream.

Invariants:

- The ranges of one stream are ascending and disjoint, so a lookup is logarithmic.
- At most `RANGES_PER_STREAM_LIMIT` ranges of a stream and `REQUESTED_STREAMS_LIMIT` streams. Beyond
  that a range is not tracked and may be requested twice.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from operator import itemgetter
from typing import Final, NamedTuple

from grapevine_proto.ids import Stream, StreamRange

RANGES_PER_STREAM_LIMIT: Final = 1024  # 700 rumors a second of one origin, for half a second
REQUESTED_STREAMS_LIMIT: Final = 1024

_LAST_OF_SPAN: Final = itemgetter(1)


class _Span(NamedTuple):
    first: int
    last: int
    expires_at: float


class RequestedRanges:
    """Tracks the requested ranges. `untracked` counts those beyond a limit."""

    def __init__(self) -> None:
        self._spans: dict[Stream, list[_Span]] = {}
        self.untracked = 0

    def __len__(self) -> int:
        return sum(map(len, self._spans.values()))

    def clear(self) -> None:
        self._spans.clear()

    def add(self, ranges: list[StreamRange], expires_at: float, now: float) -> None:
        """Track `ranges`, which `unrequested` returned, until `expires_at`."""
        for each in ranges:
            spans = self._spans.get(each.stream)
            if spans is None:
                if len(self._spans) >= REQUESTED_STREAMS_LIMIT:
                    self._remove_expired(now)
                if len(self._spans) >= REQUESTED_STREAMS_LIMIT:
                    self.untracked += 1
                    continue
                spans = self._spans[each.stream] = []
            if len(spans) >= RANGES_PER_STREAM_LIMIT:
                spans[:] = [span for span in spans if span.expires_at > now]
            if len(spans) >= RANGES_PER_STREAM_LIMIT:
                self.untracked += 1
            else:
                insort(spans, _Span(each.first, each.last, expires_at))

    def unrequested(
        self, missing: list[StreamRange], now: float
    ) -> tuple[list[StreamRange], float]:
        """The part of `missing`, which is ascending and of one stream, that is not requested, and
        when the first request that covers the rest expires.
        """
        spans = self._spans.get(missing[0].stream) if missing else None
        if not spans:
            return missing, math.inf
        unrequested: list[StreamRange] = []
        expires_at = math.inf
        for each in missing:
            index = bisect_left(spans, each.first, key=_LAST_OF_SPAN)
            first = each.first
            while index < len(spans) and spans[index].first <= each.last:
                span = spans[index]
                if span.expires_at <= now:
                    del spans[index]
                    continue
                expires_at = min(expires_at, span.expires_at)
                if first < span.first:
                    unrequested.append(StreamRange(each.stream, first, span.first - 1))
                first = span.last + 1
                index += 1
            if first == each.first:
                unrequested.append(each)
            elif first <= each.last:
                unrequested.append(StreamRange(each.stream, first, each.last))
        return unrequested, expires_at

    def _remove_expired(self, now: float) -> None:
        """Forget streams whose requests have all expired."""
        for stream, spans in list(self._spans.items()):
            if not any(span.expires_at > now for span in spans):
                del self._spans[stream]
