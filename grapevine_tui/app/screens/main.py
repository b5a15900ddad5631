"""The main screen: panels over the model, and the compose box.

Invariants:

- It repaints only the changes given to `update_panels`, and only in visible panels.
- Characters typed in the compose box never act on the panels; every other action is one key away.

The app calls `update_panels` at most ten times a second and `tick` twice a second.
"""

from __future__ import annotations

import time
from functools import partial
from typing import ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.css.scalar import Scalar
from textual.message import Message as Posted
from textual.screen import Screen
from textual.widget import Widget

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_proto.runtime.builtin_queries import BUILTIN_QUERIES
from grapevine_proto.tags import tag_texts
from grapevine_tui.app.highlighter import Highlighter
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.app.screens.facts import addressable_name, paste_facts
from grapevine_tui.app.screens.layout import (
    ALL,
    BOXES,
    PANELS,
    PRESETS,
    SHORT_LINES,
    Choice,
    choose_layout,
)
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.caption import CaptionLine
from grapevine_tui.app.widgets.compose import ComposeBox
from grapevine_tui.app.widgets.draft import Draft, escape_controls
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.app.widgets.input_bars import FilterBar
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.app.widgets.log import EMPTY_TEXT, EMPTY_TEXT_TINY, MessageLog, log_title
from grapevine_tui.app.widgets.peer_table import PeerGrid, peer_columns, peer_rows, peer_title
from grapevine_tui.app.widgets.rate_table import RateGrid
from grapevine_tui.app.widgets.round_table import ROUND_COLUMNS, round_rows, round_title
from grapevine_tui.app.widgets.status import StatusLine, Summary
from grapevine_tui.app.widgets.titles import (
    FRAME_CELLS,
    filter_status,
    find_status,
    format_as_of,
    shorten_title,
)
from grapevine_tui.app.widgets.traffic import TrafficPanel
from grapevine_tui.config.keymap import PANEL_KEYS as PANEL_KEYS
from grapevine_tui.control.commands import CommandError, suggest_command
from grapevine_tui.control.slash_parser import KnownNames
from grapevine_tui.filter_syntax import MESSAGE_FIELDS, TIME_FIELDS, query_fault
from grapevine_tui.host.model import ALL_CHANGES, Changes, format_discovered
from grapevine_tui.host.protocol import DemoView, HostView, SettingsView
from grapevine_tui.host.query import MATCH_ALL, parse_query
from grapevine_tui.text import printable

COMPACT_CELLS: Final = 60  # a narrower screen shows only the prompt's glyph
FILTER_LABELS: Final = {
    "peers": "peers", "log": "messages", "rates": "rate limits", "rounds": "rounds"
}  # fmt: skip
MAX_PASTE_CHARACTERS: Final = 1_000_000  # larger payloads can be sent from a file
MIN_TABLE_ROWS: Final = 5
FIND_HINT: Final = "words from:name /expression/ -not; n and b go to the next and previous"
TABLE_FRAME_LINES: Final = 3  # two of the border and the header
LAYOUT_CLASSES: Final = ("-wide", "-column", "-tiny")


