"""Membership: joining, discovery, heartbeats, peer states and leaving, over SWIM (Das 2002) and
HyParView (Leitao 2007).

Invariants:

- Only direct evidence closes a link: silence, the end of the session, or a record that the peer
  itself signed. Reports of other members never do.
- After a local stall, every peer is credited with its length before its silence is judged.

Driven by heartbeats, records and updates, by link events of the engine (`on_link_up`,
`on_link_down`, `on_dial_failed`) and by its deadline. Components: `dialer` chooses addresses to
dial, `detector` suspects members, `update_handler` applies updates of peers, `evictor` makes room
for links, `local_record` owns our record.
"""

from __future__ import annotations

from typing import Final, Protocol, assert_never

from grapevine_proto.coordinate import Coordinate, Estimate
from grapevine_proto.errors import DropReason, UnknownPeer
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import (
    Disconnect,
    Effect,
    PeerTransitioned,
    Send,
    UpdateRtt,
)
from grapevine_proto.overlay.membership.heartbeats import Heartbeats, pack_records
from grapevine_proto.overlay.membership.link_evictor import LinkEvictor
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.overlay.membership.member_sync import MemberSync
from grapevine_proto.overlay.membership.member_updates import UpdateHandler
from grapevine_proto.overlay.membership.reachability import Reachability
from grapevine_proto.overlay.peers import (
    LATE_AFTER_INTERVALS,
    LINKED_STATES,
    Peer,
    PeerTrigger,
)
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.swim.detector import Detector
from grapevine_proto.overlay.swim.prober import check_interval_s
from grapevine_proto.overlay.topology.active_view import ActiveView, LinkUsage
from grapevine_proto.overlay.topology.dialer import Dialer, format_dial_failure
from grapevine_proto.overlay.topology.vivaldi import Coordinates
from grapevine_proto.overlay.topology.xbot import ProximityOptimizer
from grapevine_proto.wire.attributes import record_coordinate
from grapevine_proto.wire.messages import (
    CloseReason,
    Heartbeat,
    Introduction,
    MemberDigest,
    MemberUpdates,
    ObservedAddress,
    Ping,
    PingAck,
    PingReq,
    Records,
)
from grapevine_proto.wire.signed import PeerRecord

STALE_AFTER_INTERVALS: Final = 3  # gossip intervals without a packet
UNVALIDATED_DIAL_FAILURES: Final = 3  # failed dials of a member at an address no session validated
CLEANUP_INTERVAL_S: Final = 60.0  # between removals of expired entries
FORGET_LEFT_PEER_S: Final = 600.0  # a peer that left stays listed for this long
WELCOME_RECORDS: Final = 12  # records sent to a new peer
STALL_THRESHOLD_S: Final = 0.5  # lateness of our own timer above which peers are credited


class BroadcastLinks(LinkUsage, Protocol):
    """What `Membership` reads of broadcast and tells it."""

    def on_path_changed(self, peer_id: PeerId, now: float) -> list[Effect]: ...


