"""Formatted numbers, spans of exact width, columns, titles and charts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from grapevine_tui.app.screens.layout import PANELS, choose_layout
from grapevine_tui.app.widgets.charts import bar, braille_graph
from grapevine_tui.app.widgets.format import (
    format_bytes,
    format_count,
    format_duration,
    format_latency,
)
from grapevine_tui.app.widgets.grid import Column, fit_columns
from grapevine_tui.app.widgets.line_widget import Span, render_spans
from grapevine_tui.app.widgets.status import StatusItem, fit_items
from grapevine_tui.app.widgets.titles import format_title, shorten_title
from grapevine_tui.text import cells


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (7, "7"), (0.42, "0.4"), (412.3, "412"), (999, "999"), (999.6, "1.0k"),
     (1234, "1.2k"), (12_345, "12k"), (999_999, "1.0M"), (3.4e9, "3.4G"), (2.6e12, "3T")],
)  # fmt: skip
def test_counts_are_abbreviated(value: float, expected: str) -> None:
    assert format_count(value) == expected


@given(st.floats(0, 1e15))
def test_counts_and_sizes_never_outgrow_their_column(value: float) -> None:
    assert len(format_count(value)) <= 5
    assert len(format_bytes(value)) <= 7


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 B"), (61, "61 B"), (6100, "6.1 KB"), (12e6, "12 MB"), (2e9, "2.0 GB")],
)
def test_sizes_have_units(value: float, expected: str) -> None:
    assert format_bytes(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1, "0s"), (42.9, "42s"), (303, "5m03s"), (11_520, "3h12m"), (1_051_200, "12d4h"),
     (float("inf"), "never")],
)  # fmt: skip
def test_durations_are_formatted_in_their_two_largest_units(value: float, expected: str) -> None:
    assert format_duration(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "--"), (0.0004, "0.4ms"), (0.081, "81ms"), (2.14, "2.1s")]
)
def test_round_trips_are_formatted_to_two_digits(value: float | None, expected: str) -> None:
    assert format_latency(value) == expected


@given(st.floats(-1, 2), st.integers(0, 60))
def test_a_bar_has_exactly_its_width(fraction: float, width: int) -> None:
    filled, track = bar(fraction, width)
    assert len(filled) + len(track) == width


def test_a_curve_grows_from_its_side_and_shows_the_least_there_is() -> None:
    assert braille_graph([0, 0, 4, 4], 2, 1) == ["⠀⣿"]
    assert braille_graph([8, 4], 1, 2) == ["⡇", "⣿"]
    assert braille_graph([8, 4], 1, 2, hanging=True) == ["⣿", "⡇"]
    assert braille_graph([1, 10_000], 1, 1) == ["⣸"]
    assert braille_graph([], 2, 1) == ["⠀⠀"]
    assert braille_graph([1], 0, 2) == ["", ""]


@given(st.lists(st.floats(0, 1e9), max_size=300), st.integers(0, 90), st.integers(1, 4))
def test_a_curve_has_exactly_its_size(values: list[float], width: int, rows: int) -> None:
    lines = braille_graph(values, width, rows)
    assert len(lines) == rows
    assert {len(line) for line in lines} == {width}


@given(
    st.lists(st.sampled_from(["abc", "日本", " ", "é", "x" * 30]), max_size=8), st.integers(0, 50)
)
def test_a_painted_line_has_exactly_its_width(texts: list[str], width: int) -> None:
    strip = render_spans([Span(text, Style.null()) for text in texts], width, Style.null())
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
    widths = fit_columns(columns, width, needs)
    shown = [size for size in widths if size]
    fits = sum(shown) + max(0, len(shown) - 1) <= width
    assert fits or all(
        not column.drop_rank for column, size in zip(columns, widths, strict=True) if size
    )
    left_out = [column.drop_rank for column, size in zip(columns, widths, strict=True) if not size]
    kept = [column.drop_rank for column, size in zip(columns, widths, strict=True) if size]
    assert max(kept, default=0) <= min(left_out, default=99)


def test_spare_width_goes_first_to_columns_that_would_be_truncated() -> None:
    columns = [Column("peer", 5, grow=3), Column("zone", 5, grow=1), Column("rtt", 3)]
    assert fit_columns(columns, 25) == [12, 8, 3]
    assert fit_columns(columns, 25, (5, 10, 3)) == [8, 12, 3]
    assert fit_columns(columns, 20, (9, 12, 3)) == [6, 9, 3]  # shared, as there is not enough


def test_a_title_loses_its_last_parts_before_a_word_is_cut() -> None:
    title = format_title("Trace", ("5 of 5", "$success"), ("1s ago", "$text-muted"))
    assert shorten_title(title, 40).plain == "Trace · 5 of 5 · 1s ago"
    assert shorten_title(title, 28).plain == "Trace · 5 of 5"
    assert shorten_title(title, 10).plain == "Trace"


def test_parts_of_a_line_are_left_out_whole_by_rank() -> None:
    parts = [StatusItem("name", "", 1), StatusItem("address", "", 2), StatusItem("zone", "", 3)]
    assert [part.text for part in fit_items(parts, 100)] == ["name", "address", "zone"]
    assert [part.text for part in fit_items(parts, 16)] == ["name", "address"]
    assert [part.text for part in fit_items(parts, 3)] == []


@given(
    st.integers(0, 300),
    st.integers(0, 100),
    st.sampled_from(PANELS),
    st.sampled_from(("", *PANELS)),
)
def test_every_size_has_an_arrangement_that_shows_where_one_is(
    width: int, height: int, front: str, zoomed: str
) -> None:
    kind, shown = choose_layout(width, height, front, zoomed)
    if kind == "-tiny":
        assert shown == {"status", "log"}
    else:
        assert (zoomed or front) in shown
        assert {"compose", "keys", "status"} <= shown
