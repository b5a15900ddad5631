"""The member table: one entry for each known member of the cluster, linked or not.

Invariants:

- A member is known by its signed record with the highest (epoch, incarnation). No other node can
  raise either, so no node can speak for, silence or expel another.
- At most `limits.members` entries, and at most `limits.addresses_per_source` never-linked members
  from one source. A linked member always has an entry. Identities are free, so without a limit per
  source one malicious member could fill the table.
- Changes spread by piggyback, each a bounded number of times (SWIM, Das 2002, section 4.1).
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.coordinate import Estimate
from grapevine_proto.events import MemberChanged, MemberInfo, MemberStatus, PathKind
from grapevine_proto.ids import PEER_ID_BYTES, Address, PeerId
from grapevine_proto.overlay.effects import Effect, Emit
from grapevine_proto.overlay.transmit_queue import retransmit_limit
from grapevine_proto.wire.attributes import record_coordinate
from grapevine_proto.wire.messages import ID_PREFIX_BYTES
from grapevine_proto.wire.signed import PeerRecord

ID_PREFIX_MAX: Final = (1 << 8 * ID_PREFIX_BYTES) - 1
MEMBER_EVICTION_SCAN_LIMIT: Final = 16  # members examined to find one to evict
FORGET_MEMBER_S: Final = (
    24 * 3600.0
)  # a member that is down or left; longer than any gossip update about it circulates
TOMBSTONES_LIMIT: Final = 4096  # versions of removed members


class Member:
    """One member as known here, and when to dial it next."""

    __slots__ = (
        "changed_at",
        "coordinate",
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
        "status_reason",
        "tags",
        "validated_address",
        "was_linked",
    )

    def __init__(
        self, record: PeerRecord, status: MemberStatus, source: PeerId, now: float
    ) -> None:
        self.record = record
        self.coordinate = record_coordinate(record.attributes)
        self.status = status
        self.status_reason = ""  # why it has this status, for people
        self.tags: Mapping[str, str] = {}
        self.source = source
        self.was_linked = False  # a session with it has existed
        # where a session of its current epoch validated it
        self.validated_address: Address | None = None
        self.changed_at = now
        self.known_at = now
        self.epoch_known_at = now  # when its current epoch was first seen
        self.earlier_epoch = record.earlier_epoch  # the epoch it had before; 0: not known
        self.dial_at = now
        self.proximity_check_at = now  # when to measure its RTT next
        # RTT measured when the link was rejected as too far
        self.rejected_rtt_s: float | None = None
        self.failures = 0
        self.order_index = 0  # index in the table's `_sample_order`
        self.linked_before_index = 0  # index in the table's `_linked_before`

    @property
    def address(self) -> Address | None:
        """The address to dial first: the validated one, else the first in its record."""
        return next(iter(self.addresses), None)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses to dial, the validated one first."""
        claimed = self.record.addresses
        if self.validated_address is None:
            return claimed
        return (
            self.validated_address,
            *(each for each in claimed if each != self.validated_address),
        )

    def update_record(self, record: PeerRecord, now: float) -> None:
        """Replace the record. A new epoch drops a validated address that the new record does not
        contain, because a restarted member may have moved.
        """
        if record.epoch > self.record.epoch:
            self.earlier_epoch = record.earlier_epoch or self.record.epoch
            self.epoch_known_at = now
        if record.epoch > self.record.epoch and self.validated_address not in record.addresses:
            self.validated_address = None
        self.record = record
        self.coordinate = record_coordinate(record.attributes)

    def on_address_validated(self, address: Address) -> None:
        """A session reached it at `address`."""
        self.validated_address = address

    def dial_not_before(self, at: float) -> None:
        """It is dialed from `at` on."""
        self.dial_at = at

    def redial_from(self, at: float) -> None:
        """It was restarted: earlier failures do not count, and it is dialed from `at` on."""
        self.failures = 0
        self.dial_at = at

    def measure_not_before(self, at: float) -> None:
        """Its RTT is measured again from `at` on."""
        self.proximity_check_at = at

    def set_rejected_rtt(self, rtt_s: float | None) -> None:
        """Its link was rejected as too far at this RTT; None: that no longer counts."""
        self.rejected_rtt_s = rtt_s

    def set_status(self, status: MemberStatus, reason: str, now: float) -> Effect:
        """Set the status, whose `reason` is for people, and return the event for the application."""
        self.status = status
        self.status_reason = reason
        self.changed_at = now
        return Emit(MemberChanged(self.to_info()))

    def to_info(self, rtt: Estimate | None = None, path: PathKind | None = None) -> MemberInfo:
        """What the application sees; `rtt` is that from this node, `path` how its packets travel now."""
        record = self.record
        return MemberInfo(
            record.peer_id,
            self.address,
            record.zone,
            record.name,
            self.status,
            record.epoch,
            self.tags,
            self.status_reason,
            self.coordinate,
            rtt,
            path,
        )


