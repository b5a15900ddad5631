"""The syntax of filters: alternatives, quotes, and fields that do not exist."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.filter_syntax import (
    MAX_ALTERNATIVES,
    MESSAGE_FIELDS,
    Term,
    parse_terms,
    query_fault,
)
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import compile_filter, matches_row, parse_query
from tests.tui.values import a_message, a_peer


def texts(words: str) -> list[list[str]]:
    return [[each.text for each in term.alternatives] for term in parse_terms(words).terms]


def test_a_bar_separates_alternatives_unless_it_is_quoted() -> None:
    assert texts("error|panic x") == [["error", "panic"], ["x"]]
    assert texts('"a|b" |a| |') == [["a|b"], ["|a|"], ["|"]]
    assert parse_terms("-from:bob|eve").terms == (Term("from", "bob|eve", True),)
    assert len(parse_terms("|".join("abcdefghijklmnopqrstuvwxyz")).terms[0].alternatives) == (
        MAX_ALTERNATIVES
    )


@given(st.text(max_size=40))
def test_any_text_parses_and_every_term_has_an_alternative(words: str) -> None:
    for term in parse_terms(words).terms:
        assert term.alternatives
        assert all(each.field == term.field for each in term.alternatives)


@pytest.mark.parametrize(
    ("words", "matching"),
    [
        ("error|panic", ["an error", "kernel panic"]),
        ("-error|panic", ["all is well", "a|b"]),
        ('"a|b"', ["a|b"]),
        ("from:bob|eve", ["an error", "kernel panic", "all is well", "a|b"]),
        ("from:zoe|eve", []),
        ("error|well all|an", ["an error", "all is well"]),
        ("/^an? .*R$/", ["an error"]),
        ("/panic|well/ -/kernel/", ["all is well"]),
        ("from:/^b.b$/", ["an error", "kernel panic", "all is well", "a|b"]),
        ("from:/^b$/", []),
        ("via:/eager/ id:/^[0-9a-f]+/ /a\\|b/", ["a|b"]),
        ("/not (closed/", []),
        ("bytes:/1/", []),
        ("/var/log", []),
    ],
)
def test_one_of_several_alternatives_must_match_a_message(words: str, matching: list[str]) -> None:
    model = Model()
    model.peers = {(bob := a_peer(1, "bob")).peer_id: bob}
    model._set_name(bob.peer_id, "bob")
    matches = compile_filter(parse_query(words), model)
    payloads = ["an error", "kernel panic", "all is well", "a|b"]
    assert [each for each in payloads if matches(a_message(1, 1, each.encode()))] == matching


def test_one_of_several_alternatives_must_match_a_row() -> None:
    row = {"state": "up", "peer": "db-1"}
    assert matches_row(parse_query("state:down|up db|web"), row)
    assert not matches_row(parse_query("state:down|left"), row)
    assert not matches_row(parse_query("-db|web"), row)


def test_a_field_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    assert query_fault(parse_terms("x from:bob via:repair"), MESSAGE_FIELDS) == ""
    problem = query_fault(parse_terms("x -fron:bob"), MESSAGE_FIELDS)
    assert problem.startswith("unknown field fron:; did you mean from:?")
    assert 'needs quotes: "a:b"' in query_fault(parse_terms("http://x"), MESSAGE_FIELDS)
    assert query_fault(parse_terms('"http://x"'), MESSAGE_FIELDS) == ""


def test_an_expression_stands_between_slashes_and_may_contain_blanks() -> None:
    assert parse_terms(r"-topic:/^Deploy\.\d/ /two words/ x").terms == (
        Term("topic", r"^Deploy\.\d", True, is_regex=True),
        Term("", "two words", False, is_regex=True),
        Term("", "x", False),
    )
    assert [each.text for each in parse_terms(r"/a\/b/").terms] == [r"a\/b"]
    for plain in ("/var/log", "/var/log/syslog x", "//", "a/b/", "/"):
        assert not any(each.is_regex for each in parse_terms(plain).terms)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("x /dis(k/", "/dis(k/: missing ): dis(k"),
        ("hops:/3/", "hops: has no text for a regular expression"),
        ("direct:/x/", "direct: has no text for a regular expression"),
        ("fron:/x/", "unknown field fron:; did you mean from:?"),
        ("/.{900}/", "too large"),
        ("/fine/ from:/^b/", ""),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused_in_one_line(words: str, fault: str) -> None:
    found = query_fault(parse_terms(words), MESSAGE_FIELDS)
    assert fault in found
    assert bool(fault) is bool(found)
    assert "\n" not in found


def test_an_expression_matches_rows_by_column_or_anywhere() -> None:
    row = {"state": "up", "peer": "db-1", "zone": ""}
    assert matches_row(parse_query(r"/^db-\d$/ state:/^UP$/"), row)
    assert not matches_row(parse_query(r"zone:/db/"), row)
    assert not matches_row(parse_query(r"/(/"), row)
