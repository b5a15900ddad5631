"""Keyed state: a map of each member, which only that member writes, and the winner of each key.

Invariants:

- An entry is a rumor that its owner signed. Nothing else changes a map, and `OwnerMap` applies entries only
  if the map then equals that of its owner.
- An owner that signs two contents under one version is frozen until it starts a new epoch.
- At most `limits.state_owners` maps of `limits.state_bytes` in all. Maps of owners that are not up are
  evicted first; then entries are refused and counted.
- Without entries there is no deadline, no effect and no event.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from grapevine_proto.errors import InvalidArgument, MessageTooLarge, StateFull
from grapevine_proto.events import EntryChanged, MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import BumpEpoch, Effect, Emit, WriteEntry
from grapevine_proto.overlay.state.early_entries import EarlyEntries
from grapevine_proto.overlay.state.owner_map import (
    ENTRY_OVERHEAD_BYTES,
    MAX_ENTRIES,
    MAX_KEYS,
    MAX_MAP_BYTES,
    Change,
    Entry,
    OwnerMap,
    add_hashes,
)
from grapevine_proto.overlay.state.shared_map import MAX_CLOCK_LEAD, SharedMap, is_owners_alone
from grapevine_proto.tags import TAG_PREFIX, tags_fault
from grapevine_proto.timers import TimerQueue
from grapevine_proto.wire.entry_terms import (
    MAX_TTL_S,
    MAX_VALUE_BYTES,
    NO_VERSION,
    EntryTerms,
    Version,
    key_fault,
)
from grapevine_proto.wire.messages import (
    OWNER_PREFIX_BYTES,
    STATE_BUCKETS,
    IHave,
    Offer,
    RumorCopy,
)
from grapevine_proto.wire.signed import Rumor

EVICTION_SCAN_LIMIT: Final = 32  # maps examined to find one to evict
MAX_RETAINED: Final = 64  # messages of one node
SWEEP_INTERVAL_S: Final = 60.0  # between searches for owners that are gone
FORGET_GONE_S: Final = 7 * 86_400.0  # how long the version of a removed map is remembered
RECOVERY_LIMIT_S: Final = (
    5.0  # after the first link, to read back the map of a node that lost its state
)


class SavedEntry(NamedTuple):
    """An entry of this node as saved for a restart, with the parts of its signed rumor."""

    epoch: int
    sequence: int
    value: bytes
    signature: bytes
    attributes: bytes
    age_s: float


class _Gone(NamedTuple):
    """What is remembered of a map that was removed because its owner is gone."""

    version: Version
    at: float


class KeyedState:
    """The maps of all owners: a state machine. Broadcast calls it as a `RumorWatcher`, the engine with the
    entries of this node. `state_sync` reconciles it with peers."""

    def __init__(
        self,
        context: OverlayContext,
        saved: Iterable[SavedEntry],
        now: float,
        *,
        is_lost: bool = False,
    ) -> None:
        """`is_lost`: an earlier run of this node may have had entries that are not in `saved`."""
        self._config = context.config
        self._members = context.members
        self._verifier = context.verifier
        self._our_id = context.our_id
        self.maps: dict[PeerId, OwnerMap] = {}
        self.owner_by_prefix: dict[bytes, PeerId] = {}
        self.shared = SharedMap(context, self.maps)
        self.early = EarlyEntries()
        self._ends: TimerQueue[tuple[PeerId, str]] = TimerQueue()
        self._gone: OrderedDict[PeerId, _Gone] = OrderedDict()
        self._gone_by_prefix: dict[bytes, PeerId] = {}
        self._held: dict[str, WriteEntry] = {}  # until our own map is read back
        self._recovers_until = math.inf if is_lost else -math.inf
        self._is_compared = False  # with a peer
        self._is_own_wanted = False  # a peer has a map of ours that we lack
        self._has_written = False  # in this run
        self._sweep_at = math.inf
        self.sum = 0  # of the heads of all maps
        self.bucket_sums = [0] * STATE_BUCKETS
        self.changed_at = now
        self.clock_ahead = 0  # entries that came with a clock too far above the others
        self.conflicts = 0  # owners that signed two contents under one version
        self.adopted = 0  # durable entries adopted from members that are gone
        self.bytes = 0  # of all maps in memory
        self.refused = 0  # entries for which there is no room
        self.version = 0  # of our own map, for the component that saves it
        self._restore(saved, now)

    def _restore(self, saved: Iterable[SavedEntry], now: float) -> None:
        entries = []
        for each in saved:
            lengths = (len(each.value),)
            rumor = Rumor(
                self._our_id, each.epoch, each.sequence, lengths, each.value, each.signature,
                each.attributes,
            )  # fmt: skip
            entry = Entry.from_rumor(rumor, now - each.age_s)
            if entry is not None:
                entries.append(entry)
        cluster = self._config.current.cluster
        if not all(each.rumor.is_authentic(cluster) for each in entries):
            return  # of another cluster: here they would be forged
        own = OwnerMap(self._our_id)
        changes = own.merge(entries) if entries else []
        if changes is None:
            self._recovers_until = math.inf
        elif changes:
            self._add_map(own)
            self._on_changes(own, changes, 0, now)

    @property
    def own(self) -> OwnerMap | None:
        """The map of this node; None if it has never had an entry."""
        return self.maps.get(self._our_id)

    def snapshot(self, now: float) -> tuple[SavedEntry, ...]:
        """Returns the map of this node, to be saved."""
        own = self.own
        return tuple(
            SavedEntry(
                each.rumor.epoch,
                each.rumor.first,
                each.rumor.body,
                each.rumor.signature,
                each.rumor.attributes,
                now - each.published_at,
            )
            for each in (own.entries.values() if own is not None else ())
        )

    # --- entries of this node -------------------------------------------------------------------

    def check(self, write: WriteEntry) -> None:
        """Raises InvalidArgument, MessageTooLarge or StateFull if this node may not write that."""
        if fault := key_fault(write.key):
            raise InvalidArgument(f"key: {fault}")
        if not 0 <= write.ttl_s <= MAX_TTL_S:
            raise InvalidArgument(f"ttl: at most {MAX_TTL_S} s, got {write.ttl_s}")
        if write.value is None:
            return
        if len(write.value) > MAX_VALUE_BYTES:
            raise MessageTooLarge(len(write.value), MAX_VALUE_BYTES)
        own = self.own or OwnerMap(self._our_id)
        try:
            self._check_room(own, write.key, write.value, is_retained=bool(write.topic))
        except StateFull:
            self.refused += 1
            raise

    @staticmethod
    def _check_room(own: OwnerMap, key: str, value: bytes, *, is_retained: bool) -> None:
        """Raises StateFull if an entry does not fit in our map."""
        before = own.entries.get(key)
        has_key = before is not None and not before.terms.is_deleted
        size_bytes = own.bytes + len(key.encode()) + len(value)
        if own.keys - has_key >= MAX_KEYS:
            raise StateFull(f"this node has {MAX_KEYS} keys; delete one first")
        if is_retained:
            retained = sum(each.is_retained for other, each in own.entries.items() if other != key)
            if retained >= MAX_RETAINED:
                raise StateFull(f"this node retains {MAX_RETAINED} messages; delete one first")
        if size_bytes - (before.size_bytes if before is not None else 0) > MAX_MAP_BYTES:
            raise StateFull(f"the keys and values of a node may have {MAX_MAP_BYTES:,} bytes")

    def is_set(self, key: str) -> bool:
        """Whether this node has an entry under `key` that is not deleted."""
        own = self.own
        entry = None if own is None else own.entries.get(key)
        return entry is not None and not entry.terms.is_deleted

    def terms_for(self, write: WriteEntry, version: Version, now: float) -> EntryTerms:
        """Returns the terms of the entry with `version` for a write that `check` allows."""
        own = self.own or OwnerMap(self._our_id)
        terms = EntryTerms(
            write.key,
            self.shared.clock_for(write.key, now) if write.clock is None else write.clock,
            write.ttl_s,
            write.value is None,
            write.is_durable,
            self._collectable(own, write.key, now),
        )
        return terms._replace(digest=own.digest_with(version, terms, write.value or b""))

    def _collectable(self, own: OwnerMap, key: str, now: float) -> Version:
        """Returns the version up to which deleted keys of this node may be removed."""
        collected = NO_VERSION if own.newest is None else own.newest.terms.collected
        deleted = [each for each in own.entries.values() if each.terms.is_deleted]
        wait_s = self._config.current.state.tombstone
        for each in deleted:
            if each.published_at + wait_s > now or self.shared.hides_others(each, now):
                break
            collected = max(collected, each.version)
        if len(own.entries) >= MAX_ENTRIES and key not in own.entries:
            collected = max(collected, deleted[len(deleted) // 2].version)
        return collected

    def on_own_rumor(self, rumor: Rumor, now: float) -> list[Effect]:
        """Applies an entry of this node whose rumor was signed. Returns its events."""
        entry = Entry.from_rumor(rumor, now)
        if entry is None:
            return []
        own = self.own or OwnerMap(self._our_id)
        head = own.head
        self._has_written = True
        changes = own.apply(entry)
        if changes is None:
            return []
        self._add_map(own)
        return self._on_changes(own, changes, head, now)

    def tag_writes(self, tags: dict[str, str]) -> list[WriteEntry]:
        """Returns the writes after which this node has exactly these tags. Raises InvalidArgument."""
        if fault := tags_fault(tags):
            raise InvalidArgument(f"tags: {fault}")
        current = self._members.tags_of(self._our_id)
        gone = [WriteEntry(TAG_PREFIX + name, None) for name in current if name not in tags]
        return gone + [
            WriteEntry(TAG_PREFIX + name, value.encode())
            for name, value in sorted(tags.items())
            if current.get(name) != value
        ]

    # --- rumors of others -----------------------------------------------------------------------

    def on_rumor(self, copy: RumorCopy, holders: Iterable[PeerId], now: float) -> list[Effect]:
        """Applies the entry of a new rumor, if it has one. Checks the signature of a rumor that came from its
        origin itself, which broadcast does not check first."""
        entry = Entry.from_rumor(copy.rumor, now - copy.age_ms / 1000)
        if entry is None or entry.owner == self._our_id:
            return []
        if not self.is_newer(entry):
            return []
        sender = next(iter(holders), None)
        if sender == entry.owner and self._verifier.check(copy.rumor, sender, now) is not None:
            return []  # broadcast finds out and reports it before it passes the rumor on
        effects = self.take(entry, now)
        if sender is not None and self.is_newer(entry):
            self.early.note_gap(entry, sender, now)
        return effects

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """Does nothing: `take` got the first copy."""

    def on_ids(self, ids: IHave | Offer, sender: PeerId) -> None:
        """Does nothing: a missing entry is learned from its rumor or from heads."""

    def is_newer(self, entry: Entry) -> bool:
        """Whether `entry` is newer than our copy of its owner's map."""
        known = self.maps.get(entry.owner)
        if known is None:
            return not self.is_gone(entry.owner[:OWNER_PREFIX_BYTES], entry.version)
        return entry.version > known.version

    def take(self, entry: Entry, now: float) -> list[Effect]:
        """Applies an authentic entry of another member; an early one waits for the entries before it."""
        if not self._can_admit(entry.owner, _memory_bytes(entry)):
            self.refused += 1
            return []
        owner_map = self.maps.get(entry.owner) or OwnerMap(entry.owner)
        if self._is_frozen(owner_map, entry.version):
            return []
        head = owner_map.head
        changes = owner_map.apply(entry)
        if changes is None:
            self.early.add(entry)
            return []
        if entry.owner not in self.maps:
            self._add_map(owner_map)
        effects = self._on_changes(owner_map, changes, head, now)
        return effects + self._take_early(owner_map, now)

    def _take_early(self, owner_map: OwnerMap, now: float) -> list[Effect]:
        """Applies early entries of a map that changed, as far as they follow now."""
        effects: list[Effect] = []
        for entry in self.early.of(owner_map.owner):
            head = owner_map.head
            changes = owner_map.apply(entry)
            if changes is None and entry.version > owner_map.version:
                continue
            self.early.remove(entry)
            effects += self._on_changes(owner_map, changes or [], head, now)
        return effects

    # --- reconciliation -------------------------------------------------------------------------

    def version_of(self, owner: PeerId) -> Version:
        """Returns the version of our copy of a map; `NO_VERSION` if there is none."""
        known = self.maps.get(owner)
        return NO_VERSION if known is None else known.version

    def on_wanted(self, prefix: bytes) -> None:
        """A peer announced a newer version of the map of the owner with this ID prefix."""
        self._is_own_wanted |= prefix == self._our_id[:OWNER_PREFIX_BYTES]

    def is_gone(self, prefix: bytes, version: Version) -> bool:
        """Whether a map of at most this version was removed here because its owner is gone, and still is."""
        owner = self._gone_by_prefix.get(prefix)
        return owner is not None and version <= self._gone[owner].version and not self._is_up(owner)

    def merge(self, owner: PeerId, entries: Collection[Entry], now: float) -> list[Effect] | None:
        """Applies authentic entries of one map that a peer sent. Returns the events; None, without a change,
        if the entries are incomplete or there is no room for them."""
        known = self.maps.get(owner)
        if known is not None and self._is_contradicted(known, entries):
            return []
        if owner == self._our_id and self._has_written:
            return None  # see `take_back`
        newest = max(each.version for each in entries)
        size_bytes = sum(map(_memory_bytes, entries))
        if known is not None and self._is_frozen(known, newest):
            return None
        if not self._can_admit(owner, size_bytes - (known.memory_bytes if known else 0)):
            self.refused += len(entries)
            return None
        copy = known or OwnerMap(owner)
        head = copy.head
        changes = copy.merge(entries)
        if changes is None:
            return None
        if known is None:
            self._add_map(copy)
        effects = self._on_changes(copy, changes, head, now)
        return effects + self._take_early(copy, now)

    def take_back(self, owner: PeerId, entries: Iterable[Entry], now: float) -> list[Effect]:
        """Reads back entries that an earlier run of this node wrote and a peer has: writes them again, except
        keys that this run has written."""
        own = self.own
        if owner != self._our_id or own is None:
            return []
        effects: list[Effect] = []
        newer = [each for each in entries if each.version > own.version]
        for entry in sorted(newer, key=lambda each: each.version):
            if entry.key in own.entries:
                continue
            value = entry.value_at(now)
            if value is not None:
                ttl_s = entry.remaining_ttl_s(now)
                effects.append(
                    WriteEntry(entry.key, value, ttl_s, entry.terms.is_durable, entry.topic)
                )
        if newer:
            effects.insert(0, BumpEpoch(max(each.version[0] for each in newer)))
        return effects

    def on_conflict(self, rumor: Rumor) -> None:
        """The owner of an entry signed another content under its ID as well."""
        known = self.maps.get(rumor.origin)
        if rumor.known_attributes.entry is not None and known is not None:
            self._freeze(known)

    def _is_contradicted(self, known: OwnerMap, entries: Iterable[Entry]) -> bool:
        """Whether one of these authentic entries has the version of a known one and another content, so that
        the owner signed both."""
        held = {each.version: each.hash for each in known.entries.values()}
        if all(held.get(each.version, each.hash) == each.hash for each in entries):
            return False
        self._freeze(known)
        return True

    def _freeze(self, known: OwnerMap) -> None:
        if not known.is_conflicted:
            known.is_conflicted = True
            self.conflicts += 1

    @staticmethod
    def _is_frozen(known: OwnerMap, version: Version) -> bool:
        """Whether an entry is refused because its owner signed two contents in this epoch."""
        return known.is_conflicted and version[0] <= known.version[0]

    # --- a node that lost its state -------------------------------------------------------------

    @property
    def is_recovering(self) -> bool:
        """Whether an earlier run may have written entries that are not read back yet, so that writes wait."""
        return self._recovers_until > -math.inf

    def hold(self, write: WriteEntry) -> None:
        """Keeps a write until our own map has been read back."""
        self._held[write.key] = write

    def on_link_up(self, now: float) -> None:
        """A link is up: its peer may have our map."""
        if self._recovers_until == math.inf:
            self._recovers_until = now + RECOVERY_LIMIT_S

    def on_compared(self) -> None:
        """A comparison with a peer is complete: this node has everything that the peer has."""
        self._is_compared = True

    # --- maps -----------------------------------------------------------------------------------

    def _add_map(self, owner_map: OwnerMap) -> None:
        owner = owner_map.owner
        self.maps[owner] = owner_map
        self.owner_by_prefix[owner[:OWNER_PREFIX_BYTES]] = owner
        if self._gone.pop(owner, None) is not None:
            del self._gone_by_prefix[owner[:OWNER_PREFIX_BYTES]]

    def _can_admit(self, owner: PeerId, size_bytes: int) -> bool:
        """Whether there is room for entries of `owner`. Evicts maps of owners that are not up."""
        limits = self._config.current.limits
        is_known = owner in self.maps
        if not is_known and owner[:OWNER_PREFIX_BYTES] in self.owner_by_prefix:
            return False
        while (not is_known and len(self.maps) >= limits.state_owners) or (
            self.bytes + size_bytes > limits.state_bytes
        ):
            victim = self._departed_owner(owner)
            if victim is None:
                return False
            self.remove(victim)
        return True

    def _departed_owner(self, spared: PeerId) -> PeerId | None:
        """Returns an owner that is not up, of the next few maps, whose map can be evicted."""
        for owner in list(islice(self.maps, EVICTION_SCAN_LIMIT)):
            if owner not in (spared, self._our_id) and not self._is_up(owner):
                return owner
            self.maps[owner] = self.maps.pop(owner)  # the next look begins after it
        return None

    def _is_up(self, owner: PeerId) -> bool:
        member = self._members.get(owner)
        return member is not None and member.status in (MemberStatus.UP, MemberStatus.SUSPECT)

    def remove(self, owner: PeerId) -> None:
        """Removes the map of an owner, without an event."""
        owner_map = self.maps.pop(owner)
        self.owner_by_prefix.pop(owner[:OWNER_PREFIX_BYTES], None)
        self.early.remove_owner(owner)
        self._change_sums(owner, owner_map.head, 0)
        self.bytes -= owner_map.memory_bytes
        for key in owner_map.entries:
            self._forget_key(owner, key)
        self._members.set_tags(owner, {})

    def _forget_key(self, owner: PeerId, key: str) -> None:
        self.shared.remove(owner, key)
        self._ends.cancel((owner, key))

    def _on_changes(
        self, owner_map: OwnerMap, changes: list[Change], head_before: int, now: float
    ) -> list[Effect]:
        """Updates sums, tags and timers after changes of a map whose head was `head_before`. Returns the
        events."""
        if not changes:
            return []
        owner = owner_map.owner
        self._change_sums(owner, head_before, owner_map.head)
        self.changed_at = now
        owner_map.is_conflicted = False
        if owner == self._our_id:
            self.version += 1
        elif self._sweep_at == math.inf:
            self._sweep_at = now + self._sweep_interval_s
        for before, after in changes:
            self.bytes -= 0 if before is None else _memory_bytes(before)
            self.bytes += 0 if after is None else _memory_bytes(after)
            if after is not None:
                self.shared.add(after)
                self._ends.schedule((owner, after.key), after.expires_at)
            elif before is not None:
                self._forget_key(owner, before.key)
        effects: list[Effect] = []
        for change in changes:
            effects += self._events_of(change, now)
        keys = [(change.after or change.before) for change in changes]
        if any(each is not None and each.key.startswith(TAG_PREFIX) for each in keys):
            effects += self._update_tags(owner_map, now)
        return effects

    def _change_sums(self, owner: PeerId, before: int, after: int) -> None:
        self.sum = add_hashes(self.sum, added=(after,), removed=(before,))
        bucket = self.bucket_sums[owner[0]]
        self.bucket_sums[owner[0]] = add_hashes(bucket, added=(after,), removed=(before,))

    def _events_of(self, change: Change, now: float) -> list[Effect]:
        before, after = change
        subject = after or before
        if subject is None:
            return []
        value = None if after is None else after.value_at(now)
        previous = None if before is None else before.value_at(now)
        if value == previous and (value is None or not subject.topic):
            is_deletion = after is not None and after.terms.is_deleted
            if not (is_deletion and self.shared.hides_others(subject, now)):
                return []
        return [self._event(subject, value, previous, now)]

    def _event(
        self, subject: Entry, value: bytes | None, previous: bytes | None, now: float
    ) -> Effect:
        is_alone = is_owners_alone(subject.key)
        winner = subject if is_alone else self.shared.winner(subject.key, now)
        is_winner = winner is not None and winner.owner == subject.owner
        if subject.terms.clock > MAX_CLOCK_LEAD:
            ahead = self.shared.ranked(subject.key, now).ahead
            self.clock_ahead += any(each is subject for each in ahead)
        return Emit(
            EntryChanged(
                subject.owner,
                subject.key,
                value,
                previous,
                value is None,
                is_winner,
                subject.id,
                subject.topic,
            )
        )

    def _update_tags(self, owner_map: OwnerMap, now: float) -> list[Effect]:
        """Updates the tags of an owner. Tags beyond the limits are left out."""
        tags: dict[str, str] = {}
        for key, entry in sorted(owner_map.entries.items()):
            value = entry.value_at(now)
            if key.startswith(TAG_PREFIX) and value is not None:
                name, text = key.removeprefix(TAG_PREFIX), value.decode(errors="replace")
                if not tags_fault(tags | {name: text}):
                    tags[name] = text
        return self._members.set_tags(owner_map.owner, tags)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next; math.inf: never."""
        at = min(self._ends.deadline, self._sweep_at)
        return min(at, self._recovery_at) if self.is_recovering else at

    @property
    def _recovery_at(self) -> float:
        is_done = self._is_compared and (self.own is not None or not self._is_own_wanted)
        return self.changed_at if is_done else self._recovers_until

    @property
    def _sweep_interval_s(self) -> float:
        return min(SWEEP_INTERVAL_S, self._config.current.state.keep / 4)

    def advance(self, now: float) -> list[Effect]:
        """Handles expired entries: this node deletes its own, and hides those of others until their owners
        do. Looks for owners that are gone, and ends the wait for our own map."""
        effects: list[Effect] = []
        if self.is_recovering and now >= self._recovery_at:
            self._recovers_until = -math.inf
            effects += self._held.values()
            self._held.clear()
        if now >= self._sweep_at:
            effects += self._sweep(now)
        for owner, key in self._ends.pop_expired(now):
            owner_map = self.maps[owner]
            entry = owner_map.entries[key]
            if entry.terms.is_deleted:
                continue
            if owner == self._our_id:
                effects.append(WriteEntry(key, None))
                continue
            effects.append(self._event(entry, None, entry.rumor.body, now))
            if key.startswith(TAG_PREFIX):
                effects += self._update_tags(owner_map, now)
        return effects

    # --- owners that are gone -------------------------------------------------------------------

    def _sweep(self, now: float) -> list[Effect]:
        """Adopts the durable entries of owners that are gone, and later removes their maps."""
        keep_s = self._config.current.state.keep
        effects: list[Effect] = []
        adopts = self._is_least_up()
        for owner, owner_map in list(self.maps.items()):
            if owner == self._our_id or self._is_up(owner):
                owner_map.departed_at = math.inf
                continue
            owner_map.departed_at = min(owner_map.departed_at, now)
            if now - owner_map.departed_at >= keep_s:
                effects += self._give_up(owner_map, now)
            elif adopts and now - owner_map.departed_at >= keep_s / 2:
                effects += self._adopt(owner_map, now)
        while self._gone and now - next(iter(self._gone.values())).at >= FORGET_GONE_S:
            self._forget_gone()
        has_others = len(self.maps) > (self._our_id in self.maps) or self._gone
        self._sweep_at = now + self._sweep_interval_s if has_others else math.inf
        return effects

    def _give_up(self, owner_map: OwnerMap, now: float) -> list[Effect]:
        """Removes a map and remembers its version, so that a peer that still has it does not restore it."""
        live = [each for each in owner_map.entries.values() if each.value_at(now) is not None]
        self.remove(owner_map.owner)
        self.changed_at = now
        self._gone[owner_map.owner] = _Gone(owner_map.version, now)
        self._gone_by_prefix[owner_map.owner[:OWNER_PREFIX_BYTES]] = owner_map.owner
        if len(self._gone) > self._config.current.limits.state_owners:
            self._forget_gone()
        return [self._event(each, None, each.rumor.body, now) for each in live]

    def _forget_gone(self) -> None:
        owner, _ = self._gone.popitem(last=False)
        del self._gone_by_prefix[owner[:OWNER_PREFIX_BYTES]]

    def _adopt(self, owner_map: OwnerMap, now: float) -> list[Effect]:
        """Takes over the durable entries of an owner that is gone."""
        writes: list[Effect] = []
        for entry in owner_map.entries.values():
            value = entry.value_at(now)
            if not entry.terms.is_durable or value is None or self._is_outdone(entry, now):
                continue
            ttl_s = entry.remaining_ttl_s(now)
            write = WriteEntry(entry.key, value, ttl_s, True, entry.topic, entry.terms.clock)
            with suppress(StateFull):
                self.check(write)
                writes.append(write)
                self.adopted += 1
        return writes

    def _is_outdone(self, entry: Entry, now: float) -> bool:
        """Whether a member that is up, or this node, has the key with at least the clock of this entry."""
        return any(
            each.terms.clock >= entry.terms.clock
            for each in self.shared.ranked(entry.key, now).counted
            if each.owner == self._our_id or self._is_up(each.owner)
        )

    def _is_least_up(self) -> bool:
        """Whether this node adopts durable entries: it has the least peer ID of the members that are up."""
        return all(
            member.record.peer_id > self._our_id
            for member in self._members
            if member.status is MemberStatus.UP
        )


def _memory_bytes(entry: Entry) -> int:
    return ENTRY_OVERHEAD_BYTES + entry.size_bytes
