"""The shared map: the winner of each key among the entries of all owners.

Invariants:

- The winner is the entry of a key with the highest (clock, owner), except that a clock more than
  `MAX_CLOCK_LEAD` above the next lower one does not count. So all nodes find the same winner.
- Entries of denied owners and expired entries do not count.
- The winner of a key is cached, so a key that all members have costs one comparison per change, not one per
  member. Tags and retained messages have no winner: each member has its own.
- It reads the maps and changes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from grapevine_proto.events import EntryInfo, KeyInfo
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.state.owner_map import Entry, OwnerMap
from grapevine_proto.tags import TAG_PREFIX
from grapevine_proto.wire.entry_terms import MAX_CLOCK, RETAIN_PREFIX

MAX_CLOCK_LEAD: Final = 1 << 20  # more than honest writers of one key ever take turns


class Ranked(NamedTuple):
    """The entries of one key, highest first: those that count, and those whose clock is too far ahead."""

    counted: list[Entry]
    ahead: list[Entry]


def is_owners_alone(key: str) -> bool:
    """Whether each member has its own value under `key`, without a winner: tags and retained messages."""
    return key.startswith((TAG_PREFIX, RETAIN_PREFIX))


def _rank(entry: Entry) -> tuple[int, PeerId]:
    return entry.terms.clock, entry.owner


def _counts_at(entry: Entry, now: float) -> bool:
    """Whether the entry competes for its key: it has a value, or says that the key is deleted."""
    return entry.terms.is_deleted or now < entry.expires_at


class SharedMap:
    """The entries of `maps` by key. The owner of the maps calls `add` and `remove` as they change."""

    def __init__(self, context: OverlayContext, maps: Mapping[PeerId, OwnerMap]) -> None:
        self._config = context.config
        self._our_id = context.our_id
        self._maps = maps
        self._owners_by_key: dict[str, dict[PeerId, None]] = {}
        self._winners: dict[
            str, Entry
        ] = {}  # of keys without an entry that is ahead, once asked for
        self._denied = context.config.current.denied  # when these were found

    def add(self, entry: Entry) -> None:
        """Adds an entry that its owner's map has now."""
        key, clock = entry.key, entry.terms.clock
        self._owners_by_key.setdefault(key, {})[entry.owner] = None
        best = self._winners.get(key)
        if best is None or entry.owner in self._denied:
            return
        if max(clock, best.terms.clock) > MAX_CLOCK_LEAD:
            del self._winners[key]  # one of them may be ahead
        elif _rank(entry) >= _rank(best):
            self._winners[key] = entry
        elif entry.owner == best.owner:
            del self._winners[key]

    def remove(self, owner: PeerId, key: str) -> None:
        """Removes the entry that the map of `owner` had under `key`."""
        owners = self._owners_by_key[key]
        del owners[owner]
        if not owners:
            del self._owners_by_key[key]
        best = self._winners.get(key)
        if best is not None and (best.owner == owner or best.terms.clock > MAX_CLOCK_LEAD):
            del self._winners[key]

    def winner(self, key: str, now: float) -> Entry | None:
        """Returns the winner of `key`; None if no entry counts."""
        if self._denied != self._config.current.denied:
            self._denied = self._config.current.denied
            self._winners.clear()
        best = self._winners.get(key)
        if best is not None and _counts_at(best, now):
            return best
        counted, ahead = self.ranked(key, now)
        if not counted:
            return None
        if not ahead:  # otherwise a lower entry can bring the one that is ahead back
            self._winners[key] = counted[0]
        return counted[0]

    def ranked(self, key: str, now: float) -> Ranked:
        """Returns the entries of a key, highest first, and those whose clock is too far ahead."""
        denied = self._config.current.denied
        found = [
            self._maps[owner].entries[key]
            for owner in self._owners_by_key.get(key, ())
            if owner not in denied
        ]
        found = [each for each in found if _counts_at(each, now)]
        found.sort(key=_rank, reverse=True)
        first = 0
        while (
            first + 1 < len(found)
            and found[first].terms.clock > found[first + 1].terms.clock + MAX_CLOCK_LEAD
        ):
            first += 1
        return Ranked(found[first:], found[:first])

    def get(self, key: str, now: float) -> bytes | None:
        """Returns the value of `key`; None if it has none."""
        winner = self.winner(key, now)
        return None if winner is None else winner.value_at(now)

    def get_all(self, key: str, now: float) -> dict[PeerId, bytes]:
        """Returns the values of `key` by owner, that of the winner first."""
        counted, ahead = self.ranked(key, now)
        values = {each.owner: each.value_at(now) for each in counted + ahead}
        return {owner: value for owner, value in values.items() if value is not None}

    def values_of(self, owner: PeerId, now: float) -> dict[str, bytes]:
        """Returns the values of one owner, by key."""
        owner_map = self._maps.get(owner)
        if owner_map is None:
            return {}
        values = {key: each.value_at(now) for key, each in sorted(owner_map.entries.items())}
        return {key: value for key, value in values.items() if value is not None}

    def keys(self, prefix: str, now: float) -> list[KeyInfo]:
        """Returns the keys that begin with `prefix`, sorted, each with all its entries. A key that its owners
        deleted is included until they collect it."""
        found = sorted(key for key in self._owners_by_key if key.startswith(prefix))
        return [self._key_info(key, now) for key in found]

    def _key_info(self, key: str, now: float) -> KeyInfo:
        counted, ahead = self.ranked(key, now)
        infos = [self._info(each, now, is_winner=each is counted[0]) for each in counted]
        others = infos[1:] + [self._info(each, now, clock_ahead=True) for each in ahead]
        return KeyInfo(key, infos[0] if infos else None, tuple(others))

    def _info(
        self, entry: Entry, now: float, *, is_winner: bool = False, clock_ahead: bool = False
    ) -> EntryInfo:
        terms = entry.terms
        return EntryInfo(
            entry.owner,
            entry.key,
            entry.value_at(now),
            terms.clock,
            *entry.version,
            ttl_s=terms.ttl_s,
            remaining_s=max(0.0, entry.expires_at - now) if terms.ttl_s else None,
            is_durable=terms.is_durable,
            topic=entry.topic,
            is_winner=is_winner,
            conflict=self._maps[entry.owner].is_conflicted,
            clock_ahead=clock_ahead,
        )

    def retained(self, now: float) -> Iterator[Entry]:
        """Returns the retained messages of all owners that have not expired."""
        for key, owners in self._owners_by_key.items():
            if not key.startswith(RETAIN_PREFIX):
                continue
            for owner in owners:
                each = self._maps[owner].entries[key]
                if each.topic and each.value_at(now) is not None:
                    yield each

    @property
    def entries(self) -> int:
        """The number of entries of all owners that are not deleted."""
        return sum(each.keys for each in self._maps.values())

    def clock_for(self, key: str, now: float) -> int:
        """Returns the lowest clock with which an entry of ours is the winner of `key`. Tags and retained
        messages need none: each member has its own."""
        if is_owners_alone(key):
            return 1
        winner = self.winner(key, now)
        if winner is None:
            return 1
        clock = winner.terms.clock
        if winner.owner == self._our_id:
            return clock
        if clock > MAX_CLOCK_LEAD + 1:
            counted = self.ranked(key, now).counted
            if all(each.owner in (winner.owner, self._our_id) for each in counted):
                return 1  # with which the winner is too far ahead
        return min(clock + 1, MAX_CLOCK)

    def hides_others(self, deleted: Entry, now: float) -> bool:
        """Whether an older value of another owner would return if this deleted entry were removed."""
        return not is_owners_alone(deleted.key) and any(
            owner != deleted.owner
            and self._maps[owner].entries[deleted.key].value_at(now) is not None
            for owner in self._owners_by_key.get(deleted.key, ())
        )
