"""Filters of queries: which members a query asks.

Invariants:

- The origin and every member decide by the same clauses; the origin uses the records that it has.
- A clause that this version does not know matches no member, so a member never answers a query that may not
  be meant for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.ids import PeerId, Zone
from grapevine_proto.tags import tags_fault
from grapevine_proto.wire.query_terms import (
    IDS_CLAUSE,
    MAX_CLAUSES,
    MAX_ID_PREFIXES,
    MAX_TAG_VALUES,
    MAX_ZONE_BYTES,
    PREFIX_BYTES,
    TAG_CLAUSE,
    ZONE_CLAUSE,
    Clause,
)
from grapevine_proto.wire.signed import PeerRecord

TagConditions: TypeAlias = tuple[tuple[str, ...], ...]
"""Of each tag its name, and the values of which it must have one; without any, every value will do."""

MAX_TAG_CONDITIONS = MAX_CLAUSES - 2  # beside IDs and zone


@dataclass(frozen=True, slots=True)
class MemberFilter:
    """The members that a query asks: those for which every given condition holds; without any, all.

    Args:
        ids: peer IDs, at most 64; None: any.
        zone: the zone in their record; None: any.
        tags: by name the value that a tag must have, several of which one must hold, or None for any
            value; at most six names.
        nearest: of the members for which the rest holds only this number, those nearest to this node, 1 to
            64; None: all. The origin decides which.
    """

    ids: tuple[PeerId, ...] | None = None
    zone: Zone | None = None
    tags: TagConditions = ()
    nearest: int | None = None

    if TYPE_CHECKING:  # what is accepted is wider than what is stored

        def __init__(
            self,
            ids: Iterable[PeerId] | None = None,
            zone: str | None = None,
            tags: Mapping[str, str | Iterable[str] | None] | TagConditions = ...,
            nearest: int | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.ids is not None:
            ids = tuple(self.ids)
            if not all(isinstance(each, PeerId) for each in ids):
                raise InvalidArgument("ids: expected peer IDs")
            if not 1 <= len(ids) <= MAX_ID_PREFIXES:
                raise InvalidArgument(f"ids: expected 1 to {MAX_ID_PREFIXES}, got {len(ids)}")
            object.__setattr__(self, "ids", ids)
        if self.zone is not None and (
            not isinstance(self.zone, str) or len(self.zone.encode()) > MAX_ZONE_BYTES
        ):
            raise InvalidArgument(f"zone: expected text of at most {MAX_ZONE_BYTES} bytes")
        if self.nearest is not None and (
            type(self.nearest) is not int or not 1 <= self.nearest <= MAX_ID_PREFIXES
        ):
            raise InvalidArgument(
                f"nearest: expected 1 to {MAX_ID_PREFIXES}, got {self.nearest!r:.40}"
            )
        object.__setattr__(self, "tags", _tag_conditions(self.tags))

    def narrowed(self, nearest: Iterable[PeerId]) -> MemberFilter:
        """The same filter for these members, which are the `nearest` of those it admits."""
        return replace(self, ids=tuple(nearest), nearest=None)

    def admits(self, record: PeerRecord, tags: Mapping[str, str]) -> bool:
        """Whether the subject of `record`, which has `tags`, is asked. Unlike the prefixes in the clauses,
        the IDs are exact."""
        if self.ids is not None and record.peer_id not in self.ids:
            return False
        if self.zone is not None and record.zone != self.zone:
            return False
        return all(_has_tag(tags, name, values) for name, *values in self.tags)

    def __str__(self) -> str:
        """The conditions for people, such as ``zone 'eu', tag role=web|db``; empty without any."""
        conditions = [] if self.ids is None else [f"{len(self.ids)} peer IDs"]
        if self.zone is not None:
            conditions.append(f"zone {self.zone!r}")
        conditions += [f"tag {name}={'|'.join(values) or '*'}" for name, *values in self.tags]
        return ", ".join(conditions)

    def to_clauses(self) -> tuple[Clause, ...]:
        """Returns the conditions as they go over the wire."""
        clauses = []
        if self.ids is not None:
            prefixes = b"".join(sorted({each[:PREFIX_BYTES] for each in self.ids}))
            clauses.append(Clause(IDS_CLAUSE, prefixes))
        if self.zone is not None:
            clauses.append(Clause(ZONE_CLAUSE, self.zone.encode()))
        for condition in self.tags:
            clauses.append(Clause(TAG_CLAUSE, tuple(text.encode() for text in condition)))
        return tuple(clauses)


def _tag_conditions(given: Any) -> TagConditions:
    """(name, values...) of each condition, sorted. Raises InvalidArgument."""
    if isinstance(given, Mapping):
        pairs = [(name, () if value is None else value) for name, value in given.items()]
        found = [
            (name, *((values,) if isinstance(values, str) else values)) for name, values in pairs
        ]
    else:
        found = [tuple(each) for each in given]
    if len(found) > MAX_TAG_CONDITIONS:
        raise InvalidArgument(f"tags: expected at most {MAX_TAG_CONDITIONS} names")
    for name, *values in found:
        if len(values) > MAX_TAG_VALUES:
            raise InvalidArgument(f"tags: expected at most {MAX_TAG_VALUES} values of {name!r:.40}")
        for value in values or [""]:
            if fault := tags_fault({name: value}):
                raise InvalidArgument(f"tags: {fault}")
    return tuple(sorted(found))


def _has_tag(tags: Mapping[str, str], name: str, values: list[str]) -> bool:
    return name in tags and (not values or tags[name] in values)


ALL_MEMBERS = MemberFilter()


def matches(clauses: Iterable[Clause], record: PeerRecord, tags: Mapping[str, str]) -> bool:
    """Whether all clauses hold for the subject of `record`, which has `tags`."""
    return all(_holds(clause, record, tags) for clause in clauses)


def _holds(clause: Clause, record: PeerRecord, tags: Mapping[str, str]) -> bool:
    number, value = clause
    if number == IDS_CLAUSE:
        starts = range(0, len(value), PREFIX_BYTES)
        return any(record.peer_id.startswith(value[at : at + PREFIX_BYTES]) for at in starts)
    if number == ZONE_CLAUSE:
        return bool(record.zone.encode() == value)
    if number == TAG_CLAUSE:
        name, *values = (text.decode() for text in value)
        return _has_tag(tags, name, values)
    return False
