"""Lazy repair: whoever was not sent a rumor is told its id, and asks if it lacks it.

    we -> Ids ...                    to each linked peer that is not known to have the rumors
    peer -> Want                     a moment later, of what it still lacks
    we -> Repair ...                 as for any question

Pushing alone leaves out some nodes, and more where datagrams are lost. Ids cost little, so they go
to all other links; what is pushed meanwhile need not be asked for, since questions wait two round
trips (Leitao, Pereira, Rodrigues 2007, section 3.4: a lazy link's timer).

What must stay true:

- One batch of ids per link for what came within `BATCH_S` (`MAIL_BATCH_S` for what is mailed to
  all), and at most ten datagrams of them a second: more ids wait together. Nobody is told of what it
  told us, by copy or by id.
- Of one rumor each teller is asked once, the first one first, the next after at most `PATIENCE_S`,
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

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.messages import Ids, Offer, Want
from grapevine_proto.overlay.antientropy import LAZY_ROUND
from grapevine_proto.overlay.digests import SETTLE_S
from grapevine_proto.overlay.dissemination.asked import AskedRanges
from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.dissemination.pulls import is_large
from grapevine_proto.overlay.dissemination.strategy import Strategy
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.ranges import (
    IDS_AT_ONCE,
    RANGES_A_WANT,
    in_datagrams,
    joined,
)
from grapevine_proto.overlay.store import Store
from grapevine_proto.signed import Rumor

BATCH_S: Final = 0.005  # what is learned in one go shares a datagram; a tenth of a usual round trip
MAIL_BATCH_S: Final = 3.0  # of what its origin gives to all: only its death leaves anybody out
GAP_S: Final = (
    0.100  # between datagrams of ids to one peer: a fifth of what it allows us by default
)
ASK_AFTER_S: Final = (0.020, 0.400)  # at least and at most; round trips on one machine are shorter
PATIENCE_RTTS: Final = 3.0
PATIENCE_S: Final = (0.100, 0.500)  # for an answer

UNTOLD_LIMIT: Final = 1024  # rumors whose ids wait to be told: 1.5 s at ten full datagrams a second
WANTED_LIMIT: Final = 4096  # rumors told of and not here, 200 bytes each
WANTED_PER_TELLER: Final = 512  # of those, opened by one teller
TELLERS_LIMIT: Final = 8  # remembered of one rumor; if so many fail, anti-entropy has its turn
RUMOR_PAYLOADS: Final = 8192  # the most that the wire takes in one; a wider range is cut to that
DUE_SPARE: Final = 1024  # entries of rumors that came
GAPS_AT_ONCE: Final = (
    4 * RANGES_A_WANT
)  # of one teller; beyond it of each rumor one gap is asked for

WAITS: Final = 2  # for an answer to a question about more: nested lies keep nobody waiting for long


class _Wanted:
    """A rumor that others have and we do not."""

    __slots__ = (
        "asked_at",
        "due_at",
        "is_offered",
        "opener",
        "tellers",
        "told_at",
        "told_by",
        "waits",
    )

    def __init__(self, opener: PeerId, now: float, due_at: float) -> None:
        self.opener = opener
        self.told_at = now
        self.asked_at: float | None = None
        self.is_offered = False
        self.tellers = [opener]  # not asked yet, the first to tell first
        self.told_by = dict.fromkeys((opener,))
        self.due_at = due_at
        self.waits = 0


class Foretold(NamedTuple):
    """Who told of a rumor before it came: who first, and so long before; all of them; and whether
    it was offered."""

    first: PeerId | None = None
    lead_s: float = 0.0
    tellers: Collection[PeerId] = ()
    is_offered: bool = False


UNFORETOLD: Final = Foretold()


class LazyRepair:
    """Part of dissemination, which tells it of every rumor that comes and goes."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        around: Neighbourhood,
        store: Store,
        strategy: Strategy,
    ) -> None:
        """`strategy` pushes what need not be asked for, and hears whom we ask."""
        self._is_on = config.lazy_repair
        self._peers = peers
        self._around = around
        self._store = store
        self._strategy = strategy
        self._untold: OrderedDict[StreamRange, set[PeerId]] = OrderedDict()  # with who has it
        self._tell_at = math.inf
        self._mailed: OrderedDict[StreamRange, set[PeerId]] = OrderedDict()
        self._just_mailed: list[tuple[Rumor, tuple[PeerId, ...]]] = []  # and not among those yet
        self._tell_mailed_at = math.inf
        self._quiet_until = -math.inf
        self._wanted: dict[StreamRange, _Wanted] = {}
        self._asked = AskedRanges()
        self._opened: Counter[PeerId] = Counter()
        self._due: list[tuple[float, int, StreamRange]] = []  # a heap; entries may be out of date
        self._ties = count()
        self.asked = 0
        self.unheeded = 0  # ids that found no room, ours or others'

    def follow(self, strategy: Strategy) -> None:
        """Leave the pushes of `strategy` as much time as they need."""
        self._strategy = strategy

    def reconfigure(self, config: NodeConfig) -> None:
        self._is_on = config.lazy_repair
        if not self._is_on:
            self._untold.clear()
            self._mailed.clear()
            self._just_mailed.clear()
            self._tell_at = self._tell_mailed_at = math.inf
            self._wanted.clear()
            self._opened.clear()
            self._due.clear()

    # --- telling --------------------------------------------------------------------------------

    def arrived(self, rumor: Rumor, now: float) -> Foretold:
        """`rumor` is here: it need not be asked for any more."""
        wanted = self._wanted.pop(rumor.ids, None) if self._wanted else None
        if wanted is None:
            return UNFORETOLD
        self._closed(wanted)
        return Foretold(wanted.opener, now - wanted.told_at, wanted.told_by, wanted.is_offered)

    def announce(
        self, rumor: Rumor, has_it: Iterable[PeerId], now: float, *, is_mailed: bool = False
    ) -> None:
        """Tell of `rumor`, which is new here, to who is not among `has_it`."""
        if not self._is_on:
            return
        if is_mailed:  # nobody is told for long: it is put where it belongs when somebody looks
            self._just_mailed.append((rumor, tuple(has_it)))
            if len(self._just_mailed) + len(self._mailed) > UNTOLD_LIMIT:
                self._sort_mail()
            if self._tell_mailed_at == math.inf:
                self._tell_mailed_at = now + MAIL_BATCH_S
            return
        self._wait_in(self._untold, rumor, has_it)
        if self._tell_at == math.inf:
            self._tell_at = max(now + BATCH_S, self._quiet_until)

    def _sort_mail(self) -> None:
        for rumor, has_it in self._just_mailed:
            self._wait_in(self._mailed, rumor, has_it)
        self._just_mailed.clear()

    def _wait_in(
        self,
        untold: OrderedDict[StreamRange, set[PeerId]],
        rumor: Rumor,
        has_it: Iterable[PeerId],
    ) -> None:
        untold[rumor.ids] = {rumor.origin, *has_it}
        if len(untold) > UNTOLD_LIMIT:
            untold.popitem(last=False)
            self.unheeded += 1

    def offer(self, rumor: Rumor, has_it: Iterable[PeerId]) -> list[Effect]:
        """Let near peers who are not among `has_it` ask for `rumor` at once."""
        known_to = {rumor.origin, *has_it}
        targets = tuple(each for each in self._around.near if each not in known_to)
        return [Send(targets, Offer((rumor.ids,)))] if targets else []

    def introduce(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Tell a newly linked peer what came lately: it was told to others, and no digest shows it yet."""
        if not self._is_on:
            return []
        lately = self._store.held.since(now - SETTLE_S)
        small = (each.ids for each in lately if each.origin != peer_id and not is_large(each))
        ranges = sorted(islice(small, IDS_AT_ONCE), key=lambda each: (each.stream, each.first))
        for ids in ranges:
            self._has(ids, peer_id)
        return [Send((peer_id,), Ids(batch)) for batch in in_datagrams(ranges)]

    def heard_again(self, rumor: Rumor, sender: PeerId) -> None:
        """`sender` has `rumor` too."""
        self._has(rumor.ids, sender)

    def _has(self, ids: StreamRange, peer_id: PeerId) -> None:
        """Nobody needs to tell `peer_id` of these."""
        if self._just_mailed:
            self._sort_mail()
        for untold in (self._untold, self._mailed):
            if untold and ids in untold:
                untold[ids].add(peer_id)

    def _tell(self, now: float) -> list[Effect]:
        """What waits for its turn and is due."""
        effects: list[Effect] = []
        if now >= self._tell_at:
            self._tell_at = math.inf
            effects += self._tell_to(self._around.near, self._untold, now)
        if now >= self._tell_mailed_at:
            self._tell_mailed_at = math.inf
            self._sort_mail()
            effects += self._tell_to(self._around.behind, self._mailed, now, joins=True)
        return effects

    def _tell_to(
        self,
        peers: Sequence[PeerId],
        waiting: OrderedDict[StreamRange, set[PeerId]],
        now: float,
        *,
        joins: bool = False,
    ) -> list[Effect]:
        """A datagram or more to each of `peers`, made once for those who get the same. `joins`: one
        range for rumors that follow each other, where nobody will be told of them one by one."""
        ranges = sorted(waiting, key=lambda each: (each.stream, each.first))
        untold = [waiting[each] for each in ranges]
        waiting.clear()
        receivers: dict[tuple[int, ...], list[PeerId]] = {}
        for peer_id in peers:
            new = tuple(i for i, has_it in enumerate(untold) if peer_id not in has_it)
            if new:
                receivers.setdefault(new, []).append(peer_id)
        effects: list[Effect] = []
        most = 0
        for indices, peer_ids in receivers.items():
            chosen = [ranges[i] for i in indices]
            batches = in_datagrams(joined(chosen) if joins else chosen)
            effects += [Send(tuple(peer_ids), Ids(batch)) for batch in batches]
            most = max(most, len(batches))
        self._quiet_until = now + GAP_S * most
        return effects

    # --- asking ---------------------------------------------------------------------------------

    def handle(self, message: Ids | Offer, sender: PeerId, now: float) -> list[Effect]:
        self._around.called(sender)
        is_offer = isinstance(message, Offer)
        if self._is_on or is_offer:
            for ids in _apart(message.ranges):
                self._heed(ids, sender, now, is_offer=is_offer)
        return self._ask(now) if is_offer else []

    def _heed(self, ids: StreamRange, sender: PeerId, now: float, *, is_offer: bool) -> None:
        self._has(ids, sender)
        wanted = self._wanted.get(ids)
        if wanted is None:
            if not self._store.lacks(ids, now):
                return
            if len(self._wanted) >= WANTED_LIMIT or self._opened[sender] >= WANTED_PER_TELLER:
                self.unheeded += 1
                return
            self._opened[sender] += 1
            ask_at = (
                now
                if is_offer or self._strategy.is_torn(ids.stream.origin)
                else now + self._wait_s(sender)
            )
            wanted = self._wanted[ids] = _Wanted(sender, now, ask_at)
            self._plan(ids, wanted)
        elif sender not in wanted.told_by and len(wanted.told_by) < TELLERS_LIMIT:
            wanted.told_by[sender] = None
            wanted.tellers.append(sender)
            if is_offer and not (wanted.asked_at is not None and wanted.is_offered):
                self._hurry(ids, wanted, now)
        wanted.is_offered = wanted.is_offered or is_offer

    def _hurry(self, ids: StreamRange, wanted: _Wanted, now: float) -> None:
        """Whoever offers has it to hand; whoever was asked by its id has so much time to answer first."""
        if wanted.asked_at is not None:
            now = max(now, wanted.asked_at + PATIENCE_S[0])
        if now < wanted.due_at:
            wanted.due_at = now
            self._plan(ids, wanted)

    def _plan(self, ids: StreamRange, wanted: _Wanted) -> None:
        """Look at `wanted` when it is due."""
        heapq.heappush(self._due, (wanted.due_at, next(self._ties), ids))
        if len(self._due) > 2 * len(self._wanted) + DUE_SPARE:  # most of them are out of date
            self._due = [
                each
                for each in self._due
                if each[2] in self._wanted and self._wanted[each[2]].due_at == each[0]
            ]
            heapq.heapify(self._due)

    def _wait_s(self, teller: PeerId) -> float:
        """How long a push of what `teller` told of may yet take."""
        timed = (self._strategy.asks_by_usual_rtt and self._around.near) or (teller,)
        rtt_s = sum(map(self._peers.rtt_s, timed)) / len(timed)
        return min(max(self._strategy.ask_after_rtts * rtt_s, ASK_AFTER_S[0]), ASK_AFTER_S[1])

    def _closed(self, wanted: _Wanted) -> None:
        self._opened[wanted.opener] -= 1
        if not self._opened[wanted.opener]:
            del self._opened[wanted.opener]

    def _ask(self, now: float) -> list[Effect]:
        """Ask for what is due and still missing, one question to a teller for all that it is asked."""
        questions: dict[PeerId, list[StreamRange]] = {}
        grafted: dict[tuple[PeerId, PeerId], None] = {}
        while self._due and self._due[0][0] <= now:
            due_at, _, ids = heapq.heappop(self._due)
            wanted = self._wanted.get(ids)
            if wanted is None or wanted.due_at != due_at:
                continue
            missing = self._store.missing(ids, now, RANGES_A_WANT)
            free, until = self._asked.free(missing, now)
            if missing and not free and wanted.waits < WAITS and not wanted.is_offered:
                wanted.waits += 1  # who told of it among others is asked for it
                wanted.due_at = until
                self._plan(ids, wanted)
                continue
            teller = self._next_teller(wanted) if missing else None
            if teller is None:
                del self._wanted[ids]
                self._closed(wanted)
                continue
            ranges = questions.setdefault(teller, [])
            asked = free or missing
            if len(ranges) + len(asked) > GAPS_AT_ONCE:
                asked = asked[:1]
            ranges += asked
            grafted.setdefault((teller, ids.stream.origin))
            wanted.asked_at = now
            wanted.due_at = now + self._peers.patience_s(teller, PATIENCE_RTTS, PATIENCE_S)
            self._plan(ids, wanted)
            if free:
                self._asked.add(asked, wanted.due_at, now)
        if not self._wanted:
            self._asked.clear()
        effects: list[Effect] = []
        for teller, origin in grafted:
            effects += self._strategy.asks(teller, origin, now)
        for teller, ranges in questions.items():
            self.asked += len(ranges)
            effects += [
                Send((teller,), Want(LAZY_ROUND, tuple(ranges[i : i + RANGES_A_WANT])))
                for i in range(0, len(ranges), RANGES_A_WANT)
            ]
        return effects

    def _next_teller(self, wanted: _Wanted) -> PeerId | None:
        while wanted.tellers:
            teller = wanted.tellers.pop(0)
            if self._peers.is_linked(teller):
                return teller
        return None

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        tell_at = min(self._tell_at, self._tell_mailed_at)
        return min(tell_at, self._due[0][0]) if self._due else tell_at

    def advance(self, now: float) -> list[Effect]:
        effects = self._tell(now)
        return effects + self._ask(now) if self._due and now >= self._due[0][0] else effects


def _apart(ranges: Sequence[StreamRange]) -> list[StreamRange]:
    """`ranges` in order, none wider than a rumor, and without those that overlap one before them: rumors
    of one stream are apart, so whoever names the same sequence twice in a message says nothing more."""
    found: list[StreamRange] = []
    for each in sorted(ranges, key=lambda each: (each.stream, each.first)):
        if found and found[-1].stream == each.stream and each.first <= found[-1].last:
            continue
        last = min(each.last, each.first + RUMOR_PAYLOADS - 1)
        found.append(each if last == each.last else StreamRange(each.stream, each.first, last))
    return found