class MemberTable:
    """All known members except this node."""

    def __init__(
        self, limits: LimitsConfig, is_linked: Callable[[PeerId], bool] = lambda _: False
    ) -> None:
        self._limits = limits
        self._is_linked = is_linked
        self._members: dict[PeerId, Member] = {}
        self._sample_order: list[PeerId] = []  # same members, for O(1) sampling
        self._sorted_ids: list[PeerId] = []  # same members, sorted, for member digests
        self._never_linked_total = 0
        self._never_linked: dict[PeerId, dict[PeerId, None]] = {}  # by source
        self._dial_failed: dict[PeerId, None] = {}  # the subset that did not answer a dial
        self._linked_before: list[PeerId] = []  # for O(1) sampling
        self._tombstones: dict[PeerId, tuple[tuple[int, int], float]] = {}  # version, expiry
        self._eviction_cursor = 0  # index in `_sample_order` where the next eviction scan starts
        self._pending_updates: dict[PeerId, int] = {}  # remaining transmissions
        self._tags: dict[PeerId, Mapping[str, str]] = {}  # also of this node, and of unknown owners
        self.overflows = 0

    def get(self, peer_id: PeerId) -> Member | None:
        return self._members.get(peer_id)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    @property
    def is_full(self) -> bool:
        """Whether the table is at its limit. New members then evict others and are not gossiped."""
        return len(self._members) >= self._limits.members

    def has_room_from(self, source: PeerId) -> bool:
        """Whether a member reported by `source` fits without evicting another."""
        return not self.is_full and self._has_quota(source)

    def _has_quota(self, source: PeerId) -> bool:
        return (
            self._never_linked_total < self._limits.addresses
            and len(self._never_linked.get(source, ())) < self._limits.addresses_per_source
        )

    def make_room_from(self, source: PeerId) -> bool:
        """Make room for a member reported by `source`; False if none could be evicted.

        Evicts a member that was never linked, is down or has left, so that new members are always
        learned. A source that has used up its quota evicts its own reports. The scan is bounded by
        `MEMBER_EVICTION_SCAN_LIMIT`.
        """
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
        """The never-linked member to evict: one that did not answer a dial, else one from a source
        that is not linked, else one from the source with the most reports.
        """
        if self._dial_failed:
            return next(iter(self._dial_failed))
        scanned = list(itertools.islice(self._never_linked, MEMBER_EVICTION_SCAN_LIMIT))
        for source in scanned:  # rotate, so that the next call scans other sources
            self._never_linked[source] = self._never_linked.pop(source)
        disconnected = [source for source in scanned if not self._is_linked(source)]
        largest = max(disconnected or scanned, key=lambda source: len(self._never_linked[source]))
        return next(iter(self._never_linked[largest]))

    def on_dial_failed(self, member: Member) -> None:
        """Count a failed dial of `member`."""
        member.failures += 1
        if not member.was_linked:
            self._dial_failed[member.record.peer_id] = None

    def add(self, record: PeerRecord, source: PeerId, now: float) -> Member:
        """Add a member seen for the first time. Call only after `make_room_from` returned true."""
        self._tombstones.pop(record.peer_id, None)
        status = MemberStatus.LEFT if record.left else MemberStatus.UP
        member = Member(record, status, source, now)
        member.tags = self._tags.get(record.peer_id, {})
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
        """The entry of a member that has a live session, added if necessary at the cost of one
        without a link. `validated_address` is where the session reached it.
        """
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
        """Remove a member from the accounting of never-linked members."""
        peer_id = member.record.peer_id
        self._never_linked_total -= 1
        self._dial_failed.pop(peer_id, None)
        from_source = self._never_linked[member.source]
        del from_source[peer_id]
        if not from_source:
            del self._never_linked[member.source]

    def _evict_for_link(self) -> None:
        """Evict a member without a link: preferably one that was never linked or is not up."""
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
        """Remove and return members that have been down for `reconnect_s` or left for
        `tombstone_s`. For another `tombstone_s`, records that are not newer than the removed one
        are ignored.
        """
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
        """Whether the member was removed and `record` is no newer than the record it had then."""
        tombstone = self._tombstones.get(record.peer_id)
        return tombstone is not None and record.version <= tombstone[0]

    # --- tags -----------------------------------------------------------------------------------

    def tags_of(self, peer_id: PeerId) -> Mapping[str, str]:
        """The tags of a member or of this node, from the keyed state."""
        return self._tags.get(peer_id, {})

    def set_tags(self, peer_id: PeerId, tags: Mapping[str, str]) -> list[Effect]:
        """The tags of a member, or of this node, are these from now on; returns the event if they changed
        and it is a member."""
        if self.tags_of(peer_id) == tags:
            return []
        if tags:
            self._tags[peer_id] = tags
        else:
            del self._tags[peer_id]
        member = self._members.get(peer_id)
        if member is None:
            return []
        member.tags = tags
        return [Emit(MemberChanged(member.to_info()))]

    # --- gossip ---------------------------------------------------------------------------------

    def queue_update(self, peer_id: PeerId, *, is_minor: bool = False) -> None:
        """Gossip the record of `peer_id` 4 x ceil(log10(N + 1)) times; a quarter of that if it `is_minor`,
        and not less often than it was to be."""
        limit = retransmit_limit(len(self._members) + 1)
        if is_minor:
            limit = max(limit // 4, self._pending_updates.get(peer_id, 0))
        self._pending_updates[peer_id] = limit

    def note_duplicate(self, peer_id: PeerId) -> None:
        """Count an update received from a peer as one of our own transmissions: the peer knows it
        already.
        """
        remaining = self._pending_updates.get(peer_id, 0) - 1
        if remaining > 0:
            self._pending_updates[peer_id] = remaining
        else:
            self._pending_updates.pop(peer_id, None)

    @property
    def pending_updates(self) -> int:
        """Number of members with transmissions left."""
        return len(self._pending_updates)

    def sorted_slice(self, begin: int, count: int) -> list[PeerId]:
        """Up to `count` members starting at index `begin` of the order by peer ID."""
        return self._sorted_ids[begin : begin + count]

    def in_prefix_range(self, first: int, last: int, count: int) -> list[PeerId]:
        """Up to `count` members whose ID prefixes are in [`first`, `last`], in order."""
        begin = bisect_left(self._sorted_ids, first, key=id_prefix)
        end = bisect_right(self._sorted_ids, last, key=id_prefix)
        return self._sorted_ids[begin : min(end, begin + count)]

    def find_by_prefix(self, prefix: bytes) -> Member | None:
        """A member whose ID begins with `prefix`, of at least `ID_PREFIX_BYTES` bytes."""
        first = id_prefix(PeerId(prefix.ljust(PEER_ID_BYTES, b"\0")))
        found = self.in_prefix_range(first, first, MEMBER_EVICTION_SCAN_LIMIT)
        peer_id = next((each for each in found if each.startswith(prefix)), None)
        return None if peer_id is None else self._members[peer_id]

    def next_updates(self, limit: int) -> list[PeerRecord]:
        """Up to `limit` records with transmissions left, in turn. Each counts as transmitted once."""
        records: list[PeerRecord] = []
        for peer_id in list(itertools.islice(self._pending_updates, limit)):
            remaining = self._pending_updates.pop(peer_id) - 1
            if remaining > 0:
                # to the end of the queue, behind updates sent less recently
                self._pending_updates[peer_id] = remaining
            records.append(self._members[peer_id].record)
        return records

    def sample(self, count: int, rng: random.Random) -> list[Member]:
        """Up to `count` distinct members drawn uniformly, in O(`count`)."""
        if not self._sample_order:
            return []
        drawn = {rng.choice(self._sample_order): None for _ in range(count)}
        return [self._members[peer_id] for peer_id in drawn]

    def sample_linked_before(self, count: int, rng: random.Random) -> list[Member]:
        """Up to `count` distinct members that have been linked, drawn uniformly."""
        if not self._linked_before:
            return []
        drawn = {rng.choice(self._linked_before): None for _ in range(count)}
        return [self._members[peer_id] for peer_id in drawn]

    def sample_records(self, count: int, rng: random.Random, exclude: PeerId) -> list[PeerRecord]:
        """Records of up to `count` members with status up, drawn uniformly."""
        drawn = self.sample(2 * count + 1, rng)
        return [
            each.record
            for each in drawn
            if each.status is MemberStatus.UP and each.record.peer_id != exclude
        ][:count]


def id_prefix(peer_id: PeerId) -> int:
    """The prefix that identifies a member in a member digest."""
    return int.from_bytes(peer_id[:ID_PREFIX_BYTES], "big")
