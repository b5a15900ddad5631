"""Flooding over subscriptions, as in gwyh: each node chooses the peers that push to it.

A node pushes a new rumor to all its subscribers. The first copy to arrive anywhere has taken the
fastest path, and every node receives about `subscriptions` copies.

Invariants:

- A node subscribes to `subscriptions` of its links, or to all if there are fewer, and replaces lost
  ones. A newcomer replaces one with the probability with which it would have been drawn, so that in
  the end every peer is equally likely to have subscribers, or as likely as `distribution` makes it.
- A rumor of an origin with fewer than `MIN_SUBSCRIBERS` subscribers goes to `MIN_ORIGIN_TARGETS`
  peers; of 1,000 nodes about seven have none at any time.
- Subscriptions are repeated every few gossip intervals, which repairs lost ones.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor, Push, PushPlan, Strategy
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.wire.messages import Graft, Prune, Subscribe

MIN_SUBSCRIBERS: Final = 2
MIN_ORIGIN_TARGETS: Final = 3
RESUBSCRIBE_INTERVALS: Final = 4  # gossip intervals


class Flood(Strategy):
    """Pushes new rumors to the peers that subscribed here."""

    def __init__(self, context: OverlayContext, near_peers: NearPeers) -> None:
        self._config = context.config
        self._rng = context.rng
        self._near_peers = near_peers
        self._subscriptions: dict[PeerId, None] = {}  # peers we subscribed to
        self._subscribers: dict[PeerId, None] = {}  # peers that subscribed here
        self._resubscribe_at = math.inf

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        if rumor.hops >= self._near_peers.hops_limit:
            return PushPlan(())
        targets = [each for each in self._subscribers if each not in (rumor.sender, rumor.origin)]
        if rumor.sender is None and len(targets) < MIN_SUBSCRIBERS:
            shortfall = MIN_ORIGIN_TARGETS - len(targets)
            targets += self._near_peers.choose(shortfall, exclude=targets)
        return PushPlan(targets)

    # --- subscriptions --------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        self._resubscribe_at = now + RESUBSCRIBE_INTERVALS * self._config.current.gossip_interval
        return self._fill_subscriptions()

    def stop(self) -> list[Effect]:
        return _send_subscribe(list(self._subscriptions), subscribe=False)

    def on_link_up(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._subscribers.pop(peer_id, None)  # from an earlier session
        limit = self._config.current.subscriptions
        if peer_id in self._subscriptions:  # restarted: its subscriber table is empty
            return _send_subscribe([peer_id], subscribe=True)
        if len(self._subscriptions) < limit:
            return self._subscribe(peer_id)
        if peer_id not in self._near_peers.choose(limit):  # as in a new draw of all
            return []
        replaced = self._pick_replaced(peer_id)
        if replaced == peer_id:
            return []
        del self._subscriptions[replaced]
        return _send_subscribe([replaced], subscribe=False) + self._subscribe(peer_id)

    def _pick_replaced(self, newcomer: PeerId) -> PeerId:
        """The subscription to replace by `newcomer`, or `newcomer` itself to keep all. With
        `hub-and-spoke`, one of its zone.
        """
        if self._config.current.distribution != "hub-and-spoke":
            return self._rng.choice(list(self._subscriptions))
        retained = self._near_peers.choose(
            len(self._subscriptions), candidates=[*self._subscriptions, newcomer]
        )
        return next(each for each in (*self._subscriptions, newcomer) if each not in retained)

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._subscribers.pop(peer_id, None)
        if peer_id not in self._subscriptions:
            return []
        del self._subscriptions[peer_id]
        return self._fill_subscriptions()

    def _fill_subscriptions(self) -> list[Effect]:
        shortfall = self._config.current.subscriptions - len(self._subscriptions)
        chosen = (
            self._near_peers.choose(shortfall, exclude=self._subscriptions) if shortfall > 0 else []
        )
        return [effect for each in chosen for effect in self._subscribe(each)]

    def _subscribe(self, peer_id: PeerId) -> list[Effect]:
        self._subscriptions[peer_id] = None
        return _send_subscribe([peer_id], subscribe=True)

    def reconfigure(self, now: float) -> list[Effect]:
        surplus = list(self._subscriptions)[self._config.current.subscriptions :]
        for peer_id in surplus:
            del self._subscriptions[peer_id]
        return _send_subscribe(surplus, subscribe=False) + self._fill_subscriptions()

    # --- subscribers ----------------------------------------------------------------------------

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        if isinstance(message, Subscribe):
            if message.is_subscribed and self._near_peers.is_linked(sender):
                self._subscribers[sender] = None
            else:
                self._subscribers.pop(sender, None)
        return []

    def advance(self, now: float) -> list[Push | Effect]:
        if now < self._resubscribe_at:
            return []
        self._resubscribe_at = now + RESUBSCRIBE_INTERVALS * self._config.current.gossip_interval
        return [*_send_subscribe(list(self._subscriptions), subscribe=True)]

    @property
    def deadline(self) -> float:
        return self._resubscribe_at if self._subscriptions else math.inf

    @property
    def subscribers(self) -> tuple[PeerId, ...]:
        return tuple(self._subscribers)

    @property
    def subscriptions(self) -> tuple[PeerId, ...]:
        return tuple(self._subscriptions)


def _send_subscribe(peers: list[PeerId], *, subscribe: bool) -> list[Effect]:
    return [Send(tuple(peers), Subscribe(subscribe))] if peers else []
