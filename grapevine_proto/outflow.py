"""Rumors that wait for links: several join an envelope, so that pressure makes envelopes bigger.

A peer allows us so many envelopes a second. While a link has no token to spend, or no room, what is
to be told there waits here, encoded once for all peers; as soon as one envelope may go, as many
rumors as fit go in it.

What must stay true:

- At most `queue_messages` rumors and `queue_bytes` wait for one peer, and as many large ones, of
  which one may be of any size. What finds no room is counted on its link as `unsent`, payload by
  payload, and left to repair.
- A peer without room makes whoever asks `has_room` wait, for `BEHIND_S`; one that has had none for
  longer is left behind, so that it does not hold up the others. If all are, all wait.
- Rumors go in the order in which they came, but small ones do not wait for large ones.
- A peer whose application is behind may have its rumors held back, for `PAUSE_LIMIT_S` at a time. Held
  back for longer than `BEHIND_S` it is left behind like any other peer without room.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from grapevine_proto import codec
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import RumorCopy
from grapevine_proto.sections import LimitsConfig
from grapevine_proto.signed import LEAST_PAYLOAD_BYTES

MESSAGE_BYTES: Final = 64_900  # of one envelope: what a token pays for, and a datagram of loopback
BEHIND_S: Final = 1.0  # without room; then a peer is left to repair
PAUSE_LIMIT_S: Final = 1.0  # for which one Pause holds back what waits for a peer
# 90 tokens and 45 a second, which is what the defaults tell peers, come to 720 rumors a second then:
# within the 1,200 that the receiver will check for one sender.
COPIES_AT_ONCE: Final = 16


class Outlet(Protocol):
    """What a link has to be for what waits for it."""

    @property
    def peer_id(self) -> PeerId: ...

    def is_ready(self, now: float) -> bool:
        """Whether a message of rumors would go at once if it were queued now."""
        ...

    def ready_at(self, now: float) -> float:
        """When it is, as things are; math.inf: not before something goes or is told of."""
        ...

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a message of rumors of so many bytes would be queued."""
        ...

    def send(self, plaintext: bytes, now: float) -> bool: ...

    def count_unsent(self, messages: int) -> None: ...


class _Encoded:
    """A copy as it stands in an envelope, for every link that it waits for."""

    __slots__ = ("_alone", "copy", "payloads", "size_bytes")

    def __init__(self, copy: bytes, payloads: int) -> None:
        self.copy = copy
        self.payloads = payloads
        self.size_bytes = max(len(copy), LEAST_PAYLOAD_BYTES * payloads)
        self._alone = b""

    @property
    def alone(self) -> bytes:
        """An envelope of nothing else: the same bytes for all links."""
        if not self._alone:
            self._alone = codec.join_copies([self.copy])
        return self._alone


class _Lane:
    """Copies that wait in order."""

    __slots__ = ("copies", "full_since", "payloads", "size_bytes")

    def __init__(self) -> None:
        self.copies: deque[_Encoded] = deque()
        self.size_bytes = 0
        self.payloads = 0
        self.full_since = math.inf

    def add(self, encoded: _Encoded) -> None:
        self.copies.append(encoded)
        self.size_bytes += encoded.size_bytes
        self.payloads += encoded.payloads

    def take(self) -> _Encoded:
        encoded = self.copies.popleft()
        self.size_bytes -= encoded.size_bytes
        self.payloads -= encoded.payloads
        return encoded

    def next_envelope(self, limit_bytes: int) -> bytes:
        """A message with the first, and as many more as fit with it."""
        first = self.take()
        if not self.copies:
            return first.alone
        taken = [first.copy]
        left_bytes = limit_bytes - codec.ENVELOPE_OVERHEAD - len(taken[0])
        left_payloads = codec.MAX_PAYLOADS - first.payloads
        while (
            self.copies
            and len(taken) < COPIES_AT_ONCE
            and len(self.copies[0].copy) <= left_bytes
            and self.copies[0].payloads <= left_payloads
        ):
            following = self.take()
            taken.append(following.copy)
            left_bytes -= len(following.copy)
            left_payloads -= following.payloads
        return codec.join_copies(taken)