class MainScreen(Screen[None]):
    """Peers, messages, traffic, rate limits and anti-entropy of one node."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PANEL_KEYS)
    AUTO_FOCUS = "#log"  # so that the first key does what the footer says

    class BoxesChanged(Posted):
        """The operator switched boxes on or off."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

    class HistoryRequested(Posted):
        """Search the history for `words`; `around` is the time to begin at, in Unix seconds, or None."""

        def __init__(self, words: str, around: float | None = None) -> None:
            super().__init__()
            self.words = words
            self.around = around

    class BackRequested(Posted):
        """Nothing is left on this screen to go back from."""

    def __init__(
        self,
        host: HostView,
        settings: SettingsView,
        max_payload_bytes: int,
        demo: DemoView | None = None,
        highlighter: Highlighter | None = None,
    ) -> None:
        super().__init__()
        self._host = host
        model = host.model
        self._model = model
        self._max_peers = settings.node.max_peers
        self._peer_columns = settings.columns_by_table["peers"]
        self._tabs: dict[str, str] = dict(settings.filters)
        self._own_commands = tuple(each.name for each in settings.own_commands)
        self._active_panel = "log"
        self._choice = ALL
        self._zoomed_panel = ""
        self._was_composing = False  # when the compose box was hidden for lack of room
        self._shown_titles: dict[Widget, str] = {}
        self._max_rows: dict[Grid, int] = {}
        self.is_paused = False
        self._missed_changes = Changes.NONE  # while paused
        self.context_names: tuple[str, ...] = ()
        """The contexts that the app can show, for completion."""
        self.status = StatusLine(model, settings.node, lambda: host.node.lag_s, id="status")
        self.caption = CaptionLine(demo, settings.keys, id="caption")
        self._has_caption = demo is not None
        self.summary = Summary(model, lambda: host.node.now(), id="summary")
        self.peers = PeerGrid(
            peer_columns(self._peer_columns),
            empty="No peers yet. Press c to connect to an address.",
            id="peers",
        )
        self.peers.is_denied = lambda peer_id: peer_id in model.denied
        self.highlighter = highlighter or Highlighter(model)
        self.log_view = MessageLog(model, self.highlighter, id="log")
        self.log_view.json_columns = settings.columns_by_table["messages"]
        self.traffic = TrafficPanel(model, id="traffic")
        self.rates = RateGrid(model, id="rates")
        self.rounds = Grid(
            ROUND_COLUMNS,
            empty="No rounds yet. A starts one.",
            id="rounds",
            newest_first=True,
        )
        self.compose_box = ComposeBox(
            max_payload_bytes,
            self._known_names,
            is_attached=model.is_remote,
            no_sending="recording" if host.playback else "read-only" if host.is_readonly else "",
        )
        self.filter_bar = FilterBar()
        self._filtered_panel = "log"  # the panel that the filter bar is open for
        self._is_finding = False  # whether the bar takes what to find instead of a filter
        self.key_footer = KeyFooter()
        self._left = Vertical(self.peers, self.log_view, id="left")
        self._right = Vertical(self.traffic, self.rates, self.rounds, id="right")

    def compose(self) -> ComposeResult:
        yield self.status
        yield self.caption
        with Horizontal(id="body"):
            yield self._left
            yield self._right
        yield self.summary
        yield self.filter_bar
        yield self.compose_box
        yield self.key_footer

    def on_mount(self) -> None:
        self._apply_layout()
        self.log_view.border_subtitle = self._tabs_title()
        self.update_panels(ALL_CHANGES)

    def on_resize(self, event: events.Resize) -> None:
        self._apply_layout()

    def apply_config(self, config: NodeConfig, *, is_restarted: bool = False) -> None:
        """Show a new configuration of the node."""
        self._max_peers = config.max_peers
        self.status.apply_config(config, is_restarted=is_restarted)
        self.update_panels(ALL_CHANGES)

    def apply_app_settings(self, settings: SettingsView) -> None:
        """Show the columns, saved filters and own commands of `settings`."""
        columns = settings.columns_by_table
        if columns["peers"] != self._peer_columns:
            self._peer_columns = columns["peers"]
            self.peers.set_columns(peer_columns(self._peer_columns), empty="")
        self.log_view.json_columns = columns["messages"]
        self.log_view.refresh()
        self._tabs = dict(settings.filters)
        self.log_view.border_subtitle = self._tabs_title()
        self._own_commands = tuple(each.name for each in settings.own_commands)
        self.update_panels(ALL_CHANGES)

    # Rendering

    def update_panels(self, changes: Changes) -> None:
        """Update the visible panels that `changes` affect; while paused, only remember them."""
        if self.is_paused:
            self._missed_changes |= changes
            return
        model = self._model
        if (Changes.PEERS | Changes.RATES) & changes:
            self._update_peer_panels(changes)
        if Changes.ROUNDS in changes and self.rounds.display:
            self.rounds.set_rows(round_rows(model))
            self._set_rounds_title()
        if Changes.MESSAGES in changes and self.log_view.display:
            self.log_view.sync()
            self._set_log_title()
        if Changes.STATUS in changes:
            self.status.refresh()

    def _update_peer_panels(self, changes: Changes) -> None:
        model = self._model
        if Changes.PEERS in changes and self.peers.display:
            found = format_discovered(model.discovered)
            found = f" {found[0].upper()}{found[1:]}." if model.discovered else ""
            self.peers.set_empty_text(f"No peers yet.{found} Press c to connect to an address.")
            self.peers.set_rows(peer_rows(model, self._peer_columns))
            self._set_panel_title(
                self.peers, peer_title(model, self._max_peers, self._filter_status(self.peers))
            )
            self._limit_height(self.peers)
        if Changes.RATES not in changes:
            return
        if self.rates.display:
            self.rates.update_rows()
            self._set_panel_title(self.rates, self.rates.panel_title())
            self._limit_height(self.rates)
        if self.traffic.display:
            self.traffic.refresh()
            self._set_panel_title(self.traffic, self.traffic.panel_title())

    def _limit_height(self, grid: Grid) -> None:
        """Limit a table to its rows where other panels can use the lines. It does not shrink until the layout
        changes, so that panels do not jump."""
        row_count: int | None = None
        if self.has_class("-wide") and not self.has_class("-single"):
            row_count = max(self._max_rows.get(grid, MIN_TABLE_ROWS), grid.count)
            self._max_rows[grid] = row_count
        height = None if row_count is None else Scalar.from_number(row_count + TABLE_FRAME_LINES)
        if grid.styles.max_height != height:
            grid.styles.max_height = height

    def tick(self) -> None:
        """Advance clocks, countdowns and highlights; the app calls it twice a second."""
        self.status.refresh()
        self.caption.tick()
        self.key_footer.update_hints()
        if self.summary.display:
            self.summary.refresh()
        if self.rounds.display:
            self._set_rounds_title()
        self.update_panels(Changes.PEERS | Changes.RATES)

    def _set_panel_title(self, widget: Widget, title: Content) -> None:
        if self._model.outdated_since:
            title = Content.assemble(title, (f" · {format_as_of(self._model)}", "$warning"))
        title = shorten_title(title, widget.outer_size.width)
        if self._shown_titles.get(widget) != title.markup:  # setting a title repaints the panel
            self._shown_titles[widget] = title.markup
            widget.border_title = title

    def _filter_status(self, grid: Grid) -> list[tuple[str, str]]:
        return filter_status(grid.filter_query, len(grid.rows))

    def _set_rounds_title(self) -> None:
        filtered, now = self._filter_status(self.rounds), self._host.node.now()
        title = round_title(self._model, now, filtered)
        if title.cell_length > self.rounds.outer_size.width - FRAME_CELLS:
            title = round_title(self._model, now, filtered, is_short=True)
        self._set_panel_title(self.rounds, title)

    def _set_log_title(self) -> None:
        log = self.log_view
        title = log_title(
            self._model,
            is_following=log.is_following,
            newer_count=log.newer_count,
            is_paused=self.is_paused,
            filtered=[
                *find_status(log.find_query, log.match_position, log.match_count),
                *filter_status(log.filter_query, log.line_count),
            ],
        )
        self._set_panel_title(log, title)

    def on_rate_grid_mode_changed(self) -> None:
        self.update_panels(Changes.RATES)

    def on_message_log_scrolled(self) -> None:
        self._set_log_title()

    # Panels

    def _apply_layout(self) -> None:
        """Show the panels that fit the screen."""
        css_class, visible_ids = choose_layout(
            self.size.width,
            self.size.height,
            self._active_panel,
            self._zoomed_panel,
            self._choice,
        )
        for each in LAYOUT_CLASSES:
            self.set_class(each == css_class, each)
        panels: tuple[Widget, ...] = (
            self.summary,
            self.compose_box,
            self.key_footer,
            self.peers,
            self.log_view,
            self.traffic,
            self.rates,
            self.rounds,
        )
        for panel in panels:
            panel.display = panel.id in visible_ids
        self.caption.display = self._has_caption and self.size.height >= SHORT_LINES
        self.caption.set_width(self.size.width)
        self._left.display = self.peers.display or self.log_view.display
        self._right.display = self.traffic.display or self.rates.display or self.rounds.display
        self.set_class(not self._right.display, "-all-left")
        self.set_class(not self._left.display, "-all-right")
        self.set_class(self._choice.preset == "traffic", "-graphs")
        # Peers without the log get a low panel, unless nothing else needs the room.
        self._left.set_class(self._right.display and not self.log_view.display, "-low")
        self.set_class(bool(self._zoomed_panel) or len(visible_ids & set(PANELS)) == 1, "-single")
        self.status.is_tiny = css_class == "-tiny"
        self.log_view.empty = EMPTY_TEXT_TINY if css_class == "-tiny" else EMPTY_TEXT
        self._max_rows.clear()
        self.compose_box.set_compact(self.size.width < COMPACT_CELLS)
        self._restore_focus()
        if self.is_mounted:
            self.update_panels(ALL_CHANGES)
            self._set_log_title()

    def _restore_focus(self) -> None:
        if self._was_composing and self.compose_box.display:
            self._was_composing = False
            self.set_focus(self.compose_box.draft)
        focused = self.focused
        if focused is None:
            return
        if "-tiny" in self.classes:
            self.filter_bar.display = False
        ancestors = [node for node in focused.ancestors_with_self if isinstance(node, Widget)]
        if all(node.display for node in ancestors):
            return
        self._was_composing = focused is self.compose_box.draft
        self.set_focus(self.log_view if self.log_view.display else self.panel(self._active_panel))

    def panel(self, name: str) -> Grid | MessageLog:
        """Return the panel with the ID `name`, one of `PANELS`."""
        if name == "log":
            return self.log_view
        return {"peers": self.peers, "rates": self.rates, "rounds": self.rounds}[name]

    def action_panel(self, name: str) -> None:
        """Focus a panel, switched on if it is off; if only one fits, it replaces the visible one."""
        self._active_panel = name
        self._choose(self._choice.with_box(name))
        if self._zoomed_panel:
            self._zoomed_panel = name
        self._apply_layout()
        self.set_focus(self.panel(name))

    def action_next_panel(self, by: int) -> None:
        if "-tiny" not in self.classes:  # else only the log fits
            current = self.current_panel().id or self._active_panel
            shown: list[str] = [
                each for each in PANELS if each in self._choice.boxes or each == current
            ]
            self.action_panel(shown[(shown.index(current) + by) % len(shown)])

    # Boxes

    def set_choice(self, preset: str, boxes: frozenset[str]) -> None:
        """Show the boxes that were remembered. Words that mean nothing here are left out."""
        known = boxes & set(BOXES)
        if known & set(PANELS):
            self._choice = Choice(preset if preset in PRESETS else "", known)
            self._active_panel = self._first_panel()

    def _first_panel(self) -> str:
        """The log, or if it is off the first panel that is on."""
        boxes = self._choice.boxes
        return next(each for each in ("log", *PANELS) if each in boxes)

    def _choose(self, choice: Choice) -> None:
        """Change which boxes are on."""
        if choice == self._choice:
            return
        self._choice = choice
        if self._active_panel not in choice.boxes:
            self._active_panel = self._first_panel()
        self.post_message(self.BoxesChanged(choice))

    def show_layout(self, preset: str) -> None:
        """Show the boxes of a preset."""
        self._zoomed_panel = ""
        self._choose(PRESETS[preset])
        self._apply_layout()
        if self._choice.is_bare or self.focused is None:
            self.set_focus(self.panel(self._active_panel))
        self.refresh_bindings()

    def action_next_layout(self) -> None:
        """Show the next preset."""
        names = list(PRESETS)
        preset = self._choice.preset
        at = names.index(preset) if preset in names and self._choice == PRESETS[preset] else -1
        self.show_layout(names[(at + 1) % len(names)])
        self.app.notify(f"layout {self._choice.preset}", timeout=2, markup=False)

    def toggle_box(self, name: str) -> None:
        """Switch a box on or off. Raises CommandError for the last panel."""
        choice = self._choice
        changed = choice.without_box(name) if name in choice.boxes else choice.with_box(name)
        if changed == choice:
            raise CommandError("one panel must stay; /layout shows all boxes again")
        self._choose(changed)
        self._apply_layout()

    def leave_wall(self) -> None:
        """Show the compose box, which the wall has not."""
        if self._choice.is_bare:
            self.show_layout("all")

    def key_label(self, action: str) -> str:
        """Return the label of the zoom and pause keys: the state they lead to."""
        if action == "zoom" and self._zoomed_panel:
            return "All panels"
        return "Resume" if action == "pause" and self.is_paused else ""

    def action_zoom(self) -> None:
        """Let the focused panel fill the screen, or show all panels again."""
        current = self.current_panel().id or self._active_panel
        if self._zoomed_panel:
            self._zoomed_panel = ""
        elif current in PANELS:
            self._zoomed_panel = current
            self._active_panel = current
        self._apply_layout()
        self.refresh_bindings()

    def action_back(self) -> None:
        """Clear the focused panel's filter; without one, leave the zoom."""
        panel = self.current_panel()
        if panel is self.log_view and self.log_view.find_query:
            self.log_view.set_find(MATCH_ALL)
            self._set_log_title()
        elif panel.filter_query:
            self._set_filter(panel, "")
        elif self._zoomed_panel:
            self.action_zoom()
        else:
            self.post_message(self.BackRequested())

    # Filters

    def current_panel(self) -> Grid | MessageLog:
        """Return the panel that has the focus, or had it last."""
        focused = self.focused
        return (
            focused if isinstance(focused, (Grid, MessageLog)) else self.panel(self._active_panel)
        )

    def action_filter(self) -> None:
        """Open the filter bar for the focused panel."""
        panel = self.current_panel()
        self._is_finding = False
        self._filtered_panel = panel.id or "log"
        is_log = panel is self.log_view
        hint = (
            "words from:name topic:a.> via:repair zone:eu tag:role=web -not"
            if is_log
            else "words zone:eu tag:role=web -not"
        )
        topics = self._model.topics.sorted() if is_log else ()
        if "-tiny" not in self.classes:  # else there is no room
            self.filter_bar.open(
                FILTER_LABELS[self._filtered_panel],
                panel.filter_query.text,
                hint,
                partial(self._filter_fault, panel),
                topics,
            )

    # Find

    def on_message_log_find_requested(self) -> None:
        """Open the bar for what to find in the messages."""
        if "-tiny" not in self.classes:
            self._is_finding = True
            self._filtered_panel = "log"
            log = self.log_view
            get_fault = partial(self._filter_fault, log)
            self.filter_bar.open(
                "find", log.find_query.text, FIND_HINT, get_fault, self._model.topics.sorted()
            )

    def find(self, text: str) -> None:
        """Go to the newest message that matches. Raises CommandError if `text` is not valid."""
        if problem := self._filter_fault(self.log_view, text):
            raise CommandError(problem)
        self.action_panel("log")
        self.log_view.set_find(parse_query(text) if text.strip() else MATCH_ALL)
        self.log_view.go_to_match(-1 if self.log_view.is_following else 1)
        self._set_log_title()

    def filter_current_panel(self, text: str) -> None:
        """Filter the panel that has the focus, or had it last. Raises CommandError if it is not valid."""
        panel = self.current_panel()
        if problem := self._filter_fault(panel, text):
            raise CommandError(problem)
        self._set_filter(panel, text)

    def _filter_fault(self, panel: Grid | MessageLog, text: str) -> str:
        """Say what is wrong with a filter of the panel; empty if nothing is."""
        of_log = (*MESSAGE_FIELDS, *TIME_FIELDS)
        known = panel.query_fields if isinstance(panel, Grid) else of_log
        return query_fault(parse_query(text), known)

    # Saved filters

    def _current_tab(self) -> str:
        """The saved filter that the log has; empty if it has none or another."""
        text = self.log_view.filter_query.text
        return next((name for name, words in self._tabs.items() if words.strip() == text), "")

    def show_tab(self, name: str) -> None:
        """Show the messages of a saved filter; all if `name` is empty. Raises CommandError."""
        if name and name not in self._tabs:
            hint = suggest_command(name, self._tabs)
            known = ", ".join(self._tabs) or "none (setting app.filters)"
            raise CommandError(f"no saved filter {name!r:.80}; {hint or f'there are: {known}'}")
        self.action_panel("log")
        self._set_filter(self.log_view, self._tabs.get(name, ""))

    def action_next_tab(self, by: int) -> None:
        """Show the next saved filter; after the last one, all messages."""
        if not self._tabs:
            self.app.notify("no saved filters; set them under [app.filters]", markup=False)
            return
        names = ["", *self._tabs]
        self.show_tab(names[(names.index(self._current_tab()) + by) % len(names)])

    def _tabs_title(self) -> Content:
        """The saved filters, the current one in brackets."""
        if not self._tabs:
            return Content("")
        has_other = bool(self.log_view.filter_query) and not self._current_tab()
        parts: list[tuple[str, str]] = []
        for name in ("", *self._tabs):
            is_current = name == self._current_tab() and not has_other
            label = name or "all"
            parts.append(
                (
                    f"[{label}]" if is_current else f" {label} ",
                    "$text-accent" if is_current else "$text-muted",
                )
            )
        return Content.assemble(*parts)

    def follow_author(self, term: str) -> None:
        """Show the messages that match `term`, and follow them."""
        self.action_panel("log")
        self._set_filter(self.log_view, term)
        self.log_view.action_follow()

    def _set_filter(self, panel: Grid | MessageLog, text: str) -> None:
        panel.set_filter(parse_query(text) if text.strip() else MATCH_ALL)
        self.log_view.border_subtitle = self._tabs_title()
        if panel is self.log_view:
            self._set_log_title()
        else:
            self.update_panels(Changes.PEERS | Changes.RATES | Changes.ROUNDS)

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        if self._is_finding:
            self.log_view.set_find(parse_query(message.text) if message.text.strip() else MATCH_ALL)
            self._set_log_title()
            return
        self._set_filter(self.panel(self._filtered_panel), message.text)

    def on_filter_bar_closed(self, message: FilterBar.Closed) -> None:
        if self._is_finding:
            self._is_finding = False
            self.find("" if message.is_cleared else self.log_view.find_query.text)
            return
        panel = self.panel(self._filtered_panel)
        if panel is self.log_view and panel.filter_query.has_times and not message.is_cleared:
            words = panel.filter_query.text  # times select from the past
            self._set_filter(panel, "")
            self.action_panel(self._filtered_panel)
            self.post_message(self.HistoryRequested(words))
            return
        if message.is_cleared:
            self._set_filter(panel, "")
        self.action_panel(self._filtered_panel)

    def action_write(self) -> None:
        """Focus the compose box."""
        self.leave_wall()
        if self.compose_box.display:
            self.compose_box.is_opened_by_key = True
            self.set_focus(self.compose_box.draft)

    def on_draft_released(self, message: Draft.Released) -> None:
        self.compose_box.is_opened_by_key = False
        self.compose_box.unstash()
        self.action_panel(self._active_panel)

    def on_click(self, event: events.Click) -> None:
        if isinstance(event.widget, (Grid, MessageLog)) and event.widget.id in PANELS:
            self._active_panel = event.widget.id

    def _known_names(self) -> KnownNames:
        """Return the names that complete a line: connected peers as slash commands name them, ..."""
        model = self._model
        connected = [peer for peer in model.peers.values() if peer.state.is_connected]
        zones = {each.zone for nodes in (model.members, model.peers) for each in nodes.values()}
        owners = (model.tags, *(each.tags for each in model.members.values()))
        tags = {each for owned in owners for each in tag_texts(owned)}
        return KnownNames(
            peers=tuple(sorted(addressable_name(model, peer.peer_id) for peer in connected)),
            topics=model.topics.sorted(),
            queries=BUILTIN_QUERIES,
            zones=tuple(sorted(each for each in zones if each and printable(each) == each)),
            keys=model.keys.sorted(),
            tags=tuple(sorted(tags)),
            alerts=tuple(dict.fromkeys(each.name for each in model.alerts)),
            own_commands=self._own_commands,
            tabs=tuple(self._tabs),
            highlights=tuple(self.highlighter.highlights),
            contexts=self.context_names,
        )

    def on_paste(self, event: events.Paste) -> None:
        """Insert text pasted over the panels into the compose box."""
        if self.compose_box.display:
            event.stop()
            self.set_focus(self.compose_box.draft)
            self.compose_box.draft.insert_paste(event.text)

    def on_draft_large_paste(self, message: Draft.LargePaste) -> None:
        """Confirm a large paste; reject one above `MAX_PASTE_CHARACTERS`."""
        text = message.text
        if len(text) > MAX_PASTE_CHARACTERS:
            error = (
                f"{len(text):,} characters are too many to paste; send a file: ctl broadcast --file"
            )
            self.compose_box.show_feedback(error, is_error=True)
            return

        def insert(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.compose_box.draft.insert(escape_controls(text))

        self.app.push_screen(
            ConfirmScreen("Paste all this?", paste_facts(text), yes="Paste"), insert
        )

    def action_pause(self) -> None:
        """Freeze or resume the screen; the node keeps running. A recording is paused itself."""
        if self._host.playback is not None:
            self._host.playback.toggle()
            return
        self.is_paused = not self.is_paused
        self.status.is_paused = self.is_paused
        self.status.paused_at = time.time()
        if not self.is_paused:
            self.update_panels(self._missed_changes | ALL_CHANGES)
            self._missed_changes = Changes.NONE
        self.status.refresh()
        self._set_log_title()
        self.refresh_bindings()

    def action_dial(self) -> None:
        """Begin a ``/connect`` line."""
        self.leave_wall()
        if self.compose_box.display:
            self.compose_box.begin_dial()

    async def action_round(self) -> None:
        """Start an anti-entropy round."""
        try:
            await self._host.start_round()
        except GrapevineError as error:
            self.compose_box.show_feedback(str(error), is_error=True)
        else:
            self._model.log_command("round")
            self.compose_box.show_feedback("anti-entropy round requested")
