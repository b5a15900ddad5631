"""Rumors that wait for links: several join an envelope, so that pressure makes envelopes bigger.

A peer allows us so many envelopes a second. While a link has no token to spend, or no room, what is
to be told there waits here, encoded once for all peers; as soon as one envelope may go, as many
rumors as fit go in it.

What must stay true:

- At most `queue_messages` rumors and `queue_bytes` wait for one peer, and as many large ones, of
  which one may be of any size. What finds no room is counted on its link as `unsent`, payload by
  payload, and left to repair.
- A peer without room makes whoever asks `has_room` wait, for `SLOW_PEER_AFTER_S`; one that has had none for
  longer is left behind, so that it does not hold up the others. If all are, all wait.
- Rumors go in the order in which they came, but small ones do not wait for large ones.
- A peer whose application is behind may have its rumors held back, for `MAX_PAUSE_S` at a time. Held
  back for longer than `SLOW_PEER_AFTER_S` it is left behind like any other peer without room.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import MIN_COUNTED_PAYLOAD_BYTES

RUMORS_MESSAGE_BYTES: Final = (
    64_900  # of one envelope: what a token pays for, and a datagram of loopback
)
SLOW_PEER_AFTER_S: Final = 1.0  # without room; then a peer is left to repair
MAX_PAUSE_S: Final = 1.0  # for which one Pause holds back what waits for a peer
# 90 tokens and 45 a second, which is what the defaults tell peers, come to 720 rumors a second then:
# within the 1,200 that the receiver will check for one sender.
RUMORS_PER_MESSAGE_LIMIT: Final = 16


class SendTarget(Protocol):
    """What a link has to be for what waits for it."""

    @property
    def peer_id(self) -> PeerId: ...

    def is_ready(self, now: float) -> bool:
        """Whether a message of rumors would go at once if it were queued now."""
        ...

    def next_send_at(self, now: float) -> float:
        """When it is, as things are; math.inf: not before something goes or is told of."""
        ...

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a message of rumors of so many bytes would be queued."""
        ...

    def send(self, plaintext: bytes, now: float) -> bool: ...

    def count_send_drops(self, messages: int) -> None: ...


class _EncodedRumor:
    """A copy as it stands in an envelope, for every link that it waits for."""

    __slots__ = ("_single_message", "copy", "payloads", "size_bytes")

    def __init__(self, copy: bytes, payloads: int) -> None:
        self.copy = copy
        self.payloads = payloads
        self.size_bytes = max(len(copy), MIN_COUNTED_PAYLOAD_BYTES * payloads)
        self._single_message = b""

    @property
    def single_message(self) -> bytes:
        """An envelope of nothing else: the same bytes for all links."""
        if not self._single_message:
            self._single_message = codec.encode_rumors([self.copy])
        return self._single_message


class _PeerQueue:
    """Copies that wait in order."""

    __slots__ = ("full_since", "payloads", "rumors", "size_bytes")

    def __init__(self) -> None:
        self.rumors: deque[_EncodedRumor] = deque()
        self.size_bytes = 0
        self.payloads = 0
        self.full_since = math.inf

    def append(self, encoded: _EncodedRumor) -> None:
        self.rumors.append(encoded)
        self.size_bytes += encoded.size_bytes
        self.payloads += encoded.payloads

    def pop(self) -> _EncodedRumor:
        encoded = self.rumors.popleft()
        self.size_bytes -= encoded.size_bytes
        self.payloads -= encoded.payloads
        return encoded

    def pop_message(self, limit_bytes: int) -> bytes:
        """A message with the first, and as many more as fit with it."""
        first = self.pop()
        if not self.rumors:
            return first.single_message
        encoded = [first.copy]
        remaining_bytes = limit_bytes - codec.RUMORS_OVERHEAD_BYTES - len(encoded[0])
        remaining_payloads = codec.MAX_PAYLOADS - first.payloads
        while (
            self.rumors
            and len(encoded) < RUMORS_PER_MESSAGE_LIMIT
            and len(self.rumors[0].copy) <= remaining_bytes
            and self.rumors[0].payloads <= remaining_payloads
        ):
            following = self.pop()
            encoded.append(following.copy)
            remaining_bytes -= len(following.copy)
            remaining_payloads -= following.payloads
        return codec.encode_rumors(encoded)


