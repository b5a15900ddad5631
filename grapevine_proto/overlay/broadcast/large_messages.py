"""Large messages: rumors that are announced to near peers and pulled once by each node.

    we -> Announce                   to each near peer not known to have the rumor
    peer -> IWant                    at once, to one peer that announced it
    we -> Repair                     the rumor, in fragments

A rumor of a topic is announced by `AnnounceTopic` instead, which proves itself without the body. A node that
does not deliver the topic passes the announcement on and pulls nothing; a subscriber behind it pulls from the
holder that the announcement names, over a transient session if it has no link to it.

A push of a large rumor costs one copy per link that it arrives over; a pull costs one copy per
node, for one more round trip per hop. A node that has pulled a rumor announces it in turn, so an
origin with many links does not send all copies itself.

Invariants:

- A rumor is requested from one holder at a time: the first to announce it, then the fastest with
  room in its window. A holder that sends nothing costs at most `PULL_TIMEOUT_BOUNDS`, one that
  sends slowly `PULL_DURATION_LIMIT_S`; then the next one is asked, if any.
- At most `PULL_WINDOW_BYTES` are requested from one holder at a time, or one larger rumor, so that
  the request fits its send queue. Meanwhile waiting rumors may come from other holders.
- An announcement only determines what is requested, and from which peer. It marks nothing as seen.
- A holder that is not linked is asked only if an authentic announcement names it, and at most
  `NAMED_HOLDER_ATTEMPTS` times.
- Announcements of one source have their own limit, so false ones cannot evict those of others.
- The cost of an announcement does not depend on the number of waiting rumors: each is examined at
  its own deadline, or when one of its holders has room again.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from itertools import count
from typing import Final

from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import TimeBounds
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import RANGES_PER_REQUEST
from grapevine_proto.wire.messages import (
    LAZY_REQUEST_ROUND,
    Announce,
    AnnounceTopic,
    IWant,
    RumorCopy,
    announcement,
)
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES, Rumor

PULL_WINDOW_BYTES: Final = 512 * 1024  # half of a link's send queue by default
PULL_TIMEOUT_RTTS: Final = 6.0  # the request or the first fragment may be lost once
PULL_TIMEOUT_BOUNDS: Final = TimeBounds(0.200, 0.500)
PULL_DURATION_LIMIT_S: Final = 10.0  # per rumor while fragments arrive: 10 MiB at 8 Mbit/s
NAMED_HOLDER_ATTEMPTS: Final = 3  # to ask a holder without a link
UNLINKED_PULL_TIMEOUT_S: Final = 2.0  # a session is opened first
PULL_ABANDON_S: Final = 30.0  # without another holder; anti-entropy takes over
PULLS_LIMIT: Final = 1024  # rumors announced and not here, 500 bytes each
PULLS_PER_SOURCE_LIMIT: Final = 128  # of those, announced first by one source
PULL_STALE_TIMERS_ALLOWED: Final = 256  # outdated entries before the heap is rebuilt
HOLDERS_PER_PULL_LIMIT: Final = 8  # per rumor


class _Pull:
    """A large rumor that was announced and that we lack."""

    __slots__ = (
        "announced_by",
        "due_at",
        "first_source",
        "holder",
        "holders",
        "named",
        "requested_at",
        "size_bytes",
    )

    def __init__(self, first_source: PeerId, size_bytes: int) -> None:
        self.first_source = first_source
        self.size_bytes = size_bytes
        self.holders: list[PeerId] = []  # not asked yet
        self.announced_by: set[PeerId] = set()
        self.named: dict[PeerId, int] = {}  # holders that others named: attempts left
        self.holder: PeerId | None = None  # asked now
        self.requested_at = 0.0
        self.due_at = math.inf  # when to check its progress


class LargePuller:
    """Announces and pulls large rumors. `Broadcast` reports their arrival and links that close."""

    def __init__(self, context: OverlayContext, near_peers: NearPeers, store: MessageStore) -> None:
        self._our_id = context.our_id
        self._peers = context.peers
        self._near_peers = near_peers
        self._stale_timers_allowed = PULL_STALE_TIMERS_ALLOWED
        self._store = store
        self._pulls: dict[StreamRange, _Pull] = {}
        self._pulls_per_source: Counter[PeerId] = Counter()
        self._requested_bytes: Counter[PeerId] = Counter()  # per holder, not received yet
        self._last_fragment_at: dict[PeerId, float] = {}  # per holder asked
        self._refusals: Counter[PeerId] = Counter()  # answers without a rumor, per holder asked
        self._timer_heap: list[
            tuple[float, int, StreamRange]
        ] = []  # a heap with possibly outdated entries
        self._tie_breaker = count()
        self._waiting_for_holder: dict[
            PeerId, dict[StreamRange, None]
        ] = {}  # rumors waiting for a window, by holder
        self.requests_sent = 0
        self.announcements_dropped = 0  # at a limit

    # --- announcements --------------------------------------------------------------------------

    def announce(self, copy: RumorCopy, holders: set[PeerId]) -> list[Effect]:
        """Announce the rumor of `copy` to near peers outside `holders`, which pull it."""
        origin = copy.rumor.origin
        targets = tuple(
            each for each in self._near_peers.near if each not in holders and each != origin
        )
        return [self.announce_to(targets, copy)] if targets else []

    def announce_to(self, peer_ids: tuple[PeerId, ...], copy: RumorCopy) -> Send:
        """Announce the rumor of `copy` to these peers, which may pull it."""
        for peer in map(self._peers.get, peer_ids):
            if peer is not None:
                peer.on_announced(copy.rumor.size_bytes)
        return Send(peer_ids, announcement(copy._replace(hops=copy.hops + 1), self._our_id))

    # --- requests -------------------------------------------------------------------------------

    def handle(self, message: Announce, sender: PeerId, now: float) -> list[Effect]:
        return self._on_announced(message.ids, message.size_bytes, sender, sender, now)

    def is_pulling(self, ids: StreamRange) -> bool:
        """Whether the rumor with these sequences is being pulled."""
        return ids in self._pulls

    def on_topic(self, message: AnnounceTopic, sender: PeerId, now: float) -> list[Effect]:
        """`sender` announced a rumor of a topic that this node delivers, authentically."""
        rumor = message.copy.rumor
        holder = sender if message.has_body else message.copy.holder or sender
        return self._on_announced(rumor.ids, rumor.size_bytes, sender, holder, now)

    def _on_announced(
        self, ids: StreamRange, size_bytes: int, sender: PeerId, holder: PeerId, now: float
    ) -> list[Effect]:
        self._near_peers.on_caller(sender)
        pull = self._pulls.get(ids)
        if pull is None:
            if not self._store.lacks(ids, now):
                return []
            if (
                len(self._pulls) >= PULLS_LIMIT
                or self._pulls_per_source[sender] >= PULLS_PER_SOURCE_LIMIT
            ):
                self.announcements_dropped += 1
                return []
            self._pulls_per_source[sender] += 1
            # Smaller rumors are pushed. A lower claim would let all be requested at once.
            pull = self._pulls[ids] = _Pull(sender, max(size_bytes, PUSH_LIMIT_BYTES))
        is_room = len(pull.announced_by) < HOLDERS_PER_PULL_LIMIT
        if holder not in pull.announced_by and holder != self._our_id and is_room:
            pull.announced_by.add(holder)
            pull.holders.append(holder)
            if holder != sender:
                pull.named[holder] = NAMED_HOLDER_ATTEMPTS
            return self._check_progress(ids, pull, now)
        return []

    def on_fragment(self, peer_id: PeerId, now: float) -> None:
        """A fragment of a large message arrived from `peer_id`."""
        if peer_id in self._requested_bytes:
            self._last_fragment_at[peer_id] = now

    def on_refusal(self, peer_id: PeerId) -> None:
        """`peer_id` answered a request with nothing: a rumor that was asked of it does not come. Which one is
        known when no fragment of any arrives any more."""
        if peer_id in self._requested_bytes:
            self._refusals[peer_id] += 1

    def on_rumor(self, rumor: Rumor, now: float) -> tuple[set[PeerId], list[Effect]]:
        """`rumor` arrived: returns its other holders, and requests that fit its holder's window
        now.
        """
        pull = self._pulls.pop(rumor.ids, None) if self._pulls else None
        if pull is None:
            return set(), []
        holder = pull.holder
        self._close(rumor.ids, pull)
        return pull.announced_by, self._request_next(holder, now)

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link closed: request its rumors from other holders."""
        effects: list[Effect] = []
        for ids, pull in list(self._pulls.items()):
            if pull.holder == peer_id:
                self._release_holder(pull)
                effects += self._request(ids, pull, now)
            elif pull.holder is None and peer_id in pull.holders:
                effects += self._request(ids, pull, now)
        self._waiting_for_holder.pop(peer_id, None)
        return effects

    def _release_holder(self, pull: _Pull) -> None:
        """Stop expecting a rumor from the holder that was asked."""
        holder, pull.holder = pull.holder, None
        if holder is None:
            return
        self._requested_bytes[holder] -= pull.size_bytes
        if not self._requested_bytes[holder]:
            del self._requested_bytes[holder]
            self._last_fragment_at.pop(holder, None)
            self._refusals.pop(holder, None)

    def _close(self, ids: StreamRange, pull: _Pull) -> None:
        self._release_holder(pull)
        self._stop_waiting(ids, pull)
        self._pulls_per_source[pull.first_source] -= 1
        if not self._pulls_per_source[pull.first_source]:
            del self._pulls_per_source[pull.first_source]

    def _request(self, ids: StreamRange, pull: _Pull, now: float) -> list[Effect]:
        """Request a rumor from a holder with room in its window; otherwise wait for one."""
        self._stop_waiting(ids, pull)
        holder = self._next_holder(pull)
        missing = self._store.missing(ids, now, RANGES_PER_REQUEST)
        if not missing or not pull.holders:
            del self._pulls[ids]
            self._close(ids, pull)
            return []
        if holder is None:
            for each in pull.holders:
                self._waiting_for_holder.setdefault(each, {})[ids] = None
            return []
        self._note_requested(pull, holder, now)
        self._schedule(ids, pull)
        return [Send((holder,), IWant(LAZY_REQUEST_ROUND, tuple(missing)))]

    def _request_next(self, holder: PeerId | None, now: float) -> list[Effect]:
        """Send requests that fit the window of `holder` now, longest waiting first."""
        effects: list[Effect] = []
        for ids in list(self._waiting_for_holder.get(holder, ())) if holder is not None else ():
            pull = self._pulls[ids]
            if holder is None or not self._has_window(holder, pull.size_bytes):
                break
            effects += self._request(ids, pull, now)
        return effects

    def _stop_waiting(self, ids: StreamRange, pull: _Pull) -> None:
        for each in pull.announced_by if self._waiting_for_holder else ():
            waiting = self._waiting_for_holder.get(each)
            if waiting is not None:
                waiting.pop(ids, None)
                if not waiting:
                    del self._waiting_for_holder[each]

    def _schedule(self, ids: StreamRange, pull: _Pull) -> None:
        heapq.heappush(self._timer_heap, (pull.due_at, next(self._tie_breaker), ids))
        if len(self._timer_heap) > 2 * len(self._pulls) + self._stale_timers_allowed:
            self._timer_heap = [each for each in self._timer_heap if not self._is_outdated(each)]
            heapq.heapify(self._timer_heap)

    def _is_outdated(self, timer: tuple[float, int, StreamRange]) -> bool:
        pull = self._pulls.get(timer[2])
        return pull is None or pull.holder is None or pull.due_at != timer[0]

    def _check_progress(self, ids: StreamRange, pull: _Pull, now: float) -> list[Effect]:
        """If its deadline has passed, check whether a rumor is still arriving; otherwise ask
        another holder.
        """
        holder = pull.holder
        if holder is not None:
            if now < pull.due_at:
                return []
            self._check_timeout(pull, now)
            if pull.holder is not None:
                self._schedule(ids, pull)
                return []
        return self._request(ids, pull, now) + self._request_next(holder, now)

    def _note_requested(self, pull: _Pull, holder: PeerId, now: float) -> None:
        pull.holders.remove(holder)
        if pull.named.get(holder, 0) > 1 and not self._peers.is_linked(holder):
            pull.named[holder] -= 1
            pull.holders.append(holder)  # its record may arrive meanwhile
        pull.holder, pull.requested_at = holder, now
        pull.due_at = now + self._timeout_s(holder)
        self._requested_bytes[holder] += pull.size_bytes
        self.requests_sent += 1

    def _check_timeout(self, pull: _Pull, now: float) -> None:
        """Extend the deadline of a pull that progresses; release its holder otherwise."""
        holder = pull.holder
        if holder is None:
            return
        timeout_at = self._last_fragment_at.get(holder, pull.requested_at) + self._timeout_s(holder)
        if now < timeout_at and now < pull.requested_at + PULL_DURATION_LIMIT_S:
            pull.due_at = timeout_at
        elif self._refusals[holder] > 0:
            self._refusals[holder] -= 1
            self._release_holder(pull)
        elif (
            now >= pull.requested_at + PULL_ABANDON_S
            or not self._peers.is_linked(holder)  # the next announcement names it again, or another
            or any(self._can_ask(pull, each) for each in pull.holders)
        ):
            self._release_holder(pull)
        else:
            pull.due_at = min(now + self._timeout_s(holder), pull.requested_at + PULL_ABANDON_S)

    def _next_holder(self, pull: _Pull) -> PeerId | None:
        """The fastest holder with room in its window, a linked one if there is one."""
        pull.holders = [each for each in pull.holders if self._can_ask(pull, each)]
        available = [each for each in pull.holders if self._has_window(each, pull.size_bytes)]
        return min(
            available,
            key=lambda each: (not self._peers.is_linked(each), self._peers.rtt_s(each)),
            default=None,
        )

    def _has_window(self, peer_id: PeerId, size_bytes: int) -> bool:
        requested_bytes = self._requested_bytes.get(peer_id, 0)
        return not requested_bytes or requested_bytes + size_bytes <= PULL_WINDOW_BYTES

    def _can_ask(self, pull: _Pull, holder: PeerId) -> bool:
        return self._peers.is_linked(holder) or holder in pull.named

    def _timeout_s(self, peer_id: PeerId) -> float:
        if not self._peers.is_linked(peer_id):
            return UNLINKED_PULL_TIMEOUT_S
        return self._peers.timeout_for(peer_id, PULL_TIMEOUT_RTTS, PULL_TIMEOUT_BOUNDS)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        while self._timer_heap and self._is_outdated(self._timer_heap[0]):
            heapq.heappop(self._timer_heap)
        return self._timer_heap[0][0] if self._timer_heap else math.inf

    def advance(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self.deadline <= now:
            ids = heapq.heappop(self._timer_heap)[2]
            pull = self._pulls[ids]
            effects += self._check_progress(ids, pull, now)
        return effects
