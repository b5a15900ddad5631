"""Shared by the tests of keyed state: owners that sign entries, and a node that learns them."""

from __future__ import annotations

from dataclasses import dataclass, field

from grapevine_proto.events import EntryChanged
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Emit, WriteEntry
from grapevine_proto.overlay.state.keyed_state import KeyedState
from grapevine_proto.overlay.state.owner_map import Entry, OwnerMap
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.entry_terms import NO_VERSION, EntryTerms, Version
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, context, identity, peer_id


@dataclass
class Owner:
    """Another member, which keeps its own map and signs what it writes. Time stands at 0."""

    number: int
    epoch: int = EPOCH
    sequence: int = 0
    map: OwnerMap = field(init=False)

    def __post_init__(self) -> None:
        self.map = OwnerMap(peer_id(self.number))

    def write(
        self,
        key: str,
        value: bytes | None,
        *,
        clock: int = 1,
        ttl_s: int = 0,
        collected: Version = NO_VERSION,
        is_durable: bool = False,
        topic: str = "",
    ) -> Rumor:
        """The signed rumor of a write."""
        rumor = self.signed(
            key,
            value,
            clock=clock,
            ttl_s=ttl_s,
            collected=collected,
            is_durable=is_durable,
            topic=topic,
        )
        entry = Entry.from_rumor(rumor, 0.0)
        assert entry is not None
        assert self.map.apply(entry) is not None
        return rumor

    def signed(
        self,
        key: str,
        value: bytes | None,
        *,
        clock: int = 1,
        ttl_s: int = 0,
        collected: Version = NO_VERSION,
        is_durable: bool = False,
        topic: str = "",
    ) -> Rumor:
        """The rumor of a write that is not in the owner's own map."""
        self.sequence += 1
        version, body = (self.epoch, self.sequence), value or b""
        newest = self.map.newest
        collected = max(collected, NO_VERSION if newest is None else newest.terms.collected)
        terms = EntryTerms(key, clock, ttl_s, value is None, is_durable, collected)
        digest = self.map.digest_with(version, terms, body)
        terms = EntryTerms(key, clock, ttl_s, value is None, is_durable, collected, digest)
        attributes = rumor_attributes(topic=topic, entry=terms)
        signer = identity(self.number)
        return Rumor.signed(
            signer, "default", self.epoch, self.sequence, (body,), attributes=attributes
        )

    def delete(self, key: str, *, clock: int = 1, collected: Version = NO_VERSION) -> Rumor:
        return self.write(key, None, clock=clock, collected=collected)


def entry_of(rumor: Rumor, published_at: float = 0.0) -> Entry:
    entry = Entry.from_rumor(rumor, published_at)
    assert entry is not None
    return entry


def entries_of(*rumors: Rumor) -> list[Entry]:
    return [entry_of(each) for each in rumors]


class Learner:
    """Node `number`, which takes entries of others and writes its own."""

    def __init__(self, number: int = 0, /, **changes: object) -> None:
        self.context: OverlayContext = context(number, **changes)
        self.state = KeyedState(self.context, (), 0.0)
        self.identity = identity(number)
        self.id = peer_id(number)
        self.sequence = 0

    def learn(self, *rumors: Rumor, now: float = 0.0, age_ms: int = 0) -> list[EntryChanged]:
        """Rumors arrive from a peer that is not their origin; returns the changes."""
        effects: list[Effect] = []
        for each in rumors:
            copy = RumorCopy(each, 1, age_ms)
            effects += self.state.on_rumor(copy, (peer_id(99),), now)
        return changes_in(effects)

    def write(
        self, key: str, value: bytes | None, now: float = 0.0, **changes: object
    ) -> list[EntryChanged]:
        """This node writes an entry, as the engine does."""
        return changes_in(self.perform(WriteEntry(key, value, **changes), now))  # type: ignore[arg-type]

    def perform(self, write: WriteEntry, now: float = 0.0) -> list[Effect]:
        self.state.check(write)
        self.sequence += 1
        terms = self.state.terms_for(write, (EPOCH, self.sequence), now)
        attributes = rumor_attributes(topic=write.topic, entry=terms)
        rumor = Rumor.signed(
            self.identity,
            "default",
            EPOCH,
            self.sequence,
            (write.value or b"",),
            attributes=attributes,
        )
        return self.state.on_own_rumor(rumor, now)


def changes_in(effects: list[Effect]) -> list[EntryChanged]:
    return [
        each.event
        for each in effects
        if isinstance(each, Emit) and isinstance(each.event, EntryChanged)
    ]


def owner_id(number: int) -> PeerId:
    return peer_id(number)
