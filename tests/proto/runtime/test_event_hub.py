"""Event hub: events arrive in order, queues are limited, slow readers do not slow the node."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import sys
from collections.abc import Awaitable
from typing import Any

import pytest

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import (
    Event,
    EventsLost,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    NodeStopped,
    Via,
)
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.runtime import event_hub
from grapevine_proto.runtime.driver import MAX_ITEMS_PER_TURN
from grapevine_proto.runtime.event_hub import EventHub
from grapevine_proto.runtime.event_queue import MAX_EVENTS_PER_TURN, EventStream
from tests.conftest import Run


def received(number: int, size_bytes: int = 1) -> MessageReceived:
    message_id = MessageId(PeerId(bytes(32)), 1, number)
    return MessageReceived(Message(message_id, bytes(size_bytes), 1, Via.EAGER, 0.0))


async def all_of(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


def test_events_are_read_in_order_to_the_end(run: Run[Any]) -> None:
    async def main() -> None:
        stream = EventStream(1000, 10**6)
        events = [received(number) for number in range(200)]
        for event in events:
            stream.put(event)
        stream.end()
        stream.put(received(999))
        assert await all_of(stream) == events

    run(main())


def test_beyond_the_event_limit_the_oldest_are_dropped_and_reported(run: Run[Any]) -> None:
    async def main() -> None:
        lost: list[int] = []
        stream = EventStream(3, 10**6, lost.append)
        for number in range(10):
            stream.put(received(number))
        stream.end()
        assert await all_of(stream) == [EventsLost(7), received(7), received(8), received(9)]
        assert sum(lost) == 7

    run(main())


def test_beyond_the_byte_limit_the_oldest_are_dropped_but_one_event_always_fits(
    run: Run[Any],
) -> None:
    async def main() -> None:
        stream = EventStream(1000, 10_000)
        for number in range(4):
            stream.put(received(number, 4000))
        stream.put(received(4, 50_000))
        stream.end()
        assert await all_of(stream) == [EventsLost(4), received(4, 50_000)]

    run(main())


def test_a_reader_of_a_full_queue_yields_to_the_loop(run: Run[Any]) -> None:
    async def main() -> None:
        stream = EventStream(10_000, 10**9)
        for number in range(10 * MAX_EVENTS_PER_TURN):
            stream.put(received(number))
        stream.end()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await all_of(stream)
        counting.cancel()
        assert turns >= 10

    run(main())


def test_a_reader_that_never_waits_loses_no_event_of_two_tasks(run: Run[Any]) -> None:
    async def main() -> None:
        stream = EventStream(1000, 10**9)

        async def put_events() -> None:
            for _ in range(100):
                for number in range(MAX_ITEMS_PER_TURN):
                    stream.put(received(number))
                await asyncio.sleep(0)

        reading = asyncio.create_task(all_of(stream))
        await asyncio.gather(put_events(), put_events())
        stream.end()
        got = await reading
        assert len(got) == 2 * 100 * MAX_ITEMS_PER_TURN
        assert not any(isinstance(event, EventsLost) for event in got)

    run(main())


def test_handlers_are_called_one_after_another_and_awaited(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        seen: list[str] = []

        async def slow(message: Message) -> None:
            seen.append(f"slow begins {message.id.sequence}")
            await asyncio.sleep(0)
            seen.append(f"slow ends {message.id.sequence}")

        hub.add_handler(slow)
        hub.add_handler(lambda message: seen.append(f"plain {message.id.sequence}"))
        hub.publish(received(1))
        hub.publish(received(2))
        await hub.close(5.0)
        assert seen == [
            f"{what} {number}"
            for number in (1, 2)
            for what in ("slow begins", "slow ends", "plain")
        ]

    run(main())


def test_a_failing_handler_is_logged_and_called_again(
    run: Run[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        seen: list[int] = []

        def failing(message: Message) -> None:
            seen.append(message.id.sequence)
            raise RuntimeError("the application's fault")

        hub.add_handler(failing)
        hub.add_listener(lambda event: 1 / 0)
        with caplog.at_level(logging.ERROR, "grapevine"):
            hub.publish(received(1))
            hub.publish(received(2))
            await hub.close(5.0)
        assert seen == [1, 2]
        assert "the application's fault" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    run(main())


def test_a_slow_handler_loses_the_oldest_messages_and_all_readers_are_informed(
    run: Run[Any],
) -> None:
    async def main() -> None:
        hub = EventHub(5, 10**6)
        seen: list[int] = []
        events: list[Event] = []

        async def slow(message: Message) -> None:
            await asyncio.sleep(0)
            seen.append(message.id.sequence)

        hub.add_handler(slow, "drop_oldest")
        hub.add_listener(events.append)
        for number in range(20):
            hub.publish(received(number))
        await hub.close(5.0)
        assert seen == [0, 15, 16, 17, 18, 19]
        assert EventsLost(14) in events
        assert hub.lost == 14

    run(main())


def test_losses_of_a_slow_handler_are_logged(
    run: Run[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        hub = EventHub(5, 10**6)
        hub.add_handler(lambda _: asyncio.sleep(0), "drop_oldest")
        with caplog.at_level(logging.WARNING, "grapevine"):
            for number in range(20):
                hub.publish(received(number))
        assert caplog.text.count("too slow") == 1  # once a minute, not once an event
        await hub.close(5.0)

    run(main())


def test_a_slow_pausing_handler_requests_a_pause_and_ends_it(run: Run[Any]) -> None:
    async def main() -> None:
        pauses: list[bool] = []
        hub = EventHub(8, 10**6, pauses.append)
        seen: list[int] = []

        async def slow(message: Message) -> None:
            await asyncio.sleep(0)
            seen.append(message.id.sequence)

        hub.add_handler(slow)
        for number in range(6):
            hub.publish(received(number))
        assert pauses == []
        for number in range(6, 40):  # messages in flight when peers learn of it are not lost
            hub.publish(received(number))
        assert pauses == [True]
        await hub.close(5.0)
        assert pauses == [True, False]
        assert seen == list(range(40))
        assert hub.lost == 0

    run(main())


def test_beyond_the_byte_limit_even_a_pausing_queue_drops_the_oldest(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10_000)
        hub.add_handler(lambda _: asyncio.sleep(0))
        for number in range(6):
            hub.publish(received(number, 4000))
        assert hub.lost == 3  # one is in hand, two fit
        await hub.close(5.0)

    run(main())


class OutcomeError(BaseException):
    """What test runners raise from pytest.fail and its like: no Exception."""


@pytest.mark.parametrize("error", [OutcomeError(), asyncio.CancelledError(), GeneratorExit()])
def test_no_exception_of_a_callback_reaches_the_publisher(
    run: Run[Any], error: BaseException
) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        calls: list[str] = []

        def failing(what: str) -> None:
            calls.append(what)
            raise error

        async def failing_later() -> None:
            await asyncio.sleep(0)
            failing("awaited")

        hub.add_listener(lambda _: failing("listener"))
        hub.add_handler(lambda _: failing("handler"))
        hub.add_handler(lambda _: failing_later())
        for number in range(2):
            hub.publish(received(number))
            await hub.finish_handlers(5.0)
        assert calls == ["listener", "handler", "awaited"] * 2
        assert hub.failures == 6

    run(main())


def test_keyboard_interrupt_in_a_callback_still_ends_the_program() -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        hub.add_listener(lambda _: sys.exit(7))
        hub.publish(received(1))
        await asyncio.sleep(60)

    with pytest.raises(SystemExit, match="7"):
        asyncio.run(main())


def test_unhandled_messages_are_listed(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        hub.add_handler(lambda _: asyncio.get_running_loop().create_future())
        for number in range(3):
            hub.publish(received(number))
        await hub.finish_handlers(0.01)
        assert [message.id.sequence for message in hub.unhandled()] == [0, 1, 2]
        assert [m.id.sequence for m in hub.unhandled(exclude_current=True)] == [1, 2]
        assert hub.handled == 0

    run(main())


def test_a_synchronous_handler_is_called_at_once(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(5, 10**6)
        seen: list[int] = []
        hub.add_handler(lambda message: seen.append(message.id.sequence))
        for number in range(20):
            hub.publish(received(number))
            assert seen == list(range(number + 1))
        assert hub.lost == 0

    run(main())


def test_a_message_never_overtakes_one_in_a_handler(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        seen: list[int] = []

        async def wait(message: Message) -> None:
            await asyncio.sleep(0)
            seen.append(message.id.sequence)

        def take(message: Message) -> Awaitable[None] | None:
            if message.id.sequence % 3 == 0:
                return wait(message)
            seen.append(message.id.sequence)
            return None

        hub.add_handler(take)
        for number in range(50):
            hub.publish(received(number))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await hub.close(5.0)
        assert seen == list(range(50))

    run(main())


def test_a_handler_cannot_cancel_the_task_that_runs_it(
    run: Run[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        seen: list[int] = []

        def take(message: Message) -> Awaitable[None] | None:
            seen.append(message.id.sequence)
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            return cancelled if message.id.sequence else cancelled.result()

        hub.add_handler(take)
        with caplog.at_level(logging.ERROR, "grapevine"):
            hub.publish(received(0))
            hub.publish(received(1))
            hub.publish(received(2))
            await asyncio.sleep(0.01)
            hub.publish(received(3))
            await hub.close(5.0)
        assert seen == [0, 1, 2, 3]
        assert caplog.text.count("a message handler failed") == 4

    run(main())


def test_a_handler_that_never_returns_is_cancelled(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(5, 10**6)
        hub.add_handler(lambda _: asyncio.get_running_loop().create_future())
        hub.publish(received(1))
        await hub.close(0.01)

    run(main())


def test_each_stream_gets_all_events_from_its_start_and_ends_with_the_hub(
    run: Run[Any],
) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        early = hub.stream()
        hub.publish(received(1))
        late = hub.stream()
        hub.publish(NodeStopped("left"))
        await hub.close(0.0)
        assert await all_of(early) == [received(1), NodeStopped("left")]
        assert await all_of(late) == [NodeStopped("left")]
        assert await all_of(hub.stream()) == []

    run(main())


# --- filters, streams of messages, order ----------------------------------------------------------


def message_sent(number: int) -> MessageSent:
    return MessageSent(received(number).message, 1)


def test_a_stream_of_some_kinds_queues_no_others(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(3, 10**6)
        stream = hub.stream((MessageSent,))
        hub.publish(message_sent(0))
        for number in range(100):
            hub.publish(received(number))
        hub.publish(message_sent(1))
        hub.end_streams()
        assert await all_of(stream) == [message_sent(0), message_sent(1)]
        assert hub.lost == 0

    run(main())


def test_a_closed_stream_ends_for_its_reader_and_gets_nothing_more(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        stream, unread = hub.stream(), hub.stream()
        waiting = asyncio.create_task(all_of(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        assert await waiting == []
        hub.publish(received(1))
        await unread.aclose()
        hub.publish(received(2))
        assert await all_of(unread) == []
        assert await all_of(stream) == []

    run(main())


def test_a_stream_of_messages_yields_messages_alone(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        stream = hub.message_stream("pause", None, is_ordered=False)
        for event in (message_sent(0), received(1), NodeStopped("left"), received(2)):
            hub.publish(event)
        hub.publish_in_order(received(3).message)
        hub.end_streams()
        assert [each async for each in stream] == [received(1).message, received(2).message]

    run(main())


def test_a_stream_in_order_yields_what_is_in_order_and_what_was_skipped(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(1000, 10**6)
        seen: list[int] = []
        hub.add_handler(lambda message: seen.append(message.id.sequence), is_ordered=True)
        assert hub.wants_order
        assert not hub.has_unordered_handlers
        stream, everything = hub.message_stream("pause", None, is_ordered=True), hub.stream()
        hub.publish(received(9))
        skipped = MessagesSkipped(received(1).message.id.stream, 1, 1)
        for item in (skipped, received(2).message):
            hub.publish_in_order(item)
        hub.end_streams()
        assert [each async for each in stream] == [skipped, received(2).message]
        assert await all_of(everything) == [received(9)]
        assert seen == [2]

    run(main())


def test_a_slow_reader_of_messages_counts_its_losses_and_listeners_learn_them(
    run: Run[Any],
) -> None:
    async def main() -> None:
        hub, events = EventHub(1000, 10**6), list[Event]()
        hub.add_listener(events.append)
        stream = hub.message_stream("drop_oldest", 3, is_ordered=False)
        for number in range(10):
            hub.publish(received(number))
        hub.end_streams()
        assert [each.id.sequence async for each in stream if isinstance(each, Message)] == [7, 8, 9]
        assert stream.lost == hub.lost == 7
        assert [each for each in events if isinstance(each, EventsLost)] == [EventsLost(1)] * 7

    run(main())


def test_beyond_the_limit_the_newest_are_dropped_where_the_reader_asks_for_it(
    run: Run[Any],
) -> None:
    async def main() -> None:
        lost: list[int] = []
        stream = EventStream(3, 10_000, lost.append, on_full="drop_newest")
        for number in range(5):
            stream.put(received(number))
        assert await anext(stream) == received(0)
        assert await anext(stream) == received(1)
        stream.put(received(5))
        stream.put(received(6, 50_000))
        stream.end()
        assert await all_of(stream) == [received(2), EventsLost(2), received(5), EventsLost(1)]
        assert lost == [1, 1, 1]

    run(main())


def test_a_reader_of_messages_requests_a_pause_until_it_catches_up_or_disappears(
    run: Run[Any],
) -> None:
    async def main() -> None:
        pauses: list[bool] = []
        hub = EventHub(8, 10**6, pauses.append)
        stream = hub.message_stream("pause", None, is_ordered=False)
        for number in range(20):
            hub.publish(received(number))
        assert pauses == [True]
        for number in range(16):
            assert await anext(stream) == received(number).message
        assert pauses == [True, False]
        for number in range(6):
            hub.publish(received(number))
        assert pauses == [True, False, True]
        del stream
        gc.collect()
        hub.update_pause()
        assert pauses == [True, False, True, False]
        other = hub.message_stream("pause", 4, is_ordered=False)
        for number in range(3):
            hub.publish(received(number))
        assert pauses[4:] == [True]
        await other.aclose()
        assert pauses[4:] == [True, False]

    run(main())


def test_handlers_share_the_largest_queue_and_the_behavior_that_keeps_most(run: Run[Any]) -> None:
    async def main() -> None:
        hub = EventHub(3, 10**6)

        async def slow(message: Message) -> None:
            await asyncio.sleep(0)

        hub.add_handler(slow, "drop_oldest", max_queued=2)
        hub.add_handler(print, "drop_newest", max_queued=5)
        for number in range(10):
            hub.publish(received(number))
        assert [each.id.sequence for each in hub.unhandled()] == [0, 1, 2, 3, 4, 5]
        hub.remove(print)
        hub.publish(received(10))
        assert hub.lost == 4 + 5  # the report of the first four and the last message stay
        hub.publish(received(11))
        assert hub.lost == 4 + 5  # the report moves
        assert [each.id.sequence for each in hub.unhandled()] == [0, 10, 11]
        await hub.finish_handlers(5.0)

    run(main())


@pytest.mark.parametrize("max_queued", [0, -1, 2.5, True, "many"])
def test_a_queue_of_no_size_is_refused(run: Run[Any], max_queued: Any) -> None:
    async def main() -> None:
        hub = EventHub(3, 10**6)
        with pytest.raises(InvalidArgument, match="queue: expected a number of messages"):
            hub.add_handler(print, max_queued=max_queued)
        with pytest.raises(InvalidArgument, match="must be one of pause, drop_newest, drop_oldest"):
            hub.add_handler(print, "drop")  # type: ignore[arg-type]
        assert not hub.has_handlers

    run(main())


# --- removal, errors, slow handlers ---------------------------------------------------------------


def test_a_removed_callback_is_not_called_any_more(run: Run[Any]) -> None:
    async def main() -> None:
        hub, called = EventHub(1000, 10**6), list[str]()

        class Application:
            def on_message(self, message: Message) -> None:
                called.append("message")

            def on_event(self, event: Event) -> None:
                called.append("event")

        application = Application()
        hub.add_handler(application.on_message)
        hub.add_listener(application.on_event)
        hub.publish(received(1))
        hub.remove(application.on_message)
        hub.publish(received(2))
        hub.remove(application.on_event)
        hub.publish(received(3))
        assert called == ["event", "message", "event"]
        with pytest.raises(InvalidArgument, match="is not a handler or listener of this node"):
            hub.remove(application.on_message)

    run(main())


def test_a_handler_may_remove_itself_and_finishes_its_message(run: Run[Any]) -> None:
    async def main() -> None:
        hub, seen = EventHub(1000, 10**6), list[int]()

        async def once(message: Message) -> None:
            hub.remove(once)
            await asyncio.sleep(0)
            seen.append(message.id.sequence)

        hub.add_handler(once)
        hub.publish(received(1))
        hub.publish(received(2))
        await hub.finish_handlers(5.0)
        assert seen == [1]
        assert hub.unhandled() == []

    run(main())


def test_what_callbacks_raise_is_passed_to_error_listeners(run: Run[Any]) -> None:
    async def main() -> None:
        hub, errors = EventHub(1000, 10**6), list[tuple[str, Message | Event]]()

        async def failing_later(message: Message) -> None:
            await asyncio.sleep(0)
            raise RuntimeError("later")

        def failing(_: Any) -> None:  # as an error listener, it gets too many arguments
            raise RuntimeError("at once")

        hub.add_error_listener(failing)  # type: ignore[arg-type]
        hub.add_error_listener(lambda error, what: errors.append((str(error), what)))
        hub.add_listener(failing)
        hub.add_handler(failing)
        hub.add_handler(failing_later)
        event = received(1)
        hub.publish(event)
        await hub.finish_handlers(5.0)
        assert errors == [
            ("at once", event),
            ("at once", event.message),
            ("later", event.message),
        ]
        assert hub.failures == 6

    run(main())


def first_log_line(caplog: pytest.LogCaptureFixture) -> asyncio.Future[str]:
    """The first warning, as soon as it is logged."""
    found = asyncio.get_running_loop().create_future()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not found.done():
                found.set_result(record.getMessage())

    collector = Collector(logging.WARNING)
    logging.getLogger("grapevine").addHandler(collector)
    found.add_done_callback(lambda _: logging.getLogger("grapevine").removeHandler(collector))
    return found


def test_a_handler_that_runs_for_long_is_named_once(
    run: Run[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_hub, "SLOW_HANDLER_S", 0.001)

    async def main() -> None:
        hub, may_end = EventHub(1000, 10**6), asyncio.Event()

        async def store_in_database(message: Message) -> None:
            await may_end.wait()

        hub.add_handler(store_in_database)
        line = first_log_line(caplog)
        hub.publish(received(1))
        hub.publish(received(2))
        assert "store_in_database has been running for 0.0 s; 1 messages wait for it" in await line
        may_end.set()
        await hub.finish_handlers(5.0)
        assert caplog.text.count("store_in_database") == 1  # at most once a minute

    run(main())


def test_a_handler_that_blocks_the_loop_is_named(
    run: Run[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_hub, "SLOW_HANDLER_S", 0.0)

    async def main() -> None:
        hub = EventHub(1000, 10**6)
        hub.add_handler(functools.partial(print, "got"))
        hub.publish(received(1))
        assert "the message handler builtins.print blocked the event loop for 0.0 s" in caplog.text

    run(main())
