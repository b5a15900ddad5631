"""What this node said to everybody and nobody is known to have.

What must stay true:

- A rumor of ours counts from when it is said until one peer is known to have it: that peer's reports
  tell of every packet that carried it, or a round of repair found both ends agreed. That a peer links,
  or that a packet went, is no such word.
- Agreement is about our whole stream or about nothing: a digest leaves out a stream that was not still
  yet when the round began, and then says nothing of what was said in it before.
- It counts payloads, each once, whatever becomes of links; what is followed is bounded, and what is
  followed no longer counts for good, for nobody can tell of it any more.

Reports are exact, agreement is so but for one thing: a digest names the highest message of each stream
and not what is missed below it, or two nodes of which one can never fill a hole would differ for ever.
So a peer that missed a message of ours and has a later one counts as having both. It knows of its hole
and asks one peer after another within seconds (`overlay.holes`), us among them, and what we answer is
followed by reports; but if nothing else has it either, and we leave before that, it is not counted.
Agreement matters only where a link ended before its reports came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

TRACKED_RUMORS_LIMIT: Final = 65_536  # more than the store holds of one origin; 200 bytes each
DIGEST_SETTLE_S: Final = 2.5  # digests leave out what is newer than 2 s, as on its way by itself

RumorKey = tuple[int, int]  # epoch, first sequence


class UnackedBroadcasts:
    """Mechanism. `count`: payloads; `untracked`: those of them that are followed no longer."""

    def __init__(self) -> None:
        self._rumors: dict[RumorKey, tuple[int, float]] = {}  # payloads, and when: the oldest first
        self._last_tracked_at = -math.inf  # the last of them, whatever became of it
        self.count = 0
        self.untracked = 0

    def track(self, key: RumorKey, payloads: int, now: float) -> None:
        """A rumor of ours begins its way, whether anybody is there or not."""
        self._rumors[key] = (payloads, now)
        self._last_tracked_at = now
        self.count += payloads
        if len(self._rumors) > TRACKED_RUMORS_LIMIT:
            self.untracked += self._rumors.pop(next(iter(self._rumors)))[0]

    def on_acked(self, keys: Iterable[RumorKey]) -> None:
        """A peer has these."""
        for key in keys:
            payloads, _ = self._rumors.pop(key, (0, 0.0))
            self.count -= payloads

    def on_peer_in_sync(self, started_at: float) -> None:
        """A round of repair that began then left a peer with the same highest message as ours."""
        if self._last_tracked_at <= started_at - DIGEST_SETTLE_S:
            self.on_acked(list(self._rumors))
