"""The line at the top, and the two-line summary that stands in for panels where there is no room.

What must stay true: parts are left out by rank when the line is short, never cut in the middle;
whether the node is well (its state, its lag) is the last to go.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from grapevine_proto.config import LIVE_FIELDS, NodeConfig
from grapevine_proto.events import PeerState
from grapevine_tui.model import Model
from grapevine_tui.text import cells, cut, printable
from grapevine_tui.widgets.look import Piece, count_words, graph, span_words
from grapevine_tui.widgets.painted import Painted
from grapevine_tui.widgets.tables import as_of_words, round_number, round_words, seconds_to_round
from grapevine_tui.widgets.traffic import redundancy

LAGGING_S: Final = 0.05  # our own budget for a stall
NAME_CELLS: Final = 20
LOST_CELLS: Final = 48


class Part(NamedTuple):
    """A piece of a line; where there is no room the highest rank is left out first."""

    text: str
    tone: str
    rank: int


def choose(parts: list[Part], width_cells: int) -> list[Part]:
    """Those parts that fit, two cells apart, in their order."""
    kept = list(parts)
    while kept and sum(cells(part.text) + 2 for part in kept) > width_cells:
        kept.remove(max(kept, key=lambda part: part.rank))
    return kept


class StatusLine(Painted):
    """Who we are on the left; how long, how late and what time it is on the right."""

    def __init__(
        self, model: Model, config: NodeConfig, lag: Callable[[], float], *, name_in_dom: str
    ) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._model = model
        self._config = config
        self._lag = lag
        self.is_paused = False
        self.paused_at = 0.0
        self.is_leaving = False
        self.is_tiny = False

    @property
    def node_name(self) -> str:
        """The name of the node as it was set: unchecked text."""
        return self._config.name

    def take(self, config: NodeConfig, *, is_restarted: bool = False) -> None:
        """What the node goes by now; what needs a restart stays as it was."""
        self._config = (
            config
            if is_restarted
            else self._config.replace(
                **{name: getattr(config, name) for name in LIVE_FIELDS if name != "keys"}
            )
        )
        self.refresh()

    def line(self, y: int, width: int) -> list[Piece]:
        if y:
            return []
        left, right = self._left(), self._right()
        kept = choose(left + right, width - 1)
        shown_left = [part for part in left if part in kept]
        shown_right = [part for part in right if part in kept]
        used = sum(cells(part.text) + 2 for part in kept)
        pieces = [Piece(" ", self.inks.ink("text"))]
        for part in shown_left:
            pieces.append(Piece(f"{part.text}  ", self.inks.ink(part.tone)))
        pieces.append(Piece(" " * (width - 1 - used), self.inks.ink("text")))
        for part in shown_right:
            pieces.append(Piece(f"{part.text}  ", self.inks.ink(part.tone)))
        return pieces

    def _left(self) -> list[Part]:
        config, me = self._config, self._model.me
        parts = (
            []
            if self.is_tiny
            else [Part("attached to" if self._model.is_remote else "grapevine", "good", 5)]
        )
        if config.name:
            parts.append(Part(cut(printable(config.name), NAME_CELLS), "key", 2))
        if me is None:
            parts.append(Part("starting…", "warn", 1))
        else:
            parts.append(Part(str(me.address), "text", 3))
            parts.append(Part(me.peer_id.short, "dim", 6))
        parts.append(Part(f"cluster {cut(printable(config.cluster), NAME_CELLS)}", "dim", 9))
        if config.zone:
            parts.append(Part(f"zone {cut(printable(config.zone), NAME_CELLS)}", "dim", 10))
        parts.append(Part(config.strategy, "accent", 11))
        return parts

    def _right(self) -> list[Part]:
        model = self._model
        parts = []
        ago = f"{span_words(time.time() - model.lost_at)} ago" if model.lost_at else ""
        if model.out_of_touch and not self.is_leaving:
            words = f"NODE LOST {ago}: {printable(model.out_of_touch)}"
            parts.append(Part(cut(words, LOST_CELLS), "bad", 0))
        elif model.stopped and not self.is_leaving:
            words = f"STOPPED {ago}: {printable(model.stopped)}"
            parts.append(Part(cut(words, LOST_CELLS), "bad", 0))
        if model.unsaved:
            parts.append(Part("UNSAVED", "bad", 1))
        if self.is_leaving:
            parts.append(Part("detaching…" if model.is_remote else "leaving…", "warn", 0))
        if self.is_paused:
            clock = time.strftime("%H:%M:%S", time.localtime(self.paused_at))
            parts.append(Part(f"PAUSED at {clock}", "warn", 0))
        if self.is_tiny:
            linked = sum(1 for peer in model.peers.values() if peer.state is PeerState.CONNECTED)
            parts.append(Part(f"● {linked}", "good" if linked else "warn", 0))
            return parts
        if model.lost_at:  # what follows would go on counting
            parts.append(Part(time.strftime("%H:%M:%S"), "text", 4))
            return parts
        if model.me is not None:
            up_s = time.time() - model.me.started_at
            parts.append(Part(f"up {span_words(up_s)}", "dim", 8))
        lag_s = self._lag()
        parts.append(Part(f"lag {lag_s * 1000:.0f}ms", "bad" if lag_s > LAGGING_S else "dim", 7))
        parts.append(Part(time.strftime("%H:%M:%S"), "text", 4))
        return parts


class Summary(Painted):
    """Rates on one line and rounds on the next, for a screen of one column."""

    def __init__(self, model: Model, now: Callable[[], float], *, name_in_dom: str) -> None:
        super().__init__(name_in_dom=name_in_dom)
        self._model = model
        self._now = now

    def line(self, y: int, width: int) -> list[Piece]:
        parts = self._rates(width) if y == 0 else self._rounds() if y == 1 else []
        pieces = [Piece(" ", self.inks.ink("dim"))]
        for part in choose(parts, width - 1):
            pieces.append(Piece(f"{part.text}  ", self.inks.ink(part.tone)))
        return pieces

    def _rates(self, width: int) -> list[Part]:
        traffic, stats = self._model.traffic, self._model.stats
        throttled = sum(peer.throttled for peer in self._model.peers.values())
        come = traffic.in_per_s[-1] if traffic.in_per_s else 0.0
        go = traffic.out_per_s[-1] if traffic.out_per_s else 0.0
        size = max(4, min(16, (width - 52) // 2))
        return [
            Part(f"in {graph(traffic.in_per_s, size, 1)[0]} {count_words(come)}/s", "good", 1),
            Part(f"out {graph(traffic.out_per_s, size, 1)[0]} {count_words(go)}/s", "accent", 2),
            Part(f"dup {redundancy(stats):.2f}", "dim", 5),
            Part(f"lost {count_words(stats.lost)}", "bad" if stats.lost else "dim", 4),
            Part(f"throttled {count_words(throttled)}", "bad" if throttled else "dim", 3),
        ]

    def _rounds(self) -> list[Part]:
        model = self._model
        number = round_number(model)
        wait_s = seconds_to_round(model, self._now())
        parts = [Part(f"round {number}" if number else "no round yet", "key", 2)]
        if model.lost_at:
            parts.append(Part(as_of_words(model), "bad", 0))
        elif wait_s is not None:
            parts.append(Part(f"next in {wait_s} s", "accent", 1))
        for back in range(min(2, len(model.rounds))):
            done = model.rounds[-1 - back].round
            name = cut(printable(model.name_of(done.peer)), NAME_CELLS)
            parts.append(Part(f"{name} {round_words(done)}", "dim", 3 + back))
        return parts
