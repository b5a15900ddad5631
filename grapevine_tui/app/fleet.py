"""The apps over several contexts: the table of all of them, and the app over one, with a way back.

Invariants:

- One app runs at a time and says in `destination` what comes next; connections and models outlive it.
- Leaving a context for another one loses no draft and no edit without a confirmation.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.gc_control import GcController
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.fleet import CompareScreen, FleetScreen
from grapevine_tui.app.screens.help import key_facts
from grapevine_tui.app.terminal import install_paste_safe_decoder
from grapevine_tui.app.themed_app import ThemedApp
from grapevine_tui.app.themes import ThemeManager
from grapevine_tui.app.widgets.bindings import available_actions, bindings
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.config import keymap
from grapevine_tui.config.preferences import Preferences
from grapevine_tui.config.settings import Settings
from grapevine_tui.host.protocol import HostView, SettingsView
from grapevine_tui.remote.fleet import Fleet, FleetNode

GC_INTERVAL_S: Final = 0.5
TABLE: Final = ""  # as a destination: the table of all contexts
FLEET_APP_KEYS: Final = tuple(
    each for each in keymap.GLOBAL_KEYS if each.name in ("help", "commands", "screenshot", "quit")
)


class _Key(NamedTuple):
    """A key as Textual's table of input sequences has it."""

    value: str


def _read_alt_digits() -> None:
    """Make Textual read Alt with a digit as that key, not as the character that a Mac types with it."""
    sequences = cast(dict[str, object], ANSI_SEQUENCES_KEYS)
    for digit in range(10):
        sequences[f"\x1b{digit}"] = (_Key(f"alt+{digit}"),)


