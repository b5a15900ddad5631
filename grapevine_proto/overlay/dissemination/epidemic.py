"""Rumor mongering, as Grapevine does it (Demers et al. 1987: push, with feedback).

A node relays a rumor that is new to it with some probability to `fanout` peers; the origin always
does. While nobody has told the rumor back, one more peer gets it each gossip interval, up to
`max_forwards` copies in all: where a push was lost on the way, the next one makes up for it.

What must stay true: from one node at most `max_forwards` copies of a rumor go out; none goes back
to whoever it came from or to its origin; none travels beyond `hops` relays. Blind push leaves out
some nodes in all but the smallest clusters; repair is for them.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.dissemination.strategy import News, Plan, Push, Strategy
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.held import Key

HOT_LIMIT: Final = 4096  # rumors watched at once; under more traffic than that, repair is quicker


class _Hot:
    """A rumor that we relayed and nobody has told back."""

    __slots__ = ("copies", "due_at", "told")

    def __init__(self, told: set[PeerId], copies: int, due_at: float) -> None:
        self.told = told  # who has it from us, who gave it, and its origin
        self.copies = copies  # that we sent
        self.due_at = due_at


class Epidemic(Strategy):
    """See the module."""

    def __init__(self, config: NodeConfig, around: Neighbourhood, rng: random.Random) -> None:
        self._config = config
        self._around = around
        self._rng = rng
        self._hot: OrderedDict[Key, _Hot] = (
            OrderedDict()
        )  # by due time: the interval is one for all
        self.cooled_early = 0

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        self._config = config
        return []

    def spread(self, news: News, now: float) -> Plan:
        epidemic = self._config.epidemic
        if news.is_mailed or news.hops >= epidemic.hops:
            return Plan(())
        if news.sender is not None and self._rng.random() >= epidemic.forward_probability:
            return Plan(())
        told = {news.origin} if news.sender is None else {news.origin, news.sender}
        copies = min(self._config.fanout, epidemic.max_forwards)
        targets = self._around.choose(copies, but=told)
        if len(targets) < epidemic.max_forwards:
            told.update(targets)
            self._hot[news.key] = _Hot(told, len(targets), now + self._config.gossip_interval)
            if len(self._hot) > HOT_LIMIT:
                self._hot.popitem(last=False)
                self.cooled_early += 1
        return Plan(targets)

    def gave(self, key: Key, peer_id: PeerId) -> None:
        hot = self._hot.get(key)
        if hot is not None:
            hot.told.add(peer_id)
            hot.copies += 1
            if hot.copies >= self._config.epidemic.max_forwards:
                del self._hot[key]

    def heard_again(self, key: Key, sender: PeerId, now: float) -> list[Effect]:
        self._hot.pop(key, None)
        return []

    def advance(self, now: float) -> list[Push | Effect]:
        pushes: list[Push | Effect] = []
        while self._hot:
            key, hot = next(iter(self._hot.items()))
            if hot.due_at > now:
                break
            del self._hot[key]
            targets = self._around.choose(1, but=hot.told)
            if targets:
                pushes.append(Push(key, targets))
                hot.told.update(targets)
                hot.copies += 1
                if hot.copies < self._config.epidemic.max_forwards:
                    hot.due_at = now + self._config.gossip_interval
                    self._hot[key] = hot
        return pushes

    @property
    def deadline(self) -> float:
        return next(iter(self._hot.values())).due_at if self._hot else math.inf
