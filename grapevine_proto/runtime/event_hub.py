"""Delivers a node's events to its readers, each at its own pace.

Invariants:

- A slow reader never stalls the node: each stream has its own queue, and all message handlers share one
  (`event_queue`).
- Readers that must not lose messages cause a pause before their queue is full (`on_pause`).
- Readers and handlers get events in the order in which they occurred.
- Nothing that a listener or handler raises, `CancelledError` and other `BaseException`s included, ends a
  task of the node: it is logged, counted and reported, and the next event goes to the same callback.
- A handler that returns no awaitable is called at once, before anything else happens.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, NoReturn

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import (
    Event,
    EventsLost,
    Message,
    MessageReceived,
    MessagesSkipped,
    QueryReceived,
    Question,
)
from grapevine_proto.runtime.event_queue import MAX_EVENTS_PER_TURN as MAX_MESSAGES_PER_TURN
from grapevine_proto.runtime.event_queue import (
    ON_FULL,
    PAUSE_FILL_RATIO,
    RESUME_FILL_RATIO,
    EventQueue,
    EventStream,
    InOrder,
    MessageStream,
    OnFull,
    check_on_full,
)
from grapevine_proto.runtime.log_throttle import LogThrottle

MessageListener = Callable[[Message], Awaitable[object] | object]
EventListener = Callable[[Event], object]
ErrorListener = Callable[[BaseException, Message | Event], object]

logger = logging.getLogger("grapevine")

LOSS_WARNING_INTERVAL_S: Final = 60.0  # between warnings about lost events
SLOW_HANDLER_S: Final = 1.0  # a handler that runs for longer is named in the log
SLOW_WARNING_INTERVAL_S: Final = 60.0  # between such warnings about one handler


class _Handler:
    """A message handler and how it was added."""

    __slots__ = ("callback", "is_ordered", "is_removed", "max_queued", "on_full", "slow_log")

    def __init__(
        self, callback: MessageListener, max_queued: int, on_full: OnFull, *, is_ordered: bool
    ) -> None:
        self.callback = callback
        self.max_queued = max_queued
        self.on_full = on_full
        self.is_ordered = is_ordered
        self.is_removed = False
        self.slow_log = LogThrottle(SLOW_WARNING_INTERVAL_S)

    @property
    def name(self) -> str:
        """The name of the function, for people."""
        callback = getattr(self.callback, "func", self.callback)  # of a functools.partial
        module = getattr(callback, "__module__", None)
        name = getattr(callback, "__qualname__", None) or type(callback).__qualname__
        return f"{module}.{name}" if module else name


class EventHub:
    """Distributes one node's events to listeners and message handlers, which are called at once, and to
    streams.

    While a task awaits the result of a handler, further messages are queued for the handlers; the task
    ends with the queue. `on_pause(True)` is called when the queue of a reader that pauses is three quarters
    full, `on_pause(False)` once all of them are half empty. `lost` counts events dropped unread, `failures`
    exceptions of listeners and handlers, `handled` messages that all handlers have finished.
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
        self._error_listeners: list[ErrorListener] = []
        self._handlers: list[_Handler] = []
        self._unordered: tuple[_Handler, ...] = ()  # those for messages as they arrive
        self._ordered: tuple[_Handler, ...] = ()
        # weak: a stream that is no longer used disappears
        self._streams: list[weakref.ref[EventStream]] = []
        self._messages = EventQueue(max_events, max_bytes, self._count_lost)  # for the handlers
        self._handling: Message | None = None  # the message whose handlers are running
        self._running: tuple[_Handler, float] | None = None  # the awaited handler, and since when
        self._handler_task: asyncio.Task[None] | None = None  # the task that runs them
        self._slow_timer: asyncio.TimerHandle | None = None
        self._has_pausing_streams = False  # at least one so far
        self._is_paused = False
        self._is_ended = False
        self._loss_log = LogThrottle(LOSS_WARNING_INTERVAL_S)
        self._lost_unlogged = 0
        self.lost = 0
        self.failures = 0
        self.handled = 0

    # --- readers --------------------------------------------------------------------------------

    def add_listener(self, listener: EventListener) -> None:
        """Calls `listener` with every event from now on, within `publish`."""
        self._listeners.append(listener)

    def add_error_listener(self, listener: ErrorListener) -> None:
        """Calls `listener` with each exception of a handler or listener, and what that was called with."""
        self._error_listeners.append(listener)

    def add_handler(
        self,
        handler: MessageListener,
        on_full: OnFull = "pause",
        *,
        max_queued: int | None = None,
        is_ordered: bool = False,
    ) -> None:
        """Calls `handler` with every message from now on; an awaitable result is awaited before the next
        message.

        All handlers share one queue: the largest `max_queued` applies, and the `on_full` of theirs that
        comes first in `ON_FULL`. Raises InvalidArgument.
        """
        check_on_full(on_full)
        max_queued = self._check_max_queued(max_queued)
        self._handlers.append(_Handler(handler, max_queued, on_full, is_ordered=is_ordered))
        self._configure_queue()

    def remove(self, callback: Callable[..., object]) -> None:
        """Does not call `callback` any more, whatever it was added for. What it is doing it may finish.
        Raises InvalidArgument if it was not added."""
        removed = [each for each in self._handlers if each.callback == callback]
        for handler in removed:
            handler.is_removed = True
            self._handlers.remove(handler)
        listener_count = len(self._listeners) + len(self._error_listeners)
        self._listeners = [each for each in self._listeners if each != callback]
        self._error_listeners = [each for each in self._error_listeners if each != callback]
        if not removed and len(self._listeners) + len(self._error_listeners) == listener_count:
            raise InvalidArgument(f"{callback!r} is not a handler or listener of this node")
        if removed:
            self._configure_queue()

    def stream(self, kinds: tuple[type, ...] = ()) -> EventStream:
        """Returns a stream of the events of these kinds from now on; without any, of every event."""
        kinds = (*kinds, EventsLost) if kinds else ()
        return self._add_stream(
            EventStream(self._max_events, self._max_bytes, self._count_lost, kinds=kinds)
        )

    def message_stream(
        self, on_full: OnFull, max_queued: int | None, *, is_ordered: bool
    ) -> MessageStream[Message] | MessageStream[Message | MessagesSkipped]:
        """Returns a stream of every received message from now on. Raises InvalidArgument."""
        check_on_full(on_full)
        self._has_pausing_streams |= on_full == "pause"
        stream = EventStream(
            self._check_max_queued(max_queued),
            self._max_bytes,
            self._count_lost_messages,
            kinds=(InOrder if is_ordered else MessageReceived,),
            on_full=on_full,
            on_read=self.update_pause,
        )
        return MessageStream(self._add_stream(stream))

    @property
    def wants_order(self) -> bool:
        """Whether a reader asked for messages in order."""
        return bool(self._ordered) or any(stream.wants(InOrder) for stream in self._live_streams())

    @property
    def has_unordered_handlers(self) -> bool:
        """Whether a handler gets messages as they arrive."""
        return bool(self._unordered)

    @property
    def has_handlers(self) -> bool:
        """Whether there is a message handler."""
        return bool(self._handlers)

    def _add_stream(self, stream: EventStream) -> EventStream:
        if self._is_ended:
            stream.end()
        self._streams.append(weakref.ref(stream, self._streams.remove))
        return stream

    def _live_streams(self) -> list[EventStream]:
        # a copy: a stream may disappear meanwhile
        streams = [reference() for reference in tuple(self._streams)]
        return [stream for stream in streams if stream is not None]

    def _check_max_queued(self, max_queued: int | None) -> int:
        if max_queued is None:
            return self._max_events
        if type(max_queued) is not int or max_queued < 1:
            raise InvalidArgument(f"queue: expected a number of messages, not {max_queued!r}")
        return max_queued

    def _configure_queue(self) -> None:
        """Applies what the handlers ask for to the queue that they share."""
        self._unordered = tuple(each for each in self._handlers if not each.is_ordered)
        self._ordered = tuple(each for each in self._handlers if each.is_ordered)
        if not self._handlers:
            self._messages.clear()
        else:
            asked = {each.on_full for each in self._handlers}
            self._messages.configure(
                max(each.max_queued for each in self._handlers),
                next(each for each in ON_FULL if each in asked),
            )
        self.update_pause()

    # --- events ---------------------------------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Passes `event` to all readers. Never raises and never waits."""
        if self._listeners:
            self._call_listeners(event)
        if self._streams:
            self._put_to_streams(event)
        if self._unordered and isinstance(event, MessageReceived):
            if self._handler_task is None:
                self._call_handlers(event.message, self._unordered)
            else:
                self._queue_for_handlers(event)

    def publish_in_order(self, item: Message | MessagesSkipped) -> None:
        """Passes `item` to the readers that asked for messages in order. Never raises and never waits."""
        event = InOrder(item)
        if self._streams:
            self._put_to_streams(event)
        if isinstance(item, Message) and self._ordered:
            if self._handler_task is None:
                self._call_handlers(item, self._ordered)
            else:
                self._queue_for_handlers(event)

    def _put_to_streams(self, event: Event | InOrder) -> None:
        for stream in self._live_streams():
            stream.put(event)
        if self._has_pausing_streams:
            self.update_pause()

    def _call_listeners(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except BaseException as error:  # noqa: BLE001  a bug of the application
                self._on_callback_error(error, "an event listener", type(event).__name__, event)

    def _queue_for_handlers(self, event: MessageReceived | InOrder) -> None:
        """Handlers are running: they get the message of `event` after those that are queued."""
        self._messages.put(event)
        if self._messages.is_pausing:
            self.update_pause()

    def _handlers_for(self, event: MessageReceived | InOrder) -> tuple[_Handler, ...]:
        return self._ordered if isinstance(event, InOrder) else self._unordered

    # --- end ------------------------------------------------------------------------------------

    def is_called_by(self, task: asyncio.Task[object] | None) -> bool:
        """Whether `task` runs the handlers, so that it must not wait for them."""
        return task is not None and task is self._handler_task

    def unhandled(self, *, exclude_current: bool = False) -> list[Message]:
        """Returns the messages that some handler has not finished, oldest first. `exclude_current` omits
        the one that is being handled now."""
        waiting = [
            _message_of(event)
            for event in self._messages.unread()
            if isinstance(event, (MessageReceived, InOrder))
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

    def cancel_handlers(self) -> None:
        """Cancels the handlers that are running; `unhandled` returns what they did not finish."""
        if self._handler_task is not None:
            self._handler_task.cancel()

    def end_streams(self) -> None:
        """Ends all streams after the events that are already queued."""
        self._is_ended = True
        for stream in self._live_streams():
            stream.end()

    async def close(self, timeout_s: float | None) -> None:
        """Calls `end_streams`, then `finish_handlers`, unless `timeout_s` is None: a handler itself is the
        caller."""
        self.end_streams()
        if timeout_s is not None:
            await self.finish_handlers(timeout_s)

    # --- loss and pause -------------------------------------------------------------------------

    def _count_lost(self, count: int) -> None:
        self.lost += count
        self._lost_unlogged += count
        if self._loss_log.admits(monotonic()):
            logger.warning(
                "a handler or reader of events is too slow: %d events were dropped (%d in total)",
                self._lost_unlogged,
                self.lost,
            )
            self._lost_unlogged = 0

    def _count_lost_messages(self, count: int) -> None:
        """A reader of messages alone lost some: others learn it too, because its items are messages."""
        self._count_lost(count)
        self._call_listeners(EventsLost(count))

    def update_pause(self) -> None:
        """Asks for a pause or ends it, as the queues of the readers that pause require. Call it once a
        second: a stream that nobody refers to any more may have asked for one."""
        fill_ratio = self._messages.fill_ratio if self._messages.on_full == "pause" else 0.0
        for stream in self._live_streams():
            if stream.queue.on_full == "pause":
                fill_ratio = max(fill_ratio, stream.queue.fill_ratio)
        is_paused = (
            fill_ratio > RESUME_FILL_RATIO if self._is_paused else fill_ratio >= PAUSE_FILL_RATIO
        )
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self._on_pause(is_paused)

    # --- calls ----------------------------------------------------------------------------------

    def on_query_failure(self, error: BaseException, question: Question) -> None:
        """Counts, logs and reports what the handler of a query raised."""
        subject = f"the query {question.name!r}"
        self._on_callback_error(error, "a query handler", subject, QueryReceived(question))

    def _on_callback_error(
        self, error: BaseException, callback_kind: str, subject: str, argument: Message | Event
    ) -> None:
        """Counts, logs and reports the `error` of a callback. KeyboardInterrupt and SystemExit are raised
        again in the loop."""
        self.failures += 1
        logger.error("%s failed on %s", callback_kind, subject, exc_info=error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            asyncio.get_running_loop().call_soon(_reraise, error)
        for listener in tuple(self._error_listeners):
            try:
                listener(error, argument)
            except Exception as own_error:  # a bug of the application
                self.failures += 1
                logger.exception("an error listener failed", exc_info=own_error)

    def _call_handlers(self, message: Message, handlers: tuple[_Handler, ...]) -> None:
        """Calls `handlers` with `message`. From the first awaitable result on, a task does it."""
        for number, handler in enumerate(handlers, 1):
            answer = self._call_handler(handler, message)
            if answer is not None:
                self._handling = message
                work = self._run_handlers(handler, answer, handlers[number:], message)
                self._handler_task = asyncio.create_task(work, name="grapevine handlers")
                return

    def _call_handler(self, handler: _Handler, message: Message) -> Awaitable[object] | None:
        """Calls `handler`. Returns its result if it is awaitable, else None."""
        if handler.is_removed:
            return None
        started_at = monotonic()
        try:
            answer = handler.callback(message)
            if answer is not None and inspect.isawaitable(answer):
                return answer
        except BaseException as error:  # noqa: BLE001  a bug of the application
            self._on_callback_error(error, "a message handler", message.id.short, message)
        finally:
            if monotonic() - started_at >= SLOW_HANDLER_S:
                self._warn_slow(handler, started_at, "blocked the event loop for")
        return None

    async def _run_handlers(
        self,
        handler: _Handler,
        answer: Awaitable[object],
        rest: Sequence[_Handler],
        message: Message,
    ) -> None:
        """Awaits `answer` of `handler`, calls the `rest` of the handlers with the same message, then all
        handlers with the queue."""
        self._watch_slow_handlers()
        await self._await_answer(handler, answer, message)
        await self._await_all(rest, message)
        self._on_handled()
        reads = 0
        while self._messages:
            reads += 1
            if reads % MAX_MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
            event = self._messages.pop()
            if isinstance(event, EventsLost):
                self._call_listeners(event)
            elif isinstance(event, (MessageReceived, InOrder)):
                self._handling = _message_of(event)
                await self._await_all(self._handlers_for(event), self._handling)
                self._on_handled()
        self._handler_task = None

    def _on_handled(self) -> None:
        """All handlers have finished the current message."""
        self._handling = None
        self.handled += 1
        if self._is_paused:
            self.update_pause()

    async def _await_all(self, handlers: Sequence[_Handler], message: Message) -> None:
        for handler in handlers:
            answer = self._call_handler(handler, message)
            if answer is not None:
                await self._await_answer(handler, answer, message)

    async def _await_answer(
        self, handler: _Handler, answer: Awaitable[object], message: Message
    ) -> None:
        self._running = (handler, monotonic())
        try:
            await answer
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # this task was cancelled, not the handler
            self._on_callback_error(error, "a message handler", message.id.short, message)
        finally:
            self._running = None

    # --- slow handlers --------------------------------------------------------------------------

    def _watch_slow_handlers(self) -> None:
        """Looks once a second whether the awaited handler is slow, for as long as handlers run."""
        if self._slow_timer is None:
            loop = asyncio.get_running_loop()
            self._slow_timer = loop.call_later(SLOW_HANDLER_S, self._check_slow_handler)

    def _check_slow_handler(self) -> None:
        self._slow_timer = None
        if self._handler_task is None or self._handler_task.done():
            return
        if self._running is not None and monotonic() - self._running[1] >= SLOW_HANDLER_S:
            self._warn_slow(*self._running, "has been running for")
        self._watch_slow_handlers()

    def _warn_slow(self, handler: _Handler, started_at: float, problem: str) -> None:
        now = monotonic()
        if not handler.slow_log.admits(now):
            return
        logger.warning(
            "the message handler %s %s %.1f s; %d messages wait for it",
            handler.name,
            problem,
            now - started_at,
            len(self._messages),
        )


def _message_of(event: MessageReceived | InOrder) -> Message:
    if isinstance(event, MessageReceived):
        return event.message
    assert isinstance(event.item, Message)  # reports of skipped ones are not for handlers
    return event.item


def _reraise(error: BaseException) -> NoReturn:
    raise error
