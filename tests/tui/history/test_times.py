"""Times as people write them."""

from __future__ import annotations

import time

import pytest

from grapevine_tui.history.times import EXPECTED, format_time, parse_time

NOW = time.mktime((2026, 3, 14, 19, 30, 0, 0, 0, -1))


def clock(text: str) -> str:
    return format_time(parse_time(text, NOW))


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [
        ("now", 0),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5_400),
        ("1.5h", 5_400),
        ("2d", 172_800),
        ("1w", 604_800),
    ],
)
def test_an_age_counts_back_from_now(text: str, ago_s: float) -> None:
    assert parse_time(text, NOW) == NOW - ago_s


def test_a_time_of_day_is_the_latest_one_that_has_passed() -> None:
    assert clock("19:05") == "2026-03-14 19:05:00"
    assert clock("19:05:07") == "2026-03-14 19:05:07"
    assert clock("23:00") == "2026-03-13 23:00:00"


def test_days_have_names_and_dates() -> None:
    assert clock("today") == "2026-03-14 00:00:00"
    assert clock("yesterday") == "2026-03-13 00:00:00"
    assert clock("yesterday 03:10") == clock("Yesterday@03:10") == "2026-03-13 03:10:00"
    assert clock("2026-01-03") == "2026-01-03 00:00:00"
    assert clock("2026-01-03T19:05") == clock("2026-01-03t19:05") == "2026-01-03 19:05:00"
    assert parse_time("2026-01-03T19:05:00Z") == 1_767_467_100


@pytest.mark.parametrize(
    "text",
    ["", "soon", "25:00", "19:60", "1x", "-1h", "h", "2026-13-01", "0001-01-01", "yesterday 25:00", "today x",
     "9" * 400 + "h", "99999999999999999999d", "٣h"],
)  # fmt: skip
def test_anything_else_says_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as") as raised:
        parse_time(text, NOW)
    assert str(raised.value) == EXPECTED


def test_a_time_that_no_calendar_has_is_a_dash() -> None:
    assert format_time(1e30) == "-"
