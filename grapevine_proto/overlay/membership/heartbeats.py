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

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.wire.messages import Heartbeat, Records
from grapevine_proto.wire.signed import PeerRecord

RECORDS_PER_HEARTBEAT: Final = 3
RECORDS_PER_DATAGRAM_BYTES: Final = 1000  # of records in one datagram, beside what else it carries


class Heartbeats:
    """Mechanism: makes ours, and takes the round trip from theirs."""

    def __init__(
        self, config: NodeConfig, members: MemberTable, store: MessageStore, rng: random.Random
    ) -> None:
        self._interval_s = config.gossip_interval
        self._members = members
        self._store = store
        self._rng = rng
        self.load_permille = 0  # told along: how late our loop is

    def reconfigure(self, config: NodeConfig) -> None:
        self._interval_s = config.gossip_interval

    def due_peers(self, peers: Sequence[Peer], now: float, check_interval_s: float) -> list[Peer]:
        """Whose turn it is: theirs whose time is nearer to now than to the next look, `check_interval_s`
        from now.
        Where those are fewer than an even share, some of the next look's come early: by and by looks
        are alike, and stay so, since an interval is as many looks for everybody."""
        due = [peer for peer in peers if peer.heartbeat_due_at <= now + 0.5 * check_interval_s]
        shortfall = int(len(peers) * check_interval_s / self._interval_s) - len(due)
        if shortfall > 0:
            next_window = now + 0.5 * check_interval_s, now + 1.5 * check_interval_s
            early = [
                peer for peer in peers if next_window[0] < peer.heartbeat_due_at <= next_window[1]
            ]
            due += sorted(early, key=lambda peer: peer.heartbeat_due_at)[:shortfall]
        return due

    def next_for(self, peer: Peer, now: float) -> Effect:
        """The next one for `peer`."""
        peer.heartbeat_due_at = now + self._interval_s * (0.9 + 0.2 * self._rng.random())
        peer.heartbeat_number += 1
        peer.heartbeat_sent_at = now
        streams, total = self._store.digest(now)
        records = self._members.next_updates(RECORDS_PER_HEARTBEAT)
        if not records:  # nothing is new: somebody at random, so that all hear of all in the end
            records = self._members.sample_records(1, self._rng, exclude=peer.peer_id)
        heartbeat = Heartbeat(
            peer.heartbeat_number,
            peer.their_heartbeat_number,
            min(int((now - peer.their_heartbeat_at) * 1e6), 2**32 - 1)
            if peer.their_heartbeat_number
            else 0,
            self.load_permille,
            streams,
            total,
            pack_records(records)[0].records if records else (),
        )
        return Send((peer.peer_id,), heartbeat)

    @staticmethod
    def on_heartbeat(heartbeat: Heartbeat, peer: Peer, now: float) -> None:
        """One of `peer`'s: if it answers our last, we know the round trip."""
        peer.heartbeat_expected_from = now
        if heartbeat.number > peer.their_heartbeat_number:
            peer.their_heartbeat_number = heartbeat.number
            peer.their_heartbeat_at = now
            if heartbeat.echo == peer.heartbeat_number:
                peer.update_rtt(now - peer.heartbeat_sent_at - heartbeat.echo_delay_us / 1e6)


def pack_records(records: Sequence[PeerRecord]) -> list[Records]:
    """The records, in as many messages as it takes for each to fit one datagram."""
    messages: list[Records] = []
    batch: list[PeerRecord] = []
    size_bytes = 0
    for record in records:
        if batch and size_bytes + record.size_bytes > RECORDS_PER_DATAGRAM_BYTES:
            messages.append(Records(tuple(batch)))
            batch, size_bytes = [], 0
        batch.append(record)
        size_bytes += record.size_bytes
    return [*messages, Records(tuple(batch))] if batch else messages
