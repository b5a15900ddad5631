"""The message log: a view upon the model's ring that formats only the lines on the screen.

What must stay true:

- Ten thousand messages a second cost this widget nothing but one repaint of its visible lines
  each time it is told to `catch_up`.
- While following, the newest line is at the bottom. Once scrolled, the same messages stay under
  the reader's eyes however many arrive or are let go; `below` tells how many wait.
- The cursor names a message by its number, not by its line. No key acts on a message that is not lit
  on the screen; while following that is the newest one.
"""

from __future__ import annotations

import time
from typing import ClassVar, Final

from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message as Posted
from textual.strip import Strip

from grapevine_proto.events import Via
from grapevine_proto.ids import PeerId
from grapevine_tui.keys import MESSAGES
from grapevine_tui.model import Model
from grapevine_tui.query import EVERYTHING, Query, message_test
from grapevine_tui.ring import Entry
from grapevine_tui.sieve import Sieve
from grapevine_tui.text import broken, fit, printable, show_payload
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.look import AUTHOR_TONES, Piece, paint
from grapevine_tui.widgets.painted import CURSOR_HERE, PaintedView

NOTHING: Final = "No message yet. Press i to write one."
NOTHING_TINY: Final = "No message yet."
BEHIND_S: Final = 0.02  # between two goes at a search through a full ring
AUTHOR_CELLS: Final = 9
AUTHORS_KEPT: Final = 4096  # authors whose colour is remembered
VIA_CELLS: Final = 7
HOPS_CELLS: Final = 6
NARROW_CELLS: Final = 60  # below this a line is the time, the author and the text
BRIEF_CELLS: Final = 48  # below this the time is without its seconds
TINY_CELLS: Final = 32  # and below this there is only author and text
VIA_TONES: Final = {Via.EAGER: "dim", Via.LAZY: "dim", Via.REPAIR: "warn", Via.LOCAL: "good"}


