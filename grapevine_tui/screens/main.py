"""The screen one keeps open: panels over the model, and the box to type in.

What must stay true:

- It paints only what `paint` is told has changed, and of that only what is on the screen.
- Letters typed in the compose box never move it; everything else can be done by one key.

Driven by the app: `paint` at most ten times a second, `beat` twice a second.
"""

from __future__ import annotations

import time
from typing import ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from grapevine_proto.errors import GrapevineError
from grapevine_tui.hosting import HostView, SettingsView
from grapevine_tui.model import ALL_CHANGES, Changes
from grapevine_tui.screens.layout import PANELS, arrange
from grapevine_tui.widgets.compose import ComposeBox, Draft
from grapevine_tui.widgets.grid import Grid
from grapevine_tui.widgets.log import MessageLog
from grapevine_tui.widgets.status import StatusLine, Summary
from grapevine_tui.widgets.tables import (
    PEER_COLUMNS,
    RATE_COLUMNS,
    ROUND_COLUMNS,
    log_title,
    peer_rows,
    peer_title,
    rate_rows,
    rate_title,
    round_rows,
    round_title,
)
from grapevine_tui.widgets.traffic import Traffic

BRIEF_CELLS: Final = 60  # below this the prompt is its sign alone
KINDS: Final = ("-wide", "-column", "-tiny")


