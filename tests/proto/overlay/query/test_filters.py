"""Filters: origin and member agree, and a condition that this version does not know matches nobody."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.query.filters import ALL_MEMBERS, MemberFilter, matches
from grapevine_proto.wire.query_terms import MAX_ID_PREFIXES, Clause
from tests.proto.overlay.builders import peer_id, record


@pytest.mark.parametrize(
    ("member_filter", "numbers"),
    [
        (ALL_MEMBERS, [1, 2, 3]),
        (MemberFilter(ids=(peer_id(1), peer_id(3))), [1, 3]),
        (MemberFilter(zone="eu"), [1, 2]),
        (MemberFilter(zone=""), [3]),
        (MemberFilter(ids=(peer_id(1), peer_id(3)), zone="eu"), [1]),
        (MemberFilter(zone="us"), []),
    ],
)
def test_origin_and_members_agree_on_the_selection(
    member_filter: MemberFilter, numbers: list[int]
) -> None:
    records = {1: record(1, zone="eu"), 2: record(2, zone="eu"), 3: record(3)}
    clauses = member_filter.to_clauses()
    assert [each for each in records if member_filter.admits(records[each])] == numbers
    assert [each for each in records if matches(clauses, records[each])] == numbers


def test_a_clause_of_a_later_version_matches_nobody() -> None:
    assert not matches((Clause(3, (b"role", b"web")),), record(1))
    assert not matches((*MemberFilter(ids=(peer_id(1),)).to_clauses(), Clause(255, 0)), record(1))


def test_ids_that_share_a_prefix_are_distinguished_by_the_origin() -> None:
    twin = PeerId(peer_id(1)[:4] + bytes(28))
    wanted = MemberFilter(ids=(twin,))
    assert matches(wanted.to_clauses(), record(1))
    assert not wanted.admits(record(1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"ids": ()},
        {"ids": (b"short",)},
        {"ids": (peer_id(1),) * (MAX_ID_PREFIXES + 1)},
        {"zone": "z" * 65},
        {"zone": b"eu"},
    ],
)
def test_a_filter_that_cannot_be_sent_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        MemberFilter(**arguments)  # type: ignore[arg-type]


def test_the_largest_filter_is_accepted() -> None:
    largest = MemberFilter(ids=tuple(map(peer_id, range(64))), zone="z" * 64)
    assert [len(clause.value) for clause in largest.to_clauses()] == [64 * 4, 64]
