"""Anti-entropy: reconciles the message stores of two nodes by digests and vectors (Demers 1987,
section 1.3).

A round that we start with one peer:

    we -> Digest                     streams and checksum, one small datagram
    peer -> InSync                   equal: done
         or Vector (reply)           its streams, in pages
    we -> IWant ...                  what we lack, one datagram at a time
    peer -> Repair ... (last)        until we want no more
    we -> Vector                     our entries ahead of the peer's
    peer -> IWant                    what it lacks (or nothing)
    we -> Repair ... (last)

Invariants:

- A peer's vector only determines what is requested from *that peer*; sequence trackers advance by
  authenticated rumors alone.
- Nothing is sent unrequested, and each request has a bounded answer (`repair_server`), so the
  requester sets the pace.
- What one peer was asked for is not requested from another at the same time
  (`outstanding_requests`), and no peer is asked for more than `MESSAGES_PER_REQUEST` messages at
  once. A node that missed much is thus served by all peers, each at its own speed.
- At most one round per peer. A peer that sends nothing new ends it after `ROUND_TIMEOUT_S`, and
  every round ends after `ROUND_LIMIT_S`.
- Fragments of a large message hold requests back for a while: it may be what is missing (`fragment_hold`).

Besides rounds, known gaps are requested as soon as they have lasted a moment (`gap_repair`).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Final, Protocol, TypeAlias, assert_never

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    MemberStatus,
    Round,
    RoundOutcome,
    Via,
)
from grapevine_proto.ids import PeerId, StreamRange
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Credit, Deliver, Effect, Emit, Penalize, Send
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import RANGES_PER_REQUEST, hulls_by_stream
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S
from grapevine_proto.overlay.sync.catch_up import CatchUp
from grapevine_proto.overlay.sync.fragment_hold import FragmentHold
from grapevine_proto.overlay.sync.gap_repair import GapRepair
from grapevine_proto.overlay.sync.outstanding_requests import OutstandingRequests
from grapevine_proto.overlay.sync.repair_server import RepairReply, RepairServer
from grapevine_proto.overlay.sync.sync_round import ENTRIES_PER_PAGE, STREAMS_PER_ROUND, SyncRound
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.wire.messages import (
    GAP_REQUEST_ROUND,
    LAZY_REQUEST_ROUND,
    Digest,
    Heartbeat,
    InSync,
    IWant,
    Repair,
    RumorCopy,
    Vector,
    announcement,
)

ROUND_TIMEOUT_S: Final = 3.0  # without progress of the peer
# for what a peer offers in its own round; repeated `ROUND_TIMEOUT_S` later
COUNTER_REQUEST_TIMEOUT_S: Final = 1.0
MISMATCH_RECHECK_S: Final = 2.0  # a digest that still differs is not just messages in transit
# for a new link: what differs there has not arrived by another link either
NEW_LINK_RECHECK_MAX_S: Final = 0.5
UNLINKED_REQUEST_AFTER_S: Final = 5.0  # age of a gap before unlinked members are asked
UNLINKED_DRAWS: Final = 8  # almost always sufficient if half of the members are not linked
RECENT_ROUNDS_LIMIT: Final = 256
FRUITLESS_PAUSE_S: Final = 30.0  # before repeating a fruitless round
# accepted per message: 1 ms of signature checks; we send at most 16
COPIES_PER_MESSAGE_LIMIT: Final = 24
REMEMBERED_PEERS_LIMIT: Final = 1024  # peers with remembered state: twice the number of sessions
RoundMessage: TypeAlias = Heartbeat | Digest | InSync | Vector | IWant | Repair


class RumorReceiver(Protocol):
    """Where repaired rumors go."""

    def accept(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Takes a copy from `sender`."""
        ...

    def on_refusal(self, sender: PeerId) -> None:
        """`sender` answered a request for announced rumors with none."""
        ...


