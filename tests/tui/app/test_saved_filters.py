"""Saved filters as tabs of the log, and filters with fields that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.saved_filters import MAX_FILTERS, parse_filters
from grapevine_tui.config.settings import load_settings
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.stage import staged
from tests.tui.values import a_peer, received

FILTERS = {"bad": "error|panic", "beats": "beat"}


@pytest.mark.parametrize(
    ("given_value", "problem"),
    [
        ("x", "app.filters: expected a section"),
        ({"a b": "x"}, "app.filters.a b: a name has lower-case letters"),
        ({"all": "x"}, "app.filters.all: a name has"),
        ({"x": ""}, "app.filters.x: expected the words of a filter"),
        ({"x": 3}, "app.filters.x: expected the words of a filter"),
        ({"x": "y" * 300}, "longer than 256 characters"),
        ({"x": "fron:bob"}, "app.filters.x: unknown field fron:; did you mean from:?"),
        ({"x": "since:1h"}, "unknown field since:"),
        ({f"f{n}": "x" for n in range(MAX_FILTERS + 1)}, "at most 16 filters"),
    ],
)
def test_what_is_wrong_with_a_saved_filter_is_one_line(given_value: object, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_filters(given_value)
    assert problem in str(raised.value)


def test_saved_filters_come_from_the_config_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[app.filters]\nbad = "error|panic"\n')
    settings = load_settings({"app.config": str(path)}, {}, directory=tmp_path)
    assert settings.filters == {"bad": "error|panic"}


@pytest.mark.asyncio
async def test_two_keys_go_through_the_tabs_of_the_log() -> None:
    host = FakeHost()
    settings = FakeSettings(filters=FILTERS)
    async with staged(host, settings=settings) as stage:
        host.happen(*(received(1, n, text) for n, text in enumerate((b"a beat", b"panic"), 1)))
        await stage.paint()
        assert "[all] bad  beats" in stage.text
        await stage.press("1", "full_stop")
        assert " all [bad] beats" in stage.text
        assert "panic" in stage.text
        assert "a beat" not in stage.text
        await stage.press("full_stop")
        assert "[beats]" in stage.text
        assert "a beat" in stage.text
        await stage.press("full_stop", "comma", "comma")
        assert "[bad]" in stage.text
        await stage.submit("/filter other")
        assert " all  bad  beats" in stage.text
        await stage.submit("/tab beats")
        assert "[beats]" in stage.text
        await stage.submit("/tab bets")
        assert "no saved filter 'bets'; did you mean beats?" in stage.text
        await stage.submit("/tab")
        assert "[all]" in stage.text


@pytest.mark.asyncio
async def test_without_saved_filters_there_are_no_tabs() -> None:
    async with staged() as stage:
        assert "[all]" not in stage.text
        await stage.press("full_stop")
        assert "no saved filters; set them under [app.filters]" in stage.text


@pytest.mark.asyncio
async def test_a_field_that_does_not_exist_is_refused_by_name() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob")]
    async with staged(host) as stage:
        host.happen(received(1, 1, b"hello"))
        await stage.submit("/filter fron:bob")
        assert "unknown field fron:; did you mean from:?" in stage.text
        assert not stage.main.log_view.filter_query
        stage.main.compose_box.draft.clear()
        await stage.press("escape", "2", "slash", *"fron:bob", "enter")
        assert stage.main.filter_bar.display  # for the mistake to be mended
        assert stage.focused != "log"
        await stage.press("escape", "1", "slash", *"stat:up", "enter")
        assert "unknown field stat:; did you mean state:?" in stage.text
        await stage.press("escape", "1", "slash", *"state:up id:0", "enter")
        assert not stage.main.filter_bar.display


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "keys", [("1",), ("2",), ("3",), ("4",), ("m",), ("K",), ("C",), ("exclamation_mark",)]
)
@pytest.mark.parametrize(
    ("typed", "problem"),
    [("frm:x", "unknown field frm:; did you mean from:?"), ("/(x/", "/(x/: missing )")],
)
async def test_every_filter_bar_refuses_what_does_not_exist_by_name(
    keys: tuple[str, ...], typed: str, problem: str
) -> None:
    async with staged(FakeHost()) as stage:
        await stage.press(*keys, "slash", *typed, "enter")
        assert problem in " ".join(stage.text.split())
        await stage.press("escape")
        await stage.press("slash", *"x", "enter")
        assert "match x" in stage.text
