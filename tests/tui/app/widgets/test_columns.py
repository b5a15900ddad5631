"""Columns that an operator chooses, and values that stand out against the median of their column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.errors import ConfigError
from grapevine_proto.events import MemberStatus
from grapevine_tui.app.widgets.columns import MIN_COMPARED, columns_of, outlier_limit
from grapevine_tui.app.widgets.grid import fit_columns
from grapevine_tui.app.widgets.peer_table import COLUMN_SPECS, peer_columns, peer_rows
from grapevine_tui.config.columns import (
    DEFAULTS,
    MEMBER_FIELDS,
    PEER_COLUMNS,
    PEER_FIELDS,
    parse_columns,
)
from grapevine_tui.config.settings import load_settings
from grapevine_tui.host.model import Model, RoundEntry
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.stage import staged
from tests.tui.values import a_member, a_peer, a_round, an_id


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        (
            {"peers": ["jiter"]},
            "app.columns.peers: unknown column 'jiter'; did you mean jitter?",
        ),
        ({"peers": ["zzzz"]}, "unknown column 'zzzz'; columns: state, peer"),
        ({"peers": ["tag."]}, "unknown column 'tag.'"),
        ({"peers": []}, "expected a list of 1 to 24 columns"),
        ({"peers": "state"}, "expected a list of 1 to 24 columns"),
        ({"peers": ["rtt", "rtt"]}, "column 'rtt' is listed twice"),
        ({"members": ["loss"]}, "app.columns.members: unknown column 'loss'"),
        ({"memebers": ["name"]}, "app.columns.memebers: unknown table; did you mean members?"),
        ("x", "app.columns: expected a section"),
    ],
)
def test_a_column_that_does_not_exist_is_refused_by_name(chosen: object, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_columns(chosen)
    assert problem in str(raised.value)


def test_tables_without_a_choice_have_their_default(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[app.columns]\npeers = ["peer", "tag.role"]\n')
    settings = load_settings({"app.config": str(path)}, {}, directory=tmp_path)
    assert settings.columns_by_table == dict(DEFAULTS) | {"peers": ("peer", "tag.role")}
    path.write_text('[app.columns]\npeers = ["peer", "tga.role"]\n')
    with pytest.raises(ConfigError, match=r"unknown column 'tga.role'.*x.toml, line 2"):
        load_settings({"app.config": str(path)}, {}, directory=tmp_path)


def test_every_field_of_the_json_can_be_a_column() -> None:
    fields = a_peer(1).to_dict(now=1.0).keys() - {"address", "zone", "state", "health", "tokens"}
    assert {each for each in fields if each != "advertised"} == set(PEER_FIELDS)
    assert set(MEMBER_FIELDS) <= a_member(1).to_dict().keys()


def test_every_column_has_a_cell_and_a_sort_value() -> None:
    model = a_model()
    names = (*PEER_COLUMNS, "tag.role")
    rows = peer_rows(model, names)
    assert len(peer_columns(names)) == len(names)
    for row in rows:
        assert len(row.cells) == len(row.sort_values) == len(names)
        assert all(cell.text for cell in row.cells)
    bob = {name: cell.text for name, cell in zip(names, rows[0].cells, strict=True)}
    assert (bob["peer"], bob["tag.role"], bob["repaired"]) == ("bob", "web␛", "7")
    assert (bob["loss"], bob["jitter"], bob["sent"]) == ("10.0%", "2.0ms", "200")


def a_model() -> Model:
    model = Model()
    model.members = {an_id(1): replace(a_member(1, "bob"), tags={"role": "web\x1b"})}
    for second in (1, 2):
        bob = a_peer(1, "bob", sent=100 * second, lost=10 * second, rtt_s=0.002 * second)
        model.refresh([bob, a_peer(2, "eve", rtt_s=None)], model.members.values(), model.stats, 1.0)
        model.link_quality.sample(model.peers.values())
    model.rounds.append(RoundEntry(1.0, a_round(1, 1, received=7)))
    return model


def test_a_value_stands_out_against_the_median_of_its_column() -> None:
    model = Model()
    rtts = (0.150, 0.160, 0.170, 0.180, 0.900)
    model.peers = {an_id(n): a_peer(n, f"n{n}", rtt_s=rtt) for n, rtt in enumerate(rtts, 1)}
    column = list(DEFAULTS["peers"]).index("rtt")
    cells = [row.cells[column] for row in peer_rows(model)]
    assert [cell.text for cell in cells] == ["150ms", "160ms", "170ms", "180ms", "!900ms"]
    assert [cell.tone for cell in cells] == ["text"] * 4 + ["warn"]
    near = {an_id(n): a_peer(n, f"n{n}", rtt_s=0.001 * n * n) for n in range(1, 5)}
    model.peers = near  # 16 ms is far from 4 ms, and still near
    assert all(row.cells[column].tone == "text" for row in peer_rows(model))


@given(st.lists(st.floats(0, 1e6), max_size=40), st.floats(0.001, 10))
def test_at_most_half_of_a_column_stands_out(values: list[float], excess: float) -> None:
    limit = outlier_limit(values, excess)
    assert (limit is None) == (len(values) < MIN_COMPARED)
    if limit is not None:
        assert limit > median(values)
        assert sum(value > limit for value in values) <= len(values) / 2


def test_of_chosen_columns_those_at_the_right_are_dropped_first() -> None:
    names = ("peer", "loss", "rtt", "tag.role", "address")
    columns = columns_of(names, COLUMN_SPECS, DEFAULTS["peers"])
    widths = fit_columns(columns, 26)
    assert [bool(width) for width in widths] == [True, True, True, False, False]


@pytest.mark.asyncio
async def test_the_tables_have_the_columns_that_were_chosen() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob")]
    host.members = [a_member(1, "bob")]
    settings = FakeSettings(
        columns_by_table={
            **DEFAULTS,
            "peers": ("peer", "sent", "rtt_graph"),
            "members": ("name", "epoch"),
        }
    )
    async with staged(host, settings=settings) as stage:
        await stage.press("1")
        heading = next(
            line for line in stage.text.splitlines() if "peer" in line and "sent" in line
        )
        assert heading.index("peer") < heading.index("sent") < heading.index("rtt")
        assert "health" not in heading
        await stage.press("m")
        assert "epoch" in stage.text
        assert MemberStatus.UP.value in stage.text  # in the title
