"""Subscriptions of one program to topics, each with its own bounded queue.

Invariants:

- A subscription never stalls the node. Beyond its limit it drops messages, counts them in `lost`, and a
  warning is logged once a minute.
- A message is in a subscription at most once: what is replayed from the cache arrived before it began, and
  of retained messages the latest `RETAINED_IDS_LIMIT` are remembered.
- The iteration ends with `unsubscribe`, and when the node has stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final, Literal, Self, TypeAlias

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import Message
from grapevine_proto.ids import MessageId
from grapevine_proto.runtime.log_throttle import LogThrottle
from grapevine_proto.topics import TopicPatterns

WhenFull: TypeAlias = Literal["drop_oldest", "drop_newest"]
"""Which message a subscription drops when its queue is full: the oldest in it, or the one that arrives."""

DEFAULT_QUEUE: Final = 1000
RETAINED_IDS_LIMIT: Final = 1024
LOSS_WARNING_INTERVAL_S: Final = 60.0
MESSAGES_PER_TURN: Final = 256  # after which a reader that never waits yields

logger = logging.getLogger("grapevine")


class Subscription:
    """An async iterator over the messages of the topics that `pattern` selects, returned by
    `Node.subscribe`. One task may read it. `lost` counts messages dropped unread."""

    def __init__(
        self,
        topics: TopicPatterns,
        queue: int,
        on_full: WhenFull,
        on_unsubscribe: Callable[[Subscription], None],
        *,
        is_ordered: bool = False,
        is_replayed: bool = False,
    ) -> None:
        self.topics = topics
        self.is_ordered = is_ordered
        self.is_replayed = is_replayed  # it gets retained messages that are learned later, too
        self._retained: OrderedDict[MessageId, None] = OrderedDict()  # that were queued
        self.lost = 0
        self._limit = queue
        self._keeps_newest = on_full == "drop_oldest"
        self._on_unsubscribe = on_unsubscribe
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._is_ended = False
        self._loss_log = LogThrottle(LOSS_WARNING_INTERVAL_S)
        self._reads_without_wait = 0

    @property
    def pattern(self) -> str:
        """The pattern as it was given."""
        return ", ".join(self.topics.patterns)

    def matches(self, message: Message) -> bool:
        """Whether `message` is of a topic that the pattern selects."""
        return self.topics.matches(message.topic)

    def put(self, message: Message) -> None:
        """Queues `message`. Beyond the limit one is dropped. Never waits."""
        if self._is_ended or (message.is_retained and not self._is_first(message.id)):
            return
        if len(self._messages) >= self._limit:
            self._count_lost()
            if not self._keeps_newest:
                return
            self._messages.popleft()
        self._messages.append(message)
        self._arrived.set()

    def _is_first(self, message_id: MessageId) -> bool:
        """Whether a retained message was not queued before: it arrives as a message and as an entry."""
        if message_id in self._retained:
            return False
        self._retained[message_id] = None
        if len(self._retained) > RETAINED_IDS_LIMIT:
            self._retained.popitem(last=False)
        return True

    async def unsubscribe(self) -> None:
        """Ends the subscription; what is queued can still be read. The node no longer delivers these
        topics unless `NodeConfig.topics` or another subscription selects them."""
        self.end()
        self._on_unsubscribe(self)

    def end(self) -> None:
        """Ends the iteration after what is queued."""
        self._is_ended = True
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        self._reads_without_wait += 1
        if self._reads_without_wait >= MESSAGES_PER_TURN:
            self._reads_without_wait = 0
            await asyncio.sleep(0)
        while not self._messages:
            if self._is_ended:
                raise StopAsyncIteration
            self._reads_without_wait = 0
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.unsubscribe()

    def _count_lost(self) -> None:
        self.lost += 1
        if self._loss_log.admits(time.monotonic()):
            logger.warning(
                "a subscription to %s is read too slowly: %d messages were dropped so far",
                self.pattern,
                self.lost,
            )


class Subscriptions:
    """The subscriptions of one node, those that last in `open`. `on_topics` is called with all patterns
    when they change."""

    def __init__(self, on_topics: Callable[[TopicPatterns], None]) -> None:
        self._on_topics = on_topics
        self.open: list[Subscription] = []  # to read
        self._lost_by_closed = 0
        self._counts: Counter[str] = Counter()

    def add(
        self,
        topics: TopicPatterns,
        queue: int,
        on_full: WhenFull,
        replayed: Iterable[Message],
        *,
        is_ordered: bool = False,
        is_replayed: bool = False,
    ) -> Subscription:
        """Opens a subscription, with `replayed` in its queue. `is_replayed`: it gets retained messages that
        arrive later, too. Raises InvalidArgument."""
        if queue < 1:
            raise InvalidArgument(f"queue: must be at least 1, got {queue}")
        if on_full not in ("drop_oldest", "drop_newest"):
            raise InvalidArgument(
                f"on_full: must be one of drop_oldest, drop_newest; got {on_full!r:.40}"
            )
        self.hold(topics)
        subscription = Subscription(
            topics, queue, on_full, self._remove, is_ordered=is_ordered, is_replayed=is_replayed
        )
        self.open.append(subscription)
        for message in replayed:
            if subscription.matches(message):
                subscription.put(message)
        return subscription

    def hold(self, topics: TopicPatterns) -> None:
        """Has the node deliver what `topics` select until as many calls of `release`. Raises
        InvalidArgument if these are too many patterns."""
        self._on_topics(TopicPatterns((*self._counts, *topics.patterns)))
        self._counts.update(topics.patterns)

    def release(self, topics: TopicPatterns) -> None:
        """Undoes one `hold`."""
        self._counts.subtract(topics.patterns)
        ended = [pattern for pattern, count in self._counts.items() if count <= 0]
        for pattern in ended:
            del self._counts[pattern]
        if ended:
            self._on_topics(TopicPatterns(self._counts))

    def deliver(self, message: Message, *, is_in_order: bool = False) -> None:
        """Queues `message` with each subscription that it matches. `is_in_order`: it had to wait for those
        before it, and is for the subscriptions that asked for that; the others got it at once."""
        for each in self.open:
            if each.is_ordered is is_in_order and each.matches(message):
                each.put(message)

    def deliver_retained(self, message: Message) -> None:
        """Queues a retained message, which arrived as an entry, with each subscription that wants the past
        and has not got it."""
        for each in self.open:
            if each.is_replayed and each.matches(message):
                each.put(message)

    @property
    def lost(self) -> int:
        """Messages dropped unread, over all subscriptions so far."""
        return self._lost_by_closed + sum(each.lost for each in self.open)

    def end(self) -> None:
        """The node has stopped: ends every iteration after what is queued."""
        for each in self.open:
            each.end()
        self._lost_by_closed = self.lost
        self.open.clear()

    def _remove(self, subscription: Subscription) -> None:
        if subscription in self.open:
            self.open.remove(subscription)
            self._lost_by_closed += subscription.lost
            self.release(subscription.topics)
