"""Sections with names that users choose: what is wrong with a name or an entry is one line."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.named_entries import NamedEntries, check_line

ENTRIES = NamedEntries("app.things", "things", 2, 8, reserved_name="all")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("x", "app.things: expected a section, [app.things], not a value"),
        ({"a": 1, "b": 2, "c": 3}, "app.things: at most 2 things, got 3"),
        (
            {"A": 1},
            "app.things.A: a name has lower-case letters, digits, - and _, at most 8, not all",
        ),
        ({"all": 1}, "app.things.all: a name has"),
        ({"-a": 1}, "app.things.-a: a name has"),
        ({"a" * 9: 1}, "at most 8"),
    ],
)
def test_a_section_that_is_not_valid_is_refused_in_one_line(given: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(ENTRIES.parse(given))
    assert problem in str(caught.value)


def test_entries_come_with_their_location_and_capitals_where_they_are_allowed() -> None:
    assert list(ENTRIES.parse({"a-1": "x"})) == [("a-1", "app.things.a-1", "x")]
    assert [*ENTRIES._replace(has_capitals=True).parse({"A": 1})] == [("A", "app.things.A", 1)]


@pytest.mark.parametrize("value", ["", "  ", 3, None, "x" * 5])
def test_a_line_is_text_of_some_length(value: object) -> None:
    assert check_line("abcd", "here", "words", 4) == "abcd"
    with pytest.raises(ConfigError):
        check_line(value, "here", "words", 4)