class AntiEntropy:
    """The state machine that owns the rounds, driven by heartbeat digests, its own messages and its
    deadline.

    `broadcast` takes the rumors that repairs bring.
    """

    def __init__(
        self, context: OverlayContext, store: MessageStore, broadcast: RumorReceiver, now: float
    ) -> None:
        self._config = context.config
        self._our_id = context.our_id
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._store = store
        self._broadcast = broadcast
        self._active_rounds: dict[PeerId, SyncRound] = {}
        self._requests = OutstandingRequests()
        self._repair_server = RepairServer(store.cache, context.peers)
        # When peers were asked for what they offered in a round of theirs, latest last.
        self._counter_requested_at: OrderedDict[PeerId, float] = OrderedDict()
        self._mismatches: dict[
            PeerId, tuple[float, int, bytes]
        ] = {}  # when to compare again, and the digest
        self._fruitless_rounds: OrderedDict[PeerId, tuple[float, bytes]] = OrderedDict()
        self._fragment_hold = FragmentHold()
        self._last_round_number = 0
        self._gap_repair = GapRepair(store, now)
        self._catch_up = CatchUp()
        self._deadline_bound = now  # lower bound of all deadlines except gap repair
        interval_s = context.config.current.anti_entropy.interval
        self.next_round_at = now + interval_s * context.rng.random()
        self.rounds: deque[Round] = deque(maxlen=RECENT_ROUNDS_LIMIT)

    def reconfigure(self, now: float) -> None:
        """Settings changed: the next round comes no later than the interval says."""
        interval_s = self._config.current.anti_entropy.interval
        self.next_round_at = min(self.next_round_at, now + interval_s)
        self._deadline_bound = now

    def _random_unlinked(self) -> PeerId | None:
        """A random member that is up, dialable and not linked; None if a few draws find none."""
        for member in self._members.sample(UNLINKED_DRAWS, self._rng):
            peer_id = member.record.peer_id
            is_dialable = member.status is MemberStatus.UP and member.address is not None
            if is_dialable and not self._peers.is_linked(peer_id):
                return None if peer_id in self._config.current.denied else peer_id
        return None

    # --- start ----------------------------------------------------------------------------------

    def start_rounds(self, now: float) -> list[Effect]:
        """Start a round with `fanout` linked peers. Gaps that linked peers have not filled by now
        are also requested from an unlinked member.
        """
        self.next_round_at = now + self._config.current.anti_entropy.interval
        effects: list[Effect] = []
        fanout = self._config.current.anti_entropy.fanout
        for peer_id in uniform(self._peers.linked, fanout, self._rng, exclude=self._active_rounds):
            effects += self._start_round(peer_id, now)
        gaps = tuple(self._store.gaps(now, UNLINKED_REQUEST_AFTER_S, RANGES_PER_REQUEST))
        unlinked = self._random_unlinked() if gaps else None
        if unlinked is not None:
            effects.append(Send((unlinked,), IWant(GAP_REQUEST_ROUND, gaps)))
        return effects

    def catch_up(self, now: float, timeout_s: float) -> list[Effect]:
        """Compare with every connected peer, now and as they connect: `CaughtUp` follows when this node has
        what they have.
        """
        self._catch_up.request(now, timeout_s)
        self._deadline_bound = now
        return self._advance_catch_up(now)

    def _advance_catch_up(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for peer_id in self._catch_up.due_peers(self._peers.linked, now):
            if peer_id not in self._active_rounds:
                effects += self._start_round(peer_id, now, is_full=True)
        return effects

    def _on_synced(self, peer_id: PeerId, started_at: float) -> list[Effect]:
        """This node has what `peer_id` had at `started_at`."""
        self._catch_up.on_synced(peer_id, started_at)
        linked = self._peers.linked
        return [Emit(CaughtUp(len(linked)))] if self._catch_up.complete(linked) else []

    def _start_round(self, peer_id: PeerId, now: float, *, is_full: bool = False) -> list[Effect]:
        """Start a round. `is_full` compares streams that changed in the last seconds too, which digests
        omit: a digest that matches none is answered with the vector.
        """
        self._last_round_number += 1
        self._active_rounds[peer_id] = SyncRound(self._last_round_number, now)
        self._deadline_bound = min(self._deadline_bound, now + ROUND_TIMEOUT_S)
        streams, checksum = self._store.digest(now)
        if is_full:
            checksum = bytes(byte ^ 0xFF for byte in checksum)
        return [Send((peer_id,), Digest(self._last_round_number, streams, checksum))]

    def on_fragment(self, peer_id: PeerId, now: float) -> None:
        """A fragment of a large message arrived from `peer_id`: it may be what we would request
        from others.
        """
        sync_round = self._active_rounds.get(peer_id)
        if sync_round is not None:
            sync_round.on_progress(now)
        self._requests.on_fragment(peer_id, now)
        self._fragment_hold.on_fragment(now)

    # --- messages -------------------------------------------------------------------------------

    def handle(self, message: RoundMessage, sender: PeerId, now: float) -> list[Effect]:
        match message:
            case Heartbeat(streams=streams, checksum=total):
                return self._on_heartbeat_digest(streams, total, sender, now)
            case Digest():
                return self._on_digest(message, sender, now)
            case InSync():
                return self._on_in_sync(message, sender, now)
            case Vector():
                return self._on_vector(message, sender, now)
            case IWant():
                return self._on_request(message, sender, now)
            case Repair():
                return self._on_repair(message, sender, now)
            case _:
                assert_never(message)

    def _on_heartbeat_digest(
        self, streams: int, total: bytes, sender: PeerId, now: float
    ) -> list[Effect]:
        """Compare a heartbeat digest. One mismatch may be messages in transit: compare again later."""
        if self._store.digest(now) == (streams, total):
            self._mismatches.pop(sender, None)
            return self._on_synced(sender, now - DIGEST_SETTLE_S)
        peer = self._peers.get(sender)
        is_new = (
            peer is not None
            and peer.linked_at is not None
            and now < peer.linked_at + NEW_LINK_RECHECK_MAX_S
        )
        delay_s = NEW_LINK_RECHECK_MAX_S * self._rng.random() if is_new else MISMATCH_RECHECK_S
        due_at = self._mismatches[sender][0] if sender in self._mismatches else now + delay_s
        self._mismatches[sender] = (due_at, streams, total)
        self._deadline_bound = min(self._deadline_bound, due_at)
        return []

    def _on_digest(self, digest: Digest, sender: PeerId, now: float) -> list[Effect]:
        """Handle the digest of a peer's round. It reconciles both nodes, so no round of ours is
        needed for an earlier mismatch.
        """
        self._mismatches.pop(sender, None)
        if self._store.digest(now) == (digest.streams, digest.checksum):
            return [Send((sender,), InSync(digest.round))]
        if not self._repair_server.try_take_vector(sender, now):
            return [
                CountDrop(sender, DropReason.RATE_LIMITED),
                Penalize(sender, Offense.REPEATED_REQUEST),
            ]
        return self._send_vector(
            sender, digest.round, self._next_vector_entries(now), answering=True
        )

    def _next_vector_entries(self, now: float) -> list[StreamRange]:
        """Our vector; if there are too many streams for one round, the next ones in turn."""
        return self._store.vector(now, STREAMS_PER_ROUND)

    def _send_vector(
        self, peer_id: PeerId, number: int, entries: list[StreamRange], *, answering: bool
    ) -> list[Effect]:
        pages = [
            tuple(entries[i : i + ENTRIES_PER_PAGE])
            for i in range(0, len(entries), ENTRIES_PER_PAGE)
        ] or [()]
        return [
            Send((peer_id,), Vector(number, answering, index, len(pages), page))
            for index, page in enumerate(pages)
        ]

    def _on_in_sync(self, message: InSync, sender: PeerId, now: float) -> list[Effect]:
        if self._active_round(sender, message.round) is None:
            return [CountDrop(sender, DropReason.UNSOLICITED)]
        return self._finish(sender, RoundOutcome.IN_SYNC, now)

    def _on_vector(self, vector: Vector, sender: PeerId, now: float) -> list[Effect]:
        if not vector.is_reply:
            return self._on_offered_vector(vector, sender, now)
        sync_round = self._active_round(sender, vector.round)
        if sync_round is None:
            return [CountDrop(sender, DropReason.UNSOLICITED)]
        if not sync_round.on_vector_page(vector, now):
            return [
                CountDrop(sender, DropReason.DUPLICATE),
                Penalize(sender, Offense.STALLED_ROUND),
            ]
        missing = [
            each
            for each in hulls_by_stream(vector.entries).values()
            if self._store.lacks(each, now)
        ]
        sync_round.on_missing(missing)
        if not self._fragment_hold.is_active(now):
            sync_round.add_missing(missing)
        effects = [] if sync_round.requested else self._send_request(sender, sync_round, now)
        if sync_round.complete_vector():
            effects += self._offer_missing(sender, sync_round, now)
        return effects + self._finish_if_done(sender, sync_round, now)

    def _on_offered_vector(self, vector: Vector, sender: PeerId, now: float) -> list[Effect]:
        """A page of the vector in a peer's round: it has messages that we may lack."""
        unrequested = OrderedDict(hulls_by_stream(vector.entries))
        batch = (
            ()
            if self._fragment_hold.is_active(now)
            else self._requests.next_batch((sender, True), unrequested, self._store, now)
        )
        if now >= self._counter_requested_at.get(sender, -math.inf) + ROUND_TIMEOUT_S:
            self._counter_requested_at[sender] = now
            self._counter_requested_at.move_to_end(sender)
            self._requests.add((sender, True), batch, now, COUNTER_REQUEST_TIMEOUT_S)
            self._evict_old(now)
        effects: list[Effect] = [Send((sender,), IWant(vector.round, batch))]
        # Request the rest in a round of our own, at our pace.
        if (
            batch
            and unrequested
            and sender not in self._active_rounds
            and self._peers.is_linked(sender)
        ):
            effects += self._start_round(sender, now)
        return effects

    def _offer_missing(self, peer_id: PeerId, sync_round: SyncRound, now: float) -> list[Effect]:
        newer = [
            entry
            for entry in self._next_vector_entries(now)
            if entry.last > sync_round.their_vector.get(entry.stream, 0)
            and entry.first <= entry.last
        ]
        if not newer:
            return []
        sync_round.await_request()
        return self._send_vector(peer_id, sync_round.number, newer, answering=False)

    def _send_request(self, peer_id: PeerId, sync_round: SyncRound, now: float) -> list[Effect]:
        """Request the next batch of what is missing, except what others are about to send. If
        nothing else is left, this round does not wait for it.
        """
        key = (peer_id, False)
        sync_round.request(self._requests.next_batch(key, sync_round.unrequested, self._store, now))
        if not sync_round.requested:
            return []
        sync_round.has_requested = True
        self._requests.add(key, sync_round.requested, now, ROUND_TIMEOUT_S)
        return [Send((peer_id,), IWant(sync_round.number, sync_round.requested))]

    def _on_request(self, request: IWant, sender: PeerId, now: float) -> list[Effect]:
        sync_round = self._active_round(sender, request.round)
        withheld_before = self._repair_server.withheld
        repairs, announced = (
            self._repair_server.build_repairs(request, sender, now)
            if request.ranges
            else RepairReply([], [])
        )
        effects: list[Effect] = [
            Send((sender,), announcement(copy, self._our_id)) for copy in announced
        ]
        effects += [Send((sender,), repair) for repair in repairs]
        is_withheld = self._repair_server.withheld > withheld_before
        if is_withheld and not repairs[0].copies and not announced:
            effects.append(Penalize(sender, Offense.REPEATED_REQUEST))
        if sync_round is not None and sync_round.awaits_request:
            sync_round.on_request(repairs, now)
            effects += self._finish_if_done(sender, sync_round, now)
        return effects

    def _on_repair(self, repair: Repair, sender: PeerId, now: float) -> list[Effect]:
        sync_round = self._active_round(sender, repair.round)
        effects: list[Effect] = []
        via = Via.LAZY if repair.round == LAZY_REQUEST_ROUND else Via.REPAIR
        for copy in repair.copies[:COPIES_PER_MESSAGE_LIMIT]:
            effects += self._broadcast.accept(copy, sender, via, now)
        effects += [CountDrop(sender, DropReason.TOO_LARGE)] * (
            len(repair.copies) - COPIES_PER_MESSAGE_LIMIT
        )
        if not repair.copies and not repair.is_last:
            effects.append(Penalize(sender, Offense.STALLED_ROUND))  # it does not make progress
        if not repair.copies and repair.is_last and via is Via.LAZY:
            self._broadcast.on_refusal(sender)
        is_new = any(isinstance(each, Deliver) and each.messages for each in effects)
        if is_new:
            self._requests.on_progress(sender, now)
        if sync_round is None:  # a gap request, or a request in a round of theirs
            if repair.is_last:
                self._requests.close((sender, True), now)
            return effects
        if sync_round.on_repair(repair, now, is_new=is_new):
            self._requests.close((sender, False), now)
            effects += self._send_request(sender, sync_round, now)
            effects += self._finish_if_done(sender, sync_round, now)
        return effects

    # --- end ------------------------------------------------------------------------------------

    def _active_round(self, peer_id: PeerId, number: int) -> SyncRound | None:
        """Our active round with `peer_id`, if its number is `number`."""
        sync_round = self._active_rounds.get(peer_id)
        return None if sync_round is None or sync_round.number != number else sync_round

    def _finish_if_done(self, peer_id: PeerId, sync_round: SyncRound, now: float) -> list[Effect]:
        return self._finish(peer_id, sync_round.outcome, now) if sync_round.is_done else []

    def _finish(self, peer_id: PeerId, outcome: RoundOutcome, now: float) -> list[Effect]:
        sync_round = self._active_rounds.pop(peer_id)
        self._requests.close((peer_id, False), now)
        is_requested_elsewhere = self._requests.is_waiting(now)
        if sync_round.is_done and not sync_round.has_transferred and not is_requested_elsewhere:
            self._fruitless_rounds[peer_id] = (now, self._store.digest(now)[1])
            self._fruitless_rounds.move_to_end(peer_id)
            self._evict_old(now)
        done = sync_round.to_round(peer_id, outcome, now)
        self.rounds.append(done)
        effects: list[Effect] = [Emit(AntiEntropyRound(done))]
        if sync_round.is_full and not is_requested_elsewhere:
            # What is missing may be in transit, from this peer or another. If the peer was asked for it and
            # sent nothing, it has none.
            lacks = any(self._store.lacks(each, now) for each in sync_round.their_ranges())
            if lacks and (sync_round.received or not sync_round.has_requested):
                self._catch_up.repeat(peer_id, now)
                self._deadline_bound = min(self._deadline_bound, self._catch_up.deadline)
            else:
                effects += self._on_synced(peer_id, sync_round.started_at)
        return effects

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """The link with `peer_id` closed."""
        effects: list[Effect] = []
        self._requests.remove_peer(peer_id)
        self._catch_up.on_link_down(peer_id)
        if peer_id in self._active_rounds:
            effects = self._finish(peer_id, self._active_rounds[peer_id].outcome, now)
        self._mismatches.pop(peer_id, None)
        self._fruitless_rounds.pop(peer_id, None)
        self._counter_requested_at.pop(peer_id, None)
        return effects

    def _evict_old(self, now: float) -> None:
        """Drop expired state about peers, and the oldest beyond the limit."""
        counter_requested_at, fruitless_rounds = self._counter_requested_at, self._fruitless_rounds
        while counter_requested_at:
            peer_id, when = next(iter(counter_requested_at.items()))
            if now < when + ROUND_TIMEOUT_S and len(counter_requested_at) <= REMEMBERED_PEERS_LIMIT:
                break
            del counter_requested_at[peer_id]
        while fruitless_rounds:
            peer_id, (when, _) = next(iter(fruitless_rounds.items()))
            if now < when + FRUITLESS_PAUSE_S and len(fruitless_rounds) <= REMEMBERED_PEERS_LIMIT:
                break
            del fruitless_rounds[peer_id]

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        if not self._config.current.anti_entropy.enabled:
            return math.inf
        return min(self._deadline_bound, self._gap_repair.due_at)

    def _next_deadline_bound(self) -> float:
        due_at = min(self.next_round_at, self._catch_up.deadline)
        for sync_round in self._active_rounds.values():
            due_at = min(due_at, sync_round.expires_at(ROUND_TIMEOUT_S))
        for recheck_at, _, _ in self._mismatches.values():
            due_at = min(due_at, recheck_at)
        return due_at

    def advance(self, now: float) -> list[Effect]:
        if now < self.deadline:
            return []
        effects: list[Effect] = []
        self._requests.expire(now)
        for peer_id, kept_count, broken_count in self._requests.pop_outcomes():
            if kept_count:
                effects.append(Credit(peer_id, kept_count))
            if broken_count:
                effects.append(Penalize(peer_id, Offense.BROKEN_PROMISE, broken_count))
        self._evict_old(now)
        for peer_id, sync_round in list(self._active_rounds.items()):
            if sync_round.is_expired(now, ROUND_TIMEOUT_S):
                effects += self._finish(peer_id, sync_round.outcome, now)
        for peer_id, (due_at, streams, total) in list(self._mismatches.items()):
            if now >= due_at:
                del self._mismatches[peer_id]
                effects += self._recheck_mismatch(peer_id, streams, total, now)
        if now >= self.next_round_at:
            effects += self.start_rounds(now)
        effects += self._advance_catch_up(now)
        if now >= self._gap_repair.due_at:
            effects += self._request_gaps(now)
        self._deadline_bound = self._next_deadline_bound()
        return effects

    def _recheck_mismatch(
        self, peer_id: PeerId, streams: int, total: bytes, now: float
    ) -> list[Effect]:
        """Start a round if the peer's digest still differs from ours."""
        our_digest = self._store.digest(now)
        if our_digest == (streams, total) or peer_id in self._active_rounds:
            return []
        when, digest_then = self._fruitless_rounds.get(peer_id, (-math.inf, b""))
        if digest_then == our_digest[1] and now - when < FRUITLESS_PAUSE_S:
            # the same difference was fruitless: they lack messages that no node has any more
            return []
        return self._start_round(peer_id, now) if self._peers.is_linked(peer_id) else []

    def _request_gaps(self, now: float) -> list[Effect]:
        if self._fragment_hold.is_active(now):
            self._gap_repair.postpone(now)
            return []
        linked = tuple(self._peers.linked)
        targets = uniform(linked, 1, self._rng)
        gaps = self._gap_repair.next_request(linked, RANGES_PER_REQUEST, now)
        return [Send((targets[0],), IWant(GAP_REQUEST_ROUND, gaps))] if gaps else []
