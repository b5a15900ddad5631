"""The line at the bottom that names the keys that are keys where one is.

What must stay true:

- What does not fit is left out whole, the least needed first; help and quit stay as long as there is
  room for a word. Where there is room the line is filled, with every key that works here.
- A key is named for what it does now: a switch by the state that it leads to.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

from textual import events
from textual.app import ScreenStackError
from textual.binding import Binding
from textual.dom import NoScreen

from grapevine_tui.text import cells
from grapevine_tui.widgets.bindings import words_of
from grapevine_tui.widgets.look import Piece
from grapevine_tui.widgets.painted import Painted

GAP: Final = 2
REFRESH_S: Final = 0.5
# Names of actions, the last to go first. What has no name (the compose box's own) goes after these two.
ORDER: Final = (
    *(
        "quit",
        "help",
        "back",
        "",
        "save",
        "longer",
        "shorter",
        "new_trace",
        "details",
        "filter",
        "write",
    ),
    *("authors", "older", "newer", "commands", "zoom", "sort", "copy", "connect", "pause", "undo"),
    *(
        "members",
        "trace",
        "status",
        "settings",
        "traffic",
        "deny",
        "forget",
        "send_to",
        "dial_again",
    ),
    *("round", "export", "reverse", "copy_id", "picture", "peers", "messages", "rates", "rounds"),
    *("next_panel", "previous_panel", "first", "last", "page_down", "page_up", "down", "up"),
)


class Offer(NamedTuple):
    """A key with what it does; `at` is where it begins."""

    binding: Binding
    display: str
    words: str
    at: int = 0
    is_shown: bool = True

    @property
    def size(self) -> int:
        return cells(self.display) + 1 + cells(self.words)


def _rank(offer: Offer) -> tuple[bool, int]:
    name = offer.binding.id or ""
    return not offer.is_shown, ORDER.index(name) if name in ORDER else len(ORDER)


def choose(offers: list[Offer], width_cells: int) -> list[Offer]:
    """Those that fit, in their order and with their places: as many as there is room for."""
    kept: set[int] = set()
    used = 1 - GAP
    for index in sorted(range(len(offers)), key=lambda each: _rank(offers[each])):
        needed = offers[index].size + GAP
        if used + needed <= width_cells:
            kept.add(index)
            used += needed
    placed = []
    at = 1
    for each in (offers[index] for index in sorted(kept)):
        placed.append(each._replace(at=at))
        at += each.size + GAP
    return placed


class KeyLine(Painted):
    """Keys of whatever has the focus, of its screen and of the app; a click presses one."""

    def __init__(self, *, name_in_dom: str = "keys") -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._offers: list[Offer] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.take())
        self.set_interval(REFRESH_S, self.take)
        self.take()

    def take(self) -> None:
        """Offer what is a key now, under the words for what it does now."""
        with suppress(NoScreen, ScreenStackError):  # the app ends, and there is no screen any more
            self._take()

    def _take(self) -> None:
        found: dict[str, Offer] = {}
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            if not enabled or not (binding.show or binding.id in ORDER):
                continue
            words = words_of(node, binding)
            known = found.get(words)
            if known is not None and known.binding.action == binding.action:
                continue  # another key for the same
            display = self.app.get_key_display(binding)
            if known is not None and known.is_shown == binding.show:
                found[words] = known._replace(display=f"{known.display} {display}")
            elif words and (known is None or binding.show):
                found[words] = Offer(binding, display, words, is_shown=binding.show)
        offers = sorted(found.values(), key=lambda each: not each.is_shown)
        if offers != self._offers:
            self._offers = offers
            self.refresh()

    def line(self, y: int, width: int) -> list[Piece]:
        if y:
            return []
        pieces = [Piece(" ", self.inks.ink("dim"))]
        for each in choose(self._offers, width):
            pieces.append(Piece(each.display, self.inks.ink("accent")))
            pieces.append(Piece(f" {each.words}{' ' * GAP}", self.inks.ink("dim")))
        return pieces

    def on_click(self, event: events.Click) -> None:
        for each in choose(self._offers, self.size.width):
            if each.at <= event.x < each.at + each.size:
                self.app.simulate_key(each.binding.key)
