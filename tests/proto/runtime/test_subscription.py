"""Subscriptions: bounded queues of their own, and the patterns that a node needs for them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.runtime import subscription as subscription_module
from grapevine_proto.runtime.subscription import (
    RETAINED_IDS_LIMIT,
    Subscription,
    Subscriptions,
)
from grapevine_proto.topics import TopicPatterns

pytestmark = pytest.mark.asyncio


def a_message(sequence: int, topic: str = "deploy.web") -> Message:
    message_id = MessageId(PeerId(bytes(32)), 1, sequence)
    return Message(message_id, b"x", 1, Via.EAGER, 0.0, topic=topic)


class Patterns:
    """The patterns that the subscriptions asked for, latest last."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []
        self.all = Subscriptions(lambda topics: self.seen.append(set(topics.patterns)))

    def open(self, pattern: str, queue: int = 10, on_full: str = "drop_oldest") -> Subscription:
        topics = TopicPatterns.parse(pattern)
        return self.all.add(topics, queue, on_full, ())  # type: ignore[arg-type]


async def sequences(subscription: Subscription) -> list[int]:
    return [message.id.sequence async for message in subscription]


async def test_a_subscription_gets_the_messages_of_its_topics() -> None:
    patterns = Patterns()
    deploys, all_topics = patterns.open("deploy.>"), patterns.open(">")
    for number, topic in enumerate(("deploy.web", "metrics.cpu", "", "deploy.db"), 1):
        patterns.all.deliver(a_message(number, topic))
    patterns.all.end()
    assert await sequences(deploys) == [1, 4]
    assert await sequences(all_topics) == [1, 2, 4], "a message without a topic is in none"


async def test_what_was_cached_comes_first() -> None:
    patterns = Patterns()
    cached = [a_message(1), a_message(2, "metrics.cpu")]
    subscription = patterns.all.add(TopicPatterns(("deploy.>",)), 10, "drop_oldest", cached)
    patterns.all.deliver(a_message(3))
    patterns.all.end()
    assert await sequences(subscription) == [1, 3]


@pytest.mark.parametrize(("on_full", "left"), [("drop_oldest", [3, 4]), ("drop_newest", [1, 2])])
async def test_a_full_queue_drops_and_counts(on_full: str, left: list[int]) -> None:
    patterns = Patterns()
    subscription = patterns.open(">", queue=2, on_full=on_full)
    for number in range(1, 5):
        patterns.all.deliver(a_message(number))
    assert subscription.lost == patterns.all.lost == 2
    await subscription.unsubscribe()
    assert patterns.all.lost == 2, "counted also when it has ended"
    assert await sequences(subscription) == left


async def test_a_pattern_is_held_as_long_as_anything_needs_it() -> None:
    patterns = Patterns()
    one, other = patterns.open("a"), patterns.open("a")
    third = patterns.open("b")
    await one.unsubscribe()
    await one.unsubscribe()
    await third.unsubscribe()
    assert patterns.seen[-1] == {"a"}
    async with other:
        pass
    assert patterns.seen[-1] == set()


async def test_it_waits_for_messages_and_ends_with_the_node() -> None:
    patterns = Patterns()
    subscription = patterns.open(">")
    reader = asyncio.create_task(sequences(subscription))
    await asyncio.sleep(0)
    patterns.all.deliver(a_message(1))
    await asyncio.sleep(0)
    patterns.all.deliver(a_message(2))
    patterns.all.end()
    assert await reader == [1, 2]


async def test_a_reader_that_never_waits_lets_others_run() -> None:
    patterns = Patterns()
    subscription = patterns.open(">", queue=1000)
    for number in range(1000):
        patterns.all.deliver(a_message(number))
    patterns.all.end()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count_turns())
    assert len(await sequences(subscription)) == 1000
    other.cancel()
    assert turns == 3, "after 256, 512 and 768 messages"


@pytest.mark.parametrize(
    ("pattern", "queue", "on_full", "fault"),
    [
        ("a..b", 10, "drop_oldest", "pattern"),
        ("a", 0, "drop_oldest", "queue"),
        ("a", 10, "pause", "on_full"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    pattern: str, queue: int, on_full: str, fault: str
) -> None:
    patterns = Patterns()
    with pytest.raises(InvalidArgument, match=fault):
        patterns.open(pattern, queue, on_full)
    assert patterns.seen == []


async def test_a_subscription_in_order_gets_what_waited_for_its_order() -> None:
    patterns = Patterns()
    unordered = patterns.open(">")
    ordered = patterns.all.add(
        TopicPatterns((">",)), 10, "drop_oldest", [a_message(1)], is_ordered=True
    )
    for number in (3, 2):
        patterns.all.deliver(a_message(number))
    for number in (2, 3):
        patterns.all.deliver(a_message(number), is_in_order=True)
    patterns.all.end()
    assert await sequences(unordered) == [3, 2]
    assert await sequences(ordered) == [1, 2, 3]


async def test_a_reader_that_waited_may_read_as_much_again() -> None:
    patterns = Patterns()
    subscription = patterns.open(">", queue=1000)
    reader = asyncio.create_task(sequences(subscription))
    steps = 0
    for _ in range(5):
        await asyncio.sleep(0)
        for number in range(200):
            patterns.all.deliver(a_message(number))
        steps += 1
    patterns.all.end()
    while not reader.done():
        await asyncio.sleep(0)
        steps += 1
    assert len(await reader) == 1000
    assert steps <= 7, "it never yielded with messages at hand"


async def test_losses_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(subscription_module, "time", SimpleNamespace(monotonic=lambda: now))
    patterns = Patterns()
    patterns.open("deploy.>", queue=1)
    logged = []
    for seconds in (0.0, 0.0, 59.9, 60.0, 60.0):
        now = 1000.0 + seconds
        patterns.all.deliver(a_message(1))
        logged.append(len(caplog.records))
    assert logged == [0, 1, 1, 2, 2]
    assert "deploy.>" in caplog.text


async def test_a_retained_message_comes_once_as_a_message_and_as_an_entry() -> None:
    patterns, topics = Patterns(), TopicPatterns(("deploy.>",))
    wants_past = patterns.all.add(topics, 10, "drop_oldest", (), is_replayed=True)
    wants_new = patterns.open("deploy.>")
    first, second = (a_message(number)._replace(is_retained=True) for number in (1, 2))
    patterns.all.deliver(first)
    patterns.all.deliver_retained(first)
    patterns.all.deliver_retained(second)
    patterns.all.deliver(second)
    patterns.all.deliver_retained(a_message(3, "metrics.cpu")._replace(is_retained=True))
    patterns.all.end()
    assert await sequences(wants_past) == [1, 2]
    assert await sequences(wants_new) == [1, 2]


async def test_retained_messages_that_came_are_remembered_in_a_limited_number() -> None:
    patterns, topics = Patterns(), TopicPatterns((">",))
    subscription = patterns.all.add(topics, 10_000, "drop_oldest", (), is_replayed=True)
    for number in range(1, RETAINED_IDS_LIMIT + 2):
        patterns.all.deliver_retained(a_message(number)._replace(is_retained=True))
    assert len(subscription._retained) == RETAINED_IDS_LIMIT
    patterns.all.deliver_retained(a_message(2)._replace(is_retained=True))
    patterns.all.end()
    assert len(await sequences(subscription)) == RETAINED_IDS_LIMIT + 1
