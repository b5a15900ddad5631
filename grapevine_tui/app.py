"""The app: a node, its model and a screen, in one loop.

What must stay true:

- An event costs one `|=` here, and a look while a knock is not answered; the screen is painted by a timer,
  at most ten times a second.
- Whatever way it ends, the node leaves politely first (`leaving`) and the terminal is left as it was
  found.
- Text from strangers is only ever handed to Textual as `Content` or with markup off, after
  `printable`.

Driven by `grapevine_tui.cli`, which reads `exit_code` and `failure` afterwards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from rich.console import RenderableType
from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from grapevine_proto.errors import ConfigError, GrapevineError, UnknownPeer
from grapevine_proto.events import Event
from grapevine_proto.ids import PeerId
from grapevine_tui import keys
from grapevine_tui.choices import Choices
from grapevine_tui.collector import Collector
from grapevine_tui.commands import CommandError
from grapevine_tui.contrast import with_contrast
from grapevine_tui.desk import Desk, payload_text
from grapevine_tui.editing import Editing, RemoteSettings, waiting
from grapevine_tui.hosting import DemoView, HostView, SettingsView
from grapevine_tui.leaving import Leaving
from grapevine_tui.logs import set_level
from grapevine_tui.model import Changes
from grapevine_tui.orders import Orders
from grapevine_tui.screens import facts
from grapevine_tui.screens.detail import DetailScreen
from grapevine_tui.screens.help import help_facts
from grapevine_tui.screens.main import LINKED, MainScreen
from grapevine_tui.screens.members import MembersScreen
from grapevine_tui.screens.message import MessageScreen
from grapevine_tui.screens.node import NodeScreen
from grapevine_tui.screens.question import Question
from grapevine_tui.screens.settings import SettingsScreen
from grapevine_tui.screens.trace import TraceScreen
from grapevine_tui.screens.traffic import TrafficScreen
from grapevine_tui.settings import Settings
from grapevine_tui.terminal import (
    BackgroundQuery,
    WindowTitle,
    must_repaint,
    read_anything,
    understands_osc,
)
from grapevine_tui.text import cut, printable
from grapevine_tui.toasts import Toasts
from grapevine_tui.turns import Done, Turns
from grapevine_tui.wardrobe import Wardrobe
from grapevine_tui.widgets.bindings import bindings, offers
from grapevine_tui.widgets.draft import Draft
from grapevine_tui.widgets.grid import Grid
from grapevine_tui.widgets.log import MessageLog
from grapevine_tui.widgets.look import VARIABLES
from grapevine_tui.widgets.peers import PeerGrid
from grapevine_tui.widgets.sheet import Fact

DRAFT_CELLS: Final = 60  # of a draft that is named in a question
UNDO_S: Final = 10.0
LIKE_KEYS: Final = frozenset({":q", ":q!", ":wq", "quit", "exit", "help"})
PAINTS_PER_S: Final = 10
BEAT_PAINTS: Final = 5  # the node's tables are read at every fifth: twice a second


def is_like_a_key(line: str) -> bool:
    """Whether somebody may have meant a key of the panels, or a command, and not a message to everyone."""
    text = line.strip()
    return text in LIKE_KEYS or (len(text) == 1 and text.isascii())


class Undo(NamedTuple):
    """What was done, how to take it back, and until when (monotonic seconds) that is offered."""

    words: str
    act: Callable[[], Coroutine[Any, Any, None]]
    until: float


class GrapevineApp(App[None]):
    """The terminal app over one host."""

    TITLE = "grapevine"
    CSS_PATH: ClassVar[Path] = Path(__file__).with_name("grapevine.tcss")
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(keys.EVERYWHERE),
        Binding("ctrl+p", "command_palette", "Commands", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self, host: HostView, settings: SettingsView, *, demo: DemoView | None = None
    ) -> None:
        super().__init__()
        read_anything()
        self._host = host
        self._settings = self._began = settings
        self._demo = demo
        self._limit_bytes = settings.node.max_message_size
        self._changes = Changes.NONE
        self._paints = 0
        self._toasts = Toasts(self, host.model, self._alert)
        self._wardrobe = Wardrobe(self, Choices(settings.choices_file))
        self._editing: Editing | None = None
        self._leaving = Leaving(self, host, demo, self._show_leaving)
        self._turns = Turns(self, super().on_event)
        self.collector = Collector()
        self.desk = Desk(self, host.model, settings.state_dir)
        self.set_keymap(dict(settings.keys))
        self._is_broken = False
        self._undo: Undo | None = None
        self._doubted = ""  # a line that was not sent at the first enter
        self.failure: GrapevineError | None = None
        """Why the node could not start; None where it did."""
        self.main = MainScreen(host, settings, self._limit_bytes)
        self._orders = Orders(self, host)
        self._window_title = WindowTitle(self._tell_terminal)
        self._background: BackgroundQuery | None = None

    def get_default_screen(self) -> Screen[None]:
        return self.main

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return VARIABLES

    def get_css_variables(self) -> dict[str, str]:
        self.theme_variables = with_contrast(super().get_css_variables())
        return self.theme_variables

    def on_mount(self) -> None:
        self._wardrobe.dress(self._settings.theme)
        self._ask_background()
        self._leaving.catch_signals()
        self._host.listen(self._heard)
        self.set_interval(1 / PAINTS_PER_S, self.tick)
        self.run_worker(self._start(), exit_on_error=True)
        self.run_worker(self._orders.run(), exit_on_error=True)

    def watch_theme(self, theme: str) -> None:
        """Keep a choice made on the screen."""
        self._wardrobe.chosen(theme, self._settings.theme)

    def panic(self, *renderables: RenderableType) -> None:
        self._is_broken = True
        super().panic(*renderables)

    @property
    def exit_code(self) -> int:
        """For the process; a fault of ours or of Textual's is no success, wherever it was raised."""
        return self.return_code or int(self._is_broken)

    @property
    def _has_terminal(self) -> bool:
        """Whether the app draws on a terminal that ignores what it does not know; a browser's is none."""
        is_elsewhere = self.is_headless or self.is_web or self._driver is None
        return not is_elsewhere and understands_osc(os.environ)

    def _tell_terminal(self, sequence: str) -> None:
        """Write a control sequence that changes no cell of the screen."""
        if self._driver is not None:
            self._driver.write(sequence)

    def on_ready(self) -> None:
        self._entitle_window()
        if not self.is_headless:  # a test runs many apps in one process, and must free each
            self.collector.settle()

    async def on_unmount(self) -> None:
        self._window_title.restore()
        if self._background is not None:
            self._background.drop()
        # Reached after an error too: then nobody has said goodbye yet.
        if not self._leaving.is_done and self._host.model.me is not None:
            await self._leaving.leave()

    def _ask_background(self) -> None:
        # Only the driver for a Unix terminal knows whether its input is one, and reads by `Reading`.
        can_answer = self._has_terminal and getattr(self._driver, "input_tty", False)
        if can_answer and self._wardrobe.wears_own:
            answered = partial(self.call_later, self._wardrobe.take_background)
            self._background = BackgroundQuery(self._tell_terminal, answered)

    def _alert(self, words: str) -> None:
        """Ring, or have the terminal show a notification of `words`, which are printable, if that is set."""
        match self._settings.alert:
            case "bell":
                self.bell()
            case "notify" if self._has_terminal:
                self._tell_terminal(f"\x1b]9;{words}\x07")

    def _entitle_window(self) -> None:
        if self._has_terminal:
            self._window_title.show(self.main.status.node_name)

    # Keys

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            await self._turns.take(event)
        else:
            await super().on_event(event)

    def on_app_focus(self) -> None:
        # In a browser the app begins without the focus, so nothing has been given it yet.
        if self.main.is_mounted and self.main.focused is None:
            self.call_later(self.main.set_focus, self.main.panel_here())

    async def on_done(self, message: Done) -> None:
        await self._turns.back(message)

    # The node

    async def _start(self) -> None:
        try:
            if self._demo is not None:
                await self._demo.start()
            if self._host.model.me is None:
                await self._host.start()
        except GrapevineError as error:
            self.failure = error
            self._leaving.is_done = True
            self.exit(return_code=1)
        self._changes |= Changes.STATUS

    def _heard(self, event: Event, changes: Changes) -> None:
        self._changes |= changes
        if self._orders.knocked:
            self._orders.heard(event)

    def tick(self) -> None:
        """What the timer does: paint what has changed, and now and then ask the node anew."""
        self._paints += 1
        is_beat = self._paints % BEAT_PAINTS == 0
        if is_beat and self._host.model.me is not None and not self._leaving.is_done:
            with suppress(GrapevineError):  # it has stopped of itself: what was last known stays
                self._changes |= self._host.refresh()
        if must_repaint():
            self.refresh()
        changes, self._changes = self._changes, Changes.NONE
        if changes:
            self.main.paint(changes)
        if Changes.NOTICES in changes:
            self._toasts.show()
        if is_beat:
            is_lost = bool(self._host.model.lost_at) and not self._leaving.is_asked
            if is_lost != self.has_class("-lost"):
                self.set_class(is_lost, "-lost")
                for screen in self.screen_stack:
                    screen.set_class(is_lost, "-lost")
            self.main.beat()
            self._entitle_window()
            self.collector.tidy(is_home=len(self.screen_stack) == 1)

    # The end

    def _show_leaving(self) -> None:
        self.main.status.is_leaving = True
        self.main.status.refresh()

    async def action_quit(self) -> None:
        """From a screen in front go back; from the main one leave, and ask where that costs something."""
        screen = self.screen
        if self._leaving.is_asked:
            self._leaving.ask()
        elif screen is self.main:
            self.ask_to_leave()
        elif not screen.is_modal:
            await screen.run_action("back")

    def action_help_quit(self) -> None:
        """Ctrl+C: leave, from wherever one is; asks first where that costs something."""
        if self._leaving.is_asked:
            self._leaving.ask()
        elif not self.screen.is_modal:
            self.ask_to_leave()

    def ask_to_leave(self) -> None:
        """Leave; where peers are connected or something would be lost, once somebody has said yes."""
        facts = self._cost_of_leaving()
        if not facts:
            self.end()
            return

        def answered(is_meant: bool | None) -> None:
            if is_meant:
                self.end()

        is_remote = self._host.model.is_remote
        name = "Detach?" if is_remote else "Leave the cluster?"
        yes = "Detach" if is_remote else "Leave"
        self.push_screen(Question(name, facts, yes=yes, no="Stay"), answered)

    def end(self) -> None:
        """Leave the cluster gracefully and end, unasked; asked twice, at once."""
        self._leaving.ask()

    def _cost_of_leaving(self) -> list[Fact]:
        """What leaving cuts off or loses; empty: nothing."""
        model, facts = self._host.model, []
        connected = sum(peer.state in LINKED for peer in model.peers.values())
        is_ours = not model.is_remote and self._demo is None and not model.stopped
        if connected and is_ours:
            peers = f"{connected:,} peer{'s' * (connected != 1)}"
            facts.append(Fact("connected", f"to {peers}; this node ends and says goodbye"))
        if self._editing is not None and self._editing.pending:
            facts.append(Fact("not saved", ", ".join(self._editing.pending), "warn"))
        draft = self.main.compose_box.draft.text.strip()
        if draft:
            facts.append(Fact("not sent", cut(printable(draft), DRAFT_CELLS), "warn"))
        return facts

    def key_words(self, action: str) -> str:
        """What a key does now."""
        if action == "quit" and self.screen is not self.main:
            return "Back"
        return "Detach" if action == "quit" and self._host.model.is_remote else ""

    # What is typed

    def on_draft_submitted(self, message: Draft.Submitted) -> None:
        line = message.line
        box = self.main.compose_box
        box.unstash()
        is_doubted = line == self._doubted
        self._doubted = ""
        if is_like_a_key(line) and not is_doubted:
            self._doubted = line
            box.say(
                f"{line.strip()!r} was not sent, it looks like a key; enter sends it", is_error=True
            )
            box.restore(line)
        elif line.strip():
            self._orders.put(line)

    # Screens in front

    def _show(self, screen: Screen[None]) -> None:
        """Bring a screen to the front, from wherever one is. Where one of its name stands behind others,
        they are gone back from instead, so that screens never pile up."""
        if self.screen.is_modal:  # a question wants its answer first
            return
        names = [each.name for each in self.screen_stack]
        if screen.name not in names:
            self.push_screen(screen)
            return
        while self.screen.name != screen.name:
            self.pop_screen()

    def on_grid_chosen(self, message: Grid.Chosen) -> None:
        key = message.key
        peer_id = key[1] if isinstance(key, tuple) else key
        if isinstance(peer_id, PeerId):
            self._show(NodeScreen(self._host.model, peer_id))

    def on_message_log_chosen(self, message: MessageLog.Chosen) -> None:
        entry = message.entry
        self._show(MessageScreen(self._host.model, entry, payload_text(entry.message.payload)))

    def action_members(self) -> None:
        """Everyone in the cluster, linked or not."""
        self._show(MembersScreen(self._host.model))

    def action_trace(self) -> None:
        """The latest traces."""
        self.show_traces()

    def show_traces(self) -> None:
        self._show(TraceScreen(self._host.model))

    def _ask_trace(self) -> None:
        while self.screen is not self.main:
            self.pop_screen()
        if self.main.compose_box.display:  # else there is no room
            self.main.compose_box.ask_trace()

    def on_trace_screen_asked(self) -> None:
        self._ask_trace()

    def action_traffic(self) -> None:
        """Curves over a minute, a quarter of an hour, three hours."""
        self._show(TrafficScreen(self._host.model))

    async def action_settings(self) -> None:
        """Every setting, to be looked at and changed."""
        try:
            editing = await self._begin_editing()
        except GrapevineError as error:
            self.notify(printable(str(error)), severity="warning", markup=False)
        else:
            self._show(SettingsScreen(editing))

    async def _begin_editing(self) -> Editing:
        if self._editing is not None and self._editing.pending:
            return self._editing  # left by another way than back: nothing is dropped unasked
        if isinstance(self._host, RemoteSettings):
            self._editing = await self._host.edit()
            return self._editing
        if not isinstance(self._settings, Settings):
            raise ConfigError("", "there are no settings here")
        settings, editing = self._settings, self._editing
        if editing is not None and settings.demo:
            return editing
        if editing is not None:
            with suppress(
                GrapevineError
            ):  # the file may have been changed, by hand or from elsewhere
                fresh = settings.reload()
                keys = settings.node.keys
                settings = replace(fresh, node=fresh.node.replace(keys=keys))
        assert isinstance(self._began, Settings)
        self._editing = Editing(settings, self._host.reconfigure, self._began)
        return self._editing

    def on_settings_screen_applied(self, message: SettingsScreen.Applied) -> None:
        settings = message.settings
        self._host.model.note_command("settings saved")
        if isinstance(self._host, RemoteSettings):  # theme, keys and log are those of who looks
            self.main.take(settings.node)
            return
        self._settings = settings
        if isinstance(self._began, Settings):
            self._host.waiting = waiting(self._began, settings)
        self._host.model.messages.keep(settings.messages)
        set_level(settings.log_level)
        self.set_keymap(dict(settings.keys))
        self.main.take(settings.node)
        if settings.theme and settings.theme != self.theme:
            self._wardrobe.dress(settings.theme)

    def action_status(self) -> None:
        """Who we are, and every counter."""
        told = partial(facts.status_facts, self._host.model)
        self._show(DetailScreen("Status", told, columns=True))

    def action_help(self) -> None:
        """Every key and every command."""
        is_attached = self._host.model.is_remote
        told = partial(help_facts, self, self._settings.keys, is_attached=is_attached)
        self._show(DetailScreen("Help", told, columns=True))

    # What is asked of one node or message

    def _address_of(self, peer_id: PeerId) -> str:
        model = self._host.model
        known = model.peers.get(peer_id) or model.members.get(peer_id)
        return str(known.address) if known is not None and known.address else ""

    async def on_peer_grid_asked(self, message: PeerGrid.Asked) -> None:
        peer_id = message.peer_id
        address = self._address_of(peer_id)
        match message.what:
            case "send":
                while self.screen is not self.main:
                    self.pop_screen()
                self.main.compose_box.address_to(facts.callable_name(self._host.model, peer_id))
            case "dial" if address:
                self._orders.put(f"/connect {address}")
                if self.screen is not self.main:  # where what comes of it is not seen
                    linked = self._orders.linked_at(address)
                    words = f"{linked} is connected already" if linked else f"dialing {address}"
                    self.notify(printable(words), markup=False)
            case "forget":
                self._ask_forget(peer_id)
            case "deny" if peer_id in self._host.model.denied:
                await self._try(self.allow(str(peer_id)))
            case "deny":
                self._ask_deny(peer_id, facts.callable_name(self._host.model, peer_id))
            case "copy" if address:
                self.desk.copy(address)
            case "copy_id":
                self.desk.copy(str(peer_id))

    # Acts that cut somebody off: asked about once, and undone where that is possible

    async def deny(self, who: str) -> None:
        """Deny whom `who` means, once somebody has said yes. Raises UnknownPeer where that is no one node."""
        model = self._host.model
        peer_id = facts.meant(model, who)
        if peer_id is None or (model.me is not None and peer_id == model.me.peer_id):
            await self._deny(who)  # the node has the words for what is wrong with it
        else:
            self._ask_deny(peer_id, who)

    async def allow(self, who: str) -> None:
        """Allow a denied node again. Raises UnknownPeer."""
        peer_id = await self._host.allow(who)
        model = self._host.model
        model.denied -= {peer_id}
        self._changes |= Changes.PEERS | Changes.MEMBERS
        self._did(f"allow {model.name_of(peer_id)} ({peer_id.short}…)")

    async def forget(self, who: str) -> None:
        """Forget whom `who` means, once somebody has said yes. Raises UnknownPeer."""
        peer_id = facts.meant(self._host.model, who)
        if peer_id is None:
            raise UnknownPeer(f"no one node here is called {printable(who)!r}")
        self._ask_forget(peer_id)

    def _ask_deny(self, peer_id: PeerId, who: str) -> None:
        about = facts.deny_facts(self._host.model, peer_id)
        self._ask(Question("Deny this node?", about, yes="Deny"), lambda: self._deny(who))

    def _ask_forget(self, peer_id: PeerId) -> None:
        about = facts.forget_facts(self._host.model, peer_id)
        self._ask(Question("Forget this node?", about, yes="Forget"), lambda: self._forget(peer_id))

    def _ask(self, question: Question, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `act` if the answer is yes."""

        def answered(is_meant: bool | None) -> None:
            if is_meant:
                self.run_worker(self._try(act()), exit_on_error=True)

        if not self.screen.is_modal:
            self.push_screen(question, answered)

    async def _try(self, act: Coroutine[Any, Any, None]) -> None:
        try:
            await act
        except GrapevineError as error:
            self.notify(printable(str(error)), severity="warning", markup=False)

    async def _deny(self, who: str) -> None:
        peer_id = await self._host.deny(who)
        model = self._host.model
        model.denied |= {peer_id}
        self._changes |= Changes.PEERS | Changes.MEMBERS

        async def allow_again() -> None:
            try:
                await self.allow(str(peer_id))
            except UnknownPeer:
                await self.allow(who)

        self._did(f"deny {model.name_of(peer_id)} ({peer_id.short}…)", undo=allow_again)

    async def _forget(self, peer_id: PeerId) -> None:
        name = self._host.model.name_of(peer_id)
        try:
            await self._host.forget(peer_id)
        except GrapevineError as error:
            words = printable(f"{name}: {error}")
            self.notify(words, severity="warning", markup=False)
        else:
            self._changes |= self._host.refresh()
            self._did(f"forget {name} ({peer_id.short}…)")

    def _did(
        self, words: str, *, undo: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        """Say what was done, in the command log and on the screen; `undo` takes it back for `UNDO_S`."""
        self._host.model.note_command(words)
        self._undo = None if undo is None else Undo(words, undo, time.monotonic() + UNDO_S)
        key = self._settings.keys.get("undo", "u")
        hint = f"; {key} undoes it for {UNDO_S:.0f} s" if undo is not None else ""
        self.notify(printable(f"done: {words}{hint}"), timeout=UNDO_S, markup=False)

    async def action_undo(self) -> None:
        """Take back what was done last, if that was a moment ago and can be undone."""
        undo, self._undo = self._undo, None
        if undo is None or time.monotonic() > undo.until:
            self.notify("nothing to undo", markup=False)
        else:
            self._host.model.note_command(f"undo: {undo.words}")
            await self._try(undo.act())

    def on_settings_screen_dropped(self, message: SettingsScreen.Dropped) -> None:
        editing, edits = message.editing, message.edits

        async def take_back() -> None:
            editing.take_back(edits)
            self._editing = editing
            self.notify("the changes are back, unsaved: see the settings", markup=False)

        self._did(f"discard changes of {', '.join(edits)}", undo=take_back)

    async def act_on_screen(self, act: str, text: str) -> None:
        """What a slash command of the screen does."""
        main = self.main
        match act:
            case "rates" | "messages":
                main.action_panel("log" if act == "messages" else act)
            case "filter":
                main.filter_here(text)
            case "pause":
                main.action_pause()
            case "zoom":
                main.action_zoom()
            case "export":
                await self.on_message_log_export_asked()
            case "traffic":
                self.action_traffic()
            case "picture":
                self.action_picture()
            case "undo":
                await self.action_undo()
            case "copy" | "copy_id":
                await self._copy_here(act)
            case "sort" | "reverse":
                self._sort_here(act)

    async def _copy_here(self, what: str) -> None:
        # At once, though the cursor of a panel without the focus is not seen: it says what it copied.
        panel = self.main.panel_here()
        if not isinstance(panel, (PeerGrid, MessageLog)):
            raise CommandError(f"/{what} works on peers and messages")
        if isinstance(panel, MessageLog):
            if panel.cursor_entry is not None:
                self.on_message_log_asked(MessageLog.Asked(what, panel.cursor_entry))
        elif isinstance(panel.cursor_key, PeerId):
            await self.on_peer_grid_asked(PeerGrid.Asked(what, panel.cursor_key))

    def _sort_here(self, act: str) -> None:
        panel = self.main.panel_here()
        if not isinstance(panel, Grid):
            raise CommandError(f"/{act} works on tables; messages keep their order")
        if act == "sort":
            panel.action_sort()
        else:
            panel.action_reverse()

    def on_message_log_asked(self, message: MessageLog.Asked) -> None:
        said = message.entry.message
        self.desk.copy(str(said.id) if message.what == "copy_id" else payload_text(said.payload))

    def on_detail_screen_copied(self, message: DetailScreen.Copied) -> None:
        if message.text:
            self.desk.copy(message.text)

    async def on_message_log_export_asked(self) -> None:
        log = self.main.log_view
        await self.desk.export(log.wanted_entries(), log.wanted.text)

    def action_picture(self) -> None:
        """Save the screen as SVG."""
        self.desk.picture()

    def get_system_commands(self, screen: Screen[object]) -> Iterator[SystemCommand]:
        """What the palette offers: all that can be done from here, each with its key."""
        nodes: list[App[None] | Screen[object] | Widget] = [self, screen]
        if screen is self.main:
            nodes.append(self.main.panel_here())
        elif screen.focused is not None:
            nodes.append(screen.focused)
        for offer in offers(nodes, self._settings.keys):
            key = " ".join(map(self.get_key_display, offer.bindings))
            action = partial(self.run_action, offer.bindings[0].action, offer.node)
            yield SystemCommand(offer.words, f"key {key}", action)
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
