"""When to ask for holes, and for which: what was missed below a stream's mark is known to be missed.

Whoever has a hole knows it, so no digest is needed: it is asked for as soon as it has stood a moment,
of a peer at random, of a second one a second later. A mechanism of `antientropy`.

What must stay true: a new hole never waits for the pauses of old ones; what five questions in a row
could not fill, while nothing else changed, is asked for ever more rarely, down to once in `PAUSE_S`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.store import Store

STOOD_S: Final = 1.0  # how long a hole stands before it is asked for, and between questions
PAUSE_S: Final = 16.0  # between questions about what most likely nobody holds any more
QUESTIONS: Final = 5  # in vain, about each hole, before pauses grow
ASKED_LIMIT: Final = 256  # that are asked for in turn
DOUBLINGS_LIMIT: Final = 10


class Holes:
    """What is asked about holes. `due_at` says when the next question may go out."""

    def __init__(self, store: Store, now: float) -> None:
        self._store = store
        self._next_at = self._asked_at = now
        self._asked: tuple[list[StreamRange], tuple[PeerId, ...]] = (
            [],
            (),
        )  # what, with whom linked
        self._in_vain = self._page = 0

    @property
    def due_at(self) -> float:
        if not self._store.has_holes:
            return math.inf
        ripe_at = self._store.hole_opened_at + STOOD_S
        if ripe_at <= self._asked_at:
            return self._next_at
        return min(self._next_at, max(ripe_at, self._asked_at + STOOD_S))

    def put_off(self, now: float) -> None:
        """This is no moment to ask: again in a while."""
        self._next_at, self._asked_at = now + STOOD_S, now

    def to_ask(self, linked: tuple[PeerId, ...], most: int, now: float) -> tuple[StreamRange, ...]:
        """What to ask one of `linked` for, in turn where there are more than `most`."""
        self.put_off(now)
        holes = self._store.holes(now, STOOD_S, ASKED_LIMIT)
        if not holes or not linked:
            return ()
        self._in_vain = self._in_vain + 1 if self._asked == (holes, linked) else 0
        self._asked = (holes, linked)
        pages = math.ceil(len(holes) / most)
        doublings = min(max(0, self._in_vain + 1 - QUESTIONS * pages), DOUBLINGS_LIMIT)
        self._next_at = now + min(STOOD_S * 2**doublings, PAUSE_S)
        start = self._page % pages * most
        self._page = self._page % pages + 1
        return tuple(holes[start : start + most])
