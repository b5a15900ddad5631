"""Tracks this node's broadcasts until a peer has acknowledged them.

Invariants:

- A broadcast is unacknowledged until one peer is known to have it: its ACKs cover every packet that
  carried the rumor, or an anti-entropy round ended in sync. A new link or a sent packet proves nothing.
- Being in sync covers the whole stream of this node or nothing: a digest omits a stream that changed shortly
  before the round began.
- Each payload counts once, whatever happens to links. The number of tracked rumors is limited; an
  untracked one counts as unacknowledged forever.

ACKs are exact. Being in sync has one exception: a digest names the highest sequence of each stream and not
the gaps below it, because two nodes would differ forever if one can never fill a gap. So a peer that
missed one broadcast and has a later one counts as having both. It requests the gap within seconds
(`overlay.sync.gap_repair`), and the repair is tracked by ACKs; but if this node leaves before that and no
other node has the message, it is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

TRACKED_RUMORS_LIMIT: Final = 65_536  # more than the message store holds per origin; 200 bytes each
DIGEST_SETTLE_S: Final = 2.5  # digests omit streams that changed in the last 2 s

RumorKey = tuple[int, int]  # epoch, first sequence


class UnackedBroadcasts:
    """The unacknowledged broadcasts of this run: `count` payloads, `untracked` of them no longer tracked."""

    def __init__(self) -> None:
        self._rumors: dict[RumorKey, tuple[int, float]] = {}  # (payloads, tracked at), oldest first
        self._last_tracked_at = -math.inf  # also of rumors that were acknowledged since
        self.count = 0
        self.untracked = 0

    def track(self, key: RumorKey, payloads: int, now: float) -> None:
        """Starts to track a rumor of this node with `payloads` payloads, whether or not peers are
        connected."""
        self._rumors[key] = (payloads, now)
        self._last_tracked_at = now
        self.count += payloads
        if len(self._rumors) > TRACKED_RUMORS_LIMIT:
            self.untracked += self._rumors.pop(next(iter(self._rumors)))[0]

    def on_acked(self, keys: Iterable[RumorKey]) -> None:
        """A peer acknowledged these rumors."""
        for key in keys:
            payloads, _ = self._rumors.pop(key, (0, 0.0))
            self.count -= payloads

    def on_peer_in_sync(self, started_at: float) -> None:
        """An anti-entropy round that started at `started_at` ended in sync: that peer has everything up to
        then."""
        if self._last_tracked_at <= started_at - DIGEST_SETTLE_S:
            self.on_acked(list(self._rumors))
