"""Makes the screenshots in screenshots/: ``python -m tests.tui.make_screenshots [--fake] [DIRECTORY]``.

It runs real nodes on loopback, opens the app's screens and exports them with Textual. `--fake` shows a
made-up cluster instead, to check the layout alone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot

from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.config.settings import load_settings
from grapevine_tui.demo.demo import Demo
from grapevine_tui.host.local import Host
from tests.sources import ROOT
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.lively import fill

DIRECTORY = ROOT / "screenshots"
LIVE_S = 40.0  # enough for anti-entropy rounds and for a throttled peer
IDLE_LAG_S = 0.03
Act = Callable[[Pilot[None]], Awaitable[None]]


async def type_something(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "i", *"thanks, looking")


async def open_peer(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "1", "down", "enter")
    await pilot.pause(0.6)


async def open_help(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "question_mark")
    await pilot.pause(0.6)


async def focus_messages(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "2")


async def open_members(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "m")
    await pilot.pause(0.6)


async def open_traffic(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "T")
    await pilot.pause(0.6)


async def open_trace(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "i", *"/trace who has the new build?", "enter")
    await pilot.pause(1.5)


async def open_settings(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "C")
    await pilot.pause(0.6)
    await pilot.press("down", "down", "down", "down")
    await pilot.pause(0.3)


async def filter_messages(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "2", "slash", *"zone:eu-west")
    await pilot.pause(0.3)


SHOTS: tuple[tuple[str, tuple[int, int], str, Act], ...] = (
    ("main", (120, 36), "grapevine", type_something),
    ("light", (120, 36), "grapevine-light", focus_messages),
    ("peer", (120, 36), "grapevine", open_peer),
    ("members", (120, 36), "grapevine", open_members),
    ("traffic", (120, 36), "grapevine", open_traffic),
    ("trace", (120, 36), "grapevine", open_trace),
    ("trace-light", (120, 36), "grapevine-light", open_trace),
    ("settings", (120, 36), "grapevine", open_settings),
    ("filter", (120, 36), "grapevine", filter_messages),
    ("help", (120, 36), "grapevine", open_help),
    ("80x24", (80, 24), "grapevine", focus_messages),
    ("40x12", (40, 12), "grapevine", focus_messages),
)


async def wait_for_idle_loop(host: Host | FakeHost, pilot: Pilot[None]) -> None:
    """Wait until the loop lag of the last export is no longer shown."""
    for _ in range(30):
        if host.node.lag_s < IDLE_LAG_S:
            return
        await pilot.pause(0.5)


async def save_screens(
    app: GrapevineApp, host: Host | FakeHost, pilot: Pilot[None], directory: Path
) -> None:
    """Export all screens of one running app."""
    for name, size, theme, act in SHOTS:
        app.theme = theme
        await pilot.resize_terminal(*size)
        await act(pilot)
        await pilot.pause(0.4)
        await wait_for_idle_loop(host, pilot)
        path = directory / f"{name}.svg"
        path.write_text(app.export_screenshot(title="grapevine"), encoding="utf-8")
        await pilot.press("escape")
        if app.screen is not app.main:
            app.pop_screen()
        app.main.compose_box.draft.replace_text("")


async def wait_for_throttling(host: Host | FakeHost, pilot: Pilot[None]) -> None:
    """Wait until a peer has just been throttled, so that the screenshot shows it."""
    for _ in range(120):
        latest = max(host.model.throttled_at.values(), default=0.0)
        if time.time() - latest < 1.0:
            return
        await pilot.pause(0.5)


async def draw(directory: Path, *, is_fake: bool) -> None:
    """Run a cluster for `LIVE_S` and export the screenshots."""
    if is_fake:
        fake = FakeHost()
        fill(fake)
        host: Host | FakeHost = fake
        app = GrapevineApp(fake, FakeSettings())
    else:
        settings = load_settings(
            {"app.demo": True, "name": "ams-1", "zone": "eu-west"}, {}
        ).with_keys()
        demo = Demo(settings)
        host = demo.host
        app = GrapevineApp(host, settings, demo=demo)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(1.0 if is_fake else LIVE_S)
        if not is_fake:
            await wait_for_throttling(host, pilot)
        await save_screens(app, host, pilot, directory)


def main(arguments: list[str]) -> None:
    directories = [Path(each) for each in arguments if not each.startswith("-")]
    directory = directories[0] if directories else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(directory, is_fake="--fake" in arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
