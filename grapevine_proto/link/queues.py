"""What waits to go out on one link: a queue for each rank, and what the peer allows of it.

What must stay true:

- Queues are bounded by number and bytes, large messages apart, and rumors never take the room of
  control. Work for one message does not depend on how many wait.
- Whatever is lost waits before what is new of its rank.
- What the peer's record allows is never exceeded, counting each content once: what is lost gives its
  token back.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from grapevine_proto.codec import Spliced
from grapevine_proto.link.fragments import ENVELOPE_BYTES, Outgoing
from grapevine_proto.messages import Kind
from grapevine_proto.ratelimit import TokenBucket, cost
from grapevine_proto.sections import LimitsConfig

CONTROL, DATA, BULK, REPAIR, CLOSE = range(5)  # in this order they go; DATA and BULK take turns
RANKS: Final[dict[int, int]] = {
    Kind.RUMORS: DATA,
    Kind.PRIVATE: DATA,
    Kind.REPAIR: REPAIR,
    Kind.CLOSE: CLOSE,  # after all else, for whoever reads it reads no more
}


class Lost:
    """A message of one packet that seems lost; `session_id`, `counter` say which packet that was."""

    __slots__ = ("counter", "plaintext", "rank", "session_id", "tries")

    def __init__(
        self, session_id: bytes, counter: int, plaintext: bytes, rank: int, tries: int
    ) -> None:
        self.session_id = session_id
        self.counter = counter
        self.plaintext = plaintext
        self.rank = rank
        self.tries = tries


class LostPart:
    """A part of a large message that seems lost."""

    __slots__ = ("end", "message", "start", "tries")

    def __init__(self, message: Outgoing, start: int, end: int, tries: int) -> None:
        self.message = message
        self.start = start
        self.end = end
        self.tries = tries


Item: TypeAlias = bytes | Outgoing | Lost | LostPart


_NOTHING: Final[deque[Item]] = deque()  # stands for a queue that was never needed: 700 bytes each


class Queues:
    """`ranks` are the queues, `bytes` what of each has not gone yet; `shape` is what the peer allows us,
    None: everything."""

    __slots__ = ("_bytes_limit", "_count_limit", "_next_number", "bytes", "ranks", "shape")

    def __init__(self, limits: LimitsConfig, first_number: int) -> None:
        self.ranks: list[deque[Item]] = [_NOTHING] * 5  # most links never need more than one or two
        self.bytes = [0] * 5
        self.shape: TokenBucket | None = None
        self._count_limit = limits.queue_messages
        self._bytes_limit = limits.queue_bytes
        self._next_number = first_number

    def __len__(self) -> int:
        """Messages, and lost parts of them."""
        return sum(map(len, self.ranks))

    def has_room(self, rank: int, size_bytes: int) -> bool:
        """Control has room of its own, or rumors that wait would shut out the heartbeat; so have
        large messages, of which one always finds some."""
        ranks, bytes_of = self.ranks, self.bytes
        if size_bytes > ENVELOPE_BYTES:
            count, waiting_bytes = len(ranks[rank]), bytes_of[rank]
        else:
            one, other = (DATA, REPAIR) if rank in (DATA, REPAIR) else (CONTROL, CLOSE)
            count = len(ranks[one]) + len(ranks[other])
            waiting_bytes = bytes_of[one] + bytes_of[other]
        if not count:
            return True
        return count < self._count_limit and waiting_bytes + size_bytes <= self._bytes_limit

    def push(self, plaintext: bytes | Spliced, room_bytes: int) -> bool:
        """Let `plaintext` wait, to be split where a packet has no more than `room_bytes`; False: there
        is no room."""
        size_bytes = len(plaintext)
        kind = plaintext.kind if isinstance(plaintext, Spliced) else plaintext[0]
        rank = RANKS.get(kind, CONTROL)
        if rank == DATA and size_bytes > ENVELOPE_BYTES:
            rank = BULK
        if not self.has_room(rank, size_bytes):
            return False
        if size_bytes > room_bytes or isinstance(plaintext, Spliced):
            self._at(rank).append(self.large(plaintext, rank))
        else:
            self._at(rank).append(plaintext)
        self.bytes[rank] += size_bytes
        return True

    def large(self, plaintext: bytes | Spliced, rank: int) -> Outgoing:
        """`plaintext` as a message that goes in parts."""
        self._next_number += 1
        return Outgoing(plaintext, self._next_number, rank)

    def put_back(self, lost: Lost, now: float) -> None:
        """It goes again, before what is new, for the token that it had."""
        if self.shape is not None and lost.rank != REPAIR:
            self.shape.give_back(now, cost(lost.plaintext[0]))
        self.put_first(lost, lost.rank)

    def put_first(self, item: Item, rank: int) -> None:
        """It goes before all else of its rank."""
        self._at(rank).appendleft(item)

    def _at(self, rank: int) -> deque[Item]:
        queue = self.ranks[rank]
        if queue is _NOTHING:
            queue = self.ranks[rank] = deque()
        return queue

    def clear(self) -> int:
        """Let go of all that waits; how many that was."""
        cleared = len(self)
        for queue in self.ranks:
            queue.clear()
        self.bytes = [0] * 5
        return cleared

    # --- what the peer allows -------------------------------------------------------------------

    def pay(self, item: Item, now: float) -> bool:
        """Take the token that sending `item` costs, if any."""
        if self.shape is None:
            return True
        tokens = _tokens(item)
        if not tokens:
            return True
        if not self.shape.take(now, tokens):
            return False
        if isinstance(item, Outgoing):
            item.paid_bytes += ENVELOPE_BYTES
        return True

    def paid_at(self, item: Item, now: float) -> float:
        """When `pay` succeeds."""
        return now if self.shape is None else self.shape.ready_at(now, _tokens(item))


def _tokens(item: Item) -> int:
    """One for each message, one for each 64 KiB begun of a large one, none for repair."""
    if isinstance(item, bytes):
        return cost(item[0]) if item[0] != Kind.REPAIR else 0
    if isinstance(item, Outgoing):
        return int(not item.is_free and item.sent_bytes >= item.paid_bytes)
    if isinstance(item, Lost):
        return cost(item.plaintext[0]) if item.rank != REPAIR else 0
    return 0
