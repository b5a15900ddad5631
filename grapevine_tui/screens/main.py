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
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.css.scalar import Scalar
from textual.screen import Screen
from textual.widget import Widget

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import PeerState
from grapevine_tui.hosting import HostView, SettingsView
from grapevine_tui.keys import PANELS as PANEL_KEYS
from grapevine_tui.model import ALL_CHANGES, Changes
from grapevine_tui.query import EVERYTHING, parse
from grapevine_tui.screens.facts import callable_name, paste_facts
from grapevine_tui.screens.layout import PANELS, arrange
from grapevine_tui.screens.question import Question
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.compose import ComposeBox
from grapevine_tui.widgets.draft import Draft, presentable
from grapevine_tui.widgets.filterbar import FilterBar
from grapevine_tui.widgets.grid import Grid
from grapevine_tui.widgets.keyline import KeyLine
from grapevine_tui.widgets.log import NOTHING, NOTHING_TINY, MessageLog
from grapevine_tui.widgets.peers import PeerGrid
from grapevine_tui.widgets.rates import RateGrid
from grapevine_tui.widgets.status import StatusLine, Summary
from grapevine_tui.widgets.tables import (
    FRAME_CELLS,
    PEER_COLUMNS,
    ROUND_COLUMNS,
    as_of_words,
    filter_part,
    log_title,
    peer_rows,
    peer_title,
    round_rows,
    round_title,
    shortened,
)
from grapevine_tui.widgets.traffic import Traffic

BRIEF_CELLS: Final = 60  # below this the prompt is its sign alone
FILTERED: Final = {
    "peers": "peers", "log": "messages", "rates": "rate limits", "rounds": "rounds"
}  # fmt: skip
MOST_PASTED: Final = 1_000_000  # characters; an editor is for more
LINKED: Final = (PeerState.CONNECTED, PeerState.STALE)
FEW_ROWS: Final = 5
ROW_FRAME_LINES: Final = 3  # the border's two and the heading
KINDS: Final = ("-wide", "-column", "-tiny")