class FleetApp(ThemedApp):
    """The table of all contexts. `destination` is the context to show next, None to quit."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(FLEET_APP_KEYS, keymap.CONTEXT_KEYS),
        Binding("ctrl+p", "command_palette", "Commands", show=False, priority=True),
    ]

    def __init__(self, fleet: Fleet, settings: Settings) -> None:
        super().__init__()
        install_paste_safe_decoder()
        _read_alt_digits()
        self.fleet = fleet
        self.destination: str | None = None
        self._settings = settings
        self._theme_manager = ThemeManager(self, Preferences(settings.preferences_file))
        self.set_keymap(dict(settings.keys))
        self.gc_controller = GcController()

    def get_default_screen(self) -> Screen[None]:
        return FleetScreen(self.fleet)

    @property
    def is_readonly(self) -> bool:
        """Whether every context is only looked at."""
        return all(each.context.is_readonly for each in self.fleet.nodes.values())

    def on_mount(self) -> None:
        self._theme_manager.apply(self._settings.theme)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.set_interval(GC_INTERVAL_S, self._collect_garbage)

    def on_ready(self) -> None:
        if not self.is_headless:  # a test runs many apps in one process and must free each
            self.gc_controller.freeze()

    def _collect_garbage(self) -> None:
        self.gc_controller.collect_if_due(is_main_in_front=len(self.screen_stack) == 1)

    def watch_theme(self, theme: str) -> None:
        """Remember a theme chosen on the screen."""
        self._theme_manager.on_changed(theme, self._settings.theme)

    def on_grid_row_selected(self, message: Grid.RowSelected) -> None:
        if isinstance(message.key, str):
            self._open(message.key)

    def on_fleet_screen_compare_requested(self, message: FleetScreen.CompareRequested) -> None:
        self.push_screen(CompareScreen(self.fleet, message.first, message.second))

    def action_context(self, number: int) -> None:
        """Open the context of that number."""
        names = list(self.fleet.nodes)
        if number <= len(names) and not self.screen.is_modal:
            self._open(names[number - 1])

    def _open(self, name: str) -> None:
        if self.fleet.nodes[name].model.local_node is None:
            self.notify(f"{name} has not answered yet", severity="warning", markup=False)
            return
        self.destination = name
        self.exit()

    async def action_quit(self) -> None:
        """Go back from a screen in front; quit from the table."""
        if len(self.screen_stack) > 1:
            await self.screen.run_action("back")
        else:
            self.exit()

    def action_help_quit(self) -> None:
        self.exit()

    def key_label(self, action: str) -> str:
        return "Back" if action == "quit" and len(self.screen_stack) > 1 else ""

    def action_help(self) -> None:
        """Show every key of the table."""
        if not isinstance(self.screen, DetailScreen):
            self.push_screen(DetailScreen("Help", self._help_facts))

    def _help_facts(self) -> list[Fact]:
        parts = (
            ("Contexts", (*keymap.FLEET_KEYS, *keymap.CONTEXT_KEYS)),
            ("Tables", (*keymap.TABLE_KEYS, *keymap.FRONT_SCREEN_KEYS)),
            ("Everywhere", FLEET_APP_KEYS),
        )
        return [
            fact
            for name, part in parts
            for fact in key_facts(
                self, name, bindings(keymap.apply_keymap(part, self._settings.keys))
            )
        ]

    def action_save_screenshot(self) -> None:
        """Save a screenshot as SVG."""
        self.notify(f"saved {self.save_screenshot()}", markup=False)

    def get_system_commands(self, screen: Screen[Any]) -> Iterator[SystemCommand]:
        """The palette: every key that works here."""
        nodes = [self, screen, *([screen.focused] if screen.focused is not None else [])]
        for each in available_actions(nodes, self._settings.keys):
            run = partial(self.run_action, each.bindings[0].action, each.node)
            keys = " ".join(map(self.get_key_display, each.bindings))
            yield SystemCommand(each.label, f"key {keys}", run)


class ContextApp(GrapevineApp):
    """The app over one context of a fleet. `destination` is what to show next: a context, `TABLE`, or None to
    quit."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(keymap.CONTEXT_KEYS)
    OWN_KEYS = (("Contexts", keymap.CONTEXT_KEYS),)

    def __init__(self, host: HostView, settings: SettingsView, names: list[str]) -> None:
        super().__init__(host, settings)
        _read_alt_digits()
        self.destination: str | None = None
        self._names = names

    async def action_quit(self) -> None:
        """Go back: from a screen in front to the main one, from there to the table of contexts."""
        if self.screen is self.main and not self._graceful_shutdown.is_requested:
            self._leave_for(TABLE)
        else:
            await super().action_quit()

    def on_main_screen_back_requested(self) -> None:
        self._leave_for(TABLE)

    def action_context(self, number: int) -> None:
        """Show the context of that number."""
        if number <= len(self._names) and not self.screen.is_modal:
            self._leave_for(self._names[number - 1])

    def key_label(self, action: str) -> str:
        if action == "quit" and self.screen is self.main:
            return "Fleet"
        return super().key_label(action)

    def _leave_for(self, destination: str) -> None:
        """End this app and keep the connection; if something would be lost, only after a confirmation."""
        facts = self._leave_consequences()

        def leave(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.destination = destination
                self._graceful_shutdown.is_done = True
                self.exit()

        if facts:
            self.push_screen(
                ConfirmScreen("Leave this context?", facts, yes="Leave", no="Stay"), leave
            )
        else:
            leave(True)


async def run_fleet(
    fleet: Fleet,
    settings: Settings,
    context_settings: Callable[[FleetNode], SettingsView],
    run: Callable[[App[None]], Awaitable[object]],
) -> int:
    """Show the table and contexts by turns until the user quits; return the exit code. `run` runs an app to
    its end. The fleet has been started."""
    refreshing = asyncio.create_task(fleet.run())
    destination: str | None = TABLE
    exit_code = 0
    try:
        while destination is not None:
            app: FleetApp | ContextApp
            if destination == TABLE:
                fleet.opened = ""
                app = FleetApp(fleet, settings)
            else:
                fleet.opened = destination
                node = fleet.nodes[destination]
                app = ContextApp(node.host, context_settings(node), list(fleet.nodes))
                node.host.on_config_changed = partial(
                    app.call_later, app.main.apply_config, is_restarted=True
                )
            await run(app)
            destination, exit_code = app.destination, app.exit_code
            for node in fleet.nodes.values():
                node.host.on_config_changed = lambda _: None
            app.gc_controller.restore()  # so that the app that ended is freed
    finally:
        refreshing.cancel()
    return exit_code
