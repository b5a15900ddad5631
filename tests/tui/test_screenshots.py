"""The main states of the app, compared with reviewed screenshots.

Invariants: clock, IDs and tables are made up, so a screenshot is the same in every run. Characters and the
meaning of their colors are compared, nothing else.

``GRAPEVINE_SCREENSHOTS=rewrite python -m pytest tests/tui/test_screenshots.py`` replaces the screenshots in
tests/tui/snapshots. Look at the changed files before you commit them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from time import struct_time
from typing import Final, NamedTuple

import pytest
import textual

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import MemberStatus, TraceUpdated
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.fleet import FleetApp
from grapevine_tui.app.replay import ReplayApp
from grapevine_tui.app.screens.trace import TraceScreen
from grapevine_tui.config.settings import load_settings
from grapevine_tui.host.model import Model
from grapevine_tui.host.protocol import SettingsView
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.lively import fill
from tests.tui.made_up_fleet import a_fleet
from tests.tui.screenshots import BLANK, Cell, Palette, Screenshot, difference, read, write
from tests.tui.stage import Stage
from tests.tui.values import a_member, a_trace

DIRECTORY: Final = Path(__file__).with_name("snapshots")
REWRITE: Final = "GRAPEVINE_SCREENSHOTS"
NOON: Final = 1_763_726_400.0  # 2025-11-21 12:00:00 UTC
WIDE, NARROW, TINY = (120, 36), (80, 24), (40, 12)
DARK, LIGHT = "grapevine", "grapevine-light"


class Stopped:
    """Replaces the module `time` with a clock that stands at noon UTC."""

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def time() -> float:
        return NOON

    @staticmethod
    def localtime(at_unix: float = NOON) -> struct_time:
        return time.gmtime(at_unix)

    @staticmethod
    def strftime(form: str, when: struct_time | None = None) -> str:
        return time.strftime(form, when or time.gmtime(NOON))


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, module in list(sys.modules.items()):
        if name.startswith("grapevine_tui") and getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", Stopped)


# Steps before the screenshot


Act = Callable[[Stage], Awaitable[None]]


def keys(*names: str) -> Act:
    async def act(stage: Stage) -> None:
        await stage.press("escape", *names)

    return act


async def typed(stage: Stage) -> None:
    stage.main.compose_box.draft.replace_text("thanks, looking\nand one line more")
    await stage.press("i", "alt+enter", "!")


async def command(stage: Stage) -> None:
    stage.main.compose_box.draft.replace_text("/s")
    await stage.press("i", "e")


async def refused(stage: Stage) -> None:
    await stage.submit("/send nobody hello")


async def traced(stage: Stage) -> None:
    await stage.submit("/trace who has the new build?")
    stage.host.happen(TraceUpdated(a_trace(1, 5, 2)))
    await stage.paint()
    assert isinstance(stage.app.screen, TraceScreen)
    stage.app.screen.show()


async def sifted(stage: Stage) -> None:
    await stage.press("escape", "2", "slash")
    stage.main.filter_bar.line_input.value = "zone:eu-west -deploy"


async def paused(stage: Stage) -> None:
    await stage.press("escape", "2", "k", "k", "k", "space")


async def replayed(stage: Stage) -> None:
    stage.host.model.replay = "12:00:00 x10"
    await stage.press("escape", "1")


class StoppedPlayback:
    """A recording that stands still."""

    def toggle(self) -> None: ...

    def step(self, seconds: float) -> None: ...

    def go_to_time(self, text: str) -> None: ...


class Shot(NamedTuple):
    name: str
    act: Act
    size: tuple[int, int] = WIDE
    theme: str = DARK


PANELS: Final = (("peers", "1"), ("messages", "2"), ("limits", "3"), ("rounds", "4"))
SHOTS: Final = (
    Shot("main", keys("2")),
    Shot("main-light", keys("2"), theme=LIGHT),
    Shot("main-80x24", keys("2"), NARROW),
    Shot("main-40x12", keys("2"), TINY),
    Shot("main-39x11", keys("2"), (39, 11)),
    *(Shot(f"{name}-zoomed", keys(key, "z")) for name, key in PANELS),
    *(Shot(f"{name}-40x12", keys(key), TINY) for name, key in PANELS if name != "messages"),
    Shot("limits-80x24", keys("3"), NARROW),
    Shot("peer", keys("1", "down", "enter")),
    Shot("peer-40x12", keys("1", "down", "enter"), TINY),
    Shot("message", keys("2", "enter")),
    Shot("members", keys("m")),
    Shot("help", keys("question_mark")),
    Shot("help-40x12", keys("question_mark"), TINY),
    Shot("status", keys("S")),
    Shot("status-80x24", keys("S"), NARROW),
    Shot("trace", traced),
    Shot("trace-light-80x24", traced, NARROW, LIGHT),
    Shot("traffic", keys("T")),
    Shot("topology-200x60", keys("O"), (200, 60)),
    Shot("topology-80x24", keys("O"), NARROW),
    Shot("matrix", keys("X")),
    Shot("has", keys("2", "h")),
    Shot("settings", keys("C", *["down"] * 5)),
    Shot("settings-80x24", keys("C"), NARROW),
    Shot("compose", typed),
    Shot("compose-40x12", typed, TINY),
    Shot("command", command),
    Shot("refused", refused),
    Shot("filter", sifted),
    Shot("paused", paused),
    Shot("deny", keys("1", "down", "D")),
    Shot("replay", replayed),
)


OURS: Final = FakeSettings(
    NodeConfig(name="ams-1", zone="eu-west", cluster="default", strategy="auto")
)


def made_up() -> FakeHost:
    """Return a host of the made-up cluster, started just before noon."""
    host = FakeHost()
    started = host.node.time
    host.model = Model(wall_clock=lambda: NOON - 120 + host.node.time - started)
    fill(host)
    # The app starts the node just before noon and is looked at then.
    host.model._wall_clock = lambda: NOON if host.model.local_node else NOON - 120
    host.members = [a_member(number, f"far-{number}") for number in range(5)]
    host.members[3] = replace(host.members[3], status=MemberStatus.DOWN)
    return host


def settings_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> SettingsView:
    (directory / "g.toml").write_text("fanout = 4\n\n[app]\nmessages = 50\n")
    monkeypatch.chdir(directory)  # so that no path of this machine is in a screenshot
    flags = {"app.config": "g.toml", "zone": "eu-west", "name": "ams-1"}
    return load_settings(flags, {"MAX_PEERS": "7"}, directory=directory).with_keys()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def check(screenshot: Screenshot, palette: Palette, name: str, directory: Path) -> None:
    """Compare with the screenshot of that name, or replace it. Fails with a description."""
    kept = DIRECTORY / f"{name}.svg"
    drawn = write(screenshot, palette, f"{name}, drawn with Textual {textual.__version__}")
    if os.environ.get(REWRITE) == "rewrite":
        if not kept.exists() or difference(
            read_kept(kept, screenshot), screenshot
        ):  # else the same file
            kept.write_text(drawn, encoding="utf-8")
        return
    actual = directory / f"{name}.svg"
    actual.write_text(drawn, encoding="utf-8")
    assert kept.exists(), f"there is no screenshot {kept} yet; the current one is {actual}"
    report = difference(read_kept(kept, screenshot), screenshot)
    if report:
        note = kept.read_text(encoding="utf-8").split("<!-- ")[1].split(" -->")[0]
        pytest.fail(
            f"{kept.name} is not what is shown ({note}; here it is {textual.__version__}): {report}\n"
            f"The screen as it is: {actual}\nWhere it is meant: {REWRITE}=rewrite",
            pytrace=False,
        )


FLEET_SHOTS: Final = (
    ("fleet", WIDE, ()),
    ("fleet-80x24", NARROW, ()),
    ("fleet-members", WIDE, ("m",)),
    ("fleet-members-80x24", NARROW, ("m",)),
    ("fleet-alerts", WIDE, ("exclamation_mark",)),
    ("fleet-alerts-80x24", NARROW, ("exclamation_mark",)),
    ("fleet-messages", WIDE, ("2",)),
    ("fleet-messages-80x24", NARROW, ("2",)),
    (
        "compare-80x24",
        NARROW,
        ("s", "g", "down", "down", "equals_sign", *("down",) * 4, "equals_sign"),
    ),
)


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "size", "pressed"), FLEET_SHOTS)
async def test_the_fleet_matches_its_snapshot(
    name: str, size: tuple[int, int], pressed: tuple[str, ...], directory: Path
) -> None:
    settings = load_settings({"app.state_dir": str(directory / "none")}, {}, directory=directory)
    app = FleetApp(a_fleet(NOON), settings)
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        app.theme = DARK
        await pilot.press(*pressed)
        await pilot.pause()
        palette = Palette(app.theme_variables)
        screenshot = read(app.export_screenshot(), palette, size)
    check(screenshot, palette, name, directory)


def read_kept(path: Path, like: Screenshot) -> Screenshot:
    size = (len(like.rows[0]), len(like.rows))
    return read(path.read_text(encoding="utf-8"), Palette({}), size)


@pytest.mark.asyncio
@pytest.mark.parametrize("shot", SHOTS, ids=lambda shot: shot.name)
async def test_a_state_matches_its_snapshot(
    shot: Shot, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = made_up()
    is_settings = shot.name.startswith("settings")
    settings = settings_of(directory, monkeypatch) if is_settings else OURS
    is_replay = shot.name == "replay"
    make_app = ReplayApp if is_replay else GrapevineApp
    host.playback = StoppedPlayback() if is_replay else None
    app = make_app(host.with_settings(settings), settings)
    app.animation_level = "none"
    async with app.run_test(size=shot.size) as pilot:
        app.theme = shot.theme
        for box in (app.main.compose_box.draft, app.main.filter_bar.line_input):
            box.cursor_blink = False
        stage = Stage(app, host, pilot)
        await stage.paint()
        await shot.act(stage)
        await stage.paint()
        palette = Palette(app.theme_variables)
        screenshot = read(app.export_screenshot(), palette, shot.size)
    check(screenshot, palette, shot.name, directory)


# The comparison itself


def a_screenshot(
    *lines: str, foreground: str = "success", background: str = "surface"
) -> Screenshot:
    return Screenshot(
        tuple(tuple(Cell(letter, foreground, background) for letter in line) for line in lines)
    )


def test_every_snapshot_belongs_to_a_state() -> None:
    names = {shot.name for shot in SHOTS} | {name for name, _, _ in FLEET_SHOTS}
    assert {path.stem for path in DIRECTORY.iterdir()} == names


def test_what_is_written_is_read_back_the_same() -> None:
    wide = (Cell("日", "accent bold", "panel"), Cell("", "accent bold", "panel"), BLANK)
    marked = (Cell("é", "error", ""), Cell("<", "other", "other"), Cell("&", "other", "other"))
    screenshot = Screenshot((wide, marked))
    assert read(write(screenshot, Palette({}), "two lines"), Palette({}), (3, 2)) == screenshot


def test_a_difference_names_the_first_line_whose_text_differs() -> None:
    report = difference(a_screenshot("same", "peer bob "), a_screenshot("same", "peer carl"))
    assert report == "line 2\n  was  'peer bob'\n  is   'peer carl'"
    assert "2 lines" in difference(a_screenshot("a", "b"), a_screenshot("a"))


def test_colors_are_compared_by_meaning() -> None:
    report = difference(
        a_screenshot("stale", foreground="warning"), a_screenshot("stale", foreground="foreground")
    )
    assert report.startswith("line 1, column 1, at 'stale': ")
    assert "warning on surface is now foreground on surface" in report
    assert difference(a_screenshot("stale"), a_screenshot("stale")) == ""


def test_a_theme_may_change_its_colors() -> None:
    for red in ("#ff0000", "#aa1122"):
        palette = Palette({"error": red, "surface": "#111111"})
        assert [palette.name(red), palette.name("#123456")] == ["error", "other"]