class MainScreen(Screen[None]):
    """Peers, messages, traffic, rate limits and anti-entropy of one node."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PANEL_KEYS)
    AUTO_FOCUS = "#log"  # so that the first key does what the key line says

    def __init__(self, host: HostView, settings: SettingsView, limit_bytes: int) -> None:
        super().__init__()
        self._host = host
        model = host.model
        self._model = model
        self._max_peers = settings.node.max_peers
        self._front = "log"
        self._zoomed = ""
        self._was_writing = False  # when the room for the compose box went
        self._titles: dict[Widget, str] = {}
        self._most_rows: dict[Grid, int] = {}
        self.is_paused = False
        self._missed = Changes.NONE  # while paused
        self.status = StatusLine(
            model, settings.node, lambda: host.node.lag_s, name_in_dom="status"
        )
        self.summary = Summary(model, lambda: host.node.now(), name_in_dom="summary")
        self.peers = PeerGrid(
            PEER_COLUMNS,
            empty="Nobody is connected yet. Press c to connect to an address.",
            name_in_dom="peers",
        )
        self.peers.is_denied = lambda peer_id: peer_id in model.denied
        self.log_view = MessageLog(model, name_in_dom="log")
        self.traffic = Traffic(model, name_in_dom="traffic")
        self.rates = RateGrid(model, name_in_dom="rates")
        self.rounds = Grid(
            ROUND_COLUMNS,
            empty="No round yet. A starts one.",
            name_in_dom="rounds",
            newest_first=True,
        )
        self.compose_box = ComposeBox(limit_bytes, self._names, is_attached=model.is_remote)
        self.filter_bar = FilterBar()
        self._filtering = "log"  # the panel that the filter bar is open for
        self.keys = KeyLine()
        self._left = Vertical(self.peers, self.log_view, id="left")
        self._right = Vertical(self.traffic, self.rates, self.rounds, id="right")

    def compose(self) -> ComposeResult:
        yield self.status
        with Horizontal(id="body"):
            yield self._left
            yield self._right
        yield self.summary
        yield self.filter_bar
        yield self.compose_box
        yield self.keys

    def on_mount(self) -> None:
        self._arrange()
        self.paint(ALL_CHANGES)

    def on_resize(self, event: events.Resize) -> None:
        self._arrange()

    def take(self, config: NodeConfig, *, is_restarted: bool = False) -> None:
        """The node goes by this now."""
        self._max_peers = config.max_peers
        self.status.take(config, is_restarted=is_restarted)
        self.paint(ALL_CHANGES)

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
            self._entitle(
                self.peers, peer_title(model, self._max_peers, self._filtered(self.peers))
            )
            self._make_fit(self.peers)
        if Changes.RATES not in changes:
            return
        if self.rates.display:
            self.rates.take()
            self._entitle(self.rates, self.rates.make_title())
            self._make_fit(self.rates)
        if self.traffic.display:
            self.traffic.refresh()
            self._entitle(self.traffic, self.traffic.make_title())

    def _make_fit(self, grid: Grid) -> None:
        """Let a table be no higher than its rows where others can use the lines; so as not to jump about
        it never gets lower, until the screen itself changes."""
        most: int | None = None
        if self.has_class("-wide") and not self.has_class("-single"):
            most = max(self._most_rows.get(grid, FEW_ROWS), grid.count)
            self._most_rows[grid] = most
        height = None if most is None else Scalar.from_number(most + ROW_FRAME_LINES)
        if grid.styles.max_height != height:
            grid.styles.max_height = height

    def beat(self) -> None:
        """Twice a second: clocks, countdowns and flashes move on though nothing happened."""
        self.status.refresh()
        self.keys.take()
        if self.summary.display:
            self.summary.refresh()
        if self.rounds.display:
            self._entitle_rounds()
        self.paint(Changes.PEERS | Changes.RATES)

    def _entitle(self, widget: Widget, words: Content) -> None:
        if self._model.lost_at:
            words = Content.assemble(words, (f" · {as_of_words(self._model)}", "$warning"))
        words = shortened(words, widget.outer_size.width)
        if self._titles.get(widget) != words.markup:  # setting one repaints the whole panel
            self._titles[widget] = words.markup
            widget.border_title = words

    def _filtered(self, grid: Grid) -> list[tuple[str, str]]:
        return filter_part(grid.wanted, len(grid.rows))

    def _entitle_rounds(self) -> None:
        filtered, now = self._filtered(self.rounds), self._host.node.now()
        words = round_title(self._model, now, filtered)
        if words.cell_length > self.rounds.outer_size.width - FRAME_CELLS:
            words = round_title(self._model, now, filtered, is_brief=True)
        self._entitle(self.rounds, words)

    def _entitle_log(self) -> None:
        log = self.log_view
        words = log_title(
            self._model,
            is_following=log.is_following,
            below=log.below,
            is_paused=self.is_paused,
            filtered=filter_part(log.wanted, log.shown),
        )
        self._entitle(log, words)

    def on_rate_grid_turned(self) -> None:
        self.paint(Changes.RATES)

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
        self.log_view.empty = NOTHING_TINY if kind == "-tiny" else NOTHING
        self._most_rows.clear()
        self.compose_box.be_brief(self.size.width < BRIEF_CELLS)
        self._keep_focus()
        if self.is_mounted:
            self.paint(ALL_CHANGES)
            self._entitle_log()

    def _keep_focus(self) -> None:
        if self._was_writing and self.compose_box.display:
            self._was_writing = False
            self.set_focus(self.compose_box.draft)
        focused = self.focused
        if focused is None:
            return
        if "-tiny" in self.classes:
            self.filter_bar.display = False
        above = [node for node in focused.ancestors_with_self if isinstance(node, Widget)]
        if all(node.display for node in above):
            return
        self._was_writing = focused is self.compose_box.draft
        self.set_focus(self.log_view if self.log_view.display else self.panel(self._front))

    def panel(self, name: str) -> Grid | MessageLog:
        """The panel of that id, one of `PANELS`."""
        if name == "log":
            return self.log_view
        return {"peers": self.peers, "rates": self.rates, "rounds": self.rounds}[name]

    def action_panel(self, name: str) -> None:
        """Go to a panel; where there is room for one alone it takes the place of the other."""
        self._front = name
        if self._zoomed:
            self._zoomed = name
        self._arrange()
        self.set_focus(self.panel(name))

    def action_next_panel(self, by: int) -> None:
        if self.compose_box.display:  # else there is room for one alone
            here = self.panel_here().id or self._front
            self.action_panel(PANELS[(PANELS.index(here) + by) % len(PANELS)])

    def key_words(self, action: str) -> str:
        """What a key does now."""
        if action == "zoom" and self._zoomed:
            return "All panels"
        return "Resume" if action == "pause" and self.is_paused else ""

    def action_zoom(self) -> None:
        """Give the focused panel the whole screen, or take it back."""
        here = self.panel_here().id or self._front
        if self._zoomed:
            self._zoomed = ""
        elif here in PANELS:
            self._zoomed = here
            self._front = here
        self._arrange()
        self.refresh_bindings()

    def action_back(self) -> None:
        """Undo one thing: the focused panel's filter, else the zoom."""
        panel = self.panel_here()
        if panel.wanted:
            self._want(panel, "")
        elif self._zoomed:
            self.action_zoom()

    # Filters

    def panel_here(self) -> Grid | MessageLog:
        """The panel that has the focus, or had it last."""
        focused = self.focused
        return focused if isinstance(focused, (Grid, MessageLog)) else self.panel(self._front)

    def action_filter(self) -> None:
        """Ask what to look for in the focused panel."""
        panel = self.panel_here()
        self._filtering = panel.id or "log"
        is_log = panel is self.log_view
        hint = (
            "words from:name via:repair zone:eu private: -not" if is_log else "words zone:eu -not"
        )
        if self.compose_box.display:  # else there is no room
            self.filter_bar.ask(FILTERED[self._filtering], panel.wanted.text, hint)

    def filter_here(self, text: str) -> None:
        """Show only what matches in the panel that has, or had last, the focus."""
        self._want(self.panel_here(), text)

    def _want(self, panel: Grid | MessageLog, text: str) -> None:
        panel.want(parse(text) if text.strip() else EVERYTHING)
        if panel is self.log_view:
            self._entitle_log()
        else:
            self.paint(Changes.PEERS | Changes.RATES | Changes.ROUNDS)

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        self._want(self.panel(self._filtering), message.text)

    def on_filter_bar_closed(self, message: FilterBar.Closed) -> None:
        panel = self.panel(self._filtering)
        if message.is_dropped:
            self._want(panel, "")
        self.action_panel(self._filtering)

    def action_write(self) -> None:
        """Go to the compose box."""
        if self.compose_box.display:
            self.set_focus(self.compose_box.draft)

    def on_draft_released(self, message: Draft.Released) -> None:
        self.compose_box.unstash()
        self.action_panel(self._front)

    def on_click(self, event: events.Click) -> None:
        if isinstance(event.widget, (Grid, MessageLog)) and event.widget.id in PANELS:
            self._front = event.widget.id

    def _names(self) -> tuple[str, ...]:
        """Those who can be written to, as they are called in a command."""
        model = self._model
        linked = [peer for peer in model.peers.values() if peer.state in LINKED]
        return tuple(sorted(callable_name(model, peer.peer_id) for peer in linked))

    def on_paste(self, event: events.Paste) -> None:
        """What is pasted over the panels goes into the compose box, where it waits for enter."""
        if self.compose_box.display:
            event.stop()
            self.set_focus(self.compose_box.draft)
            self.compose_box.draft.take_paste(event.text)

    def on_draft_paste_asked(self, message: Draft.PasteAsked) -> None:
        """Ask before much is pasted; far too much is refused."""
        text = message.text
        if len(text) > MOST_PASTED:
            words = (
                f"{len(text):,} characters are too many to paste; send a file: ctl broadcast --file"
            )
            self.compose_box.say(words, is_error=True)
            return

        def insert(is_meant: bool | None) -> None:
            if is_meant:
                self.compose_box.draft.insert(presentable(text))

        self.app.push_screen(Question("Paste all this?", paste_facts(text), yes="Paste"), insert)

    def action_pause(self) -> None:
        """Let the screen stand still while the node goes on; once more and it catches up."""
        self.is_paused = not self.is_paused
        self.status.is_paused = self.is_paused
        self.status.paused_at = time.time()
        if not self.is_paused:
            self.paint(self._missed | ALL_CHANGES)
            self._missed = Changes.NONE
        self.status.refresh()
        self._entitle_log()
        self.refresh_bindings()

    def action_connect(self) -> None:
        """Ask for an address to dial."""
        if self.compose_box.display:
            self.compose_box.ask_address()

    async def action_round(self) -> None:
        """Begin an anti-entropy round now."""
        try:
            await self._host.start_round()
        except GrapevineError as error:
            self.compose_box.say(str(error), is_error=True)
        else:
            self._model.note_command("round")
            self.compose_box.say("asked for a round now")
