"""The past of the node: messages and events that its history keeps, by words and by time.

Invariants:

- A screen shows one stretch of the past; going beyond its ends loads the next page there. At most `MAX_ROWS`
  rows are kept, those around the cursor.
- What is shown is as of the title's time: nothing arrives by itself, `G` at the end looks for more.
- A reply to anything but the latest question is dropped.
- A search that the index cannot help goes on in steps of `STEP_MS`, and says how far it is, until it has a
  page of rows; `Esc` stops it where it is.
- Only the app asks the node: the screens post `PageRequested` and get `show_page` or `show_error`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message as Posted
from textual.screen import Screen
from textual.timer import Timer

from grapevine_proto.ids import PeerId
from grapevine_tui.app.highlighter import BUDGET_INTERVAL_S, Highlighter
from grapevine_tui.app.past_rows import JsonRow
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.columns import FIELD_CELLS, JSON_CELLS, json_texts, json_titles
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.input_bars import FilterBar
from grapevine_tui.app.widgets.key_footer import KeyFooter
from grapevine_tui.app.widgets.line_widget import FOUND_MARK, Mark
from grapevine_tui.app.widgets.log import MessageLog
from grapevine_tui.app.widgets.titles import MAX_FILTER_CELLS, find_status, format_title
from grapevine_tui.config.highlights import Highlight
from grapevine_tui.config.keymap import EVENT_KEYS, PAST_KEYS
from grapevine_tui.filter_syntax import EVENT_FIELDS, MESSAGE_FIELDS, TIME_FIELDS, query_fault
from grapevine_tui.history.records import LEVEL_SIGNS, MICROSECONDS, event_text, to_key
from grapevine_tui.history.terms import Query, parse_query, parse_time_range
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Model
from grapevine_tui.remote.decode import DECODE_ERRORS, message_from_json
from grapevine_tui.text import (
    cells,
    format_payload,
    json_payload_text,
    printable,
    truncate,
    via_word,
)

PAGE_ROWS: Final = 200
FIRST_STEP_MS: Final = 40  # so that the first rows are there within 50 ms
STEP_MS: Final = 250
MAX_ROWS: Final = 2_000
TYPING_DELAY_S: Final = 0.15  # after the last key before the filter is applied
PREVIEW_BYTES: Final = 1_000  # of a payload, in a line
SEARCHING_TEXT: Final = "Searching…"
SEARCHING_ON_TEXT: Final = "Searching… esc stops."
NOTHING_SO_FAR_TEXT: Final = "Nothing found so far. Up searches further; esc clears the filter."
NO_MATCH_TEXT: Final = "Nothing in the history matches. esc clears the filter."
LEVEL_TONES: Final = {"info": "text", "warning": "warn", "error": "bad"}
PROBLEMS_FILTER: Final = "-level:info"
PAST_NUMBER: Final = -1  # of a log entry that is not in memory


class PastGrid(Grid):
    """A table that says when a movement would leave it."""

    class EdgeReached(Posted):
        """The cursor is on the first row (`direction` -1) or the last one (1) and was to move on."""

        def __init__(self, direction: int) -> None:
            super().__init__()
            self.direction = direction

    class CursorMoved(Posted):
        """The cursor is on another row."""

    def watch_cursor_row_key(self) -> None:
        self.post_message(self.CursorMoved())

    def action_move(self, by: int) -> None:
        self._report_edge(self.cursor_index + by)
        super().action_move(by)

    def action_page(self, by: int) -> None:
        self._report_edge(self.cursor_index + by)
        super().action_page(by)

    def _report_edge(self, index: int) -> None:
        if index < 0 or index >= len(self.rows):
            self.post_message(self.EdgeReached(-1 if index < 0 else 1))

    def action_scroll_left(self) -> None:
        """Leave the key to the screen."""
        raise SkipAction

    def action_scroll_right(self) -> None:
        """Leave the key to the screen."""
        raise SkipAction

    def action_first(self) -> None:
        if self.cursor_index == 0:
            self.post_message(self.EdgeReached(-1))
        super().action_first()

    def action_last(self) -> None:
        if self.cursor_index == len(self.rows) - 1:
            self.post_message(self.EdgeReached(1))
        super().action_last()


class PastScreen(Screen[None]):
    """A stretch of the past in a table, with a filter. `words` is its first filter, `around` the key of the
    row, or of the moment, to begin at; None: at the end."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PAST_KEYS)
    TITLE_TEXT: ClassVar[str]
    KIND: ClassVar[str]
    """Which rows it asks for: a field of the reply."""
    COLUMNS: ClassVar[tuple[Column, ...]]
    EMPTY_TEXT: ClassVar[str]
    FILTER_HINT: ClassVar[str]
    FIELDS: ClassVar[tuple[str, ...]]
    """What a filter can name."""

    class PageRequested(Posted):
        """Ask for a page of rows of `kind`; the answer is for `screen`, with `serial`."""

        def __init__(self, screen: PastScreen, serial: int, fields: dict[str, Any]) -> None:
            super().__init__()
            self.screen = screen
            self.serial = serial
            self.fields = fields

    def __init__(self, words: str = "", around: int | None = None) -> None:
        super().__init__(name=self.KIND)
        self.words = words
        self.around = around
        """The key of the row or of the moment that the screen went to last; None: the end."""
        self._rows: list[JsonRow] = []
        self._older: int | None = None
        self._newer: int | None = None
        self._serial = 0
        self._direction = 0  # of the page asked for: 0 replaces the rows
        self._wanted_rows = 0  # by the search that goes on
        self._searched_to: int | None = None  # the key as far as it got; None: at its beginning
        self.is_waiting = False
        """Whether a page was asked for."""
        self.find_words = ""
        """What `next_match` goes to."""
        self._find_by = 0  # 1 or -1 while the next or previous match is asked for
        self._bar_finds = False  # whether the bar takes what to find instead of a filter
        self._finder = Highlighter(Model())
        self.highlighter = Highlighter(Model())
        """What stands out."""
        self._as_of = 0.0
        self._note = ""
        self._typing: Timer | None = None
        self.table = PastGrid(self._columns(), empty=SEARCHING_TEXT, id=f"past-{self.KIND}")
        self.filter_bar = FilterBar(id=f"past-{self.KIND}-filter")

    def compose(self) -> ComposeResult:
        yield self.table
        yield self.filter_bar
        yield KeyFooter()

    def on_mount(self) -> None:
        self.table.focus()
        self._go_to(self.around)

    # --- pages ------------------------------------------------------------------------------------

    def _go_to(self, around: int | None) -> None:
        """Show the rows around a key, or the newest ones."""
        self.around = around
        self._ask(0, {} if around is None else {"around": around})

    def _ask(self, direction: int, place: dict[str, Any]) -> None:
        self._find_by = 0
        self._wanted_rows = PAGE_ROWS
        self._searched_to = None
        self._ask_for_rows(direction, place, FIRST_STEP_MS)

    def _ask_for_rows(self, direction: int, place: dict[str, Any], search_ms: int) -> None:
        self._serial += 1
        self._direction = direction
        self.is_waiting = True
        limits = {"limit": self._wanted_rows, "search_ms": search_ms}
        fields = {"words": self.words, **limits, **place}
        self.post_message(self.PageRequested(self, self._serial, fields))
        self._set_title()

    def show_page(self, serial: int, reply: Mapping[str, Any]) -> None:
        """Show the reply to the request `serial`."""
        if serial != self._serial:
            return
        self.is_waiting = False
        if self._find_by:
            self._show_found(reply)
            return
        self._note = str(reply["note"])
        self._as_of = time.time()
        page: list[JsonRow] = list(reply[self.KIND])
        here = self._key_under_cursor
        direction = self._direction
        match direction:
            case -1:
                self._rows = (page + self._rows)[:MAX_ROWS]
                self._older = reply["older"]
                if len(self._rows) == MAX_ROWS:
                    self._newer = self._rows[-1]["key"]
            case 1:
                self._rows = (self._rows + page)[-MAX_ROWS:]
                self._newer = reply["newer"]
                if len(self._rows) == MAX_ROWS:
                    self._older = self._rows[0]["key"]
            case _:
                self._rows = page
                self._older, self._newer = reply["older"], reply["newer"]
        self._go_on(reply, len(page))
        self._show_rows()
        if direction == 0 or here is None:
            self._place_cursor()
        else:  # a cursor on the first line would stay there
            self.table.go_to(next(n for n, each in enumerate(self._rows) if each["key"] == here))

    def _go_on(self, reply: Mapping[str, Any], found: int) -> None:
        """Ask for the next step of a search that was stopped before it had all that is wanted."""
        self._wanted_rows -= found
        is_newer = self._direction == 1
        key = reply["newer" if is_newer else "older"]
        if not reply.get("partial") or key is None or self._wanted_rows <= 0:
            self._searched_to = None
            return
        self._searched_to = key
        self._note = ""
        place = {"newer_than" if is_newer else "older_than": key}
        self._ask_for_rows(1 if is_newer else -1, place, STEP_MS)

    @property
    def is_searching_on(self) -> bool:
        """Whether the search goes on after its first step."""
        return self.is_waiting and self._searched_to is not None

    def _stop_search(self) -> None:
        """Leave the search where it is. Moving on from the last row there takes it up again."""
        self._serial += 1
        self.is_waiting = False
        key = "Down" if self._direction == 1 else "Up"
        self._note = f"stopped at {self._clock_of_search()}; {key} searches further"
        self._searched_to = None
        self._show_rows()

    def _clock_of_search(self) -> str:
        at_unix = (self._searched_to or 0) / MICROSECONDS
        return _format_clock(at_unix, time.localtime()[:3])

    def show_error(self, serial: int, problem: str) -> None:
        """Show why there is no reply to the request `serial`."""
        if serial == self._serial:
            self.is_waiting = False
            self._find_by = 0
            self._rows = []
            self._older = self._newer = None
            self._note = ""
            self._show_rows()
            self.table.set_empty_text(printable(problem))
            self._set_title()

    def _show_rows(self) -> None:
        today = time.localtime()[:3]
        rows = [
            self._build_row(each, _format_clock(each["at"], today))._replace(mark=self._mark(each))
            for each in self._rows
        ]
        if self._finder.is_behind or self.highlighter.is_behind:
            self._finder.is_behind = self.highlighter.is_behind = False
            self.set_timer(BUDGET_INTERVAL_S, self._show_rows)
        empty = NO_MATCH_TEXT if self.words.strip() else self.EMPTY_TEXT
        if self.is_waiting:
            empty = SEARCHING_ON_TEXT
        elif self._older is not None:
            empty = NOTHING_SO_FAR_TEXT
        self.table.set_empty_text(empty)
        self.table.set_rows(rows)
        self._set_title()

    def _mark(self, row: JsonRow) -> Mark | None:
        """How the row stands out: as a match of what is looked for, or by a highlight."""
        if self._finder.mark_of_row(self.KIND, row) is not None:
            return FOUND_MARK
        return self.highlighter.mark_of_row(self.KIND, row)

    def refresh_marks(self) -> None:
        """Show the highlights as they are."""
        if self._rows:
            self._show_rows()

    def _place_cursor(self) -> None:
        around = self.around
        if around is None:
            times = parse_query(self.words)
            at = _time_in(times) if times.has_times else None
            around = None if at is None else to_key(at)
        if around is None:
            self.table.go_to(len(self._rows) - 1)
            return
        index = next(
            (n for n, each in enumerate(self._rows) if each["key"] >= around), len(self._rows) - 1
        )
        self.table.go_to(index)

    def on_past_grid_edge_reached(self, message: PastGrid.EdgeReached) -> None:
        if self.is_waiting:
            return
        if message.direction < 0 and self._older is not None:
            self._ask(-1, {"older_than": self._older})
        elif message.direction > 0:
            newest = self._rows[-1]["key"] if self._rows else None
            newer = self._newer if self._newer is not None else newest
            if newer is None:
                self._go_to(None)
            else:
                self._ask(1, {"newer_than": newer})

    def action_travel(self, seconds: int) -> None:
        """Go `seconds` on in time from the row under the cursor; a negative number goes back."""
        here = self._key_under_cursor
        if self.around is not None and self._is_beyond_rows(self.around):
            here = (
                self.around
            )  # the last jump led to a time without rows; the next one starts there
        if here is None:
            here = to_key(time.time())
        self._go_to(here + seconds * MICROSECONDS)

    @property
    def _key_under_cursor(self) -> int | None:
        index = self.table.cursor_index
        return self._rows[index]["key"] if index < len(self._rows) else None

    def _is_beyond_rows(self, key: int) -> bool:
        return not self._rows or not self._rows[0]["key"] <= key <= self._rows[-1]["key"]

    # --- find -------------------------------------------------------------------------------------

    def action_find(self) -> None:
        self._bar_finds = True
        self.filter_bar.open("find", self.find_words, self.FILTER_HINT, self._filter_fault)

    def action_next_match(self, by: int) -> None:
        """Go to the next (1) or previous (-1) match, however far it is, with the rows around it."""
        if not self.find_words.strip():
            self.action_find()
        elif (here := self._key_under_cursor) is not None:
            self._ask_for_match(by, here)

    def _ask_for_match(self, by: int, key: int) -> None:
        self._serial += 1
        self._find_by = by
        self._searched_to = key
        self.is_waiting = True
        fields = {
            "words": f"{self.words} {self.find_words}".strip(),
            "limit": 1,
            "search_ms": STEP_MS,
            "newer_than" if by > 0 else "older_than": key,
        }
        self.post_message(self.PageRequested(self, self._serial, fields))
        self._set_title()

    def _show_found(self, reply: Mapping[str, Any]) -> None:
        by, self._find_by = self._find_by, 0
        found = reply[self.KIND]
        key = reply["newer" if by > 0 else "older"]
        if found:
            self._go_to_row(found[0]["key"])
        elif reply.get("partial") and key is not None:
            self._ask_for_match(by, key)
            return
        else:
            self.app.notify(f"no {'later' if by > 0 else 'earlier'} match", markup=False)
        self._searched_to = None
        self._set_title()

    def _go_to_row(self, key: int) -> None:
        """Put the cursor on a row, loaded or not."""
        index = next((n for n, each in enumerate(self._rows) if each["key"] == key), None)
        if index is None:
            self._go_to(key)
        else:
            self.table.go_to(index)

    def _set_find(self, words: str) -> None:
        self.find_words = words
        query = parse_query(words)
        self._finder.replace([Highlight("find", query)] if query else [])
        if self._rows:
            self._show_rows()

    def _find_status(self) -> list[tuple[str, str]]:
        keys = [row.key for row in self.table.rows if row.mark == FOUND_MARK]
        position = keys.index(self.table.cursor_key) + 1 if self.table.cursor_key in keys else 0
        return find_status(parse_query(self.find_words), position, len(keys))

    def on_past_grid_cursor_moved(self) -> None:
        if self.find_words.strip():
            self._set_title()

    def _set_title(self) -> None:
        parts: list[tuple[str, str]] = self._find_status()
        if self._rows:
            first, last = self._rows[0]["at"], self._rows[-1]["at"]
            today = time.localtime()[:3]
            parts.append(
                (f"{_format_clock(first, today)} to {_format_clock(last, today)}", "$text")
            )
        if self.words.strip():
            words = truncate(printable(self.words.strip()), MAX_FILTER_CELLS)
            parts.append((f"filter {words}", "$text-accent"))
        if self.is_searching_on:
            parts.append((f"searching at {self._clock_of_search()}, esc stops", "$warning"))
        elif self.is_waiting:
            parts.append(("searching", "$warning"))
        elif self._as_of:
            clock = time.strftime("%H:%M:%S", time.localtime(self._as_of))
            parts.append((f"as of {clock}", "$text-muted"))
        if self._note:
            parts.append((printable(self._note), "$warning"))
        count = f" {len(self._rows):,}{'+' if self._older is not None or self._newer is not None else ''}"
        self.table.border_title = format_title(
            f"{self.TITLE_TEXT}{count if self._rows else ''}", *parts
        )

    def _columns(self) -> tuple[Column, ...]:
        return self.COLUMNS

    def _build_row(self, row: JsonRow, clock: str) -> Row:
        raise NotImplementedError

    # --- filter -----------------------------------------------------------------------------------

    def action_filter(self) -> None:
        self._bar_finds = False
        self._open_filter_bar(self.words)

    def _open_filter_bar(self, words: str, *, is_selected: bool = True) -> None:
        self.filter_bar.open(
            self.TITLE_TEXT.lower(),
            words,
            self.FILTER_HINT,
            self._filter_fault,
            is_selected=is_selected,
        )

    def _filter_fault(self, words: str) -> str:
        query = parse_query(words)
        return query_fault(query, (*self.FIELDS, *TIME_FIELDS)) or _time_fault(query)

    def action_go_to_time(self) -> None:
        """Type a time to go to."""
        self._bar_finds = False
        words = " ".join(each for each in self.words.split() if not each.startswith("@"))
        prompt = f"{words} @".lstrip()
        self._open_filter_bar(prompt, is_selected=False)

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        if self._bar_finds:
            self._set_find(message.text)
            return
        self.words = message.text
        self._stop_typing()
        self._typing = self.set_timer(TYPING_DELAY_S, self._apply_filter)

    def _apply_filter(self) -> None:
        if self._stop_typing():
            self._go_to(None)

    def _stop_typing(self) -> bool:
        """End the wait for further keys; return whether there was one."""
        typing, self._typing = self._typing, None
        if typing is None:
            return False
        typing.stop()
        return True

    def on_filter_bar_closed(self, message: FilterBar.Closed) -> None:
        if self._bar_finds:
            self._bar_finds = False
            self._set_find("" if message.is_cleared else self.find_words)
            self.table.focus()
            if not message.is_cleared:
                self.action_next_match(-1)
            return
        if message.is_cleared:
            self._clear_filter()
        else:
            self._apply_filter()
        self.table.focus()

    def _clear_filter(self) -> None:
        """Drop the filter and stay at the row under the cursor."""
        here = self._key_under_cursor
        self._stop_typing()
        if self.words:
            self.words = ""
            self._go_to(here)

    def action_back(self) -> None:
        """Stop the search; if none goes on, look for nothing, then clear the filter, then go back."""
        if self._find_by:
            self._serial += 1
            self._find_by, self._searched_to, self.is_waiting = 0, None, False
            self._set_title()
        elif self.is_searching_on:
            self._stop_search()
        elif self.find_words.strip():
            self._set_find("")
        elif self.words.strip():
            self._clear_filter()
        else:
            self.dismiss()