class Outflow:
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
        self._small: dict[PeerId, _Lane] = {}
        self._large: dict[PeerId, _Lane] = {}
        self._full: dict[PeerId, _Lane] = {}  # of the small, without room for another envelope
        self._paused_until: dict[PeerId, float] = {}  # of links alone, until their pause is over
        self._now = -math.inf

    def pause(self, peer_id: PeerId, duration_s: float, now: float) -> None:
        """Hold back what waits for `peer_id` from now on, for at most `PAUSE_LIMIT_S`; 0 s: no longer."""
        if duration_s > 0:
            self._paused_until[peer_id] = now + min(duration_s, PAUSE_LIMIT_S)
        else:
            self._paused_until.pop(peer_id, None)

    def _paused_for(self, peer_id: PeerId, now: float) -> float:
        """For how many seconds `peer_id` is to get nothing; at most 0: it is not paused."""
        if not self._paused_until:
            return 0.0
        left_s = self._paused_until.get(peer_id, now) - now
        if left_s <= 0:
            self._paused_until.pop(peer_id, None)
        return left_s

    def push(self, copy: RumorCopy, links: Iterable[Outlet], now: float) -> int:
        """Let `copy` go to each of `links`, as soon as that can be; how many have room for it."""
        self._now = now
        is_ours = copy.rumor.origin == self._our_id
        payloads, took = len(copy.rumor.lengths), 0
        encoded = _Encoded(codec.encode_copy(copy, is_ours=is_ours), payloads)
        is_large = self._is_large(len(encoded.copy))
        if is_large:
            encoded = _Encoded(encoded.alone, payloads)
        size_bytes, lanes = encoded.size_bytes, self._large if is_large else self._small
        for link in links:
            lane = lanes.get(link.peer_id)
            if lane is None:
                lane = lanes[link.peer_id] = _Lane()
            elif not self._has_room(lane, size_bytes):
                link.count_unsent(payloads)
                continue
            lane.add(encoded)
            took += 1
            if is_large:
                lane.full_since = min(lane.full_since, now)
            elif not self._has_room(lane, self._message_bytes):
                lane.full_since = min(lane.full_since, now)
                self._full[link.peer_id] = lane
        return took

    def _is_large(self, size_bytes: int) -> bool:
        return size_bytes + codec.ENVELOPE_OVERHEAD > self._message_bytes

    def _has_room(self, lane: _Lane, size_bytes: int) -> bool:
        return not lane.copies or (
            len(lane.copies) < self._limits.queue_messages
            and lane.size_bytes + size_bytes <= self._limits.queue_bytes
        )

    def look(self, now: float) -> None:
        """Time passed, which is what it takes to be left behind."""
        self._now = now

    def only(self, link: Outlet) -> bytes | None:
        """The envelope of all that waits for `link`, where that is one small rumor; None: it is not."""
        lane = self._small.get(link.peer_id)
        if lane is None or len(lane.copies) != 1 or link.peer_id in self._large:
            return None
        if self._paused_for(link.peer_id, self._now) > 0:
            return None
        return lane.copies[0].alone

    def went(self, link: Outlet) -> None:
        """What was the `only` one that waited has gone another way."""
        del self._small[link.peer_id]
        self._full.pop(link.peer_id, None)

    def fill(self, link: Outlet, now: float) -> bool:
        """Hand `link` what it can send at once, and the next large rumor, which it sends in turns with
        all else; whether more waits for it."""
        self._now = now
        if self._paused_for(link.peer_id, now) > 0:
            return link.peer_id in self._small or link.peer_id in self._large
        small, large = self._small.get(link.peer_id), self._large.get(link.peer_id)
        if large is not None:
            while large.copies and link.has_room_for(len(large.copies[0].copy)):
                link.send(large.take().copy, now)
            if not large.copies:
                del self._large[link.peer_id]
        if small is not None:
            while small.copies and link.has_room_for(self._message_bytes) and link.is_ready(now):
                link.send(small.next_envelope(self._message_bytes), now)
            if not small.copies:
                del self._small[link.peer_id]
            if link.peer_id in self._full and self._has_room(small, self._message_bytes):
                small.full_since = math.inf
                del self._full[link.peer_id]
        return link.peer_id in self._small or link.peer_id in self._large

    def ready_at(self, link: Outlet, now: float) -> float:
        """When to fill `link` again, which has sent what it could; math.inf: not before it makes room."""
        paused_s = self._paused_for(link.peer_id, now)
        if paused_s > 0:
            return now + paused_s
        large = self._large.get(link.peer_id)
        if large is not None and link.has_room_for(len(large.copies[0].copy)):
            return now
        is_open = link.peer_id in self._small and link.has_room_for(self._message_bytes)
        return link.ready_at(now) if is_open else math.inf

    def is_idle(self, link: Outlet, now: float) -> bool:
        """Whether a rumor pushed to `link` now would go at once."""
        is_waiting = link.peer_id in self._small or link.peer_id in self._large
        return not is_waiting and link.is_ready(now) and self._paused_for(link.peer_id, now) <= 0

    def has_room(self, links: int, size_bytes: int = 0) -> bool:
        """Whether another rumor of ours of so many bytes finds room, as of the last look, with every
        one of so many links that is not left behind."""
        full = self._large if self._is_large(size_bytes) else self._full
        if not full:
            return True
        behind = sum(self._now >= lane.full_since + BEHIND_S for lane in full.values())
        return behind == len(full) and behind < links

    def waiting(self, peer_id: PeerId) -> int:
        """How many payloads wait for a peer."""
        lanes = (self._small.get(peer_id), self._large.get(peer_id))
        return sum(lane.payloads for lane in lanes if lane is not None)

    def forget(self, peer_id: PeerId) -> int:
        """Let go of all that waits for a peer; how many payloads that was."""
        waited = self.waiting(peer_id)
        self._paused_until.pop(peer_id, None)
        for lanes in (self._full, self._small, self._large):
            lanes.pop(peer_id, None)
        return waited

    @property
    def deadline(self) -> float:
        """When a link is left behind."""
        deadline = math.inf
        for lane in (*self._full.values(), *self._large.values()):
            if self._now < lane.full_since + BEHIND_S:
                deadline = min(deadline, lane.full_since + BEHIND_S)
        return deadline
