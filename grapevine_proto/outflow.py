"""Rumors that wait for links: several join an envelope, so that pressure makes envelopes bigger.

A peer allows us so many envelopes a second. While a link has no token to spend, or no room, what is
to be told there waits here, encoded once for all peers; as soon as one envelope may go, as many
rumors as fit go in it.

What must stay true:

- At most `queue_messages` rumors and `queue_bytes` wait for one peer. What finds no room is counted
  on its link as `unsent`, payload by payload, and left to repair.
- A peer without room makes whoever asks `has_room` wait, for `BEHIND_S`; one that has had none for
  longer is left behind, so that it does not hold up the others. If all are, all wait.
- Rumors go in the order in which they came.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from grapevine_proto import codec
from grapevine_proto.config import LimitsConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import RumorCopy

BEHIND_S: Final = 1.0  # without room; then a peer is left to repair
# 90 tokens and 45 a second, which is what the defaults tell peers, come to 720 rumors a second then:
# within the 1,200 that the receiver will check for one sender.
COPIES_AT_ONCE: Final = 16


class Outlet(Protocol):
    """What a link has to be for what waits for it."""

    unsent: int

    @property
    def peer_id(self) -> PeerId: ...

    def takes(self, now: float) -> int:
        """How many messages of rumors would go at once if they were queued now."""
        ...

    def takes_at(self, now: float) -> float:
        """When that is next more than 0, as things are; math.inf: not before something goes."""
        ...

    def send(self, plaintext: bytes, now: float) -> bool: ...


class _Backlog:
    """What waits for one link: encoded copies, each with the number of payloads in it."""

    __slots__ = ("copies", "full_since", "payloads", "ready_at", "size_bytes")

    def __init__(self) -> None:
        self.copies: deque[tuple[bytes, int]] = deque()
        self.size_bytes = 0
        self.payloads = 0
        self.full_since = math.inf
        self.ready_at = -math.inf  # when its link takes more, as of the last look

    def next_envelope(self, limit_bytes: int) -> bytes:
        """The next message for the link: one copy, and as many more as fit with it."""
        taken: list[bytes] = []
        left_bytes = limit_bytes - codec.ENVELOPE_OVERHEAD
        while self.copies and len(taken) < COPIES_AT_ONCE:
            copy, payloads = self.copies[0]
            if taken and len(copy) > left_bytes:
                break
            self.copies.popleft()
            taken.append(copy)
            left_bytes -= len(copy)
            self.size_bytes -= len(copy)
            self.payloads -= payloads
        return codec.join_copies(taken)


class Outflow:
    """What waits, for every link. `message_bytes`: what one envelope may have."""

    def __init__(self, limits: LimitsConfig, message_bytes: int) -> None:
        self._limits = limits
        self._message_bytes = message_bytes
        self._backlogs: dict[PeerId, _Backlog] = {}  # only of links for which something waits
        self._full: dict[PeerId, _Backlog] = {}  # of those, without room for another envelope
        self._now = -math.inf

    def push(self, copy: RumorCopy, links: Iterable[Outlet], now: float) -> int:
        """Let `copy` go to each of `links`, as soon as that can be; how many have room for it."""
        self._now = now
        encoded, payloads, took = codec.encode_copy(copy), len(copy.rumor.lengths), 0
        for link in links:
            backlog = self._backlogs.get(link.peer_id)
            if backlog is None:
                backlog = self._backlogs[link.peer_id] = _Backlog()
            if not self._has_room(backlog, len(encoded)):
                link.unsent += payloads
                continue
            backlog.copies.append((encoded, payloads))
            backlog.size_bytes += len(encoded)
            backlog.payloads += payloads
            backlog.ready_at = -math.inf
            took += 1
            if not self._has_room(backlog, self._message_bytes):
                backlog.full_since = min(backlog.full_since, now)
                self._full[link.peer_id] = backlog
        return took

    def _has_room(self, backlog: _Backlog, size_bytes: int) -> bool:
        return not backlog.copies or (
            len(backlog.copies) < self._limits.queue_messages
            and backlog.size_bytes + size_bytes <= self._limits.queue_bytes
        )

    def fill(self, link: Outlet, now: float) -> bool:
        """Hand `link` what it can send at once; whether more waits for it."""
        self._now = now
        backlog = self._backlogs.get(link.peer_id)
        if backlog is None:
            return False
        for _ in range(link.takes(now)):
            link.send(backlog.next_envelope(self._message_bytes), now)
            if not backlog.copies:
                self.forget(link.peer_id)
                return False
        backlog.ready_at = link.takes_at(now)
        if link.peer_id in self._full and self._has_room(backlog, self._message_bytes):
            backlog.full_since = math.inf
            del self._full[link.peer_id]
        return True

    def is_idle(self, link: Outlet, now: float) -> bool:
        """Whether a rumor pushed to `link` now would go at once."""
        return link.peer_id not in self._backlogs and link.takes(now) > 0

    def has_room(self, links: int) -> bool:
        """Whether another rumor of ours finds room, as of the last look, with every one of so many
        links that is not left behind."""
        if not self._full:
            return True
        behind = sum(self._now >= backlog.full_since + BEHIND_S for backlog in self._full.values())
        return behind == len(self._full) and behind < links

    def waiting(self, peer_id: PeerId) -> int:
        """How many payloads wait for a peer."""
        backlog = self._backlogs.get(peer_id)
        return backlog.payloads if backlog is not None else 0

    def forget(self, peer_id: PeerId) -> int:
        """Let go of all that waits for a peer; how many payloads that was."""
        self._full.pop(peer_id, None)
        backlog = self._backlogs.pop(peer_id, None)
        return backlog.payloads if backlog is not None else 0

    @property
    def deadline(self) -> float:
        """When a link takes more, or is left behind."""
        deadline = math.inf
        for backlog in self._backlogs.values():
            deadline = min(deadline, backlog.ready_at)
        for backlog in self._full.values():
            if self._now < backlog.full_since + BEHIND_S:
                deadline = min(deadline, backlog.full_since + BEHIND_S)
        return deadline
