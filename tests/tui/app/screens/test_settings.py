"""Every setting is shown with its source, edited in place, applied and saved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import tomli_w
from textual.events import Paste

from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.screens.settings import setting_row
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.config.sources import SettingValue
from tests.tui.fake_host import FakeHost
from tests.tui.hostile import HOSTILE
from tests.tui.stage import Stage, staged

pytestmark = pytest.mark.asyncio


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    path = tmp_path / "g.toml"
    path.write_text("# mine\nfanout = 3\n\n[app]\nmessages = 50\n")
    flags = {"app.config": str(path), "zone": "eu-west"}
    return load_settings(flags, {"MAX_PEERS": "7"}, directory=tmp_path).with_keys()


def file_of(settings: Settings) -> str:
    path = next(each.value for each in settings.values if each.name == "app.config")
    return Path(path).read_text()


@asynccontextmanager
async def opened(
    settings: Settings, host: FakeHost | None = None, size: tuple[int, int] = (120, 36)
) -> AsyncIterator[Stage]:
    host = host or FakeHost()
    app = GrapevineApp(host.with_settings(settings), settings)
    async with app.run_test(size=size, notifications=True) as pilot:
        stage = Stage(app, host, pilot)
        await stage.paint()
        await stage.press("escape", "C")
        yield stage


def line_of(stage: Stage, name: str) -> str:
    return next(line for line in stage.text.split("\n") if f" {name} " in line)


async def seek(stage: Stage, name: str) -> None:
    """Filter the table to one setting, with the cursor on it."""
    await stage.press("slash", *f"setting:{name}", "enter", "g")


async def test_a_reason_too_long_for_the_screen_ends_in_an_ellipsis(settings: Settings) -> None:
    async with opened(settings, size=(40, 12)) as stage:
        assert "…" in stage.text
        assert "Empty: the" not in stage.text
        await stage.resize(120, 36)
        assert "Empty: the bound one." in stage.text


async def test_each_value_is_shown_with_where_it_came_from_and_when_it_applies(
    settings: Settings,
) -> None:
    async with opened(settings) as stage:
        for name, value, origin, when in (
            ("fanout", "3", "~/g.toml, line 2", "live"),
            ("max_peers", "7", "environment: MAX_PEERS", "live"),
            ("zone", "eu-west", "--zone", "live"),
            ("cluster", "default", "default", "restart"),
            ("gossip_interval", "1", "profile local", "live"),
        ):
            await seek(stage, name)
            line = line_of(stage, name)
            assert all(each in line for each in (value, origin, when)), line
            await stage.press("escape")
        assert "Settings " in stage.text
        await stage.press("escape")
        assert stage.app.screen is stage.main


async def test_a_setting_is_changed_in_place_saved_and_applied(settings: Settings) -> None:
    async with opened(settings) as stage:
        await seek(stage, "fanout")
        assert "Under epidemic, peers each message is relayed to." in stage.text
        await stage.press("enter", "backspace", *"0")
        assert "fanout: must be between 1 and 1000, got 0" in stage.text
        await stage.press("enter")
        assert "fanout: must be between 1 and 1000, got 0" in stage.text
        await stage.press("backspace", "5", "enter")
        assert "1 changed, ctrl+s saves" in stage.text
        assert "changed here" in line_of(stage, "fanout")
        assert stage.host.configs == []
        await stage.press("ctrl+s")
        assert stage.host.configs[-1].fanout == 5
        assert "saved in ~/g.toml" in stage.text
        assert "~/g.toml, line 2" in line_of(stage, "fanout")
    assert file_of(settings).startswith("# mine\nfanout = 5\n")


async def test_escape_in_the_line_changes_nothing(settings: Settings) -> None:
    async with opened(settings) as stage:
        await seek(stage, "fanout")
        await stage.press("enter", *"99", "escape")
        assert "changed here" not in stage.text
        await stage.press("ctrl+s")
        assert "no changes" in stage.text
        assert stage.host.configs == []


async def test_a_switch_is_thrown_by_enter(settings: Settings) -> None:
    async with opened(settings) as stage:
        await seek(stage, "lazy_push")
        await stage.press("enter")
        assert "false" in line_of(stage, "lazy_push")
        await stage.press("ctrl+s")
        assert stage.host.configs[-1].lazy_push is False


async def test_settings_of_the_app_take_effect_at_once(settings: Settings) -> None:
    async with opened(settings) as stage:
        for name, text in (("theme", "nord"), ("app.messages", "20"), ("max_peers", "8")):
            await seek(stage, name)
            await stage.press("enter", *["backspace"] * 6, *text, "enter", "escape")
        await seek(stage, "app.keys")
        await stage.press("enter", *'{zoom = "f3"}', "enter", "ctrl+s", "escape", "escape")
        assert stage.app.theme == "nord"
        assert stage.host.model.messages.limit == 20
        assert "max 8" in stage.text
        await stage.press("1", "f3")
        assert not stage.shows("log")


async def test_changes_that_need_a_restart_or_are_overridden_are_reported(
    settings: Settings,
) -> None:
    async with opened(settings) as stage:
        await seek(stage, "zone")
        await stage.press("enter", *["backspace"] * 8, *"us", "enter", "ctrl+s")
        (toast,) = stage.app._notifications
        assert toast.message == (
            "saved in ~/g.toml; zone is overridden by --zone after a reload or restart"
        )
        assert stage.host.configs[-1].zone == "us"
    async with opened(settings) as stage:
        await seek(stage, "cluster")
        await stage.press("enter", *["backspace"] * 8, *"us", "enter", "ctrl+s")
        (toast,) = stage.app._notifications
        assert toast.message == "saved in ~/g.toml; applies after a restart: cluster"
        assert stage.host.configs[-1].cluster == "us"  # the node applies it at the restart


async def test_leaving_with_changes_asks_first(settings: Settings) -> None:
    async with opened(settings) as stage:
        await seek(stage, "lazy_push")
        await stage.press("enter", "escape", "escape")
        assert "Discard changes?" in stage.text
        await stage.press("n")
        assert "1 changed" in stage.text
        await stage.press("escape", "y")
        assert stage.app.screen is stage.main
        await stage.press("C")
        assert "changed" not in stage.text
        assert stage.host.configs == []


async def test_settings_chosen_at_the_start_are_shown_as_such(settings: Settings) -> None:
    async with opened(settings) as stage:
        await seek(stage, "app.demo")
        await stage.press("enter")
        assert "app.demo can be set only at start" in stage.text


async def test_what_was_changed_in_the_file_meanwhile_is_seen_when_it_is_opened_again(
    settings: Settings,
) -> None:
    async with opened(settings) as stage:
        await seek(stage, "zone")
        await stage.press("escape", "escape")
        _write(
            Path(next(each.value for each in settings.values if each.name == "app.config")),
            "fanout = 9\n",
        )
        await stage.press("C")
        await seek(stage, "fanout")
        row = next(line for line in stage.text.split("\n") if " fanout " in line)
        assert " 9 " in row


async def test_what_waits_for_a_restart_shows_what_is_in_effect_until_then(
    settings: Settings,
) -> None:
    async with opened(settings) as stage:
        await stage.press("escape")
        path = next(Path(each.value) for each in settings.values if each.name == "app.config")
        path.expanduser().write_text('fanout = 9\ncluster = "blue"\n')
        for _ in range(2):  # the second time, it is read again
            await stage.press("C")
            await stage.press("escape")
        await stage.press("C")
        await seek(stage, "cluster")
        assert "blue" in line_of(stage, "cluster")
        assert "until restart: default" in line_of(stage, "cluster")
        await stage.press("escape")
        await seek(stage, "fanout")
        assert "until" not in line_of(stage, "fanout")


async def test_a_host_without_settings_is_reported() -> None:
    async with staged() as stage:
        await stage.press("escape", "C")
        assert "this node has no settings to edit" in stage.text


async def test_hostile_values_are_shown_and_neither_obeyed_nor_fatal(
    settings: Settings, tmp_path: Path
) -> None:
    short = [each for each in HOSTILE if each and len(each.encode()) <= 64]
    for number in range(0, 15, 3):
        name, zone, theme = short[number : number + 3]
        path = tmp_path / f"{number}.toml"
        _write(path, tomli_w.dumps({"name": name, "zone": zone, "app": {"theme": theme}}))
        settings = load_settings({"app.config": str(path)}, {}, directory=tmp_path).with_keys()
        async with opened(settings) as stage:
            await seek(stage, "name")
            await stage.press("enter")
            if stage.app.focused is not None and "line-input" in stage.app.focused.classes:
                stage.app.focused.post_message(Paste(name))
                await stage.paint()
            for line in stage.text.split("\n"):
                assert line.isprintable(), ascii(line)
            assert stage.app.is_running


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_line_of_the_table_carries_control_characters(text: str) -> None:
    for value in (text, [text, text], {"help": text}):
        row = setting_row(SettingValue("name", value, text))
        assert all(cell.text.isprintable() for cell in row.cells)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 5), (3, 3), (1, 1)])
async def test_every_size_stands_it(settings: Settings, size: tuple[int, int]) -> None:
    async with opened(settings, size=size) as stage:
        await stage.press(
            "G", "k", "enter", *"x", "enter", "escape", "slash", "f", "enter", "escape"
        )
        assert stage.app.is_running
