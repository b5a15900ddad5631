"""Topics and patterns: the grammar of NATS subjects, bounded, and matched by a trie."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.topics import TopicPatterns, pattern_fault, topic_fault, topic_patterns

EIGHT = "a.b.c.d.e.f.g.h"


@pytest.mark.parametrize("text", ["a", "deploy.web-1", "a_b.0", EIGHT, "x" * 64])
def test_a_topic_is_tokens_joined_by_dots(text: str) -> None:
    assert not topic_fault(text)
    assert not pattern_fault(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (".", "empty"),
        ("a..b", "empty"),
        ("a.", "empty"),
        ("Deploy", "characters other than"),
        ("a b", "characters other than"),
        ("zürich", "characters other than"),
        ("a\n", "characters other than"),
        ("a.*", "belongs in a pattern"),
        (">", "belongs in a pattern"),
        ("x" * 65, "longer than 64 bytes"),
        (EIGHT + ".i", "more than 8 parts"),
        (7, "expected text, got int"),
    ],
)
def test_anything_else_is_refused_by_its_fault(text: object, fault: str) -> None:
    assert fault in topic_fault(text)


@pytest.mark.parametrize("text", ["*", ">", "a.*.c", "a.>", "*.*", "a.*.>"])
def test_a_pattern_may_stand_for_one_part_or_for_the_rest(text: str) -> None:
    assert not pattern_fault(text)
    assert topic_fault(text)


@pytest.mark.parametrize("text", ["a.>.b", "a*", "a.b>", ">.a", ""])
def test_a_pattern_stands_for_whole_tokens_only(text: str) -> None:
    assert pattern_fault(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a", ["a"], ["a.b", "b", "aa"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c"]),
        ("a.*.c", ["a.b.c", "a.x.c"], ["a.b", "a.b.d", "a.b.c.d"]),
        ("a.>", ["a.b", "a.b.c.d"], ["a", "b.a"]),
        (">", ["a", "a.b"], []),
        ("*.b", ["a.b", "x.b"], ["b", "a.c"]),
    ],
)
def test_a_pattern_selects_topics(pattern: str, matching: list[str], other: list[str]) -> None:
    patterns = TopicPatterns([pattern])
    assert all(map(patterns.matches, matching))
    assert not any(map(patterns.matches, other))


def test_no_patterns_select_no_topic() -> None:
    assert not TopicPatterns().matches("a.b")


def test_no_pattern_selects_a_message_without_a_topic() -> None:
    assert not TopicPatterns((">", "*", "a")).matches("")


tokens = st.sampled_from(["a", "b", "c"])
topics = st.lists(tokens, min_size=1, max_size=5).map(".".join)
patterns_of = st.tuples(
    st.lists(tokens | st.just("*"), max_size=4), st.sampled_from([(), (">",), ("a",)])
).filter(lambda parts: bool(parts[0] or parts[1]))


@given(
    st.lists(patterns_of.map(lambda p: ".".join([*p[0], *p[1]])), min_size=1, max_size=6), topics
)
def test_a_set_selects_what_any_of_its_patterns_does(patterns: list[str], topic: str) -> None:
    expected = any(
        re.fullmatch(
            r"\.".join({"*": "[^.]+", ">": ".+"}.get(each, each) for each in pattern.split(".")),
            topic,
        )
        for pattern in patterns
    )
    assert TopicPatterns(patterns).matches(topic) == expected


def test_patterns_of_topics_select_each_of_them_and_those_that_begin_alike() -> None:
    topics = ("deploy.web.eu", "deploy.db", "metrics")
    assert topic_patterns(topics) == ["deploy.>", "deploy.db", "deploy.web.eu", "metrics"]
    assert all(pattern_fault(each) == "" for each in topic_patterns(topics))
    assert topic_patterns(()) == []


def test_patterns_of_a_user_are_checked_one_by_one() -> None:
    assert TopicPatterns.parse("a.*", "b", "a.*").patterns == ("a.*", "b")
    assert TopicPatterns.parse().patterns == ()
    with pytest.raises(InvalidArgument, match=re.escape("> in 'a.>.b' may only be the last part")):
        TopicPatterns.parse("a.*", "a.>.b")
    with pytest.raises(InvalidArgument, match=re.escape("'a.*b': * and > must stand alone")):
        TopicPatterns.parse("a.*b")


def test_a_fault_shows_the_first_eighty_characters() -> None:
    assert topic_fault("x" * 200) == f"'{'x' * 80}' is longer than 64 bytes"
