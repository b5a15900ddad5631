"""What is chosen on the screen is found again, and nothing breaks where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from grapevine_tui.config.preferences import Preferences
from grapevine_tui.config.settings import load_settings
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.stage import staged


def test_a_theme_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "app.json"
    Preferences(path).save_theme("nord")
    assert Preferences(path).load_theme() == "nord"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert [each.name for each in path.parent.iterdir()] == ["app.json"]


@pytest.mark.parametrize("damage", [b"", b"[]", b"\xff", b'{"theme": 3}', b"[" * 5000])
def test_a_damaged_file_is_no_choice(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "app.json"
    path.write_bytes(damage)
    assert Preferences(path).load_theme() == ""


def test_where_choices_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    named = load_settings({"app.state_dir": str(tmp_path / "here")}, {}, directory=tmp_path)
    assert named.preferences_file == tmp_path / "here" / "app.json"
    own = load_settings({}, {}, directory=tmp_path).preferences_file
    assert own is not None
    assert own.name == "app.json"
    assert own.parent.name == "grapevine"
    assert load_settings({"app.demo": True}, {}, directory=tmp_path).preferences_file is None


@pytest.mark.asyncio
async def test_the_theme_chosen_last_is_worn_at_the_next_start(tmp_path: Path) -> None:
    settings = FakeSettings(preferences_file=tmp_path / "app.json")
    async with staged(settings=settings) as stage:
        assert stage.app.theme == "grapevine"
        stage.app.theme = "grapevine-light"
        await stage.paint()
    async with staged(settings=settings) as stage:
        assert stage.app.theme == "grapevine-light"
    settings.theme = "nord"
    async with staged(settings=settings) as stage:
        assert stage.app.theme == "nord"
        stage.app.theme = "dracula"
        await stage.paint()
        assert "theme nord from the settings applies again at restart" in stage.text


@pytest.mark.asyncio
async def test_a_preference_that_cannot_be_saved_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = FakeSettings(preferences_file=tmp_path / "file" / "app.json")
    async with staged(FakeHost(), settings=settings) as stage:
        stage.app.theme = "nord"
        await stage.paint()
        assert "theme not saved: " in stage.text
        assert stage.app.theme == "nord"
