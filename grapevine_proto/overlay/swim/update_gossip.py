"""Gossip of member updates: which updates to send, to which peers, and when (SWIM, Das 2002,
section 4.1).

Invariants:

- All unsolicited updates leave through here: immediately, or every `probe_timeout` if many were
  sent recently, until each reaches its transmit limit.
- Final queries go first. After the suspicion timeout they are dropped.
- A suspicion is never gossiped to its subject; pings carry it, and the subject answers them.

A component of `detector`, with its own deadline.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.swim.suspicion_table import UPDATES_PER_MESSAGE, fit_updates
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.overlay.transmit_queue import TransmitLimitedQueue, retransmit_limit
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates
from grapevine_proto.wire.signed import PeerRecord

UPDATE_FANOUT: Final = 3  # peers that receive an update at once
IMMEDIATE_BURST: Final = 8.0  # rounds sent immediately,
IMMEDIATE_PER_S: Final = 0.5  # and in the long run; others wait for the next interval


class UpdateGossiper:
    """Queues updates and sends them. `update_for` returns our current update about a record's
    subject.
    """

    def __init__(
        self,
        context: OverlayContext,
        update_for: Callable[[PeerRecord], MemberUpdate],
        now: float,
    ) -> None:
        self._config = context.config
        self._peers = context.peers
        self._rng = context.rng
        self._update_for = update_for
        self.queue = TransmitLimitedQueue()
        self._final_queries: dict[PeerId, PeerRecord] = {}  # to be sent once, in order
        self._immediate_budget = TokenBucket(IMMEDIATE_BURST, IMMEDIATE_PER_S, now)
        self.deadline = math.inf

    def enqueue(self, record: PeerRecord, members: int, now: float) -> None:
        """Queue an update about the subject of `record` in a cluster of `members`."""
        self.queue.enqueue(record, retransmit_limit(members))
        self._schedule(now)

    def enqueue_final_query(self, record: PeerRecord, now: float) -> None:
        """Queue a final query: the suspicion of the record's subject is about to time out."""
        self._final_queries[record.peer_id] = record
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        if self.deadline > now and self._immediate_budget.try_take(now):
            self.deadline = now
        self.deadline = min(self.deadline, now + self._config.current.detection.probe_timeout)

    @property
    def pending_queries(self) -> int:
        """Final queries that have not been sent."""
        return len(self._final_queries)

    def cancel_query(self, subject: PeerId) -> None:
        """Drop the final query about `subject`, because the suspicion ended."""
        self._final_queries.pop(subject, None)

    def remove(self, subject: PeerId) -> None:
        """Drop all updates and queries about `subject`."""
        self.cancel_query(subject)
        self.queue.remove(subject)

    def advance(self, now: float) -> list[Effect]:
        """If due, send the least sent updates to a few peers and schedule the next round."""
        if now < self.deadline:
            return []
        effects = self._send_updates()
        pause_s = self._config.current.detection.probe_timeout
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
            self._final_queries.clear()  # no peer could answer; updates wait
        if not updates or not self._peers.linked:
            return []
        subjects = [update.record.peer_id for update in updates]
        targets = tuple(uniform(self._peers.linked, UPDATE_FANOUT, self._rng, exclude=subjects))
        for subject in subjects:
            self._final_queries.pop(subject, None)
            self.queue.note_sent(
                subject, len(targets) or UPDATE_FANOUT
            )  # without targets, count a full round, or it would never leave the queue
        return [Send(targets, MemberUpdates(updates))] if targets else []
