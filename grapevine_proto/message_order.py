"""Puts received messages into the order in which their origin sent them, for readers that ask for it.

Invariants:

- Within a stream, messages leave in sequence, each once. A gap is waited for until `order_wait` after it
  opened; then it is skipped and reported. What arrives after that is dropped and counted.
- A message waits only for what the sequence tracker has not seen. What was seen and not delivered, such as
  a topic without subscription, is not waited for.
- A new epoch of an origin waits for what an earlier one keeps waiting.
- What waits is limited per stream and in all; beyond it gaps are skipped before their time.
- Direct messages do not wait: their sequence counts those to other members too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Final, TypeAlias

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.events import Message, MessagesSkipped
from grapevine_proto.ids import MessageId, PeerId, Stream
from grapevine_proto.overlay.store.sequence_tracker import SequenceTracker

WAITING_PER_STREAM_LIMIT: Final = 1024
WAITING_BYTES_PER_STREAM_LIMIT: Final = 4 * 2**20
WAITING_BYTES_LIMIT: Final = 64 * 2**20
MESSAGE_OVERHEAD_BYTES: Final = 500  # approximate memory of a message besides its payload
# A gap may end without a message for us; the streams that wait are looked at this often.
CHECK_INTERVAL_S: Final = 0.1

Ordered: TypeAlias = Message | MessagesSkipped


class _Waiting:
    """The messages of one stream that wait for earlier ones."""

    __slots__ = ("_messages", "_sequences", "abandoned", "size_bytes", "stream")

    def __init__(self, stream: Stream, abandoned: int) -> None:
        self.stream = stream
        self.abandoned = abandoned  # by the tracker, when the first message began to wait
        self.size_bytes = 0
        self._sequences: list[int] = []  # a heap
        self._messages: dict[int, Message] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages.values())

    @property
    def first(self) -> int:
        """The lowest sequence. There must be one."""
        return self._sequences[0]

    def add(self, message: Message) -> int:
        """Adds `message`; returns its size in bytes."""
        heappush(self._sequences, message.id.sequence)
        self._messages[message.id.sequence] = message
        size_bytes = _size_bytes(message)
        self.size_bytes += size_bytes
        return size_bytes

    def pop(self) -> Message:
        """Removes and returns the message with the lowest sequence."""
        message = self._messages.pop(heappop(self._sequences))
        self.size_bytes -= _size_bytes(message)
        return message


class MessageOrder:
    """Keeps messages until those before them arrived. Pass delivered messages to `add`, and call `advance` at
    `deadline`; both return what may leave.

    `tracker_of` returns the sequence tracker of a stream, None if it has none.
    """

    def __init__(
        self, config: LiveConfig, tracker_of: Callable[[Stream], SequenceTracker | None]
    ) -> None:
        self._config = config
        self._tracker_of = tracker_of
        # the sequence up to which a stream was delivered or skipped, latest used last
        self._positions: OrderedDict[Stream, int] = OrderedDict()
        self._waiting: dict[PeerId, dict[int, _Waiting]] = {}  # by origin and epoch
        self._size_bytes = 0
        self._stream_limit = WAITING_PER_STREAM_LIMIT
        self._stream_bytes_limit = WAITING_BYTES_PER_STREAM_LIMIT
        self._bytes_limit = WAITING_BYTES_LIMIT
        self.deadline = math.inf
        self.skipped = 0
        self.late = 0
        self.evicted = 0

    def add(self, messages: Iterable[Message], now: float) -> list[Ordered]:
        """Takes all messages that were delivered since the last call, because the trackers know them already;
        returns what may leave, in order."""
        ordered: list[Ordered] = []
        by_origin: dict[PeerId, list[Message]] = {}
        for message in messages:
            if message.is_direct:
                ordered.append(message)
            else:
                by_origin.setdefault(message.origin, []).append(message)
        for origin, of_origin in by_origin.items():
            of_origin.sort(key=_id_of)
            ordered += self._add_of_origin(origin, of_origin, now)
        if self._waiting:
            self.deadline = min(self.deadline, now + CHECK_INTERVAL_S)
        return ordered

    def _add_of_origin(self, origin: PeerId, messages: list[Message], now: float) -> list[Ordered]:
        """Takes messages of one origin, ascending. All are known before any that waited is released."""
        ordered: list[Ordered] = []
        for message in messages:
            stream, sequence = message.id.stream, message.id.sequence
            position = self._position(stream)
            if sequence <= position:
                self.late += 1
            elif origin not in self._waiting and self._has_all(
                self._tracker_of(stream), position + 1, sequence - 1
            ):
                self._positions[stream] = sequence
                ordered.append(message)
            else:
                self._keep(stream, message)
        if origin in self._waiting:
            ordered += self._release(origin, now)
            for stream in dict.fromkeys(message.id.stream for message in messages):
                ordered += self._enforce_limits(stream, now)
        return ordered

    def advance(self, now: float) -> list[Ordered]:
        """Skips gaps whose time is over; returns what may leave, in order."""
        if now < self.deadline:
            return []
        ordered: list[Ordered] = []
        for origin in list(self._waiting):
            ordered += self._release(origin, now)
        self.deadline = now + CHECK_INTERVAL_S if self._waiting else math.inf
        return ordered

    def release_all(self) -> list[Ordered]:
        """Skips all gaps; returns what waited, in order."""
        ordered: list[Ordered] = []
        for origin in list(self._waiting):
            ordered += self._release(origin, math.inf)
        self.deadline = math.inf
        return ordered

    def waiting_ids(self) -> list[MessageId]:
        """The messages that wait."""
        return [
            message.id
            for streams in self._waiting.values()
            for waiting in streams.values()
            for message in waiting
        ]

    def _position(self, stream: Stream) -> int:
        """The position of `stream`, which is remembered from now on."""
        position = self._positions.get(stream)
        if position is not None:
            self._positions.move_to_end(stream)
            return position
        self._positions[stream] = 0
        # the message store tracks two streams of each origin
        if len(self._positions) > 2 * self._config.current.limits.origins:
            self._positions.popitem(last=False)
            self.evicted += 1
        return 0

    def _has_all(self, tracker: SequenceTracker | None, first: int, last: int) -> bool:
        return first > last or tracker is None or tracker.contains_all(first, last)

    def _keep(self, stream: Stream, message: Message) -> None:
        tracker = self._tracker_of(stream)
        streams = self._waiting.setdefault(stream.origin, {})
        waiting = streams.get(stream.epoch)
        if waiting is None:
            abandoned = 0 if tracker is None else tracker.abandoned
            waiting = streams[stream.epoch] = _Waiting(stream, abandoned)
        self._size_bytes += waiting.add(message)

    def _is_over_limit(self, waiting: _Waiting) -> bool:
        is_too_long = len(waiting) > self._stream_limit
        return is_too_long or waiting.size_bytes > self._stream_bytes_limit

    def _enforce_limits(self, stream: Stream, now: float) -> list[Ordered]:
        """Skips gaps until what waits is within the limits again."""
        ordered: list[Ordered] = []
        while (waiting := self._find(stream)) is not None and self._is_over_limit(waiting):
            ordered += self._release(stream.origin, now, is_forced=True)
        while self._size_bytes > self._bytes_limit:
            largest = max(
                self._waiting,
                key=lambda each: sum(w.size_bytes for w in self._waiting[each].values()),
            )
            ordered += self._release(largest, now, is_forced=True)
        return ordered

    def _find(self, stream: Stream) -> _Waiting | None:
        return self._waiting.get(stream.origin, {}).get(stream.epoch)

    def _release(self, origin: PeerId, now: float, *, is_forced: bool = False) -> list[Ordered]:
        """Returns what of `origin` need not wait any more. `is_forced` skips the first gap, whatever its
        age."""
        streams = self._waiting[origin]
        ordered: list[Ordered] = []
        while streams:
            waiting = streams[min(streams)]
            ordered += self._release_stream(waiting, now, is_forced=is_forced)
            if waiting:
                break  # later epochs wait for it
            is_forced = False
            del streams[waiting.stream.epoch]
        if not streams:
            del self._waiting[origin]
        return ordered

    def _release_stream(
        self, waiting: _Waiting, now: float, *, is_forced: bool
    ) -> Iterator[Ordered]:
        stream, tracker = waiting.stream, self._tracker_of(waiting.stream)
        position = self._position(stream)
        while waiting:
            first, last = position + 1, waiting.first - 1
            gap = None if tracker is None or first > last else tracker.first_gap(first)
            if gap is not None and gap.first <= last:
                if not is_forced and now < gap.opened_at + self._config.current.order_wait:
                    break
                is_forced = False
                position = min(gap.last, last)
                yield self._skip(stream, max(gap.first, first), position)
                continue
            is_lost = tracker is None or tracker.abandoned > waiting.abandoned
            if is_lost and first <= last:
                yield self._skip(stream, first, last)
            message = waiting.pop()
            self._size_bytes -= _size_bytes(message)
            position = message.id.sequence
            yield message
        self._positions[stream] = position

    def _skip(self, stream: Stream, first: int, last: int) -> MessagesSkipped:
        self.skipped += last - first + 1
        return MessagesSkipped(stream, first, last)


def _id_of(message: Message) -> MessageId:
    return message.id


def _size_bytes(message: Message) -> int:
    return MESSAGE_OVERHEAD_BYTES + len(message.payload)
