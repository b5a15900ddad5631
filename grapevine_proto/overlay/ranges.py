"""Ranges of ids: what is left of them, what one question is for, what fits a datagram. Pure.

What must stay true: none is lost and none made up; what is cut keeps its order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

from grapevine_proto.ids import Stream, StreamRange

RANGES_A_WANT: Final = 16
SHARE: Final = 128  # messages in one question: if they are small, about what one answer holds

STREAM_BYTES: Final = 48  # in a message of ids, at most: origin, epoch and two array heads
RANGE_BYTES: Final = 18
IDS_BYTES: Final = 1100  # of them in one datagram
IDS_AT_ONCE: Final = 64  # what the wire takes in one message


def without(ranges: list[StreamRange], taken: Iterable[StreamRange]) -> list[StreamRange]:
    """What all that is `taken` leaves of `ranges`. Costs a sort of `taken`, and what is left."""
    streams = {each.stream for each in ranges}
    spans: dict[Stream, list[tuple[int, int]]] = {}
    for each in taken:
        if each.stream in streams:
            spans.setdefault(each.stream, []).append((each.first, each.last))
    merged = {stream: _merged(of_stream) for stream, of_stream in spans.items()}
    left: list[StreamRange] = []
    for each in ranges:
        of_stream = merged.get(each.stream)
        if of_stream is None:
            left.append(each)
        else:
            left += _cut(each, of_stream)
    return left


def hulls(ranges: Iterable[StreamRange]) -> dict[Stream, StreamRange]:
    """One range for each stream, from the lowest to the highest that `ranges` name of it; empty ones
    name nothing. Who tells of a stream many times says no more than that."""
    found: dict[Stream, StreamRange] = {}
    for each in ranges:
        if each.first <= each.last:
            found[each.stream] = hull(found.get(each.stream), each)
    return found


def hull(one: StreamRange | None, other: StreamRange) -> StreamRange:
    """The range that holds both, which are of one stream."""
    if one is None:
        return other
    return StreamRange(one.stream, min(one.first, other.first), max(one.last, other.last))


def share_of(ranges: list[StreamRange]) -> tuple[list[StreamRange], list[StreamRange]]:
    """As much of `ranges` as one question is for, from the first on, and the rest."""
    room = SHARE
    for index, each in enumerate(ranges):
        if not room or index == RANGES_A_WANT:
            return ranges[:index], ranges[index:]
        count = each.last - each.first + 1
        if count > room:
            cut = each.first + room
            share = StreamRange(each.stream, each.first, cut - 1)
            rest = StreamRange(each.stream, cut, each.last)
            return [*ranges[:index], share], [rest, *ranges[index + 1 :]]
        room -= count
    return ranges, []


def merged(ranges: Iterable[StreamRange]) -> list[StreamRange]:
    """The same ids in ranges that do not overlap: stream by stream in the order in which they are first
    named, ascending."""
    spans: dict[Stream, list[tuple[int, int]]] = {}
    for each in ranges:
        spans.setdefault(each.stream, []).append(each.ends)
    return [
        StreamRange(stream, first, last)
        for stream, of_stream in spans.items()
        for first, last in _merged(of_stream)
    ]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same sequences in spans that are ascending and apart."""
    spans.sort()
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _cut(what: StreamRange, spans: list[tuple[int, int]]) -> list[StreamRange]:
    """What `spans`, which are ascending and apart, leave of `what`."""
    left: list[StreamRange] = []
    first = what.first
    for index in range(bisect_left(spans, what.first, key=itemgetter(1)), len(spans)):
        begin, end = spans[index]
        if begin > what.last:
            break
        if first < begin:
            left.append(StreamRange(what.stream, first, begin - 1))
        first = end + 1
    if first == what.first:
        return [what]
    if first <= what.last:
        left.append(StreamRange(what.stream, first, what.last))
    return left


def joined(ranges: list[StreamRange]) -> list[StreamRange]:
    """`ranges`, which are in order, with one where another begins as it ends."""
    found: list[StreamRange] = []
    for each in ranges:
        before = found[-1] if found else None
        if before and before.stream == each.stream and before.last + 1 == each.first:
            found[-1] = StreamRange(each.stream, before.first, each.last)
        else:
            found.append(each)
    return found


def in_datagrams(ranges: list[StreamRange]) -> list[tuple[StreamRange, ...]]:
    """`ranges`, which are in order, cut into what fits a datagram each."""
    batches: list[list[StreamRange]] = [[]]
    size_bytes = 0
    for each in ranges:
        batch = batches[-1]
        is_same = bool(batch) and batch[-1].stream == each.stream
        cost_bytes = RANGE_BYTES if is_same else RANGE_BYTES + STREAM_BYTES
        if size_bytes + cost_bytes > IDS_BYTES or len(batch) == IDS_AT_ONCE:
            batch = []
            batches.append(batch)
            size_bytes, cost_bytes = 0, RANGE_BYTES + STREAM_BYTES
        batch.append(each)
        size_bytes += cost_bytes
    return [tuple(batch) for batch in batches if batch]
