"""Ranges of ids: what is left of them, what one question is for, what fits a datagram. Pure.

What must stay true: none is lost and none made up; what is cut keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from grapevine_proto.ids import StreamRange

RANGES_A_WANT: Final = 16
SHARE: Final = 128  # messages in one question: if they are small, about what one answer holds

STREAM_BYTES: Final = 48  # in a message of ids, at most: origin, epoch and two array heads
RANGE_BYTES: Final = 18
IDS_BYTES: Final = 1100  # of them in one datagram
IDS_AT_ONCE: Final = 64  # what the wire takes in one message


def without(ranges: list[StreamRange], taken: Iterable[StreamRange]) -> list[StreamRange]:
    """What all that is `taken` leaves of `ranges`."""
    for each in taken:
        ranges = [left for what in ranges for left in _cut(what, each)]
    return ranges


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


def _cut(what: StreamRange, taken: StreamRange) -> list[StreamRange]:
    if what.stream != taken.stream or taken.last < what.first or what.last < taken.first:
        return [what]
    before = StreamRange(what.stream, what.first, taken.first - 1)
    after = StreamRange(what.stream, taken.last + 1, what.last)
    return [each for each in (before, after) if each.first <= each.last]


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
