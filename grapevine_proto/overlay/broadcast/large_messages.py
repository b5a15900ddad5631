"""Large rumors: announced to near peers, and pulled once by each node.

    we -> Announce                   to each near peer that is not known to have the rumor
    peer -> Want                     at once, to one of those who announced it
    we -> Repair                     the rumor, in fragments

A push of what is large costs a copy for each link that it comes over; a pull costs one a node, for a
round trip more a hop. Whoever has pulled a rumor announces it in turn, so an origin with many links
does not send all copies itself.

What must stay true:

- A rumor is asked of one holder at a time: of the first to announce it, the next time of the quickest
  who has room. A holder from whom nothing comes costs at most `PULL_TIMEOUT_BOUNDS_S`, one that dribbles
  `PULL_DURATION_LIMIT_S`; then the next is asked, if there is one.
- Of one holder no more than `PULL_WINDOW_BYTES` are asked for at a time, or one rumor that is larger, so
  what is asked for finds room in its queue. What waits for that may come from another meanwhile.
- What an announcement says only limits what is asked, and of whom. Nothing is marked by it.
- What one teller opens is capped apart from what others do, so lies crowd out no one else's.
- An announcement costs the same however many are waiting: what waits is looked at when its own time
  comes, or when one of those who have it has room again.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from itertools import count
from typing import Final

from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import RANGES_PER_REQUEST
from grapevine_proto.overlay.sync.antientropy import LAZY_REQUEST_ROUND
from grapevine_proto.wire.messages import Announce, IWant
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES, Rumor, is_pulled

# of one payload, at most: seven datagrams; what is larger is pulled
PULL_WINDOW_BYTES: Final = 512 * 1024  # half of what a link's queue holds by default
PULL_TIMEOUT_RTTS: Final = 6.0  # the question or the first fragment may have to go twice
PULL_TIMEOUT_BOUNDS_S: Final = (0.200, 0.500)  # at least and at most
PULL_DURATION_LIMIT_S: Final = 10.0  # for one rumor while parts of it come: 10 MiB at 8 Mbit/s
PULL_ABANDON_S: Final = 30.0  # with nobody else to ask; anti-entropy has its turn
PULLS_LIMIT: Final = 1024  # rumors announced and not here, 500 bytes each
PULLS_PER_SOURCE_LIMIT: Final = 128  # of those, opened by one teller
PULL_STALE_TIMERS_ALLOWED: Final = 256  # entries of rumors that came
HOLDERS_PER_PULL_LIMIT: Final = 8  # remembered of one rumor


def is_large(rumor: Rumor) -> bool:
    """Whether `rumor` is pulled instead of pushed. Many small payloads in one rumor are not large:
    they are under way because there are many, and each would wait for a round trip."""
    return is_pulled(len(rumor.body)) and is_pulled(max(rumor.lengths))


class _Pull:
    """A large rumor that others have and we do not."""

    __slots__ = (
        "announced_by",
        "due_at",
        "first_source",
        "holder",
        "holders",
        "requested_at",
        "size_bytes",
    )

    def __init__(self, first_source: PeerId, size_bytes: int) -> None:
        self.first_source = first_source
        self.size_bytes = size_bytes
        self.holders: list[PeerId] = []  # not asked yet
        self.announced_by: set[PeerId] = set()
        self.holder: PeerId | None = None  # who is asked
        self.requested_at = 0.0
        self.due_at = math.inf  # when to look again whether it comes


class LargePuller:
    """Part of dissemination, which tells it of every large rumor that comes, and of links that go."""

    def __init__(self, peers: PeerTable, near_peers: NearPeers, store: MessageStore) -> None:
        self._peers = peers
        self._near_peers = near_peers
        self._store = store
        self._pulls: dict[StreamRange, _Pull] = {}
        self._pulls_per_source: Counter[PeerId] = Counter()
        self._requested_bytes: Counter[PeerId] = Counter()  # of each holder, and not here yet
        self._last_fragment_at: dict[
            PeerId, float
        ] = {}  # when part of something came, from those asked
        self._timer_heap: list[
            tuple[float, int, StreamRange]
        ] = []  # a heap; entries may be out of date
        self._tie_breaker = count()
        self._waiting_for_holder: dict[
            PeerId, dict[StreamRange, None]
        ] = {}  # for room at each who has it
        self.requests_sent = 0
        self.announcements_dropped = 0  # announcements that found no room

    # --- telling --------------------------------------------------------------------------------

    def announce(self, rumor: Rumor, holders: set[PeerId]) -> list[Effect]:
        """Let near peers who are not in `holders` pull `rumor`."""
        targets = tuple(
            each for each in self._near_peers.near if each not in holders and each != rumor.origin
        )
        return [Send(targets, Announce(rumor.ids, rumor.size_bytes))] if targets else []

    # --- asking ---------------------------------------------------------------------------------

    def handle(self, message: Announce, sender: PeerId, now: float) -> list[Effect]:
        self._near_peers.on_caller(sender)
        pull = self._pulls.get(message.ids)
        if pull is None:
            if not self._store.lacks(message.ids, now):
                return []
            if (
                len(self._pulls) >= PULLS_LIMIT
                or self._pulls_per_source[sender] >= PULLS_PER_SOURCE_LIMIT
            ):
                self.announcements_dropped += 1
                return []
            self._pulls_per_source[sender] += 1
            # What is smaller is pushed: claimed to be tiny, all would be asked for at once.
            size_bytes = max(message.size_bytes, PUSH_LIMIT_BYTES)
            pull = self._pulls[message.ids] = _Pull(sender, size_bytes)
        if sender not in pull.announced_by and len(pull.announced_by) < HOLDERS_PER_PULL_LIMIT:
            pull.announced_by.add(sender)
            pull.holders.append(sender)
            return self._check_progress(message.ids, pull, now)
        return []

    def on_fragment(self, peer_id: PeerId, now: float) -> None:
        """Part of a large message came from `peer_id`."""
        if peer_id in self._requested_bytes:
            self._last_fragment_at[peer_id] = now

    def on_rumor(self, rumor: Rumor, now: float) -> tuple[set[PeerId], list[Effect]]:
        """`rumor` is here: who else has it, and what to ask for next."""
        pull = self._pulls.pop(rumor.ids, None) if self._pulls else None
        if pull is None:
            return set(), []
        holder = pull.holder
        self._close(rumor.ids, pull)
        return pull.announced_by, self._request_next(holder, now)

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """What was asked of a peer that is gone is asked of another."""
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
        """Nothing more is expected of who was asked."""
        holder, pull.holder = pull.holder, None
        if holder is None:
            return
        self._requested_bytes[holder] -= pull.size_bytes
        if not self._requested_bytes[holder]:
            del self._requested_bytes[holder]
            self._last_fragment_at.pop(holder, None)

    def _close(self, ids: StreamRange, pull: _Pull) -> None:
        self._release_holder(pull)
        self._stop_waiting(ids, pull)
        self._pulls_per_source[pull.first_source] -= 1
        if not self._pulls_per_source[pull.first_source]:
            del self._pulls_per_source[pull.first_source]

    def _request(self, ids: StreamRange, pull: _Pull, now: float) -> list[Effect]:
        """Ask for it, if somebody who is linked and has it has room for the question; else wait for room."""
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
        """`holder` may have room again, for what waits longest."""
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
        if len(self._timer_heap) > 2 * len(self._pulls) + PULL_STALE_TIMERS_ALLOWED:
            self._timer_heap = [each for each in self._timer_heap if not self._is_outdated(each)]
            heapq.heapify(self._timer_heap)

    def _is_outdated(self, timer: tuple[float, int, StreamRange]) -> bool:
        pull = self._pulls.get(timer[2])
        return pull is None or pull.holder is None or pull.due_at != timer[0]

    def _check_progress(self, ids: StreamRange, pull: _Pull, now: float) -> list[Effect]:
        """See whether it still comes from who was asked, if its time is over; else ask another."""
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
        pull.holder, pull.requested_at = holder, now
        pull.due_at = now + self._timeout_s(holder)
        self._requested_bytes[holder] += pull.size_bytes
        self.requests_sent += 1

    def _check_timeout(self, pull: _Pull, now: float) -> None:
        """Nothing more may be coming from who was asked."""
        holder = pull.holder
        if holder is None:
            return
        timeout_at = self._last_fragment_at.get(holder, pull.requested_at) + self._timeout_s(holder)
        if now < timeout_at and now < pull.requested_at + PULL_DURATION_LIMIT_S:
            pull.due_at = timeout_at
        elif now >= pull.requested_at + PULL_ABANDON_S or any(
            self._peers.is_linked(each) for each in pull.holders
        ):
            self._release_holder(pull)
        else:
            pull.due_at = min(now + self._timeout_s(holder), pull.requested_at + PULL_ABANDON_S)

    def _next_holder(self, pull: _Pull) -> PeerId | None:
        """The quickest who has room; the first to tell needs no comparison."""
        pull.holders = [each for each in pull.holders if self._peers.is_linked(each)]
        available = [each for each in pull.holders if self._has_window(each, pull.size_bytes)]
        return min(available, key=self._peers.rtt_s, default=None)

    def _has_window(self, peer_id: PeerId, size_bytes: int) -> bool:
        requested_bytes = self._requested_bytes.get(peer_id, 0)
        return not requested_bytes or requested_bytes + size_bytes <= PULL_WINDOW_BYTES

    def _timeout_s(self, peer_id: PeerId) -> float:
        return self._peers.timeout_for(peer_id, PULL_TIMEOUT_RTTS, PULL_TIMEOUT_BOUNDS_S)

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
