"""Events on their way from a node to whoever reads them, at the reader's own pace.

What must stay true:

- A slow reader never slows the node: each has a queue of its own, bounded by number and by bytes of
  payload; beyond that the oldest events go, and the reader is told how many before the next one.
- Events are read, and handlers called, in the order in which things happened; a handler that fails
  is named in the log and called again with the next.
- Nothing stands between a message and a handler that does not make us wait: it is called at once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self

from grapevine_proto.events import Event, EventsLost, Message, MessageReceived, MessageSent

MessageListener = Callable[[Message], Awaitable[object] | object]
EventListener = Callable[[Event], object]

logger = logging.getLogger("grapevine")

EVENT_BYTES: Final = 500  # about what an event weighs besides its payload
# Then a reader that never waits lets the loop do something else. Twice what the two tasks of a node
# tell in a turn, or whoever reads as quickly as it can would fall behind and lose events.
EVENTS_PER_TURN: Final = 256


class EventStream:
    """An async iterator over events, ended by `end`. Made by `Node.events`; one task reads it.

    `on_lost` is called with each number of events that went unread.
    """

    def __init__(
        self, max_events: int, max_bytes: int, on_lost: Callable[[int], None] | None = None
    ) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._on_lost = on_lost
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._lost = 0
        self._is_ended = False
        self._arrived = asyncio.Event()
        self._read_at_once = 0

    def put(self, event: Event) -> None:
        """Add `event`; where there is no room the oldest go. Never waits."""
        if self._is_ended:
            return
        self._events.append(event)
        self._bytes += size_bytes(event)
        lost = 0
        while len(self._events) > self._max_events or (
            self._bytes > self._max_bytes and len(self._events) > 1
        ):
            self._bytes -= size_bytes(self._events.popleft())
            lost += 1
        if lost:
            self._lost += lost
            if self._on_lost is not None:
                self._on_lost(lost)
        self._arrived.set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to be read now."""
        return not self._events

    def end(self) -> None:
        """No more will come; what is here can still be read."""
        self._is_ended = True
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._read_at_once += 1
        if self._read_at_once >= EVENTS_PER_TURN:
            self._read_at_once = 0
            await asyncio.sleep(0)
        while not self._events:
            if self._is_ended:
                raise StopAsyncIteration
            self._read_at_once = 0
            self._arrived.clear()
            await self._arrived.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(lost)
        event = self._events.popleft()
        self._bytes -= size_bytes(event)
        return event


class EventHub:
    """Everybody who reads one node's events: listeners and message handlers, called as things happen,
    and streams. While a handler's answer is awaited, which a task does that ends with the waiting,
    messages wait for the handlers. `lost` counts what went unread.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._listeners: list[EventListener] = []
        self._handlers: list[MessageListener] = []
        self._streams: list[weakref.ref[EventStream]] = []  # a stream is gone when nobody reads it
        self._messages = self._new_stream()  # not handled yet, while an answer is awaited
        self._dispatcher: asyncio.Task[None] | None = None  # which awaits it
        self._is_ended = False
        self.lost = 0

    def listen(self, listener: EventListener) -> None:
        """Call `listener` with every event from now on, within `publish`."""
        self._listeners.append(listener)

    def handle(self, handler: MessageListener) -> None:
        """Call `handler` with every message from now on; an awaitable answer is awaited first."""
        self._handlers.append(handler)

    def stream(self) -> EventStream:
        """Every event from now on."""
        stream = self._new_stream()
        if self._is_ended:
            stream.end()
        self._streams.append(weakref.ref(stream, self._streams.remove))
        return stream

    def publish(self, event: Event) -> None:
        """Tell everybody. Never raises and never waits."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # the application's fault, and its own to mend
                logger.exception("an event listener failed on %s", type(event).__name__)
        for reference in tuple(self._streams):  # one may go meanwhile
            stream = reference()
            if stream is not None:
                stream.put(event)
        if self._handlers and isinstance(event, MessageReceived):
            if self._dispatcher is not None:
                self._messages.put(event)
            else:
                self._call_all(event.message)

    def is_called_by(self, task: asyncio.Task[object] | None) -> bool:
        """Whether `task` is the one that awaits handlers, so that waiting for it would be for ever."""
        return task is not None and task is self._dispatcher

    async def close(self, patience_s: float | None) -> None:
        """End all streams; message handlers get so long to finish, and are then cancelled. None: it
        is one of them that asks, and it ends by itself."""
        self._is_ended = True
        for stream in (*(reference() for reference in self._streams), self._messages):
            if stream is not None:
                stream.end()
        dispatcher = self._dispatcher
        if dispatcher is not None and patience_s is not None:
            await asyncio.wait([dispatcher], timeout=patience_s)
            dispatcher.cancel()
            await asyncio.gather(dispatcher, return_exceptions=True)

    def _new_stream(self) -> EventStream:
        return EventStream(self._max_events, self._max_bytes, self._count_lost)

    def _count_lost(self, count: int) -> None:
        self.lost += count

    def _call_all(self, message: Message) -> None:
        """Have every handler take `message`, from the first that wants to be awaited on in a task."""
        handlers = tuple(self._handlers)
        for number, handler in enumerate(handlers, 1):
            answer = self._call(handler, message)
            if answer is not None:
                work = self._dispatch(answer, handlers[number:], message)
                self._dispatcher = asyncio.create_task(work, name="grapevine handlers")
                return

    def _call(self, handler: MessageListener, message: Message) -> Awaitable[object] | None:
        """What is to be awaited of `handler`, if anything is."""
        try:
            answer = handler(message)
            if answer is not None and inspect.isawaitable(answer):
                return answer
        except (Exception, asyncio.CancelledError):  # the application's fault, and its own to mend
            logger.exception("a message handler failed on %s", message.id.short)
        return None

    async def _dispatch(
        self, answer: Awaitable[object], rest: tuple[MessageListener, ...], message: Message
    ) -> None:
        """Await `answer`, have the `rest` take the same message, and all handlers what came meanwhile."""
        await self._finish(answer, message)
        await self._await_all(rest, message)
        while not self._messages.is_empty:
            event = await anext(self._messages)
            if isinstance(event, EventsLost):
                self.publish(event)
            elif isinstance(event, MessageReceived):
                await self._await_all(tuple(self._handlers), event.message)
        self._dispatcher = None

    async def _await_all(self, handlers: tuple[MessageListener, ...], message: Message) -> None:
        for handler in handlers:
            answer = self._call(handler, message)
            if answer is not None:
                await self._finish(answer, message)

    async def _finish(self, answer: Awaitable[object], message: Message) -> None:
        try:
            await answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # what it waited for was cancelled, and not we
            logger.exception("a message handler failed on %s", message.id.short)
        except Exception:  # the application's fault, and its own to mend
            logger.exception("a message handler failed on %s", message.id.short)


def size_bytes(event: Event) -> int:
    """About how many bytes `event` takes."""
    if isinstance(event, (MessageReceived, MessageSent)):
        return EVENT_BYTES + len(event.message.payload)
    return EVENT_BYTES
