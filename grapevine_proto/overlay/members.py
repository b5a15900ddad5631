"""The member table: what is known of everybody in the cluster, linked to us or not.

What must stay true:

- A member is known by its signed record, the highest (epoch, incarnation) heard; nobody else's word
  raises it, so nobody can speak for, silence or expel another.
- At most `limits.members`, and from one teller at most `limits.addresses_per_source` whom we have not
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

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberChanged, MemberInfo, MemberStatus
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import Effect, Emit
from grapevine_proto.overlay.transmit_queue import retransmit_limit
from grapevine_proto.wire.messages import ID_PREFIX_BYTES
from grapevine_proto.wire.signed import PeerRecord

ID_PREFIX_MAX: Final = (1 << 8 * ID_PREFIX_BYTES) - 1
MEMBER_EVICTION_SCAN_LIMIT: Final = 16  # members, to find one that may go
FORGET_MEMBER_S: Final = (
    24 * 3600.0
)  # a member that is down or left; long enough not to hear it as news
TOMBSTONES_LIMIT: Final = 4096  # versions of members that were let go


class Member:
    """One member, as known here, and when to try to reach it."""

    __slots__ = (
        "changed_at",
        "dial_at",
        "earlier_epoch",
        "epoch_known_at",
        "failures",
        "known_at",
        "linked_before_index",
        "order_index",
        "proximity_check_at",
        "record",
        "rejected_rtt_s",
        "source",
        "status",
        "validated_address",
        "was_linked",
    )

    def __init__(
        self, record: PeerRecord, status: MemberStatus, source: PeerId, now: float
    ) -> None:
        self.record = record
        self.status = status
        self.source = source
        self.was_linked = False  # a session of ours with it was live
        self.validated_address: Address | None = (
            None  # where a session proved it to be, in this run of it
        )
        self.changed_at = now
        self.known_at = now
        self.epoch_known_at = now  # since when its present run is known
        self.earlier_epoch: int | None = None  # of its run before, where that was known here
        self.dial_at = now
        self.proximity_check_at = now  # to see how near it is
        self.rejected_rtt_s: float | None = None  # as it was seen, where that was too far
        self.failures = 0
        self.order_index = 0  # in the table's order
        self.linked_before_index = 0  # among those that were met

    @property
    def address(self) -> Address | None:
        """Where to reach it: where a session proved it to be, else where its record claims to be."""
        return next(iter(self.addresses), None)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses to try, the proved one first."""
        claimed = self.record.addresses
        if self.validated_address is None:
            return claimed
        return (
            self.validated_address,
            *(each for each in claimed if each != self.validated_address),
        )

    def update_record(self, record: PeerRecord, now: float) -> None:
        """Know it by this record from now on. A restarted member may be somewhere else."""
        if record.epoch > self.record.epoch:
            self.earlier_epoch, self.epoch_known_at = self.record.epoch, now
        if record.epoch > self.record.epoch and self.validated_address not in record.addresses:
            self.validated_address = None
        self.record = record

    def set_status(self, status: MemberStatus, now: float) -> Effect:
        """Hold it for `status` from now on, and tell the application."""
        self.status = status
        self.changed_at = now
        return Emit(MemberChanged(self.to_info()))

    def to_info(self) -> MemberInfo:
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
        self._sample_order: list[PeerId] = []  # the same, to draw from
        self._sorted_ids: list[PeerId] = []  # and once more, to compare with others
        self._never_linked_total = 0
        self._never_linked: dict[
            PeerId, dict[PeerId, None]
        ] = {}  # not met yet, by who told of them
        self._dial_failed: dict[PeerId, None] = {}  # of those, the ones that did not answer a dial
        self._linked_before: list[PeerId] = []  # to draw from
        self._tombstones: dict[PeerId, tuple[tuple[int, int], float]] = {}  # version, until when
        self._eviction_cursor = 0  # where in `_sample_order` to look for one that may go
        self._pending_updates: dict[PeerId, int] = {}  # how often each change is still to be told
        self.overflows = 0

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

    def has_room_from(self, source: PeerId) -> bool:
        """Whether a member told of by `source` may be added."""
        return not self.is_full and self._has_quota(source)

    def _has_quota(self, source: PeerId) -> bool:
        return (
            self._never_linked_total < self._limits.addresses
            and len(self._never_linked.get(source, ())) < self._limits.addresses_per_source
        )

    def make_room_from(self, source: PeerId) -> bool:
        """The same, at the cost of another that we never met or that is gone, so that newcomers are
        always learned of. Who has used up its share replaces what it told itself. Only a few are
        looked at, in turn."""
        if self.has_room_from(source):
            return True
        self.overflows += 1
        from_source = self._never_linked.get(source, {})
        if len(from_source) >= self._limits.addresses_per_source:
            self.remove(
                next(
                    (each for each in from_source if each in self._dial_failed),
                    next(iter(from_source)),
                )
            )
            return True
        if self._never_linked_total:
            self.remove(self._pick_victim())
            return True
        for _ in range(MEMBER_EVICTION_SCAN_LIMIT):
            self._eviction_cursor = (self._eviction_cursor + 1) % len(self._sample_order)
            member = self._members[self._sample_order[self._eviction_cursor]]
            if member.status in (MemberStatus.DOWN, MemberStatus.LEFT):
                self.remove(member.record.peer_id)
                return True
        return False

    def _pick_victim(self) -> PeerId:
        """The member not met whose place is given to another first: one that did not answer, else one
        told of by somebody who is linked no more, else by whoever told of most."""
        if self._dial_failed:
            return next(iter(self._dial_failed))
        scanned = list(itertools.islice(self._never_linked, MEMBER_EVICTION_SCAN_LIMIT))
        for teller in scanned:  # others are looked at the next time
            self._never_linked[teller] = self._never_linked.pop(teller)
        disconnected = [teller for teller in scanned if not self._is_linked(teller)]
        largest = max(disconnected or scanned, key=lambda source: len(self._never_linked[source]))
        return next(iter(self._never_linked[largest]))

    def on_dial_failed(self, member: Member) -> None:
        """It did not answer where its record says that it is."""
        member.failures += 1
        if not member.was_linked:
            self._dial_failed[member.record.peer_id] = None

    def add(self, record: PeerRecord, source: PeerId, now: float) -> Member:
        """A member heard of for the first time; `make_room_from` was true."""
        self._tombstones.pop(record.peer_id, None)
        status = MemberStatus.LEFT if record.left else MemberStatus.UP
        member = Member(record, status, source, now)
        member.order_index = len(self._sample_order)
        self._sample_order.append(record.peer_id)
        insort(self._sorted_ids, record.peer_id)
        self._members[record.peer_id] = member
        self._never_linked.setdefault(source, {})[record.peer_id] = None
        self._never_linked_total += 1
        return member

    def ensure(
        self, record: PeerRecord, now: float, validated_address: Address | None = None
    ) -> Member:
        """A member with which a session is live: it always has a place, a stranger's if need be.
        `validated_address` is where the session proved it to be."""
        member = self._members.get(record.peer_id)
        if member is None:
            if len(self._members) >= self._limits.members:
                self._evict_for_link()
            member = self.add(record, record.peer_id, now)
        if not member.was_linked:
            member.was_linked = True
            self._remove_never_linked(member)
            member.linked_before_index = len(self._linked_before)
            self._linked_before.append(record.peer_id)
        member.failures = 0
        member.validated_address = validated_address or member.validated_address
        return member

    def _remove_never_linked(self, member: Member) -> None:
        """It is no more among those that are not met."""
        peer_id = member.record.peer_id
        self._never_linked_total -= 1
        self._dial_failed.pop(peer_id, None)
        from_source = self._never_linked[member.source]
        del from_source[peer_id]
        if not from_source:
            del self._never_linked[member.source]

    def _evict_for_link(self) -> None:
        """For one who is linked: a stranger goes or one who is gone, else anybody without a link."""
        unlinked: PeerId | None = None
        for scanned in range(len(self._sample_order)):
            if unlinked is not None and scanned >= MEMBER_EVICTION_SCAN_LIMIT:
                break
            self._eviction_cursor = (self._eviction_cursor + 1) % len(self._sample_order)
            peer_id = self._sample_order[self._eviction_cursor]
            member = self._members[peer_id]
            if self._is_linked(peer_id):
                continue
            unlinked = peer_id
            if not member.was_linked or member.status is not MemberStatus.UP:
                break
        if unlinked is not None:
            self.remove(unlinked)
            self.overflows += 1

    def remove(self, peer_id: PeerId) -> None:
        member = self._members.pop(peer_id)
        del self._sorted_ids[bisect_left(self._sorted_ids, peer_id)]
        last = self._sample_order.pop()
        if last != peer_id:
            self._sample_order[member.order_index] = last
            self._members[last].order_index = member.order_index
        if member.was_linked:
            swapped = self._linked_before.pop()
            if swapped != peer_id:
                self._linked_before[member.linked_before_index] = swapped
                self._members[swapped].linked_before_index = member.linked_before_index
        else:
            self._remove_never_linked(member)
        self._pending_updates.pop(peer_id, None)

    def remove_expired(
        self, now: float, reconnect_s: float = FORGET_MEMBER_S, tombstone_s: float = FORGET_MEMBER_S
    ) -> list[Member]:
        """Let go of members that have been down for `reconnect_s`, or left for `tombstone_s`, and gives
        them. For `tombstone_s` more no record that is as old brings one back."""
        expired = [
            member
            for member in self._members.values()
            if member.status is not MemberStatus.UP
            and now - member.changed_at
            > (tombstone_s if member.status is MemberStatus.LEFT else reconnect_s)
        ]
        for member in expired:
            peer_id = member.record.peer_id
            self.remove(peer_id)
            self._tombstones.pop(peer_id, None)
            self._tombstones[peer_id] = (member.record.version, now + tombstone_s)
        while self._tombstones:
            oldest = next(iter(self._tombstones))
            if len(self._tombstones) <= TOMBSTONES_LIMIT and self._tombstones[oldest][1] > now:
                break
            del self._tombstones[oldest]
        return expired

    def is_tombstoned(self, record: PeerRecord) -> bool:
        """Whether the member was let go, and `record` says nothing that was not known then."""
        tombstone = self._tombstones.get(record.peer_id)
        return tombstone is not None and record.version <= tombstone[0]

    # --- telling --------------------------------------------------------------------------------

    def queue_update(self, peer_id: PeerId) -> None:
        """What is known of `peer_id` has changed: tell it 4 x ceil(log10(N + 1)) times."""
        self._pending_updates[peer_id] = retransmit_limit(len(self._members) + 1)

    def note_duplicate(self, peer_id: PeerId) -> None:
        """A peer told us what we know: that counts as told by us."""
        remaining = self._pending_updates.get(peer_id, 0) - 1
        if remaining > 0:
            self._pending_updates[peer_id] = remaining
        else:
            self._pending_updates.pop(peer_id, None)

    @property
    def pending_updates(self) -> int:
        """How many changes are still to be told."""
        return len(self._pending_updates)

    def sorted_slice(self, begin: int, count: int) -> list[PeerId]:
        """`count` members from place `begin` on, in the order of their ids."""
        return self._sorted_ids[begin : begin + count]

    def in_prefix_range(self, first: int, last: int, count: int) -> list[PeerId]:
        """The members whose marks are from `first` to `last`, `count` at most, in order."""
        begin = bisect_left(self._sorted_ids, first, key=id_prefix)
        end = bisect_right(self._sorted_ids, last, key=id_prefix)
        return self._sorted_ids[begin : min(end, begin + count)]

    def next_updates(self, limit: int) -> list[PeerRecord]:
        """Up to `limit` records that changed lately, in turn; each counts as told once more."""
        records: list[PeerRecord] = []
        for peer_id in list(itertools.islice(self._pending_updates, limit)):
            remaining = self._pending_updates.pop(peer_id) - 1
            if remaining > 0:
                self._pending_updates[peer_id] = (
                    remaining  # behind all others, which were told less lately
                )
            records.append(self._members[peer_id].record)
        return records

    def sample(self, count: int, rng: random.Random) -> list[Member]:
        """At most `count` members drawn evenly, none twice; the cost is of `count`, not of all."""
        if not self._sample_order:
            return []
        drawn = {rng.choice(self._sample_order): None for _ in range(count)}
        return [self._members[peer_id] for peer_id in drawn]

    def sample_linked_before(self, count: int, rng: random.Random) -> list[Member]:
        """The same of members that a session of ours was live with."""
        if not self._linked_before:
            return []
        drawn = {rng.choice(self._linked_before): None for _ in range(count)}
        return [self._members[peer_id] for peer_id in drawn]

    def sample_records(self, count: int, rng: random.Random, exclude: PeerId) -> list[PeerRecord]:
        """Records of up to `count` members thought to be up, drawn evenly."""
        drawn = self.sample(2 * count + 1, rng)
        return [
            each.record
            for each in drawn
            if each.status is MemberStatus.UP and each.record.peer_id != exclude
        ][:count]


def id_prefix(peer_id: PeerId) -> int:
    """What stands for a member in a roll."""
    return int.from_bytes(peer_id[:ID_PREFIX_BYTES], "big")
