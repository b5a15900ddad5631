"""Event hub: events arrive in order, queues are limited, slow readers do not slow the node."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable
from typing import Any

import pytest

from grapevine_proto.events import (
    Event,
    EventsLost,
    Message,
    MessageReceived,
    NodeStopped,
    Via,
)
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.runtime.driver import MAX_ITEMS_PER_TURN
from grapevine_proto.runtime.event_hub import MAX_EVENTS_PER_TURN, EventHub, EventStream
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
