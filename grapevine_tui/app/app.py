"""The Textual app over one host: a node in this process, or one that runs elsewhere.

Invariants:

- An event from the node only marks changes (one `|=`); a timer repaints, at most ten times a second.
- However the app ends, the node leaves the cluster first (`shutdown`) and the terminal is restored.
- Untrusted text reaches Textual only after `printable`, as `Content` or with markup off.
- Only the app calls the host; screens and widgets post messages.

`grapevine_tui.cli.main` runs the app and reads `exit_code` and `failure` afterwards.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, assert_never

from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from grapevine_proto.errors import GrapevineError, UnknownPeer
from grapevine_proto.events import Event, MemberInfo, Message, PeerInfo
from grapevine_proto.ids import PeerId
from grapevine_tui.app.command_runner import CommandRunner
from grapevine_tui.app.export import Exporter, payload_text
from grapevine_tui.app.gc_control import GcController
from grapevine_tui.app.highlighter import Highlighter
from grapevine_tui.app.key_sequencer import KeyHandled, KeySequencer
from grapevine_tui.app.own_command_run import OwnCommandRun
from grapevine_tui.app.screens import facts
from grapevine_tui.app.screens.alerts import AlertsScreen
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.help import help_facts
from grapevine_tui.app.screens.main import MainScreen
from grapevine_tui.app.screens.members import MembersScreen
from grapevine_tui.app.screens.message import MessageScreen
from grapevine_tui.app.screens.network import (
    HoldersScreen,
    MatrixScreen,
    NetworkScreen,
    TopologyScreen,
)
from grapevine_tui.app.screens.node import MAX_EVENTS, NodeScreen
from grapevine_tui.app.screens.output import OutputScreen
from grapevine_tui.app.screens.past import EventsScreen, HistoryScreen, PastScreen
from grapevine_tui.app.screens.queries import QueriesScreen, query_outcome
from grapevine_tui.app.screens.settings import SettingsScreen, format_save_result
from grapevine_tui.app.screens.state import StateScreen, entry_facts, entry_text
from grapevine_tui.app.screens.trace import TraceScreen
from grapevine_tui.app.screens.traffic import TrafficScreen
from grapevine_tui.app.selection import message_row, node_row
from grapevine_tui.app.shutdown import GracefulShutdown
from grapevine_tui.app.terminal import (
    BackgroundQuery,
    WindowTitle,
    consume_repaint_request,
    draws_in_ascii,
    install_paste_safe_decoder,
)
from grapevine_tui.app.themed_app import ThemedApp
from grapevine_tui.app.themes import ThemeManager
from grapevine_tui.app.toasts import Toasts
from grapevine_tui.app.widgets.bindings import AvailableAction, available_actions, bindings
from grapevine_tui.app.widgets.draft import Draft
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.app.widgets.log import MessageAction, MessageLog
from grapevine_tui.app.widgets.peer_table import PeerAction, PeerGrid
from grapevine_tui.config import keymap
from grapevine_tui.config.edit import SettingsEditor, format_value
from grapevine_tui.config.highlights import Highlight, parse_highlights
from grapevine_tui.config.own_commands import OwnCommand
from grapevine_tui.config.preferences import Preferences
from grapevine_tui.config.settings import Settings
from grapevine_tui.control.commands import (
    CommandError,
    CommandSpec,
    ScreenAction,
    Surface,
    command_help,
    commands_by_name,
    commands_on,
    suggest_command,
)
from grapevine_tui.control.read_only import REFUSED_TEXT, ReadOnly
from grapevine_tui.control.slash_parser import intended_command
from grapevine_tui.history.describe import format_age
from grapevine_tui.history.records import to_key
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.model import Changes, QueryEntry, StateView
from grapevine_tui.host.protocol import DemoView, HostView, OwnSettingsView, SettingsView
from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowTopology
from grapevine_tui.logs import set_level
from grapevine_tui.text import printable, truncate

DRAFT_PREVIEW_CELLS: Final = 60  # of the unsent draft in the quit confirmation
UNDO_WINDOW_S: Final = 10.0
SHORT_DENY_S: Final = 600  # offered where a node is denied by a key
KEYLIKE_LINES: Final = frozenset({":q", ":q!", ":wq", "quit", "exit", "help"})
MIN_NAME_CHARACTERS: Final = 3  # of a typed part of a name, to be taken for one
ONE_NODE_TEXT: Final = "this app shows one node; start grapevine-tui fleet to see several"
FRAMES_PER_S: Final = 10
FRAMES_PER_REFRESH: Final = 5  # so the node's tables are read twice a second


def is_keylike(line: str) -> bool:
    """Return whether `line` may be meant as a key or a command, not as a broadcast."""
    text = line.strip()
    return text in KEYLIKE_LINES or (len(text) == 1 and text.isascii())


class Undo(NamedTuple):
    """An action that `revert` undoes, offered until `expires_at` (monotonic seconds)."""

    description: str
    revert: Callable[[], Coroutine[Any, Any, None]]
    expires_at: float


class GrapevineApp(ThemedApp):
    """The app over `host`; with `demo`, it also starts and stops the demo's peers. Over a node in another
    process, `own_settings` are those that follow the config file of this user."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(keymap.GLOBAL_KEYS),
        Binding("ctrl+p", "command_palette", "Commands", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = True
    OWN_KEYS: ClassVar[tuple[tuple[str, tuple[keymap.KeyBinding, ...]], ...]] = ()
    """Keys that only this kind of app has, for its help."""

    def __init__(
        self,
        host: HostView,
        settings: SettingsView,
        *,
        demo: DemoView | None = None,
        own_settings: OwnSettingsView | None = None,
    ) -> None:
        super().__init__()
        install_paste_safe_decoder()
        self._host = host
        self._settings = settings
        self._own_settings = own_settings
        self._demo = demo
        self._max_payload_bytes = settings.node.max_message_size
        self._pending_changes = Changes.NONE
        self._frame_count = 0
        self._toasts = Toasts(self, host.model, self._alert)
        self._theme_manager = ThemeManager(self, Preferences(settings.preferences_file))
        self._settings_editor: SettingsEditor | None = None
        self._graceful_shutdown = GracefulShutdown(self, host, demo, self._show_shutdown)
        self._key_sequencer = KeySequencer(self, super().on_event)
        self.gc_controller = GcController()
        self.exporter = Exporter(self, host.model, settings.state_dir)
        self.set_keymap(dict(settings.keys))
        self._own_commands: dict[str, OwnCommand] = {}
        self._bind_own_commands(settings.own_commands)
        self._undo: Undo | None = None
        self._is_state_outdated = False
        self._unconfirmed_line = ""  # a line that was not sent at the first enter
        self.failure: GrapevineError | None = None
        """Why the node could not start, or None."""
        self.highlighter = Highlighter(host.model, parse_highlights(settings.highlights))
        self.main = MainScreen(
            host, settings, self._max_payload_bytes, demo, highlighter=self.highlighter
        )
        self._preferences = Preferences(settings.preferences_file)
        self.main.set_choice(*self._preferences.load_layout())
        self._command_runner = CommandRunner(self, host)
        self._window_title = WindowTitle(self._write_to_terminal)
        self._background: BackgroundQuery | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    def _bind_own_commands(self, own_commands: Iterable[OwnCommand]) -> None:
        """Replace the own commands and their keys."""
        for action in (f"own_command('{name}')" for name in self._own_commands):
            for key, bound in list(self._bindings.key_to_bindings.items()):
                kept = [each for each in bound if each.action != action]
                if kept:
                    self._bindings.key_to_bindings[key] = kept
                else:
                    del self._bindings.key_to_bindings[key]
        self._own_commands = {each.name: each for each in own_commands}
        for each in self._own_commands.values():
            if each.key:
                action = f"own_command('{each.name}')"
                self.bind(each.key, action, description=each.words, show=False)

    def get_key_display(self, binding: Binding) -> str:
        """The key as the footer shows it: its name where its sign would be replaced by another key's."""
        display = super().get_key_display(binding)
        is_replaced = draws_in_ascii() and not display.isascii()
        return binding.key.split(",")[0] if is_replaced else display

    def get_default_screen(self) -> Screen[None]:
        return self.main

    @property
    def is_readonly(self) -> bool:
        """Whether the node is only looked at."""
        return self._host.is_readonly

    def on_mount(self) -> None:
        self._theme_manager.apply(self._settings.theme)
        self._ask_background()
        self._graceful_shutdown.catch_signals()
        self._stop_listening = self._host.listen(self._on_node_event)
        self.set_interval(1 / FRAMES_PER_S, self.tick)
        self.run_worker(self._start(), exit_on_error=True)
        self.run_worker(self._command_runner.run(), exit_on_error=True)

    def watch_theme(self, theme: str) -> None:
        """Remember a theme chosen on the screen."""
        self._theme_manager.on_changed(theme, self._settings.theme)

    def on_ready(self) -> None:
        self._update_window_title()
        if not self.is_headless:  # a test runs many apps in one process and must free each
            self.gc_controller.freeze()

    async def on_unmount(self) -> None:
        self._window_title.restore()
        self._stop_listening()
        if self._background is not None:
            self._background.drop()
        # Also reached after an error, before the node has left.
        if not self._graceful_shutdown.is_done and self._host.model.local_node is not None:
            await self._graceful_shutdown.leave()

    def _ask_background(self) -> None:
        # Only the Unix driver has `input_tty` and decodes with `PasteSafeDecoder`, which handles the answer.
        can_answer = self._has_terminal and getattr(self._driver, "input_tty", False)
        if can_answer and self._theme_manager.is_default:
            answered = partial(self.call_later, self._theme_manager.on_background)
            self._background = BackgroundQuery(self._write_to_terminal, answered)

    def _alert(self, text: str) -> None:
        """Alert the operator with printable `text`, as the `alert` setting says."""
        self.alert_operator(self._settings.alert, text)

    def _update_window_title(self) -> None:
        if self._has_terminal:
            alert_count = len(self._host.model.audible_alerts)
            self._window_title.show(self.main.status.node_name, alert_count)

    # Keys

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            await self._key_sequencer.enqueue(event)
        else:
            await super().on_event(event)

    def on_app_focus(self) -> None:
        # In a browser the app starts without the focus, so no widget has it yet.
        if self.main.is_mounted and self.main.focused is None:
            self.call_later(self.main.set_focus, self.main.current_panel())

    async def on_key_handled(self, message: KeyHandled) -> None:
        await self._key_sequencer.on_key_handled(message)

    # The node

    async def _start(self) -> None:
        try:
            if self._demo is not None:
                await self._demo.start()
            if self._host.model.local_node is None:
                await self._host.start()
        except GrapevineError as error:
            self.failure = error
            self._graceful_shutdown.is_done = True
            self.exit(return_code=1)
        self._pending_changes |= Changes.STATUS

    def _on_node_event(self, event: Event, changes: Changes) -> None:
        self._pending_changes |= changes
        if self._command_runner.pending_dial:
            self._command_runner.on_event(event)

    def tick(self) -> None:
        """Repaint what changed; every `FRAMES_PER_REFRESH` frames, refresh the model. Called by a timer."""
        self._frame_count += 1
        is_refresh_due = self._frame_count % FRAMES_PER_REFRESH == 0
        if (
            is_refresh_due
            and self._host.model.local_node is not None
            and not self._graceful_shutdown.is_done
        ):
            with suppress(GrapevineError):  # the node stopped by itself; keep the last state
                self._pending_changes |= self._host.refresh()
        if Changes.STATE in self._pending_changes:
            self._is_state_outdated = True
        if is_refresh_due:
            self._fetch_state_if_shown()
        if consume_repaint_request():
            self.refresh()
        changes, self._pending_changes = self._pending_changes, Changes.NONE
        if changes:
            self.main.update_panels(changes)
        if Changes.NOTICES in changes:
            self._toasts.show()
        if is_refresh_due:
            is_outdated = (
                bool(self._host.model.outdated_since) and not self._graceful_shutdown.is_requested
            )
            if is_outdated != self.has_class("-outdated"):
                self.set_class(is_outdated, "-outdated")
                for screen in self.screen_stack:
                    screen.set_class(is_outdated, "-outdated")
            self.main.tick()
            self._update_window_title()
            self.gc_controller.collect_if_due(is_main_in_front=len(self.screen_stack) == 1)

    # The end

    def _show_shutdown(self) -> None:
        self.main.status.is_leaving = True
        self.main.status.refresh()

    async def action_quit(self) -> None:
        """Go back from a screen in front; on the main screen quit, with a confirmation if needed."""
        screen = self.screen
        if self._graceful_shutdown.is_requested:
            self._graceful_shutdown.request()
        elif screen is self.main:
            self.confirm_leave()
        elif not screen.is_modal:
            await screen.run_action("back")

    def action_help_quit(self) -> None:
        """Quit from any screen, with a confirmation if needed (Ctrl+C)."""
        if self._graceful_shutdown.is_requested:
            self._graceful_shutdown.request()
        elif not self.screen.is_modal:
            self.confirm_leave()

    def confirm_leave(self) -> None:
        """Quit; if peers are connected or something would be lost, only after a confirmation."""
        facts = self._leave_consequences()
        if not facts:
            self.request_shutdown()
            return

        def on_answer(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.request_shutdown()

        is_remote = self._host.model.is_remote
        title = "Detach?" if is_remote else "Leave the cluster?"
        yes = "Detach" if is_remote else "Leave"
        self.push_screen(ConfirmScreen(title, facts, yes=yes, no="Stay"), on_answer)

    def request_shutdown(self) -> None:
        """Leave the cluster and exit without a confirmation; a second call exits at once."""
        self._graceful_shutdown.request()

    def _leave_consequences(self) -> list[Fact]:
        """Return what quitting disconnects or discards; empty if nothing."""
        model, facts = self._host.model, []
        connected = sum(peer.state.is_connected for peer in model.peers.values())
        is_own_node = not model.is_remote and self._demo is None and not model.stop_reason
        if connected and is_own_node:
            peers = f"{connected:,} peer{'s' * (connected != 1)}"
            facts.append(Fact("connected", f"to {peers}; this node leaves the cluster and stops"))
        if self._settings_editor is not None and self._settings_editor.pending:
            facts.append(Fact("not saved", ", ".join(self._settings_editor.pending), "warn"))
        draft = self.main.compose_box.draft.text.strip()
        if draft:
            facts.append(Fact("not sent", truncate(printable(draft), DRAFT_PREVIEW_CELLS), "warn"))
        return facts

    def key_label(self, action: str) -> str:
        """Return the current label of the quit key; "" for the default one."""
        if action == "quit" and self.screen is not self.main:
            return "Back"
        is_attached = self._host.model.is_remote and self._host.playback is None
        return "Detach" if action == "quit" and is_attached else ""

    # Typed lines

    def on_draft_submitted(self, message: Draft.Submitted) -> None:
        line = message.line
        box = self.main.compose_box
        box.unstash()
        is_repeated = line == self._unconfirmed_line
        self._unconfirmed_line = ""
        write_key = self._settings.keys.get("write", "i")
        is_first, box.is_opened_by_key = box.is_opened_by_key, False
        if (command := intended_command(line, write_key)) and not is_repeated:
            self._unconfirmed_line = line
            name = command.split(" ", 1)[0]
            box.restore(command)
            box.show_feedback(
                f"not sent: Enter runs {name}; Up, Enter sends the line as it was", is_error=True
            )
        elif is_keylike(line) and not is_repeated:
            self._unconfirmed_line = line
            box.show_feedback(
                f"{line.strip()!r} was not sent: it looks like a key; Enter sends it", is_error=True
            )
            box.restore(line)
        elif is_first and not is_repeated and self._is_part_of_name(write_key + line.strip()):
            self._unconfirmed_line = line
            box.show_feedback(
                f"not sent: {write_key + line.strip()!r} is a part of a name; Enter sends {line!r}",
                is_error=True,
            )
            box.restore(line)
        elif line.strip():
            self._command_runner.enqueue(line)

    def _is_part_of_name(self, text: str) -> bool:
        """Whether somebody who looks for a node types `text`, where it is searched for."""
        model = self._host.model
        tables: tuple[Mapping[PeerId, PeerInfo | MemberInfo], ...] = (model.peers, model.members)
        names = (each.name.lower() for table in tables for each in table.values())
        return len(text) >= MIN_NAME_CHARACTERS and any(text.lower() in name for name in names)

    # Screens in front

    def _bring_to_front(self, screen: Screen[None]) -> None:
        """Show a screen from anywhere. If one of its name is open, go back to that, so that screens never
        pile up."""
        if self.screen.is_modal:  # the confirmation must be answered first
            return
        screen_names = [each.name for each in self.screen_stack]
        if screen.name not in screen_names:
            self.push_screen(screen)
            return
        while self.screen.name != screen.name:
            self.pop_screen()

    def on_grid_row_selected(self, message: Grid.RowSelected) -> None:
        key = message.key
        peer_id = key[1] if isinstance(key, tuple) else key
        if isinstance(peer_id, PeerId):
            self._bring_to_front(NodeScreen(self._host.model, peer_id))

    def on_node_screen_events_requested(self, message: NodeScreen.EventsRequested) -> None:
        self.run_worker(self._fetch_node_events(message.screen), exit_on_error=True)

    async def _fetch_node_events(self, screen: NodeScreen) -> None:
        with suppress(GrapevineError):  # no history, or no node: there are no events to show
            reply = await self._host.search_events(f"id:{screen.peer_id}", limit=MAX_EVENTS)
            if screen.is_mounted:
                screen.show_events(reply["events"])

    def on_message_log_message_selected(self, message: MessageLog.MessageSelected) -> None:
        entry = message.entry
        text = payload_text(entry.message.payload)
        self._bring_to_front(MessageScreen(self._host.model, entry, text, message.size_bytes))

    # The past

    def action_events(self) -> None:
        """Show what happened, and why."""
        self.show_past(EventsScreen())

    def action_history(self) -> None:
        """Show the messages of the past that the filter of the log matches."""
        words = self.main.log_view.filter_query.text if self.screen is self.main else ""
        self.show_past(self.history_screen(words))

    def history_screen(self, words: str, around: int | None = None) -> HistoryScreen:
        """A screen of the messages of the past, with the columns of the settings."""
        return HistoryScreen(words, around, self._settings.columns_by_table["messages"])

    def show_past(self, screen: PastScreen) -> None:
        """Show a stretch of the past, in place of one of its kind."""
        screen.highlighter = self.highlighter
        self._replace_in_front(screen)

    def _replace_in_front(self, screen: Screen[None]) -> None:
        """Show a screen in place of one of its name."""
        if screen.name in [each.name for each in self.screen_stack] and not self.screen.is_modal:
            while self.screen.name != screen.name:
                self.pop_screen()
            self.pop_screen()
        self._bring_to_front(screen)

    def on_message_log_older_requested(self, message: MessageLog.OlderRequested) -> None:
        words = self.main.log_view.filter_query.text
        self.show_past(self.history_screen(words, to_key(message.before)))

    def on_main_screen_history_requested(self, message: MainScreen.HistoryRequested) -> None:
        around = None if message.around is None else to_key(message.around)
        self.show_past(self.history_screen(message.words, around))

    def on_past_screen_page_requested(self, message: PastScreen.PageRequested) -> None:
        self.run_worker(self._fetch_page(message), exit_on_error=True)

    async def _fetch_page(self, message: PastScreen.PageRequested) -> None:
        screen = message.screen
        is_events = screen.KIND == EventsScreen.KIND
        search = self._host.search_events if is_events else self._host.search_history
        try:
            reply = await search(**message.fields)
        except GrapevineError as error:
            screen.show_error(message.serial, str(error))
        else:
            screen.show_page(message.serial, reply)

    # Highlights

    async def set_highlight(self, name: str, words: str, *, saves: bool) -> None:
        """Let what matches `words` stand out, and save it if `saves`. Raises GrapevineError."""
        parse_highlights({name: words})  # before anything is changed
        await self._change_highlights(self._highlight_words() | {name: words}, saves=saves)
        self._report_done(f"highlight {name} {words}{' --save' * saves}")

    async def remove_highlight(self, name: str, *, saves: bool) -> None:
        """Remove a highlight, and from the config file if `saves`. Raises GrapevineError."""
        words = self._highlight_words()
        if words.pop(name, None) is None:
            hint = suggest_command(name, words)
            known = ", ".join(words) or "none"
            raise CommandError(f"no highlight {name!r:.80}; {hint or f'there are: {known}'}")
        await self._change_highlights(words, saves=saves)
        self._report_done(f"unhighlight {name}{' --save' * saves}")

    def _highlight_words(self) -> dict[str, str]:
        return {name: each.query.text for name, each in self.highlighter.highlights.items()}

    async def _change_highlights(self, words: dict[str, str], *, saves: bool) -> None:
        highlights = parse_highlights(words)
        if saves and self._host.model.is_remote:
            self._save_own("app.highlights", format_value(words))
        elif saves:
            await self.set_settings((("app.highlights", format_value(words)),))
        self._show_highlights(highlights)

    def _save_own(self, name: str, text: str) -> None:
        """Write a setting to the config file of this user. Raises GrapevineError."""
        if self._own_settings is None:
            raise CommandError(f"not saved: change [{name}] in the config file")
        try:
            result = self._own_settings.save(name, text)
        except OSError as error:
            raise CommandError(f"not saved: {error.strerror or error}") from None
        self.notify(printable(format_save_result(result)), timeout=10, markup=False)
        self._show_settings(self._own_settings.for_node(self._settings.node))

    def _show_highlights(self, highlights: tuple[Highlight, ...]) -> None:
        self.highlighter.replace(highlights)
        self.main.log_view.refresh()
        for screen in self.screen_stack:
            if isinstance(screen, PastScreen):
                screen.refresh_marks()

    def confirm_prune(self, before: str) -> None:
        """Delete the history before that time, after a confirmation: it cannot be undone."""
        what = f"messages and events older than {before}" if before else "what is beyond the limits"
        details = [Fact("deletes", printable(what)), Fact("undo", "not possible", "warn")]

        async def prune() -> None:
            deleted = (await self._host.prune_history(before))["deleted"]
            self._report_done(f"history_prune {before}: {deleted:,} messages and events deleted")

        self._confirm(ConfirmScreen("Delete history?", details, yes="Delete"), prune)

    def action_alerts(self) -> None:
        """Show the alerts and how they stand."""
        self._bring_to_front(AlertsScreen(self._host.model))

    async def on_alerts_screen_mute_requested(self, message: AlertsScreen.MuteRequested) -> None:
        await self._await_or_notify(self.set_muted(message.name, is_muted=not message.is_muted))

    async def set_muted(self, name: str, for_s: int | None = None, *, is_muted: bool) -> None:
        """Mute an alert, for `for_s` seconds or until it is unmuted, or unmute it. Raises GrapevineError."""
        if self.is_readonly:
            raise ReadOnly(REFUSED_TEXT)
        await self._mute(name, for_s, is_muted=is_muted)
        how_long = "" if for_s is None else f" for {format_age(for_s)}"
        description = f"{'mute' if is_muted else 'unmute'} {name}{how_long}"
        self._report_done(description, undo=partial(self._mute, name, None, is_muted=not is_muted))

    async def _mute(self, name: str, for_s: int | None, *, is_muted: bool) -> None:
        await (self._host.mute(name, for_s) if is_muted else self._host.unmute(name))
        self._pending_changes |= self._host.refresh()
        if isinstance(self.screen, AlertsScreen):
            self.screen.show()

    def action_members(self) -> None:
        """Show all members, connected or not."""
        self._bring_to_front(self._members_screen())

    def _members_screen(
        self, filter_text: str = "", selected: PeerId | None = None
    ) -> MembersScreen:
        names = self._settings.columns_by_table["members"]
        return MembersScreen(self._host.model, filter_text, names, selected)

    def show_members(self, filter_text: str) -> None:
        """Show the members that match a filter."""
        self._bring_to_front(self._members_screen(filter_text))

    def action_state(self) -> None:
        """Show the keyed state."""
        self.show_state("")

    def show_state(self, prefix: str) -> None:
        """Show the keys that begin with `prefix`."""
        self._host.model.state = StateView()
        self._bring_to_front(StateScreen(self._host.model, prefix))
        self._is_state_outdated = True
        self._fetch_state_if_shown()

    def _fetch_state_if_shown(self) -> None:
        screen = next((each for each in self.screen_stack if isinstance(each, StateScreen)), None)
        if screen is not None and self._is_state_outdated:
            self._is_state_outdated = False
            self.run_worker(self._fetch_state(screen), exit_on_error=True)

    async def _fetch_state(self, screen: StateScreen) -> None:
        with suppress(GrapevineError):  # the node is gone: the screen says so, what it shows stays
            reply = await self._host.state(AccessState("list", screen.prefix))
            self._host.model.state = StateView(reply["keys"], reply["more"], time.time())
            if screen.is_mounted:
                screen.show()

    def on_state_screen_entry_selected(self, message: StateScreen.EntrySelected) -> None:
        model, key, owner = self._host.model, message.key, message.owner

        def get_facts() -> list[Fact] | None:
            return entry_facts(model, model.state, key, owner)

        value = entry_text(model.state, key, owner)
        self._bring_to_front(DetailScreen("Entry", get_facts, copy_texts=(value, printable(key))))

    def action_topology(self) -> None:
        """Show zones, members and their links."""
        self.show_network(ShowTopology())

    def action_matrix(self) -> None:
        """Show the round-trip times between all members."""
        self.show_network(ShowMatrix())

    def show_network(self, view: ShowMatrix | ShowTopology | ShowHolders) -> None:
        """Ask the members and show a view of the whole network, in place of one of its kind."""
        model = self._host.model
        match view:
            case ShowMatrix():
                screen: NetworkScreen = MatrixScreen(model)
            case ShowTopology(message):
                screen = TopologyScreen(model, message)
            case ShowHolders():
                screen = HoldersScreen(model, view)
            case _:
                assert_never(view)
        self._replace_in_front(screen)

    def on_network_screen_asked(self, message: NetworkScreen.Asked) -> None:
        self.run_worker(self._ask_network(message), exit_on_error=True)

    async def _ask_network(self, message: NetworkScreen.Asked) -> None:
        try:
            reply = await self._host.network(message.view)
        except GrapevineError as error:
            message.screen.show_error(str(error))
        else:
            message.screen.show_reply(reply)

    def action_traces(self) -> None:
        """Show the latest traces."""
        self._bring_to_front(TraceScreen(self._host.model))

    def on_trace_screen_new_trace_requested(self) -> None:
        self._begin_command("trace")

    def _return_to_main(self) -> None:
        while self.screen is not self.main:
            self.pop_screen()

    def _begin_command(self, name: str) -> None:
        """Begin a slash command in the compose box, for the user to complete."""
        self._return_to_main()
        self.main.leave_wall()
        if self.main.compose_box.display:
            self.main.compose_box.begin_command(name)
        else:
            self.notify(f"the window is too small to type /{name}", markup=False)

    def action_traffic(self) -> None:
        """Show traffic over 1 min, 15 min or 3 h."""
        self._bring_to_front(TrafficScreen(self._host.model))

    async def action_settings(self) -> None:
        """Show and edit the settings."""
        try:
            editor = await self._open_settings_editor()
        except GrapevineError as error:
            self.notify(printable(str(error)), severity="warning", markup=False)
        else:
            self._bring_to_front(SettingsScreen(editor))

    async def _open_settings_editor(self) -> SettingsEditor:
        if self._settings_editor is not None and self._settings_editor.pending:
            return self._settings_editor  # edits are only discarded after a confirmation
        self._settings_editor = await self._host.edit()
        return self._settings_editor

    def on_settings_screen_applied(self, message: SettingsScreen.Applied) -> None:
        self._host.model.log_command("settings saved")
        self._apply_settings(message.settings)

    async def set_settings(self, changes: tuple[tuple[str, str], ...]) -> None:
        """Apply and save all of `changes`, or none. Raises GrapevineError."""
        editor = await self._open_settings_editor()
        if editor.pending:
            raise CommandError(
                "the settings screen has unsaved changes; save or discard them first"
            )
        try:
            for name, text in changes:
                editor.set_value(name, text)
        except GrapevineError:
            editor.discard()
            raise
        if not editor.pending:
            self.notify("no changes", markup=False)
            return
        try:
            result = await editor.save_async()
        except OSError as error:  # applied, and still pending in the settings screen
            raise CommandError(f"not saved: {error.strerror or error}") from None
        self._host.model.log_command(f"set_settings {', '.join(name for name, _ in changes)}")
        self.notify(printable(format_save_result(result)), timeout=10, markup=False)
        self._apply_settings(editor.settings)

    async def reload(self) -> None:
        """Have the node read its settings and keys again, and this user's own. Raises GrapevineError."""
        if self._own_settings is not None:
            self._own_settings.reload()
            self._show_settings(self._own_settings.for_node(self._settings.node))
            if self.is_readonly:
                self.notify(
                    "reloaded the settings of this app, not those of the node", markup=False
                )
                return
        elif self.is_readonly:
            raise ReadOnly(REFUSED_TEXT)
        try:
            pending_restart = await self._host.reload()
        except OSError as error:
            raise CommandError(f"not reloaded: {error.strerror or error}") from None
        if not self._host.model.is_remote:
            self._apply_settings((await self._host.edit()).settings)
        note = f"; restart needed for: {', '.join(pending_restart)}" if pending_restart else ""
        self._host.model.log_command("reload")
        self.notify(printable(f"reloaded{note}"), markup=False)

    def _apply_settings(self, settings: Settings) -> None:
        """Bring the app in line with `settings`, which the node has already."""
        self._host.on_settings_saved(settings)
        if self._host.model.is_remote:  # theme, keys and log level are local to this app
            self.main.apply_config(settings.node)
            return
        self.use_settings(settings)

    def use_settings(self, settings: Settings) -> None:
        """Go by `settings`, those of the node in this process, from now on."""
        self._host.model.messages.set_limit(settings.messages)
        set_level(settings.log_level)
        self._show_settings(settings)
        self.main.apply_config(settings.node)

    def _show_settings(self, settings: SettingsView) -> None:
        """Show what `settings` say of the screen."""
        if settings.highlights != self._settings.highlights:  # else those added since stay
            self._show_highlights(parse_highlights(settings.highlights))
        self._settings = settings
        self._bind_own_commands(settings.own_commands)
        self.main.apply_app_settings(settings)
        for screen in self.screen_stack:
            if isinstance(screen, MembersScreen):
                screen.set_columns(settings.columns_by_table["members"])
        self.set_keymap(dict(settings.keys))
        if settings.theme and settings.theme != self.theme:
            self._theme_manager.apply(settings.theme)

    def action_status(self) -> None:
        """Show this node's status and every counter."""
        get_facts = partial(facts.status_facts, self._host.model)
        self._bring_to_front(DetailScreen("Status", get_facts, has_columns=True))

    def action_queries(self) -> None:
        """Show the latest queries and their answers."""
        self._bring_to_front(QueriesScreen(self._host.model))

    def on_queries_screen_new_query_requested(self) -> None:
        self._begin_command("query")

    def on_query_ended(self, entry: QueryEntry) -> None:
        """Tell of a query that took so long that the operator may look elsewhere."""
        if isinstance(self.screen, QueriesScreen):
            self.screen.show()
        else:
            self.notify(
                printable(f"{entry.line}: {query_outcome(entry)}; /queries shows the answers"),
                timeout=UNDO_WINDOW_S,
                markup=False,
            )

    def action_help(self) -> None:
        """Show every key and every command."""
        is_attached = self._host.model.is_remote
        is_replay = self._host.playback is not None
        get_facts = partial(
            help_facts,
            self,
            self._settings.keys,
            is_attached=is_attached,
            is_replay=is_replay,
            own_commands=tuple(self._own_commands.values()),
            own=self.OWN_KEYS,
        )
        self._bring_to_front(DetailScreen("Help", get_facts, has_columns=True))

    # Actions on one node or message

    def _address_of(self, peer_id: PeerId) -> str:
        model = self._host.model
        node = model.peers.get(peer_id) or model.members.get(peer_id)
        return str(node.address) if node is not None and node.address else ""

    async def on_peer_grid_action_requested(self, message: PeerGrid.ActionRequested) -> None:
        peer_id = message.peer_id
        address = self._address_of(peer_id)
        match message.action:
            case PeerAction.SEND:
                self._return_to_main()
                self.main.compose_box.begin_send(facts.addressable_name(self._host.model, peer_id))
            case PeerAction.REDIAL | PeerAction.COPY if not address:
                self.notify("the address of this node is not known", markup=False)
            case PeerAction.REDIAL:
                self._redial(address)
            case PeerAction.FORGET:
                self._confirm_forget(peer_id)
            case PeerAction.DENY if peer_id in self._host.model.denied:
                await self._await_or_notify(self.allow(str(peer_id)))
            case PeerAction.DENY:
                self._confirm_deny(peer_id, facts.addressable_name(self._host.model, peer_id))
            case PeerAction.FOLLOW:
                self._follow_author(peer_id)
            case PeerAction.COPY:
                self.exporter.copy(address)
            case PeerAction.COPY_ID:
                self.exporter.copy(str(peer_id))
            case _:
                assert_never(message.action)

    def follow(self, identity: str) -> None:
        """Show only the messages of the node that `identity` names. Raises UnknownPeer."""
        peer_id = facts.resolve_node(self._host.model, identity)
        if peer_id is None:
            raise UnknownPeer(f"no single node is named {printable(identity)!r}")
        self._follow_author(peer_id)

    def _follow_author(self, peer_id: PeerId) -> None:
        self._return_to_main()
        self.main.follow_author(facts.author_term(self._host.model, peer_id))

    def sort_table(self, column: str) -> None:
        """Sort the table that has the focus, or had it last. Raises CommandError."""
        table = self._current_table("sort")
        if not column:
            table.action_sort()
        elif not table.sort_by_title(column):
            titles = ", ".join(table.sortable_titles)
            raise CommandError(f"no column is named {printable(column)!r}; columns: {titles}")

    def action_own_command(self, name: str) -> None:
        """Run an own command; if it cannot run on the selected row, say why."""
        try:
            self.run_own_command(name)
        except GrapevineError as error:
            self.notify(printable(str(error)), severity="warning", markup=False)

    def run_own_command(self, name: str) -> None:
        """Run the own command `name` on the selected row and show its output. Raises GrapevineError."""
        command = self._own_commands.get(name)
        if command is None:
            hint = suggest_command(name, self._own_commands)
            known = ", ".join(self._own_commands) or "none (setting app.commands)"
            raise CommandError(f"no own command {name!r:.80}; {hint or f'there are: {known}'}")
        if not self.screen.is_modal:
            row = self._selected_row() | self.context_fields
            run = OwnCommandRun(command, row, is_readonly=self.is_readonly)
            self._host.model.log_command(f"run {shlex.join(run.argv)}")
            self._replace_in_front(OutputScreen(run))

    @property
    def context_fields(self) -> dict[str, Any]:
        """The fields of a row that say which context it is of; none where there is only one."""
        return {}

    def show_context(self, name: str) -> None:
        """Show another context. Raises CommandError: only an app over several can."""
        raise CommandError(ONE_NODE_TEXT)

    def mute_context(self, name: str) -> None:
        """Mute or unmute the alerts of a context. Raises CommandError: only an app over several can."""
        raise CommandError(ONE_NODE_TEXT)

    def show_fleet(self, table: str) -> None:
        """Show a table over all contexts. Raises CommandError: only an app over several can."""
        raise CommandError(ONE_NODE_TEXT)

    def _selected_row(self) -> dict[str, Any]:
        """The fields of the selected peer, member or message; empty if there is none."""
        screen, model = self.screen, self._host.model
        panel = self.main.current_panel() if screen is self.main else screen.focused
        if isinstance(screen, NodeScreen):
            return node_row(model, screen.peer_id)
        if isinstance(screen, MessageScreen):
            return message_row(model, screen.message)
        if isinstance(panel, MessageLog):
            entry = panel.cursor_entry
            return {} if entry is None else message_row(model, entry.message)
        key = panel.cursor_key if isinstance(panel, Grid) else None
        peer_id = key[1] if isinstance(key, tuple) else key
        return node_row(model, peer_id) if isinstance(peer_id, PeerId) else {}

    def on_main_screen_boxes_changed(self, message: MainScreen.BoxesChanged) -> None:
        try:
            self._preferences.save_layout(*message.choice)
        except OSError as error:
            text = f"layout not saved: {error.strerror or error}"
            self.notify(printable(text), severity="warning", markup=False)

    def _redial(self, address: str) -> None:
        self._command_runner.enqueue(f"/dial {address}")
        if self.screen is not self.main:  # the outcome is shown on the main screen only
            connected_name = self._command_runner.connected_peer_at(address)
            text = (
                f"already connected to {connected_name}" if connected_name else f"dialing {address}"
            )
            self.notify(printable(text), markup=False)

    # Deny, allow and forget: confirmed first, with an undo where possible

    async def deny(self, identity: str, for_s: int | None = None) -> None:
        """Deny the node that `identity` names, for `for_s` seconds or until the restart, after a
        confirmation. Raises UnknownPeer if it names none or several."""
        model = self._host.model
        peer_id = facts.resolve_node(model, identity)
        if peer_id is None or (
            model.local_node is not None and peer_id == model.local_node.peer_id
        ):
            await self._deny(identity, for_s)  # raises with the node's own error message
        else:
            self._confirm_deny(peer_id, identity, for_s)

    async def allow(self, identity: str) -> None:
        """Allow a denied node again. Raises UnknownPeer."""
        peer_id = await self._host.allow(identity)
        model = self._host.model
        model.denied -= {peer_id}
        self._pending_changes |= Changes.PEERS | Changes.MEMBERS
        self._report_done(f"allow {model.name_of(peer_id)} ({peer_id.short}…)")

    async def forget(self, identity: str) -> None:
        """Forget the node that `identity` names, after a confirmation. Raises UnknownPeer."""
        peer_id = facts.resolve_node(self._host.model, identity)
        if peer_id is None:
            raise UnknownPeer(f"no single node is named {printable(identity)!r}")
        self._confirm_forget(peer_id)

    def _confirm_deny(self, peer_id: PeerId, identity: str, for_s: int | None = None) -> None:
        details = facts.deny_facts(self._host.model, peer_id, for_s)
        milder = f"Deny for {format_age(SHORT_DENY_S)}" if for_s is None else ""
        question = ConfirmScreen("Deny this node?", details, yes="Deny", milder=milder)

        def deny() -> Coroutine[Any, Any, None]:
            return self._deny(identity, SHORT_DENY_S if question.is_milder else for_s)

        self._confirm(question, deny)

    def _confirm_forget(self, peer_id: PeerId) -> None:
        details = facts.forget_facts(self._host.model, peer_id)
        self._confirm(
            ConfirmScreen("Forget this node?", details, yes="Forget"), lambda: self._forget(peer_id)
        )

    def _confirm(
        self, confirm_screen: ConfirmScreen, action: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Run `action` if the user confirms. In a read-only app nothing is asked, for it would be refused."""
        if self.is_readonly:
            self.notify(REFUSED_TEXT, severity="warning", markup=False)
            return

        def on_answer(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.run_worker(self._await_or_notify(action()), exit_on_error=True)

        if not self.screen.is_modal:
            self.push_screen(confirm_screen, on_answer)

    async def _await_or_notify(self, action: Coroutine[Any, Any, None]) -> None:
        try:
            await action
        except GrapevineError as error:
            self.notify(printable(str(error)), severity="warning", markup=False)

    async def _deny(self, identity: str, for_s: int | None = None) -> None:
        peer_id = await self._host.deny(identity, for_s)
        model = self._host.model
        model.denied |= {peer_id}
        self._pending_changes |= Changes.PEERS | Changes.MEMBERS

        async def undo_deny() -> None:
            try:
                await self.allow(str(peer_id))
            except UnknownPeer:
                await self.allow(identity)

        how_long = "" if for_s is None else f" for {format_age(for_s)}"
        name = model.name_of(peer_id)
        self._report_done(f"deny {name} ({peer_id.short}…){how_long}", undo=undo_deny)

    async def _forget(self, peer_id: PeerId) -> None:
        name = self._host.model.name_of(peer_id)
        try:
            await self._host.forget(peer_id)
        except GrapevineError as error:
            text = printable(f"{name}: {error}")
            self.notify(text, severity="warning", markup=False)
        else:
            self._pending_changes |= self._host.refresh()
            self._report_done(f"forget {name} ({peer_id.short}…)")

    def _report_done(
        self, description: str, *, undo: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        """Report an action in the command log and in a toast. `undo` is offered for `UNDO_WINDOW_S`."""
        self._host.model.log_command(description)
        self._undo = (
            None if undo is None else Undo(description, undo, time.monotonic() + UNDO_WINDOW_S)
        )
        key = self._settings.keys.get("undo", "u")
        hint = f"; {key} undoes it for {UNDO_WINDOW_S:.0f} s" if undo is not None else ""
        self.notify(printable(f"done: {description}{hint}"), timeout=UNDO_WINDOW_S, markup=False)

    async def action_undo(self) -> None:
        """Undo the last action, if it can be undone and is at most `UNDO_WINDOW_S` old."""
        undo, self._undo = self._undo, None
        if undo is None or time.monotonic() > undo.expires_at:
            self.notify("nothing to undo", markup=False)
        else:
            self._host.model.log_command(f"undo: {undo.description}")
            await self._await_or_notify(undo.revert())

    def on_settings_screen_edits_discarded(self, message: SettingsScreen.EditsDiscarded) -> None:
        editor, edits = message.editor, message.edits

        async def restore_edits() -> None:
            editor.restore(edits)
            self._settings_editor = editor
            self.notify("the changes are back, unsaved: see the settings", markup=False)

        self._report_done(f"discard changes of {', '.join(edits)}", undo=restore_edits)

    async def run_screen_action(self, action: ScreenAction) -> None:
        """Run a command that acts on the main screen. Raises CommandError."""
        main_screen = self.main
        match action:
            case ScreenAction.RATES | ScreenAction.MESSAGES:
                main_screen.action_panel("rates" if action is ScreenAction.RATES else "log")
            case ScreenAction.TRAFFIC:
                self.action_traffic()
            case ScreenAction.QUERIES:
                self.action_queries()
            case ScreenAction.PAUSE:
                main_screen.action_pause()
            case ScreenAction.ZOOM:
                main_screen.action_zoom()
            case ScreenAction.EXPORT:
                await self.on_message_log_export_requested()
            case ScreenAction.SCREENSHOT:
                self.action_save_screenshot()
            case ScreenAction.THEME:
                self.action_change_theme()
            case ScreenAction.UNDO:
                await self.action_undo()
            case ScreenAction.REDIAL:
                await self._act_on_selected_peer(PeerAction.REDIAL)
            case ScreenAction.COPY | ScreenAction.COPY_ID:
                await self._copy_selected(action)
            case ScreenAction.REVERSE:
                self._current_table(action.value).action_reverse()
            case _:
                assert_never(action)

    # These act at once, although the cursor of a panel without the focus is not drawn: the
    # notification names what was copied or dialed.

    async def _copy_selected(
        self, action: Literal[ScreenAction.COPY, ScreenAction.COPY_ID]
    ) -> None:
        panel = self.main.current_panel()
        if isinstance(panel, PeerGrid):
            await self._act_on_selected_peer(PeerAction(action.value))
        elif not isinstance(panel, MessageLog):
            raise CommandError(f"/{action.value} works on peers and messages")
        elif panel.cursor_entry is not None:
            request = MessageLog.ActionRequested(MessageAction(action.value), panel.cursor_entry)
            self.on_message_log_action_requested(request)

    async def _act_on_selected_peer(self, action: PeerAction) -> None:
        panel = self.main.current_panel()
        if not isinstance(panel, PeerGrid):
            raise CommandError(f"/{action.value} works on peers; go to the panel first: /peers")
        if isinstance(panel.cursor_key, PeerId):
            await self.on_peer_grid_action_requested(
                PeerGrid.ActionRequested(action, panel.cursor_key)
            )

    def _current_table(self, command: str) -> Grid:
        panel = self.main.current_panel()
        if not isinstance(panel, Grid):
            raise CommandError(f"/{command} works on tables; messages keep their order")
        return panel

    def on_message_log_action_requested(self, message: MessageLog.ActionRequested) -> None:
        selected = message.entry.message
        match message.action:
            case MessageAction.COPY:
                self.exporter.copy(payload_text(selected.payload))
            case MessageAction.COPY_ID:
                self.exporter.copy(str(selected.id))
            case MessageAction.FOLLOW:
                self._follow_author(selected.origin)
            case MessageAction.HAS:
                self._show_holders(selected)
            case _:
                assert_never(message.action)

    def _show_holders(self, message: Message) -> None:
        if message.is_direct:
            self.notify("a direct message is at its recipient only", markup=False)
        else:
            self.show_network(ShowHolders(str(message.id)))

    def on_detail_screen_copy_requested(self, message: DetailScreen.CopyRequested) -> None:
        if message.text:
            self.exporter.copy(message.text)

    async def on_message_log_export_requested(self) -> None:
        log = self.main.log_view
        await self.exporter.export(log.filtered_entries(), log.filter_query.text)

    def action_save_screenshot(self) -> None:
        """Save a screenshot as SVG."""
        self.exporter.save_screenshot()

    def get_system_commands(self, screen: Screen[object]) -> Iterator[SystemCommand]:
        """The palette: every command of the registry, then the keys that only move the view.

        A command that has a key here acts as its key does. Any other runs as if it were typed; one
        that needs arguments is begun in the compose box.
        """
        nodes: list[App[None] | Screen[object] | Widget] = [self, screen]
        if screen is self.main:
            nodes.append(self.main.current_panel())
        elif screen.focused is not None:
            nodes.append(screen.focused)
        commands = commands_by_name(Surface.PALETTE)
        view_actions, keyed_actions = [], {}
        for each in available_actions(nodes, self._settings.keys):
            if each.name in keymap.VIEW_KEYS or each.name not in commands:
                view_actions.append(each)
            else:
                keyed_actions[commands[each.name].name] = each
        for spec in commands_on(Surface.PALETTE):
            title = f"{spec.title} ({', '.join(spec.aliases)})" if spec.aliases else spec.title
            help_text = command_help(spec, is_attached=self._host.model.is_remote)
            keyed = keyed_actions.get(spec.name)
            if keyed is None:
                yield SystemCommand(title, help_text, partial(self._run_command, spec))
            else:
                text = keyed.label if keyed.is_relabeled else help_text
                yield SystemCommand(title, f"{text} · {self._keys_of(keyed)}", self._runner(keyed))
        for own in self._own_commands.values():
            key = f" · key {own.key}" if own.key else ""
            action = partial(self.action_own_command, own.name)
            yield SystemCommand(own.words, f"/run {own.name}{key}", action)
        for each in view_actions:
            yield SystemCommand(each.label, self._keys_of(each), self._runner(each))

    def _keys_of(self, action: AvailableAction[Any]) -> str:
        return f"key {' '.join(map(self.get_key_display, action.bindings))}"

    def _runner(self, action: AvailableAction[Any]) -> Callable[[], Any]:
        return partial(self.run_action, action.bindings[0].action, action.node)

    def _run_command(self, spec: CommandSpec) -> None:
        if spec.needs_arguments:
            self._begin_command(spec.name)
        else:
            self._return_to_main()
            self._command_runner.enqueue(f"/{spec.name}")
