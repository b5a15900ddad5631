"""The member table: what is known of everybody in the cluster, linked to us or not.

What must stay true:

- A member is known by its signed record, the highest (epoch, incarnation) heard; nobody else's word
  raises it, so nobody can speak for, silence or expel another.
- At most `limits.members`, and from one teller at most `limits.addresses_per_teller` whom we have not
  met; who is linked always has a place. Identities cost nothing: without a cap per teller one liar
  could fill the table.
- News travels by piggyback: each change is told a bounded number of times (SWIM, section 4.1).
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import Final

from grapevine_proto.events import MemberChanged, MemberInfo, MemberStatus
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.messages import MARK_BYTES
from grapevine_proto.overlay.effects import Effect, Emit
from grapevine_proto.overlay.suspicion import tellings
from grapevine_proto.sections import LimitsConfig
from grapevine_proto.signed import Record

MARK_LIMIT: Final = (1 << 8 * MARK_BYTES) - 1
LOOKED_AT: Final = 16  # members, to find one that may go
FORGET_S: Final = 24 * 3600.0  # a member that is down or left; long enough not to hear it as news
TOMBSTONES: Final = 4096  # versions of members that were let go


class Member:
    """One member, as known here, and when to try to reach it."""

    __slots__ = (
        "changed_at",
        "dial_at",
        "earlier_epoch",
        "epoch_at",
        "failures",
        "is_met",
        "known_at",
        "look_at",
        "met_place",
        "place",
        "proved",
        "record",
        "rtt_s",
        "status",
        "teller",
    )

    def __init__(self, record: Record, status: MemberStatus, teller: PeerId, now: float) -> None:
        self.record = record
        self.status = status
        self.teller = teller
        self.is_met = False  # a session of ours with it was live
        self.proved: Address | None = None  # where a session proved it to be, in this run of it
        self.changed_at = now
        self.known_at = now
        self.epoch_at = now  # since when its present run is known
        self.earlier_epoch: int | None = None  # of its run before, where that was known here
        self.dial_at = now
        self.look_at = now  # to see how near it is
        self.rtt_s: float | None = None  # as it was seen, where that was too far
        self.failures = 0
        self.place = 0  # in the table's order
        self.met_place = 0  # among those that were met

    @property
    def address(self) -> Address | None:
        """Where to reach it: where a session proved it to be, else where its record claims to be."""
        return next(iter(self.addresses), None)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses to try, the proved one first."""
        claimed = self.record.addresses
        if self.proved is None:
            return claimed
        return (self.proved, *(each for each in claimed if each != self.proved))

    def take(self, record: Record, now: float) -> None:
        """Know it by this record from now on. A restarted member may be somewhere else."""
        if record.epoch > self.record.epoch:
            self.earlier_epoch, self.epoch_at = self.record.epoch, now
        if record.epoch > self.record.epoch and self.proved not in record.addresses:
            self.proved = None
        self.record = record

    def think(self, status: MemberStatus, now: float) -> Effect:
        """Hold it for `status` from now on, and tell the application."""
        self.status = status
        self.changed_at = now
        return Emit(MemberChanged(self.info()))

    def info(self) -> MemberInfo:
        record = self.record
        return MemberInfo(
            record.peer_id, self.address, record.zone, record.name, self.status, record.epoch
        )