class RumorCoalescer:
    """What waits, for every link. `message_bytes`: what one envelope may have, but for one rumor that
    is larger alone. What tells rumors of `our_id` is marked so."""

    def __init__(
        self, limits: LimitsConfig, message_bytes: int, our_id: PeerId | None = None
    ) -> None:
        self._our_id = our_id
        self._limits = limits
        self._message_bytes = message_bytes
        # Only of links for which something waits: copies that share envelopes, and whole envelopes with
        # one large rumor each, which are the same bytes for all links.
        self._small_queues: dict[PeerId, _PeerQueue] = {}
        self._large_queues: dict[PeerId, _PeerQueue] = {}
        self._full_queues: dict[
            PeerId, _PeerQueue
        ] = {}  # of the small, without room for another envelope
        self._paused_until: dict[PeerId, float] = {}  # of links alone, until their pause is over
        self._now = -math.inf

    def pause(self, peer_id: PeerId, duration_s: float, now: float) -> None:
        """Hold back what waits for `peer_id` from now on, for at most `MAX_PAUSE_S`; 0 s: no longer."""
        if duration_s > 0:
            self._paused_until[peer_id] = now + min(duration_s, MAX_PAUSE_S)
        else:
            self._paused_until.pop(peer_id, None)

    def _pause_remaining_s(self, peer_id: PeerId, now: float) -> float:
        """For how many seconds `peer_id` is to get nothing; at most 0: it is not paused."""
        if not self._paused_until:
            return 0.0
        remaining_s = self._paused_until.get(peer_id, now) - now
        if remaining_s <= 0:
            self._paused_until.pop(peer_id, None)
        return remaining_s

    def enqueue(self, copy: RumorCopy, links: Iterable[SendTarget], now: float) -> int:
        """Let `copy` go to each of `link_count`, as soon as that can be; how many have room for it."""
        self._now = now
        is_tracked = copy.rumor.origin == self._our_id
        payloads, accepted = len(copy.rumor.lengths), 0
        encoded = _EncodedRumor(codec.encode_rumor_copy(copy, is_tracked=is_tracked), payloads)
        is_large = self._is_large(len(encoded.copy))
        if is_large:
            encoded = _EncodedRumor(encoded.single_message, payloads)
        size_bytes, queues = (
            encoded.size_bytes,
            self._large_queues if is_large else self._small_queues,
        )
        for link in links:
            queue = queues.get(link.peer_id)
            if queue is None:
                queue = queues[link.peer_id] = _PeerQueue()
            elif not self._has_room(queue, size_bytes):
                link.count_send_drops(payloads)
                continue
            queue.append(encoded)
            accepted += 1
            if is_large:
                queue.full_since = min(queue.full_since, now)
            elif not self._has_room(queue, self._message_bytes):
                queue.full_since = min(queue.full_since, now)
                self._full_queues[link.peer_id] = queue
        return accepted

    def _is_large(self, size_bytes: int) -> bool:
        return size_bytes + codec.RUMORS_OVERHEAD_BYTES > self._message_bytes

    def _has_room(self, queue: _PeerQueue, size_bytes: int) -> bool:
        return not queue.rumors or (
            len(queue.rumors) < self._limits.queue_messages
            and queue.size_bytes + size_bytes <= self._limits.queue_bytes
        )

    def tick(self, now: float) -> None:
        """Time passed, which is what it takes to be left behind."""
        self._now = now

    def peek_single(self, link: SendTarget) -> bytes | None:
        """The envelope of all that waits for `link`, where that is one small rumor; None: it is not."""
        queue = self._small_queues.get(link.peer_id)
        if queue is None or len(queue.rumors) != 1 or link.peer_id in self._large_queues:
            return None
        if self._pause_remaining_s(link.peer_id, self._now) > 0:
            return None
        return queue.rumors[0].single_message

    def pop_single(self, link: SendTarget) -> None:
        """What was the `peek_single` one that waited has gone another way."""
        del self._small_queues[link.peer_id]
        self._full_queues.pop(link.peer_id, None)

    def drain_into(self, link: SendTarget, now: float) -> bool:
        """Hand `link` what it can send at once, and the next large rumor, which it sends in turns with
        all else; whether more waits for it."""
        self._now = now
        if self._pause_remaining_s(link.peer_id, now) > 0:
            return link.peer_id in self._small_queues or link.peer_id in self._large_queues
        small, large = self._small_queues.get(link.peer_id), self._large_queues.get(link.peer_id)
        if large is not None:
            while large.rumors and link.has_room_for(len(large.rumors[0].copy)):
                link.send(large.pop().copy, now)
            if not large.rumors:
                del self._large_queues[link.peer_id]
        if small is not None:
            while small.rumors and link.has_room_for(self._message_bytes) and link.is_ready(now):
                link.send(small.pop_message(self._message_bytes), now)
            if not small.rumors:
                del self._small_queues[link.peer_id]
            if link.peer_id in self._full_queues and self._has_room(small, self._message_bytes):
                small.full_since = math.inf
                del self._full_queues[link.peer_id]
        return link.peer_id in self._small_queues or link.peer_id in self._large_queues

    def next_drain_at(self, link: SendTarget, now: float) -> float:
        """When to fill `link` again, which has sent what it could; math.inf: not before it makes room."""
        paused_s = self._pause_remaining_s(link.peer_id, now)
        if paused_s > 0:
            return now + paused_s
        large = self._large_queues.get(link.peer_id)
        if large is not None and link.has_room_for(len(large.rumors[0].copy)):
            return now
        can_drain = link.peer_id in self._small_queues and link.has_room_for(self._message_bytes)
        return link.next_send_at(now) if can_drain else math.inf

    def can_send_now(self, link: SendTarget, now: float) -> bool:
        """Whether a rumor pushed to `link` now would go at once."""
        is_queued = link.peer_id in self._small_queues or link.peer_id in self._large_queues
        return (
            not is_queued and link.is_ready(now) and self._pause_remaining_s(link.peer_id, now) <= 0
        )

    def has_room(self, link_count: int, size_bytes: int = 0) -> bool:
        """Whether another rumor of ours of so many bytes finds room, as of the last look, with every
        one of so many links that is not left behind."""
        full = self._large_queues if self._is_large(size_bytes) else self._full_queues
        if not full:
            return True
        slow_count = sum(
            self._now >= queue.full_since + SLOW_PEER_AFTER_S for queue in full.values()
        )
        return slow_count == len(full) and slow_count < link_count

    def queued_payloads(self, peer_id: PeerId) -> int:
        """How many payloads wait for a peer."""
        queues = (self._small_queues.get(peer_id), self._large_queues.get(peer_id))
        return sum(queue.payloads for queue in queues if queue is not None)

    def remove_peer(self, peer_id: PeerId) -> int:
        """Let go of all that waits for a peer; how many payloads that was."""
        dropped = self.queued_payloads(peer_id)
        self._paused_until.pop(peer_id, None)
        for queues in (self._full_queues, self._small_queues, self._large_queues):
            queues.pop(peer_id, None)
        return dropped

    @property
    def deadline(self) -> float:
        """When a link is left behind."""
        deadline = math.inf
        for queue in (*self._full_queues.values(), *self._large_queues.values()):
            if self._now < queue.full_since + SLOW_PEER_AFTER_S:
                deadline = min(deadline, queue.full_since + SLOW_PEER_AFTER_S)
        return deadline
