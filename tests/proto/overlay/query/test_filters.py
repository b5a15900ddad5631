"""Filters: origin and member agree, and a condition that this version does not know matches nobody."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.query.filters import (
    ALL_MEMBERS,
    MemberFilter,
    matches,
)
from grapevine_proto.wire.query_terms import Clause
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
        (MemberFilter(tags={"role": "web"}), [1, 3]),
        (MemberFilter(tags={"role": ("web", "db")}), [1, 2, 3]),
        (MemberFilter(tags={"rack": None}), [3]),
        (MemberFilter(tags={"role": "web", "rack": "7"}), [3]),
        (MemberFilter(tags={"role": ""}), []),
        (MemberFilter(zone="eu", tags={"role": ["web"]}), [1]),
    ],
)
def test_origin_and_members_agree_on_the_selection(
    member_filter: MemberFilter, numbers: list[int]
) -> None:
    records = {1: record(1, zone="eu"), 2: record(2, zone="eu"), 3: record(3)}
    tags = {1: {"role": "web"}, 2: {"role": "db"}, 3: {"role": "web", "rack": "7"}}
    clauses = member_filter.to_clauses()
    assert [each for each in records if member_filter.admits(records[each], tags[each])] == numbers
    assert [each for each in records if matches(clauses, records[each], tags[each])] == numbers
    assert MemberFilter(tags=member_filter.tags).tags == member_filter.tags


def test_a_filter_is_named_by_its_conditions() -> None:
    member_filter = MemberFilter(
        ids=[peer_id(1)], zone="eu", tags={"role": ("web", "db"), "rack": None}
    )
    assert str(member_filter) == "1 peer IDs, zone 'eu', tag rack=*, tag role=web|db"
    assert not str(ALL_MEMBERS)


def test_a_clause_of_a_later_version_matches_nobody() -> None:
    assert not matches((Clause(4, (b"role", b"web")),), record(1), {"role": "web"})
    ids = MemberFilter(ids=(peer_id(1),)).to_clauses()
    assert not matches((*ids, Clause(255, 0)), record(1), {})


def test_ids_that_share_a_prefix_are_distinguished_by_the_origin() -> None:
    twin = PeerId(peer_id(1)[:4] + bytes(28))
    wanted = MemberFilter(ids=(twin,))
    assert matches(wanted.to_clauses(), record(1), {})
    assert not wanted.admits(record(1), {})


@pytest.mark.parametrize(
    "arguments",
    [
        {"ids": ()},
        {"ids": (b"short",)},
        {"ids": (peer_id(1),) * 65},
        {"zone": "z" * 65},
        {"zone": b"eu"},
        {"tags": {"": "x"}},
        {"tags": {"a=b": "x"}},
        {"tags": {"role": "x" * 129}},
        {"tags": {"role": ["x"] * 17}},
        {"tags": {"role": [7]}},
        {"tags": {f"t{number}": None for number in range(7)}},
    ],
)
def test_a_filter_that_cannot_be_sent_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        MemberFilter(**arguments)  # type: ignore[arg-type]


def test_the_largest_filter_is_accepted() -> None:
    largest = MemberFilter(ids=tuple(map(peer_id, range(64))), zone="z" * 64)
    assert [len(clause.value) for clause in largest.to_clauses()] == [64 * 4, 64]


def test_a_filter_has_up_to_six_tags_of_16_values_and_asks_the_nearest_64() -> None:
    values = [f"v{number}" for number in range(16)]
    largest = MemberFilter(tags={f"t{number}": values for number in range(6)}, nearest=64)
    assert [len(clause.value) for clause in largest.to_clauses()] == [17] * 6
    assert MemberFilter(nearest=1).nearest == 1
    for nearest in (0, 65, True, 1.0):
        with pytest.raises(InvalidArgument, match="nearest"):
            MemberFilter(nearest=nearest)  # type: ignore[arg-type]


def test_of_the_members_that_a_filter_admits_the_nearest_are_asked_by_their_ids() -> None:
    narrowed = MemberFilter(zone="eu", nearest=2).narrowed([peer_id(1), peer_id(2)])
    assert narrowed == MemberFilter(ids=(peer_id(1), peer_id(2)), zone="eu")