class Membership:
    """The state machine that owns peers and members."""

    def __init__(
        self,
        context: OverlayContext,
        local_record: LocalRecord,
        store: MessageStore,
        broadcast: BroadcastLinks,
        now: float,
        coordinate: Coordinate | None = None,
    ) -> None:
        """`coordinate`: where an earlier run of this node was."""
        self._config = context.config
        self._peers = context.peers
        self._rng = context.rng
        self._broadcast = broadcast
        self.members = context.members
        self.local_record = local_record
        self.active_view = ActiveView(context, broadcast)
        self.coordinates = Coordinates(context.our_id, coordinate)
        self.proximity = ProximityOptimizer(
            context, self.active_view, broadcast, now, self.coordinates
        )
        our_address = local_record.address
        self.dialer = Dialer(context, self.active_view, self.proximity, our_address, now)
        self._heartbeats = Heartbeats(context, store)
        self.member_sync = MemberSync(context)
        self.detector = Detector(context, now)
        self.reachability = Reachability(context, local_record)
        self.update_handler = UpdateHandler(
            context, local_record, self.dialer, self.detector, self.member_sync, self.reachability
        )
        self.evictor = LinkEvictor(context, self.active_view, self.proximity, self.update_handler)
        self._tick_at = now
        self._epoch_began_at = now
        self._cleaned_up_at = now

    # --- what the application and the engine say ------------------------------------------------

    def reconfigure(self, now: float) -> list[Effect]:
        """Settings changed: disconnect peers that they deny, and send our record if it changed."""
        self.dialer.reconfigure(now)
        denied = self._config.current.denied
        effects: list[Effect] = [
            Disconnect(peer_id, CloseReason.MISCONDUCT, "denied")
            for peer_id in self._peers.linked
            if peer_id in denied
        ]
        before = self.local_record.addresses
        if self.local_record.reconfigure():
            if self.local_record.addresses != before:
                self.reachability.on_network_changed()
            effects += self._on_addresses_signed()
        return effects

    def set_addresses(self, addresses: tuple[Address, ...]) -> list[Effect]:
        """Advertise `addresses` and send the new record to all linked peers."""
        before = self.local_record.addresses
        if not self.local_record.set_addresses(addresses):
            return []
        if not set(before) & set(addresses):
            self.coordinates.on_moved()
        self.reachability.on_network_changed()
        return self._on_addresses_signed()

    def set_mapped_address(self, address: Address | None, now: float) -> list[Effect]:
        """Advertise the address that a router maps to this node, or none any more."""
        is_signed = self.local_record.set_mapped(address)
        self.reachability.on_mapped(now)
        return self._on_addresses_signed() if is_signed else []

    def _on_addresses_signed(self) -> list[Effect]:
        """Our record changed, perhaps its addresses: send it to all linked peers."""
        self.dialer.set_our_addresses(self.local_record.addresses)
        return self._send_to_linked(Records((self.record,)))

    @property
    def record(self) -> PeerRecord:
        """Our own signed record."""
        return self.local_record.record

    def coordinate_of(self, peer_id: PeerId) -> Coordinate | None:
        """Where a member, or this node, is; None: that is not known."""
        if peer_id == self.local_record.peer_id:
            return self.coordinates.coordinate if self.coordinates.is_settled() else None
        claimed = self.coordinates.of_peer(peer_id)
        member = self.members.get(peer_id)
        return claimed or (None if member is None else member.coordinate)

    def estimate(self, first: PeerId, second: PeerId) -> Estimate | None:
        """The estimated round-trip time between two members, each of which may be this node; None unless
        the coordinates of both are known."""
        ours, theirs = self.coordinate_of(first), self.coordinate_of(second)
        return None if ours is None or theirs is None else Estimate.between(ours, theirs)

    def start_epoch(self, epoch: int, now: float) -> None:
        """Signs our record under a new epoch."""
        self._epoch_began_at = now
        self.local_record.start_epoch(epoch)

    def leave(self) -> Records:
        """The record to send to every linked peer before leaving. Only this node can have signed
        it.
        """
        return Records((self.local_record.bump_incarnation(left=True),))

    def on_lag(self, lag_s: float, now: float) -> None:
        """Handle event loop lag of `lag_s`: advertise it, and extend the timeouts of peers."""
        self._heartbeats.on_lag(lag_s)
        self.detector.on_lag(lag_s, now)

    def health_reason(self, peer: Peer, now: float) -> str:
        """Why the health of `peer` is below 1, for display; empty if nothing is wrong."""
        reasons = (
            peer.health_reason(now, self._config.current.gossip_interval),
            self.detector.prober.health_reason(peer.peer_id),
        )
        return ", ".join(each for each in reasons if each)

    def on_evicted(
        self, records: tuple[PeerRecord, ...], sender: PeerId, now: float
    ) -> list[Effect]:
        """A peer evicted our link and refers us to its replacement, which is now short of a link
        like us.
        """
        effects = self._on_referrals(records, sender, now)
        return effects + (self.dialer.dial_referral(now) if records else [])

    def _on_referrals(
        self, records: tuple[PeerRecord, ...], sender: PeerId, now: float
    ) -> list[Effect]:
        """A peer without room refers us to others; dial some if links are needed."""
        if self.record.left:
            return []
        effects = self.update_handler.on_records(records, sender, now)
        self.dialer.prefer([record.peer_id for record in records])
        return effects + (self.dialer.dial_due(now) if self.active_view.needs_links(now) else [])

    # --- what becomes of links ------------------------------------------------------------------

    def on_rejected(
        self, record: PeerRecord, address: Address, referrals: tuple[PeerRecord, ...], now: float
    ) -> list[Effect]:
        """The subject of `record` has no room for us and sent `referrals`."""
        peer_id = record.peer_id
        member = self.members.ensure(record, now, address)
        self.dialer.on_rejected(member, address, now)
        self.proximity.on_rejected(member, now)
        effects: list[Effect] = []
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state is PeerState.CONNECTING:
            effects.append(
                PeerTransitioned(
                    peer_id, self._peers.transition(peer, PeerTrigger.LOST), "no room there"
                )
            )
        if member.status is not MemberStatus.UP:
            effects.append(member.set_status(MemberStatus.UP, "it answered a dial", now))
        return effects + self._on_referrals(referrals, peer_id, now)

    def on_link_up(
        self,
        record: PeerRecord,
        source: Address,
        rtt_s: float | None,
        now: float,
        *,
        is_outbound: bool = False,
    ) -> list[Effect]:
        """A session with the subject of `record` is live: a new link, or a peer that restarted on
        an old one.

        `source` is the address the session validated, whatever the record claims. `rtt_s` is the
        RTT in seconds, if measured; `is_outbound` means this node dialed.
        """
        self.local_record.on_link_up()
        is_self_chosen = is_outbound and self.dialer.is_self_chosen(record.peer_id)
        self.dialer.stop_looking(record.peer_id)
        peer = self._peers.add(record.peer_id, record, source, now)
        is_new = peer.state not in LINKED_STATES
        peer.on_session(record, source, rtt_s, now)
        effects: list[Effect] = []
        if is_new:
            self.proximity.on_links_changed(now)
            peer.on_link_up(rtt_s, now, is_self_chosen=is_self_chosen)
            previous = self._peers.transition(peer, PeerTrigger.LINKED)
            effects.append(PeerTransitioned(peer.peer_id, previous, "linked"))
            self.reachability.on_link_up(now)
        effects += self.reachability.tell(peer)
        effects += self._ensure_member(record, source, now)
        if is_new:
            self.coordinates.on_link_up(peer.peer_id, record_coordinate(record.attributes))
        records = self.members.sample_records(WELCOME_RECORDS, self._rng, exclude=peer.peer_id)
        effects += [Send((peer.peer_id,), each) for each in pack_records(records)]
        effects.append(self._heartbeat_for(peer, now))
        return effects

    def _ensure_member(self, record: PeerRecord, source: Address, now: float) -> list[Effect]:
        known_member = self.members.get(record.peer_id)
        is_newer = known_member is None or record.version > known_member.record.version
        was_tombstoned = self.members.is_tombstoned(record)
        member = self.members.ensure(record, now, source)
        effects: list[Effect] = []
        if was_tombstoned:  # others removed it as well, and only a newer record convinces them
            effects.append(self.detector.request_refutation(record))
        if is_newer:
            member.update_record(record, now)
            member.on_address_validated(source)
            self.members.queue_update(record.peer_id)
        effects += self.detector.on_link_up(member, now)
        if is_newer or member.status is not MemberStatus.UP:
            effects.append(member.set_status(MemberStatus.UP, "connected", now))
        return effects

    def renew_path(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Dials a linked peer that acknowledges nothing where else it may be."""
        member = self.members.get(peer_id)
        return [] if member is None else self.dialer.renew_path(member, now)

    def on_link_down(
        self, peer_id: PeerId, detail: str, reason: CloseReason | None, now: float
    ) -> list[Effect]:
        """The link with `peer_id` closed; `reason` is None if neither end closed it."""
        peer = self._peers.get(peer_id)
        if peer is None or peer.state not in LINKED_STATES:
            return []
        was_healthy = self.active_view.is_healthy(peer_id, now)
        self.proximity.on_links_changed(now)
        previous = self._peers.transition(peer, PeerTrigger.LOST)
        peer.on_link_down()
        self.coordinates.on_link_down(peer_id)
        self.reachability.on_link_down(peer_id, now)
        effects: list[Effect] = [PeerTransitioned(peer_id, previous, detail)]
        if reason is CloseReason.LEAVING:
            self.detector.on_leave(peer_id)
        effects += self.detector.on_link_down(peer_id, now)
        member = self.members.get(peer_id)
        if member is None:
            return effects
        if reason is None:
            peer.record_interval(succeeded=False)
            effects += self.detector.on_unreachable(member, f"connection lost: {detail}", now)
        if reason is CloseReason.LEAVING:
            if member.status is not MemberStatus.LEFT:
                effects.append(
                    member.set_status(MemberStatus.LEFT, "it closed the connection", now)
                )
        elif reason is CloseReason.FULL and was_healthy:
            self.dialer.back_off(member, now)
        else:
            self.dialer.redial(member, now)
        return effects if self.record.left else effects + self.dialer.dial_due(now)

    def on_packet(self, peer_id: PeerId, address: Address, now: float) -> list[Effect]:
        """A packet of a linked peer was authenticated; `address` is the current path of its link."""
        peer = self._peers.on_packet(peer_id, now)
        if peer is None:
            return []
        effects: list[Effect] = []
        if address != peer.address:
            effects += self._on_address_changed(peer, address, now)
        if peer.state is PeerState.STALE:
            effects.append(
                PeerTransitioned(
                    peer_id,
                    self._peers.transition(peer, PeerTrigger.PACKET_RECEIVED),
                    "heard again",
                )
            )
        if self.detector.tracks(peer_id):
            effects += self.detector.on_packet(peer_id, now)
        return effects

    def _on_address_changed(self, peer: Peer, address: Address, now: float) -> list[Effect]:
        """The session of a linked peer validated a new path."""
        peer.on_address_changed(address)
        member = self.members.get(peer.peer_id)
        if member is not None:
            member.on_address_validated(address)
        return self.reachability.tell(peer) + self._broadcast.on_path_changed(peer.peer_id, now)

    def on_dial_failed(
        self, address: Address, expected: PeerId | None, reason: DropReason | str | None, now: float
    ) -> list[Effect]:
        """No peer, or not the expected one, answered at `address`."""
        effects = self.dialer.on_failed(address, expected, reason, now)
        if expected is None:
            return effects
        member, peer = self.members.get(expected), self._peers.get(expected)
        if self.dialer.is_dialing(expected):
            return effects  # at another address
        if member is not None:
            self.dialer.on_member_failed(member, now)
            # Accuse it once only: it may be alive behind a NAT that we cannot pass, and has refuted
            # then. The peer entry counts failures too, because the member may have been evicted
            # meanwhile. At an address that no session validated a dial is few packets, which may
            # all be lost.
            failure_limit = 1 if member.validated_address is not None else UNVALIDATED_DIAL_FAILURES
            is_first = member.failures == failure_limit and (
                peer is None or peer.consecutive_failures < failure_limit
            )
            was_dialed = reason is not DropReason.MISCONDUCT  # otherwise it was not even dialed
            was_dialed &= member.record.introducers is None  # behind a NAT silence proves nothing
            if is_first and was_dialed and not self._peers.is_linked(expected):
                effects += self.detector.on_unreachable(member, "it did not answer a dial", now)
        if peer is not None and peer.state is PeerState.CONNECTING:
            previous = self._peers.transition(peer, PeerTrigger.LOST)
            peer.record_interval(succeeded=False)
            effects.append(PeerTransitioned(expected, previous, format_dial_failure(reason)))
        return effects

    def remove_peer(self, peer_id: PeerId) -> None:
        """Remove a disconnected peer until another node reports it; its addresses are not dialed
        for a day.

        Raises UnknownPeer if it is linked, being dialed, or unknown.
        """
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state is not PeerState.DISCONNECTED:
            raise UnknownPeer(
                f"{peer_id.short} is {peer.state.value}; only a peer that is down can be removed"
            )
        if peer is None and self.members.get(peer_id) is None:
            raise UnknownPeer(f"no member {peer_id.short}… is known")
        self._peers.remove(peer_id)
        if self.members.get(peer_id) is not None:
            self.members.remove(peer_id)
        self.detector.on_leave(peer_id)
        self.dialer.remove_peer(peer_id)

    # --- what peers say -------------------------------------------------------------------------

    def handle(
        self,
        message: (
            Heartbeat
            | Records
            | Ping
            | PingReq
            | PingAck
            | MemberUpdates
            | MemberDigest
            | ObservedAddress
            | Introduction
        ),
        sender: PeerId,
        now: float,
    ) -> list[Effect]:
        match message:
            case Heartbeat():
                return self._on_heartbeat(message, sender, now)
            case Records():
                return self.update_handler.on_records(message.records, sender, now)
            case Ping() | MemberUpdates():
                effects = self.update_handler.on_updates(message.updates, sender, now)
                return effects + self.detector.handle(message, sender, now)
            case MemberDigest():
                peer = self._peers.get(sender)
                return [] if peer is None else self.member_sync.handle(message, peer, now)
            case PingReq() | PingAck():
                return self.detector.handle(message, sender, now)
            case ObservedAddress():
                self.reachability.on_report(message, sender, now)
                return []
            case Introduction():
                return self._on_introduction(message, sender, now)
            case _:
                assert_never(message)

    def _on_introduction(
        self, introduction: Introduction, sender: PeerId, now: float
    ) -> list[Effect]:
        """A peer that this node and the subject of the record have in common wants both to dial."""
        record = introduction.record
        if record.peer_id == self.record.peer_id or self.record.left:
            return []
        effects = self.update_handler.apply_record(record, sender, now)
        member = self.members.get(record.peer_id)
        if member is None or member.status is MemberStatus.LEFT:
            return effects
        return effects + self.dialer.on_introduction(
            member, introduction.address, now, is_transient=introduction.is_transient
        )

    def _on_heartbeat(self, heartbeat: Heartbeat, sender: PeerId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        peer = self._peers.get(sender)
        if heartbeat.coordinate:
            self.coordinates.on_coordinate(sender, Coordinate.parse(heartbeat.coordinate))
        if peer is not None:
            sample_s = self._heartbeats.on_heartbeat(heartbeat, peer, now)
            if sample_s is not None:
                self.coordinates.on_rtt(sender, sample_s)
                effects.append(UpdateRtt(sender, sample_s))
        return effects + self.update_handler.on_records(heartbeat.records, sender, now)

    def _heartbeat_for(self, peer: Peer, now: float) -> Effect:
        """The next heartbeat for `peer`, with our coordinate if it has moved."""
        owed = self.record if peer.take_owed_record() else None
        moved = self.coordinates.next_for(peer.peer_id, peer.rtt_s)
        return self._heartbeats.next_for(peer, now, owed, moved)

    def _sign_again(self, linked: list[Peer], now: float) -> None:
        """Our record says where we are, if our coordinate has moved far, and names the run before this one
        for as long as its messages are repaired; the next heartbeats carry what changed."""
        coordinate = self.coordinates.next_for_record(now)
        is_signed = coordinate is not None and self.local_record.set_coordinate(coordinate)
        if now - self._epoch_began_at >= self._config.current.message_dedup_ttl:
            is_signed |= self.local_record.forget_earlier_run()
        if is_signed:
            for peer in linked:
                peer.owe_record()

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(self._tick_at, self.detector.deadline, self.reachability.deadline)

    def advance(self, now: float) -> list[Effect]:
        late_s = now - self.deadline
        if late_s > STALL_THRESHOLD_S:
            self._shift_deadlines(late_s, now)
        effects = self.detector.advance(now)
        if self.reachability.advance(now):
            effects += self._on_addresses_signed()
        if now < self._tick_at:
            return effects
        self._tick_at = now + check_interval_s(self._config.current)
        linked = [peer for peer in map(self._peers.get, self._peers.linked) if peer is not None]
        for peer in linked:
            effects += self._check_peer(peer, now)
        effects += self.detector.check_peers(linked, now)
        self._sign_again(linked, now)
        for peer in self._heartbeats.due_peers(linked, now, check_interval_s(self._config.current)):
            since_heard_s = now - peer.last_heard_at
            peer.record_interval(
                succeeded=since_heard_s
                <= LATE_AFTER_INTERVALS * self._config.current.gossip_interval
            )
            effects.append(self._heartbeat_for(peer, now))
        effects += self.dialer.dial_due(now) + self.member_sync.next_request(now)
        shortest_s = min(
            self._config.current.reconnect_timeout, self._config.current.tombstone_timeout
        )
        if now - self._cleaned_up_at > min(CLEANUP_INTERVAL_S, shortest_s / 4):
            self._cleaned_up_at = now
            self._remove_expired(now)
        return effects

    def _shift_deadlines(self, late_s: float, now: float) -> None:
        """Credit all linked peers with `late_s`, during which this node was stalled or suspended."""
        for peer_id in self._peers.linked:
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.shift_deadlines(late_s)
        self.detector.shift_deadlines(late_s, now)

    def _check_peer(self, peer: Peer, now: float) -> list[Effect]:
        since_heard_s = now - peer.last_heard_at
        if since_heard_s >= self._config.current.peer_timeout:
            detail = f"silent for {since_heard_s:.0f} s"
            return [Disconnect(peer.peer_id, None, detail)]
        effects: list[Effect] = []
        if (
            peer.state is PeerState.CONNECTED
            and since_heard_s >= STALE_AFTER_INTERVALS * self._config.current.gossip_interval
        ):
            previous = self._peers.transition(peer, PeerTrigger.MISSED_HEARTBEATS)
            effects.append(
                PeerTransitioned(peer.peer_id, previous, f"silent for {since_heard_s:.0f} s")
            )
        return effects

    def _send_to_linked(self, message: Records | MemberUpdates) -> list[Effect]:
        linked = self._peers.linked
        return [Send(linked, message)] if linked else []

    def _remove_expired(self, now: float) -> None:
        config = self._config.current
        expired = self.members.remove_expired(
            now, config.reconnect_timeout, config.tombstone_timeout
        )
        for each in expired:
            self.detector.on_leave(each.record.peer_id)
            if each.status is not MemberStatus.LEFT and each.validated_address is not None:
                self.dialer.remember(((each.record.peer_id, each.validated_address),), now)
        forget_peer_s = min(FORGET_LEFT_PEER_S, config.tombstone_timeout)
        for peer in list(self._peers):
            member = self.members.get(peer.peer_id)
            if peer.state is PeerState.DISCONNECTED and (
                member is None
                or (member.status is MemberStatus.LEFT and now - peer.last_heard_at > forget_peer_s)
            ):
                self._peers.remove(peer.peer_id)
