"""Priority send queues of one link, and the peer's rate limit.

Invariants:

- Queues are limited in messages and bytes, separately for large messages, and rumors never take the room of
  control messages. The cost of one message does not depend on the queue length.
- Retransmissions go before new messages of the same rank.
- The limit in the peer's record is never exceeded, counting each content once: a loss refunds its token.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.token_bucket import TokenBucket, token_cost
from grapevine_proto.transport.link.fragments import BYTES_PER_TOKEN, FragmentedMessage
from grapevine_proto.wire.codec import ChunkedMessage
from grapevine_proto.wire.messages import Kind

CONTROL, DATA, BULK, REPAIR, CLOSE = range(5)  # highest priority first; DATA and BULK alternate
RANK_OF_KIND: Final[dict[int, int]] = {
    Kind.RUMORS: DATA,
    Kind.DIRECT_MESSAGE: DATA,
    Kind.STATE_DELTA: DATA,
    Kind.REPAIR: REPAIR,
    Kind.CLOSE: CLOSE,  # last: the peer stops reading after it
}


class Retransmission:
    """A lost message of one packet; `session_id` and `counter` identify the lost packet."""

    __slots__ = ("attempts", "counter", "plaintext", "rank", "session_id")

    def __init__(
        self, session_id: bytes, counter: int, plaintext: bytes, rank: int, attempts: int
    ) -> None:
        self.session_id = session_id
        self.counter = counter
        self.plaintext = plaintext
        self.rank = rank
        self.attempts = attempts


class FragmentRetransmission:
    """A lost range of a fragmented message."""

    __slots__ = ("attempts", "end", "message", "start")

    def __init__(self, message: FragmentedMessage, start: int, end: int, attempts: int) -> None:
        self.message = message
        self.start = start
        self.end = end
        self.attempts = attempts


QueuedItem: TypeAlias = bytes | FragmentedMessage | Retransmission | FragmentRetransmission


_EMPTY_QUEUE: Final[deque[QueuedItem]] = deque()  # shared by unused queues: a deque takes 700 bytes


class SendQueues:
    """The send queues `by_rank`, and the unsent bytes of each in `queued_bytes`. `send_limit` holds the
    tokens that the peer grants; None: unlimited."""

    __slots__ = (
        "_bytes_limit",
        "_count_limit",
        "_next_message_number",
        "by_rank",
        "queued_bytes",
        "send_limit",
    )

    def __init__(self, limits: LimitsConfig, first_number: int) -> None:
        self.by_rank: list[deque[QueuedItem]] = [_EMPTY_QUEUE] * 5  # most links use one or two
        self.queued_bytes = [0] * 5
        self.send_limit: TokenBucket | None = None
        self._count_limit = limits.queue_messages
        self._bytes_limit = limits.queue_bytes
        self._next_message_number = first_number

    def __len__(self) -> int:
        """Queued messages and retransmissions."""
        return sum(map(len, self.by_rank))

    def has_room(self, rank: int, size_bytes: int) -> bool:
        """Whether a message of `size_bytes` bytes fits in the queue of `rank`.

        Control messages have their own room, so queued rumors cannot block a heartbeat, and so do large
        messages, one of which always fits.
        """
        by_rank, queued_bytes = self.by_rank, self.queued_bytes
        if size_bytes > BYTES_PER_TOKEN:
            count, total_bytes = len(by_rank[rank]), queued_bytes[rank]
        else:
            one, other = (DATA, REPAIR) if rank in (DATA, REPAIR) else (CONTROL, CLOSE)
            count = len(by_rank[one]) + len(by_rank[other])
            total_bytes = queued_bytes[one] + queued_bytes[other]
        if not count:
            return True
        return count < self._count_limit and total_bytes + size_bytes <= self._bytes_limit

    def push(self, plaintext: bytes | ChunkedMessage, limit_bytes: int) -> bool:
        """Queues `plaintext`, fragmented if it exceeds `limit_bytes`, the room in one packet. Returns False
        if the queue is full."""
        size_bytes = len(plaintext)
        kind = plaintext.kind if isinstance(plaintext, ChunkedMessage) else plaintext[0]
        rank = RANK_OF_KIND.get(kind, CONTROL)
        if rank == DATA and size_bytes > BYTES_PER_TOKEN:
            rank = BULK
        if not self.has_room(rank, size_bytes):
            return False
        if size_bytes > limit_bytes or isinstance(plaintext, ChunkedMessage):
            self._queue_of(rank).append(self.make_fragmented(plaintext, rank))
        else:
            self._queue_of(rank).append(plaintext)
        self.queued_bytes[rank] += size_bytes
        return True

    def make_fragmented(self, plaintext: bytes | ChunkedMessage, rank: int) -> FragmentedMessage:
        """Returns `plaintext` as a fragmented message with a new number."""
        self._next_message_number += 1
        return FragmentedMessage(plaintext, self._next_message_number, rank)

    def requeue_lost(self, lost: Retransmission, now: float) -> None:
        """Queues a lost message at the front and refunds its token."""
        if self.send_limit is not None and lost.rank != REPAIR:
            self.send_limit.refund(now, token_cost(lost.plaintext[0]))
        self.push_front(lost, lost.rank)

    def push_front(self, item: QueuedItem, rank: int) -> None:
        """Puts `item` at the front of its rank."""
        self._queue_of(rank).appendleft(item)

    def _queue_of(self, rank: int) -> deque[QueuedItem]:
        queue = self.by_rank[rank]
        if queue is _EMPTY_QUEUE:
            queue = self.by_rank[rank] = deque()
        return queue

    def clear(self) -> int:
        """Empties all queues. Returns how many items they held."""
        cleared = len(self)
        for queue in self.by_rank:
            queue.clear()
        self.queued_bytes = [0] * 5
        return cleared

    # --- the peer's rate limit ------------------------------------------------------------------

    def try_charge(self, item: QueuedItem, now: float) -> bool:
        """Takes the tokens that sending `item` costs. Returns False if there are too few."""
        if self.send_limit is None:
            return True
        tokens = _tokens_due(item)
        if not tokens:
            return True
        if not self.send_limit.try_take(now, tokens):
            return False
        if isinstance(item, FragmentedMessage):
            item.charged_bytes += BYTES_PER_TOKEN
        return True

    def chargeable_at(self, item: QueuedItem, now: float) -> float:
        """When `try_charge` will succeed for `item`."""
        return now if self.send_limit is None else self.send_limit.ready_at(now, _tokens_due(item))


def _tokens_due(item: QueuedItem) -> int:
    """Returns the tokens for the next packet of `item`: one per message or per 64 KiB of a large one;
    repairs are free."""
    if isinstance(item, bytes):
        return token_cost(item[0]) if item[0] != Kind.REPAIR else 0
    if isinstance(item, FragmentedMessage):
        return int(not item.is_free and item.sent_bytes >= item.charged_bytes)
    if isinstance(item, Retransmission):
        return token_cost(item.plaintext[0]) if item.rank != REPAIR else 0
    return 0