class MessageLog(PaintedView):
    """One line a message. Enter posts `Chosen` with the message under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(MESSAGES)

    class Chosen(Posted):
        """Enter, or a double click on a line."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    class Asked(Posted):
        """`what` is wanted of the message under the cursor: copy or copy_id."""

        def __init__(self, what: str, entry: Entry) -> None:
            super().__init__()
            self.what = what
            self.entry = entry

    class ExportAsked(Posted):
        """All that is shown is wanted in a file."""

    class Moved(Posted):
        """The view was scrolled, or follows again."""

    def __init__(self, model: Model, *, name_in_dom: str) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._model = model
        self._sieve = Sieve(model.messages)  # lines -> messages, as of the last catch_up
        self.wanted = EVERYTHING
        self._anchor: int | None = None  # where the cursor was before there was a filter
        self._placed: int | None = None  # and where the filter put it
        self._cursor: int | None = None
        self._is_moving_itself = False
        self.is_following = True
        self.empty = NOTHING
        """What stands there while nothing was said."""
        self._tones: dict[PeerId, str] = {}

    def _author_tone(self, author: PeerId) -> str:
        """Each author keeps a colour, given in turn, so that an eye can follow one in a crowd."""
        tone = self._tones.get(author)
        if tone is None:
            if len(self._tones) >= AUTHORS_KEPT:
                self._tones.clear()
            tone = self._tones[author] = f"author-{len(self._tones) % AUTHOR_TONES}"
        return tone

    @property
    def below(self) -> int:
        """How many messages there are after the last one on the screen."""
        if self.is_following:
            return 0
        waiting = 0 if self.wanted else self._model.messages.end - self._sieve.end
        return max(0, len(self._sieve) + waiting - self.scroll_offset.y - self.size.height)

    @property
    def shown(self) -> int:
        """How many messages there are to scroll through."""
        return len(self._sieve)

    def want(self, query: Query) -> None:
        """Show those messages alone that match; the cursor stays with its message, or the next."""
        if query == self.wanted:
            return
        self.wanted = query
        self._sieve.want(message_test(query, self._model) if query else None)
        self._sieve.catch_up()
        self._measure()
        if not self.is_following:
            if self._cursor != self._placed:  # moved by hand since the last change
                self._anchor = self._cursor
            self._return_to_anchor()
        self.catch_up()
        self.refresh()

    def _return_to_anchor(self) -> None:
        """Put the cursor on the message it was on before anything was typed, or the one nearest."""
        if self._anchor is None:
            self.action_follow()
        elif len(self._sieve) and not self._sieve.is_behind:
            line = self._sieve.line_of(self._anchor)
            self._move_to_line(min(line, len(self._sieve) - 1))
        self._placed = self._cursor

    def wanted_entries(self) -> list[Entry]:
        """The messages that are shown, oldest first."""
        while self._sieve.is_behind:
            self._sieve.catch_up()
        return self._sieve.entries()

    @property
    def cursor_entry(self) -> Entry | None:
        """The message under the cursor; while following the last one."""
        number = self._cursor
        if number is None:
            number = self._sieve.number_at(len(self._sieve) - 1)
        return None if number is None else self._model.messages.get(number)

    def catch_up(self) -> None:
        """Take in what the ring has got since the last time, and repaint if that can be seen."""
        had = len(self._sieve)
        let_go = self._sieve.catch_up()
        lines = len(self._sieve)
        self._measure()
        if self.is_following:
            self._scroll(self.max_scroll_y)
            if lines != had or let_go:
                self.refresh()
        elif let_go:
            self._scroll(max(0, self.scroll_offset.y - let_go))
            self.refresh()
        elif had < self.size.height + self.scroll_offset.y:
            self.refresh()
        if self._sieve.is_behind:
            self.set_timer(BEHIND_S, self._catch_up_again)

    def _catch_up_again(self) -> None:
        self.catch_up()
        self.post_message(self.Moved())

    def _measure(self) -> None:
        self._is_moving_itself = True  # fewer lines may move the view: nobody has scrolled
        self.virtual_size = Size(self.size.width, len(self._sieve))
        self._is_moving_itself = False

    def _scroll(self, y: int) -> None:
        self._is_moving_itself = True
        self.scroll_to(y=y, animate=False, force=True)
        self._is_moving_itself = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self._is_moving_itself or old_value > self.max_scroll_y:
            return  # a view that had to give way to fewer lines was not scrolled by anybody
        self._set_following(round(new_value) >= self.max_scroll_y)

    def _set_following(self, is_following: bool) -> None:
        if is_following:
            self._cursor = None
        self.is_following = is_following
        self.post_message(self.Moved())

    def on_resize(self, event: events.Resize) -> None:
        self.catch_up()
        if self._cursor is not None:  # toasts come and go, and must not hide what keys act upon
            line = self._sieve.line_of(self._cursor)
            below = line - self.scroll_offset.y - max(1, self.size.height) + 1
            if 0 < below < self.size.height:
                self._scroll(self.scroll_offset.y + below)
        self.refresh()

    # Painting

    def render_line(self, y: int) -> Strip:
        width = self.room
        base = self.inks.base
        number = self._sieve.number_at(self.scroll_offset.y + y)
        entry = self._model.messages.get(number) if number is not None else None
        if entry is None:
            return self._vacant(y, is_gone=number is not None, width=width, base=base)
        if self.has_focus and number == self._lit_number:
            base += self.inks.ground("cursor")
        line = paint(self._pieces(entry, width), width - 1, base)
        return line.extend_cell_length(width, base)

    @property
    def _lit_number(self) -> int | None:
        """The message that keys act upon; None: none is shown as such."""
        if self._cursor is None and self.is_following:
            return self._sieve.number_at(len(self._sieve) - 1)
        return self._cursor

    def _find_cursor(self) -> bool:
        """Whether a key may act. Where the cursor was not seen it is brought into view instead."""
        number = self._lit_number
        if not len(self._sieve):
            return False
        top, height = self.scroll_offset.y, max(1, self.size.height)
        is_here = self.screen.focused is self
        if number is not None and is_here and top <= self._sieve.line_of(number) < top + height:
            return True
        self.focus()
        seen = min(len(self._sieve), top + height) - 1
        self._move_to_line(seen if number is None else self._sieve.line_of(number))
        self.app.notify(CURSOR_HERE, markup=False)
        return False

    def _vacant(self, y: int, *, is_gone: bool, width: int, base: Style) -> Strip:
        words = ""
        if is_gone:  # a pause outlived it
            words = "… let go"
        elif not len(self._sieve):
            empty = "Nothing matches. esc clears the filter." if self.wanted else self.empty
            words = dict(enumerate(broken(empty, width - 2))).get(y, "")
        return paint([Piece(f" {words}", self.inks.ink("empty"))], width, base)

    def _pieces(self, entry: Entry, width: int) -> list[Piece]:
        message = entry.message
        author = printable(self._model.name_of(message.origin))
        is_ours = message.via is Via.LOCAL
        author_style = self.inks.ink("good" if is_ours else self._author_tone(message.origin))
        dim = self.inks.ink("dim")
        pieces = [Piece(" ", dim)]
        if width >= TINY_CELLS:
            form = "%H:%M:%S " if width >= BRIEF_CELLS else "%H:%M "
            clock = time.strftime(form, time.localtime(entry.at_unix))
            pieces.append(Piece(clock, dim))
        pieces.append(
            Piece(fit(author, AUTHOR_CELLS if width >= NARROW_CELLS else 7) + " ", author_style)
        )
        is_lost = message.id in self._model.undelivered
        if message.private:
            to = "" if message.to is None else f"→ {printable(self._model.name_of(message.to))}"
            way = f"{'failed' if is_lost else 'direct'} {to}" if width >= NARROW_CELLS else to
            room = VIA_CELLS + 1 + HOPS_CELLS if width >= NARROW_CELLS else 2 + 7
            ink = self.inks.ink("bad" if is_lost else "accent")
            pieces += [Piece(fit(way, room) + " ", ink)] * bool(to or width >= NARROW_CELLS)
        elif width >= NARROW_CELLS:
            tone = VIA_TONES.get(message.via, "dim")
            pieces.append(Piece(fit(message.via.value, VIA_CELLS) + " ", self.inks.ink(tone)))
            hops = "" if is_ours else f"{message.hops} hop{'s' if message.hops != 1 else ''}"
            pieces.append(Piece(fit(hops, HOPS_CELLS) + " ", dim))
        pieces.append(
            Piece(show_payload(message.payload, max(16, width * 8)), self.inks.ink("text"))
        )
        return pieces

    # Keys and mouse

    def _move_to_line(self, line: int) -> None:
        number = self._sieve.number_at(max(0, line))
        if number is None:
            self.action_follow()
            return
        self._cursor = number
        self.is_following = False
        line = max(0, line)
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if line < top:
            self._scroll(line)
        elif line >= top + height:
            self._scroll(line - height + 1)
        self.post_message(self.Moved())
        self.refresh()

    def _here(self) -> int:
        """The line that a movement starts from: the cursor's, else one past the last on the screen."""
        if self._cursor is not None:
            return self._sieve.line_of(self._cursor)
        return min(len(self._sieve), self.scroll_offset.y + self.size.height)

    def on_click(self, event: events.Click) -> None:
        at = event.get_content_offset(self)
        if at is not None and self.scroll_offset.y + at.y < len(self._sieve):
            self._move_to_line(self.scroll_offset.y + at.y)
            if event.chain > 1:
                self.action_choose()

    def action_choose(self) -> None:
        entry = self.cursor_entry
        if self._find_cursor() and entry is not None:
            self.post_message(self.Chosen(entry))

    def action_ask(self, what: str) -> None:
        entry = self.cursor_entry
        if self._find_cursor() and entry is not None:
            self.post_message(self.Asked(what, entry))

    def action_export(self) -> None:
        self.post_message(self.ExportAsked())

    def action_move(self, by: int) -> None:
        if len(self._sieve) and not (by > 0 and self.is_following):
            self._move_to_line(self._here() + by)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 1))

    def action_first(self) -> None:
        if len(self._sieve):
            self._move_to_line(0)

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self._set_following(True)
        self.catch_up()
