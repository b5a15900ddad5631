"""Rumor mongering with push and feedback (Demers 1987, section 1.4), as in Grapevine 1.x.

The origin pushes a rumor to `fanout` peers; any other node does so with `forward_probability`.
Until a copy comes back, one more peer gets it each gossip interval, which makes up for lost pushes.

Invariants:

- One node sends at most `max_forwards` copies of a rumor, none to its sender or origin.
- No rumor travels beyond `hops` relays. In all but the smallest clusters blind push misses some
  nodes, which lazy push and anti-entropy repair.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor, Push, PushPlan, Strategy
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.store.message_cache import RumorKey

HOT_RUMORS_LIMIT: Final = 4096  # rumors tracked at once; under more traffic repair is faster


class _HotRumor:
    """A rumor that we pushed and that no peer has pushed back."""

    __slots__ = ("copies_sent", "due_at", "holders")

    def __init__(self, holders: set[PeerId], copies: int, due_at: float) -> None:
        self.holders = holders  # our targets, its sender and its origin
        self.copies_sent = copies  # by us
        self.due_at = due_at


class Epidemic(Strategy):
    """Pushes new rumors to random peers."""

    def __init__(self, context: OverlayContext, near_peers: NearPeers) -> None:
        self._config = context.config
        self._rng = context.rng
        self._near_peers = near_peers
        self._hot: OrderedDict[RumorKey, _HotRumor] = (
            OrderedDict()
        )  # by due time, as all have the same interval
        self.evicted = 0

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        epidemic = self._config.current.epidemic
        if rumor.hops >= epidemic.hops:
            return PushPlan(())
        if rumor.sender is not None and self._rng.random() >= epidemic.forward_probability:
            return PushPlan(())
        holders = {rumor.origin} if rumor.sender is None else {rumor.origin, rumor.sender}
        copies = min(self._config.current.fanout, epidemic.max_forwards)
        targets = self._near_peers.choose(copies, exclude=holders)
        if len(targets) < epidemic.max_forwards:
            holders.update(targets)
            self._hot[rumor.key] = _HotRumor(
                holders, len(targets), now + self._config.current.gossip_interval
            )
            if len(self._hot) > HOT_RUMORS_LIMIT:
                self._hot.popitem(last=False)
                self.evicted += 1
        return PushPlan(targets)

    def on_late_delivery(self, key: RumorKey, peer_id: PeerId) -> None:
        hot = self._hot.get(key)
        if hot is not None:
            hot.holders.add(peer_id)
            hot.copies_sent += 1
            if hot.copies_sent >= self._config.current.epidemic.max_forwards:
                del self._hot[key]

    def on_duplicate(self, key: RumorKey, sender: PeerId, now: float) -> list[Effect]:
        self._hot.pop(key, None)
        return []

    def advance(self, now: float) -> list[Push | Effect]:
        pushes: list[Push | Effect] = []
        while self._hot:
            key, hot = next(iter(self._hot.items()))
            if hot.due_at > now:
                break
            del self._hot[key]
            targets = self._near_peers.choose(1, exclude=hot.holders)
            if targets:
                pushes.append(Push(key, targets))
                hot.holders.update(targets)
                hot.copies_sent += 1
                if hot.copies_sent < self._config.current.epidemic.max_forwards:
                    hot.due_at = now + self._config.current.gossip_interval
                    self._hot[key] = hot
        return pushes

    @property
    def deadline(self) -> float:
        return next(iter(self._hot.values())).due_at if self._hot else math.inf
