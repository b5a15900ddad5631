"""Operations on ranges of message IDs: subtract, merge, and pack into requests and datagrams.

Invariants:

- Pure. No ID is lost or added, and splitting keeps the order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

from grapevine_proto.ids import Stream, StreamRange

RANGES_PER_REQUEST: Final = 16
MESSAGES_PER_REQUEST: Final = 128  # about what one answer holds if they are small

STREAM_ENCODED_BYTES: Final = 48  # at most, in an IHave: origin, epoch and two array heads
RANGE_ENCODED_BYTES: Final = 18
RANGES_PER_DATAGRAM_BYTES: Final = 1100  # per datagram
RANGES_PER_MESSAGE_LIMIT: Final = 64  # limit of the wire format


def subtract(ranges: list[StreamRange], subtracted: Iterable[StreamRange]) -> list[StreamRange]:
    """`ranges` without `subtracted`. Costs a sort of `subtracted` plus the result."""
    streams = {each.stream for each in ranges}
    spans: dict[Stream, list[tuple[int, int]]] = {}
    for each in subtracted:
        if each.stream in streams:
            spans.setdefault(each.stream, []).append((each.first, each.last))
    merged = {stream: _merge_spans(of_stream) for stream, of_stream in spans.items()}
    remaining: list[StreamRange] = []
    for each in ranges:
        of_stream = merged.get(each.stream)
        if of_stream is None:
            remaining.append(each)
        else:
            remaining += _subtract_spans(each, of_stream)
    return remaining


def hulls_by_stream(ranges: Iterable[StreamRange]) -> dict[Stream, StreamRange]:
    """One range per stream from the lowest to the highest sequence in `ranges`; empty ranges are
    ignored. Repeating a stream therefore adds nothing.
    """
    found: dict[Stream, StreamRange] = {}
    for each in ranges:
        if each.first <= each.last:
            found[each.stream] = hull(found.get(each.stream), each)
    return found


def hull(first: StreamRange | None, second: StreamRange) -> StreamRange:
    """The smallest range that contains both, which belong to one stream."""
    if first is None:
        return second
    return StreamRange(first.stream, min(first.first, second.first), max(first.last, second.last))


def first_batch(ranges: list[StreamRange]) -> tuple[list[StreamRange], list[StreamRange]]:
    """Split `ranges` into the first request and the rest."""
    budget = MESSAGES_PER_REQUEST
    for index, each in enumerate(ranges):
        if not budget or index == RANGES_PER_REQUEST:
            return ranges[:index], ranges[index:]
        count = each.last - each.first + 1
        if count > budget:
            cut = each.first + budget
            head = StreamRange(each.stream, each.first, cut - 1)
            rest = StreamRange(each.stream, cut, each.last)
            return [*ranges[:index], head], [rest, *ranges[index + 1 :]]
        budget -= count
    return ranges, []


def merge(ranges: Iterable[StreamRange]) -> list[StreamRange]:
    """The same IDs in disjoint ascending ranges, stream by stream in order of first appearance."""
    spans: dict[Stream, list[tuple[int, int]]] = {}
    for each in ranges:
        spans.setdefault(each.stream, []).append(each.bounds)
    return [
        StreamRange(stream, first, last)
        for stream, of_stream in spans.items()
        for first, last in _merge_spans(of_stream)
    ]


def _merge_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same sequences in ascending, disjoint spans."""
    spans.sort()
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _subtract_spans(range_: StreamRange, spans: list[tuple[int, int]]) -> list[StreamRange]:
    """`range_` without `spans`, which are ascending and disjoint."""
    remaining: list[StreamRange] = []
    first = range_.first
    for index in range(bisect_left(spans, range_.first, key=itemgetter(1)), len(spans)):
        begin, end = spans[index]
        if begin > range_.last:
            break
        if first < begin:
            remaining.append(StreamRange(range_.stream, first, begin - 1))
        first = end + 1
    if first == range_.first:
        return [range_]
    if first <= range_.last:
        remaining.append(StreamRange(range_.stream, first, range_.last))
    return remaining


def coalesce(ranges: list[StreamRange]) -> list[StreamRange]:
    """Join adjacent ranges; `ranges` are in order."""
    found: list[StreamRange] = []
    for each in ranges:
        before = found[-1] if found else None
        if before and before.stream == each.stream and before.last + 1 == each.first:
            found[-1] = StreamRange(each.stream, before.first, each.last)
        else:
            found.append(each)
    return found


def pack(
    ranges: list[StreamRange], limit_bytes: int = RANGES_PER_DATAGRAM_BYTES
) -> list[tuple[StreamRange, ...]]:
    """Split `ranges`, which are in order, into batches of up to `limit_bytes`, which fit a datagram each."""
    batches: list[list[StreamRange]] = [[]]
    size_bytes = 0
    for each in ranges:
        batch = batches[-1]
        is_same = bool(batch) and batch[-1].stream == each.stream
        cost_bytes = RANGE_ENCODED_BYTES if is_same else RANGE_ENCODED_BYTES + STREAM_ENCODED_BYTES
        if size_bytes + cost_bytes > limit_bytes or len(batch) == RANGES_PER_MESSAGE_LIMIT:
            batch = []
            batches.append(batch)
            size_bytes, cost_bytes = 0, RANGE_ENCODED_BYTES + STREAM_ENCODED_BYTES
        batch.append(each)
        size_bytes += cost_bytes
    return [tuple(batch) for batch in batches if batch]
