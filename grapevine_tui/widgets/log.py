"""The message log: a view upon the model's ring that formats only the lines on the screen.

What must stay true:

- Ten thousand messages a second cost this widget nothing but one repaint of its visible lines
  each time it is told to `catch_up`.
- While following, the newest line is at the bottom. Once scrolled, the same messages stay under
  the reader's eyes however many arrive or are let go; `below` tells how many wait.
- The cursor names a message by its number, not by its line.
"""

from __future__ import annotations

import time
from typing import ClassVar, Final

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message as Posted
from textual.strip import Strip

from grapevine_proto.events import Via
from grapevine_proto.ids import PeerId
from grapevine_tui.model import Entry, Model
from grapevine_tui.text import fit, printable, show_payload
from grapevine_tui.widgets.look import AUTHOR_TONES, Piece, paint
from grapevine_tui.widgets.painted import PaintedView

AUTHOR_CELLS: Final = 9
AUTHORS_KEPT: Final = 4096  # authors whose colour is remembered
VIA_CELLS: Final = 7
HOPS_CELLS: Final = 6
NARROW_CELLS: Final = 60  # below this a line is the time, the author and the text
TINY_CELLS: Final = 32  # and below this only author and text
VIA_TONES: Final = {Via.EAGER: "dim", Via.REPAIR: "warn", Via.LOCAL: "good"}


class MessageLog(PaintedView):
    """One line a message. Enter posts `Chosen` with the message under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Details"),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "follow", "Follow the end", show=False),
    ]

    class Chosen(Posted):
        """Enter, or a double click on a line."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    class Moved(Posted):
        """The view was scrolled, or follows again."""

    def __init__(self, model: Model, *, name_in_dom: str) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._model = model
        self._first = 0  # number of the message on line 0, as of the last catch_up
        self._end = 0  # and one past the last
        self._cursor: int | None = None
        self._is_moving_itself = False
        self.is_following = True
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
        return max(0, self._model.messages.end - self._top() - self.size.height)

    def _top(self) -> int:
        return self._first + self.scroll_offset.y

    def catch_up(self) -> None:
        """Take in what the ring has got since the last time, and repaint if that can be seen."""
        messages = self._model.messages
        moved = messages.first - self._first
        was_full = self._end - self._first >= self.size.height
        self._first, self._end = messages.first, messages.end
        self.virtual_size = Size(self.size.width, len(messages))
        if self.is_following:
            self._scroll(self.max_scroll_y)
            self.refresh()
        elif moved:
            self._scroll(max(0, self.scroll_offset.y - moved))
            self.refresh()
        elif not was_full:
            self.refresh()

    def _scroll(self, y: int) -> None:
        self._is_moving_itself = True
        self.scroll_to(y=y, animate=False, force=True)
        self._is_moving_itself = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self._is_moving_itself:
            return
        self._set_following(round(new_value) >= self.max_scroll_y)

    def _set_following(self, is_following: bool) -> None:
        if is_following:
            self._cursor = None
        self.is_following = is_following
        self.post_message(self.Moved())

    def on_resize(self, event: events.Resize) -> None:
        self.catch_up()
        self.refresh()

    # Painting

    def render_line(self, y: int) -> Strip:
        width = self.room
        base = self.inks.base
        number = self._top() + y
        entry = self._model.messages.get(number) if number < self._end else None
        if entry is None:
            return self._vacant(y, number, width, base)
        if number == self._cursor and self.has_focus:
            base += self.inks.ground("cursor")
        line = paint(self._pieces(entry, width), width - 1, base)
        return line.extend_cell_length(width, base)

    def _vacant(self, y: int, number: int, width: int, base: Style) -> Strip:
        words = ""
        if number < self._model.messages.first:  # a pause outlived it
            words = " … let go"
        elif not self._end and y == 0:
            words = " Nothing said yet. Type below and press Enter."
        style = self.inks.ink("empty")
        return paint([Piece(words, style)], width, base)

    def _pieces(self, entry: Entry, width: int) -> list[Piece]:
        message = entry.message
        author = printable(self._model.name_of(message.origin))
        is_ours = message.via is Via.LOCAL
        author_style = self.inks.ink("good" if is_ours else self._author_tone(message.origin))
        dim = self.inks.ink("dim")
        pieces = [Piece(" ", dim)]
        if width >= TINY_CELLS:
            clock = time.strftime("%H:%M:%S ", time.localtime(entry.at_unix))
            pieces.append(Piece(clock, dim))
        pieces.append(
            Piece(fit(author, AUTHOR_CELLS if width >= NARROW_CELLS else 7) + " ", author_style)
        )
        if width >= NARROW_CELLS:
            via = "private" if message.private else message.via.value
            tone = "accent" if message.private else VIA_TONES.get(message.via, "dim")
            pieces.append(Piece(fit(via, VIA_CELLS) + " ", self.inks.ink(tone)))
            hops = "" if is_ours else f"{message.hops} hop{'s' if message.hops != 1 else ''}"
            pieces.append(Piece(fit(hops, HOPS_CELLS) + " ", dim))
        pieces.append(
            Piece(show_payload(message.payload, max(16, width * 8)), self.inks.ink("text"))
        )
        return pieces

    # Keys and mouse

    def _move_to(self, number: int) -> None:
        if number >= self._end:
            self.action_follow()
            return
        self._cursor = max(self._first, number)
        self.is_following = False
        line = self._cursor - self._first
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if line < top:
            self._scroll(line)
        elif line >= top + height:
            self._scroll(line - height + 1)
        self.post_message(self.Moved())
        self.refresh()

    def _here(self) -> int:
        """The message that a movement starts from: the cursor's, else one past the last line."""
        if self._cursor is not None:
            return self._cursor
        return min(self._end, self._top() + self.size.height)

    def on_click(self, event: events.Click) -> None:
        at = event.get_content_offset(self)
        if at is not None and self._top() + at.y < self._end:
            self._move_to(self._top() + at.y)
            if event.chain > 1:
                self.action_choose()

    def action_choose(self) -> None:
        number = self._end - 1 if self._cursor is None else self._cursor
        entry = self._model.messages.get(number)
        if entry is not None:
            self.post_message(self.Chosen(entry))

    def action_move(self, by: int) -> None:
        if self._end > self._first and not (by > 0 and self.is_following):
            self._move_to(self._here() + by)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 1))

    def action_first(self) -> None:
        if self._end > self._first:
            self._move_to(self._first)

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self._set_following(True)
        self.catch_up()
