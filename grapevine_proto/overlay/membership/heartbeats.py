"""Heartbeats: one message to each linked peer per gossip interval, with a digest and piggybacked
records.

Invariants:

- The gap between two heartbeats to a peer exceeds the gossip interval by at most a tenth, plus half
  of the check interval. A peer that has waited longer may probe.
- Each check sends an even share of the heartbeats, at least one. If this node dies, some peer's
  next heartbeat is due at once and it notices; otherwise links opened together would all stay
  silent together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.wire.messages import Heartbeat, Records
from grapevine_proto.wire.signed import PeerRecord

RECORDS_PER_HEARTBEAT: Final = 3
RECORDS_PER_DATAGRAM_BYTES: Final = 1000  # of records, besides the other contents of the datagram


class Heartbeats:
    """Builds our heartbeats and measures the RTT with theirs."""

    def __init__(self, context: OverlayContext, store: MessageStore) -> None:
        self._config = context.config
        self._members = context.members
        self._rng = context.rng
        self._store = store
        self._load_permille = 0  # our event loop lag, sent in each heartbeat

    def on_lag(self, lag_s: float) -> None:
        """The event loop was late by `lag_s` seconds: later heartbeats carry it as our load."""
        self._load_permille = min(int(lag_s * 1000), 1000)

    def due_peers(self, peers: Sequence[Peer], now: float, check_interval_s: float) -> list[Peer]:
        """The peers to send a heartbeat to now; the next check is `check_interval_s` later.

        A peer is due if its deadline is closer to now than to the next check. If fewer peers are
        due than an even share, some of the next check's peers are sent theirs early. That evens out
        the checks over time, because a gossip interval contains the same number of checks for every
        peer.
        """
        due = [peer for peer in peers if peer.heartbeat_due_at <= now + 0.5 * check_interval_s]
        shortfall = int(len(peers) * check_interval_s / self._config.current.gossip_interval) - len(
            due
        )
        if shortfall > 0:
            next_window = now + 0.5 * check_interval_s, now + 1.5 * check_interval_s
            early = [
                peer for peer in peers if next_window[0] < peer.heartbeat_due_at <= next_window[1]
            ]
            due += sorted(early, key=lambda peer: peer.heartbeat_due_at)[:shortfall]
        return due

    def next_for(
        self,
        peer: Peer,
        now: float,
        owed: PeerRecord | None = None,
        moved: Coordinate | None = None,
    ) -> Effect:
        """The next heartbeat for `peer`, as an effect. Updates its heartbeat state. It carries
        the record `owed` to the peer, and our coordinate if it has `moved`."""
        pause_s = self._config.current.gossip_interval * (0.9 + 0.2 * self._rng.random())
        peer.on_heartbeat_sent(now + pause_s, now)
        streams, total = self._store.digest(now)
        records = self._members.next_updates(RECORDS_PER_HEARTBEAT)
        # no updates: a random record, so that every member learns of every other eventually
        if not records:
            records = self._members.sample_records(1, self._rng, exclude=peer.peer_id)
        if owed is not None:
            records = [owed, *records]
        heartbeat = Heartbeat(
            peer.heartbeat_number,
            peer.their_heartbeat_number,
            min(int((now - peer.their_heartbeat_at) * 1e6), 2**32 - 1)
            if peer.their_heartbeat_number
            else 0,
            self._load_permille,
            streams,
            total,
            pack_records(records)[0].records if records else (),
            b"" if moved is None else moved.encode(),
        )
        return Send((peer.peer_id,), heartbeat)

    @staticmethod
    def on_heartbeat(heartbeat: Heartbeat, peer: Peer, now: float) -> float | None:
        """Record a heartbeat of `peer`. Returns the RTT that it measures, in seconds, if it does."""
        return peer.on_heartbeat(
            heartbeat.number, heartbeat.echo, heartbeat.echo_delay_us / 1e6, now
        )


def pack_records(records: Sequence[PeerRecord]) -> list[Records]:
    """Split `records` into messages that fit one datagram each."""
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
