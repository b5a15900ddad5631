"""The peer table: state, address, RTT and health of each peer this node deals with.

Invariants:

- A state changes only along `TRANSITIONS`; any other transition raises.
- At most `limit` entries. The disconnected peer that has been silent longest is evicted first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

from grapevine_proto.events import PeerState
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.wire.signed import PeerRecord


class TimeBounds(NamedTuple):
    """The shortest and the longest time to wait, in seconds."""

    min_s: float
    max_s: float

    def clamp(self, seconds: float) -> float:
        """The nearest time within the bounds."""
        return min(max(seconds, self.min_s), self.max_s)


class PeerTrigger(Enum):
    """An event that changes the state of a peer."""

    DIALED = auto()
    LINKED = auto()  # a session with it is live
    MISSED_HEARTBEATS = auto()  # no packet for three gossip intervals
    PACKET_RECEIVED = auto()
    LOST = auto()  # no answer, silent for peer_timeout, closed, or left


TRANSITIONS: Final[dict[tuple[PeerState, PeerTrigger], PeerState]] = {
    (PeerState.CONNECTING, PeerTrigger.LINKED): PeerState.CONNECTED,
    (PeerState.CONNECTING, PeerTrigger.LOST): PeerState.DISCONNECTED,
    (PeerState.CONNECTED, PeerTrigger.MISSED_HEARTBEATS): PeerState.STALE,
    (PeerState.CONNECTED, PeerTrigger.LOST): PeerState.DISCONNECTED,
    (PeerState.STALE, PeerTrigger.PACKET_RECEIVED): PeerState.CONNECTED,
    (PeerState.STALE, PeerTrigger.LOST): PeerState.DISCONNECTED,
    (PeerState.DISCONNECTED, PeerTrigger.DIALED): PeerState.CONNECTING,
    (PeerState.DISCONNECTED, PeerTrigger.LINKED): PeerState.CONNECTED,
}

LINKED_STATES: Final = frozenset({PeerState.CONNECTED, PeerState.STALE})
MIN_RTT_DRIFT: Final = (
    1 / 64
)  # rate at which the minimum follows a path that became longer: half of the way in 45 samples
LATE_AFTER_INTERVALS: Final = 1.5  # without a packet: the interval counts as failed
UNKNOWN_RTT_S: Final = 0.050  # assumed until measured
# that a peer may pull besides its quota: as much as one origin has in the default cache
ANNOUNCED_BYTES_LIMIT: Final = 16 * 2**20
UNSTEADY_SUCCESS_RATIO: Final = 0.95  # a lower success ratio is reported in `health_reason`
SUCCESS_RATIO_WEIGHT: Final = (
    1 / 16
)  # weight of the latest interval, which averages over a minute or two


class Peer:
    """One peer. `last_heard_at` is when its last packet arrived, or when it was added."""

    __slots__ = (
        "address",
        "announced_bytes",
        "consecutive_failures",
        "heartbeat_due_at",
        "heartbeat_expected_from",
        "heartbeat_number",
        "heartbeat_sent_at",
        "is_address_validated",
        "is_owed_record",
        "is_self_chosen",
        "is_unresponsive",
        "last_heard_at",
        "linked_at",
        "min_rtt_s",
        "peer_id",
        "previous_heartbeat_sent_at",
        "record",
        "reported_address",
        "rtt_s",
        "session_epoch",
        "state",
        "success_ratio",
        "sync_answered_at",
        "sync_requested_at",
        "their_heartbeat_at",
        "their_heartbeat_number",
    )

    def __init__(
        self, peer_id: PeerId, record: PeerRecord | None, address: Address, now: float
    ) -> None:
        self.peer_id = peer_id
        self.record = record
        self.address = address
        self.is_address_validated = False  # by a session; otherwise only claimed by a record
        self.is_owed_record = False  # our record changed, and goes with the next heartbeat
        self.is_self_chosen = False  # this node chose the link; otherwise the peer requested it
        self.session_epoch = 0  # epoch of the peer when its session was established
        self.state = PeerState.DISCONNECTED
        self.last_heard_at = now
        self.is_unresponsive = False  # a probe timed out and no packet has arrived since
        self.linked_at: float | None = None
        self.rtt_s: float | None = None
        # recent minimum on this link: the path delay without queueing
        self.min_rtt_s: float | None = None
        self.success_ratio = 1.0
        self.consecutive_failures = 0
        self.heartbeat_expected_from = now  # when the latest heartbeat arrived, or was due
        self.heartbeat_due_at = now
        self.heartbeat_sent_at = now  # when heartbeat `heartbeat_number` was sent
        self.previous_heartbeat_sent_at = now  # when the one before it was sent
        self.heartbeat_number = 0
        self.their_heartbeat_number = 0
        self.sync_requested_at = -math.inf  # when its latest member digest was answered
        self.sync_answered_at = -math.inf  # when its latest reply to one of ours was answered
        # where it was told that this node sees it, other than in its record
        self.reported_address: Address | None = None
        self.announced_bytes = 0  # of large rumors that it was announced and may pull
        self.their_heartbeat_at = now  # when heartbeat `their_heartbeat_number` arrived

    # --- links ----------------------------------------------------------------------------------

    def on_session(
        self, record: PeerRecord, source: Address, rtt_s: float | None, now: float
    ) -> None:
        """A session that `source` validated is live, of a new link or of one that exists. `rtt_s` is None if
        it was not measured."""
        self.record, self.address, self.is_address_validated = record, source, True
        self.session_epoch = record.epoch
        self.last_heard_at = self.heartbeat_expected_from = now
        self.is_unresponsive = False
        self.consecutive_failures = 0
        self.heartbeat_number = self.their_heartbeat_number = 0
        if rtt_s is not None:
            self.rtt_s = rtt_s

    def on_link_up(self, rtt_s: float | None, now: float, *, is_self_chosen: bool) -> None:
        """A new link begins."""
        self.linked_at = now
        self.is_self_chosen = is_self_chosen
        self.min_rtt_s = rtt_s
        self.success_ratio = 1.0

    def on_link_down(self) -> None:
        """The link is gone."""
        self.linked_at = None
        self.reported_address = None

    def on_address_reported(self, address: Address | None) -> None:
        """It was told that this node sees it at `address`; None: nothing has to be told."""
        self.reported_address = address

    def on_address_changed(self, address: Address) -> None:
        """The session of the link validated a new path."""
        self.address = address

    def update_record(self, record: PeerRecord) -> None:
        """Its latest record."""
        self.record = record

    def shift_deadlines(self, late_s: float) -> None:
        """This node was stalled for `late_s` seconds: the silence since does not count."""
        self.last_heard_at += late_s
        self.heartbeat_expected_from += late_s

    # --- announcements ----------------------------------------------------------------------------

    def on_announced(self, size_bytes: int) -> None:
        """A large rumor of this size was announced to it, which it may pull."""
        self.announced_bytes = min(self.announced_bytes + size_bytes, ANNOUNCED_BYTES_LIMIT)

    def take_announced(self, size_bytes: int) -> int:
        """It pulls as many bytes: how many of them were announced to it. They count once."""
        taken_bytes = min(size_bytes, self.announced_bytes)
        self.announced_bytes -= taken_bytes
        return taken_bytes

    # --- heartbeats and probes ------------------------------------------------------------------

    def on_heartbeat_sent(self, next_due_at: float, now: float) -> None:
        """The next heartbeat is sent now, and the one after it at `next_due_at`."""
        self.heartbeat_due_at = next_due_at
        self.heartbeat_number += 1
        self.previous_heartbeat_sent_at = self.heartbeat_sent_at
        self.heartbeat_sent_at = now

    def owe_record(self) -> None:
        """Our record changed in what can wait for the next heartbeat."""
        self.is_owed_record = True

    def take_owed_record(self) -> bool:
        """Whether the heartbeat that is sent now carries our record."""
        is_owed, self.is_owed_record = self.is_owed_record, False
        return is_owed

    def on_heartbeat(self, number: int, echo: int, echo_delay_s: float, now: float) -> float | None:
        """Heartbeat `number` arrived. If it echoes our latest one, or the one before, that measures the
        RTT: returns the sample in seconds."""
        self.heartbeat_expected_from = now
        if number > self.their_heartbeat_number:
            self.their_heartbeat_number = number
            self.their_heartbeat_at = now
            sent_at = self._sent_at(echo)
            if sent_at is not None:
                sample_s = now - sent_at - echo_delay_s
                self.update_rtt(sample_s)
                return sample_s
        return None

    def _sent_at(self, number: int) -> float | None:
        """When the heartbeat `number` was sent, if it is one of the latest two: of two nodes that send theirs
        at the same time, each echoes the one before."""
        if 0 < number == self.heartbeat_number:
            return self.heartbeat_sent_at
        if 0 < number == self.heartbeat_number - 1:
            return self.previous_heartbeat_sent_at
        return None

    def on_probe_timeout(self) -> None:
        """It answers no probe."""
        self.is_unresponsive = True

    def on_responsive(self) -> None:
        """A packet of it arrived."""
        self.is_unresponsive = False

    def excuse_heartbeat(self, interval_s: float, now: float) -> None:
        """Its heartbeat was lost; the next one keeps its schedule."""
        expected_from = self.heartbeat_expected_from + interval_s
        self.heartbeat_expected_from = max(expected_from, now - interval_s)

    def try_sync(self, min_interval_s: float, now: float, *, is_reply: bool) -> bool:
        """Whether another member digest of it may be answered, at most one of each kind per interval."""
        last_at = self.sync_answered_at if is_reply else self.sync_requested_at
        if now < last_at + min_interval_s:
            return False
        if is_reply:
            self.sync_answered_at = now
        else:
            self.sync_requested_at = now
        return True

    # --- health ---------------------------------------------------------------------------------

    def record_interval(self, succeeded: bool) -> None:
        """Update the success ratio with one interval or dial."""
        self.success_ratio += SUCCESS_RATIO_WEIGHT * (succeeded - self.success_ratio)
        self.consecutive_failures = 0 if succeeded else self.consecutive_failures + 1

    def update_rtt(self, sample_s: float) -> None:
        """Update the smoothed RTT (RFC 6298, section 2) and the recent minimum."""
        sample_s = max(sample_s, 0.0)
        self.rtt_s = sample_s if self.rtt_s is None else 0.875 * self.rtt_s + 0.125 * sample_s
        min_s = sample_s if self.min_rtt_s is None else self.min_rtt_s
        self.min_rtt_s = min(sample_s, min_s + MIN_RTT_DRIFT * (self.rtt_s - min_s))

    def health(self, now: float, timeout_s: float) -> float:
        """Health from 0 (no link or timed out) to 1 (responsive). Has no side effects."""
        if self.state not in LINKED_STATES:
            return 0.0
        freshness = 1.0 - min(max(now - self.last_heard_at, 0.0) / timeout_s, 1.0)
        return self.success_ratio * 0.7**self.consecutive_failures * (0.5 + 0.5 * freshness)

    def health_reason(self, now: float, interval_s: float) -> str:
        """Why the health is below 1, for display; empty if nothing is wrong."""
        if self.state not in LINKED_STATES:
            return "no link"
        reasons: list[str] = []
        since_heard_s = now - self.last_heard_at
        if since_heard_s > LATE_AFTER_INTERVALS * interval_s:
            reasons.append(f"silent for {since_heard_s:.0f} s")
        if self.success_ratio < UNSTEADY_SUCCESS_RATIO:
            reasons.append(f"silent in {1 - self.success_ratio:.0%} of the last intervals")
        return ", ".join(reasons)


class PeerTable:
    """All peers, with an index of the linked ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._peers: dict[PeerId, Peer] = {}
        self._linked: tuple[PeerId, ...] | None = ()
        self.last_heard_at = -math.inf  # of any linked peer
        self.evicted = 0

    def get(self, peer_id: PeerId) -> Peer | None:
        return self._peers.get(peer_id)

    def on_packet(self, peer_id: PeerId, now: float) -> Peer | None:
        """A packet of a linked peer was authenticated; returns its entry."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.last_heard_at = self.last_heard_at = now
        return peer

    def zone_of(self, peer_id: PeerId) -> Zone:
        """The zone in its record; empty for an unknown peer."""
        peer = self._peers.get(peer_id)
        return peer.record.zone if peer is not None and peer.record is not None else ""

    def rtt_s(self, peer_id: PeerId) -> float:
        """The smoothed RTT, or `UNKNOWN_RTT_S`."""
        peer = self._peers.get(peer_id)
        return UNKNOWN_RTT_S if peer is None or peer.rtt_s is None else peer.rtt_s

    def timeout_for(self, peer_id: PeerId, rtts: float, bounds: TimeBounds) -> float:
        """Timeout for an answer: `rtts` round trips within `bounds`, in seconds."""
        return bounds.clamp(rtts * self.rtt_s(peer_id))

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer_id: PeerId, record: PeerRecord | None, address: Address, now: float) -> Peer:
        """The entry of `peer_id`, added as disconnected if necessary."""
        peer = self._peers.get(peer_id)
        if peer is None:
            if len(self._peers) >= self._limit:
                self._evict_one()
            peer = self._peers[peer_id] = Peer(peer_id, record, address, now)
        return peer

    def _evict_one(self) -> None:
        idle = [peer for peer in self._peers.values() if peer.state is PeerState.DISCONNECTED]
        if idle:
            self.remove(min(idle, key=lambda peer: peer.last_heard_at).peer_id)
            self.evicted += 1

    def remove(self, peer_id: PeerId) -> None:
        self._peers.pop(peer_id, None)
        self._linked = None

    def transition(self, peer: Peer, trigger: PeerTrigger) -> PeerState:
        """Move `peer` along `TRANSITIONS` and return its previous state. Raises KeyError if there
        is no such transition.
        """
        previous = peer.state
        peer.state = TRANSITIONS[previous, trigger]
        self._linked = None
        return previous

    @property
    def linked(self) -> tuple[PeerId, ...]:
        """Peers with a live link, in the order they were added, so that a seed reproduces a run."""
        if self._linked is None:
            self._linked = tuple(
                peer.peer_id for peer in self._peers.values() if peer.state in LINKED_STATES
            )
        return self._linked

    def is_linked(self, peer_id: PeerId) -> bool:
        peer = self._peers.get(peer_id)
        return peer is not None and peer.state in LINKED_STATES
