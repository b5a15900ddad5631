"""Lazy push: announces the IDs of rumors that were not pushed (IHAVE), so that peers request those
they lack (IWANT).

    we -> IHave ...                  to each near peer not known to have the rumors
    peer -> IWant                    after a short delay, for those it still lacks
    we -> Repair ...                 as for any request

Push alone misses some nodes, more so if datagrams are lost. IDs are cheap, so they go to the other
near peers. Requests wait for two round trips, because a push may still arrive (Plumtree, Leitao
2007, section 3.4: the timer of a lazy link).

Invariants:

- A link gets one batch of IDs for the rumors of `IHAVE_BATCH_DELAY_S` (`MAIL_IHAVE_DELAY_S` for
  mailed ones), and at most ten such datagrams a second; further IDs wait and are batched. A rumor
  is never announced to a peer that sent or announced it.
- Each source of a rumor is asked once, in order of announcement, at intervals of at most
  `IWANT_TIMEOUT_BOUNDS`. So a source that cannot serve what it announced costs less than a
  second.
- An announcement only determines what is requested, and from which peer. It marks nothing as seen.
- Announcements of one source have their own limit, so false ones cannot evict those of others.
- One announcement message has a bounded cost: overlapping ranges in it count once, and few gaps of
  each are requested.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from itertools import count, islice
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.requested_ranges import RequestedRanges
from grapevine_proto.overlay.broadcast.strategy import Strategy
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import TimeBounds
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import (
    RANGES_PER_MESSAGE_LIMIT,
    RANGES_PER_REQUEST,
    coalesce,
    pack,
)
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S
from grapevine_proto.wire.messages import LAZY_REQUEST_ROUND, IHave, IWant, Offer
from grapevine_proto.wire.signed import Rumor, is_large

IHAVE_BATCH_DELAY_S: Final = 0.005  # batches what arrives together; a tenth of a typical round trip
# for mailed rumors, which only the death of their origin keeps from a member
MAIL_IHAVE_DELAY_S: Final = 3.0
# between datagrams of IDs to one peer: a fifth of its default rate limit
IHAVE_INTERVAL_S: Final = 0.100
IWANT_DELAY_BOUNDS: Final = TimeBounds(0.020, 0.400)  # round trips on one machine are shorter
IWANT_TIMEOUT_RTTS: Final = 3.0
IWANT_TIMEOUT_BOUNDS: Final = TimeBounds(0.100, 0.500)  # for an answer

# rumors waiting to be announced: 1.5 s at ten full datagrams a second
UNANNOUNCED_LIMIT: Final = 1024
MISSING_LIMIT: Final = 4096  # rumors announced and not here, 200 bytes each
MISSING_PER_SOURCE_LIMIT: Final = 512  # of those, announced first by one source
SOURCES_PER_RUMOR_LIMIT: Final = 8  # per rumor; if all fail, anti-entropy takes over
PAYLOADS_PER_RANGE_LIMIT: Final = 8192  # limit of the wire format; a wider range is truncated
IWANT_STALE_TIMERS_ALLOWED: Final = 1024  # outdated entries before the heap is rebuilt
GAPS_PER_SOURCE_LIMIT: Final = (
    4 * RANGES_PER_REQUEST
)  # per source; beyond it one gap per rumor is requested

# for an answer to a larger request: nested false announcements delay little
OVERLAP_WAITS_LIMIT: Final = 2


class _MissingRumor:
    """A rumor that was announced and that we lack."""

    __slots__ = (
        "announced_at",
        "announced_by",
        "due_at",
        "first_source",
        "is_offered",
        "overlap_waits",
        "pending_sources",
        "requested_at",
    )

    def __init__(self, first_source: PeerId, now: float, due_at: float) -> None:
        self.first_source = first_source
        self.announced_at = now
        self.requested_at: float | None = None
        self.is_offered = False
        self.pending_sources = [first_source]  # not asked yet, in order of announcement
        self.announced_by = dict.fromkeys((first_source,))
        self.due_at = due_at
        self.overlap_waits = 0


class EarlyAnnouncement(NamedTuple):
    """How a rumor was announced before it arrived: by which peer first, how long before, by which
    peers at all, and whether as an offer.
    """

    first_source: PeerId | None = None
    lead_s: float = 0.0
    sources: Collection[PeerId] = ()
    is_offered: bool = False


NO_ANNOUNCEMENT: Final = EarlyAnnouncement()


class LazyPush:
    """Announces rumors and requests announced ones. `Broadcast` reports every rumor that arrives or
    is pushed.
    """

    def __init__(
        self,
        context: OverlayContext,
        near_peers: NearPeers,
        store: MessageStore,
        strategy: Strategy,
    ) -> None:
        """`strategy` determines how long to wait for pushes and receives `on_request_sent`."""
        self._config = context.config
        self._our_id = context.our_id
        self._peers = context.peers
        self._near_peers = near_peers
        self._store = store
        self._strategy = strategy
        self._stale_timers_allowed = IWANT_STALE_TIMERS_ALLOWED
        self._unannounced: OrderedDict[StreamRange, set[PeerId]] = OrderedDict()  # with its holders
        self._announce_at = math.inf
        self._unannounced_mail: OrderedDict[StreamRange, set[PeerId]] = OrderedDict()
        # mail of this node that a member did not acknowledge, and who was informed of that
        self._incomplete_mail: dict[StreamRange, set[PeerId]] = {}
        # not yet merged into `_unannounced_mail`
        self._unsorted_mail: deque[tuple[Rumor, tuple[PeerId, ...]]] = deque()
        self._announce_mail_at = math.inf
        self._paced_until = -math.inf
        self._missing: dict[StreamRange, _MissingRumor] = {}
        self._requested = RequestedRanges()
        self._missing_per_source: Counter[PeerId] = Counter()
        self._timer_heap: list[
            tuple[float, int, StreamRange]
        ] = []  # a heap with possibly outdated entries
        self._tie_breaker = count()
        self.requests_sent = 0
        self.announcements_dropped = 0  # IDs dropped at a limit, ours or others'

    def set_strategy(self, strategy: Strategy) -> None:
        """Use the request delays of another strategy."""
        self._strategy = strategy

    def reconfigure(self) -> None:
        """Settings changed: forget what is no longer announced or requested if lazy push is off."""
        if not self._config.current.lazy_push:
            self._unannounced.clear()
            self._unannounced_mail.clear()
            self._incomplete_mail.clear()
            self._unsorted_mail.clear()
            self._announce_at = self._announce_mail_at = math.inf
            self._missing.clear()
            self._missing_per_source.clear()
            self._timer_heap.clear()

    # --- announcements --------------------------------------------------------------------------

    def on_rumor(self, rumor: Rumor, now: float) -> EarlyAnnouncement:
        """`rumor` arrived and need not be requested any more."""
        entry = self._missing.pop(rumor.ids, None) if self._missing else None
        if entry is None:
            return NO_ANNOUNCEMENT
        self._release_quota(entry)
        return EarlyAnnouncement(
            entry.first_source, now - entry.announced_at, entry.announced_by, entry.is_offered
        )

    def announce(
        self, rumor: Rumor, holders: Iterable[PeerId], now: float, *, is_mailed: bool = False
    ) -> None:
        """Schedule the announcement of a new `rumor` to near peers outside `holders`."""
        if not self._config.current.lazy_push:
            return
        if is_mailed:  # announced much later, so it is merged when first needed
            newcomers = self._near_peers.newcomers(now)
            if newcomers:
                holders = self._announce_to_newcomers(newcomers, rumor, holders, now)
            self._unsorted_mail.append((rumor, tuple(holders)))
            if len(self._unsorted_mail) + len(self._unannounced_mail) > UNANNOUNCED_LIMIT:
                self._drop_oldest_mail()
            if self._announce_mail_at == math.inf:
                self._announce_mail_at = now + MAIL_IHAVE_DELAY_S
            return
        mailed_to = self._take_mail(rumor.ids)  # its first copy came as mail
        self._enqueue(self._unannounced, rumor, (*holders, *mailed_to))
        self._schedule_announcements(now)

    def _drop_oldest_mail(self) -> None:
        if self._unannounced_mail:
            self._unannounced_mail.popitem(last=False)
        else:
            self._unsorted_mail.popleft()
        self.announcements_dropped += 1

    def _take_mail(self, ids: StreamRange) -> set[PeerId]:
        """Takes mail out of those that are announced late. Returns its holders."""
        if self._unsorted_mail:
            self._flush_unsorted_mail()
        return self._unannounced_mail.pop(ids, None) or set()

    def _announce_to_newcomers(
        self, newcomers: set[PeerId], rumor: Rumor, holders: Iterable[PeerId], now: float
    ) -> set[PeerId]:
        """Announces mail soon to `newcomers`, which its origin may not know yet. Returns who needs no other
        announcement."""
        holders = {rumor.origin, *holders}
        if newcomers <= holders:
            return holders
        others = [each for each in self._near_peers.near if each not in newcomers]
        self._enqueue(self._unannounced, rumor, (*holders, *others))
        self._schedule_announcements(now)
        return holders | newcomers

    def _schedule_announcements(self, now: float) -> None:
        if self._announce_at == math.inf:
            self._announce_at = max(now + IHAVE_BATCH_DELAY_S, self._paced_until)

    def on_mail_unanswered(self, peer_id: PeerId) -> list[Effect]:
        """A peer acknowledges nothing that this node sends: the peers to which it is near are told what this
        node mailed, and announce that to it at once."""
        self._flush_unsorted_mail()
        ours = [each for each in self._unannounced_mail if each.stream.origin == self._our_id]
        self._incomplete_mail = {ids: self._incomplete_mail.get(ids, set()) for ids in ours}
        effects: list[Effect] = []
        for target in self._near_peers.near_to(peer_id) if ours else ():
            unknown = [
                ids for ids, informed in self._incomplete_mail.items() if target not in informed
            ]
            for ids in unknown:
                self._incomplete_mail[ids].add(target)
                self._unannounced_mail[ids].add(target)
            ranges = sorted(unknown, key=lambda each: (each.stream, each.first))
            effects += [Send((target,), IHave(batch)) for batch in pack(ranges)]
        return effects

    def _on_mail_incomplete(self, ids: StreamRange, now: float) -> None:
        """The origin announces what it mailed: a member did not acknowledge it."""
        holders = self._take_mail(ids)
        if holders:
            self._unannounced[ids] = holders
            self._schedule_announcements(now)

    def _flush_unsorted_mail(self) -> None:
        for rumor, holders in self._unsorted_mail:
            self._enqueue(self._unannounced_mail, rumor, holders)
        self._unsorted_mail.clear()

    def _enqueue(
        self,
        unannounced: OrderedDict[StreamRange, set[PeerId]],
        rumor: Rumor,
        holders: Iterable[PeerId],
    ) -> None:
        unannounced[rumor.ids] = {rumor.origin, *holders}
        if len(unannounced) > UNANNOUNCED_LIMIT:
            unannounced.popitem(last=False)
            self.announcements_dropped += 1

    def offer(self, rumor: Rumor, holders: Iterable[PeerId]) -> list[Effect]:
        """Offer `rumor` to near peers outside `holders`, which request it at once."""
        excluded = {rumor.origin, *holders}
        targets = tuple(each for each in self._near_peers.near if each not in excluded)
        return [Send(targets, Offer((rumor.ids,)))] if targets else []

    def announce_recent(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Announce recent rumors to a peer that is newly linked or at another address: other peers know
        them, and no digest covers them yet.
        """
        if not self._config.current.lazy_push:
            return []
        recent = self._store.cache.received_since(now - DIGEST_SETTLE_S)
        small_ids = (each.ids for each in recent if each.origin != peer_id and not is_large(each))
        ranges = sorted(
            islice(small_ids, RANGES_PER_MESSAGE_LIMIT), key=lambda each: (each.stream, each.first)
        )
        for ids in ranges:
            self._note_holder(ids, peer_id)
            if ids.stream.origin == self._our_id and ids in self._unannounced_mail:
                self._incomplete_mail.setdefault(ids, set()).add(peer_id)
        return [Send((peer_id,), IHave(batch)) for batch in pack(ranges)]

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """`sender` has `rumor` too."""
        self._note_holder(rumor.ids, sender)

    def _note_holder(self, ids: StreamRange, peer_id: PeerId) -> None:
        """`peer_id` has these rumors and needs no announcement."""
        if self._unsorted_mail:
            self._flush_unsorted_mail()
        for unannounced in (self._unannounced, self._unannounced_mail):
            if unannounced and ids in unannounced:
                unannounced[ids].add(peer_id)

    def _announce_due(self, now: float) -> list[Effect]:
        """Send the announcements that are due."""
        effects: list[Effect] = []
        if now >= self._announce_at:
            self._announce_at = math.inf
            self._flush_unsorted_mail()
            effects += self._announce_to(self._near_peers.near, self._unannounced, now)
        if now >= self._announce_mail_at:
            self._announce_mail_at = math.inf
            self._flush_unsorted_mail()
            self._incomplete_mail.clear()
            effects += self._announce_to(
                self._near_peers.ring_successors, self._unannounced_mail, now, is_coalesced=True
            )
        return effects

    def _announce_to(
        self,
        peers: Sequence[PeerId],
        unannounced_queue: OrderedDict[StreamRange, set[PeerId]],
        now: float,
        *,
        is_coalesced: bool = False,
    ) -> list[Effect]:
        """Announce to each of `peers`; peers that get the same IDs share one message.
        `is_coalesced` joins adjacent rumors into one range, for rumors that are not announced one
        by one elsewhere.
        """
        ranges = sorted(unannounced_queue, key=lambda each: (each.stream, each.first))
        unannounced = [unannounced_queue[each] for each in ranges]
        unannounced_queue.clear()
        receivers_by_content: dict[tuple[int, ...], list[PeerId]] = {}
        for peer_id in peers:
            unknown_indices = tuple(
                i for i, holders in enumerate(unannounced) if peer_id not in holders
            )
            if unknown_indices:
                receivers_by_content.setdefault(unknown_indices, []).append(peer_id)
                for i in unknown_indices if self._unannounced_mail else ():
                    if (holders := self._unannounced_mail.get(ranges[i])) is not None:
                        holders.add(peer_id)
        effects: list[Effect] = []
        max_datagrams = 0
        for indices, peer_ids in receivers_by_content.items():
            chosen = [ranges[i] for i in indices]
            batches = pack(coalesce(chosen) if is_coalesced else chosen)
            effects += [Send(tuple(peer_ids), IHave(batch)) for batch in batches]
            max_datagrams = max(max_datagrams, len(batches))
        self._paced_until = now + IHAVE_INTERVAL_S * max_datagrams
        return effects

    # --- requests -------------------------------------------------------------------------------

    def handle(self, message: IHave | Offer, sender: PeerId, now: float) -> list[Effect]:
        self._near_peers.on_caller(sender)
        is_offer = isinstance(message, Offer)
        if self._config.current.lazy_push or is_offer:
            for ids in _disjoint(message.ranges):
                self._on_announced(ids, sender, now, is_offer=is_offer)
                if ids.stream.origin == sender:
                    self._on_mail_incomplete(ids, now)
        return self._request_due(now) if is_offer else []

    def _on_announced(
        self, ids: StreamRange, sender: PeerId, now: float, *, is_offer: bool
    ) -> None:
        self._note_holder(ids, sender)
        entry = self._missing.get(ids)
        if entry is None:
            if not self._store.lacks(ids, now):
                return
            if (
                len(self._missing) >= MISSING_LIMIT
                or self._missing_per_source[sender] >= MISSING_PER_SOURCE_LIMIT
            ):
                self.announcements_dropped += 1
                return
            self._missing_per_source[sender] += 1
            request_at = (
                now
                if is_offer or self._strategy.is_broken(ids.stream.origin)
                else now + self._request_delay_s(sender)
            )
            entry = self._missing[ids] = _MissingRumor(sender, now, request_at)
            self._schedule(ids, entry)
        elif sender not in entry.announced_by and len(entry.announced_by) < SOURCES_PER_RUMOR_LIMIT:
            entry.announced_by[sender] = None
            entry.pending_sources.append(sender)
            if is_offer and not (entry.requested_at is not None and entry.is_offered):
                self._expedite(ids, entry, now)
        entry.is_offered = entry.is_offered or is_offer

    def _expedite(self, ids: StreamRange, entry: _MissingRumor, now: float) -> None:
        """An offered rumor is requested at once, or `IWANT_TIMEOUT_BOUNDS.min_s` after a request in
        progress.
        """
        if entry.requested_at is not None:
            now = max(now, entry.requested_at + IWANT_TIMEOUT_BOUNDS.min_s)
        if now < entry.due_at:
            entry.due_at = now
            self._schedule(ids, entry)

    def _schedule(self, ids: StreamRange, entry: _MissingRumor) -> None:
        """Schedule a request for when `entry` is due."""
        heapq.heappush(self._timer_heap, (entry.due_at, next(self._tie_breaker), ids))
        if (
            len(self._timer_heap) > 2 * len(self._missing) + self._stale_timers_allowed
        ):  # most are outdated
            self._timer_heap = [
                each
                for each in self._timer_heap
                if each[2] in self._missing and self._missing[each[2]].due_at == each[0]
            ]
            heapq.heapify(self._timer_heap)

    def _request_delay_s(self, source: PeerId) -> float:
        """How long a push of what `source` announced may still take."""
        measured_peers = (self._strategy.uses_average_rtt and self._near_peers.near) or (source,)
        rtt_s = sum(map(self._peers.rtt_s, measured_peers)) / len(measured_peers)
        return IWANT_DELAY_BOUNDS.clamp(self._strategy.request_delay_rtts * rtt_s)

    def _release_quota(self, entry: _MissingRumor) -> None:
        self._missing_per_source[entry.first_source] -= 1
        if not self._missing_per_source[entry.first_source]:
            del self._missing_per_source[entry.first_source]

    def _request_due(self, now: float) -> list[Effect]:
        """Request what is due and still missing, in one request per source."""
        requests: dict[PeerId, list[StreamRange]] = {}
        graft_pairs: dict[tuple[PeerId, PeerId], None] = {}
        while self._timer_heap and self._timer_heap[0][0] <= now:
            due_at, _, ids = heapq.heappop(self._timer_heap)
            entry = self._missing.get(ids)
            if entry is None or entry.due_at != due_at:
                continue
            missing = self._store.missing(ids, now, RANGES_PER_REQUEST)
            unrequested, wait_until = self._requested.unrequested(missing, now)
            if (
                missing
                and not unrequested
                and entry.overlap_waits < OVERLAP_WAITS_LIMIT
                and not entry.is_offered
            ):
                entry.overlap_waits += 1  # it is part of a request to another source
                entry.due_at = wait_until
                self._schedule(ids, entry)
                continue
            source = self._next_source(entry) if missing else None
            if source is None:
                del self._missing[ids]
                self._release_quota(entry)
                continue
            ranges = requests.setdefault(source, [])
            requested = unrequested or missing
            if len(ranges) + len(requested) > GAPS_PER_SOURCE_LIMIT:
                requested = requested[:1]
            ranges += requested
            graft_pairs.setdefault((source, ids.stream.origin))
            entry.requested_at = now
            entry.due_at = now + self._peers.timeout_for(
                source, IWANT_TIMEOUT_RTTS, IWANT_TIMEOUT_BOUNDS
            )
            self._schedule(ids, entry)
            if unrequested:
                self._requested.add(requested, entry.due_at, now)
        if not self._missing:
            self._requested.clear()
        effects: list[Effect] = []
        for source, origin in graft_pairs:
            effects += self._strategy.on_request_sent(source, origin, now)
        for source, ranges in requests.items():
            self.requests_sent += len(ranges)
            effects += [
                Send(
                    (source,), IWant(LAZY_REQUEST_ROUND, tuple(ranges[i : i + RANGES_PER_REQUEST]))
                )
                for i in range(0, len(ranges), RANGES_PER_REQUEST)
            ]
        return effects

    def _next_source(self, entry: _MissingRumor) -> PeerId | None:
        while entry.pending_sources:
            source = entry.pending_sources.pop(0)
            if self._peers.is_linked(source):
                return source
        return None

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        request_at = self._timer_heap[0][0] if self._timer_heap else math.inf
        return min(self._announce_at, self._announce_mail_at, request_at)

    def advance(self, now: float) -> list[Effect]:
        effects = self._announce_due(now)
        return (
            effects + self._request_due(now)
            if self._timer_heap and now >= self._timer_heap[0][0]
            else effects
        )


def _disjoint(ranges: Sequence[StreamRange]) -> list[StreamRange]:
    """`ranges` sorted, truncated to the size of a rumor, and without overlaps: rumors of one stream
    are disjoint, so a repeated sequence adds nothing.
    """
    found: list[StreamRange] = []
    for each in sorted(ranges, key=lambda each: (each.stream, each.first)):
        if found and found[-1].stream == each.stream and each.first <= found[-1].last:
            continue
        last = min(each.last, each.first + PAYLOADS_PER_RANGE_LIMIT - 1)
        found.append(each if last == each.last else StreamRange(each.stream, each.first, last))
    return found
