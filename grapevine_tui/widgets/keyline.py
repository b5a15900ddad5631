"""The line at the bottom that names the keys that are keys where one is.

What must stay true: what does not fit is left out whole, the least needed first; help and quit stay
as long as there is room for a word.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from textual import events
from textual.binding import Binding

from grapevine_tui.text import cells
from grapevine_tui.widgets.look import Piece
from grapevine_tui.widgets.painted import Painted

GAP: Final = 2
# Names of actions, the last to go first. What has no name (the compose box's own) goes after these two.
ORDER: Final = (
    *("quit", "help", "back", "", "save", "traffic", "details", "filter", "write", "authors"),
    *("trace", "older", "newer", "commands", "zoom", "sort", "copy", "connect", "pause"),
)


class Offer(NamedTuple):
    """A key with what it does; `at` is where it begins."""

    binding: Binding
    display: str
    words: str
    at: int = 0

    @property
    def size(self) -> int:
        return cells(self.display) + 1 + cells(self.words)


def _rank(offer: Offer) -> int:
    name = offer.binding.id or ""
    return ORDER.index(name) if name in ORDER else len(ORDER)


def choose(offers: list[Offer], width_cells: int) -> list[Offer]:
    """Those that fit, in their order and with their places."""
    kept = list(offers)
    while kept and 1 + sum(each.size + GAP for each in kept) - GAP > width_cells:
        # Of equals the last one goes.
        kept.remove(max(reversed(kept), key=_rank))
    placed = []
    at = 1
    for each in kept:
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
        self.take()

    def take(self) -> None:
        """Offer what is a key now."""
        found: dict[str, Offer] = {}
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and enabled and binding.action not in found:
                display = self.app.get_key_display(binding)
                found[binding.action] = Offer(binding, display, binding.description)
        offers = list(found.values())
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
