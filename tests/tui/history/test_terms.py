"""The terms of a filter, with times and numbers."""

from __future__ import annotations

import pytest

from grapevine_tui.history.terms import (
    Term,
    TimeRange,
    parse_comparison,
    parse_query,
    parse_time_range,
    without_times,
)

NOW = 1_790_000_000.0


def test_times_are_terms_of_their_own() -> None:
    query = parse_query('deploy since:1h before:"2026-01-03 10:00" at:5m')
    assert query.has_times
    assert without_times(query).terms == (Term("", "deploy", False),)
    times = parse_time_range(query, NOW)
    assert times.since == NOW - 3600
    assert times.at == NOW - 300
    assert not parse_query("deploy from:bob").has_times
    assert parse_time_range(parse_query("deploy"), NOW) == TimeRange()


def test_an_at_sign_is_a_time_only_if_a_time_follows() -> None:
    assert parse_query("@1h").terms == (Term("at", "1h", False),)
    assert parse_query("@19:05").terms == (Term("at", "19:05", False),)
    assert parse_query("@bob").terms == (Term("", "@bob", False),)


def test_a_time_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match=r"since: expected a time such as .*, not 'soon'"):
        parse_time_range(parse_query("since:soon"), NOW)


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [(">3", 4, 3), (">=3", 3, 2), ("<3", 2, 3), ("<=3", 3, 4), ("3", 3, 4), ("=3", 3, 2),
     (">10k", 10_001, 10_000), ("<2mb", 1_999_999, 2_000_000)],
)  # fmt: skip
def test_numbers_are_compared(text: str, matching: int, other: int) -> None:
    compares = parse_comparison(text)
    assert compares is not None
    assert compares(matching)
    assert not compares(other)


@pytest.mark.parametrize("text", ["", "x", ">", "3x", "-1", "1.5", "> 3"])
def test_other_text_is_no_comparison(text: str) -> None:
    assert parse_comparison(text) is None
