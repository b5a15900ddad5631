"""Flood over subscriptions, as in gwyh: each node picks whom it receives from.

Whoever hears a rumor first pushes it to all who subscribed here; the first copy to arrive anywhere
has taken the quickest path there is, and every node gets about `subscriptions` copies.

What must stay true:

- A node subscribes to `subscriptions` of its links, or to all where they are fewer; whom it loses it
  replaces. A newcomer takes the place of one of them with the chance that it would have been drawn
  with, so that in the end every peer is as likely as any other to have subscribers, or as likely as
  `distribution` has it: whom it prefers, zone by zone, is whom a node hears from.
- What is said by an origin with fewer than two subscribers goes to `LEAST_TARGETS` peers anyway: of
  1,000 nodes seven are without any at a time.
- Subscriptions are said again every few gossip intervals, so a lost word is not lost for long.
"""

from __future__ import annotations

import math
import random
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Graft, Prune, Subscribe
from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.dissemination.strategy import News, Plan, Push, Strategy
from grapevine_proto.overlay.effects import Effect, Send

FEW_SUBSCRIBERS: Final = 2
LEAST_TARGETS: Final = 3
SAY_AGAIN_INTERVALS: Final = 4  # of gossip


class Flood(Strategy):
    """See the module."""

    def __init__(self, config: NodeConfig, around: Neighbourhood, rng: random.Random) -> None:
        self._config = config
        self._around = around
        self._rng = rng
        self._from: dict[PeerId, None] = {}  # whom we subscribed to
        self._to: dict[PeerId, None] = {}  # who subscribed here
        self._say_again_at = math.inf

    def spread(self, news: News, now: float) -> Plan:
        if news.is_mailed or news.hops >= self._around.hops_limit:
            return Plan(())
        targets = [each for each in self._to if each not in (news.sender, news.origin)]
        if news.sender is None and len(targets) < FEW_SUBSCRIBERS:
            short = LEAST_TARGETS - len(targets)
            targets += self._around.choose(short, but=targets)
        return Plan(targets)

    # --- subscribing ----------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        self._say_again_at = now + SAY_AGAIN_INTERVALS * self._config.gossip_interval
        return self._fill()

    def stop(self) -> list[Effect]:
        return _say(list(self._from), wanted=False)

    def linked(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._to.pop(peer_id, None)  # of an earlier run
        limit = self._config.subscriptions
        if peer_id in self._from:  # restarted: it has forgotten
            return _say([peer_id], wanted=True)
        if len(self._from) < limit:
            return self._subscribe(peer_id)
        if peer_id not in self._around.choose(limit):  # as if all were drawn anew
            return []
        given_up = self._least_missed(peer_id)
        if given_up == peer_id:
            return []
        del self._from[given_up]
        return _say([given_up], wanted=False) + self._subscribe(peer_id)

    def _least_missed(self, newcomer: PeerId) -> PeerId:
        """Who goes for `newcomer`, or it itself: with hubs and spokes, another of its zone."""
        if self._config.distribution != "hub-and-spoke":
            return self._rng.choice(list(self._from))
        kept = self._around.choose(len(self._from), among=[*self._from, newcomer])
        return next(each for each in (*self._from, newcomer) if each not in kept)

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._to.pop(peer_id, None)
        if peer_id not in self._from:
            return []
        del self._from[peer_id]
        return self._fill()

    def _fill(self) -> list[Effect]:
        short = self._config.subscriptions - len(self._from)
        chosen = self._around.choose(short, but=self._from) if short > 0 else []
        return [effect for each in chosen for effect in self._subscribe(each)]

    def _subscribe(self, peer_id: PeerId) -> list[Effect]:
        self._from[peer_id] = None
        return _say([peer_id], wanted=True)

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        self._config = config
        surplus = list(self._from)[config.subscriptions :]
        for peer_id in surplus:
            del self._from[peer_id]
        return _say(surplus, wanted=False) + self._fill()

    # --- being subscribed to --------------------------------------------------------------------

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        if isinstance(message, Subscribe):
            if message.wanted and self._around.is_linked(sender):
                self._to[sender] = None
            else:
                self._to.pop(sender, None)
        return []

    def advance(self, now: float) -> list[Push | Effect]:
        if now < self._say_again_at:
            return []
        self._say_again_at = now + SAY_AGAIN_INTERVALS * self._config.gossip_interval
        return [*_say(list(self._from), wanted=True)]

    @property
    def deadline(self) -> float:
        return self._say_again_at if self._from else math.inf

    @property
    def subscribers(self) -> tuple[PeerId, ...]:
        return tuple(self._to)

    @property
    def subscriptions(self) -> tuple[PeerId, ...]:
        return tuple(self._from)


def _say(peers: list[PeerId], *, wanted: bool) -> list[Effect]:
    return [Send(tuple(peers), Subscribe(wanted))] if peers else []
