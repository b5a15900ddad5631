"""Filters of queries: which members a query asks.

Invariants:

- The origin and every member decide by the same clauses, the origin by the records it has.
- A clause that this version does not know matches no member, so a member never answers what it may not have
  been asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.ids import PeerId, Zone
from grapevine_proto.wire.query_terms import (
    IDS_CLAUSE,
    MAX_ID_PREFIXES,
    MAX_ZONE_BYTES,
    PREFIX_BYTES,
    ZONE_CLAUSE,
    Clause,
)
from grapevine_proto.wire.signed import PeerRecord


@dataclass(frozen=True, slots=True)
class MemberFilter:
    """The members that a query asks: those for which every given condition holds; without any, all.

    Args:
        ids: peer IDs, at most 64; None: any.
        zone: the zone in their record; None: any.
    """

    ids: tuple[PeerId, ...] | None = None
    zone: Zone | None = None

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

    def admits(self, record: PeerRecord) -> bool:
        """Whether its subject is asked. Unlike the prefixes in the clauses, the IDs are exact."""
        if self.ids is not None and record.peer_id not in self.ids:
            return False
        return self.zone is None or record.zone == self.zone

    def to_clauses(self) -> tuple[Clause, ...]:
        """Returns the conditions as they go over the wire."""
        clauses = []
        if self.ids is not None:
            prefixes = b"".join(sorted({each[:PREFIX_BYTES] for each in self.ids}))
            clauses.append(Clause(IDS_CLAUSE, prefixes))
        if self.zone is not None:
            clauses.append(Clause(ZONE_CLAUSE, self.zone.encode()))
        return tuple(clauses)


ALL_MEMBERS = MemberFilter()


def matches(clauses: Iterable[Clause], record: PeerRecord) -> bool:
    """Whether all clauses hold for the subject of `record`."""
    return all(_holds(clause, record) for clause in clauses)


def _holds(clause: Clause, record: PeerRecord) -> bool:
    number, value = clause
    if number == IDS_CLAUSE:
        starts = range(0, len(value), PREFIX_BYTES)
        return any(record.peer_id.startswith(value[at : at + PREFIX_BYTES]) for at in starts)
    if number == ZONE_CLAUSE:
        return bool(record.zone.encode() == value)
    return False
