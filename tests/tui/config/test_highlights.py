"""Highlights of the config file: styles, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.highlights import MAX_HIGHLIGHTS, SIGNS, parse_highlights
from grapevine_tui.config.settings import load_settings
from grapevine_tui.filter_syntax import EVENT_FIELDS, MESSAGE_FIELDS


def test_a_highlight_has_words_and_a_style_with_a_sign_of_its_own() -> None:
    first, second = parse_highlights({"bad": "style:bad error|/panic \\d/", "web": "topic:web.>"})
    assert (first.style, first.sign, len(first.query.terms)) == ("bad", "!", 2)
    assert (second.style, second.sign) == ("accent", "*")
    assert len(set(SIGNS.values())) == len(SIGNS)


def test_a_highlight_says_nothing_of_rows_without_its_fields() -> None:
    topic, kind, text = parse_highlights({"a": "topic:x", "b": "kind:dial", "c": "from:bob y"})
    assert [each.has_only(MESSAGE_FIELDS) for each in (topic, kind, text)] == [True, False, True]
    assert [each.has_only(EVENT_FIELDS) for each in (topic, kind, text)] == [False, True, True]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("x", "app.highlights: expected a section"),
        ({"x": ""}, "app.highlights.x: expected the words of a filter"),
        ({"x": "style:bad"}, "app.highlights.x: expected words beside the style"),
        ({"x": "style:bda y"}, "unknown style 'bda'; did you mean bad?"),
        ({"x": "fron:bob"}, "unknown field fron:; did you mean from:?"),
        ({"x": "/(/"}, "app.highlights.x: /(/: missing )"),
        ({f"h{n}": "x" for n in range(MAX_HIGHLIGHTS + 1)}, "at most 16 highlights"),
    ],
)
def test_what_is_wrong_with_a_highlight_is_one_line(given: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_highlights(given)
    assert problem in str(caught.value)


def test_highlights_come_from_the_config_file_and_are_checked_with_their_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[app.highlights]\npanic = "style:bad panic"\n')
    settings = load_settings({"app.config": str(path)}, {}, directory=tmp_path)
    assert settings.highlights == {"panic": "style:bad panic"}
    path.write_text('[app.highlights]\npanic = "fron:x"\n')
    with pytest.raises(ConfigError, match=r"did you mean from:.*x\.toml, line 2"):
        load_settings({"app.config": str(path)}, {}, directory=tmp_path)
