"""A running app over a fake host, with the keys of an operator and the text of its screen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual import _wait
from textual.app import App
from textual.pilot import Pilot

from grapevine_tui.app.app import FRAMES_PER_REFRESH, GrapevineApp
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.host.protocol import OwnSettingsView, SettingsView
from tests.tui.fake_host import FakeHost, FakeSettings

# The pilot waits until the process is idle this long. Its default of 20 ms, three times per key, would
# make these tests take minutes.
_wait.SLEEP_GRANULARITY = 1 / 200
_wait.SLEEP_IDLE = _wait.SLEEP_GRANULARITY / 10
# Rounds without a layout or repaint after which nothing is under way: a notice passes the app, its rack of
# toasts and the toast, one round each.
QUIET_ROUNDS = 3

# Toasts stay longer than any test takes on a busy machine.
GrapevineApp.NOTIFICATION_TIMEOUT = 600.0


def lines_of(app: App[None]) -> list[str]:
    """Return the lines of the screen as plain text."""
    # Textual has no public API for the plain text of a screen.
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]


def text_of(app: App[None]) -> str:
    return "\n".join(lines_of(app))


class Stage:
    """The app, its host, and verbs for an operator."""

    def __init__(self, app: GrapevineApp, host: FakeHost, pilot: Pilot[None]) -> None:
        self.app = app
        self.host = host
        self.pilot = pilot
        self.main = app.main

    @property
    def text(self) -> str:
        return text_of(self.app)

    @property
    def focused(self) -> str:
        return (self.app.focused.id or "") if self.app.focused is not None else ""

    @property
    def has_sheet(self) -> bool:
        """Whether a detail screen is in front."""
        return isinstance(self.app.screen, DetailScreen)

    @property
    def is_following(self) -> bool:
        return self.main.log_view.is_following

    def shows(self, name: str) -> bool:
        return self.main.panel(name).display

    async def paint(self) -> None:
        """Run half a second of the app's timer without waiting for it."""
        await self.pilot.pause()
        while self.app.is_running and self.app._key_sequencer.is_busy:  # on a busy machine
            await self.pilot.pause(0.01)
        for _ in range(FRAMES_PER_REFRESH):
            self.app.tick()
        await self.pilot.pause()
        await self.settle()

    async def settle(self) -> None:
        """Wait until the messages, layouts and repaints that follow from one another are done.

        The pilot's own pause ends when the process uses no CPU for some milliseconds, which on a busy machine
        says nothing. A toast, for example, is mounted, moves the panels up, and only then the log scrolls.
        """
        quiet_rounds = 0
        while self.app.is_running and quiet_rounds < QUIET_ROUNDS:
            await self.pilot._wait_for_screen()
            screen = self.app.screen
            is_quiet = not (screen._layout_required or screen._dirty_widgets or screen._callbacks)
            quiet_rounds = quiet_rounds + 1 if is_quiet else 0
            screen._on_timer_update()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.paint()

    async def submit(self, line: str) -> None:
        """Type a line into the compose box and press Enter."""
        self.main.compose_box.draft.focus()
        self.main.compose_box.draft.replace_text(line)
        await self.press("enter")

    async def resize(self, width: int, height: int) -> None:
        await self.pilot.resize_terminal(width, height)
        await self.paint()


@asynccontextmanager
async def staged(
    host: FakeHost | None = None,
    size: tuple[int, int] = (120, 36),
    settings: SettingsView | None = None,
    own_settings: OwnSettingsView | None = None,
) -> AsyncIterator[Stage]:
    host = (host or FakeHost()).with_settings(settings)
    app = GrapevineApp(host, settings or FakeSettings(), own_settings=own_settings)
    async with app.run_test(size=size, notifications=True) as pilot:
        stage = Stage(app, host, pilot)
        await stage.paint()
        yield stage
