"""Telling peers what is thought of members: to whom, how much at once, and how soon.

What must stay true:

- All that is told of members unasked goes this way: at once, unless much was told lately, and then every
  `probe_timeout` until each change was told enough (`news`).
- A last call goes before all else, since it is of no use a moment later: whose time is over is called for
  no more.
- Nobody is told about himself here: the accused hear it on pings, which they answer.

Mechanism of `detector`, with a deadline of its own.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Opinion, Opinions
from grapevine_proto.overlay.cases import TOLD_AT_ONCE, message_of
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.news import News
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.selection import uniform
from grapevine_proto.overlay.suspicion import tellings
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.signed import Record

TOLD_TO: Final = 3  # peers that hear the news at once
HASTE_BURST: Final = 8.0  # times that news is told at once,
HASTE_PER_S: Final = 0.5  # in the long run; else it waits for its turn


class Tidings:
    """What is still to be told, and when. `opinion_of` gives what we think of a record's subject."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        opinion_of: Callable[[Record], Opinion],
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._peers = peers
        self._opinion_of = opinion_of
        self._rng = rng
        self.news = News()
        self._calls: dict[PeerId, Record] = {}  # to be told once; the first first
        self._haste = TokenBucket(HASTE_BURST, HASTE_PER_S, now)
        self.deadline = math.inf

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    def spread(self, record: Record, members: int, now: float) -> None:
        """What is thought of `record`'s subject has changed, in a cluster of so many."""
        self.news.spread(record, tellings(members))
        self._plan(now)

    def call(self, record: Record, now: float) -> None:
        """The time of `record`'s subject is nearly over: does anybody know better?"""
        self._calls[record.peer_id] = record
        self._plan(now)

    def _plan(self, now: float) -> None:
        if self.deadline > now and self._haste.take(now):
            self.deadline = now
        self.deadline = min(self.deadline, now + self._config.detection.probe_timeout)

    @property
    def calls(self) -> int:
        """Last calls that nobody has heard yet."""
        return len(self._calls)

    def too_late(self, subject: PeerId) -> None:
        """Its time is over, whether it was called for or not."""
        self._calls.pop(subject, None)

    def drop(self, subject: PeerId) -> None:
        """Nothing is to be told of it any more."""
        self.too_late(subject)
        self.news.drop(subject)

    def advance(self, now: float) -> list[Effect]:
        """Time passed: tell a few peers what has waited longest, and others a little later."""
        if now < self.deadline:
            return []
        effects = self._tell()
        pause_s = self._config.detection.probe_timeout
        self.deadline = now + pause_s if self.news or self._calls else math.inf
        return effects

    def _tell(self) -> list[Effect]:
        news = (each for each in self.news.first(TOLD_AT_ONCE) if each.peer_id not in self._calls)
        opinions = message_of(map(self._opinion_of, itertools.chain(self._calls.values(), news)))
        if not self._peers.linked:
            self._calls.clear()  # nobody is there to know better; news waits
        if not opinions or not self._peers.linked:
            return []
        subjects = [opinion.record.peer_id for opinion in opinions]
        told_to = tuple(uniform(self._peers.linked, TOLD_TO, self._rng, but=subjects))
        for subject in subjects:
            self._calls.pop(subject, None)
            self.news.told(subject, len(told_to) or TOLD_TO)  # nobody else is there to be told
        return [Send(told_to, Opinions(opinions))] if told_to else []
