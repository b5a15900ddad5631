"""Heartbeats: word to each linked peer every gossip interval, and what comes along with it.

What must stay true:

- A peer that is well hears from us at most a tenth of the interval, and half of what passes between two
  looks, later than an interval after the last time; who waits longer may ask.
- Each look has its even share of them, or one that is not empty: whenever we die, some peer's next word
  from us is due at once, and it notices. Links that began together would all fall silent together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.messages import Heartbeat, Records
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store import Store
from grapevine_proto.signed import Record

HEARTBEAT_RECORDS: Final = 3
RECORDS_BYTES: Final = 1000  # of records in one datagram, beside what else it carries


class Heartbeats:
    """Mechanism: makes ours, and takes the round trip from theirs."""

    def __init__(
        self, config: NodeConfig, members: MemberTable, store: Store, rng: random.Random
    ) -> None:
        self._interval_s = config.gossip_interval
        self._members = members
        self._store = store
        self._rng = rng
        self.load_permille = 0  # told along: how late our loop is

    def reconfigure(self, config: NodeConfig) -> None:
        self._interval_s = config.gossip_interval

    def due(self, peers: Sequence[Peer], now: float, look_s: float) -> list[Peer]:
        """Whose turn it is: theirs whose time is nearer to now than to the next look, `look_s` from now.
        Where those are fewer than an even share, some of the next look's come early: by and by looks
        are alike, and stay so, since an interval is as many looks for everybody."""
        due = [peer for peer in peers if peer.heartbeat_due <= now + 0.5 * look_s]
        lacking = int(len(peers) * look_s / self._interval_s) - len(due)
        if lacking > 0:
            soon = now + 0.5 * look_s, now + 1.5 * look_s
            early = [peer for peer in peers if soon[0] < peer.heartbeat_due <= soon[1]]
            due += sorted(early, key=lambda peer: peer.heartbeat_due)[:lacking]
        return due

    def make(self, peer: Peer, now: float) -> Effect:
        """The next one for `peer`."""
        peer.heartbeat_due = now + self._interval_s * (0.9 + 0.2 * self._rng.random())
        peer.number += 1
        peer.heartbeat_at = now
        streams, total = self._store.digest(now)
        records = self._members.news(HEARTBEAT_RECORDS)
        if not records:  # nothing is new: somebody at random, so that all hear of all in the end
            records = self._members.some(1, self._rng, but=peer.peer_id)
        beat = Heartbeat(
            peer.number,
            peer.their_number,
            min(int((now - peer.echo_at) * 1e6), 2**32 - 1) if peer.their_number else 0,
            self.load_permille,
            streams,
            total,
            envelopes(records)[0].records if records else (),
        )
        return Send((peer.peer_id,), beat)

    @staticmethod
    def hear(beat: Heartbeat, peer: Peer, now: float) -> None:
        """One of `peer`'s: if it answers our last, we know the round trip."""
        peer.beat_at = now
        if beat.number > peer.their_number:
            peer.their_number = beat.number
            peer.echo_at = now
            if beat.echo == peer.number:
                peer.measured_rtt(now - peer.heartbeat_at - beat.echo_delay_us / 1e6)


def envelopes(records: Sequence[Record]) -> list[Records]:
    """The records, in as many messages as it takes for each to fit one datagram."""
    filled: list[Records] = []
    batch: list[Record] = []
    size_bytes = 0
    for record in records:
        if batch and size_bytes + record.size_bytes > RECORDS_BYTES:
            filled.append(Records(tuple(batch)))
            batch, size_bytes = [], 0
        batch.append(record)
        size_bytes += record.size_bytes
    return [*filled, Records(tuple(batch))] if batch else filled
