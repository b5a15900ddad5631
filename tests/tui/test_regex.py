"""Regular expressions: what matches, what is refused, and that none takes long."""

from __future__ import annotations

import builtins
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.regex import MISSING_TEXT, BadRegex, compile_regex

SEARCHED_BYTES = 16 * 1024


@pytest.mark.parametrize(
    ("expression", "text", "matches"),
    [
        (r"disk .*full", b"the disk /dev/sda1 is FULL", True),
        (r"^error \d+$", b"error 42", True),
        (r"^error \d+$", b"error 42!", False),
        (r"^error", b"two lines\nerror 42", True),
        (r"gr\u00f6\u00dfe", "GR\u00d6\u00dfE".encode(), True),
        (r"x", b"\xff\xfex", True),
    ],
)
def test_an_expression_ignores_case_and_searches_bytes(
    expression: str, text: bytes, matches: bool
) -> None:
    expression = expression.encode().decode("unicode_escape") if "\\u" in expression else expression
    assert (compile_regex(expression).search(text) is not None) is matches


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("(", "missing )"),
        (r"(a)\1", "invalid escape"),
        ("(?=x)", "invalid perl operator"),
        (".{0,900}x", "too large"),
        ("((a{100}){100}){100}", "."),
    ],
)
def test_what_cannot_be_matched_in_linear_time_is_refused_in_one_line(
    expression: str, problem: str
) -> None:
    with pytest.raises(BadRegex) as caught:
        compile_regex(expression)
    assert problem in f"{caught.value}."
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    ["(x+x+)+y", "(a|a)*q", "(.*)(.*)(.*)(.*)(.*)[0-9]", ".{0,50}y", r"(\w+\s?)+$!"],
)
@pytest.mark.parametrize("text", [b"x" * SEARCHED_BYTES, b"ab " * (SEARCHED_BYTES // 3)])
def test_an_expression_that_backtracks_for_ever_elsewhere_ends_at_once(
    expression: str, text: bytes
) -> None:
    assert compile_regex(expression).search(text) is None


def test_without_the_package_the_problem_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = builtins.__import__

    def without_re2(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "re2":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_re2)
    compile_regex.cache_clear()
    with pytest.raises(BadRegex, match="pip install") as caught:
        compile_regex("a")
    assert str(caught.value) == MISSING_TEXT


@given(st.text(max_size=40), st.binary(max_size=60))
def test_any_text_is_an_expression_or_refused(expression: str, text: bytes) -> None:
    with suppress(BadRegex):
        compile_regex(expression).search(text)
