"""Gap repair: requests known gaps without a digest exchange.

A node that has a gap below the highest sequence of a stream knows it. It asks one random peer as
soon as the gap has lasted a moment, and another a second later. A component of `antientropy`.

Invariants:

- A new gap never waits for the backoff of old ones.
- After `REQUESTS_BEFORE_BACKOFF` fruitless requests without other changes, the interval doubles up
  to `GAP_REQUEST_MAX_INTERVAL_S`.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from grapevine_proto.ids import PeerId, StreamRange

GAP_REQUEST_INTERVAL_S: Final = 1.0  # age of a gap before it is requested, and between requests
GAP_REQUEST_MAX_INTERVAL_S: Final = 16.0  # between requests for what probably no node has any more
REQUESTS_BEFORE_BACKOFF: Final = 5  # fruitless ones, about each gap
GAPS_REQUESTED_LIMIT: Final = 256  # requested in turn
DOUBLINGS_LIMIT: Final = 10


class GapSource(Protocol):
    """What knows the gaps: the message store."""

    newest_gap_at: float

    @property
    def has_gaps(self) -> bool: ...

    def gaps(self, now: float, older_than_s: float, limit: int) -> list[StreamRange]: ...


class GapRepair:
    """Chooses the gaps to request. `due_at` is when the next request may be sent."""

    def __init__(self, store: GapSource, now: float) -> None:
        self._store = store
        self._next_request_at = self._last_request_at = now
        self._last_request: tuple[list[StreamRange], tuple[PeerId, ...]] = (
            [],
            (),
        )  # the gaps, and the peers linked then
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
        """Delay the next request by one interval."""
        self._next_request_at, self._last_request_at = now + GAP_REQUEST_INTERVAL_S, now

    def next_request(
        self, linked: tuple[PeerId, ...], limit: int, now: float
    ) -> tuple[StreamRange, ...]:
        """Up to `limit` gaps to request from one of `linked`, in turn if there are more."""
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