class MainScreen(Screen[None]):
    """Peers, messages, traffic, rate limits and anti-entropy of one node."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next_panel(1)", "Next panel", show=False),
        Binding("shift+tab", "next_panel(-1)", "Panel before", show=False),
        Binding("1", "panel('peers')", "Peers", show=False),
        Binding("2", "panel('log')", "Messages", show=False),
        Binding("3", "panel('rates')", "Rate limits", show=False),
        Binding("4", "panel('rounds')", "Anti-entropy", show=False),
        Binding("i", "write", "Write"),
        Binding("z", "zoom", "Zoom"),
        Binding("space", "pause", "Pause"),
        Binding("c", "connect", "Connect"),
        Binding("A", "round", "Round now"),
        Binding("escape", "unzoom", "All panels", show=False),
    ]
    AUTO_FOCUS = "#draft"

    def __init__(self, host: HostView, settings: SettingsView, limit_bytes: int) -> None:
        super().__init__()
        self._host = host
        model = host.model
        self._model = model
        self._max_peers = settings.node.max_peers
        self._front = "log"
        self._zoomed = ""
        self._titles: dict[Widget, str] = {}
        self.is_paused = False
        self._missed = Changes.NONE  # while paused
        self.status = StatusLine(
            model, settings.node, lambda: host.node.lag_s, name_in_dom="status"
        )
        self.summary = Summary(model, lambda: host.node.now(), name_in_dom="summary")
        self.peers = Grid(
            PEER_COLUMNS,
            empty="Nobody is connected yet. Press c to connect to an address.",
            name_in_dom="peers",
        )
        self.log_view = MessageLog(model, name_in_dom="log")
        self.traffic = Traffic(model, name_in_dom="traffic")
        self.rates = Grid(RATE_COLUMNS, empty="No peer, nothing to limit.", name_in_dom="rates")
        self.rounds = Grid(ROUND_COLUMNS, empty="No round yet. A starts one.", name_in_dom="rounds")
        self.compose_box = ComposeBox(limit_bytes)
        self.keys = Footer(id="keys", show_command_palette=False)
        self._left = Vertical(self.peers, self.log_view, id="left")
        self._right = Vertical(self.traffic, self.rates, self.rounds, id="right")

    def compose(self) -> ComposeResult:
        yield self.status
        with Horizontal(id="body"):
            yield self._left
            yield self._right
        yield self.summary
        yield self.compose_box
        yield self.keys

    def on_mount(self) -> None:
        self._arrange()
        self.paint(ALL_CHANGES)

    def on_resize(self, event: events.Resize) -> None:
        self._arrange()

    # Painting

    def paint(self, changes: Changes) -> None:
        """Show what changed, as far as it is on the screen."""
        if self.is_paused:
            self._missed |= changes
            return
        model = self._model
        if (Changes.PEERS | Changes.RATES) & changes:
            self._paint_peers(changes)
        if Changes.ROUNDS in changes and self.rounds.display:
            self.rounds.show(round_rows(model))
            self._entitle_rounds()
        if Changes.MESSAGES in changes and self.log_view.display:
            self.log_view.catch_up()
            self._entitle_log()
        if Changes.STATUS in changes:
            self.status.refresh()

    def _paint_peers(self, changes: Changes) -> None:
        model = self._model
        if Changes.PEERS in changes and self.peers.display:
            self.peers.show(peer_rows(model))
            self._entitle(self.peers, peer_title(model, self._max_peers))
        if Changes.RATES not in changes:
            return
        if self.rates.display:
            self.rates.show(rate_rows(model, time.time()))
            self._entitle(self.rates, rate_title(model))
        if self.traffic.display:
            self.traffic.refresh()
            self._entitle(self.traffic, self.traffic.make_title())

    def beat(self) -> None:
        """Twice a second: clocks, countdowns and flashes move on though nothing happened."""
        self.status.refresh()
        if self.summary.display:
            self.summary.refresh()
        if self.rounds.display:
            self._entitle_rounds()
        self.paint(Changes.PEERS | Changes.RATES)

    def _entitle(self, widget: Widget, words: Content) -> None:
        if self._titles.get(widget) != words.markup:  # setting one repaints the whole panel
            self._titles[widget] = words.markup
            widget.border_title = words

    def _entitle_rounds(self) -> None:
        self._entitle(self.rounds, round_title(self._model, self._host.node.now()))

    def _entitle_log(self) -> None:
        log = self.log_view
        words = log_title(
            self._model,
            is_following=log.is_following,
            below=log.below,
            is_paused=self.is_paused,
        )
        self._entitle(log, words)

    def on_message_log_moved(self) -> None:
        self._entitle_log()

    # Panels

    def _arrange(self) -> None:
        """Show what there is room for."""
        kind, shown = arrange(self.size.width, self.size.height, self._front, self._zoomed)
        for each in KINDS:
            self.set_class(each == kind, each)
        parts: tuple[Widget, ...] = (
            self.summary,
            self.compose_box,
            self.keys,
            self.peers,
            self.log_view,
            self.traffic,
            self.rates,
            self.rounds,
        )
        for part in parts:
            part.display = part.id in shown
        self._left.display = self.peers.display or self.log_view.display
        self._right.display = self.traffic.display or self.rates.display or self.rounds.display
        # The peers alone are as high as five of them, unless nothing else wants the room.
        self._left.set_class(self._right.display and not self.log_view.display, "-low")
        self.set_class(bool(self._zoomed) or len(shown & set(PANELS)) == 1, "-single")
        self.status.is_tiny = kind == "-tiny"
        self.compose_box.be_brief(self.size.width < BRIEF_CELLS)
        self._keep_focus()
        if self.is_mounted:
            self.paint(ALL_CHANGES)
            self._entitle_log()

    def _keep_focus(self) -> None:
        focused = self.focused
        if focused is None:
            return
        above = [node for node in focused.ancestors_with_self if isinstance(node, Widget)]
        if all(node.display for node in above):
            return
        self.set_focus(self.log_view if self.log_view.display else self.panel(self._front))

    def panel(self, name: str) -> Widget:
        """The panel of that id, one of `PANELS`."""
        return {
            "peers": self.peers,
            "log": self.log_view,
            "rates": self.rates,
            "rounds": self.rounds,
        }[name]

    def action_panel(self, name: str) -> None:
        """Go to a panel; where there is room for one alone it takes the place of the other."""
        self._front = name
        if self._zoomed:
            self._zoomed = name
        self._arrange()
        self.set_focus(self.panel(name))

    def action_next_panel(self, by: int) -> None:
        if not self.compose_box.display:
            return
        stops = ["draft", *PANELS]
        here = self.focused.id if self.focused is not None else "draft"
        place = stops.index(here) if here in stops else 0
        stop = stops[(place + by) % len(stops)]
        if stop == "draft":
            self.compose_box.draft.focus()
        else:
            self.action_panel(stop)

    def action_zoom(self) -> None:
        """Give the focused panel the whole screen, or take it back."""
        focused = self.focused.id if self.focused is not None else ""
        if self._zoomed:
            self._zoomed = ""
        elif focused in PANELS:
            self._zoomed = focused
            self._front = focused
        self._arrange()

    def action_unzoom(self) -> None:
        if self._zoomed:
            self.action_zoom()

    def action_write(self) -> None:
        """Go to the compose box."""
        if self.compose_box.display:
            self.compose_box.draft.focus()

    def on_draft_released(self, message: Draft.Released) -> None:
        self.compose_box.unstash()
        self.action_panel(self._front)

    def on_click(self, event: events.Click) -> None:
        if isinstance(event.widget, (Grid, MessageLog)) and event.widget.id in PANELS:
            self._front = event.widget.id

    def action_pause(self) -> None:
        """Let the screen stand still while the node goes on; once more and it catches up."""
        self.is_paused = not self.is_paused
        self.status.is_paused = self.is_paused
        if not self.is_paused:
            self.paint(self._missed | ALL_CHANGES)
            self._missed = Changes.NONE
        self.status.refresh()
        self._entitle_log()

    def action_connect(self) -> None:
        """Ask for an address to dial."""
        if self.compose_box.display:
            self.compose_box.ask_address()

    def action_round(self) -> None:
        """Begin an anti-entropy round now."""
        try:
            self._host.node.start_round()
        except GrapevineError as error:
            self.compose_box.say(str(error), is_error=True)
        else:
            self.compose_box.say("asked for a round now")
