"""Per-peer rumor queues that coalesce waiting rumors into larger Rumors messages under load.

A peer grants a limited number of messages per second. While a link has no tokens or no room, its rumors wait
here, encoded once for all peers. The next message takes as many of them as fit.

Invariants:

- At most `queue_messages` rumors and `queue_bytes` wait for one peer, and separately as many large ones,
  one of which may have any size. Rumors without room are counted on their link as `send_drops`, per
  payload, and left to anti-entropy.
- A peer without room causes backpressure (`has_room`) for `SLOW_PEER_AFTER_S`. After that it is a slow
  peer and no longer delays the others. If all peers are slow, broadcasts wait.
- Rumors keep their order, except that small ones do not wait for large ones.
- A peer whose application is behind can pause its rumors, for `MAX_PAUSE_S` at a time. Paused for longer than
  `SLOW_PEER_AFTER_S` it is a slow peer like any other.
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

RUMORS_MESSAGE_BYTES: Final = 64_900  # paid for by one token, and fits one loopback datagram
SLOW_PEER_AFTER_S: Final = 1.0  # without room; then anti-entropy has to deliver
MAX_PAUSE_S: Final = 1.0  # per Pause message
# With the default limit of 45 messages/s this is 720 rumors/s, below the 1,200 signatures/s that a receiver
# verifies for one sender.
RUMORS_PER_MESSAGE_LIMIT: Final = 16


class SendTarget(Protocol):
    """What the coalescer requires of a link."""

    @property
    def peer_id(self) -> PeerId: ...

    def is_ready(self, now: float) -> bool:
        """Whether a Rumors message would be sent at once if it were queued now."""
        ...

    def next_send_at(self, now: float) -> float:
        """When `is_ready` becomes true without further events; math.inf: only after one."""
        ...

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether `send` would accept a Rumors message of `size_bytes` bytes."""
        ...

    def send(self, plaintext: bytes, now: float) -> bool: ...

    def count_send_drops(self, messages: int) -> None: ...


class _EncodedRumor:
    """A rumor copy encoded for a Rumors message, shared by all queues that hold it."""

    __slots__ = ("_single_message", "copy", "payloads", "size_bytes")

    def __init__(self, copy: bytes, payloads: int) -> None:
        self.copy = copy
        self.payloads = payloads
        self.size_bytes = max(len(copy), MIN_COUNTED_PAYLOAD_BYTES * payloads)
        self._single_message = b""

    @property
    def single_message(self) -> bytes:
        """The Rumors message with only this rumor, shared by all links."""
        if not self._single_message:
            self._single_message = codec.encode_rumors([self.copy])
        return self._single_message


class _PeerQueue:
    """The waiting rumors of one peer, in order."""

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
        """Removes the first rumor and as many more as fit; returns the Rumors message with them."""
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
    """The rumor queues of all links.

    `message_bytes` limits a Rumors message, except one with a single larger rumor. Rumors of `our_id` are
    tracked, so their acknowledgment can be reported.
    """

    def __init__(
        self, limits: LimitsConfig, message_bytes: int, our_id: PeerId | None = None
    ) -> None:
        self._our_id = our_id
        self._limits = limits
        self._message_bytes = message_bytes
        # Only links with waiting rumors have entries. Small queues hold copies to be coalesced; large
        # queues hold
        # complete messages with one rumor each, shared by all links.
        self._small_queues: dict[PeerId, _PeerQueue] = {}
        self._large_queues: dict[PeerId, _PeerQueue] = {}
        self._full_queues: dict[PeerId, _PeerQueue] = {}  # small queues without room for a message
        self._paused_until: dict[PeerId, float] = {}  # connected peers only
        self._now = -math.inf

    def pause(self, peer_id: PeerId, duration_s: float, now: float) -> None:
        """Holds back the rumors for `peer_id` for `duration_s`, at most `MAX_PAUSE_S`; 0 ends the pause."""
        if duration_s > 0:
            self._paused_until[peer_id] = now + min(duration_s, MAX_PAUSE_S)
        else:
            self._paused_until.pop(peer_id, None)

    def _pause_remaining_s(self, peer_id: PeerId, now: float) -> float:
        """Returns the seconds until the pause of `peer_id` ends; 0 or less: it is not paused."""
        if not self._paused_until:
            return 0.0
        remaining_s = self._paused_until.get(peer_id, now) - now
        if remaining_s <= 0:
            self._paused_until.pop(peer_id, None)
        return remaining_s

    def enqueue(self, copy: RumorCopy, links: Iterable[SendTarget], now: float) -> int:
        """Queues `copy` for each of `links`. Returns how many had room for it."""
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
        """Sets the current time, by which `has_room` recognizes slow peers."""
        self._now = now

    def peek_single(self, link: SendTarget) -> bytes | None:
        """Returns the message for `link` if exactly one small rumor waits for it, else None."""
        queue = self._small_queues.get(link.peer_id)
        if queue is None or len(queue.rumors) != 1 or link.peer_id in self._large_queues:
            return None
        if self._pause_remaining_s(link.peer_id, self._now) > 0:
            return None
        return queue.rumors[0].single_message

    def pop_single(self, link: SendTarget) -> None:
        """Removes the rumor that `peek_single` returned: it was sent by cut-through."""
        del self._small_queues[link.peer_id]
        self._full_queues.pop(link.peer_id, None)

    def drain_into(self, link: SendTarget, now: float) -> bool:
        """Moves to `link` what it can send at once, and large rumors while it has room, which it alternates
        with small ones. Returns whether more is waiting."""
        self._now = now
        if not self._small_queues and not self._large_queues:
            return False
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
        """When to call `drain_into` again; math.inf: after `link` makes room."""
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
        """Whether a rumor of `size_bytes` bytes fits the queues of all peers that are not slow, as of the
        last `tick`. `link_count` is the number of links."""
        full = self._large_queues if self._is_large(size_bytes) else self._full_queues
        if not full:
            return True
        slow_count = sum(
            self._now >= queue.full_since + SLOW_PEER_AFTER_S for queue in full.values()
        )
        return slow_count == len(full) and slow_count < link_count

    def queued_payloads(self, peer_id: PeerId) -> int:
        """Returns the number of payloads that wait for `peer_id`."""
        queues = (self._small_queues.get(peer_id), self._large_queues.get(peer_id))
        return sum(queue.payloads for queue in queues if queue is not None)

    def remove_peer(self, peer_id: PeerId) -> int:
        """Drops everything that waits for `peer_id`. Returns the number of payloads."""
        dropped = self.queued_payloads(peer_id)
        self._paused_until.pop(peer_id, None)
        for queues in (self._full_queues, self._small_queues, self._large_queues):
            queues.pop(peer_id, None)
        return dropped

    @property
    def deadline(self) -> float:
        """When the next peer becomes slow; math.inf: none."""
        deadline = math.inf
        if not self._full_queues and not self._large_queues:
            return deadline
        for queue in (*self._full_queues.values(), *self._large_queues.values()):
            if self._now < queue.full_since + SLOW_PEER_AFTER_S:
                deadline = min(deadline, queue.full_since + SLOW_PEER_AFTER_S)
        return deadline
