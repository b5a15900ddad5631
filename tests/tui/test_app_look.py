"""Numbers in words, lines of exact width, and what is shown at which size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from grapevine_tui.screens.layout import PANELS, arrange
from grapevine_tui.text import cells
from grapevine_tui.widgets.grid import Column, share_width
from grapevine_tui.widgets.look import (
    Piece,
    bar,
    bytes_words,
    count_words,
    graph,
    ms_words,
    paint,
    span_words,
)
from grapevine_tui.widgets.status import Part, choose
from grapevine_tui.widgets.tables import shortened, title


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (7, "7"), (0.42, "0.4"), (412.3, "412"), (999, "999"), (999.6, "1.0k"),
     (1234, "1.2k"), (12_345, "12k"), (999_999, "1.0M"), (3.4e9, "3.4G"), (2.6e12, "3T")],
)  # fmt: skip
def test_counts_are_short(value: float, words: str) -> None:
    assert count_words(value) == words


@given(st.floats(0, 1e15))
def test_counts_and_sizes_never_outgrow_their_column(value: float) -> None:
    assert len(count_words(value)) <= 5
    assert len(bytes_words(value)) <= 7


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 B"), (61, "61 B"), (6100, "6.1 KB"), (12e6, "12 MB"), (2e9, "2.0 GB")],
)
def test_sizes_have_units(value: float, words: str) -> None:
    assert bytes_words(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(-1, "0s"), (42.9, "42s"), (303, "5m03s"), (11_520, "3h12m"), (1_051_200, "12d4h"),
     (float("inf"), "never")],
)  # fmt: skip
def test_spans_are_told_in_their_two_largest_units(value: float, words: str) -> None:
    assert span_words(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(None, "--"), (0.0004, "0.4ms"), (0.081, "81ms"), (2.14, "2.1s")]
)
def test_round_trips_are_told_to_two_digits(value: float | None, words: str) -> None:
    assert ms_words(value) == words


@given(st.floats(-1, 2), st.integers(0, 60))
def test_a_bar_has_exactly_its_width(fraction: float, width: int) -> None:
    filled, track = bar(fraction, width)
    assert len(filled) + len(track) == width


def test_a_curve_grows_from_its_side_and_shows_the_least_there_is() -> None:
    assert graph([0, 0, 4, 4], 2, 1) == ["⠀⣿"]
    assert graph([8, 4], 1, 2) == ["⡇", "⣿"]
    assert graph([8, 4], 1, 2, hanging=True) == ["⣿", "⡇"]
    assert graph([1, 10_000], 1, 1) == ["⣸"]
    assert graph([], 2, 1) == ["⠀⠀"]
    assert graph([1], 0, 2) == ["", ""]


@given(st.lists(st.floats(0, 1e9), max_size=300), st.integers(0, 90), st.integers(1, 4))
def test_a_curve_has_exactly_its_size(values: list[float], width: int, rows: int) -> None:
    lines = graph(values, width, rows)
    assert len(lines) == rows
    assert {len(line) for line in lines} == {width}


@given(
    st.lists(st.sampled_from(["abc", "日本", " ", "é", "x" * 30]), max_size=8), st.integers(0, 50)
)
def test_a_painted_line_has_exactly_its_width(texts: list[str], width: int) -> None:
    strip = paint([Piece(text, Style.null()) for text in texts], width, Style.null())
    assert sum(cells(segment.text) for segment in strip) == width


@given(
    st.lists(
        st.builds(
            Column,
            st.just("x"),
            st.integers(1, 20),
            st.booleans(),
            st.integers(0, 3),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 200),
    st.lists(st.integers(0, 40), min_size=8, max_size=8),
)
def test_columns_fit_or_are_left_out_by_rank(
    columns: list[Column], width: int, needs: list[int]
) -> None:
    widths = share_width(columns, width, needs)
    shown = [size for size in widths if size]
    fits = sum(shown) + max(0, len(shown) - 1) <= width
    assert fits or all(
        not column.rank for column, size in zip(columns, widths, strict=True) if size
    )
    left_out = [column.rank for column, size in zip(columns, widths, strict=True) if not size]
    kept = [column.rank for column, size in zip(columns, widths, strict=True) if size]
    assert max(kept, default=0) <= min(left_out, default=99)


def test_what_is_left_over_goes_first_where_words_would_be_cut() -> None:
    columns = [Column("peer", 5, grows=3), Column("zone", 5, grows=1), Column("rtt", 3)]
    assert share_width(columns, 25) == [12, 8, 3]
    assert share_width(columns, 25, (5, 10, 3)) == [8, 12, 3]
    assert share_width(columns, 20, (9, 12, 3)) == [6, 9, 3]  # not enough: to each a part


def test_a_title_loses_its_last_parts_before_a_word_is_cut() -> None:
    words = title("Trace", ("5 of 5", "$success"), ("1s ago", "$text-muted"))
    assert shortened(words, 40).plain == "Trace · 5 of 5 · 1s ago"
    assert shortened(words, 28).plain == "Trace · 5 of 5"
    assert shortened(words, 10).plain == "Trace"


def test_parts_of_a_line_are_left_out_whole_by_rank() -> None:
    parts = [Part("name", "", 1), Part("address", "", 2), Part("zone", "", 3)]
    assert [part.text for part in choose(parts, 100)] == ["name", "address", "zone"]
    assert [part.text for part in choose(parts, 16)] == ["name", "address"]
    assert [part.text for part in choose(parts, 3)] == []


@given(
    st.integers(0, 300),
    st.integers(0, 100),
    st.sampled_from(PANELS),
    st.sampled_from(("", *PANELS)),
)
def test_every_size_has_an_arrangement_that_shows_where_one_is(
    width: int, height: int, front: str, zoomed: str
) -> None:
    kind, shown = arrange(width, height, front, zoomed)
    if kind == "-tiny":
        assert shown == {"status", "log"}
    else:
        assert (zoomed or front) in shown
        assert {"compose", "keys", "status"} <= shown
