"""Bounded queues of events, and the streams that applications read from them.

Invariants:

- A queue is limited by events and by bytes, and never waits. What is dropped is counted, and the reader
  gets `EventsLost` in its place.
- A queue that pauses is limited by bytes only: a few rumors in flight can hold thousands of small messages.
- A stream that nobody refers to any more takes no more events.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Literal, Self, TypeAlias, TypeVar, cast

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import (
    EntryChanged,
    Event,
    EventsLost,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
)

OnFull: TypeAlias = Literal["pause", "drop_oldest", "drop_newest"]
"""What happens when a reader is slower than the traffic: peers are asked to hold back rumors for this node
(`pause`), or messages are dropped, the oldest or the newest of the queue."""

# By how many of the queued messages they keep; readers that share a queue get the first that one asks for.
ON_FULL: Final[tuple[OnFull, ...]] = ("pause", "drop_newest", "drop_oldest")

PAUSE_FILL_RATIO: Final = 0.75  # of a queue's limits: leaves room for what is in flight
RESUME_FILL_RATIO: Final = 0.5
EVENT_OVERHEAD_BYTES: Final = 500  # approximate memory of an event besides its payload
# A reader that never waits yields after this many. Twice what the tasks of a node publish per turn,
# otherwise a reader at full speed would fall behind and lose events.
MAX_EVENTS_PER_TURN: Final = 256


@dataclass(frozen=True, slots=True)
class InOrder:
    """A message in its order, or a report of skipped ones, for readers that asked for order."""

    item: Message | MessagesSkipped


Queued: TypeAlias = Event | InOrder


class EventQueue:
    """Events that a reader has not read, oldest first. `on_lost` is called with the number of events that
    one call of `put` drops."""

    def __init__(
        self,
        max_events: int,
        max_bytes: int,
        on_lost: Callable[[int], None] | None = None,
        on_full: OnFull = "drop_oldest",
    ) -> None:
        self._max_bytes = max_bytes
        self._on_lost = on_lost
        self._events: deque[Queued] = deque()
        self._bytes = 0
        self._lost = 0  # oldest events dropped since the last `pop`
        self.configure(max_events, on_full)

    def configure(self, max_events: int, on_full: OnFull) -> None:
        """Applies other limits, from the next event on."""
        self.max_events = max_events
        self.on_full = on_full
        self._count_limit = math.inf if on_full == "pause" else max_events
        self._pause_events = PAUSE_FILL_RATIO * max_events
        self._pause_bytes = PAUSE_FILL_RATIO * self._max_bytes

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Queued) -> None:
        """Adds `event`, or drops it or older ones beyond the limits."""
        events, size_bytes = self._events, event_size_bytes(event)
        if self.on_full == "drop_newest" and events and self._is_over(size_bytes):
            self._drop_newest()
            return
        events.append(event)
        self._bytes += size_bytes
        if self._bytes > self._max_bytes or len(events) > self._count_limit:
            self._drop_excess()

    def pop(self) -> Queued:
        """Removes and returns the oldest event, or `EventsLost` if older ones were dropped. There must be
        one."""
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        event = self._events.popleft()
        self._bytes -= event_size_bytes(event)
        return event

    def clear(self) -> None:
        """Removes all events; they do not count as lost."""
        self._events.clear()
        self._bytes = self._lost = 0

    @property
    def is_pausing(self) -> bool:
        """Whether the queue is so full that a reader that pauses should do so: `PAUSE_FILL_RATIO`."""
        return len(self._events) >= self._pause_events or self._bytes >= self._pause_bytes

    @property
    def fill_ratio(self) -> float:
        """Used share of the limit on events or bytes, whichever is larger; 1 is full."""
        return max(len(self._events) / self.max_events, self._bytes / self._max_bytes)

    def unread(self) -> Iterator[Queued]:
        """Returns the events, oldest first."""
        return iter(self._events)

    def _is_over(self, size_bytes: int) -> bool:
        """Whether one more event of this size is too much."""
        return len(self._events) >= self._count_limit or self._bytes + size_bytes > self._max_bytes

    def _drop_excess(self) -> None:
        lost = 0
        while len(self._events) > 1 and (
            self._bytes > self._max_bytes or len(self._events) > self._count_limit
        ):
            lost += self._drop_oldest()
        if lost:
            self._report_lost(lost)

    def _drop_oldest(self) -> int:
        """Drops the oldest event; returns how many events that loses. A report of earlier losses is only
        moved."""
        event = self._events.popleft()
        self._bytes -= event_size_bytes(event)
        if isinstance(event, EventsLost):
            self._lost += event.count
            return 0
        self._lost += 1
        return 1

    def _drop_newest(self) -> None:
        """Leaves a report of the loss where the event would have been."""
        last, count = self._events[-1], 1
        if isinstance(last, EventsLost):
            self._events.pop()
            count += last.count
        else:
            self._bytes += EVENT_OVERHEAD_BYTES
        self._events.append(EventsLost(count))
        self._report_lost(1)

    def _report_lost(self, count: int) -> None:
        if self._on_lost is not None:
            self._on_lost(count)


class EventStream:
    """An async iterator over the events of a node, returned by `Node.events`. One task may read it.

    The iteration ends when the node has stopped, or with `aclose`. A reader that falls behind loses the
    oldest events and receives `EventsLost` in their place.
    """

    def __init__(
        self,
        max_events: int,
        max_bytes: int,
        on_lost: Callable[[int], None] | None = None,
        *,
        kinds: tuple[type, ...] = (),
        on_full: OnFull = "drop_oldest",
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = EventQueue(max_events, max_bytes, on_lost, on_full)
        self._kinds = frozenset(kinds)
        self._on_read = on_read
        self._is_ended = False
        self._arrived = asyncio.Event()
        self._reads_without_wait = 0

    def wants(self, kind: type) -> bool:
        """Whether events of this kind are for this stream: of the kinds given, or all of `Event`."""
        return kind in self._kinds if self._kinds else kind is not InOrder

    def put(self, event: Queued) -> None:
        """Adds `event` if this stream `wants` it. Never waits."""
        if not self._is_ended and self.wants(type(event)):
            self.queue.put(event)
            self._arrived.set()

    def end(self) -> None:
        """Ends the stream after the events that are already queued."""
        self._is_ended = True
        self._arrived.set()

    async def aclose(self) -> None:
        """Ends the stream at once: a task that reads it gets no more events, and nothing is queued for it
        any more."""
        self.queue.clear()
        self.end()
        self._on_read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self.read()
        assert not isinstance(event, InOrder)  # `put` keeps them out
        return event

    async def read(self) -> Queued:
        """Waits for the next event. Raises StopAsyncIteration at the end."""
        self._reads_without_wait += 1
        if self._reads_without_wait >= MAX_EVENTS_PER_TURN:
            self._reads_without_wait = 0
            await asyncio.sleep(0)
        while not self.queue:
            if self._is_ended:
                raise StopAsyncIteration
            self._reads_without_wait = 0
            self._arrived.clear()
            await self._arrived.wait()
        event = self.queue.pop()
        self._on_read()
        return event


ItemT = TypeVar("ItemT", bound=Message | MessagesSkipped)


class MessageStream(Generic[ItemT]):
    """An async iterator over received messages, returned by `Node.messages`. One task may read it.

    The iteration ends when the node has stopped, or with `aclose`. `lost` counts messages dropped because
    this reader was too slow. With ``ordered=True``, it yields MessagesSkipped where messages are missing.
    """

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self.lost = 0

    async def aclose(self) -> None:
        """Ends the stream at once; see `EventStream.aclose`."""
        await self._events.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        while True:
            match await self._events.read():
                case MessageReceived(message):
                    return cast(ItemT, message)
                case InOrder(item):
                    return cast(ItemT, item)
                case EventsLost(count):
                    self.lost += count


def check_on_full(on_full: str) -> None:
    """Raises InvalidArgument unless `on_full` is one of `ON_FULL`."""
    if on_full not in ON_FULL:
        raise InvalidArgument(f"on_full: must be one of {', '.join(ON_FULL)}; got {on_full!r}")


def event_size_bytes(event: Queued) -> int:
    """Returns the approximate memory of `event`."""
    if isinstance(event, (MessageReceived, MessageSent)):
        return EVENT_OVERHEAD_BYTES + len(event.message.payload)
    if isinstance(event, EntryChanged):
        return EVENT_OVERHEAD_BYTES + len(event.value or b"") + len(event.previous or b"")
    if isinstance(event, InOrder) and isinstance(event.item, Message):
        return EVENT_OVERHEAD_BYTES + len(event.item.payload)
    return EVENT_OVERHEAD_BYTES
