"""Untrusted text is shown and never controls the terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.events import Via
from grapevine_tui.text import (
    cells,
    format_payload,
    pad,
    printable,
    printable_lines,
    truncate,
    via_word,
)

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=[]))


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b]0;x\x07", "␛]0;x␇"),
        ("\x1b[2J\x1b[H", "␛[2J␛[H"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f\x00", "␡␀"),
        ("a\tb\nc\r\nd", "a b↵c␍↵d"),
        ("\u202eevil\u2066x\u2069", "\\u202eevil\\u2066x\\u2069"),
        ("a\u200bb\u200dc\ufeff", "a\\u200bb\\u200dc\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ue000\U000f0000", "\\ue000\\U000f0000"),
        ("\ud800", "\\ud800"),
        ("\u0378", "\\u0378"),
        ("\u3164", "\\u3164"),
        ("\u00a0\u3000", "  "),
        ("[bold]x[/nope][@click=app.quit]y[/]", "[bold]x[/nope][@click=app.quit]y[/]"),
    ],
)
def test_whatever_a_terminal_would_obey_or_hide_is_spelled_out(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


@pytest.mark.parametrize(
    "text", ["hello", "Grüße, Ελλάδα", "日本語", "שלום", "🎉 done", "한국", "e\u0301"]
)
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_at_most_four_combining_characters_stand_in_a_row() -> None:
    assert printable("a" + "\u0301" * 50 + "b") == "a" + "\u0301" * 4 + "b"
    assert printable("\u1100" + "\u1161" * 50) == "\u1100" + "\u1161" * 4


def test_an_emoji_loses_the_selector_whose_width_terminals_dispute() -> None:
    assert printable("❤\ufe0f") == "❤"
    assert printable("bob\ufe0f") == "bob\\ufe0f"  # but no name can differ unseen


def test_joiners_are_left_out_where_they_belong_and_spelled_out_where_they_forge() -> None:
    assert printable("👩🏽\u200d💻") == "👩🏽💻"
    assert printable("می\u200cخواهم") == "میخواهم"
    assert printable("bob\u200d") == "bob\\u200d"


@given(ANY_TEXT)
def test_nothing_hidden_is_left_and_twice_is_as_good_as_once(text: str) -> None:
    shown = printable(text)
    assert not {category(character) for character in shown} & {
        "Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp",
    }  # fmt: skip
    assert printable(shown) == shown
    shown.encode()


@given(ANY_TEXT, st.integers(0, 40))
def test_a_cut_never_exceeds_its_cells_and_a_fit_fills_them(text: str, width: int) -> None:
    shown = printable(text)
    assert cells(truncate(shown, width)) <= width
    assert cells(pad(shown, width)) == width
    assert cells(pad(shown, width, right=True)) == width


def test_a_truncated_text_ends_in_an_ellipsis() -> None:
    assert truncate("abcdef", 6) == "abcdef"
    assert truncate("abcdefg", 6) == "abcde…"
    assert truncate("日本語", 6) == "日本語"
    assert truncate("日本語", 5) == "日本…"
    assert truncate("日本語", 4) == "日…"
    assert truncate("abc", 0) == ""
    assert pad("7", 3, right=True) == "  7"


def test_lines_are_kept_apart_where_there_is_room_for_them() -> None:
    assert printable_lines("a\r\nb\n\x1bc") == ["a", "b", "␛c"]


def test_a_payload_is_text_where_it_is_utf8_and_hex_where_it_is_not() -> None:
    assert format_payload("grüß".encode()) == "grüß"
    assert format_payload(b"\xff\x00\x10") == "ff 00 10"
    assert format_payload(b"") == ""
    assert format_payload("ü".encode() * 10, limit_bytes=5) == "üü…"  # cut inside a character
    assert format_payload(b"\xc3") == "c3"  # but an unfinished character at the end is not text


def test_a_line_of_a_megabyte_costs_no_more_than_its_first_screenful() -> None:
    payload = "\u0301\x1b日".encode() * 200_000
    started = time.perf_counter()
    for _ in range(20):
        truncate(format_payload(payload), 200)
    assert (time.perf_counter() - started) / 20 < 0.05  # measured: 1 ms; whole: over a second


def test_it_is_imported_without_textual_or_rich() -> None:
    code = "import sys, grapevine_tui.text; sys.exit('rich' in sys.modules or 'textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_screens_say_in_words_how_a_message_came() -> None:
    assert {each.value: via_word(each) for each in Via} == {
        "eager": "push",
        "lazy": "pull",
        "repair": "repair",
        "local": "sent",
        "cache": "cache",
        "retained": "retained",
    }
