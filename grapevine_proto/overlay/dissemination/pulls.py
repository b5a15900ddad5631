"""Large rumors: announced to near peers, and pulled once by each node.

    we -> Announce                   to each near peer that is not known to have the rumor
    peer -> Want                     at once, to one of those who announced it
    we -> Repair                     the rumor, in fragments

A push of what is large costs a copy for each link that it comes over; a pull costs one a node, for a
round trip more a hop. Whoever has pulled a rumor announces it in turn, so an origin with many links
does not send all copies itself.

What must stay true:

- A rumor is asked of one holder at a time: of the first to announce it, the next time of the quickest
  who has room. A holder from whom nothing comes costs at most `PATIENCE_S`, one that dribbles
  `DRIBBLE_S`; then the next is asked, if there is one.
- Of one holder no more than `AT_ONCE_BYTES` are asked for at a time, or one rumor that is larger, so
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
from grapevine_proto.messages import Announce, Want
from grapevine_proto.overlay.antientropy import LAZY_ROUND
from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.ranges import RANGES_A_WANT
from grapevine_proto.overlay.store import Store
from grapevine_proto.signed import Rumor

PUSHED_BYTES: Final = 8 * 1024  # of one payload, at most: seven datagrams; what is larger is pulled
AT_ONCE_BYTES: Final = 512 * 1024  # half of what a link's queue holds by default
PATIENCE_RTTS: Final = 6.0  # the question or the first fragment may have to go twice
PATIENCE_S: Final = (0.200, 0.500)  # at least and at most
DRIBBLE_S: Final = 10.0  # for one rumor while parts of it come: 10 MiB at 8 Mbit/s
GIVE_UP_S: Final = 30.0  # with nobody else to ask; anti-entropy has its turn
WANTED_LIMIT: Final = 1024  # rumors announced and not here, 500 bytes each
WANTED_PER_TELLER: Final = 128  # of those, opened by one teller
DUE_SPARE: Final = 256  # entries of rumors that came
HOLDERS_LIMIT: Final = 8  # remembered of one rumor


def is_pulled(payload_bytes: int) -> bool:
    """Whether a payload of so many bytes is pulled instead of pushed."""
    return payload_bytes > PUSHED_BYTES


def is_large(rumor: Rumor) -> bool:
    """Whether `rumor` is pulled instead of pushed. Many small payloads in one rumor are not large:
    they are under way because there are many, and each would wait for a round trip."""
    return is_pulled(len(rumor.body)) and is_pulled(max(rumor.lengths))


class _Wanted:
    """A large rumor that others have and we do not."""

    __slots__ = ("asked_at", "due_at", "holder", "holders", "opener", "size_bytes", "told_by")

    def __init__(self, opener: PeerId, size_bytes: int) -> None:
        self.opener = opener
        self.size_bytes = size_bytes
        self.holders: list[PeerId] = []  # not asked yet
        self.told_by: set[PeerId] = set()
        self.holder: PeerId | None = None  # who is asked
        self.asked_at = 0.0
        self.due_at = math.inf  # when to look again whether it comes


class Pulls:
    """Part of dissemination, which tells it of every large rumor that comes, and of links that go."""

    def __init__(self, peers: PeerTable, around: Neighbourhood, store: Store) -> None:
        self._peers = peers
        self._around = around
        self._store = store
        self._wanted: dict[StreamRange, _Wanted] = {}
        self._opened: Counter[PeerId] = Counter()
        self._asked_bytes: Counter[PeerId] = Counter()  # of each holder, and not here yet
        self._heard_at: dict[PeerId, float] = {}  # when part of something came, from those asked
        self._due: list[tuple[float, int, StreamRange]] = []  # a heap; entries may be out of date
        self._ties = count()
        self._waiting: dict[PeerId, dict[StreamRange, None]] = {}  # for room at each who has it
        self.asked = 0
        self.unheeded = 0  # announcements that found no room

    # --- telling --------------------------------------------------------------------------------

    def announce(self, rumor: Rumor, has_it: set[PeerId]) -> list[Effect]:
        """Let near peers who are not in `has_it` pull `rumor`."""
        targets = tuple(
            each for each in self._around.near if each not in has_it and each != rumor.origin
        )
        return [Send(targets, Announce(rumor.ids, rumor.size_bytes))] if targets else []

    # --- asking ---------------------------------------------------------------------------------

    def handle(self, message: Announce, sender: PeerId, now: float) -> list[Effect]:
        self._around.called(sender)
        wanted = self._wanted.get(message.ids)
        if wanted is None:
            if not self._store.lacks(message.ids, now):
                return []
            if len(self._wanted) >= WANTED_LIMIT or self._opened[sender] >= WANTED_PER_TELLER:
                self.unheeded += 1
                return []
            self._opened[sender] += 1
            # What is smaller is pushed: claimed to be tiny, all would be asked for at once.
            size_bytes = max(message.size_bytes, PUSHED_BYTES)
            wanted = self._wanted[message.ids] = _Wanted(sender, size_bytes)
        if sender not in wanted.told_by and len(wanted.told_by) < HOLDERS_LIMIT:
            wanted.told_by.add(sender)
            wanted.holders.append(sender)
            return self._look_again(message.ids, wanted, now)
        return []

    def arriving(self, peer_id: PeerId, now: float) -> None:
        """Part of a large message came from `peer_id`."""
        if peer_id in self._asked_bytes:
            self._heard_at[peer_id] = now

    def arrived(self, rumor: Rumor, now: float) -> tuple[set[PeerId], list[Effect]]:
        """`rumor` is here: who else has it, and what to ask for next."""
        wanted = self._wanted.pop(rumor.ids, None) if self._wanted else None
        if wanted is None:
            return set(), []
        holder = wanted.holder
        self._closed(rumor.ids, wanted)
        return wanted.told_by, self._ask_next(holder, now)

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        """What was asked of a peer that is gone is asked of another."""
        effects: list[Effect] = []
        for ids, wanted in list(self._wanted.items()):
            if wanted.holder == peer_id:
                self._release(wanted)
                effects += self._ask(ids, wanted, now)
            elif wanted.holder is None and peer_id in wanted.holders:
                effects += self._ask(ids, wanted, now)
        self._waiting.pop(peer_id, None)
        return effects

    def _release(self, wanted: _Wanted) -> None:
        """Nothing more is expected of who was asked."""
        holder, wanted.holder = wanted.holder, None
        if holder is None:
            return
        self._asked_bytes[holder] -= wanted.size_bytes
        if not self._asked_bytes[holder]:
            del self._asked_bytes[holder]
            self._heard_at.pop(holder, None)

    def _closed(self, ids: StreamRange, wanted: _Wanted) -> None:
        self._release(wanted)
        self._wait_no_more(ids, wanted)
        self._opened[wanted.opener] -= 1
        if not self._opened[wanted.opener]:
            del self._opened[wanted.opener]

    def _ask(self, ids: StreamRange, wanted: _Wanted, now: float) -> list[Effect]:
        """Ask for it, if somebody who is linked and has it has room for the question; else wait for room."""
        self._wait_no_more(ids, wanted)
        holder = self._next_holder(wanted)
        missing = self._store.missing(ids, now, RANGES_A_WANT)
        if not missing or not wanted.holders:
            del self._wanted[ids]
            self._closed(ids, wanted)
            return []
        if holder is None:
            for each in wanted.holders:
                self._waiting.setdefault(each, {})[ids] = None
            return []
        self._note_asked(wanted, holder, now)
        self._plan(ids, wanted)
        return [Send((holder,), Want(LAZY_ROUND, tuple(missing)))]

    def _ask_next(self, holder: PeerId | None, now: float) -> list[Effect]:
        """`holder` may have room again, for what waits longest."""
        effects: list[Effect] = []
        for ids in list(self._waiting.get(holder, ())) if holder is not None else ():
            wanted = self._wanted[ids]
            if holder is None or not self._has_room(holder, wanted.size_bytes):
                break
            effects += self._ask(ids, wanted, now)
        return effects

    def _wait_no_more(self, ids: StreamRange, wanted: _Wanted) -> None:
        for each in wanted.told_by if self._waiting else ():
            waiting = self._waiting.get(each)
            if waiting is not None:
                waiting.pop(ids, None)
                if not waiting:
                    del self._waiting[each]

    def _plan(self, ids: StreamRange, wanted: _Wanted) -> None:
        heapq.heappush(self._due, (wanted.due_at, next(self._ties), ids))
        if len(self._due) > 2 * len(self._wanted) + DUE_SPARE:
            self._due = [each for each in self._due if not self._is_outdated(each)]
            heapq.heapify(self._due)

    def _is_outdated(self, entry: tuple[float, int, StreamRange]) -> bool:
        wanted = self._wanted.get(entry[2])
        return wanted is None or wanted.holder is None or wanted.due_at != entry[0]

    def _look_again(self, ids: StreamRange, wanted: _Wanted, now: float) -> list[Effect]:
        """See whether it still comes from who was asked, if its time is over; else ask another."""
        holder = wanted.holder
        if holder is not None:
            if now < wanted.due_at:
                return []
            self._look_after(wanted, now)
            if wanted.holder is not None:
                self._plan(ids, wanted)
                return []
        return self._ask(ids, wanted, now) + self._ask_next(holder, now)

    def _note_asked(self, wanted: _Wanted, holder: PeerId, now: float) -> None:
        wanted.holders.remove(holder)
        wanted.holder, wanted.asked_at = holder, now
        wanted.due_at = now + self._patience_s(holder)
        self._asked_bytes[holder] += wanted.size_bytes
        self.asked += 1

    def _look_after(self, wanted: _Wanted, now: float) -> None:
        """Nothing more may be coming from who was asked."""
        holder = wanted.holder
        if holder is None:
            return
        quiet_at = self._heard_at.get(holder, wanted.asked_at) + self._patience_s(holder)
        if now < quiet_at and now < wanted.asked_at + DRIBBLE_S:
            wanted.due_at = quiet_at
        elif now >= wanted.asked_at + GIVE_UP_S or any(
            self._peers.is_linked(each) for each in wanted.holders
        ):
            self._release(wanted)
        else:
            wanted.due_at = min(now + self._patience_s(holder), wanted.asked_at + GIVE_UP_S)

    def _next_holder(self, wanted: _Wanted) -> PeerId | None:
        """The quickest who has room; the first to tell needs no comparison."""
        wanted.holders = [each for each in wanted.holders if self._peers.is_linked(each)]
        free = [each for each in wanted.holders if self._has_room(each, wanted.size_bytes)]
        return min(free, key=self._peers.rtt_s, default=None)

    def _has_room(self, peer_id: PeerId, size_bytes: int) -> bool:
        asked_bytes = self._asked_bytes.get(peer_id, 0)
        return not asked_bytes or asked_bytes + size_bytes <= AT_ONCE_BYTES

    def _patience_s(self, peer_id: PeerId) -> float:
        return self._peers.patience_s(peer_id, PATIENCE_RTTS, PATIENCE_S)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        while self._due and self._is_outdated(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else math.inf

    def advance(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self.deadline <= now:
            ids = heapq.heappop(self._due)[2]
            wanted = self._wanted[ids]
            effects += self._look_again(ids, wanted, now)
        return effects
