"""The message log: a view of the model's message buffer that formats only the lines on the screen.

Invariants:

- At 10,000 messages/s this widget costs one repaint of its visible lines per `sync`.
- While following, the newest line is at the bottom. Once scrolled, the same messages stay in view
  however many arrive or are evicted; `newer_count` is the number below.
- Find moves the cursor between matches and hides nothing; a filter hides what does not match.
- The cursor refers to a message by number, not by line. No key acts on a message that is not highlighted
  on the screen; while following that is the newest one.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import ClassVar, Final

from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.content import Content
from textual.geometry import Size
from textual.message import Message as Posted
from textual.strip import Strip

from grapevine_proto.events import Via
from grapevine_proto.ids import PeerId
from grapevine_tui.app.highlighter import BUDGET_INTERVAL_S, Highlighter
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.columns import JSON_CELLS, json_texts
from grapevine_tui.app.widgets.format import format_count
from grapevine_tui.app.widgets.line_widget import (
    AUTHOR_TONE_COUNT,
    CURSOR_MOVED_TEXT,
    FOUND_MARK,
    LineScrollView,
    Mark,
    Span,
    render_spans,
)
from grapevine_tui.app.widgets.message_filter import FilteredView
from grapevine_tui.app.widgets.titles import format_title
from grapevine_tui.config.keymap import MESSAGE_KEYS
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import MATCH_ALL, Query, compile_filter
from grapevine_tui.text import format_payload, pad, printable, truncate, via_word, wrap


def log_title(
    model: Model,
    *,
    is_following: bool,
    newer_count: int,
    is_paused: bool,
    filtered: list[tuple[str, str]],
) -> Content:
    parts: list[tuple[str, str]] = [*filtered]
    if model.messages.evicted:
        parts.append((f"{format_count(model.messages.evicted)} evicted", "$text-muted"))
    if is_paused:
        parts.append(("paused", "$warning"))
    elif is_following:
        parts.append(("following", "$success"))
    else:
        parts.append((f"{newer_count:,} newer", "$warning"))
    return format_title(f"Messages {model.messages.end:,}", *parts)


EMPTY_TEXT: Final = "No messages yet. Press i to write one."
EMPTY_TEXT_TINY: Final = "No messages yet."
NO_MATCH_TEXT: Final = "Nothing matches. esc clears the filter, H searches the history."
SYNC_INTERVAL_S: Final = 0.02  # between two steps of filtering a full buffer
AUTHOR_CELLS: Final = 9
MAX_AUTHOR_TONES: Final = 4096  # authors whose color is remembered
VIA_CELLS: Final = 7
HOPS_CELLS: Final = 6
TOPIC_CELLS: Final = 12  # of a topic in a narrow panel
WITH_ROUTE_CELLS: Final = 60  # narrower lines show time, author and text
WITH_SECONDS_CELLS: Final = 48  # narrower lines show the time without seconds
WITH_TIME_CELLS: Final = 32  # narrower lines show author and text
VIA_TONES: Final = {Via.EAGER: "dim", Via.LAZY: "dim", Via.REPAIR: "warn", Via.LOCAL: "good"}


class MessageAction(Enum):
    """What can be requested for the selected message. The value is the name of the key."""

    COPY = "copy"
    COPY_ID = "copy_id"
    FOLLOW = "follow"
    HAS = "has"


class MessageLog(LineScrollView):
    """One line per message. Enter posts `MessageSelected` with the message under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(MESSAGE_KEYS)

    class MessageSelected(Posted):
        """Enter was pressed, or a line double-clicked."""

        def __init__(self, entry: LogEntry, *, size_bytes: int | None = None) -> None:
            """`size_bytes` is that of the whole payload, if the entry has its beginning only."""
            super().__init__()
            self.entry = entry
            self.size_bytes = size_bytes

    class OlderRequested(Posted):
        """A movement would leave the log at its top: show what is older than `before` (Unix seconds)."""

        def __init__(self, before: float) -> None:
            super().__init__()
            self.before = before

    class ActionRequested(Posted):
        """`action` is requested for the message under the cursor."""

        def __init__(self, action: MessageAction, entry: LogEntry) -> None:
            super().__init__()
            self.action = action
            self.entry = entry

    class FindRequested(Posted):
        """Ask what to find."""

    class ExportRequested(Posted):
        """Export the shown messages."""

    class Scrolled(Posted):
        """The view was scrolled, or follows again."""

    def __init__(self, model: Model, highlighter: Highlighter, *, id: str) -> None:
        super().__init__(id=id)
        self._model = model
        self._highlighter = highlighter
        self._filtered_view = FilteredView(model.messages)
        self.filter_query = MATCH_ALL
        self._found_view = FilteredView(model.messages)
        self.json_columns: tuple[str, ...] = ()
        """Fields of JSON payloads shown before the text, ``json:PATH`` each."""
        self.find_query = MATCH_ALL
        """What `next_match` goes to."""
        self._unfiltered_cursor: int | None = None  # the cursor before the filter
        self._filtered_cursor: int | None = None  # where the filter moved it
        self._cursor: int | None = None
        self._is_internal_scroll = False
        self.is_following = True
        self.empty = EMPTY_TEXT
        """The text shown while there are no messages."""
        self._tones: dict[PeerId, str] = {}

    def _author_tone(self, author: PeerId) -> str:
        """Return the author's tone: assigned in turn and kept, so that one author is easy to follow."""
        tone = self._tones.get(author)
        if tone is None:
            if len(self._tones) >= MAX_AUTHOR_TONES:
                self._tones.clear()
            tone = self._tones[author] = f"author-{len(self._tones) % AUTHOR_TONE_COUNT}"
        return tone

    @property
    def newer_count(self) -> int:
        """The number of messages below the last one on the screen."""
        if self.is_following:
            return 0
        unsynced = 0 if self.filter_query else self._model.messages.end - self._filtered_view.end
        return max(0, len(self._filtered_view) + unsynced - self.scroll_offset.y - self.size.height)

    @property
    def line_count(self) -> int:
        """The number of lines, with the filter applied."""
        return len(self._filtered_view)

    def set_filter(self, query: Query) -> None:
        """Show only messages that match; the cursor stays on its message, or moves to the next one."""
        if query == self.filter_query:
            return
        self.filter_query = query
        self._filtered_view.set_filter(compile_filter(query, self._model) if query else None)
        self._filtered_view.sync()
        self._set_found_view()
        self._update_virtual_size()
        if not self.is_following:
            if self._cursor != self._filtered_cursor:  # the user moved it since the last change
                self._unfiltered_cursor = self._cursor
            self._restore_cursor()
        self.sync()
        self.refresh()

    def set_find(self, query: Query) -> None:
        """Mark the messages that match among those that are shown."""
        if query != self.find_query:
            self.find_query = query
            self._set_found_view()
            self.sync()
            self.refresh()

    def _set_found_view(self) -> None:
        both = self.find_query._replace(terms=(*self.filter_query.terms, *self.find_query.terms))
        self._found_view.set_filter(compile_filter(both, self._model))

    @property
    def match_count(self) -> int:
        """How many messages that are shown match what is looked for."""
        return len(self._found_view) if self.find_query else 0

    @property
    def match_position(self) -> int:
        """Which of them is under the cursor, from 1; 0 if none is."""
        line = -1 if self._cursor is None else self._found_line(self._cursor)
        return line + 1

    def _found_line(self, number: int) -> int:
        """Where a message is among the matches; -1 if it is none."""
        line = self._found_view.line_of(number)
        return line if self._found_view.number_at(line) == number else -1

    def go_to_match(self, by: int) -> bool:
        """Put the cursor on the next match (1) or the previous one (-1), after the last one on the first, and
        show the messages around it; return whether there is one."""
        count = self.match_count
        if not count:
            return False
        here = self._model.messages.end if self._cursor is None else self._cursor
        line = self._found_view.line_of(here)
        is_on_match = self._found_view.number_at(line) == here
        line = line + is_on_match if by > 0 else line - 1
        number = self._found_view.number_at(line % count)
        if number is not None:
            self._move_cursor_to_line(self._filtered_view.line_of(number))
            self._center_cursor()
        return True

    def _center_cursor(self) -> None:
        """Show as many lines above the cursor as below it."""
        if self._cursor is not None:
            top = self._filtered_view.line_of(self._cursor) - self.size.height // 2
            self._scroll_internally(min(max(0, top), self.max_scroll_y))

    def _restore_cursor(self) -> None:
        """Put the cursor on the message it was on before the filter, or the nearest one."""
        if self._unfiltered_cursor is None:
            self.action_follow()
        elif len(self._filtered_view) and not self._filtered_view.is_behind:
            line = self._filtered_view.line_of(self._unfiltered_cursor)
            self._move_cursor_to_line(min(line, len(self._filtered_view) - 1))
        self._filtered_cursor = self._cursor

    def filtered_entries(self) -> list[LogEntry]:
        """Return all messages that match, oldest first."""
        while self._filtered_view.is_behind:
            self._filtered_view.sync()
        return self._filtered_view.entries()

    @property
    def cursor_entry(self) -> LogEntry | None:
        """The message under the cursor; the newest one while following."""
        number = self._cursor
        if number is None:
            number = self._filtered_view.number_at(len(self._filtered_view) - 1)
        return None if number is None else self._model.messages.get(number)

    def sync(self) -> None:
        """Apply changes of the buffer since the last call; repaint if they are visible."""
        old_count = len(self._filtered_view)
        evicted = self._filtered_view.sync()
        if self.find_query:
            self._found_view.sync()
        new_count = len(self._filtered_view)
        self._update_virtual_size()
        if self.is_following:
            self._scroll_internally(self.max_scroll_y)
            if new_count != old_count or evicted:
                self.refresh()
        elif evicted:
            self._scroll_internally(max(0, self.scroll_offset.y - evicted))
            self.refresh()
        elif old_count < self.size.height + self.scroll_offset.y:
            self.refresh()
        if self._filtered_view.is_behind or (self.find_query and self._found_view.is_behind):
            self.set_timer(SYNC_INTERVAL_S, self._sync_again)

    def _sync_again(self) -> None:
        self.sync()
        self.post_message(self.Scrolled())

    def _update_virtual_size(self) -> None:
        self._is_internal_scroll = True  # fewer lines may move the view; the user did not scroll
        self.virtual_size = Size(self.size.width, len(self._filtered_view))
        self._is_internal_scroll = False

    def _scroll_internally(self, y: int) -> None:
        self._is_internal_scroll = True
        self.scroll_to(y=y, animate=False, force=True)
        self._is_internal_scroll = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self._is_internal_scroll or old_value > self.max_scroll_y:
            return  # the view moved because lines were removed; the user did not scroll
        self._set_following(round(new_value) >= self.max_scroll_y)

    def _set_following(self, is_following: bool) -> None:
        if is_following:
            self._cursor = None
        self.is_following = is_following
        self.post_message(self.Scrolled())

    def on_resize(self, event: events.Resize) -> None:
        self.sync()
        if self._cursor is not None:  # toasts resize the log; the cursor must stay visible
            line = self._filtered_view.line_of(self._cursor)
            hidden_lines = line - self.scroll_offset.y - max(1, self.size.height) + 1
            if 0 < hidden_lines < self.size.height:
                self._scroll_internally(self.scroll_offset.y + hidden_lines)
        self.refresh()

    # Rendering

    def render_line(self, y: int) -> Strip:
        width = self.line_cells
        base = self.tone_styles.base
        number = self._filtered_view.number_at(self.scroll_offset.y + y)
        entry = self._model.messages.get(number) if number is not None else None
        if entry is None:
            return self._empty_line(y, is_evicted=number is not None, width=width, base=base)
        if self.has_focus and number == self._highlighted_number:
            base += self.tone_styles.background("cursor")
        line = render_spans(self._entry_spans(entry, width), width - 1, base)
        if self._highlighter.is_behind:
            self._highlighter.is_behind = False
            self.set_timer(BUDGET_INTERVAL_S, self.refresh)
        return line.extend_cell_length(width, base)

    @property
    def _highlighted_number(self) -> int | None:
        """The message that keys act on, or None if no line is highlighted."""
        if self._cursor is None and self.is_following:
            return self._filtered_view.number_at(len(self._filtered_view) - 1)
        return self._cursor

    def _ensure_cursor_visible(self) -> bool:
        """Return whether a key may act now; if the cursor was out of sight, bring it into view instead."""
        number = self._highlighted_number
        if not len(self._filtered_view):
            return False
        top, height = self.scroll_offset.y, max(1, self.size.height)
        is_focused = self.screen.focused is self
        if (
            number is not None
            and is_focused
            and top <= self._filtered_view.line_of(number) < top + height
        ):
            return True
        self.focus()
        last_visible = min(len(self._filtered_view), top + height) - 1
        self._move_cursor_to_line(
            last_visible if number is None else self._filtered_view.line_of(number)
        )
        self.app.notify(CURSOR_MOVED_TEXT, markup=False)
        return False

    def _empty_line(self, y: int, *, is_evicted: bool, width: int, base: Style) -> Strip:
        text = ""
        if is_evicted:  # while the screen was paused
            text = "… evicted"
        elif not len(self._filtered_view):
            empty = NO_MATCH_TEXT if self.filter_query else self.empty
            text = dict(enumerate(wrap(empty, width - 2))).get(y, "")
        return render_spans([Span(f" {text}", self.tone_styles.foreground("empty"))], width, base)

    def _entry_spans(self, entry: LogEntry, width: int) -> list[Span]:
        message = entry.message
        author = printable(self._model.name_of(message.origin))
        is_own = message.via is Via.LOCAL
        author_style = self.tone_styles.foreground(
            "good" if is_own else self._author_tone(message.origin)
        )
        dim = self.tone_styles.foreground("dim")
        mark = self._mark_of(entry)
        spans = [self.mark_span(mark)]
        if width >= WITH_TIME_CELLS:
            time_format = "%H:%M:%S " if width >= WITH_SECONDS_CELLS else "%H:%M "
            clock = time.strftime(time_format, time.localtime(entry.at_unix))
            spans.append(Span(clock, dim))
        spans.append(
            Span(pad(author, AUTHOR_CELLS if width >= WITH_ROUTE_CELLS else 7) + " ", author_style)
        )
        is_undelivered = message.id in self._model.undelivered
        if message.is_direct:
            to = "" if message.to is None else f"→ {printable(self._model.name_of(message.to))}"
            route = (
                f"{'failed' if is_undelivered else 'direct'} {to}"
                if width >= WITH_ROUTE_CELLS
                else to
            )
            route_cells = VIA_CELLS + 1 + HOPS_CELLS if width >= WITH_ROUTE_CELLS else 2 + 7
            style = self.tone_styles.foreground("bad" if is_undelivered else "accent")
            spans += [Span(pad(route, route_cells) + " ", style)] * bool(
                to or width >= WITH_ROUTE_CELLS
            )
        elif width >= WITH_ROUTE_CELLS:
            tone = VIA_TONES.get(message.via, "dim")
            spans.append(
                Span(pad(via_word(message.via), VIA_CELLS) + " ", self.tone_styles.foreground(tone))
            )
            hops = "" if is_own else f"{message.hops} hop{'s' if message.hops != 1 else ''}"
            spans.append(Span(pad(hops, HOPS_CELLS) + " ", dim))
        if message.topic:
            topic = truncate(message.topic, max(TOPIC_CELLS, width // 5))
            spans.append(Span(f"{topic}  ", self.tone_styles.foreground("accent")))
        if self.json_columns and width >= WITH_ROUTE_CELLS:
            texts = json_texts(message.payload, self.json_columns)
            key_style = self.tone_styles.foreground("key")
            spans += [Span(pad(each, JSON_CELLS) + " ", key_style) for each in texts]
        spans.append(
            Span(
                format_payload(message.payload, max(16, width * 8)),
                self.tone_styles.foreground("text") if mark is None else self.mark_style(mark),
            )
        )
        return spans

    def _mark_of(self, entry: LogEntry) -> Mark | None:
        if self.find_query and self._found_line(entry.number) >= 0:
            return FOUND_MARK
        return self._highlighter.mark_of_message(entry.number, entry.message)

    # Keys and mouse

    def _move_cursor_to_line(self, line: int) -> None:
        number = self._filtered_view.number_at(max(0, line))
        if number is None:
            self.action_follow()
            return
        self._cursor = number
        self.is_following = False
        line = max(0, line)
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if line < top:
            self._scroll_internally(line)
        elif line >= top + height:
            self._scroll_internally(line - height + 1)
        self.post_message(self.Scrolled())
        self.refresh()

    def go_to(self, number: int) -> bool:
        """Put the cursor on the message of that number; return whether it is still there."""
        self.sync()
        if self._model.messages.get(number) is None:
            return False
        self._move_cursor_to_line(self._filtered_view.line_of(number))
        return True

    def _current_line(self) -> int:
        """Return the line that a movement starts from: the cursor's, else one past the last visible one."""
        if self._cursor is not None:
            return self._filtered_view.line_of(self._cursor)
        return min(len(self._filtered_view), self.scroll_offset.y + self.size.height)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None and self.scroll_offset.y + offset.y < len(self._filtered_view):
            self._move_cursor_to_line(self.scroll_offset.y + offset.y)
            if event.chain > 1:
                self.action_select()

    def action_select(self) -> None:
        entry = self.cursor_entry
        if self._ensure_cursor_visible() and entry is not None:
            self.post_message(self.MessageSelected(entry))

    def action_request(self, action: str) -> None:
        entry = self.cursor_entry
        if self._ensure_cursor_visible() and entry is not None:
            self.post_message(self.ActionRequested(MessageAction(action), entry))

    def action_find(self) -> None:
        self.post_message(self.FindRequested())

    def action_next_match(self, by: int) -> None:
        """Go to the next match, or ask what to find."""
        if not self.find_query:
            self.action_find()
        elif not self.go_to_match(by):
            self.app.notify("nothing matches", markup=False)

    def action_export(self) -> None:
        self.post_message(self.ExportRequested())

    def action_move(self, by: int) -> None:
        if by < 0 and self._is_at_top():
            self._request_older()
        elif len(self._filtered_view) and not (by > 0 and self.is_following):
            self._move_cursor_to_line(self._current_line() + by)

    def _is_at_top(self) -> bool:
        """Whether there is no line above the cursor."""
        return not len(self._filtered_view) or self._cursor == self._filtered_view.number_at(0)

    def _request_older(self) -> None:
        number = self._filtered_view.number_at(0)
        entry = None if number is None else self._model.messages.get(number)
        self.post_message(self.OlderRequested(time.time() if entry is None else entry.at_unix))

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 1))

    def action_first(self) -> None:
        if self._is_at_top():
            self._request_older()
        elif len(self._filtered_view):
            self._move_cursor_to_line(0)

    def action_follow(self) -> None:
        """Scroll to the newest message and follow."""
        self._set_following(True)
        self.sync()