class EventsScreen(PastScreen):
    """What happened to the node, its peers and the members, and why. Enter goes to the peer."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(EVENT_KEYS)
    TITLE_TEXT = "Events"
    KIND = "events"
    COLUMNS = (Column("time", 8), Column("", 1), Column("what happened", 20, grow=1))
    EMPTY_TEXT = "Nothing has happened yet."
    FIELDS = EVENT_FIELDS
    FILTER_HINT = "words peer:db-1 kind:dial -level:info since:1h @19:05"

    def _build_row(self, row: JsonRow, clock: str) -> Row:
        level = str(row["level"])
        key: Any = row["key"]
        if row["peer_id"]:
            key = (key, PeerId.parse(row["peer_id"]))
        tone = LEVEL_TONES.get(level, "text")
        cells = (
            Cell(clock, "dim"),
            Cell(LEVEL_SIGNS.get(level, " "), tone),
            Cell(printable(event_text(row)), tone),
        )
        return Row(key, cells)

    def action_problems(self) -> None:
        """Show only warnings and errors, or everything again."""
        words = self.words.split()
        if PROBLEMS_FILTER in words:
            words.remove(PROBLEMS_FILTER)
        else:
            words.append(PROBLEMS_FILTER)
        self.words = " ".join(words)
        self._go_to(self.around)


class HistoryScreen(PastScreen):
    """Messages of the past. Enter shows one."""

    TITLE_TEXT = "History"
    KIND = "messages"
    COLUMNS = (
        Column("time", 8),
        Column("from", 8, grow=1),
        Column("via", 7, drop_rank=2),
        Column("hops", 4, is_right_aligned=True, drop_rank=3),
        Column("topic", 8, grow=1, drop_rank=1),
        Column("message", 20, grow=8),
    )
    EMPTY_TEXT = "No messages yet."

    def __init__(
        self, words: str = "", around: int | None = None, json_columns: tuple[str, ...] = ()
    ) -> None:
        """`json_columns` are fields of JSON payloads, ``json:PATH`` each."""
        self._json_columns = json_columns
        super().__init__(words, around)

    def _columns(self) -> tuple[Column, ...]:
        chosen = (
            Column(title, min(JSON_CELLS, max(FIELD_CELLS, cells(title))), drop_rank=4 + index)
            for index, title in enumerate(json_titles(self._json_columns))
        )
        return (*self.COLUMNS[:-1], *chosen, self.COLUMNS[-1])

    FIELDS = MESSAGE_FIELDS
    FILTER_HINT = "words from:bob topic:deploy.> hops:>1 bytes:>10k since:1h @19:05"

    def _build_row(self, row: JsonRow, clock: str) -> Row:
        payload = json_payload_text(row).encode(errors="replace")
        author = printable(str(row.get("from_name") or row["origin"][:8]))
        preview = format_payload(payload[:PREVIEW_BYTES])
        cells = (
            Cell(clock, "dim"),
            Cell(author, "key"),
            Cell("direct" if row["direct"] else via_word(printable(str(row["via"]))), "dim"),
            Cell(str(row["hops"]), "dim"),
            Cell(printable(str(row["topic"])), "accent"),
            *(Cell(each, "key") for each in json_texts(payload, self._json_columns)),
            Cell(preview, "text"),
        )
        return Row(row["key"], cells)

    def on_grid_row_selected(self, message: Grid.RowSelected) -> None:
        """Show the message under the cursor."""
        message.stop()
        row = next((each for each in self._rows if each["key"] == message.key), None)
        if row is not None:
            try:
                selected = message_from_json(dict(row), 0.0)
            except DECODE_ERRORS:
                return
            entry = LogEntry(PAST_NUMBER, float(row["at"]), selected)
            self.post_message(MessageLog.MessageSelected(entry, size_bytes=int(row["bytes"])))


def _time_fault(query: Query) -> str:
    """Say which time of a filter cannot be read; empty if all can."""
    try:
        parse_time_range(query)
    except ValueError as problem:
        return str(problem)
    return ""


def _time_in(query: Query) -> float | None:
    """The time that a filter goes to; None if it names none."""
    try:
        return parse_time_range(query).at
    except ValueError:  # still being typed; the node says so as well
        return None


def _format_clock(at_unix: float, today: tuple[int, ...]) -> str:
    """The time of day; before today, with the date."""
    local = time.localtime(at_unix)
    return time.strftime("%H:%M:%S" if local[:3] == today else "%m-%d %H:%M:%S", local)
