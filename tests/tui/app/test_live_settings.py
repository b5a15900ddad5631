"""Columns, saved filters, highlights and own commands of a config file that changes while the app runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import ConfigError
from grapevine_tui.app.screens.past import HistoryScreen
from grapevine_tui.cli.attach import OwnSettings
from grapevine_tui.config.columns import parse_columns
from grapevine_tui.config.edit import LiveSettings, is_live
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.host.local import Host
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.hostile import HOSTILE
from tests.tui.stage import staged
from tests.tui.values import a_member, a_peer, received

CHANGED = """
[app.columns]
peers = ["state", "peer", "jitter"]
members = ["name", "reason"]
messages = ["json:level"]
[app.filters]
bad = "panic"
[app.highlights]
panic = "style:bad panic"
[app.commands]
ping = { key = "alt+p", argv = ["echo", "pong {name}"] }
"""


def settings_of(directory: Path, text: str) -> Settings:
    path = directory / "config.toml"
    path.write_text(text)
    return load_settings(
        {"app.config": str(path), "app.state_dir": str(directory)}, {}, directory=directory
    ).with_keys()


@pytest.mark.asyncio
async def test_what_a_config_file_says_of_the_screen_applies_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    host = FakeHost()
    host.peers, host.members = [a_peer(1, "db-1")], [a_member(1, "db-1")]
    settings = settings_of(tmp_path, "")
    host.live_settings = LiveSettings(settings)
    async with staged(host, settings=settings) as stage:
        host.happen(received(1, 1, json.dumps({"level": "warn", "text": "panic"}).encode()))
        await stage.press("m")
        assert "reason" not in stage.text
        (tmp_path / "config.toml").write_text(CHANGED)
        await stage.app.reload()
        await stage.paint()
        assert "reason" in stage.text
        await stage.press("escape")
        assert "jitter" in stage.text
        await stage.press("2", "z")
        assert "[all] bad" in stage.text
        line = next(each for each in stage.text.splitlines() if "panic" in each and "{" in each)
        assert line.split("{")[0].split()[-1] == "warn"
        assert "!" in line
        await stage.press("z", "1", "alt+p")
        assert stage.app.screen.name == "output"
        await stage.press("escape")
        (tmp_path / "config.toml").write_text("")
        await stage.app.reload()
        await stage.press("1", "alt+p")
        assert stage.app.screen is stage.main
        assert "jitter" not in stage.text


@pytest.mark.asyncio
async def test_a_highlight_is_saved_on_request_and_stays_when_other_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    host = FakeHost()
    settings = settings_of(tmp_path, "")
    host.live_settings = LiveSettings(settings)
    async with staged(host, settings=settings) as stage:
        await stage.submit("/highlight unsaved x")
        assert "highlights" not in (tmp_path / "config.toml").read_text()
        await stage.submit("/highlight --save panic style:bad panic")
        text = (tmp_path / "config.toml").read_text()
        assert 'panic = "style:bad panic"' in text
        assert set(stage.app.highlighter.highlights) == {"unsaved", "panic"}
        await stage.submit("/unhighlight --save panic")
        assert "style:bad" not in (tmp_path / "config.toml").read_text()
        await stage.submit("/set_settings messages=500")
        assert set(stage.app.highlighter.highlights) == {"unsaved"}


@pytest.mark.parametrize("is_readonly", [False, True])
@pytest.mark.asyncio
async def test_an_attached_app_follows_the_config_file_of_its_user(
    tmp_path: Path, is_readonly: bool
) -> None:
    host = FakeHost()
    host.is_readonly = is_readonly
    host.model.is_remote = True
    host.live_settings = LiveSettings(settings_of(tmp_path, ""))
    own = OwnSettings(settings_of(tmp_path, ""))
    settings = own.for_node(NodeConfig())
    async with staged(host, settings=settings, own_settings=own) as stage:
        await stage.submit("/highlight --save oom style:warn oom")
        assert 'oom = "style:warn oom"' in (tmp_path / "config.toml").read_text()
        assert set(stage.app.highlighter.highlights) == {"oom"}
        (tmp_path / "config.toml").write_text(CHANGED)
        await stage.submit("/reload")
        assert set(stage.app.highlighter.highlights) == {"panic"}
        assert "jitter" in stage.text
        (tmp_path / "config.toml").write_text("[app.columns]\npeers = 3\n")
        await stage.submit("/reload")
        assert "app.columns.peers" in stage.text
        assert "jitter" in stage.text


def test_a_reload_of_the_node_reaches_its_app(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "")
    host = Host(settings.node, tmp_path, settings=settings)
    changes: list[Settings] = []
    host.on_app_settings_changed = changes.append
    changed = replace(settings, filters={"bad": "panic"})
    host.apply_app_settings(changed)
    assert changes == [changed]
    assert all(is_live(f"app.{each}") for each in ("columns", "commands", "filters", "highlights"))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["level"], "unknown column 'level'; columns: json:PATH"),
        (["json:"], "unknown column 'json:'; expected up to 8 names"),
        (["json:a..b"], "such as user.name"),
    ],
)
def test_a_column_of_messages_is_a_path_into_their_json(names: list[str], problem: str) -> None:
    assert parse_columns({"messages": ["json:user.name"]})["messages"] == ("json:user.name",)
    with pytest.raises(ConfigError) as caught:
        parse_columns({"messages": names})
    assert problem in str(caught.value)


@pytest.mark.asyncio
async def test_json_fields_are_columns_of_the_history_and_hostile_ones_are_printable(
    tmp_path: Path,
) -> None:
    host = FakeHost()
    columns = parse_columns({"messages": ["json:user.name", "json:level"]})
    async with staged(host, settings=FakeSettings(columns_by_table=columns)) as stage:
        host.keep_history(tmp_path)
        payloads = [{"user": {"name": "bob"}}, *({"level": each} for each in HOSTILE[:20])]
        for number, each in enumerate(payloads):
            host.happen(received(1, number + 1, json.dumps(each).encode()))
        await stage.paint()
        await stage.press("H")
        screen = stage.app.screen
        assert isinstance(screen, HistoryScreen)
        async with asyncio.timeout(30):
            while len(screen.table.rows) < len(payloads):
                await stage.pilot.pause(0.01)
        assert [row.cells[5].text for row in screen.table.rows][:2] == ["bob", ""]
        texts = [cell.text for row in screen.table.rows for cell in row.cells]
        assert all(each.isprintable() for each in texts)
