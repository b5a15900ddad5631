"""Tracks whether this node has what its connected peers have, for a caller who asked.

Invariants:

- A peer counts once a comparison that began after the request succeeded: a round compared all streams
  and ended with nothing left to fetch, or its digest equals ours. A digest covers what has not changed
  for 2 s; with more streams than fit into one round it is the only proof.
- A round that does not succeed is repeated, at most once per second in the long run: peers answer one
  vector per second.
- Nothing is sent unless somebody asked.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId

CHECK_INTERVAL_S: Final = 0.1  # between looks for new links, while somebody waits
MIN_RETRY_S: Final = 0.25  # doubled with each attempt
MAX_RETRY_S: Final = 1.0
PROMPT_RETRY_S: Final = 0.02  # after a round that brought messages
MAX_PROMPT_REPEATS: Final = 3
ATTEMPTS_RESET_S: Final = 10.0  # without a round of ours


class _Attempts(NamedTuple):
    """Rounds that were started with one peer."""

    count_before: int
    last_at: float
    next_at: float


_NO_ATTEMPTS: Final = _Attempts(-1, -math.inf, -math.inf)


class CatchUp:
    """The request of a caller, and the peers that already count. Both tables hold connected peers only."""

    def __init__(self) -> None:
        self._since = math.inf  # of the request; math.inf: there is none
        self._give_up_at = -math.inf
        self._synced: set[PeerId] = set()
        self._attempts: dict[PeerId, _Attempts] = {}
        self.deadline = math.inf

    def request(self, now: float, timeout_s: float) -> None:
        """Somebody waits until this node has what its peers have now, for at most `timeout_s`."""
        self._since = now
        self._give_up_at = max(self._give_up_at, now + timeout_s)
        self._synced.clear()
        self.deadline = now

    def on_synced(self, peer_id: PeerId, started_at: float) -> None:
        """A comparison with `peer_id` that began at `started_at` succeeded."""
        if started_at >= self._since:
            self._synced.add(peer_id)

    def repeat(self, peer_id: PeerId, now: float) -> None:
        """A round with `peer_id` brought messages, and more are in transit: compares again soon."""
        attempts = self._attempts.get(peer_id)
        if attempts is not None and attempts.count_before < MAX_PROMPT_REPEATS:
            self._attempts[peer_id] = attempts._replace(next_at=now + PROMPT_RETRY_S)
            self.deadline = min(self.deadline, now + PROMPT_RETRY_S)

    def on_link_down(self, peer_id: PeerId) -> None:
        """The link with `peer_id` closed."""
        self._synced.discard(peer_id)
        self._attempts.pop(peer_id, None)

    def due_peers(self, linked: Collection[PeerId], now: float) -> list[PeerId]:
        """The peers with which to start a round now. The caller starts it."""
        if now < self.deadline:
            return []
        if now >= self._give_up_at:
            self._end()
            return []
        self.deadline = now + CHECK_INTERVAL_S
        due: list[PeerId] = []
        for peer_id in linked:
            attempts = self._attempts.get(peer_id, _NO_ATTEMPTS)
            if peer_id not in self._synced and now >= attempts.next_at:
                is_reset = now - attempts.last_at >= ATTEMPTS_RESET_S
                count_before = 0 if is_reset else attempts.count_before + 1
                retry_s = min(MAX_RETRY_S, MIN_RETRY_S * (1 << min(count_before, 8)))
                self._attempts[peer_id] = _Attempts(count_before, now, now + retry_s)
                due.append(peer_id)
        return due

    def complete(self, linked: Collection[PeerId]) -> bool:
        """Whether the request is fulfilled: every connected peer counts, and there is one. It ends then."""
        is_complete = self._since < math.inf and bool(linked) and self._synced.issuperset(linked)
        if is_complete:
            self._end()
        return is_complete

    def _end(self) -> None:
        self._since = self.deadline = math.inf
        self._give_up_at = -math.inf
        self._synced.clear()
