"""The apps over several contexts: tables of all of them, and the app over one, with a way back.

Invariants:

- One app runs at a time and says in `destination` what comes next; connections and models outlive it.
- Leaving a context for another one loses no draft and no edit without a confirmation.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.notifications import SeverityLevel
from textual.screen import Screen

from grapevine_proto.errors import GrapevineError
from grapevine_proto.ids import PeerId
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.gc_control import GcController
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.fleet import CompareScreen, FleetScreen
from grapevine_tui.app.screens.fleet_tables import (
    FleetAlertsScreen,
    FleetMembersScreen,
    FleetMessagesScreen,
)
from grapevine_tui.app.screens.help import key_facts
from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.shutdown import catch_signals
from grapevine_tui.app.terminal import WindowTitle, install_paste_safe_decoder
from grapevine_tui.app.themed_app import ThemedApp
from grapevine_tui.app.themes import ThemeManager
from grapevine_tui.app.toasts import MAX_TOASTS
from grapevine_tui.app.widgets.bindings import available_actions, bindings
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.config import keymap
from grapevine_tui.config.preferences import Preferences
from grapevine_tui.config.settings import Settings
from grapevine_tui.control.commands import FLEET_TABLES, CommandError
from grapevine_tui.control.read_only import ReadOnly
from grapevine_tui.host.protocol import OwnSettingsView, SettingsView
from grapevine_tui.remote.contexts import unknown_context_text
from grapevine_tui.remote.fleet import ContextAlert, Fleet, FleetNode
from grapevine_tui.text import printable

TICK_INTERVAL_S: Final = 0.5
CONTEXT_HELP: Final = "Show this context"


class _Key(NamedTuple):
    """A key as Textual's table of input sequences has it."""

    value: str


def _read_alt_digits() -> None:
    """Make Textual read Alt with a digit as that key, not as the character that a Mac types with it."""
    sequences = cast(dict[str, object], ANSI_SEQUENCES_KEYS)
    for digit in range(10):
        sequences[f"\x1b{digit}"] = (_Key(f"alt+{digit}"),)


class Destination(NamedTuple):
    """What to show next: a context, or if that is empty a table over all. `selected` is a member of the
    context, or the number of a message; `filter_text` is the filter of the table."""

    context: str = ""
    table: str = FLEET_TABLES[0]
    selected: PeerId | int | None = None
    filter_text: str = ""


ALL_CONTEXTS: Final = Destination()


def find_name(word: str, names: Sequence[str]) -> str:
    """The context that `word` names, or is the number of. Raises CommandError that names the nearest."""
    if word in names:
        return word
    if word.isdecimal() and 0 < int(word) <= len(names):
        return names[int(word) - 1]
    raise CommandError(unknown_context_text(word, names))


def tell_of_alerts(app: ThemedApp, changes: Sequence[ContextAlert], how: str) -> None:
    """Show alerts that begin or are over, and alert the operator to the first; `how` is one of `ALERTS`."""
    firing = [each for each in changes if each.is_firing]
    for each in [*firing, *(each for each in changes if not each.is_firing)][:MAX_TOASTS]:
        severity: SeverityLevel = "warning" if each.is_firing else "information"
        app.notify(each.line, severity=severity, markup=False)
    if len(changes) > MAX_TOASTS:
        app.notify(f"{len(changes) - MAX_TOASTS} more alerts changed", markup=False)
    if firing:
        more = f" and {len(firing) - 1} more" if len(firing) > 1 else ""
        app.alert_operator(how, f"{firing[0].line}{more}")


