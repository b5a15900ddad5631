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

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.swim.suspicion_table import UPDATES_PER_MESSAGE, fit_updates
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.overlay.transmit_queue import TransmitLimitedQueue, retransmit_limit
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates
from grapevine_proto.wire.signed import PeerRecord

UPDATE_FANOUT: Final = 3  # peers that hear the news at once
IMMEDIATE_BURST: Final = 8.0  # times that news is told at once,
IMMEDIATE_PER_S: Final = 0.5  # in the long run; else it waits for its turn


class UpdateGossiper:
    """What is still to be told, and when. `update_for` gives what we think of a record's subject."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        update_for: Callable[[PeerRecord], MemberUpdate],
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._peers = peers
        self._update_for = update_for
        self._rng = rng
        self.queue = TransmitLimitedQueue()
        self._final_queries: dict[PeerId, PeerRecord] = {}  # to be told once; the first first
        self._immediate_budget = TokenBucket(IMMEDIATE_BURST, IMMEDIATE_PER_S, now)
        self.deadline = math.inf

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    def enqueue(self, record: PeerRecord, members: int, now: float) -> None:
        """What is thought of `record`'s subject has changed, in a cluster of so many."""
        self.queue.enqueue(record, retransmit_limit(members))
        self._schedule(now)

    def enqueue_final_query(self, record: PeerRecord, now: float) -> None:
        """The time of `record`'s subject is nearly over: does anybody know better?"""
        self._final_queries[record.peer_id] = record
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        if self.deadline > now and self._immediate_budget.try_take(now):
            self.deadline = now
        self.deadline = min(self.deadline, now + self._config.detection.probe_timeout)

    @property
    def pending_queries(self) -> int:
        """Last calls that nobody has heard yet."""
        return len(self._final_queries)

    def cancel_query(self, subject: PeerId) -> None:
        """Its time is over, whether it was called for or not."""
        self._final_queries.pop(subject, None)

    def remove(self, subject: PeerId) -> None:
        """Nothing is to be told of it any more."""
        self.cancel_query(subject)
        self.queue.remove(subject)

    def advance(self, now: float) -> list[Effect]:
        """Time passed: tell a few peers what has waited longest, and others a little later."""
        if now < self.deadline:
            return []
        effects = self._send_updates()
        pause_s = self._config.detection.probe_timeout
        self.deadline = now + pause_s if self.queue or self._final_queries else math.inf
        return effects

    def _send_updates(self) -> list[Effect]:
        queued = (
            each
            for each in self.queue.peek(UPDATES_PER_MESSAGE)
            if each.peer_id not in self._final_queries
        )
        updates = fit_updates(
            map(self._update_for, itertools.chain(self._final_queries.values(), queued))
        )
        if not self._peers.linked:
            self._final_queries.clear()  # nobody is there to know better; news waits
        if not updates or not self._peers.linked:
            return []
        subjects = [update.record.peer_id for update in updates]
        targets = tuple(uniform(self._peers.linked, UPDATE_FANOUT, self._rng, exclude=subjects))
        for subject in subjects:
            self._final_queries.pop(subject, None)
            self.queue.note_sent(
                subject, len(targets) or UPDATE_FANOUT
            )  # nobody else is there to be told
        return [Send(targets, MemberUpdates(updates))] if targets else []