class MemberTable:
    """All members but ourselves."""

    def __init__(
        self, limits: LimitsConfig, is_linked: Callable[[PeerId], bool] = lambda _: False
    ) -> None:
        self._limits = limits
        self._is_linked = is_linked
        self._members: dict[PeerId, Member] = {}
        self._order: list[PeerId] = []  # the same, to draw from
        self._sorted: list[PeerId] = []  # and once more, to compare with others
        self._unmet_total = 0
        self._unmet: dict[PeerId, dict[PeerId, None]] = {}  # not met yet, by who told of them
        self._failed: dict[PeerId, None] = {}  # of those, the ones that did not answer a dial
        self._met: list[PeerId] = []  # to draw from
        self._tombstones: dict[PeerId, tuple[tuple[int, int], float]] = {}  # version, until when
        self._turn = 0  # where in `_order` to look for one that may go
        self._news: dict[PeerId, int] = {}  # how often each change is still to be told
        self.refused = 0

    def get(self, peer_id: PeerId) -> Member | None:
        return self._members.get(peer_id)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    @property
    def is_full(self) -> bool:
        """Then what is heard of others replaces what was heard before, and is no news."""
        return len(self._members) >= self._limits.members

    def has_place(self, teller: PeerId) -> bool:
        """Whether a member told of by `teller` may be added."""
        return not self.is_full and self._has_share(teller)

    def _has_share(self, teller: PeerId) -> bool:
        return (
            self._unmet_total < self._limits.addresses
            and len(self._unmet.get(teller, ())) < self._limits.addresses_per_teller
        )

    def make_place(self, teller: PeerId) -> bool:
        """The same, at the cost of another that we never met or that is gone, so that newcomers are
        always learned of. Who has used up its share replaces what it told itself. Only a few are
        looked at, in turn."""
        if self.has_place(teller):
            return True
        self.refused += 1
        own = self._unmet.get(teller, {})
        if len(own) >= self._limits.addresses_per_teller:
            self.remove(next((each for each in own if each in self._failed), next(iter(own))))
            return True
        if self._unmet_total:
            self.remove(self._least_known())
            return True
        for _ in range(LOOKED_AT):
            self._turn = (self._turn + 1) % len(self._order)
            member = self._members[self._order[self._turn]]
            if member.status in (MemberStatus.DOWN, MemberStatus.LEFT):
                self.remove(member.record.peer_id)
                return True
        return False

    def _least_known(self) -> PeerId:
        """The member not met whose place is given to another first: one that did not answer, else one
        told of by somebody who is linked no more, else by whoever told of most."""
        if self._failed:
            return next(iter(self._failed))
        looked_at = list(itertools.islice(self._unmet, LOOKED_AT))
        for teller in looked_at:  # others are looked at the next time
            self._unmet[teller] = self._unmet.pop(teller)
        gone = [teller for teller in looked_at if not self._is_linked(teller)]
        most = max(gone or looked_at, key=lambda teller: len(self._unmet[teller]))
        return next(iter(self._unmet[most]))

    def failed(self, member: Member) -> None:
        """It did not answer where its record says that it is."""
        member.failures += 1
        if not member.is_met:
            self._failed[member.record.peer_id] = None

    def add(self, record: Record, teller: PeerId, now: float) -> Member:
        """A member heard of for the first time; `make_place` was true."""
        self._tombstones.pop(record.peer_id, None)
        status = MemberStatus.LEFT if record.left else MemberStatus.UP
        member = Member(record, status, teller, now)
        member.place = len(self._order)
        self._order.append(record.peer_id)
        insort(self._sorted, record.peer_id)
        self._members[record.peer_id] = member
        self._unmet.setdefault(teller, {})[record.peer_id] = None
        self._unmet_total += 1
        return member

    def meet(self, record: Record, now: float, proved: Address | None = None) -> Member:
        """A member with which a session is live: it always has a place, a stranger's if need be.
        `proved` is where the session proved it to be."""
        member = self._members.get(record.peer_id)
        if member is None:
            if len(self._members) >= self._limits.members:
                self._make_room()
            member = self.add(record, record.peer_id, now)
        if not member.is_met:
            member.is_met = True
            self._settle(member)
            member.met_place = len(self._met)
            self._met.append(record.peer_id)
        member.failures = 0
        member.proved = proved or member.proved
        return member

    def _settle(self, member: Member) -> None:
        """It is no more among those that are not met."""
        peer_id = member.record.peer_id
        self._unmet_total -= 1
        self._failed.pop(peer_id, None)
        told = self._unmet[member.teller]
        del told[peer_id]
        if not told:
            del self._unmet[member.teller]

    def _make_room(self) -> None:
        """For one who is linked: a stranger goes or one who is gone, else anybody without a link."""
        unlinked: PeerId | None = None
        for looked_at in range(len(self._order)):
            if unlinked is not None and looked_at >= LOOKED_AT:
                break
            self._turn = (self._turn + 1) % len(self._order)
            peer_id = self._order[self._turn]
            member = self._members[peer_id]
            if self._is_linked(peer_id):
                continue
            unlinked = peer_id
            if not member.is_met or member.status is not MemberStatus.UP:
                break
        if unlinked is not None:
            self.remove(unlinked)
            self.refused += 1

    def remove(self, peer_id: PeerId) -> None:
        member = self._members.pop(peer_id)
        del self._sorted[bisect_left(self._sorted, peer_id)]
        last = self._order.pop()
        if last != peer_id:
            self._order[member.place] = last
            self._members[last].place = member.place
        if member.is_met:
            moved = self._met.pop()
            if moved != peer_id:
                self._met[member.met_place] = moved
                self._members[moved].met_place = member.met_place
        else:
            self._settle(member)
        self._news.pop(peer_id, None)

    def forget_the_gone(
        self, now: float, reconnect_s: float = FORGET_S, tombstone_s: float = FORGET_S
    ) -> list[Member]:
        """Let go of members that have been down for `reconnect_s`, or left for `tombstone_s`, and gives
        them. For `tombstone_s` more no record that is as old brings one back."""
        gone = [
            member
            for member in self._members.values()
            if member.status is not MemberStatus.UP
            and now - member.changed_at
            > (tombstone_s if member.status is MemberStatus.LEFT else reconnect_s)
        ]
        for member in gone:
            peer_id = member.record.peer_id
            self.remove(peer_id)
            self._tombstones.pop(peer_id, None)
            self._tombstones[peer_id] = (member.record.version, now + tombstone_s)
        while self._tombstones:
            oldest = next(iter(self._tombstones))
            if len(self._tombstones) <= TOMBSTONES and self._tombstones[oldest][1] > now:
                break
            del self._tombstones[oldest]
        return gone

    def is_let_go(self, record: Record) -> bool:
        """Whether the member was let go, and `record` says nothing that was not known then."""
        tombstone = self._tombstones.get(record.peer_id)
        return tombstone is not None and record.version <= tombstone[0]

    # --- telling --------------------------------------------------------------------------------

    def spread_news(self, peer_id: PeerId) -> None:
        """What is known of `peer_id` has changed: tell it 4 x ceil(log10(N + 1)) times."""
        self._news[peer_id] = tellings(len(self._members) + 1)

    def heard_again(self, peer_id: PeerId) -> None:
        """A peer told us what we know: that counts as told by us."""
        left = self._news.get(peer_id, 0) - 1
        if left > 0:
            self._news[peer_id] = left
        else:
            self._news.pop(peer_id, None)

    @property
    def untold(self) -> int:
        """How many changes are still to be told."""
        return len(self._news)

    def ordered(self, begin: int, count: int) -> list[PeerId]:
        """`count` members from place `begin` on, in the order of their ids."""
        return self._sorted[begin : begin + count]

    def between(self, first: int, last: int, count: int) -> list[PeerId]:
        """The members whose marks are from `first` to `last`, `count` at most, in order."""
        begin = bisect_left(self._sorted, first, key=mark_of)
        end = bisect_right(self._sorted, last, key=mark_of)
        return self._sorted[begin : min(end, begin + count)]

    def news(self, limit: int) -> list[Record]:
        """Up to `limit` records that changed lately, in turn; each counts as told once more."""
        told: list[Record] = []
        for peer_id in list(itertools.islice(self._news, limit)):
            left = self._news.pop(peer_id) - 1
            if left > 0:
                self._news[peer_id] = left  # behind all others, which were told less lately
            told.append(self._members[peer_id].record)
        return told

    def draw(self, count: int, rng: random.Random) -> list[Member]:
        """At most `count` members drawn evenly, none twice; the cost is of `count`, not of all."""
        if not self._order:
            return []
        drawn = {rng.choice(self._order): None for _ in range(count)}
        return [self._members[peer_id] for peer_id in drawn]

    def draw_met(self, count: int, rng: random.Random) -> list[Member]:
        """The same of members that a session of ours was live with."""
        if not self._met:
            return []
        drawn = {rng.choice(self._met): None for _ in range(count)}
        return [self._members[peer_id] for peer_id in drawn]

    def some(self, count: int, rng: random.Random, but: PeerId) -> list[Record]:
        """Records of up to `count` members thought to be up, drawn evenly."""
        drawn = self.draw(2 * count + 1, rng)
        return [
            each.record
            for each in drawn
            if each.status is MemberStatus.UP and each.record.peer_id != but
        ][:count]


def mark_of(peer_id: PeerId) -> int:
    """What stands for a member in a roll."""
    return int.from_bytes(peer_id[:MARK_BYTES], "big")