class ContextCommands(Provider):
    """``ctx NAME`` in the palette, also with a name that is only near."""

    @property
    def _app(self) -> FleetApp | ContextApp:
        assert isinstance(self.app, (FleetApp, ContextApp))
        return self.app

    async def search(self, query: str) -> Hits:
        names = self._app.context_names
        matcher = self.matcher(query)
        command, _, word = query.strip().partition(" ")
        is_typed = command in ("ctx", "context") and bool(word.strip())
        is_found = False
        for name in names:
            text = f"ctx {name}"
            if score := matcher.match(text):
                is_found = True
                yield Hit(score, matcher.highlight(text), self._shows(name), text, CONTEXT_HELP)
        if is_typed and not is_found:
            close = difflib.get_close_matches(word.strip(), names, n=1, cutoff=0.0)
            for name in close:
                help_text = f"No context is named {printable(word.strip())}; this is the nearest"
                yield Hit(1.0, Content(f"ctx {name}"), self._shows(name), f"ctx {name}", help_text)

    async def discover(self) -> Hits:
        for name in self._app.context_names:
            yield DiscoveryHit(f"ctx {name}", self._shows(name), help=CONTEXT_HELP)

    def _shows(self, name: str) -> Callable[[], None]:
        return partial(self._app.show_context, name)


