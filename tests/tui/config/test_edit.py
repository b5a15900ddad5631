"""Settings are validated as at start, saved to the right file, and reported truthfully."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import ConfigError, NotRunning
from grapevine_tui.config.edit import LiveSettings, SettingsEditor, format_value, parse_value
from grapevine_tui.config.settings import load_settings
from grapevine_tui.config.template import setting_help

Make = Callable[..., SettingsEditor]


@pytest.fixture
def configs() -> list[NodeConfig]:
    return []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: list[NodeConfig]) -> Make:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))

    def reconfigure(config: NodeConfig) -> tuple[str, ...]:
        configs.append(config)
        return ()

    def made(text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> SettingsEditor:
        path = tmp_path / "g.toml"
        path.write_text(text)
        given = {"app.config": str(path)} | flags
        settings = load_settings(given, environ or {}, directory=tmp_path)
        return SettingsEditor(settings.with_keys(), reconfigure)

    return made


def test_what_is_typed_is_read_as_the_kind_of_value_that_stands_there() -> None:
    for text, like, value in (
        ("4", 3, 4), ("0.5", 3.0, 0.5), ("abc", 3, "abc"), ("1_000", 3, 1000),
        ("yes", False, True), ("off", True, False), ("maybe", True, "maybe"),
        ("a:1, b:2", [], ["a:1", "b:2"]), ("", ["x"], []), ('["a, b"]', [], ["a, b"]),
        ("", {}, {}), ('{pause = "o"}', {}, {"pause": "o"}), ("3", "x", "3"),
    ):  # fmt: skip
        assert parse_value("x", text, like) == value
    with pytest.raises(ConfigError, match="not TOML"):
        parse_value("x", "[", [])


@pytest.mark.parametrize(
    "value",
    [True, 3, 0.7, 10.0, 2.5e-05, "", "a", [], ["a", "b"], ["a, b"], ['q"'], {"pause": "o"}],
)
def test_a_value_is_shown_so_that_it_can_be_typed_again(value: Any) -> None:
    assert parse_value("x", format_value(value), value) == value


def test_a_change_is_checked_as_at_the_start_and_applied_by_save(
    make: Make, configs: list[NodeConfig], tmp_path: Path
) -> None:
    editing = make("fanout = 3  # three\n")
    with pytest.raises(ConfigError, match="fanout: must be between 1 and 1000, got 0"):
        editing.set_value("fanout", "0")
    with pytest.raises(ConfigError, match="fanout: expected a whole number, not 'x'"):
        editing.set_value("fanout", "x")
    with pytest.raises(ConfigError, match=r"fanuot: unknown setting; did you mean fanout\?"):
        editing.set_value("fanuot", "4")
    editing.set_value("fanout", "4")
    editing.set_value("app.theme", "nord")
    assert (tmp_path / "g.toml").read_text() == "fanout = 3  # three\n"
    assert editing.value("fanout").origin == "changed here"
    saved = editing.save()
    assert (tmp_path / "g.toml").read_text() == 'fanout = 4  # three\n\n[app]\ntheme = "nord"\n'
    assert configs[-1].fanout == 4
    assert configs[-1].keys == editing.settings.node.keys
    assert saved == (tmp_path / "g.toml", True, (), {})
    assert editing.value("fanout").origin.endswith("g.toml, line 1")
    assert editing.pending == ()


def test_pending_and_overridden_changes_are_reported(make: Make) -> None:
    editing = make(environ={"FANOUT": "5"}, zone="eu")
    for name, text in (("fanout", "7"), ("zone", "us"), ("port", "9100"), ("cluster", "two")):
        editing.set_value(name, text)
    saved = editing.save()
    assert saved.pending_restart == ("port", "cluster")
    assert saved.overridden_by == {"fanout": "environment: FANOUT", "zone": "--zone"}
    assert editing.value("fanout").value == 7  # it goes by that now
    assert tomllib.loads(saved.path.read_text() if saved.path else "") == {
        "fanout": 7, "zone": "us", "cluster": "two", "bind": "127.0.0.1:9100",
    }  # fmt: skip


def test_what_was_applied_and_overruled_stays_when_more_is_changed(
    make: Make, configs: list[NodeConfig]
) -> None:
    editing = make(environ={"FANOUT": "5"})
    editing.set_value("fanout", "7")
    editing.save()
    editing.set_value("max_peers", "9")
    editing.save()
    assert (configs[-1].fanout, configs[-1].max_peers) == (7, 9)


def test_another_editor_keeps_what_was_applied_and_overruled(
    make: Make, configs: list[NodeConfig], tmp_path: Path
) -> None:
    editing = make(environ={"FANOUT": "5"}, cluster="one")
    live = LiveSettings(editing.settings)

    def edit(name: str, text: str) -> SettingsEditor:
        editor = live.edit(lambda config: configs.append(config) or ())  # type: ignore[func-returns-value]
        editor.set_value(name, text)
        editor.save()
        live.on_saved(editor.settings)
        return editor

    edit("fanout", "7")
    edit("cluster", "two")  # which needs a restart, and then is that of the flag
    edited = edit("max_peers", "9")
    assert (configs[-1].fanout, configs[-1].max_peers, configs[-1].cluster) == (7, 9, "one")
    assert edited.value("fanout").origin == "changed here"
    assert edit("fanout", "5").settings.kept_edits == {}
    settings, _ = live.reload(lambda _: ())
    assert (settings.node.fanout, settings.node.max_peers) == (5, 9)


def test_two_changes_are_checked_together(make: Make) -> None:
    editing = make()
    with pytest.raises(ConfigError, match="peer_timeout"):
        editing.set_value("peer_timeout", "1")
    editing.set_value("gossip_interval", "0.2")
    editing.set_value("peer_timeout", "1")
    editing.discard()
    assert editing.pending == ()
    assert editing.value("peer_timeout").value == 6.0


def test_sections_hosts_keys_and_lists_are_saved_by_the_names_of_the_file(make: Make) -> None:
    editing = make('bind = "[::1]:7000"\n[app.keys]\nzoom = "f3"\npause = "o"\n')
    editing.set_value("port", "7001")
    editing.set_value("epidemic.hops", "3")
    editing.set_value("app.keys", '{pause = "x"}')
    editing.set_value("bootstrap_peers", "127.0.0.1:1, [::1]:2")
    saved = editing.save()
    assert saved.path is not None
    values = tomllib.loads(saved.path.read_text())
    assert values["bind"] == "[::1]:7001"
    assert values["epidemic"] == {"hops": 3}
    assert values["app"]["keys"] == {"zoom": "z", "pause": "x"}
    assert values["bootstrap_peers"] == ["127.0.0.1:1", "[::1]:2"]


def test_a_demo_applies_edits_and_saves_nothing(
    make: Make, configs: list[NodeConfig], tmp_path: Path
) -> None:
    editing = make("", None, **{"app.demo": True})
    editing.set_value("rate_limit.capacity", "20")
    assert editing.save().path is None
    assert configs[-1].rate_limit.capacity == 20
    assert (tmp_path / "g.toml").read_text() == ""


def test_a_file_that_cannot_be_written_is_whole_still(make: Make, tmp_path: Path) -> None:
    editing = make("fanout = 3\n")
    editing.set_value("fanout", "4")
    (tmp_path / "g.toml").write_text("fanout = [broken\n")
    with pytest.raises(ConfigError, match="not TOML"):
        editing.save()
    (tmp_path / "g.toml").unlink()
    (tmp_path / "g.toml").mkdir()
    with pytest.raises((OSError, ConfigError)):
        editing.save()
    assert editing.pending == ("fanout",)


def test_a_node_that_does_not_run_saves_nothing(tmp_path: Path, make: Make) -> None:
    def refuse(config: NodeConfig) -> tuple[str, ...]:
        raise NotRunning("it has left")

    editing = SettingsEditor(make("fanout = 3\n").settings, refuse)
    editing.set_value("fanout", "4")
    with pytest.raises(NotRunning):
        editing.save()
    assert (tmp_path / "g.toml").read_text() == "fanout = 3\n"


def test_a_new_file_is_its_owners_alone_and_a_link_is_followed(make: Make, tmp_path: Path) -> None:
    make("")
    (tmp_path / "g.toml").unlink()
    settings = load_settings({}, {}, directory=tmp_path).with_keys()
    editing = SettingsEditor(settings, lambda _: ())
    editing.set_value("fanout", "4")
    saved = editing.save()
    assert saved.path is not None
    assert saved.path.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link.toml"
    link.symlink_to(saved.path)
    linked = SettingsEditor(
        load_settings({"app.config": str(link)}, {}, directory=tmp_path).with_keys(), lambda _: ()
    )
    linked.set_value("fanout", "6")
    linked.save()
    assert link.is_symlink()
    assert "fanout = 6" in saved.path.read_text()


def test_every_setting_has_a_reason(make: Make) -> None:
    help_texts = setting_help()
    names = {each.name for each in make().settings.values}
    assert {name for name in names if not help_texts.get(name)} <= {
        "app.demo",
        "app.config",
        "app.keys",
    }
    assert help_texts["fanout"].startswith("Under epidemic, peers each message is relayed to.")
    assert help_texts["port"] == help_texts["host"]
