"""Lazy repair: whoever was not sent a rumor is told its id, and asks if it lacks it.

    we -> Ids ...                    to each linked peer that is not known to have the rumors
    peer -> Want                     a moment later, of what it still lacks
    we -> Repair ...                 as for any question

Pushing alone leaves out some nodes, and more where datagrams are lost. Ids cost little, so they go
to all other links; what is pushed meanwhile need not be asked for, since questions wait two round
trips (Leitao, Pereira, Rodrigues 2007, section 3.4: a lazy link's timer).

What must stay true:

- One batch of ids per link for what came within `IHAVE_BATCH_DELAY_S` (`MAIL_IHAVE_DELAY_S` for what is
  mailed to
  all), and at most ten datagrams of them a second: more ids wait together. Nobody is told of what it
  told us, by copy or by id.
- Of one rumor each teller is asked once, the first one first, the next after at most
  `IWANT_TIMEOUT_BOUNDS_S`,
  so a teller that cannot serve what it told of costs less than a second.
- An id only limits what is asked, and of whom. Nothing is marked by it; rumors prove themselves.
- What one teller opens is capped apart from what others do, so lies crowd out no one else's ids.
- What one message of ids costs is bounded, whatever it names: overlapping ranges of one message count
  once, and of each few gaps are asked for.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Sequence
from itertools import count, islice
from typing import Final, NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.broadcast.large_messages import is_large
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.requested_ranges import RequestedRanges
from grapevine_proto.overlay.broadcast.strategy import Strategy
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import (
    RANGES_PER_MESSAGE_LIMIT,
    RANGES_PER_REQUEST,
    coalesce,
    pack,
)
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S
from grapevine_proto.overlay.sync.antientropy import LAZY_REQUEST_ROUND
from grapevine_proto.wire.messages import IHave, IWant, Offer
from grapevine_proto.wire.signed import Rumor

IHAVE_BATCH_DELAY_S: Final = (
    0.005  # what is learned in one go shares a datagram; a tenth of a usual round trip
)
MAIL_IHAVE_DELAY_S: Final = (
    3.0  # of what its origin gives to all: only its death leaves anybody out
)
IHAVE_INTERVAL_S: Final = (
    0.100  # between datagrams of ids to one peer: a fifth of what it allows us by default
)
IWANT_DELAY_BOUNDS_S: Final = (
    0.020,
    0.400,
)  # at least and at most; round trips on one machine are shorter
IWANT_TIMEOUT_RTTS: Final = 3.0
IWANT_TIMEOUT_BOUNDS_S: Final = (0.100, 0.500)  # for an answer

UNANNOUNCED_LIMIT: Final = (
    1024  # rumors whose ids wait to be told: 1.5 s at ten full datagrams a second
)
MISSING_LIMIT: Final = 4096  # rumors told of and not here, 200 bytes each
MISSING_PER_SOURCE_LIMIT: Final = 512  # of those, opened by one teller
SOURCES_PER_RUMOR_LIMIT: Final = (
    8  # remembered of one rumor; if so many fail, anti-entropy has its turn
)
PAYLOADS_PER_RANGE_LIMIT: Final = (
    8192  # the most that the wire takes in one; a wider range is cut to that
)
IWANT_STALE_TIMERS_ALLOWED: Final = 1024  # entries of rumors that came
GAPS_PER_SOURCE_LIMIT: Final = (
    4 * RANGES_PER_REQUEST
)  # of one teller; beyond it of each rumor one gap is asked for

OVERLAP_WAITS_LIMIT: Final = (
    2  # for an answer to a question about more: nested lies keep nobody waiting for long
)


class _MissingRumor:
    """A rumor that others have and we do not."""

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
        self.pending_sources = [first_source]  # not asked yet, the first to tell first
        self.announced_by = dict.fromkeys((first_source,))
        self.due_at = due_at
        self.overlap_waits = 0


class EarlyAnnouncement(NamedTuple):
    """Who told of a rumor before it came: who first, and so long before; all of them; and whether
    it was offered."""

    first_source: PeerId | None = None
    lead_s: float = 0.0
    sources: Collection[PeerId] = ()
    is_offered: bool = False


NO_ANNOUNCEMENT: Final = EarlyAnnouncement()


class LazyPush:
    """Part of dissemination, which tells it of every rumor that comes and goes."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        near_peers: NearPeers,
        store: MessageStore,
        strategy: Strategy,
    ) -> None:
        """`strategy` pushes what need not be asked for, and hears whom we ask."""
        self._is_enabled = config.lazy_push
        self._peers = peers
        self._near_peers = near_peers
        self._store = store
        self._strategy = strategy
        self._unannounced: OrderedDict[StreamRange, set[PeerId]] = OrderedDict()  # with who has it
        self._announce_at = math.inf
        self._unannounced_mail: OrderedDict[StreamRange, set[PeerId]] = OrderedDict()
        self._unsorted_mail: list[tuple[Rumor, tuple[PeerId, ...]]] = []  # and not among those yet
        self._announce_mail_at = math.inf
        self._paced_until = -math.inf
        self._missing: dict[StreamRange, _MissingRumor] = {}
        self._requested = RequestedRanges()
        self._missing_per_source: Counter[PeerId] = Counter()
        self._timer_heap: list[
            tuple[float, int, StreamRange]
        ] = []  # a heap; entries may be out of date
        self._tie_breaker = count()
        self.requests_sent = 0
        self.announcements_dropped = 0  # ids that found no room, ours or others'

    def set_strategy(self, strategy: Strategy) -> None:
        """Leave the pushes of `strategy` as much time as they need."""
        self._strategy = strategy

    def reconfigure(self, config: NodeConfig) -> None:
        self._is_enabled = config.lazy_push
        if not self._is_enabled:
            self._unannounced.clear()
            self._unannounced_mail.clear()
            self._unsorted_mail.clear()
            self._announce_at = self._announce_mail_at = math.inf
            self._missing.clear()
            self._missing_per_source.clear()
            self._timer_heap.clear()

    # --- telling --------------------------------------------------------------------------------

    def on_rumor(self, rumor: Rumor, now: float) -> EarlyAnnouncement:
        """`rumor` is here: it need not be asked for any more."""
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
        """Tell of `rumor`, which is new here, to who is not among `holders`."""
        if not self._is_enabled:
            return
        if is_mailed:  # nobody is told for long: it is put where it belongs when somebody looks
            self._unsorted_mail.append((rumor, tuple(holders)))
            if len(self._unsorted_mail) + len(self._unannounced_mail) > UNANNOUNCED_LIMIT:
                self._flush_unsorted_mail()
            if self._announce_mail_at == math.inf:
                self._announce_mail_at = now + MAIL_IHAVE_DELAY_S
            return
        self._enqueue(self._unannounced, rumor, holders)
        if self._announce_at == math.inf:
            self._announce_at = max(now + IHAVE_BATCH_DELAY_S, self._paced_until)

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
        """Let near peers who are not among `holders` ask for `rumor` at once."""
        excluded = {rumor.origin, *holders}
        targets = tuple(each for each in self._near_peers.near if each not in excluded)
        return [Send(targets, Offer((rumor.ids,)))] if targets else []

    def announce_recent(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Tell a newly linked peer what came lately: it was told to others, and no digest shows it yet."""
        if not self._is_enabled:
            return []
        recent = self._store.cache.received_since(now - DIGEST_SETTLE_S)
        small_ids = (each.ids for each in recent if each.origin != peer_id and not is_large(each))
        ranges = sorted(
            islice(small_ids, RANGES_PER_MESSAGE_LIMIT), key=lambda each: (each.stream, each.first)
        )
        for ids in ranges:
            self._note_holder(ids, peer_id)
        return [Send((peer_id,), IHave(batch)) for batch in pack(ranges)]

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """`sender` has `rumor` too."""
        self._note_holder(rumor.ids, sender)

    def _note_holder(self, ids: StreamRange, peer_id: PeerId) -> None:
        """Nobody needs to tell `peer_id` of these."""
        if self._unsorted_mail:
            self._flush_unsorted_mail()
        for unannounced in (self._unannounced, self._unannounced_mail):
            if unannounced and ids in unannounced:
                unannounced[ids].add(peer_id)

    def _announce_due(self, now: float) -> list[Effect]:
        """What waits for its turn and is due."""
        effects: list[Effect] = []
        if now >= self._announce_at:
            self._announce_at = math.inf
            effects += self._announce_to(self._near_peers.near, self._unannounced, now)
        if now >= self._announce_mail_at:
            self._announce_mail_at = math.inf
            self._flush_unsorted_mail()
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
        """A datagram or more to each of `peers`, made once for those who get the same. `is_coalesced`: one
        range for rumors that follow each other, where nobody will be told of them one by one."""
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
        effects: list[Effect] = []
        max_datagrams = 0
        for indices, peer_ids in receivers_by_content.items():
            chosen = [ranges[i] for i in indices]
            batches = pack(coalesce(chosen) if is_coalesced else chosen)
            effects += [Send(tuple(peer_ids), IHave(batch)) for batch in batches]
            max_datagrams = max(max_datagrams, len(batches))
        self._paced_until = now + IHAVE_INTERVAL_S * max_datagrams
        return effects

    # --- asking ---------------------------------------------------------------------------------

    def handle(self, message: IHave | Offer, sender: PeerId, now: float) -> list[Effect]:
        self._near_peers.on_caller(sender)
        is_offer = isinstance(message, Offer)
        if self._is_enabled or is_offer:
            for ids in _disjoint(message.ranges):
                self._on_announced(ids, sender, now, is_offer=is_offer)
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
        """Whoever offers has it to hand; whoever was asked by its id has so much time to answer first."""
        if entry.requested_at is not None:
            now = max(now, entry.requested_at + IWANT_TIMEOUT_BOUNDS_S[0])
        if now < entry.due_at:
            entry.due_at = now
            self._schedule(ids, entry)

    def _schedule(self, ids: StreamRange, entry: _MissingRumor) -> None:
        """Look at `entry` when it is due."""
        heapq.heappush(self._timer_heap, (entry.due_at, next(self._tie_breaker), ids))
        if (
            len(self._timer_heap) > 2 * len(self._missing) + IWANT_STALE_TIMERS_ALLOWED
        ):  # most of them are out of date
            self._timer_heap = [
                each
                for each in self._timer_heap
                if each[2] in self._missing and self._missing[each[2]].due_at == each[0]
            ]
            heapq.heapify(self._timer_heap)

    def _request_delay_s(self, source: PeerId) -> float:
        """How long a push of what `source` told of may yet take."""
        measured_peers = (self._strategy.uses_average_rtt and self._near_peers.near) or (source,)
        rtt_s = sum(map(self._peers.rtt_s, measured_peers)) / len(measured_peers)
        return min(
            max(self._strategy.request_delay_rtts * rtt_s, IWANT_DELAY_BOUNDS_S[0]),
            IWANT_DELAY_BOUNDS_S[1],
        )

    def _release_quota(self, entry: _MissingRumor) -> None:
        self._missing_per_source[entry.first_source] -= 1
        if not self._missing_per_source[entry.first_source]:
            del self._missing_per_source[entry.first_source]

    def _request_due(self, now: float) -> list[Effect]:
        """Ask for what is due and still missing, one question to a teller for all that it is asked."""
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
                entry.overlap_waits += 1  # who told of it among others is asked for it
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
                source, IWANT_TIMEOUT_RTTS, IWANT_TIMEOUT_BOUNDS_S
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
        announce_at = min(self._announce_at, self._announce_mail_at)
        return min(announce_at, self._timer_heap[0][0]) if self._timer_heap else announce_at

    def advance(self, now: float) -> list[Effect]:
        effects = self._announce_due(now)
        return (
            effects + self._request_due(now)
            if self._timer_heap and now >= self._timer_heap[0][0]
            else effects
        )


def _disjoint(ranges: Sequence[StreamRange]) -> list[StreamRange]:
    """`ranges` in order, none wider than a rumor, and without those that overlap one before them: rumors
    of one stream are apart, so whoever names the same sequence twice in a message says nothing more."""
    found: list[StreamRange] = []
    for each in sorted(ranges, key=lambda each: (each.stream, each.first)):
        if found and found[-1].stream == each.stream and each.first <= found[-1].last:
            continue
        last = min(each.last, each.first + PAYLOADS_PER_RANGE_LIMIT - 1)
        found.append(each if last == each.last else StreamRange(each.stream, each.first, last))
    return found