class FleetApp(ThemedApp):
    """Tables of all contexts, first the one that `opening` names. `destination` is what to show next, None to
    quit; `view` is what to come back to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(keymap.FLEET_APP_KEYS, keymap.FLEET_TABLE_KEYS, keymap.CONTEXT_KEYS),
        Binding("ctrl+p", "command_palette", "Commands", show=False, priority=True),
    ]
    COMMANDS = App.COMMANDS | {ContextCommands}

    def __init__(
        self, fleet: Fleet, settings: Settings, opening: Destination = ALL_CONTEXTS
    ) -> None:
        super().__init__()
        install_paste_safe_decoder()
        _read_alt_digits()
        self.fleet = fleet
        self._contexts_screen = FleetScreen(fleet)
        self.destination: Destination | None = None
        self.view = opening
        self._settings = settings
        self._theme_manager = ThemeManager(self, Preferences(settings.preferences_file))
        self.set_keymap(dict(settings.keys))
        self.gc_controller = GcController()
        self._window_title = WindowTitle(self._write_to_terminal)

    def get_default_screen(self) -> Screen[None]:
        return self._contexts_screen

    @property
    def is_readonly(self) -> bool:
        """Whether every context is only looked at."""
        return all(each.context.is_readonly for each in self.fleet.nodes.values())

    @property
    def context_names(self) -> list[str]:
        """The contexts, by number from 1."""
        return list(self.fleet.nodes)

    def on_mount(self) -> None:
        self._theme_manager.apply(self._settings.theme)
        catch_signals(lambda _: self.exit())
        self.set_interval(TICK_INTERVAL_S, self.tick)
        self.show_fleet(self.view.table, self.view.filter_text)

    def on_ready(self) -> None:
        if not self.is_headless:  # a test runs many apps in one process and must free each
            self.gc_controller.freeze()

    def on_unmount(self) -> None:
        self._window_title.restore()

    def tick(self) -> None:
        """Tell of alerts, and collect garbage if that is due. Called by a timer."""
        tell_of_alerts(self, self.fleet.take_alert_changes(), self._settings.alert)
        if self._has_terminal:
            self._window_title.show("fleet", alerts=", ".join(self.fleet.alert_names))
        self.gc_controller.collect_if_due(is_main_in_front=len(self.screen_stack) == 1)

    def watch_theme(self, theme: str) -> None:
        """Remember a theme chosen on the screen."""
        self._theme_manager.on_changed(theme, self._settings.theme)

    def on_grid_row_selected(self, message: Grid.RowSelected) -> None:
        match message.key:
            case str(name):
                self._open(Destination(name))
            case (str(name), PeerId() as peer_id):
                self._open(Destination(name, "members", peer_id))
            case (str(name), int(number)):
                self._open(Destination(name, "messages", number))
            case (str(name), tuple()):
                self._open(Destination(name, "alerts"))

    def on_fleet_alerts_screen_mute_requested(
        self, message: FleetAlertsScreen.MuteRequested
    ) -> None:
        self.run_worker(self._mute(message.node, message.name, is_muted=not message.is_muted))

    async def _mute(self, node: FleetNode, name: str, *, is_muted: bool) -> None:
        """Mute an alert in its context, or unmute it."""
        where = node.context.name
        try:
            await (node.host.mute(name) if is_muted else node.host.unmute(name))
        except ReadOnly:
            text = f"{where} is read-only; M in the table of contexts mutes all of it, in this app"
            self.notify(text, severity="warning", markup=False)
        except GrapevineError as error:
            self.notify(printable(f"{where}: {error}"), severity="warning", markup=False)
        else:
            node.host.refresh()
            how = "muted" if is_muted else "unmuted"
            self.notify(printable(f"{where}: the alert {name} is {how}"), markup=False)

    def on_fleet_screen_compare_requested(self, message: FleetScreen.CompareRequested) -> None:
        self.push_screen(CompareScreen(self.fleet, message.first, message.second))

    def action_fleet(self, table: str) -> None:
        """Show a table over all contexts."""
        self.show_fleet(table)

    def show_fleet(self, table: str, filter_text: str = "") -> None:
        """Show a table over all contexts, with a filter."""
        if self.screen.is_modal:
            return
        while len(self.screen_stack) > 1:
            self.pop_screen()
        screen = self._table_screen(table)
        if screen is not self._contexts_screen:
            self.push_screen(screen)
        if filter_text:
            self.call_after_refresh(screen.set_filter, filter_text)

    def _table_screen(self, table: str) -> TableScreen:
        """A new screen for a table; for the contexts the one that is behind all."""
        match table:
            case "members":
                return FleetMembersScreen(self.fleet, self._settings.columns_by_table["members"])
            case "messages":
                return FleetMessagesScreen(self.fleet)
            case "alerts":
                return FleetAlertsScreen(self.fleet)
        return self._contexts_screen

    def action_context(self, number: int) -> None:
        """Open the context of that number."""
        if number <= len(self.context_names) and not self.screen.is_modal:
            self.show_context(str(number))

    def show_context(self, name: str) -> None:
        """Open the context of that name or number. Raises CommandError."""
        self._open(Destination(find_name(name, self.context_names)))

    def _open(self, destination: Destination) -> None:
        if self.fleet.nodes[destination.context].model.local_node is None:
            text = f"{destination.context} has not answered yet"
            self.notify(text, severity="warning", markup=False)
            return
        self.destination = destination
        screen = self.screen
        if isinstance(screen, TableScreen) and screen.table_name in FLEET_TABLES:
            self.view = Destination(
                table=screen.table_name, filter_text=screen.table.filter_query.text
            )
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
            (
                "Contexts",
                (*keymap.FLEET_KEYS, *keymap.FLEET_TABLE_KEYS, *keymap.CONTEXT_KEYS),
            ),
            ("Tables", (*keymap.TABLE_KEYS, *keymap.FRONT_SCREEN_KEYS)),
            ("Everywhere", keymap.FLEET_APP_KEYS),
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
    """The app over one context of a fleet. `opening` says what is selected at first, `came_from` is the table
    that leads back; `destination` is what to show next, None to quit."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(keymap.CONTEXT_KEYS)
    COMMANDS = GrapevineApp.COMMANDS | {ContextCommands}
    OWN_KEYS = (("Contexts", keymap.CONTEXT_KEYS),)

    def __init__(
        self,
        fleet: Fleet,
        settings: SettingsView,
        opening: Destination,
        came_from: Destination = ALL_CONTEXTS,
        own_settings: OwnSettingsView | None = None,
    ) -> None:
        super().__init__(fleet.nodes[opening.context].host, settings, own_settings=own_settings)
        _read_alt_digits()
        self.destination: Destination | None = None
        self.context_names = list(fleet.nodes)
        self.main.context_names = tuple(self.context_names)
        self._fleet = fleet
        self._opening = opening
        self._came_from = came_from

    def on_mount(self) -> None:  # besides that of the base class
        self.set_interval(TICK_INTERVAL_S, self._tell_of_others)

    def _tell_of_others(self) -> None:
        """Tell of alerts of other contexts; those of this one are among its notices."""
        changes = self._fleet.take_alert_changes()
        others = [each for each in changes if each.context != self._opening.context]
        tell_of_alerts(self, others, self._settings.alert)

    def _alert(self, text: str) -> None:
        super()._alert(f"{self._opening.context}: {text}")

    def _update_window_title(self) -> None:
        if self._has_terminal:
            alerts = ", ".join(self._fleet.alert_names)
            self._window_title.show(self.main.status.node_name, alerts=alerts)

    def on_ready(self) -> None:  # besides that of the base class
        if self._opening.table == "alerts":
            self.action_alerts()
        if self._opening.selected is not None:
            self.call_after_refresh(self._show_selected)

    def _show_selected(self) -> None:
        """Show the member or the message that was chosen in a table of all contexts."""
        model = self._host.model
        gone_text = ""
        match self._opening.selected:
            case PeerId() as peer_id:
                if peer_id not in model.members:
                    gone_text = "that member is no longer known here"
                self._bring_to_front(self._members_screen(selected=peer_id))
            case int(number):
                self.main.action_panel("log")
                if not self.main.log_view.go_to(number):
                    gone_text = "that message is no longer in memory; /history may have it"
        if gone_text:
            self.notify(gone_text, markup=False)

    async def action_quit(self) -> None:
        """Go back: from a screen in front to the main one, from there to the table it came from."""
        if self.screen is self.main and not self._graceful_shutdown.is_requested:
            self._leave_for(self._came_from)
        else:
            await super().action_quit()

    def on_main_screen_back_requested(self) -> None:
        self._leave_for(self._came_from)

    def action_context(self, number: int) -> None:
        """Show the context of that number."""
        if number <= len(self.context_names):
            self.show_context(str(number))

    @property
    def context_fields(self) -> dict[str, Any]:
        return {"context": self._opening.context}

    def show_context(self, name: str) -> None:
        """Show the context of that name or number, or the table of all. Raises CommandError."""
        self._leave_for(Destination(find_name(name, self.context_names) if name else ""))

    def mute_context(self, name: str) -> None:
        """Mute the alerts of that context, or this one, in this app, or unmute them. Raises CommandError."""
        name = find_name(name, self.context_names) if name else self._opening.context
        self.notify(self._fleet.nodes[name].toggle_mute(), markup=False)

    def action_fleet(self, table: str) -> None:
        """Show a table over all contexts."""
        self.show_fleet(table)

    def show_fleet(self, table: str) -> None:
        """Show a table over all contexts."""
        self._leave_for(Destination(table=table))

    def key_label(self, action: str) -> str:
        if action == "quit" and self.screen is self.main:
            return "Fleet"
        return super().key_label(action)

    def _leave_for(self, destination: Destination) -> None:
        """End this app and keep the connection; if something would be lost, only after a confirmation."""
        if self.screen.is_modal or destination.context == self._opening.context:
            return
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
    own_settings: OwnSettingsView,
    run: Callable[[App[None]], Awaitable[object]],
    table: str = FLEET_TABLES[0],
) -> int:
    """Show tables, first that of the name, and contexts by turns until the user quits; return the exit code.
    `run` runs an app to its end. The fleet has been started."""
    refreshing = asyncio.create_task(fleet.run())
    view = Destination(table=table)
    destination: Destination | None = view
    exit_code = 0
    try:
        while destination is not None:
            app: FleetApp | ContextApp
            fleet.opened = destination.context
            if not destination.context:
                app = FleetApp(fleet, settings, destination)
            else:
                node = fleet.nodes[destination.context]
                context_settings = own_settings.for_node(node.host.config)
                app = ContextApp(fleet, context_settings, destination, view, own_settings)
                node.host.on_config_changed = partial(
                    app.call_later, app.main.apply_config, is_restarted=True
                )
            await run(app)
            destination, exit_code = app.destination, app.exit_code
            if isinstance(app, FleetApp):
                view = app.view
            for node in fleet.nodes.values():
                node.host.on_config_changed = lambda _: None
            app.gc_controller.restore()  # so that the app that ended is freed
    finally:
        refreshing.cancel()
    return exit_code
