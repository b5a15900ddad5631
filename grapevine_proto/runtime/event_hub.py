"""Delivers a node's events to its readers, each at its own pace.

Invariants:

- A slow reader never stalls the node: each has its own queue, limited by events and by bytes. Beyond the
  limit the oldest events are dropped, counted and logged, and the reader gets `EventsLost` first.
- Message handlers that must not lose messages cause a pause before their queue is full (`on_pause`).
- Readers and handlers get events in the order in which they occurred.
- Nothing that a listener or handler raises, `CancelledError` and other `BaseException`s included, ends a
  task of the node: it is logged and counted, and the next event goes to the same callback.
- A handler that returns no awaitable is called at once, before anything else happens.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Literal, NoReturn, Self, TypeAlias

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import Event, EventsLost, Message, MessageReceived, MessageSent

MessageListener = Callable[[Message], Awaitable[object] | object]
EventListener = Callable[[Event], object]
OnFull: TypeAlias = Literal["pause", "drop_oldest"]
"""What happens when message handlers are slower than the traffic: peers are asked to hold back rumors for
this node (`pause`), or the oldest queued messages are dropped."""

logger = logging.getLogger("grapevine")

EVENT_OVERHEAD_BYTES: Final = 500  # approximate memory of an event besides its payload
# A reader that never waits yields after this many. Twice what the tasks of a node publish per turn,
# otherwise a
# reader at full speed would fall behind and lose events.
MAX_EVENTS_PER_TURN: Final = 256
PAUSE_FILL_RATIO: Final = 0.75  # of the queue's limits: leaves room for what is in flight
RESUME_FILL_RATIO: Final = 0.5
LOSS_WARNING_INTERVAL_S: Final = 60.0  # between warnings about lost events


class EventStream:
    """An async iterator over the events of a node, returned by `Node.events`. One task may read it.

    The iteration ends when the node has stopped. A reader that falls behind loses the oldest events
    and receives `EventsLost` in their place.
    """

    def __init__(
        self, max_events: int, max_bytes: int, on_lost: Callable[[int], None] | None = None
    ) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._on_lost = on_lost
        self._is_count_limited = True
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._lost = 0
        self._is_ended = False
        self._arrived = asyncio.Event()
        self._reads_without_wait = 0

    def put(self, event: Event) -> None:
        """Adds `event`. Beyond the limits the oldest events are dropped. Never waits."""
        if self._is_ended:
            return
        self._events.append(event)
        self._bytes += event_size_bytes(event)
        lost = 0
        while (self._is_count_limited and len(self._events) > self._max_events) or (
            self._bytes > self._max_bytes and len(self._events) > 1
        ):
            self._bytes -= event_size_bytes(self._events.popleft())
            lost += 1
        if lost:
            self._lost += lost
            if self._on_lost is not None:
                self._on_lost(lost)
        self._arrived.set()

    @property
    def is_empty(self) -> bool:
        """Whether there is no event to read."""
        return not self._events

    @property
    def fill_ratio(self) -> float:
        """Used share of the limit on events or bytes, whichever is larger; 1 is full."""
        return max(len(self._events) / self._max_events, self._bytes / self._max_bytes)

    def unread(self) -> Iterator[Event]:
        """Returns the unread events, oldest first."""
        return iter(self._events)

    def limit_by_bytes_only(self) -> None:
        """Limits the queue by bytes only (`EVENT_OVERHEAD_BYTES` and the payload per event) from now on: a
        few rumors can hold thousands of small messages."""
        self._is_count_limited = False

    def end(self) -> None:
        """Ends the stream after the events that are already queued."""
        self._is_ended = True
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._reads_without_wait += 1
        if self._reads_without_wait >= MAX_EVENTS_PER_TURN:
            self._reads_without_wait = 0
            await asyncio.sleep(0)
        while not self._events:
            if self._is_ended:
                raise StopAsyncIteration
            self._reads_without_wait = 0
            self._arrived.clear()
            await self._arrived.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        event = self._events.popleft()
        self._bytes -= event_size_bytes(event)
        return event


class EventHub:
    """Distributes one node's events to listeners and message handlers, which are called at once, and to
    streams.

    While a task awaits the result of a handler, further messages are queued for the handlers; the task
    ends with the queue. `on_pause(True)` is called when that queue is three quarters full,
    `on_pause(False)` once it is half empty. `lost` counts events dropped unread, `failures` exceptions of
    listeners and handlers, `handled` messages that all handlers have finished.
    """

    def __init__(
        self,
        max_events: int,
        max_bytes: int,
        on_pause: Callable[[bool], None] = lambda is_paused: None,
    ) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._on_pause = on_pause
        self._listeners: list[EventListener] = []
        self._handlers: list[MessageListener] = []
        self._streams: list[
            weakref.ref[EventStream]
        ] = []  # weak: a stream that is no longer used disappears
        self._messages = self._new_stream()  # messages queued for the handlers
        self._handling: Message | None = None  # the message whose handlers are running
        self._handler_task: asyncio.Task[None] | None = None  # the task that runs them
        self._has_pausing_handler = False  # at least one handler must not lose messages
        self._is_paused = False
        self._is_ended = False
        self._next_warning_at = -float("inf")
        self._lost_unlogged = 0
        self.lost = 0
        self.failures = 0
        self.handled = 0

    def add_listener(self, listener: EventListener) -> None:
        """Calls `listener` with every event from now on, within `publish`."""
        self._listeners.append(listener)

    def add_handler(self, handler: MessageListener, on_full: OnFull = "pause") -> None:
        """Calls `handler` with every message from now on; an awaitable result is awaited before the next
        message. All handlers share one queue, so a pause for one is a pause for all. Raises
        InvalidArgument."""
        if on_full not in ("pause", "drop_oldest"):
            raise InvalidArgument(f"on_full: must be one of pause, drop_oldest; got {on_full!r}")
        self._handlers.append(handler)
        if on_full == "pause":
            self._has_pausing_handler = True
            self._messages.limit_by_bytes_only()

    def stream(self) -> EventStream:
        """Returns a stream of every event from now on."""
        stream = self._new_stream()
        if self._is_ended:
            stream.end()
        self._streams.append(weakref.ref(stream, self._streams.remove))
        return stream

    def publish(self, event: Event) -> None:
        """Passes `event` to all readers. Never raises and never waits."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except BaseException as error:  # noqa: BLE001  a bug of the application
                self._on_callback_error(error, "an event listener", type(event).__name__)
        for reference in tuple(self._streams):  # one may disappear meanwhile
            stream = reference()
            if stream is not None:
                stream.put(event)
        if self._handlers and isinstance(event, MessageReceived):
            if self._handler_task is not None:
                self._messages.put(event)
                if (
                    self._has_pausing_handler
                    and not self._is_paused
                    and self._messages.fill_ratio >= PAUSE_FILL_RATIO
                ):
                    self._set_paused(True)
            else:
                self._call_handlers(event.message)

    def is_called_by(self, task: asyncio.Task[object] | None) -> bool:
        """Whether `task` runs the handlers, so that it must not wait for them."""
        return task is not None and task is self._handler_task

    def unhandled(self, *, exclude_current: bool = False) -> list[Message]:
        """Returns the messages that some handler has not finished, oldest first. `exclude_current` omits
        the one that is being handled now."""
        waiting = [
            event.message for event in self._messages.unread() if isinstance(event, MessageReceived)
        ]
        current = [] if exclude_current or self._handling is None else [self._handling]
        return current + waiting

    async def finish_handlers(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` seconds until the handlers have finished their queue, then cancels them.
        `unhandled` returns what they did not finish."""
        dispatcher = self._handler_task
        if dispatcher is not None:
            await asyncio.wait([dispatcher], timeout=timeout_s)
            dispatcher.cancel()
            await asyncio.gather(dispatcher, return_exceptions=True)

    def end_streams(self) -> None:
        """Ends all streams after the events that are already queued."""
        self._is_ended = True
        for stream in (*(reference() for reference in self._streams), self._messages):
            if stream is not None:
                stream.end()

    async def close(self, timeout_s: float | None) -> None:
        """Calls `end_streams`, then `finish_handlers`, unless `timeout_s` is None: a handler itself is the
        caller."""
        self.end_streams()
        if timeout_s is not None:
            await self.finish_handlers(timeout_s)

    def _new_stream(self) -> EventStream:
        return EventStream(self._max_events, self._max_bytes, self._count_lost)

    def _count_lost(self, count: int) -> None:
        self.lost += count
        self._lost_unlogged += count
        now = time.monotonic()
        if now >= self._next_warning_at:
            self._next_warning_at = now + LOSS_WARNING_INTERVAL_S
            logger.warning(
                "a handler or reader of events is too slow: %d events were dropped (%d in total)",
                self._lost_unlogged,
                self.lost,
            )
            self._lost_unlogged = 0

    def _on_callback_error(self, error: BaseException, callback_kind: str, subject: str) -> None:
        """Counts and logs the `error` of a callback. KeyboardInterrupt and SystemExit are raised again in
        the loop."""
        self.failures += 1
        logger.error("%s failed on %s", callback_kind, subject, exc_info=error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            asyncio.get_running_loop().call_soon(_reraise, error)

    def _set_paused(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        self._on_pause(is_paused)

    def _call_handlers(self, message: Message) -> None:
        """Calls every handler with `message`. From the first awaitable result on, a task does it."""
        handlers = tuple(self._handlers)
        for number, handler in enumerate(handlers, 1):
            answer = self._call_handler(handler, message)
            if answer is not None:
                self._handling = message
                work = self._run_handlers(answer, handlers[number:], message)
                self._handler_task = asyncio.create_task(work, name="grapevine handlers")
                return

    def _call_handler(self, handler: MessageListener, message: Message) -> Awaitable[object] | None:
        """Calls `handler`. Returns its result if it is awaitable, else None."""
        try:
            answer = handler(message)
            if answer is not None and inspect.isawaitable(answer):
                return answer
        except BaseException as error:  # noqa: BLE001  a bug of the application
            self._on_callback_error(error, "a message handler", message.id.short)
        return None

    async def _run_handlers(
        self, answer: Awaitable[object], rest: tuple[MessageListener, ...], message: Message
    ) -> None:
        """Awaits `answer`, calls the `rest` of the handlers with the same message, then all handlers with
        the queue."""
        await self._await_answer(answer, message)
        await self._await_all(rest, message)
        self._on_handled()
        while not self._messages.is_empty:
            event = await anext(self._messages)
            if isinstance(event, EventsLost):
                self.publish(event)
            elif isinstance(event, MessageReceived):
                self._handling = event.message
                await self._await_all(tuple(self._handlers), event.message)
                self._on_handled()
        self._handler_task = None

    def _on_handled(self) -> None:
        """All handlers have finished the current message."""
        self._handling = None
        self.handled += 1
        if self._is_paused and self._messages.fill_ratio <= RESUME_FILL_RATIO:
            self._set_paused(False)

    async def _await_all(self, handlers: tuple[MessageListener, ...], message: Message) -> None:
        for handler in handlers:
            answer = self._call_handler(handler, message)
            if answer is not None:
                await self._await_answer(answer, message)

    async def _await_answer(self, answer: Awaitable[object], message: Message) -> None:
        try:
            await answer
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # this task was cancelled, not the handler
            self._on_callback_error(error, "a message handler", message.id.short)


def _reraise(error: BaseException) -> NoReturn:
    raise error


def event_size_bytes(event: Event) -> int:
    """Returns the approximate memory of `event`."""
    if isinstance(event, (MessageReceived, MessageSent)):
        return EVENT_OVERHEAD_BYTES + len(event.message.payload)
    return EVENT_OVERHEAD_BYTES
