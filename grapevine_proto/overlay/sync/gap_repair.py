"""When to ask for holes, and for which: what was missed below a stream's mark is known to be missed.

Whoever has a hole knows it, so no digest is needed: it is asked for as soon as it has stood a moment,
of a peer at random, of a second one a second later. A mechanism of `antientropy`.

What must stay true: a new hole never waits for the pauses of old ones; what five questions in a row
could not fill, while nothing else changed, is asked for ever more rarely, down to once in
`GAP_REQUEST_MAX_INTERVAL_S`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.store.message_store import MessageStore

GAP_REQUEST_INTERVAL_S: Final = (
    1.0  # how long a hole stands before it is asked for, and between questions
)
GAP_REQUEST_MAX_INTERVAL_S: Final = (
    16.0  # between questions about what most likely nobody holds any more
)
REQUESTS_BEFORE_BACKOFF: Final = 5  # in vain, about each hole, before pauses grow
GAPS_REQUESTED_LIMIT: Final = 256  # that are asked for in turn
DOUBLINGS_LIMIT: Final = 10


class GapRepair:
    """What is asked about holes. `due_at` says when the next question may go out."""

    def __init__(self, store: MessageStore, now: float) -> None:
        self._store = store
        self._next_request_at = self._last_request_at = now
        self._last_request: tuple[list[StreamRange], tuple[PeerId, ...]] = (
            [],
            (),
        )  # what, with whom linked
        self._fruitless_requests = self._page = 0

    @property
    def due_at(self) -> float:
        if not self._store.has_gaps:
            return math.inf
        eligible_at = self._store.newest_gap_at + GAP_REQUEST_INTERVAL_S
        if eligible_at <= self._last_request_at:
            return self._next_request_at
        return min(
            self._next_request_at, max(eligible_at, self._last_request_at + GAP_REQUEST_INTERVAL_S)
        )

    def postpone(self, now: float) -> None:
        """This is no moment to ask: again in a while."""
        self._next_request_at, self._last_request_at = now + GAP_REQUEST_INTERVAL_S, now

    def next_request(
        self, linked: tuple[PeerId, ...], limit: int, now: float
    ) -> tuple[StreamRange, ...]:
        """What to ask one of `linked` for, in turn where there are more than `limit`."""
        self.postpone(now)
        gaps = self._store.gaps(now, GAP_REQUEST_INTERVAL_S, GAPS_REQUESTED_LIMIT)
        if not gaps or not linked:
            return ()
        self._fruitless_requests = (
            self._fruitless_requests + 1 if self._last_request == (gaps, linked) else 0
        )
        self._last_request = (gaps, linked)
        pages = math.ceil(len(gaps) / limit)
        doublings = min(
            max(0, self._fruitless_requests + 1 - REQUESTS_BEFORE_BACKOFF * pages), DOUBLINGS_LIMIT
        )
        self._next_request_at = now + min(
            GAP_REQUEST_INTERVAL_S * 2**doublings, GAP_REQUEST_MAX_INTERVAL_S
        )
        start = self._page % pages * limit
        self._page = self._page % pages + 1
        return tuple(gaps[start : start + limit])
